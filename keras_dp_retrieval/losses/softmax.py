"""What the softmax objectives share."""

from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.losses.objective import Objective, as_float32, as_rows

# The logit of what is not a negative. Finite, so that an example without
# negatives has a loss and a gradient of zero instead of NaN.
MASKED_LOGIT = -1e30

# The range of a learned temperature. The lower end is where CLIP (Radford et
# al. 2021) stops too: below it the largest logit alone decides, and training
# becomes unstable.
LEARNED_TEMPERATURES = (0.01, 10.0)


# Where the saved weights have the state of a generator of random numbers.
SEED_STATE = "seed_generator_state"


class SoftmaxObjective(Objective):
    """What the softmax objectives share: a temperature, fixed or learned."""

    # Of those that draw something.
    seed_generator = None

    def __init__(
        self,
        temperature,
        *,
        learn_temperature,
        normalize,
        mask_known_positives,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.temperature = _checks.number_between(
            "temperature", temperature, 0, open_low=True
        )
        self.learn_temperature = _checks.flag(
            "learn_temperature", learn_temperature
        )
        self.normalize = _checks.flag("normalize", normalize)
        self.mask_known_positives = _checks.flag(
            "mask_known_positives", mask_known_positives
        )
        if self.learn_temperature:
            _checks.number_between(
                "temperature", temperature, *LEARNED_TEMPERATURES
            )
            # The weight is the logarithm of the ratio to the initial
            # temperature, so weight decay draws it back there and not to 1.
            self.log_temperature_ratio = self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="float32",
                autocast=False,
                name="log_temperature_ratio",
            )

    def current_temperature(self):
        """The temperature in use: a float, or a float32 scalar if learned."""
        if not self.learn_temperature:
            return self.temperature
        low, high = (
            ops.log(limit / self.temperature) for limit in LEARNED_TEMPERATURES
        )
        ratio = ops.convert_to_tensor(self.log_temperature_ratio)
        # The value is clipped, the gradient is not: clipping both would leave
        # a temperature that has stepped over the end stuck there.
        clipped = ops.clip(ratio, low, high)
        ratio = ratio + ops.stop_gradient(clipped - ratio)
        return self.temperature * ops.exp(ratio)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras leaves the state of generators out of the weights. A
        # `TwoTowerRetrieval` saves all of them in its `.keras` file; other
        # models and files of weights alone have this one.
        if self.seed_generator is not None:
            store[SEED_STATE] = self.seed_generator.state

    def load_own_variables(self, store):
        own = {key: store[key] for key in store.keys() if key != SEED_STATE}
        super().load_own_variables(own)
        if self.seed_generator is not None and SEED_STATE in store.keys():
            self.seed_generator.state.assign(store[SEED_STATE])

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "learn_temperature": self.learn_temperature,
            "normalize": self.normalize,
            "mask_known_positives": self.mask_known_positives,
        }


def log_share(batch, rows=None):
    """log of the candidates' share of all positives, 1 added to each count.

    Args:
        batch: `ScoredBatch`.
        rows: int32, the rows of the candidates; by default all. They are
            looked up first, as a logarithm of every count would cost as much
            as the catalogue is long.
    """
    total = batch.num_counted
    if total is None:
        total = ops.sum(as_float32(batch.candidate_counts))
    total = total + batch.candidate_counts.shape[0]
    if rows is None:
        counts = batch.candidate_counts
    elif batch.counts_at is not None:
        counts = batch.counts_at(rows)
    else:
        counts = ops.take(batch.candidate_counts, rows)
    return ops.log(as_float32(counts) + 1.0) - ops.log(total)


def competing(batch, rows=None):
    """Which candidates, of these rows or of all, may be negatives; bool."""
    if rows is not None:
        if batch.competes_at is not None:
            return batch.competes_at(rows)
        return ops.take(competing(batch), rows)
    if batch.competes is not None:
        return batch.competes
    rows = ops.arange(batch.candidate_counts.shape[0])
    return (rows > 0) | _row_zero_is_real(batch)


def _row_zero_is_real(batch):
    """Whether row 0 is a candidate and not the row of unknown ones."""
    rows = as_rows(batch.candidate_rows)
    if len(rows.shape) == 1:
        rows = ops.expand_dims(rows, 1)
    exists = ops.expand_dims(batch.weights > 0, 1)
    return (batch.candidate_counts[0] > 0) | ops.any((rows == 0) & exists)
