"""Building: which inputs the towers take, and whether they fit together.

A layer without a `build` of its own gets its variables when it is first
called. So the towers are built by calling them on symbolic inputs like those
of the first batch, and the file keeps what these were.
"""

import keras

from keras_dp_retrieval import _checks, losses
from keras_dp_retrieval.model import encoding, feature_parts
from keras_dp_retrieval.model.input_specs import map_spec, spec_of_shape
from keras_dp_retrieval.towers import (
    FeatureTower,
    history_tower,
)
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories

# Names of the model's own weights, beside those of its layers.
OWN_WEIGHTS = ("candidate_counts", "absent_candidates")


def objective(given, num_candidates: int) -> losses.Objective:
    """The `Objective` that is given, by name or as in `losses.get`."""
    if isinstance(given, str) and given == "auto":
        given = losses.default_name(num_candidates)
    return losses.get(given)


def initial_stddev(given) -> float | None:
    """The width that is given, a number above 0, or None.

    Raises:
        ValueError: If it is something else.
    """
    if given is None:
        return None
    return _checks.number_between("initial_stddev", given, 0, open_low=True)


def histories(given) -> Histories | None:
    """The `Histories` that are given, or None.

    Raises:
        ValueError: If it is something else.
    """
    if given is None:
        return None
    return _checks.instance("histories", given, Histories)


def tower(model, side: str, given) -> keras.layers.Layer:
    """The tower that is given; else one vector a user, or one a candidate.

    Raises:
        ValueError: If what is given is no layer.
    """
    if given is not None:
        return _checks.instance(f"{side}_tower", given, keras.layers.Layer)
    features = getattr(model, f"{side}_features")
    if features is not None:
        return FeatureTower(
            features,
            model.embedding_dimension,
            stddev=model.initial_stddev or 0.05,
            name=f"{side}_tower",
        )
    initializer = "uniform"
    if model.initial_stddev is not None:
        initializer = keras.initializers.RandomNormal(
            stddev=model.initial_stddev
        )
    return RowEmbedding(
        getattr(model, f"num_{side}s"),
        model.embedding_dimension,
        embeddings_initializer=initializer,
        name=f"{side}_embedding",
    )


def build_towers(model, input_shape) -> None:
    """Makes the variables of both towers; see `TwoTowerRetrieval.build`."""
    spec = model.called_with.spec
    try:
        _call_towers(
            model,
            spec
            or (
                usual_spec(model)
                if input_shape is None
                else spec_of_shape(input_shape)
            ),
        )
    except Exception as error:
        if spec is not None:
            raise
        raise ValueError(
            "The towers could not be built from "
            f"{'user rows' if input_shape is None else input_shape}, as "
            "the model was not called on a batch yet. Call it on one, "
            f"`model(x)`, or train it, first. The reason: {error}"
        ) from error


def usual_spec(model) -> dict:
    """The spec of what a model takes that was not called yet."""
    reader = history_tower(model.user_tower)
    if reader is None or model.histories is not None:
        return spec_of_shape((None,))
    length = reader.max_length or 1
    return spec_of_shape({"user_id": (None,), "history": (None, length)})


def build_config(model) -> dict | None:
    """What `build_from_config` takes; None before the model is built."""
    if not model.built:
        return None
    return {"inputs": model.called_with.spec, "weights": shapes_of(model)}


def build_from_config(model, config: dict) -> None:
    """Builds a model as the one was whose `build_config` this is."""
    # Files of before format 3 do not say what the model was called with.
    model.called_with.spec = config.get("inputs")
    model.build()
    if "weights" in config:
        check_weights(model, config["weights"])


def _call_towers(model, spec):
    inputs = map_spec(keras.KerasTensor, spec)
    rows = keras.KerasTensor((None,), "int32")
    _check_vectors(
        model,
        encoding.user_vectors(model, inputs),
        encoding.candidate_vectors(model, rows),
    )


