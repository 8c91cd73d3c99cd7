"""BucketedSoftmax: hard negatives that are found in buckets."""

import math

import keras
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.losses.known_columns import known_columns
from keras_dp_retrieval.losses.objective import as_float32, one_positive_each
from keras_dp_retrieval.losses.softmax import (
    MASKED_LOGIT,
    SoftmaxObjective,
    competing,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class BucketedSoftmax(SoftmaxObjective):
    """Computes the softmax cross-entropy over hard negatives of the catalogue.

    It approximates `FullSoftmax` without the logits of all candidates
    (scalable cross-entropy, SCE: Mezentsev et al., RecSys 2024, arXiv
    2409.18721). In each step, `num_buckets` random directions are drawn, sums
    of the batch's user vectors with normal weights. A bucket holds the
    examples and the candidates that reach farthest in its direction: its
    candidates are likely to have large scores for its users. With `s_c` the
    dot product divided by the temperature, an example with the positive `p`
    has in a bucket with the candidates `N` the loss

        log(exp(s_p) + sum over c in N of exp(s_c)) - s_p

    and altogether the largest one of its buckets; one that is in no bucket,
    few by default, has the loss 0. The user's known positives and candidates
    without training interactions (see `ScoredBatch.competes`) are never
    negatives.

    Memory: `num_buckets x (num_candidates + examples_per_bucket x
    candidates_per_bucket) x 4` bytes a few times, where the full softmax has
    `batch x num_candidates`; to exclude known positives, `batch x num_buckets x
    candidates_per_bucket` bytes. As there, the gradient of the table is whole.

    Args:
        temperature: float. Divides the scores.
        learn_temperature: bool. Makes the temperature a weight, in log space,
            that starts at `temperature` and stays within
            `LEARNED_TEMPERATURES`.
        normalize: bool. Whether vectors are normalized to unit length first.
        mask_known_positives: bool. Whether the user's other positives are
            excluded from the negatives.
        num_buckets: Optional int. By default twice the square root of the
            batch size.
        examples_per_bucket: Optional int. Likewise.
        candidates_per_bucket: int. At most as many as there are candidates.
        seed: Optional int. Seeds the directions. The state of the generator is
            saved with the model.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval(
        100_000, 500_000, objective=kdr.BucketedSoftmax(temperature=0.1)
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
        num_buckets=None,
        examples_per_bucket=None,
        candidates_per_bucket=256,
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
        if num_buckets is not None:
            num_buckets = _checks.positive_int("num_buckets", num_buckets)
        if examples_per_bucket is not None:
            examples_per_bucket = _checks.positive_int(
                "examples_per_bucket", examples_per_bucket
            )
        self.num_buckets = num_buckets
        self.examples_per_bucket = examples_per_bucket
        self.candidates_per_bucket = _checks.positive_int(
            "candidates_per_bucket", candidates_per_bucket
        )
        self.seed = _checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def call(self, batch):
        positives = one_positive_each(batch, type(self).__name__)
        exists = batch.weights > 0
        users = as_float32(batch.user_vectors) / self.current_temperature()
        candidates = as_float32(batch.all_candidate_vectors())
        chosen = ops.sum(users * ops.take(candidates, positives, axis=0), 1)
        examples, columns = self._buckets(batch, users, candidates, exists)
        negatives = ops.einsum(
            "bxd,byd->bxy",
            ops.take(users, examples, axis=0),
            ops.take(candidates, columns, axis=0),
        )
        competes = self._competes(batch, positives, examples, columns)
        negatives = ops.where(competes, negatives, MASKED_LOGIT)
        of_positives = ops.take(chosen, examples)
        found = ops.softplus(ops.logsumexp(negatives, axis=2) - of_positives)
        losses = _largest_of_each(found, examples, positives.shape[0])
        return ops.where(exists, losses, 0.0)

    def _buckets(self, batch, users, candidates, exists):
        """Indices of examples `(buckets, ...)`, and rows of candidates."""
        batch_size = exists.shape[0]
        usual = math.ceil(2 * math.sqrt(batch_size))
        num_buckets = self.num_buckets or usual
        num_examples = min(self.examples_per_bucket or usual, batch_size)
        num_columns = min(self.candidates_per_bucket, candidates.shape[0])
        users = ops.stop_gradient(users)
        weights = keras.random.normal(
            (num_buckets, batch_size), seed=self.seed_generator
        )
        directions = ops.matmul(weights * ops.cast(exists, "float32"), users)
        of_users = ops.matmul(directions, ops.transpose(users))
        of_users = ops.where(exists, of_users, MASKED_LOGIT)
        of_candidates = ops.matmul(
            directions, ops.transpose(ops.stop_gradient(candidates))
        )
        may_be = competing(batch)
        of_candidates = ops.where(may_be, of_candidates, MASKED_LOGIT)
        _, examples = ops.top_k(of_users, num_examples)
        _, columns = ops.top_k(of_candidates, num_columns)
        return examples, columns

    def _competes(self, batch, positives, examples, columns):
        """Mask `(buckets, examples, columns)` of what is a negative."""
        mask = ops.take(competing(batch), columns)[:, None, :]
        mask &= ops.take(positives, examples)[..., None] != columns[:, None, :]
        if not self.mask_known_positives:
            return mask
        known = known_columns(batch, ops.reshape(columns, (-1,)))
        if known is None:
            return mask
        known = ops.reshape(known, (-1, *columns.shape))
        known = ops.take_along_axis(
            ops.transpose(known, (1, 0, 2)), examples[..., None], axis=1
        )
        return mask & ~known

    def get_config(self):
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "examples_per_bucket": self.examples_per_bucket,
            "candidates_per_bucket": self.candidates_per_bucket,
            "seed": self.seed,
        }


def _largest_of_each(losses, examples, batch_size: int):
    """The largest loss of each example, `(batch,)`; 0 where there is none.

    Args:
        losses: float32 `(buckets, examples)`.
        examples: int32 `(buckets, examples)`: whose they are.
        batch_size: int.
    """
    losses, examples = ops.reshape(losses, (-1,)), ops.reshape(examples, (-1,))
    # JAX has no gradient of a maximum of segments.
    largest = ops.segment_max(
        ops.stop_gradient(losses), examples, num_segments=batch_size
    )
    is_largest = ops.cast(losses >= ops.take(largest, examples), "float32")
    total, number = (
        ops.segment_sum(values, examples, num_segments=batch_size)
        for values in (losses * is_largest, is_largest)
    )
    return total / ops.maximum(number, 1.0)
