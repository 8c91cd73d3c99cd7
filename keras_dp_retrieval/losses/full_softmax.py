"""FullSoftmax: a positive against the whole catalogue."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.losses.objective import as_float32, as_rows
from keras_dp_retrieval.losses.softmax import (
    NO_CANDIDATE,
    SoftmaxObjective,
    competing,
    log_share,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FullSoftmax(SoftmaxObjective):
    """The softmax cross-entropy of a positive against the whole catalogue.

    With `s_c` the dot product of the user and candidate `c`, divided by the
    temperature, an example with the positives `P` has the loss

        |P|^-positives_power * sum over p in P of
            [log(exp(s_p) + sum over c in N of exp(s_c)) - s_p]

    where `N` is the catalogue without `P` and without the user's known
    positives. An example with one positive is the case `|P| = 1`. A candidate
    that training does not have is in nobody's `N` (see
    `ScoredBatch.competes`): it would only be pushed away from everyone. An
    example without any positive has the loss 0.

    Memory: logits, mask and their gradients take a few times
    `batch x num_candidates x 4` bytes. With `chunk_size` they are computed
    chunk by chunk, and again in the backward pass, which takes one more
    matrix product, and take a few times `batch x chunk_size x 4` bytes
    however many candidates there are. What remains is the candidate vectors
    and their gradient, `num_candidates x dim x 4` bytes each, and the padded
    positives, where examples have several.

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
        positives = as_rows(batch.candidate_rows)
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
        ratings = ops.reshape(as_float32(batch.ratings), ops.shape(given))
        counted = ops.cast(given, "float32")
        mean = ops.sum(ratings * counted) / ops.maximum(ops.sum(counted), 1.0)
        return 1.0 + self.rating_weight * (ratings - mean)

    def _softmax_parts(self, batch, positives):
        """The competitors' log-sum-exp and the positives' logits."""
        users = as_float32(batch.user_vectors) / self.current_temperature()
        candidates = as_float32(batch.all_candidate_vectors())
        offset = self._offset(batch)
        excluded, lists = self._excluded(batch, positives)
        if keras.backend.backend() != "jax":
            return _softmax_parts(
                users, candidates, offset, positives, excluded
            )
        from keras_dp_retrieval._jax import softmax

        if excluded is None:
            excluded = ops.full((positives.shape[0], 1), -1, dtype="int32")
        inputs = users, candidates, offset, positives, excluded, lists
        if self.chunk_size is None:
            return softmax.whole_parts(*inputs, NO_CANDIDATE)
        chunk_size = min(self.chunk_size, candidates.shape[0])
        return softmax.softmax_parts(*inputs, NO_CANDIDATE, chunk_size)

    def _offset(self, batch):
        """What is added to each candidate's logit, `(num_candidates,)`."""
        rows = ops.arange(batch.candidate_counts.shape[0])
        offset = -self.logq_power * log_share(batch.candidate_counts, rows)
        return ops.where(competing(batch), offset, NO_CANDIDATE)

    def _excluded(self, batch, positives):
        """Columns that do not compete: `(batch, m)`, -1 for none, and lists."""
        if not self.mask_known_positives:
            return None, None
        if batch.known_lists is not None:
            return positives, batch.known_lists
        if batch.known_positives is None:
            return positives, None
        known = as_rows(batch.known_positives)
        return ops.concatenate([positives, known], axis=1), None

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


def _softmax_parts(users, candidates, offset, positives, excluded):
    """As `_jax.softmax.whole_parts`, on any backend."""
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
