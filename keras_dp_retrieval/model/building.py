"""Building: which inputs the towers take, and whether they fit together.

A layer without a `build` of its own gets its variables when it is first
called. So the towers are built by calling them on symbolic inputs like those
of the first batch, and the file keeps what these were.
"""

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.towers import HistoryTower
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories

# Keras turns the wide types into these when it makes tensors of arrays.
_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}

# Names of the model's own weights, beside those of its layers.
OWN_WEIGHTS = ("candidate_counts", "absent_candidates")


class CalledWith:
    """What a model was first called with.

    Attributes:
        spec: dict, as `spec_of` makes it; None before the first call.
    """

    def __init__(self):
        self.spec = None

    def note(self, inputs) -> None:
        """Keeps the spec of these inputs, if they are the first."""
        if self.spec is None:
            self.spec = spec_of(inputs)

    def takes_rows(self) -> bool:
        """Whether the model was made for user rows, as far as is known."""
        return self.spec in (None, spec_of_shape((None,)))

    def input_signature(self) -> list:
        """What `keras.Model.export` takes: by default int32 user rows."""
        return [
            map_spec(
                lambda shape, dtype: keras.InputSpec(dtype, shape),
                self.spec or spec_of_shape((None,)),
            )
        ]


def tower(model, side: str, given) -> keras.layers.Layer:
    """The tower that is given; else one vector a user, or one a candidate.

    Raises:
        ValueError: If what is given is no layer.
    """
    if given is not None:
        return _checks.instance(f"{side}_tower", given, keras.layers.Layer)
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
            or spec_of_shape((None,) if input_shape is None else input_shape),
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


def _call_towers(model, spec):
    inputs = map_spec(keras.KerasTensor, spec)
    rows = keras.KerasTensor((None,), "int32")
    _check_vectors(
        model,
        encoding.user_vectors(model, inputs),
        encoding.candidate_vectors(model, rows),
    )


def spec_of(inputs) -> dict | None:
    """Shapes and dtypes of nested arrays or tensors, as JSON can hold them.

    Returns:
        dict, or None where something in `inputs` has no shape or dtype. The
        size of the first axis, the batch, is left open.
    """
    if isinstance(inputs, dict):
        children = {str(key): spec_of(value) for key, value in inputs.items()}
        return None if None in children.values() else {"dict": children}
    if isinstance(inputs, (list, tuple)):
        items = [spec_of(value) for value in inputs]
        kind = "tuple" if isinstance(inputs, tuple) else "list"
        return None if None in items else {kind: items}
    shape = getattr(inputs, "shape", None)
    if shape is None or not len(shape) or not hasattr(inputs, "dtype"):
        return None
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return {
        "shape": [None, *(size and int(size) for size in shape[1:])],
        "dtype": _NARROW.get(dtype, dtype),
    }


def spec_of_shape(shape) -> dict:
    """The spec of int32 inputs of a shape, or of nested shapes."""
    if isinstance(shape, dict):
        children = {key: spec_of_shape(value) for key, value in shape.items()}
        return {"dict": children}
    if all(size is None or isinstance(size, int) for size in shape):
        return {"shape": [None, *shape[1:]], "dtype": "int32"}
    return {"tuple": [spec_of_shape(one) for one in shape]}


def map_spec(function, spec: dict):
    """Calls `function(shape, dtype)` for each input of a spec.

    Raises:
        ValueError: If it is no spec.
    """
    kinds = {"dict", "list", "tuple", "shape"} & set(spec)
    if len(kinds) != 1:
        raise ValueError(f"This describes no inputs of a model: {spec!r:.80}.")
    kind = kinds.pop()
    if kind == "shape":
        return function(tuple(spec["shape"]), spec["dtype"])
    if kind == "dict":
        children = spec["dict"].items()
        return {key: map_spec(function, value) for key, value in children}
    items = [map_spec(function, value) for value in spec[kind]]
    return tuple(items) if kind == "tuple" else items


def check_parts(model) -> None:
    """Raises a ValueError if a part is made for other sizes than the model."""
    for side in ("user", "candidate"):
        _check_table(model, side)
    if isinstance(model.user_tower, HistoryTower) and model.histories is None:
        raise ValueError(
            f"A {type(model.user_tower).__name__} needs `histories`. "
            "Received: histories=None. Make the model with "
            "`TwoTowerRetrieval.for_dataset`, or pass `Histories`."
        )
    for layer in (model.histories, model.user_tower):
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
