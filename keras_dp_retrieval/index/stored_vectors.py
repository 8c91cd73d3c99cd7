"""Vectors as an index keeps them: rounded, and placed on the devices."""

import keras
import ml_dtypes
import numpy as np

from keras_dp_retrieval.data.padding import next_of_few_sizes
from keras_dp_retrieval.index import exact
from keras_dp_retrieval.index.sorted_ids import some

# How vectors are kept. Files hold bfloat16 as its 16 bits, which HDF5 and
# NumPy can write without knowing the type.
KEPT_AS = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype("int8"),
}


class StoredVectors:
    """Rounded vectors, and a scale for each.

    Args:
        rounded: `(num_candidates, dim)`, of a dtype of `KEPT_AS`.
        scales: float32 `(num_candidates,)`; 1 unless the dtype is int8.
        capacity: int. Rows to place on the devices, if that is more: those
            that are left over are free for candidates that are added, for
            whom nothing is then compiled.
    """

    def __init__(
        self, rounded: np.ndarray, scales: np.ndarray, capacity: int = 0
    ):
        self.rounded = rounded
        self.scales = scales
        self.capacity = max(capacity, len(rounded))
        self._placed: tuple | None = None

    @classmethod
    def of(cls, vectors: np.ndarray, dtype: str) -> "StoredVectors":
        """Rounds float32 vectors to what is kept."""
        scales = np.ones(len(vectors), "float32")
        if dtype == "int8":
            scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(127)
            vectors = vectors / np.where(scales > 0, scales, 1)[:, None]
            vectors = np.rint(vectors)
        return cls(vectors.astype(KEPT_AS[dtype]), scales)

    def as_float32(self, rows=slice(None)) -> np.ndarray:
        """The rounded vectors, float32 `(num_candidates, dim)`, or some."""
        return self.rounded[rows].astype("float32") * self.scales[rows, None]

    def with_more(self, more: "StoredVectors") -> "StoredVectors":
        """These vectors, and then those of another of the same dtype."""
        num_candidates = len(self.rounded) + len(more.rounded)
        capacity = self.capacity
        if num_candidates > capacity:
            capacity = next_of_few_sizes(num_candidates)
        return StoredVectors(
            np.concatenate([self.rounded, more.rounded]),
            np.concatenate([self.scales, more.scales]),
            capacity,
        )

    def with_others(self, rows, others: "StoredVectors") -> "StoredVectors":
        """These vectors, those of some rows replaced."""
        rounded, scales = self.rounded.copy(), self.scales.copy()
        rounded[rows], scales[rows] = others.rounded, others.scales
        return StoredVectors(rounded, scales, self.capacity)

    def in_order(self, order: np.ndarray) -> "StoredVectors":
        """The vectors of these rows, in this order."""
        return StoredVectors(
            self.rounded[order], self.scales[order], self.capacity
        )

    def top_k(self, queries, k, excluded_rows, allowed, chunk_size):
        """As `exact.top_k`, on the devices of the distribution in effect."""
        num_candidates = len(self.rounded)
        mesh, axis = exact.mesh_and_axis()
        vectors, scales = self.placed(mesh, axis)
        if len(vectors) > num_candidates:
            if allowed is None:
                allowed = np.ones(num_candidates, bool)  # And no padding.
            allowed = _lengthened(allowed, self.capacity)
        (allowed,) = _place((allowed,), mesh, axis)
        return exact.top_k(
            queries,
            vectors,
            k,
            excluded_rows=excluded_rows,
            allowed=allowed,
            candidate_scales=scales,
            chunk_size=chunk_size,
        )

    def placed(self, mesh, axis) -> list:
        """The rounded vectors, and the scales or None, on the devices."""
        if self._placed is None or self._placed[0] != mesh:
            is_int8 = self.rounded.dtype == KEPT_AS["int8"]
            scales = self.scales if is_int8 else None
            arrays = _place(
                [
                    None if one is None else _lengthened(one, self.capacity)
                    for one in (self.rounded, scales)
                ],
                mesh,
                axis,
            )
            self._placed = mesh, arrays
        return self._placed[1]


def _lengthened(array, num_rows: int):
    """An array with rows of zeros at the end, `(num_rows, ...)`."""
    if len(array) == num_rows:
        return array
    longer = np.zeros((num_rows, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def _place(arrays, mesh, axis):
    """Per-candidate arrays on the device, or a share of each on each."""
    if mesh is None:
        put = keras.ops.convert_to_tensor
    else:
        from keras_dp_retrieval._jax import sharded_search

        def put(array):
            return sharded_search.shard(array, mesh, axis)

    return [None if array is None else put(array) for array in arrays]


def as_vectors(name, vectors, dim: int) -> np.ndarray:
    """`vectors` as float32 `(any number, dim)`; raises if not finite."""
    vectors = as_floats(name, vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(
            f"`{name}` must have the shape (any number, "
            f"{dim}). Received: "
            f"{name}.shape={vectors.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ValueError(
            f"`{name}` must be finite. Received NaN or infinity in "
            f"{len(bad)} of {len(vectors)} vectors, rows {some(bad)}. "
            "They come from weights that are no numbers any more: train "
            "again with a lower learning rate, or load an earlier save."
        )
    return vectors


def as_floats(name, vectors) -> np.ndarray:
    """`vectors` as a float32 array of any shape."""
    try:
        array = keras.ops.convert_to_numpy(vectors)
        if array.dtype.kind in "biuf" or array.dtype == KEPT_AS["bfloat16"]:
            return array.astype("float32")
        reason = f"{array.dtype} values"
    except (TypeError, ValueError) as error:
        reason = f"a {type(vectors).__name__} ({error})"
    raise ValueError(
        f"`{name}` must be an array of real numbers. Received: {reason}."
    )
