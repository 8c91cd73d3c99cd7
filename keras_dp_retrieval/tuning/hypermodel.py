"""RetrievalHyperModel: one trial of a search, on all devices."""

import copy
from collections.abc import Sequence

import keras
import keras_tuner

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.callbacks import (
    DistributionAwareCallback,
    RetrievalMetrics,
)
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.streaming.not_in_memory import refuse_streamed
from keras_dp_retrieval.tuning import (
    _keras_tuner,
    ranges,
    snippets,
    trial_devices,
    trial_models,
)
from keras_dp_retrieval.tuning.progress import EpochHooks, TrialProgress
from keras_dp_retrieval.tuning.stopping import MedianStopping


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RetrievalHyperModel(keras_tuner.HyperModel):
    """Models for a KerasTuner search in which every trial uses all devices.

    KerasTuner clears Keras' state before it builds a model, and with it the
    distribution: every trial then silently trains on one device. This one sets
    the distribution in every trial and checks on which devices the weights
    are; if not on those asked for, the search ends with an error.

    A trial trains on `data.train`, is measured by `RetrievalMetrics` and
    `DistributionAwareCallback`, and is saved after every epoch: killed and
    started again, it continues and ends as if it had not been killed. For
    that, use a tuner with `overwrite=False` and one execution per trial.

    Every trial starts from the same seed, so that trials differ by their
    hyperparameters alone, and the best one can be trained again.

    Example:

    ```python
    tuner = keras_tuner.RandomSearch(
        kdr.RetrievalHyperModel(data),
        objective=keras_tuner.Objective("val_ndcg_at_10", "max"),
        max_trials=12,
        seed=1,
    )
    tuner.search(epochs=20)
    ```

    `keras_dp_retrieval.search` does more: it resumes exactly with every kind
    of tuner, stops trials that fall behind, and reports the results.

    To search over a model of your own, override `make_model`.

    Args:
        data: `RetrievalDataset`, or an instance of a subclass.
        embedding_dimension: ints to choose from, or an int.
        learning_rate: Two numbers are the ends of a range, sampled
            logarithmically; more are to choose from; a number is fixed.
        temperature: Optional, likewise: of a softmax objective.
        weight_decay: Optional, likewise: of the optimizer.
        hidden_width: Optional ints to choose from, or an int: of data with
            features, the width of the hidden layers of both towers. By
            default they have none.
        num_hidden_layers: Optional, likewise: how many such layers; 0 is a
            number, too. By default one.
        id_dropout: Optional. Of data with features, the `id_dropout` of both
            towers. Two numbers are the ends of a range, more are to choose
            from; a number is fixed.
        model_objective: str or strs. The model's `objective`, as in
            `TwoTowerRetrieval`; of several, each trial gets one, as the
            hyperparameter `objective`.
        optimizer: str. Name of a Keras optimizer.
        steps_per_execution: int. As in `compile`.
        ks: ints. Lengths of the lists that are measured.
        devices: Optional list of device names; all devices by default.
        seed: int, or None for trials that are not reproducible.
    """

    def __init__(
        self,
        data,
        *,
        embedding_dimension: int | Sequence[int] = (16, 32, 64, 128),
        learning_rate: float | Sequence[float] = (1e-3, 1.0),
        temperature: float | Sequence[float] | None = None,
        weight_decay: float | Sequence[float] | None = None,
        hidden_width: int | Sequence[int] | None = None,
        num_hidden_layers: int | Sequence[int] | None = None,
        id_dropout: float | Sequence[float] | None = None,
        model_objective: str | Sequence[str] = "auto",
        optimizer: str = "adagrad",
        steps_per_execution: int = 1,
        ks: Sequence[int] = (10,),
        devices: Sequence[str] | None = None,
        seed: int | None = 0,
        name: str | None = None,
        tunable: bool = True,
    ):
        super().__init__(name=name, tunable=tunable)
        refuse_streamed("`RetrievalHyperModel`", data)
        self.data = _checks.instance("data", data, RetrievalDataset)
        self.embedding_dimension = ranges.positive_ints(
            "embedding_dimension", embedding_dimension
        )
        self.learning_rate = ranges.positive_numbers(
            "learning_rate", learning_rate
        )
        self.temperature = ranges.positive_numbers("temperature", temperature)
        self.weight_decay = ranges.positive_numbers(
            "weight_decay", weight_decay
        )
        self.hidden_width = ranges.optional_positive_ints(
            "hidden_width", hidden_width
        )
        self.num_hidden_layers = ranges.non_negative_ints(
            "num_hidden_layers", num_hidden_layers
        )
        self.id_dropout = ranges.shares("id_dropout", id_dropout)
        trial_models.check_features_can_be_searched(
            data,
            hidden_width=hidden_width,
            num_hidden_layers=num_hidden_layers,
            id_dropout=id_dropout,
        )
        self.model_objective = ranges.objectives(
            model_objective, data, temperature
        )
        self.optimizer = _checks.text("optimizer", optimizer)
        self.steps_per_execution = _checks.positive_int(
            "steps_per_execution", steps_per_execution
        )
        self.ks = ranges.positive_ints("ks", ks)
        distribution.require_jax("`RetrievalHyperModel`")
        self.devices = (
            None if devices is None else _checks.texts("devices", devices)
        )
        self._wanted = self.devices or distribution.device_names()
        self.seed = _checks.seed("seed", seed)
        self._metrics: RetrievalMetrics | None = None

    def get_config(self):
        data = keras.saving.serialize_keras_object(self.data)
        return {"data": data, **self.get_settings()}

    def get_settings(self) -> dict:
        """The config without the data, which may be large."""
        return {
            "embedding_dimension": self.embedding_dimension,
            "learning_rate": self.learning_rate,
            "temperature": self.temperature,
            "weight_decay": self.weight_decay,
            "hidden_width": self.hidden_width,
            "num_hidden_layers": self.num_hidden_layers,
            "id_dropout": self.id_dropout,
            "model_objective": self.model_objective,
            "optimizer": self.optimizer,
            "steps_per_execution": self.steps_per_execution,
            "ks": self.ks,
            "devices": self.devices,
            "seed": self.seed,
            "name": self.name,
            "tunable": self.tunable,
        }

    @classmethod
    def from_config(cls, config):
        data = keras.saving.deserialize_keras_object(config["data"])
        return cls(**{**config, "data": data})

    # What KerasTuner calls

    def build(self, hp):
        """Returns a compiled model whose weights are on all devices."""
        if self.seed is not None:
            keras.utils.set_random_seed(self.seed)
        distribution.data_parallel(self.devices)
        model = self.make_model(hp)
        if not model.built:
            raise keras_tuner.errors.FatalValueError(
                "`make_model` must return a model that is built, so that its "
                f"weights can be restored. Received: {model.name!r}, which is "
                "not."
            )
        # Otherwise weights are loaded without the optimizer's state.
        model.optimizer.build(model.trainable_variables)
        self.check_devices(model)
        return model

    def make_model(self, hp):
        """Returns a model, built and compiled; override it for your own.

        Args:
            hp: `keras_tuner.HyperParameters` of the trial.
        """
        return trial_models.two_towers(self, hp)

    def fit(
        self,
        hp,
        model,
        *args,
        callbacks=(),
        epochs=1,
        initial_epoch=0,
        verbose=0,
        **kwargs,
    ):
        """Trains one trial, or what is left of it; returns its `History`."""
        self.check_devices(model)
        hook = _keras_tuner.trial_hook(callbacks)
        callbacks, progress = self._callbacks(hp, callbacks, hook, epochs)
        if progress.finished:
            return progress.history()
        progress.restore(model)
        if progress.epochs:
            initial_epoch = progress.epochs[-1]["epoch"] + 1
        self.data.start_at_epoch(initial_epoch)
        if not args and "x" not in kwargs:
            kwargs["x"] = self.data.train
        model.fit(
            *args,
            callbacks=callbacks,
            epochs=epochs,
            initial_epoch=initial_epoch,
            verbose=verbose,
            **kwargs,
        )
        history = progress.history()
        _check_objective(hook.tuner.oracle.objective, history.history)
        return history

    def _callbacks(self, hp, given, hook, epochs):
        """Returns all callbacks of a trial, and the last of them apart."""
        from keras_dp_retrieval._jax import compilation

        others = [c for c in given if c is not hook]
        folder = hook.tuner.get_trial_dir(hook.trial.trial_id)
        throughput = DistributionAwareCallback(log_dir=folder)
        progress = TrialProgress(
            folder,
            {"values": hp.values, "seed": self.seed, "epochs": epochs},
            throughput=throughput,
            deciders=[
                c
                for c in others
                if isinstance(c, keras.callbacks.EarlyStopping | MedianStopping)
            ],
            devices=self.check_devices,
            compiled=compilation.seconds,
        )
        _keras_tuner.restore_best_value(others, progress.epochs)
        hooks = EpochHooks(hook.tuner, hook.trial)
        first = [throughput, self._retrieval_metrics()]
        return [*first, *others, hooks, progress], progress

    def _retrieval_metrics(self) -> RetrievalMetrics:
        if self._metrics is None:
            self._metrics = RetrievalMetrics(self.data, self.ks)
        return copy.deepcopy(self._metrics)

    # Devices

    def check_devices(self, model) -> int:
        """Returns the number of devices that a model's variables are on.

        Raises:
            keras_tuner.errors.FatalRuntimeError: If it differs from the number
                of `devices`, or from the number that a batch is divided over.
                The error ends the search.
        """
        return trial_devices.check(model, self._wanted)

    # For the reader

    def snippet(self, values: dict, epochs: int) -> str:
        """Returns Python code that makes and trains one model again.

        Args:
            values: dict. Values of the hyperparameters.
            epochs: int.
        """
        own = type(self).make_model is not RetrievalHyperModel.make_model
        make = snippets.of_own_model if own else snippets.of_two_towers
        return make(self, values, epochs)


def _check_objective(objective, history):
    if not objective.has_value(history):
        raise keras_tuner.errors.FatalValueError(
            f"The logs of `fit` must have the objective {objective.name!r}. "
            f"Received: {', '.join(history)}. `ks` are the lengths of the "
            "lists that are measured."
        )
