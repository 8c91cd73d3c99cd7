"""Python code that makes and trains the best model of a search again."""

import keras

from keras_dp_retrieval import losses
from keras_dp_retrieval.tuning import trial_models


def of_own_model(hypermodel, values: dict, epochs: int) -> str:
    """Of a hypermodel with a `make_model` of its own."""
    return (
        "import keras_tuner\n\n"
        f"hypermodel = ...  # {type(hypermodel).__name__}, "
        f"seed={hypermodel.seed}\n"
        "hp = keras_tuner.HyperParameters()\n"
        f"hp.values.update({values!r})\n"
        "model = hypermodel.build(hp)\n"
        f"model.fit(hypermodel.data.train, epochs={epochs})\n"
    )


def of_two_towers(hypermodel, values: dict, epochs: int) -> str:
    """Of the `TwoTowerRetrieval` that a `RetrievalHyperModel` makes."""
    seed = ""
    if hypermodel.seed is not None:
        seed = f"keras.utils.set_random_seed({hypermodel.seed})\n"
    return (
        "import keras\n"
        "import keras_dp_retrieval as kdr\n\n"
        f"data = ...  # {hypermodel.data!r}\n"
        f"{seed}"
        "kdr.data_parallel()\n"
        "model = kdr.TwoTowerRetrieval.for_dataset(\n"
        f"    data, {values['embedding_dimension']}, "
        f"objective={_objective(hypermodel, values)}"
        f"{_towers(hypermodel, values)}\n"
        ")\n"
        "model.compile(\n"
        f"    optimizer={_optimizer(hypermodel, values)},\n"
        f"    steps_per_execution={hypermodel.steps_per_execution},\n"
        ")\n"
        f"model.fit(data.train, epochs={epochs})\n"
    )


def _towers(hypermodel, values) -> str:
    """Those that are not the default, in lines of their own."""
    options = trial_models.tower_options(values)
    if not options:
        return ""
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return "".join(
        f",\n    {side}_tower=kdr.FeatureTower(\n"
        f"        data.{side}_features, {values['embedding_dimension']}, "
        f"{shown}\n    )"
        for side in trial_models.sides_with_features(hypermodel.data)
    )


def _objective(hypermodel, values) -> str:
    name = values.get("objective", hypermodel.model_objective)
    if "temperature" not in values:
        return f'"{name}"'
    kind = type(losses.get(name)).__name__
    return f"kdr.{kind}(temperature={values['temperature']!r})"


def _optimizer(hypermodel, values) -> str:
    options = f"learning_rate={values['learning_rate']!r}"
    if "weight_decay" in values:
        options += f", weight_decay={values['weight_decay']!r}"
    kind = type(keras.optimizers.get(hypermodel.optimizer)).__name__
    return f"keras.optimizers.{kind}({options})"
