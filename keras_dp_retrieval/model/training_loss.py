"""The loss of a training step, as the model's `objective` computes it."""

import functools

import keras
from keras import ops

from keras_dp_retrieval import losses
from keras_dp_retrieval._keras.layers import added_losses
from keras_dp_retrieval.metrics import ChanceAlarm
from keras_dp_retrieval.model import encoding, prefixes
from keras_dp_retrieval.model.candidate_states import competes, competes_at
from keras_dp_retrieval.model.known_data import is_continued


def compute_loss(model, x, y, user_vectors, sample_weight, training):
    """What `TwoTowerRetrieval.compute_loss` says; counts the positives."""
    # Of the forward pass, and the regularizers of all weights. What follows
    # may clear the list.
    own_losses = list(model.losses)

    def candidate_vectors(rows):
        with added_losses(model.candidate_tower) as added:
            vectors = encoding.candidate_vectors(model, rows, training)
        own_losses.extend(added)
        return vectors

    rows = ops.cast(y[model.candidate_key], "int32")
    if sample_weight is None:
        sample_weight = ops.ones(ops.shape(rows)[:1])
    weights = ops.cast(sample_weight, "float32")
    ratings = y.get(model.rating_key)
    if len(user_vectors.shape) == 3:
        x, rows, ratings, weights = _one_target_each(
            x, rows, ratings, weights, user_vectors
        )
        user_vectors = ops.reshape(user_vectors, (-1, user_vectors.shape[-1]))
    model.multi_positive = len(rows.shape) > 1
    counts = _counted(model, rows, weights)
    batch = losses.ScoredBatch(
        user_vectors=user_vectors,
        candidate_rows=rows,
        ratings=ratings,
        weights=weights,
        lookup=candidate_vectors,
        all_candidate_vectors=lambda: candidate_vectors(
            ops.arange(model.num_candidates, dtype="int32")
        ),
        candidate_counts=ops.cast(model.candidate_counts, "float32"),
        competes=competes(model, counts.after()),
        **counts.of_some_rows(),
        **_known_positives(model, x),
    )
    with added_losses(model.objective) as added:
        per_example = model.objective(batch) * weights
    own_losses.extend(added)
    num_real = ops.sum(ops.cast(weights != 0, "float32"))
    loss = ops.sum(per_example) / ops.maximum(num_real, 1.0)
    if training:
        counts.assign()
    for own in own_losses:
        loss = loss + ops.sum(ops.cast(own, loss.dtype))
    return loss


def _one_target_each(x, rows, ratings, weights, user_vectors):
    """An example for each target of users at several times.

    Args:
        x: Inputs with lengths `(batch, targets)`.
        rows: int32 `(batch, targets)`, padded with -1.
        ratings: Optional `(batch, targets)`.
        weights: float32 `(batch,)`.
        user_vectors: `(batch, targets, dim)`.

    Returns:
        `x`, `rows`, `ratings` and `weights`, `(batch x targets,)`. What is
        padding has weight 0.
    """
    if tuple(rows.shape) != tuple(user_vectors.shape[:2]):
        raise ValueError(
            "Users at several times, with lengths `(batch, targets)`, need a "
            "target for each, padded with -1. Received: candidates of shape "
            f"{tuple(rows.shape)} and lengths of shape "
            f"{tuple(user_vectors.shape[:2])}."
        )
    is_target = ops.cast(rows >= 0, "float32")
    if ratings is not None:
        ratings = ops.reshape(ratings, (-1,))
    return (
        prefixes.with_one_length(x),
        ops.reshape(ops.maximum(rows, 0), (-1,)),
        ratings,
        ops.reshape(weights[:, None] * is_target, (-1,)),
    )


def chance_alarm(model, batches) -> ChanceAlarm:
    """The alarm for a loss that stays at the chance level, for a `fit`.

    Args:
        model: `TwoTowerRetrieval`.
        batches: `PaddedBatches`, which the model is trained on.
    """

    @functools.cache  # Asked behind the first epochs, which meet them all.
    def num_in_training():
        in_training = competes(model, model.candidate_counts)
        return int(ops.convert_to_numpy(in_training).sum())

    def num_competitors():
        if model.multi_positive:
            return None  # Their losses are added up.
        return model.objective.num_competitors(
            max(batches.real_rows, default=1), num_in_training()
        )

    return ChanceAlarm(num_competitors)


def _known_positives(model, x) -> dict:
    """What the users are known to like beside this row's candidate.

    Returns:
        dict of the attributes of `ScoredBatch` that hold it; maybe none.
    """
    if not model.objective.mask_known_positives:
        return {}
    if model.histories is None:
        if isinstance(x, dict) and "history" in x:
            return {"known_positives": x["history"]}
        return {}
    if model.multi_positive and not is_continued(model):
        return {}  # The rows of such a batch have all of them.
    if isinstance(x, dict) and "length" in x:
        args = x["user_id"], x["length"]
    elif not keras.tree.is_nested(x) and len(x.shape) == 1:
        args = x, None
    else:
        return {}
    return {
        "known_positives": model.histories(*args),
        "known_lists": model.histories.lists(*args),
    }


def _counted(model, rows, weights):
    """The counts of candidates and the positives of a batch."""
    weights = ops.reshape(weights, (-1,) + (1,) * (len(rows.shape) - 1))
    weights = ops.broadcast_to(weights, ops.shape(rows))
    if keras.backend.backend() == "jax":
        return _Counts(model, rows, weights)
    return _CountsElsewhere(model, rows, weights)


class _Counts:
    """The counts of candidates in a step on JAX.

    The whole of them costs as much as the catalogue is long, some rows what
    these rows cost.
    """

    def __init__(self, model, rows, weights):
        from keras_dp_retrieval._jax.counts import BatchCounts

        self._model = model
        self._variables = [model.candidate_counts, *model.derived_variables]
        values = [variable.value for variable in self._variables]
        self._counts = BatchCounts(*values, rows, weights)

    def after(self):
        """The counts of all candidates with this batch."""
        return self._counts.after()[0]

    def of_some_rows(self) -> dict:
        """The attributes of `ScoredBatch` that look up some rows."""
        return {
            "counts_at": self._counts.before,
            "num_counted": self._counts.sum_before(),
            "competes_at": lambda rows: competes_at(
                self._model, rows, self._counts.seen(rows)
            ),
        }

    def assign(self):
        """Makes the counts with this batch the model's."""
        values = self._counts.after(wait=True)
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)


class _CountsElsewhere:
    """The same on other backends, which do not train but evaluate."""

    def __init__(self, model, rows, weights):
        self._model = model
        real = ops.logical_and(weights != 0, rows >= 0)
        self._after = model.candidate_counts + ops.segment_sum(
            ops.reshape(ops.cast(real, "int32"), (-1,)),
            ops.reshape(ops.maximum(rows, 0), (-1,)),
            num_segments=model.num_candidates,
        )

    def after(self):
        return self._after

    def of_some_rows(self) -> dict:
        return {}

    def assign(self):
        self._model.candidate_counts.assign(self._after)
