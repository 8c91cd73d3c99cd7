"""InBatchSoftmax: the other positives of the batch are negatives."""

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.losses.known_columns import known_columns
from keras_dp_retrieval.losses.objective import as_float32, one_positive_each
from keras_dp_retrieval.losses.softmax import (
    MASKED_LOGIT,
    SoftmaxObjective,
    competing,
    log_share,
)

LOGQ = ("corrected", "standard", "off")


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class InBatchSoftmax(SoftmaxObjective):
    """Computes the softmax cross-entropy with in-batch negatives.

    It approximates `FullSoftmax` at a cost that depends on the batch size, not
    on the size of the catalogue. The negatives of an example are the positives
    of the batch's other examples, over all devices, and
    `num_uniform_negatives` candidates sampled uniformly from the whole table
    (mixed negative sampling: Yang et al. 2020).

    Popular candidates are sampled as negatives more often, so without a
    correction the model learns to avoid them. With `n_c` the expected number
    of times that candidate `c` is among the negatives,

        n_c = (examples - 1) * q_c + num_uniform_negatives / num_candidates
        q_c = (count_c + 1) / sum over all candidates d of (count_d + 1)

    and `s_c` the dot product divided by the temperature, the loss of an
    example with the positive `p` and the negatives `N` is

        log(exp(s_p) + sum over c in N of exp(s_c - log n_c)) - s_p

    The sum over `N` is an unbiased estimate of the sum over the catalogue
    (importance sampling: Bengio and Senécal 2008). The positive is not
    corrected, as it is not sampled. The usual logQ correction (Yi et al. 2019)
    corrects it like a negative, which leaves rare positives almost without a
    gradient; `logq="standard"` does that. The uncorrected positive is the
    refinement of Khrylchenko et al. 2025 (arXiv 2507.09331): its gradient is
    theirs, weighted by the probability of an error. One is added to every
    count, so that no candidate has the probability 0.

    Examples of weight 0 (padding) and candidates without training interactions
    (see `ScoredBatch.competes`) are never negatives. An example without
    negatives has the loss 0.

    Args:
        temperature: float. Divides the scores.
        learn_temperature: bool. Makes the temperature a weight, in log space,
            that starts at `temperature` and stays within
            `LEARNED_TEMPERATURES`.
        normalize: bool. Whether vectors are normalized to unit length first.
        logq: `"corrected"`, `"standard"` (both as above) or `"off"`: no
            correction.
        mask_accidental_hits: bool. Whether an example's own positive is
            excluded from its negatives.
        mask_known_positives: bool. Whether the user's known positives are
            excluded as well.
        hard_negatives: Optional int. Keeps only this many negatives per
            example, those with the largest corrected logits.
        num_uniform_negatives: int. Sampled in each step, with replacement, and
            shared by the batch.
        seed: Optional int. Seeds the sampling. The state of the generator is
            saved with the model, so that a resumed run samples the same
            negatives.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval(
        944, 1683, objective=kdr.InBatchSoftmax(num_uniform_negatives=512)
    )
    ```
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
        self.mask_accidental_hits = _checks.flag(
            "mask_accidental_hits", mask_accidental_hits
        )
        if hard_negatives is not None:
            hard_negatives = _checks.positive_int(
                "hard_negatives", hard_negatives
            )
        self.hard_negatives = hard_negatives
        self.num_uniform_negatives = _checks.non_negative_int(
            "num_uniform_negatives", num_uniform_negatives
        )
        self.seed = _checks.seed("seed", seed)
        if self.num_uniform_negatives:
            self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, batch):
        rows = one_positive_each(batch, type(self).__name__)
        exists = batch.weights > 0
        users = as_float32(batch.user_vectors) / self.current_temperature()
        vectors = as_float32(batch.lookup(rows))
        chosen = ops.sum(users * vectors, axis=1)
        competes = self._in_batch_competitors(exists)
        if self.num_uniform_negatives:
            drawn, is_real = self._draw(batch)
            rows_of_columns = ops.concatenate([rows, drawn])
            drawn_vectors = as_float32(batch.lookup(drawn))
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
        negatives = ops.where(competes, negatives, MASKED_LOGIT)
        if self.hard_negatives is not None:
            num_kept = min(self.hard_negatives, negatives.shape[1])
            negatives, _ = ops.top_k(negatives, num_kept)
        losses = ops.softplus(ops.logsumexp(negatives, axis=1) - chosen)
        return ops.where(exists, losses, 0.0)

    def _in_batch_competitors(self, exists):
        """Mask of the other real examples of the batch, `(batch, batch)`."""
        examples = ops.arange(exists.shape[0])
        others = ops.expand_dims(examples, 1) != examples
        return others & exists

    def _draw(self, batch):
        """Samples candidate rows; returns them and which may be negatives."""
        num_candidates = batch.candidate_counts.shape[0]
        drawn = keras.random.randint(
            (self.num_uniform_negatives,),
            0,
            num_candidates,
            seed=self.seed_generator,
        )
        return drawn, competing(batch, drawn)

    def _positive_columns(self, batch, rows, rows_of_columns):
        """Mask of columns that are positives of the row, `(batch, columns)`."""
        # Not keras_rs.layers.RemoveAccidentalHits: it adds about 1e-40 to the
        # logits instead of removing them (keras-rs#206).
        hits = ops.zeros(
            (rows.shape[0], rows_of_columns.shape[0]), dtype="bool"
        )
        if self.mask_accidental_hits:
            hits = ops.expand_dims(rows, 1) == rows_of_columns
        if self.mask_known_positives:
            known = known_columns(batch, rows_of_columns)
            if known is not None:
                hits |= known
        return hits

    def _log_expected(self, batch, exists, rows):
        """log(n_c) of the class's formula, for each of `rows`."""
        # Not keras_rs.layers.SamplingProbabilityCorrection: it clips
        # probabilities at 1e-6, and those of a large catalogue are lower.
        log_q = log_share(batch, rows)
        others = ops.sum(ops.cast(exists, "float32")) - 1.0
        in_batch = ops.where(
            others > 0, ops.log(ops.maximum(others, 1.0)), MASKED_LOGIT
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
            return None  # Depends on the popularity of the positives.
        if self.logq == "corrected":
            return num_candidates  # The corrected sum estimates theirs.
        num_negatives = batch_size - 1 + self.num_uniform_negatives
        if self.hard_negatives is not None:
            num_negatives = min(num_negatives, self.hard_negatives)
        return num_negatives + 1

    def get_config(self):
        return {
            **super().get_config(),
            "logq": self.logq,
            "mask_accidental_hits": self.mask_accidental_hits,
            "hard_negatives": self.hard_negatives,
            "num_uniform_negatives": self.num_uniform_negatives,
            "seed": self.seed,
        }
