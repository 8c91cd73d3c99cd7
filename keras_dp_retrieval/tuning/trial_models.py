"""The model of one trial: two towers, with what the trial has chosen."""

import contextlib

import keras

from keras_dp_retrieval import losses
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.towers import FeatureTower
from keras_dp_retrieval.tuning import ranges

SIDES = ("user", "candidate")


def sides_with_features(data) -> list[str]:
    """Which of users and candidates have features."""
    return [s for s in SIDES if getattr(data, f"{s}_features") is not None]


def check_features_can_be_searched(data, **searched) -> None:
    """Raises a ValueError if options of feature towers are of no use.

    Args:
        data: `RetrievalDataset`.
        **searched: `hidden_width`, `num_hidden_layers` and `id_dropout`;
            None where it is not searched.
    """
    given = [name for name, value in searched.items() if value is not None]
    if given and not sides_with_features(data):
        raise ValueError(
            f"`{given[0]}` belongs to the towers of data with features. "
            f"Received: {given[0]}={searched[given[0]]} and data without. "
            "Make them with `user_features=...` or `candidate_features=...`."
        )
    if "num_hidden_layers" in given and "hidden_width" not in given:
        raise ValueError(
            "`num_hidden_layers` needs the width of the layers. Received: "
            f"num_hidden_layers={searched['num_hidden_layers']} alone. Add "
            "such as `hidden_width=(32, 64, 128)`."
        )


def two_towers(hypermodel, hp) -> TwoTowerRetrieval:
    """Returns the `TwoTowerRetrieval` of a trial, built and compiled.

    Args:
        hypermodel: `RetrievalHyperModel`.
        hp: `keras_tuner.HyperParameters` of the trial.
    """
    dimension = hp.Choice("embedding_dimension", hypermodel.embedding_dimension)
    options = {
        "learning_rate": ranges.sample(
            hp, "learning_rate", hypermodel.learning_rate
        )
    }
    if hypermodel.weight_decay is not None:
        options["weight_decay"] = ranges.sample(
            hp, "weight_decay", hypermodel.weight_decay
        )
    objective = _objective(hypermodel, hp)
    model = TwoTowerRetrieval.for_dataset(
        hypermodel.data,
        dimension,
        objective=objective,
        **_feature_towers(hypermodel, hp, dimension),
    )
    model.build((None,))
    model.compile(
        optimizer=keras.optimizers.get(
            {"class_name": hypermodel.optimizer, "config": options}
        ),
        steps_per_execution=hypermodel.steps_per_execution,
    )
    return model


def _objective(hypermodel, hp):
    name = hypermodel.model_objective
    if not isinstance(name, str):
        name = hp.Choice("objective", name)
    if hypermodel.temperature is None:
        return name
    temperature = ranges.sample(hp, "temperature", hypermodel.temperature)
    return losses.OBJECTIVES[name](temperature=temperature)


def _feature_towers(hypermodel, hp, dimension) -> dict:
    """The towers of a trial, if anything of theirs is searched."""
    chosen = _hidden_layers(hypermodel, hp)
    if hypermodel.id_dropout is not None:
        chosen["id_dropout"] = ranges.sample(
            hp, "id_dropout", hypermodel.id_dropout, sampling="linear"
        )
    options = tower_options(chosen)
    if not options:
        return {}
    data = hypermodel.data
    return {
        f"{side}_tower": FeatureTower(
            getattr(data, f"{side}_features"),
            dimension,
            **options,
            name=f"{side}_tower",
        )
        for side in sides_with_features(data)
    }


def _hidden_layers(hypermodel, hp) -> dict:
    """Number and width of the hidden layers that a trial has chosen."""
    widths, numbers = hypermodel.hidden_width, hypermodel.num_hidden_layers
    if widths is None:
        return {}
    if numbers is None:
        return {"hidden_width": hp.Choice("hidden_width", widths)}
    number = hp.Choice("num_hidden_layers", numbers)
    # Without layers there is no width that could matter: None.
    some = [one for one in numbers if one]
    scope = hp.conditional_scope("num_hidden_layers", some)
    with scope if 0 in numbers else contextlib.nullcontext():
        width = hp.Choice("hidden_width", widths)
    return {"num_hidden_layers": number, "hidden_width": width}


def tower_options(values: dict) -> dict:
    """The arguments of `FeatureTower` that a trial has chosen.

    Args:
        values: dict. Values of the hyperparameters.
    """
    options = {}
    width = values.get("hidden_width")
    if width is not None or "num_hidden_layers" in values:
        options["hidden"] = (width,) * values.get("num_hidden_layers", 1)
    if "id_dropout" in values:
        options["id_dropout"] = values["id_dropout"]
    return options
