"""Features as parts of a model: which it has, and whether towers take them."""

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.model.candidate_states import knows_ids_alone
from keras_dp_retrieval.towers import FeatureLookup, FeatureTower, HistoryTower


def lookup(side: str, given):
    """The lookup of features that is given; None gives None."""
    if given is None:
        return None
    return _checks.instance(f"{side}_features", given, FeatureLookup)


def known_features(data, given) -> dict:
    """The features of a data set, for those towers that take them.

    Args:
        data: A data set.
        given: dict. The arguments of the model that are given.
    """
    found = {}
    for side in ("user", "candidate"):
        features = getattr(data, f"{side}_features", None)
        if features is None:
            continue
        tower = given.get(f"{side}_tower")
        if tower is None or not _takes_ids_alone(tower, features):
            found[f"{side}_features"] = FeatureLookup.from_features(features)
    return found


def _takes_ids_alone(tower, features) -> bool:
    """Whether a tower has no use for features: it takes ids, or histories."""
    if isinstance(tower, HistoryTower) or knows_ids_alone(tower):
        return True
    # A functional model with one input, which is called as no column is.
    only = getattr(tower, "input", None)
    return (
        isinstance(tower, keras.Model)
        and isinstance(only, keras.KerasTensor)
        and only.name not in features.columns
    )


def check(model, side):
    """Raises a ValueError if a tower and the features do not fit."""
    tower = getattr(model, f"{side}_tower")
    features = getattr(model, f"{side}_features")
    num_rows = getattr(model, f"num_{side}s")
    if isinstance(tower, FeatureTower) and features is None:
        raise ValueError(
            f"A `FeatureTower` needs the features of the {side}s. Received: "
            f"{side}_features=None. Make the model with "
            f"`TwoTowerRetrieval.for_dataset(data)`, and the data with "
            f"`{side}_features=...`."
        )
    if features is None:
        return
    if features.num_rows != num_rows:
        raise ValueError(
            f"`{side}_features` must have a row for each of the {num_rows} "
            f"{side}s (`num_{side}s`). Received: {features.num_rows}."
        )
    if isinstance(tower, FeatureTower) and (
        tower.num_rows != num_rows
        or list(tower.schema.encoders) != list(features.schema.encoders)
    ):
        raise ValueError(
            f"The tower {tower.name!r} must be made for the features of the "
            f"{side}s, {list(features.schema.encoders)} of {num_rows} rows. "
            f"Received: {list(tower.schema.encoders)} of {tower.num_rows}. "
            f"Make it with `kdr.FeatureTower(data.{side}_features, ...)`."
        )
