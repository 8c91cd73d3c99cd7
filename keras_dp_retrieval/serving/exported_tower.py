"""The user tower as a program for ONNX runtimes and TensorFlow."""

import types
import warnings

import keras
from keras import ops

from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.model.candidate_states import knows_ids_alone
from keras_dp_retrieval.towers import history_tower

# ONNX keeps a model in one message of Protocol Buffers, of 2 GB at most.
LARGEST_ONNX = 2 * 10**9

OUTPUT = "vector"


def inputs_of(model) -> dict[str, tuple[str, tuple]]:
    """The inputs of the exported tower: names to dtypes and shapes.

    Raises:
        ValueError: If the tower takes others than ids, histories or features.
    """
    found: dict[str, tuple[str, tuple]] = {"user_id": ("int32", (None,))}
    features = model.user_features
    reader = history_tower(model.user_tower)
    takes_rows = knows_ids_alone(model.user_tower) or (
        model.called_with.takes_rows()
    )
    if features is None and reader is None and not takes_rows:
        raise ValueError(
            "`export_retrieval` writes user towers of ids, histories or "
            f"features. Received: {model.user_tower.name!r}, a "
            f"{type(model.user_tower).__name__} of other inputs. "
            "`model.export` writes the model with any."
        )
    if reader is not None:
        found["history"] = ("int32", (None, reader.max_length))
    if features is not None:
        for name, encoder in features.schema.encoders.items():
            dtype = "float32" if encoder.is_number else "int32"
            shape = (None, None) if encoder.is_pooled else (None,)
            found[name] = (dtype, shape)
    return dict(sorted(found.items()))


def check_onnx():
    """Raises an ImportError unless all that ONNX needs is there."""
    try:
        import jax2onnx  # noqa: F401
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "The format 'onnx' needs jax2onnx, onnx and onnxruntime. Install "
            "them with `pip install 'keras-dp-retrieval[export]'`."
        ) from error


def write(model, formats, folder) -> None:
    """Writes the user tower in some of `"onnx"` and `"saved_model"`.

    Raises:
        ValueError: If it is too large for ONNX.
    """
    inputs = inputs_of(model)
    encoder = UserEncoder(model)
    signature = [
        {
            name: keras.InputSpec(dtype, shape, name=name)
            for name, (dtype, shape) in inputs.items()
        }
    ]
    if "onnx" in formats:
        size = sum(4 * one.value.size for one in encoder.variables)
        if size > LARGEST_ONNX:
            raise ValueError(
                "The user tower must take at most 2 GB in the format 'onnx'. "
                f"Received: {size / 1e9:.1f} GB. Use 'saved_model'."
            )
        path = folder / "user_tower.onnx"
        _export(encoder, path, "onnx", signature)
        _name(path, list(inputs))
    if "saved_model" in formats:
        path = folder / "saved_model"
        _export(encoder, path, "tf_saved_model", signature)


def _export(encoder, path, format, signature):
    with warnings.catch_warnings():
        # Of libraries, about themselves.
        warnings.simplefilter("ignore")
        encoder.export(
            str(path), format=format, verbose=False, input_signature=signature
        )


class UserEncoder(keras.Model):
    """The user tower with explicit inputs, as `TwoTowerRetrieval` calls it.

    Args:
        model: `TwoTowerRetrieval`.
    """

    def __init__(self, model):
        super().__init__()
        self.tower = model.user_tower
        # In a namespace, so that no other weights are exported.
        self._whole = types.SimpleNamespace(model=model)
        self.built = True

    def call(self, inputs):
        """Returns vectors, `(batch, dim)`, with the bias coordinate."""
        model = self._whole.model
        if set(inputs) == {"user_id"}:
            inputs = inputs["user_id"]
        vectors = encoding.user_vectors(model, inputs)
        vectors = encoding.append_user_bias(model, vectors)
        return ops.cast(vectors, "float32")


def _name(path, names: list[str]):
    """Gives the inputs of an ONNX file their names, which jax2onnx loses.

    It numbers them in the order of their names.
    """
    import onnx

    program = onnx.load(str(path))
    given = [one.name for one in program.graph.input]
    if len(given) != len(names):
        raise RuntimeError(
            f"The ONNX program must have the inputs {names}. Received: {given}."
        )
    renamed = dict(zip(given, names, strict=True))
    renamed[program.graph.output[0].name] = OUTPUT
    for value in (*program.graph.input, *program.graph.output):
        value.name = renamed[value.name]
    for node in program.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        for index, name in enumerate(node.output):
            node.output[index] = renamed.get(name, name)
    onnx.save(program, str(path))
