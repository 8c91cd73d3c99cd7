"""Objectives: what a retrieval model is trained to do.

An objective sees one batch of vectors and gives one loss per example. The
model weights and averages them. All of them compute in float32, whatever the
model computes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_dp_retrieval import _checks, distribution

# The logit of a column that does not compete. Finite, so that a row in which
# nothing competes has a loss and a gradient of zero instead of NaN.
NO_CANDIDATE = -1e30

# A learned temperature stays in here. The lower end is where CLIP (Radford et
# al. 2021) stops too: below it the largest logit alone decides, and training
# becomes unstable.
LEARNED_TEMPERATURES = (0.01, 10.0)


@dataclass
class ScoredBatch:
    """What a model hands to its objective.

    A row is the index of a user or a candidate in its table. The score of a
    pair is the dot product of its vectors.

    Attributes:
        user_vectors: `(batch, dim)` tensor.
        candidate_rows: `(batch,)` int32, the candidate that each example's
            user has chosen; or `(batch, positives)`, several of them, padded
            with -1.
        weights: `(batch,)` float32. A row of weight 0 does not exist: it has
            no loss, and its candidate is nobody's negative.
        lookup: callable from int32 candidate rows of any shape to their
            vectors, `(..., dim)`, differentiable.
        all_candidate_vectors: callable without arguments that returns
            `(num_candidates, dim)`, differentiable.
        candidate_counts: `(num_candidates,)` float32: how often each
            candidate was somebody's positive in training so far.
        ratings: `(batch,)` float32, or None where there are none.
        known_positives: `(batch, known)` int32 padded with -1, or None: what
            each user is known to like, which is never counted as a negative.
    """

    user_vectors: Any
    candidate_rows: Any
    weights: Any
    lookup: Callable
    all_candidate_vectors: Callable
    candidate_counts: Any
    ratings: Any = None
    known_positives: Any = None


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class Objective(keras.layers.Layer):
    """One loss per example of a batch; subclass it to plug in your own.

    It is a layer so that it may own weights, such as a learned temperature:
    they are tracked, trained and saved with the model. Make them in
    `__init__`: an objective is never built from the shape of an input.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="my_project")
    class AbsoluteError(kdr.losses.Objective):
        needs_ratings = True

        def call(self, batch):
            vectors = batch.lookup(batch.candidate_rows)
            scores = keras.ops.sum(batch.user_vectors * vectors, axis=-1)
            return keras.ops.abs(scores - batch.ratings)
    ```

    Attributes:
        normalize: bool. Whether the model is to scale the vectors of both
            towers to length 1 before it scores them.
        needs_ratings: bool. Whether `ScoredBatch.ratings` must be there.
        uses_all_candidates: bool. Whether it needs the vectors of the whole
            catalogue, so that every step costs as much as the catalogue is
            long.
        mask_known_positives: bool. Whether `ScoredBatch.known_positives` is
            of use to it.
    """

    normalize = False
    needs_ratings = False
    uses_all_candidates = False
    mask_known_positives = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def __call__(self, batch: ScoredBatch):
        # A batch is no tensor: `Layer.__call__`, which builds and casts by
        # its arguments, has nothing to do here and refuses it.
        return self.call(batch)

    def call(self, batch: ScoredBatch):
        """Returns the loss of each example, `(batch,)` float32."""
        raise NotImplementedError(
            "An objective must implement `call(batch)` and return one loss "
            f"per example. Received: {type(self).__name__}, which does not."
        )

    def num_competitors(
        self, batch_size: int, num_candidates: int
    ) -> int | None:
        """How many candidates a positive is told apart from, itself included.

        Equal scores give a mean loss per positive near
        `log(num_competitors)`: a model whose loss stays there has learned
        nothing.

        Args:
            batch_size: int. Real examples in a batch, over all devices.
            num_candidates: int. Rows of the candidate table.

        Returns:
            int, or None if the objective has no such level.
        """
        return None


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RatingError(Objective):
    """The squared error of the dot product as a prediction of the rating.

        loss_i = (user_i . candidate_i - rating_i)^2

    Its mean is the mean squared error. It learns from rated pairs alone, so
    it says nothing about candidates that nobody has rated.
    """

    needs_ratings = True

    def call(self, batch):
        scores = _scores_of_pairs(batch)
        return ops.square(scores - _ratings(batch, type(self).__name__))


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class PairwiseObjective(Objective):
    """Any Keras loss between the rating and the dot product, per example.

    Args:
        loss: a `keras.losses.Loss`, the config of one or its class's name,
            such as `"MeanAbsoluteError"`. A loss of your own must be registered
            with `keras.saving.register_keras_serializable` for the model to
            load without `custom_objects`. Its `call` is given two tensors
            `(batch, 1)` and must return one loss per example; its `reduction`
            is not used, because the model averages over real examples only.
    """

    needs_ratings = True

    def __init__(self, loss, **kwargs):
        super().__init__(**kwargs)
        loss = keras.losses.get(loss)
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(
                "`loss` must be a `keras.losses.Loss`. Received: "
                f"loss={loss!r}. Wrap a function in an object, as in "
                "`keras.losses.MeanAbsoluteError()`."
            )
        self.loss = loss

    def call(self, batch):
        scores = ops.expand_dims(_scores_of_pairs(batch), 1)
        ratings = ops.expand_dims(_ratings(batch, type(self).__name__), 1)
        losses = self.loss.call(ratings, scores)
        if not losses.shape:
            raise ValueError(
                "The loss must return one value per example. Received: "
                f"{type(self.loss).__name__}, whose `call` returns a scalar."
            )
        return ops.reshape(losses, (-1,))

    def get_config(self):
        loss = keras.saving.serialize_keras_object(self.loss)
        return {**super().get_config(), "loss": loss}

    @classmethod
    def from_config(cls, config):
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss})


class _SoftmaxObjective(Objective):
    """What the softmax objectives share: a temperature, fixed or learned."""

    def __init__(
        self,
        temperature=0.15,
        *,
        learn_temperature=False,
        normalize=True,
        mask_known_positives=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.temperature = _checks.number_between(
            "temperature", temperature, 0, open_low=True
        )
        self.learn_temperature = bool(learn_temperature)
        self.normalize = bool(normalize)
        self.mask_known_positives = bool(mask_known_positives)
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

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "learn_temperature": self.learn_temperature,
            "normalize": self.normalize,
            "mask_known_positives": self.mask_known_positives,
        }


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FullSoftmax(_SoftmaxObjective):
    """The softmax cross-entropy of a positive against the whole catalogue.

    With `s_c` the dot product of the user and candidate `c`, divided by the
    temperature, an example with the positives `P` has the loss

        |P|^-positives_power * sum over p in P of
            [log(exp(s_p) + sum over c in N of exp(s_c)) - s_p]

    where `N` is the catalogue without `P` and without the user's known
    positives. An example with one positive is the case `|P| = 1`. Row 0 of
    the table, which stands for unknown candidates, competes only once it has
    been somebody's positive. An example without any positive has the loss 0.

    Memory: logits, mask and their gradients take a few times
    `batch x num_candidates x 4` bytes. With `chunk_size` they are computed
    chunk by chunk, and again in the backward pass, which takes one more
    matrix product, and take a few times `batch x chunk_size x 4` bytes
    however many candidates there are. What remains is the candidate vectors
    and their gradient, `num_candidates x dim x 4` bytes each.

    Args:
        temperature: float. Divides the scores. 0.1-0.25 suit unit vectors;
            smaller for sparser data and larger dimensions.
        learn_temperature: bool. Makes the temperature a weight, in log space,
            that starts at `temperature` and stays within
            `LEARNED_TEMPERATURES`.
        normalize: bool. Whether vectors are scaled to length 1 first.
        mask_known_positives: bool. Whether the user's other positives are
            left out of a positive's competitors. If not, `N` is the whole
            catalogue without `p`.
        positives_power: float between 0 and 1. 0 counts every positive alike,
            1 every user alike, 0.5 lies between.
        rating_weight: float. Multiplies the term of each positive by
            `1 + rating_weight * (rating - mean rating of the batch)`, where
            there are ratings.
        logq_power: float. Subtracts this power of a candidate's share of all
            positives, in log space, from its score in training. A full
            softmax needs none to be unbiased: above 0 it favours popular
            candidates, below 0 rare ones.
        chunk_size: int, or None to compute all logits at once. JAX only.
    """

    uses_all_candidates = True

    def __init__(
        self,
        temperature=0.15,
        *,
        learn_temperature=False,
        normalize=True,
        mask_known_positives=True,
        positives_power=0.5,
        rating_weight=0.0,
        logq_power=0.0,
        chunk_size=None,
        **kwargs,
    ):
        super().__init__(
            temperature,
            learn_temperature=learn_temperature,
            normalize=normalize,
            mask_known_positives=mask_known_positives,
            **kwargs,
        )
        self.positives_power = _checks.number_between(
            "positives_power", positives_power, 0, 1
        )
        self.rating_weight = _checks.number_between(
            "rating_weight", rating_weight
        )
        self.logq_power = _checks.number_between("logq_power", logq_power)
        if chunk_size is not None:
            distribution.require_jax("`chunk_size`")
            chunk_size = _checks.positive_int("chunk_size", chunk_size)
        self.chunk_size = chunk_size

    def call(self, batch):
        positives = _rows(batch.candidate_rows)
        if len(positives.shape) == 1:
            positives = ops.expand_dims(positives, 1)
        exists = batch.weights > 0
        given = (positives >= 0) & ops.expand_dims(exists, 1)
        others, chosen = self._softmax_parts(batch, positives)
        if self.mask_known_positives:
            losses = ops.softplus(ops.expand_dims(others, 1) - chosen)
        else:  # Here the positive is among the summed.
            losses = ops.expand_dims(others, 1) - chosen
        losses = losses * self._rating_factors(batch, given)
        losses = ops.sum(ops.where(given, losses, 0.0), axis=1)
        num_positives = ops.sum(ops.cast(given, "float32"), axis=1)
        return losses * ops.power(
            ops.maximum(num_positives, 1.0), -self.positives_power
        )

    def _rating_factors(self, batch, given):
        """What each positive's term is multiplied by; 1 on average."""
        if batch.ratings is None or not self.rating_weight:
            return 1.0
        ratings = ops.reshape(_float32(batch.ratings), ops.shape(given))
        counted = ops.cast(given, "float32")
        mean = ops.sum(ratings * counted) / ops.maximum(ops.sum(counted), 1.0)
        return 1.0 + self.rating_weight * (ratings - mean)

    def _softmax_parts(self, batch, positives):
        """The competitors' log-sum-exp and the positives' logits."""
        users = _float32(batch.user_vectors) / self.current_temperature()
        candidates = _float32(batch.all_candidate_vectors())
        offset = self._offset(batch)
        excluded = self._excluded(batch, positives)
        if self.chunk_size is None:
            return _softmax_parts(
                users, candidates, offset, positives, excluded
            )
        from keras_dp_retrieval._jax import softmax

        if excluded is None:
            excluded = ops.full((positives.shape[0], 1), -1, dtype="int32")
        chunk_size = min(self.chunk_size, candidates.shape[0])
        return softmax.softmax_parts(
            users,
            candidates,
            offset,
            positives,
            excluded,
            NO_CANDIDATE,
            chunk_size,
        )

    def _offset(self, batch):
        """What is added to each candidate's logit, `(num_candidates,)`."""
        rows = ops.arange(batch.candidate_counts.shape[0])
        offset = -self.logq_power * _log_share(batch.candidate_counts, rows)
        is_row_zero = rows == 0
        left_out = is_row_zero & ~_row_zero_is_real(batch)
        return ops.where(left_out, NO_CANDIDATE, offset)

    def _excluded(self, batch, positives):
        """Columns that do not compete, `(batch, m)`; -1 stands for none."""
        if not self.mask_known_positives:
            return None
        if batch.known_positives is None:
            return positives
        known = _rows(batch.known_positives)
        return ops.concatenate([positives, known], axis=1)

    def num_competitors(self, batch_size, num_candidates):
        return num_candidates

    def get_config(self):
        return {
            **super().get_config(),
            "positives_power": self.positives_power,
            "rating_weight": self.rating_weight,
            "logq_power": self.logq_power,
            "chunk_size": self.chunk_size,
        }


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class InBatchSoftmax(_SoftmaxObjective):
    """Softmax cross-entropy against the batch's other positives as negatives.

    It approximates `FullSoftmax` at a cost that follows the batch and not the
    catalogue. The negatives of an example are the positives of the batch's
    other examples, over all devices, and `num_uniform_negatives` candidates
    drawn uniformly from the whole table (mixed negatives: Yang et al. 2020).

    A popular candidate is a negative as often as it is chosen, so that
    without a correction the model learns to avoid what is popular. With `n_c`
    the number of times that candidate `c` is expected among the negatives,

        n_c = (examples - 1) * q_c + num_uniform_negatives / num_candidates
        q_c = (count_c + 1) / sum over all candidates d of (count_d + 1)

    and `s_c` the dot product divided by the temperature, the loss of an
    example with the positive `p` and the negatives `N` is

        log(exp(s_p) + sum over c in N of exp(s_c - log n_c)) - s_p

    The sum over `N` is an unbiased estimate of the sum over the catalogue
    (importance sampling: Bengio and Senécal 2008). The positive is not
    corrected, as it is always there and not drawn. The usual logQ correction
    (Yi et al. 2019) corrects it like a negative, which leaves rare positives
    almost without a gradient; `logq="standard"` does that. The uncorrected
    positive is the refinement of Khrylchenko et al. 2025 (arXiv 2507.09331):
    its gradient is theirs, weighted by the probability of an error. One is
    added to every count so that a candidate which has never been seen, as all
    of them at the start, counts as seen once.

    An example of weight 0 is nobody's negative. An example without negatives
    has the loss 0.

    Args:
        temperature: float. Divides the scores.
        learn_temperature: bool. Makes the temperature a weight, in log space,
            that starts at `temperature` and stays within
            `LEARNED_TEMPERATURES`.
        normalize: bool. Whether vectors are scaled to length 1 first.
        logq: `"corrected"`, `"standard"` (both as above) or `"off"`: every
            negative counts as it comes.
        mask_accidental_hits: bool. Whether an example's own positive is left
            out where it is among its negatives.
        mask_known_positives: bool. Whether the user's known positives are
            left out as well.
        hard_negatives: int or None. Keeps only this many negatives of each
            example, those with the largest corrected logits.
        num_uniform_negatives: int. Drawn anew at each call, with replacement,
            and shared by the batch.
        seed: int or None. Seeds these draws. Their state is saved with the
            model, so that a resumed run draws as it would have.
    """

    def __init__(
        self,
        temperature=0.15,
        *,
        learn_temperature=False,
        normalize=True,
        logq="corrected",
        mask_accidental_hits=True,
        mask_known_positives=True,
        hard_negatives=None,
        num_uniform_negatives=0,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            temperature,
            learn_temperature=learn_temperature,
            normalize=normalize,
            mask_known_positives=mask_known_positives,
            **kwargs,
        )
        self.logq = _checks.one_of("logq", logq, LOGQ)
        self.mask_accidental_hits = bool(mask_accidental_hits)
        if hard_negatives is not None:
            hard_negatives = _checks.positive_int(
                "hard_negatives", hard_negatives
            )
        self.hard_negatives = hard_negatives
        self.num_uniform_negatives = _checks.non_negative_int(
            "num_uniform_negatives", num_uniform_negatives
        )
        self.seed = seed
        if self.num_uniform_negatives:
            self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, batch):
        rows = _one_positive_each(batch, type(self).__name__)
        exists = batch.weights > 0
        users = _float32(batch.user_vectors) / self.current_temperature()
        vectors = _float32(batch.lookup(rows))
        chosen = ops.sum(users * vectors, axis=1)
        competes = self._in_batch_competitors(exists)
        if self.num_uniform_negatives:
            drawn, is_real = self._draw(batch)
            rows_of_columns = ops.concatenate([rows, drawn])
            drawn_vectors = _float32(batch.lookup(drawn))
            vectors = ops.concatenate([vectors, drawn_vectors])
            is_real = ops.broadcast_to(
                is_real, (rows.shape[0], self.num_uniform_negatives)
            )
            competes = ops.concatenate([competes, is_real], axis=1)
        else:
            rows_of_columns = rows
        competes &= ~self._positive_columns(batch, rows, rows_of_columns)
        negatives = ops.matmul(users, ops.transpose(vectors))
        if self.logq != "off":
            negatives -= self._log_expected(batch, exists, rows_of_columns)
            if self.logq == "standard":
                chosen -= self._log_expected(batch, exists, rows)
        negatives = ops.where(competes, negatives, NO_CANDIDATE)
        if self.hard_negatives is not None:
            num_kept = min(self.hard_negatives, negatives.shape[1])
            negatives, _ = ops.top_k(negatives, num_kept)
        losses = ops.softplus(ops.logsumexp(negatives, axis=1) - chosen)
        return ops.where(exists, losses, 0.0)

    def _in_batch_competitors(self, exists):
        """Whether column j is another existing example, `(batch, batch)`."""
        examples = ops.arange(exists.shape[0])
        others = ops.expand_dims(examples, 1) != examples
        return others & exists

    def _draw(self, batch):
        """Uniform candidate rows, and which of them are real candidates."""
        num_candidates = batch.candidate_counts.shape[0]
        drawn = keras.random.randint(
            (self.num_uniform_negatives,),
            0,
            num_candidates,
            seed=self.seed_generator,
        )
        return drawn, (drawn != 0) | _row_zero_is_real(batch)

    def _positive_columns(self, batch, rows, rows_of_columns):
        """Columns that hold a positive of the row, `(batch, columns)`."""
        # Not keras_rs.layers.RemoveAccidentalHits: it adds about 1e-40 to the
        # logits instead of removing them (keras-rs#206).
        hits = ops.zeros(
            (rows.shape[0], rows_of_columns.shape[0]), dtype="bool"
        )
        if self.mask_accidental_hits:
            hits = ops.expand_dims(rows, 1) == rows_of_columns
        if self.mask_known_positives and batch.known_positives is not None:
            known = _rows(batch.known_positives)
            hits |= _columns_in(known, rows_of_columns)
        return hits

    def _log_expected(self, batch, exists, rows):
        """log(n_c) of the class's formula, for each of `rows`."""
        # In log space, and not keras_rs.layers.SamplingProbabilityCorrection:
        # it clips probabilities at 1e-6, which a candidate of a large
        # catalogue has by right.
        log_q = _log_share(batch.candidate_counts, rows)
        others = ops.sum(ops.cast(exists, "float32")) - 1.0
        in_batch = ops.where(
            others > 0, ops.log(ops.maximum(others, 1.0)), NO_CANDIDATE
        )
        if not self.num_uniform_negatives:
            return in_batch + log_q
        num_candidates = batch.candidate_counts.shape[0]
        uniform = ops.log(self.num_uniform_negatives / num_candidates)
        return ops.logaddexp(in_batch + log_q, uniform)

    def num_competitors(self, batch_size, num_candidates):
        if self.logq == "standard" or (
            self.logq == "corrected" and self.hard_negatives is not None
        ):
            return None  # Depends on how popular the positives are.
        if self.logq == "corrected":
            return num_candidates  # What the corrected sum estimates.
        num_negatives = batch_size - 1 + self.num_uniform_negatives
        if self.hard_negatives is not None:
            num_negatives = min(num_negatives, self.hard_negatives)
        return num_negatives + 1

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Keras saves weights and leaves the state of generators out.
        if self.num_uniform_negatives:
            store[SEED_STATE] = self.seed_generator.state

    def load_own_variables(self, store):
        own = {key: store[key] for key in store.keys() if key != SEED_STATE}
        super().load_own_variables(own)
        if self.num_uniform_negatives and SEED_STATE in store.keys():
            self.seed_generator.state.assign(store[SEED_STATE])

    def get_config(self):
        return {
            **super().get_config(),
            "logq": self.logq,
            "mask_accidental_hits": self.mask_accidental_hits,
            "hard_negatives": self.hard_negatives,
            "num_uniform_negatives": self.num_uniform_negatives,
            "seed": self.seed,
        }


LOGQ = ("corrected", "standard", "off")
SEED_STATE = "seed_generator_state"
OBJECTIVES = {
    "rating": RatingError,
    "full_softmax": FullSoftmax,
    "in_batch_softmax": InBatchSoftmax,
}


def get(identifier) -> Objective:
    """Returns the objective that `identifier` names, describes or is.

    Args:
        identifier: `"rating"`, `"full_softmax"` or `"in_batch_softmax"`; an
            `Objective`; a `keras.losses.Loss`, which becomes a
            `PairwiseObjective`; or the config of either, as
            `keras.saving.serialize_keras_object` makes it.

    Raises:
        ValueError: If it is none of these.
    """
    found = identifier
    if isinstance(found, str) and found in OBJECTIVES:
        found = OBJECTIVES[found]()
    elif isinstance(found, dict) and "class_name" in found:
        found = keras.saving.deserialize_keras_object(found)
    if isinstance(found, keras.losses.Loss):
        found = PairwiseObjective(found)
    if not isinstance(found, Objective):
        names = ", ".join(repr(name) for name in OBJECTIVES)
        raise ValueError(
            f"`objective` must be one of {names}, an `Objective`, a "
            "`keras.losses.Loss`, or the serialized config of either. "
            f"Received: objective={identifier!r}."
        )
    return found


def _float32(tensor):
    return ops.cast(tensor, "float32")


def _rows(tensor):
    return ops.cast(tensor, "int32")


def _one_positive_each(batch, objective):
    rows = _rows(batch.candidate_rows)
    if len(rows.shape) != 1:
        raise ValueError(
            f"`{objective}` takes one candidate per example, `(batch,)`. "
            f"Received: candidate rows of shape {tuple(rows.shape)}. Several "
            "positives per example work with `FullSoftmax`."
        )
    return rows


def _scores_of_pairs(batch):
    """The dot product of each user and its candidate, `(batch,)`."""
    rows = _one_positive_each(batch, "A loss on ratings")
    vectors = _float32(batch.lookup(rows))
    return ops.sum(_float32(batch.user_vectors) * vectors, axis=1)


def _ratings(batch, objective):
    if batch.ratings is None:
        raise ValueError(
            f"`{objective}` needs a rating for every example, and this data "
            "has none. Use the objective 'full_softmax' or "
            "'in_batch_softmax', which learn from the pairs alone."
        )
    return _float32(batch.ratings)


def _log_share(counts, rows):
    """log of the candidates' share of all positives, 1 added to each count.

    The rows are looked up first: a logarithm of every count would cost as
    much as the catalogue is long.
    """
    total = ops.sum(_float32(counts)) + counts.shape[0]
    return ops.log(_float32(ops.take(counts, rows)) + 1.0) - ops.log(total)


def _row_zero_is_real(batch):
    """Whether row 0 is a candidate and not the place of unknown ones."""
    rows = _rows(batch.candidate_rows)
    if len(rows.shape) == 1:
        rows = ops.expand_dims(rows, 1)
    exists = ops.expand_dims(batch.weights > 0, 1)
    return (batch.candidate_counts[0] > 0) | ops.any((rows == 0) & exists)


def _softmax_parts(users, candidates, offset, positives, excluded):
    """As `_jax.softmax.softmax_parts`, all columns at once, anywhere."""
    logits = ops.matmul(users, ops.transpose(candidates)) + offset
    chosen = ops.take_along_axis(logits, ops.maximum(positives, 0), axis=1)
    if excluded is not None:
        # Row by row, because the compiler then sees that no device needs
        # another's rows.
        logits = ops.vectorized_map(
            _exclude, (logits, _without_padding(excluded))
        )
    return ops.logsumexp(logits, axis=1), chosen


def _without_padding(excluded):
    """Repeats each row's first entry, a positive, in the place of -1."""
    return ops.maximum(ops.where(excluded < 0, excluded[:, :1], excluded), 0)


def _exclude(logits_and_columns):
    logits, columns = logits_and_columns
    nothing = ops.full(columns.shape, NO_CANDIDATE, dtype=logits.dtype)
    return ops.scatter_update(logits, ops.expand_dims(columns, 1), nothing)


def _columns_in(row_lists, rows_of_columns):
    """Whether a column's candidate is in the row's list, `(batch, columns)`.

    The lists are looked up in the sorted columns: comparing every column with
    every entry would take `batch x columns x entries` steps.
    """
    in_order = ops.sort(rows_of_columns)
    place = ops.searchsorted(in_order, rows_of_columns)
    num_columns = in_order.shape[0]
    found = ops.reshape(
        ops.searchsorted(in_order, ops.reshape(row_lists, (-1,))),
        row_lists.shape,
    )
    is_there = (
        ops.take(in_order, ops.minimum(found, num_columns - 1)) == row_lists
    )
    # One more column takes what was not found.
    found = ops.where(is_there, found, num_columns)
    hits = ops.vectorized_map(
        lambda places: ops.scatter_update(
            ops.zeros((num_columns + 1,), dtype="bool"),
            ops.expand_dims(places, 1),
            ops.ones(places.shape, dtype="bool"),
        ),
        found,
    )
    return ops.take(hits, place, axis=1)