def check_parts(model) -> None:
    """Raises a ValueError if a part is made for other sizes than the model."""
    for side in ("user", "candidate"):
        _check_table(model, side)
        feature_parts.check(model, side)
    reader = history_tower(model.user_tower)
    for layer in (model.histories, model.user_tower, reader):
        for name in ("num_users", "num_candidates"):
            _check_size(model, layer, name)
    if isinstance(model.histories, Histories):
        model.histories.check_rows(model.num_candidates)
    user, candidate = (
        _known_dimension(getattr(model, f"{side}_tower"))
        for side in ("user", "candidate")
    )
    _check_dimensions(model, user, candidate)


def _check_dimensions(model, user, candidate) -> None:
    """Raises a ValueError if the lengths of the vectors differ; None fits."""
    if user is None or candidate is None or user == candidate:
        return
    raise ValueError(
        "The towers must make vectors of one length, as scores are dot "
        f"products. Received: {user} from the user tower "
        f"{model.user_tower.name!r} and {candidate} from the candidate tower "
        f"{model.candidate_tower.name!r}. A default tower makes vectors of "
        f"`embedding_dimension`, here {model.embedding_dimension}."
    )


def _check_vectors(model, user_vectors, candidate_vectors) -> None:
    """Raises a ValueError if the towers' symbolic outputs do not fit."""
    for side, vectors in (
        ("user", user_vectors),
        ("candidate", candidate_vectors),
    ):
        if len(getattr(vectors, "shape", ())) != 2:
            got = getattr(vectors, "shape", type(vectors).__name__)
            raise ValueError(
                f"The {side} tower must make one vector for each {side}, "
                f"`(batch, dim)`. Received: {got} from "
                f"{getattr(model, f'{side}_tower').name!r}."
            )
    _check_dimensions(model, user_vectors.shape[1], candidate_vectors.shape[1])


def check_weights(model, saved) -> None:
    """Raises a ValueError if the weights are not those that were saved.

    Args:
        model: A built model.
        saved: `[path, shape]` of each weight, as `shapes_of` returns them.
    """
    here = shapes_of(model)
    if _of_towers(here) == _of_towers(saved):
        return
    raise ValueError(
        "The towers do not have the weights that were saved, so that some "
        "would be lost. Make them in `__init__` or `build`, or whenever the "
        "layer is called. Saved: "
        f"{_listed(saved)}. Here: {_listed(here)}."
    )


def shapes_of(model) -> list:
    """`[path, shape]` of each weight."""
    return [[weight.path, list(weight.shape)] for weight in model.weights]


def _of_towers(listed) -> list:
    """The shapes of what is not the model's own, which grows with formats."""
    return [
        list(shape)
        for path, shape in listed
        if path.rpartition("/")[2] not in OWN_WEIGHTS
    ]


def _check_table(model, side):
    tower = getattr(model, f"{side}_tower")
    first = tower
    while isinstance(first, keras.Sequential) and first.layers:
        first = first.layers[0]
    num_rows = getattr(model, f"num_{side}s")
    if isinstance(first, keras.layers.Embedding) and first.input_dim < num_rows:
        raise ValueError(
            f"The {side} tower must have a row for each of the {num_rows} "
            f"{side}s (`num_{side}s`). Received: {tower.name!r} with "
            f"{first.input_dim} rows (`input_dim`)."
        )


def _check_size(model, layer, name):
    size = getattr(layer, name, None)
    if size is None or size == getattr(model, name):
        return
    raise ValueError(
        f"`{name}` of {layer.name!r}, a {type(layer).__name__}, must be that "
        f"of the model. Received: {size}, and {getattr(model, name)} for the "
        "model. Make both for the same data."
    )


def _known_dimension(tower) -> int | None:
    """The length of a tower's vectors, if it is known before building."""
    if isinstance(tower, keras.layers.Embedding):
        return tower.output_dim
    return getattr(tower, "embedding_dimension", None)


def _listed(weights) -> str:
    shown = [f"{path} {tuple(shape)}" for path, shape in weights]
    return ", ".join(shown[:8]) + (", ..." if shown[8:] else "")
