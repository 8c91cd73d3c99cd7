"""The base class of objectives, and the batch that they are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops


@dataclass
class ScoredBatch:
    """The input of an objective: one batch of vectors and labels.

    A row is the index of a user or a candidate in its table. The score of a
    pair is the dot product of its vectors.

    Attributes:
        user_vectors: `(batch, dim)` tensor.
        candidate_rows: `(batch,)` int32, the positive of each example; or
            `(batch, positives)`, several of them, padded with -1.
        weights: `(batch,)` float32. A row of weight 0 is padding: it has no
            loss, and its candidate is not a negative of others.
        lookup: Callable from int32 candidate rows of any shape to their
            vectors, `(..., dim)`, differentiable.
        all_candidate_vectors: Callable without arguments that returns
            `(num_candidates, dim)`, differentiable.
        candidate_counts: `(num_candidates,)` float32: how often each
            candidate was a positive in training so far.
        ratings: `(batch,)` float32, or None if there are none.
        known_positives: `(batch, known)` int32 padded with -1, or None: all
            positives of each example's user, none of which should be a
            negative. `known` is the length of the longest list of all users.
            In a compiled step it costs nothing unless it is read.
        known_lists: Optional `_jax.membership.Lists`, on JAX: the same without
            padding, which the objectives of this package use.
        competes: Optional bool `(num_candidates,)`: the negatives mask, True
            for candidates that may be negatives. By default all may, row 0
            once it has been a positive.
        counts_at: Optional callable from int32 candidate rows to their
            counts, float32. Reading `candidate_counts` and `competes` costs
            as much as there are candidates; this and the next two cost the
            rows alone.
        num_counted: Optional float32 scalar, the sum of all counts.
        competes_at: Optional callable from int32 candidate rows, `(rows,)`, to
            whether they may be negatives.
    """

    user_vectors: Any
    candidate_rows: Any
    weights: Any
    lookup: Callable
    all_candidate_vectors: Callable
    candidate_counts: Any
    ratings: Any = None
    known_positives: Any = None
    known_lists: Any = None
    competes: Any = None
    counts_at: Callable | None = None
    num_counted: Any = None
    competes_at: Callable | None = None


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class Objective(keras.layers.Layer):
    """Base class of objectives: computes one loss per example of a batch.

    To implement your own objective, subclass it and override `call(batch)`,
    which gets a `ScoredBatch` and returns the losses, float32 `(batch,)`. The
    model averages them over the real examples. An objective is a layer, so that
    it can own weights, such as a learned temperature, which are trained and
    saved with the model. Create them in `__init__`, as `build` is not called.

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
        normalize: bool. Whether the model normalizes the vectors of both
            towers to unit length before it scores them.
        needs_ratings: bool. Whether `ScoredBatch.ratings` is required.
        uses_all_candidates: bool. Whether it calls
            `ScoredBatch.all_candidate_vectors`, so that the cost of a step
            grows with the catalogue.
        mask_known_positives: bool. Whether it reads
            `ScoredBatch.known_positives`.
    """

    normalize = False
    needs_ratings = False
    uses_all_candidates = False
    mask_known_positives = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    def __call__(self, batch: ScoredBatch):
        # `Layer.__call__` builds the layer from tensors and casts them, and
        # raises for a batch, which is none.
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
        """Returns the number of candidates in the softmax, positive included.

        With equal scores the mean loss per positive is near
        `log(num_competitors)`, the chance level: a model whose loss stays
        there has learned nothing.

        Args:
            batch_size: int. Real examples in a batch, over all devices.
            num_candidates: int. Rows of the candidate table.

        Returns:
            int, or None if the objective has no chance level.
        """
        return None


def as_float32(tensor):
    return ops.cast(tensor, "float32")


def as_rows(tensor):
    return ops.cast(tensor, "int32")


def one_positive_each(batch, objective):
    rows = as_rows(batch.candidate_rows)
    if len(rows.shape) != 1:
        raise ValueError(
            f"`{objective}` takes one candidate per example, `(batch,)`. "
            f"Received: candidate rows of shape {tuple(rows.shape)}. Several "
            "positives per example work with `FullSoftmax`."
        )
    return rows
