"""Full-catalogue ranking metrics as logs of `fit`."""

import copy
from collections.abc import Callable, Sequence

import keras

from keras_dp_retrieval import _checks, metrics
from keras_dp_retrieval.data.sampled_users import of_some_users

# Keras' own prefix of what was measured on validation data.
PREFIXES = {"validation": "val_", "test": "test_", "train": "train_"}


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RetrievalMetrics(keras.callbacks.Callback):
    """Adds exact full-catalogue metrics to the logs of `fit`.

    At the end of an epoch all candidates are ranked for every user of the
    split, as in `keras_dp_retrieval.evaluate`, and the epoch's logs get
    `val_recall_at_10`, `val_ndcg_at_10` and so on, as floats. Callbacks later
    in the list see them, so put `EarlyStopping`, `ModelCheckpoint` and
    `CSVLogger` after this one. `History`, the progress bar and KerasTuner see
    them anyway; for KerasTuner name the direction:
    `keras_tuner.Objective("val_recall_at_10", "max")`.

    The callback has no hook on batches: one that has makes Keras wait for the
    device after every step.

    A copy of the callback (KerasTuner takes a deep copy for each trial) shares
    the data set.

    Example:

    ```python
    model.fit(
        data.train,
        epochs=50,
        callbacks=[
            kdr.RetrievalMetrics(data, ks=(10,)),
            keras.callbacks.EarlyStopping(
                "val_ndcg_at_10", mode="max", patience=3
            ),
        ],
    )
    ```

    In the `fit` of a model of your own, name its vectors, and make the data of
    the batches it is trained on:

    ```python
    data = kdr.RetrievalDataset.from_batches(
        train_ratings, validation=test_ratings
    )
    kdr.RetrievalMetrics(
        data,
        vectors=lambda model: (
            model.user_embedding,
            model.candidate_embedding.embeddings,
        ),
    )
    ```

    Args:
        data: The data set, as `keras_dp_retrieval.evaluate` takes it.
        ks: ints. Lengths of the lists.
        split: str. `"validation"`, or `"test"` or `"train"`, whose log names
            begin with `test_` and `train_` instead of `val_`. Choosing a model
            by the test part makes its test figures too good.
        every: int. The first and the last epoch are evaluated, and between
            them every `every`-th. The logs of other epochs lack these keys.
        vectors: Optional function of the model that returns
            `(encode_users, candidate_vectors)`, for a model without the
            methods that `evaluate` needs.
        max_users: Optional int. Evaluates so many users at most, the same in
            every epoch. Streamed data needs it.
        seed: int. Of their draw.
        cold: bool. Whether to add `val_cold_candidates_recall_at_10` and the
            other figures of warm and cold users and candidates, as `evaluate`
            does. They are NaN where the split has none.

    Raises:
        ValueError: If the data has no ratings in that split.
        TypeError: When `fit` begins, if the model has no such methods and
            there is no `vectors`.
    """

    def __init__(
        self,
        data,
        ks: Sequence[int] = (10, 20),
        *,
        split: str = "validation",
        every: int = 1,
        vectors: Callable | None = None,
        max_users: int | None = None,
        seed: int = 0,
        cold: bool = False,
    ):
        super().__init__()
        self.data = data
        self.split = _checks.one_of("split", split, PREFIXES)
        self.every = _checks.positive_int("every", every)
        metrics.check_function(vectors)
        self.vectors = vectors
        self.max_users, self.seed = max_users, seed
        metrics.check_data(data)
        self._task = metrics.RankingTask.prepare(
            of_some_users(data, split, max_users, seed), split, ks, cold=cold
        )
        self.ks, self.cold = self._task.ks, cold

    def on_train_begin(self, logs=None):
        # Not at the end of the first epoch, which may take hours.
        metrics.check_protocol(self.model, self.vectors)

    def on_epoch_end(self, epoch, logs=None):
        if logs is None or not self._is_due(epoch):
            return
        results = self._task.run(self.model, self.vectors)
        prefix = PREFIXES[self.split]
        logs.update(
            {
                prefix + name: value
                for name, value in results.items()
                # Counts, not metrics: the same in every epoch.
                if not name.startswith("num_")
            }
        )

    def _is_due(self, epoch: int) -> bool:
        # The first epoch is always among them: `CSVLogger` drops every key
        # that it has not met there.
        is_last = epoch + 1 == self.params.get("epochs")
        return is_last or epoch % self.every == 0

    def __deepcopy__(self, memo):
        copied = copy.copy(self)
        memo[id(self)] = copied
        copied.set_model(None)
        return copied

    def get_config(self):
        vectors = self.vectors
        if vectors is not None:
            vectors = keras.saving.serialize_keras_object(vectors)
        return {
            "data": keras.saving.serialize_keras_object(self.data),
            "ks": list(self.ks),
            "split": self.split,
            "every": self.every,
            "max_users": self.max_users,
            "seed": self.seed,
            "cold": self.cold,
            "vectors": vectors,
        }

    @classmethod
    def from_config(cls, config):
        restored = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("data", "vectors")
            if config.get(name) is not None
        }
        return cls(**{**config, **restored})
