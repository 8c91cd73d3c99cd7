"""Small runs that are stopped and go on, by exception or by SIGKILL.

`fit(...)` is the program of a user: it makes everything anew, so that a second
call is what a second process would do.
"""

import hashlib
import os
import signal

import keras
import numpy as np

import keras_dp_retrieval as kdr

OBJECTIVES = ("rating", "full_softmax", "in_batch_softmax")
TOWERS = ("id", "id_history", "recency", "sequence", "features")


def interactions(num_rows=150):
    rng = np.random.default_rng(0)
    return {
        "user_id": rng.integers(1, 21, num_rows),
        "candidate_id": rng.integers(1, 16, num_rows),
        "rating": rng.integers(1, 6, num_rows).astype("float32"),
        "timestamp": rng.integers(0, 90, num_rows),
    }


FEATURES = {
    "candidate_features": {
        "candidate_id": range(1, 16),
        "kind": list("abc") * 5,
    },
    "user_features": {"user_id": range(1, 21), "age": [*range(20, 40)]},
}


def in_memory(features=False, **options):
    if features:
        options |= FEATURES
    columns = interactions()
    return kdr.RetrievalDataset.from_interactions(
        columns["user_id"],
        columns["candidate_id"],
        columns["rating"],
        columns["timestamp"],
        **{"batch_size": 10, "split": "by_time", **options},
    )


def as_arrays(data):
    """The train part as `x` and `y` of `fit`."""
    part = data.ratings("train")
    return part.user_rows, {
        "candidate_id": part.candidate_rows,
        "rating": part.ratings / 5,
    }


def tower_of(name, data):
    if name == "id_history":
        return kdr.IdHistoryTower(data.num_users, data.num_candidates, 4)
    if name == "recency":
        return kdr.RecencyTower(data.num_candidates, 4)
    if name == "sequence":
        return kdr.SequenceTower(data.num_candidates, 4, max_length=5)
    if name == "features":
        return kdr.FeatureTower(data.user_features, 4, hidden=(3,))
    return None


def model_of(data, objective="full_softmax", tower="id", fused=1, **options):
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        4,
        objective=objective,
        user_tower=tower_of(tower, data),
        candidate_tower=None
        if tower != "features"
        else kdr.FeatureTower(data.candidate_features, 4),
        **options,
    )
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.05, 60)),
        steps_per_execution=fused,
    )
    return model


def digest_of(model) -> str:
    """A text for every bit that training leaves behind."""
    found = hashlib.sha256()
    for variable in (*model.variables, *model.optimizer.variables):
        found.update(keras.ops.convert_to_numpy(variable.value).tobytes())
    return found.hexdigest()


class Stop(keras.callbacks.Callback):
    """Raises before a step of an epoch, or from the next one on."""

    def __init__(self, epoch, step):
        super().__init__()
        self._at, self._until = (epoch, step), (1000, 0)

    def until(self, epoch, step):
        """Returns it; from there on it lets training go on."""
        self._until = epoch, step
        return self

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self._at <= (self._epoch, batch) < self._until:
            self.stop()

    def stop(self):
        raise Stopped


class Stopped(Exception):
    pass


class Terminate(Stop):
    """Has the process told to end, as a scheduler does."""

    def stop(self):
        os.kill(os.getpid(), signal.SIGTERM)
