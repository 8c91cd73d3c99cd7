"""What every objective is: one loss per example of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops


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
            `known` is the longest list of all users: in a compiled step it
            costs nothing until it is read.
        known_lists: Optional `_jax.membership.Lists`, on JAX: the same without
            padding. The objectives of this package look it up there.
        competes: Optional bool `(num_candidates,)`: which candidates may be
            negatives. Without it all may, but row 0 only once it has been
            somebody's positive.
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
