"""Which inputs a model takes: shapes and dtypes, as JSON can hold them."""

import keras

# Keras turns the wide types into these when it makes tensors of arrays.
_NARROW = {"int64": "int32", "uint64": "uint32", "float64": "float32"}


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

    def input_signature(self, usual: dict) -> list:
        """What `keras.Model.export` takes.

        Args:
            usual: dict. The spec of a model that was never called.
        """
        return [
            map_spec(
                lambda shape, dtype: keras.InputSpec(dtype, shape),
                self.spec or usual,
            )
        ]


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
