"""What a model knows of each candidate: is it in training, may it be shown?

The states are `model.absent_candidates`, int8 `(num_candidates,)`.
"""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval._keras.variables import Derived

# Training has the candidate, or at least nobody said that it has not; training
# does not have it; or it does not, but a vector was given.
PRESENT, ABSENT, ABSENT_WITH_VECTOR = 0, 1, 2


def initial_states(shape, dtype=None):
    """All candidates may be in training; row 0 stands for unknown ones."""
    return ops.cast(ops.arange(shape[0]) == 0, dtype)  # PRESENT and ABSENT.


def add_counts(model):
    """Adds the weight that counts the positives of training."""
    return model.add_weight(
        shape=(model.num_candidates,),
        dtype="int32",
        initializer="zeros",
        trainable=False,
        name="candidate_counts",
    )


def counts_sum(model) -> list:
    """The variables that follow from the counts: their sum, or none.

    It is no weight and in no file. Only steps on JAX need it.
    """
    if keras.backend.backend() != "jax":
        return []
    from keras_dp_retrieval._jax.counts import sum_of

    return [
        Derived(
            model.candidate_counts,
            sum_of,
            shape=(2,),
            dtype="int32",
            name="candidate_counts_sum",
        )
    ]


def add_states(model):
    """Adds the weight that holds the states."""
    return model.add_weight(
        shape=(model.num_candidates,),
        dtype="int8",
        initializer=initial_states,
        trainable=False,
        name="absent_candidates",
    )


def states_of(data) -> np.ndarray:
    """The states for a data set, `(num_candidates,)`: who is in train?"""
    is_absent = np.asarray(data.candidate_counts("train")) == 0
    return np.where(is_absent, ABSENT, PRESENT).astype("int8")


def competes(model, counts):
    """Which candidates are in training, by those counts.

    Args:
        model: `TwoTowerRetrieval`.
        counts: int `(num_candidates,)`: how often each was a positive.

    Returns:
        bool tensor `(num_candidates,)`.
    """
    return ops.logical_or(model.absent_candidates == PRESENT, counts > 0)


def competes_at(model, rows, was_seen):
    """The same for some rows alone, of which `was_seen` says `counts > 0`."""
    states = ops.take(model.absent_candidates, rows)
    return ops.logical_or(states == PRESENT, was_seen)


def retrievable(model):
    """Whose vector is more than noise, bool tensor `(num_candidates,)`.

    Ids that start at 1 leave row 0 untrained under every tower.
    """
    trained = competes(model, model.candidate_counts)
    if model.candidate_features is not None:
        known = model.candidate_features.is_known > 0
    elif knows_ids_alone(model.candidate_tower):
        known = model.absent_candidates == ABSENT_WITH_VECTOR
    else:
        known = ops.arange(model.num_candidates) > 0
    return ops.logical_or(trained, known)


def retrievable_rows(model) -> np.ndarray:
    """Table rows, int32, rising: those with an id, if there are ids.

    Row 0 stands for candidates that nobody knows. It may have been trained on
    all the same.
    """
    rows = np.flatnonzero(model.retrievable_mask()).astype("int32")
    if model.candidate_vocabulary is None:
        return rows
    return rows[(rows > 0) & (rows < model.candidate_vocabulary.num_rows)]


def knows_ids_alone(tower) -> bool:
    """Whether a tower can say nothing of an untrained id."""
    while isinstance(tower, keras.Sequential) and tower.layers:
        tower = tower.layers[0]
    return isinstance(tower, keras.layers.Embedding)
