"""RetrievalHyperModel: one trial of a search, on all devices."""

import copy
from collections.abc import Sequence

import keras
import keras_tuner

from keras_dp_retrieval import _checks, distribution, losses
from keras_dp_retrieval.callbacks import (
    DistributionAwareCallback,
    RetrievalMetrics,
)
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.tuning.progress import EpochHooks, TrialProgress
from keras_dp_retrieval.tuning.stopping import MedianStopping


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RetrievalHyperModel(keras_tuner.HyperModel):
    """Models for a KerasTuner search in which every trial uses all devices.

    KerasTuner clears Keras' state before it builds a model, and with it the
    distribution: every trial then trains on one device, without a word. This
    one sets the distribution in every trial and looks where the weights are:
    on other devices than asked for, the search ends with an error.

    A trial trains on `data.train`, is measured by `RetrievalMetrics` and
    `DistributionAwareCallback`, and is written down after every epoch: killed
    and started again, it goes on and ends as it would have ended. For that,
    use a tuner with `overwrite=False` and one execution per trial.

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
    of tuner, stops hopeless trials, and draws up the results.

    To search over a model of your own, override `make_model`.

    Args:
        data: `RetrievalDataset`, or one of its children.
        embedding_dimension: ints to choose from, or an int.
        learning_rate: Two numbers are the ends of a range, sampled
            logarithmically; more are to choose from; a number is fixed.
        temperature: Optional, likewise: of a softmax objective.
        weight_decay: Optional, likewise: of the optimizer.
        model_objective: What the model learns, as in `TwoTowerRetrieval`: a
            name, or several to choose from, by the name of `objective`.
        optimizer: str. Name of a Keras optimizer.
        steps_per_execution: int. As in `compile`.
        ks: ints. Lengths of the lists that are measured.
        devices: Optional list of device names; all devices by default.
        seed: int, or None to leave the trials to chance.
    """

    def __init__(
        self,
        data,
        *,
        embedding_dimension: int | Sequence[int] = (16, 32, 64, 128),
        learning_rate: float | Sequence[float] = (1e-3, 1.0),
        temperature: float | Sequence[float] | None = None,
        weight_decay: float | Sequence[float] | None = None,
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
        self.data = _checks.instance("data", data, RetrievalDataset)
        self.embedding_dimension = [
            _checks.positive_int("embedding_dimension", value)
            for value in _listed("embedding_dimension", embedding_dimension)
        ]
        self.learning_rate = _positive("learning_rate", learning_rate)
        self.temperature = _positive("temperature", temperature)
        self.weight_decay = _positive("weight_decay", weight_decay)
        self.model_objective = _objectives(model_objective, data, temperature)
        self.optimizer = _checks.text("optimizer", optimizer)
        self.steps_per_execution = _checks.positive_int(
            "steps_per_execution", steps_per_execution
        )
        self.ks = [_checks.positive_int("ks", k) for k in _listed("ks", ks)]
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
        """Returns a model, built and compiled; override it for your own."""
        dimension = hp.Choice("embedding_dimension", self.embedding_dimension)
        options = {"learning_rate": _number(hp, "learning_rate", self)}
        if self.weight_decay is not None:
            options["weight_decay"] = _number(hp, "weight_decay", self)
        model = TwoTowerRetrieval.for_dataset(
            self.data, dimension, objective=self._make_objective(hp)
        )
        model.build((None,))
        model.compile(
            optimizer=keras.optimizers.get(
                {"class_name": self.optimizer, "config": options}
            ),
            steps_per_execution=self.steps_per_execution,
        )
        return model

    def _make_objective(self, hp):
        name = self.model_objective
        if not isinstance(name, str):
            name = hp.Choice("objective", name)
        if self.temperature is None:
            return name
        temperature = _number(hp, "temperature", self)
        return losses.OBJECTIVES[name](temperature=temperature)

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
        hook = _tuner_hook(callbacks)
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
        _tell_best(others, progress.epochs)
        hooks = EpochHooks(hook.tuner, hook.trial)
        first = [throughput, self._retrieval_metrics()]
        return [*first, *others, hooks, progress], progress

    def _retrieval_metrics(self) -> RetrievalMetrics:
        if self._metrics is None:
            self._metrics = RetrievalMetrics(self.data, self.ks)
        return copy.deepcopy(self._metrics)

    # Devices

    def check_devices(self, model) -> int:
        """Returns how many devices a model is on.

        Raises:
            keras_tuner.errors.FatalRuntimeError: If they are not those asked
                for, or a batch would not be divided over them; it ends the
                search.
        """
        from keras_dp_retrieval._jax import devices

        in_force = distribution.num_devices()
        variables = [*model.variables, *model.optimizer.variables]
        counts = {devices.devices_of(v.value)[1] for v in variables}
        if counts | {in_force} != {len(self._wanted)}:
            raise keras_tuner.errors.FatalRuntimeError(
                f"A trial must run on {len(self._wanted)} devices: "
                f"{', '.join(self._wanted)}. Received: a model with variables "
                f"on {sorted(counts)} devices, and batches for {in_force}. "
                "KerasTuner clears the distribution before it builds a model; "
                "it must be set in `build`, before the model is made."
            )
        return in_force

    # For the reader

    def snippet(self, values: dict, epochs: int) -> str:
        """Returns Python code that makes and trains one model again.

        Args:
            values: dict. Values of the hyperparameters.
            epochs: int.
        """
        if type(self).make_model is not RetrievalHyperModel.make_model:
            return (
                "import keras_tuner\n\n"
                f"hypermodel = ...  # {type(self).__name__}, seed={self.seed}\n"
                "hp = keras_tuner.HyperParameters()\n"
                f"hp.values.update({values!r})\n"
                "model = hypermodel.build(hp)\n"
                f"model.fit(hypermodel.data.train, epochs={epochs})\n"
            )
        objective = values.get("objective", self.model_objective)
        shown = f'"{objective}"'
        if "temperature" in values:
            kind = type(losses.get(objective)).__name__
            shown = f"kdr.{kind}(temperature={values['temperature']!r})"
        options = f"learning_rate={values['learning_rate']!r}"
        if "weight_decay" in values:
            options += f", weight_decay={values['weight_decay']!r}"
        kind = type(keras.optimizers.get(self.optimizer)).__name__
        seed = ""
        if self.seed is not None:
            seed = f"keras.utils.set_random_seed({self.seed})\n"
        return (
            "import keras\n"
            "import keras_dp_retrieval as kdr\n\n"
            f"data = ...  # {self.data!r}\n"
            f"{seed}"
            "kdr.data_parallel()\n"
            "model = kdr.TwoTowerRetrieval.for_dataset(\n"
            f"    data, {values['embedding_dimension']}, objective={shown}\n"
            ")\n"
            "model.compile(\n"
            f"    optimizer=keras.optimizers.{kind}({options}),\n"
            f"    steps_per_execution={self.steps_per_execution},\n"
            ")\n"
            f"model.fit(data.train, epochs={epochs})\n"
        )


def _listed(name: str, value) -> list:
    values = list(value) if isinstance(value, Sequence) else [value]
    if not values:
        raise ValueError(
            f"`{name}` must have a value to choose. Received: none."
        )
    return values


def _positive(name: str, value) -> list[float] | None:
    if value is None:
        return None
    return [
        _checks.number_between(name, number, 0, open_low=True)
        for number in _listed(name, value)
    ]


def _objectives(given, data, temperature):
    """One name, or a list of names."""
    given = [given] if isinstance(given, str) else given
    names = [
        losses.default_name(data.num_candidates)
        if isinstance(name, str) and name == "auto"
        else name
        for name in _listed("model_objective", given)
    ]
    for name in names:
        _checks.one_of("model_objective", name, losses.OBJECTIVES)
        if temperature is not None and not hasattr(
            losses.get(name), "temperature"
        ):
            raise ValueError(
                "`temperature` belongs to the softmax objectives. Received: "
                f"temperature={temperature} with model_objective={name!r}."
            )
    return names[0] if len(names) == 1 else names


def _number(hp, name: str, hypermodel) -> float:
    values = getattr(hypermodel, name)
    if len(values) == 1:
        return hp.Fixed(name, values[0])
    if len(values) > 2:
        return hp.Choice(name, values)
    low, high = values
    return hp.Float(name, low, high, sampling="log")


def _tuner_hook(callbacks):
    """The callback by which KerasTuner hears of epochs."""
    for callback in callbacks:
        if hasattr(callback, "tuner") and hasattr(callback, "trial"):
            return callback
    raise ValueError(
        "`fit` must be called by a KerasTuner tuner, which hands over its own "
        "callbacks. Received: none of them."
    )


def _check_objective(objective, history):
    if not objective.has_value(history):
        raise keras_tuner.errors.FatalValueError(
            f"The logs of `fit` must have the objective {objective.name!r}. "
            f"Received: {', '.join(history)}. `ks` are the lengths of the "
            "lists that are measured."
        )


def _tell_best(callbacks, epochs):
    """Tells what keeps the best epoch how good the past ones were.

    It would take the first epoch after a restart for the best, and overwrite
    the weights of the one that was.
    """
    for callback in callbacks:
        if not hasattr(callback, "best_value"):
            continue
        objective = callback.objective
        values = [
            objective.get_value(past["logs"])
            for past in epochs
            if objective.has_value(past["logs"])
        ]
        best = max if objective.direction == "max" else min
        callback.best_value = best([callback.best_value, *values])
