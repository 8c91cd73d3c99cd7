"""FullSoftmax: all candidates are negatives."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.losses.objective import as_float32, as_rows
from keras_dp_retrieval.losses.softmax import (
    MASKED_LOGIT,
    SoftmaxObjective,
    competing,
    log_share,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FullSoftmax(SoftmaxObjective):
    """Computes the softmax cross-entropy over the whole catalogue.

    With `s_c` the dot product of the user and candidate `c`, divided by the
    temperature, an example with the positives `P` has the loss

        |P|^-positives_power * sum over p in P of
            [log(exp(s_p) + sum over c in N of exp(s_c)) - s_p]

    where the negatives `N` are the catalogue without `P` and without the
    user's known positives. With one positive per example, `|P| = 1`.
    Candidates without training interactions are never negatives (see
    `ScoredBatch.competes`), as they would only be pushed away from all users.
    An example without positives has the loss 0.

    With `top_k=K`, the term of each positive is multiplied by

        sigmoid((s_p - s_K) * temperature / top_k_temperature)

    where `s_K` is the K-th largest score of the negatives: positives that are,
    or nearly are, among the first K count more (SL@K: Yang et al., KDD 2025,
    arXiv 2508.05673). With fewer than K negatives the factor is 1. Unlike
    there, `s_K` is exact and not of the user's own positives, and the factor
    is a constant for the gradient: on the one split where both were tried, a
    gradient through it did worse (`benchmarks/README.md`).

    Memory: logits, mask and their gradients take a few times
    `batch x num_candidates x 4` bytes. With `chunk_size` they are computed
    chunk by chunk and recomputed in the backward pass, at the cost of one more
    matrix product, and take a few times `batch x chunk_size x 4` bytes. In
    addition there are the candidate vectors and their gradient,
    `num_candidates x dim x 4` bytes each, and the padded positives, where
    examples have several.

    Args:
        temperature: float. Divides the scores. 0.1-0.25 suit unit vectors;
            smaller for sparser data and larger dimensions.
        learn_temperature: bool. Makes the temperature a weight, in log space,
            that starts at `temperature` and stays within
            `LEARNED_TEMPERATURES`.
        normalize: bool. Whether vectors are normalized to unit length first.
        mask_known_positives: bool. Whether the user's other positives are
            excluded from the negatives. If False, the negatives of `p` are
            the whole catalogue without `p`.
        positives_power: float between 0 and 1. With 0 every positive has the
            same weight, with 1 every user.
        rating_weight: float. Multiplies the term of each positive by
            `1 + rating_weight * (rating - mean rating of the batch)`, if there
            are ratings.
        logq_power: float. Subtracts `logq_power * log(share)` from a
            candidate's logits in training, where `share` is its share of all
            positives. A full softmax needs no correction to be unbiased: above
            0 it favours popular candidates, below 0 rare ones.
        chunk_size: Optional int. Candidates per chunk; by default all logits
            are computed at once. JAX only.
        top_k: Optional int. Weighs positives by whether they are among the
            first so many. Not with `chunk_size`.
        top_k_temperature: float. Divides the dot products in that weight: the
            smaller, the sharper.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval(
        944, 1683, objective=kdr.FullSoftmax(temperature=0.15)
    )
    ```
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
        top_k=None,
        top_k_temperature=1.0,
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
        if top_k is not None:
            top_k = _checks.positive_int("top_k", top_k)
            if chunk_size is not None:
                raise ValueError(
                    "`top_k` must be given without `chunk_size`, as it needs "
                    "all logits at once. Received: "
                    f"top_k={top_k} and chunk_size={chunk_size}. Leave one "
                    "of them out."
                )
        self.top_k = top_k
        self.top_k_temperature = _checks.number_between(
            "top_k_temperature", top_k_temperature, 0, open_low=True
        )

    def call(self, batch):
        positives = as_rows(batch.candidate_rows)
        if len(positives.shape) == 1:
            positives = ops.expand_dims(positives, 1)
        exists = batch.weights > 0
        is_positive = (positives >= 0) & ops.expand_dims(exists, 1)
        negatives, chosen, *best = self._softmax_parts(batch, positives)
        if self.mask_known_positives:
            losses = ops.softplus(ops.expand_dims(negatives, 1) - chosen)
        else:  # The sum includes the positive.
            losses = ops.expand_dims(negatives, 1) - chosen
        losses = losses * self._rating_factors(batch, is_positive)
        if best:
            losses = losses * self._top_k_factors(chosen, *best)
        losses = ops.sum(ops.where(is_positive, losses, 0.0), axis=1)
        num_positives = ops.sum(ops.cast(is_positive, "float32"), axis=1)
        return losses * ops.power(
            ops.maximum(num_positives, 1.0), -self.positives_power
        )

    def _rating_factors(self, batch, is_positive):
        """The factor of each positive's term; 1 on average."""
        if batch.ratings is None or not self.rating_weight:
            return 1.0
        ratings = ops.reshape(as_float32(batch.ratings), ops.shape(is_positive))
        counted = ops.cast(is_positive, "float32")
        mean = ops.sum(ratings * counted) / ops.maximum(ops.sum(counted), 1.0)
        return 1.0 + self.rating_weight * (ratings - mean)

    def _top_k_factors(self, chosen, best):
        """The factor of each positive's term, for `top_k`."""
        margins = (chosen - ops.expand_dims(best, 1)) / self.top_k_temperature
        margins = margins * self.current_temperature()
        return ops.stop_gradient(ops.sigmoid(margins))

    def _softmax_parts(self, batch, positives):
        """The negatives' log-sum-exp and the positives' logits.

        With `top_k`, also the k-th largest logit of the negatives.
        """
        users = as_float32(batch.user_vectors) / self.current_temperature()
        candidates = as_float32(batch.all_candidate_vectors())
        offset = self._offset(batch)
        excluded, lists = self._excluded(batch, positives)
        top_k = self.top_k
        if top_k is not None:
            top_k = min(top_k, candidates.shape[0])
        if keras.backend.backend() != "jax":
            return _softmax_parts(
                users, candidates, offset, positives, excluded, top_k
            )
        from keras_dp_retrieval._jax import chunked_softmax

        if excluded is None:
            excluded = ops.full((positives.shape[0], 1), -1, dtype="int32")
        inputs = users, candidates, offset, positives, excluded, lists
        if self.chunk_size is None:
            return chunked_softmax.whole_parts(*inputs, MASKED_LOGIT, top_k)
        chunk_size = min(self.chunk_size, candidates.shape[0])
        return chunked_softmax.softmax_parts(*inputs, MASKED_LOGIT, chunk_size)

    def _offset(self, batch):
        """Added to the logits of each candidate, `(num_candidates,)`."""
        offset = -self.logq_power * log_share(batch)
        return ops.where(competing(batch), offset, MASKED_LOGIT)

    def _excluded(self, batch, positives):
        """Candidates that are no negatives: rows padded with -1, and lists."""
        if not self.mask_known_positives:
            return None, None
        if batch.known_lists is not None:
            return positives, batch.known_lists
        if batch.known_positives is None:
            return positives, None
        known = as_rows(batch.known_positives)
        return ops.concatenate([positives, known], axis=1), None

    def num_competitors(self, batch_size, num_candidates):
        # The weights of `top_k` make the loss another one.
        return num_candidates if self.top_k is None else None

    def get_config(self):
        return {
            **super().get_config(),
            "positives_power": self.positives_power,
            "rating_weight": self.rating_weight,
            "logq_power": self.logq_power,
            "chunk_size": self.chunk_size,
            "top_k": self.top_k,
            "top_k_temperature": self.top_k_temperature,
        }


def _softmax_parts(users, candidates, offset, positives, excluded, top_k):
    """Like `_jax.chunked_softmax.whole_parts`, on any backend."""
    logits = ops.matmul(users, ops.transpose(candidates)) + offset
    chosen = ops.take_along_axis(logits, ops.maximum(positives, 0), axis=1)
    if excluded is not None:
        # Row by row, so that the compiler sees that devices need no rows of
        # each other.
        logits = ops.vectorized_map(
            _exclude, (logits, _without_padding(excluded))
        )
    parts = ops.logsumexp(logits, axis=1), chosen
    if top_k is None:
        return parts
    best, _ = ops.top_k(ops.stop_gradient(logits), top_k)
    return *parts, best[:, -1]


def _without_padding(excluded):
    """Replaces padding by the row's first entry, a positive."""
    return ops.maximum(ops.where(excluded < 0, excluded[:, :1], excluded), 0)


def _exclude(logits_and_columns):
    logits, columns = logits_and_columns
    masked = ops.full(columns.shape, MASKED_LOGIT, dtype=logits.dtype)
    return ops.scatter_update(logits, ops.expand_dims(columns, 1), masked)
