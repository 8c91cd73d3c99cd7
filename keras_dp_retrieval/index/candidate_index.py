"""A searchable catalogue: candidate vectors and the ids they belong to."""

import keras
import ml_dtypes
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_lists,
    refuse_padding_ids,
)
from keras_dp_retrieval.index import exact

# How vectors are kept. Files hold bfloat16 as its 16 bits, which HDF5 and
# NumPy can write without knowing the type.
_KEPT_AS = {
    "float32": np.dtype("float32"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype("int8"),
}
_FORMAT_VERSION = 1


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class CandidateIndex(keras.layers.Layer):
    """Candidate vectors with their ids, and exact search among them.

    The score of a candidate is the dot product of its vector and the query's.
    The result is that of a full sort: by falling score, equal scores by rising
    id. Where a `keras.distribution.DataParallel` is in force, each device
    holds and searches its share of the vectors.

    It is a layer so that a model that holds one saves it in its `.keras` file;
    it has no weights, and ids stay whole 64-bit integers or strings. On its
    own it is saved with `keras.saving.save_model(index, "index.keras")`.

    An id is a whole number of 64 bits or a string, but neither -1 nor `""`:
    these fill up lists that are shorter than `k`.

    Example:

    ```python
    index = CandidateIndex.from_vectors([10, 20, 30], vectors)
    ids, scores = index.search(query_vectors, k=2, exclude=[[20], []])
    ```

    Args:
        embedding_dimension: int. Length of a vector.
        candidate_dtype: How vectors are kept. `"float32"` is exact.
            `"bfloat16"` takes half the memory and `"int8"`, with one scale a
            vector, about a quarter; the search is then exact among the rounded
            vectors. `benchmarks/bench_topk.py` measures what that costs in
            recall.
        chunk_size: Optional int. Candidates scored at a time, see `top_k`.
    """

    def __init__(
        self,
        embedding_dimension: int,
        *,
        candidate_dtype: str = "float32",
        chunk_size: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embedding_dimension = _checks.table_size(
            "embedding_dimension", embedding_dimension
        )
        self.candidate_dtype = _checks.one_of(
            "candidate_dtype", candidate_dtype, _KEPT_AS
        )
        if chunk_size is not None:
            chunk_size = _checks.positive_int("chunk_size", chunk_size)
        self.chunk_size = chunk_size
        self.built = True
        self._set(np.zeros(0, "int64"), *self._keep(self._no_vectors()))

    @classmethod
    def from_vectors(
        cls, candidate_ids, vectors, *, candidate_dtype="float32", **kwargs
    ):
        """Makes an index of `vectors`.

        Args:
            candidate_ids: Integers or strings, shape `(num_candidates,)`.
            vectors: Floats, shape `(num_candidates, dim)`.
            candidate_dtype: How to keep the vectors, see the class.
            **kwargs: Further arguments of the class.
        """
        vectors = _as_floats("vectors", vectors)
        shape = vectors.shape
        if len(shape) != 2:
            raise ValueError(
                "`vectors` must have the shape (num_candidates, dim). "
                f"Received: vectors.shape={shape}."
            )
        index = cls(shape[1], candidate_dtype=candidate_dtype, **kwargs)
        index.assign(candidate_ids, vectors)
        return index

    def assign(self, candidate_ids, vectors) -> None:
        """Replaces all candidates.

        Args:
            candidate_ids: Integers or strings, shape `(num_candidates,)`.
            vectors: Floats, shape `(num_candidates, dim)`.

        Raises:
            ValueError: If an id comes twice or is -1 or `""`, a vector is not
                finite, or the shapes do not fit.
        """
        ids = _as_ids("candidate_ids", candidate_ids)
        refuse_padding_ids("candidate_ids", ids)
        vectors = self._as_vectors("vectors", vectors)
        if len(ids) != len(vectors):
            raise ValueError(
                "There must be one id for each vector. Received: "
                f"{len(ids)} ids and {len(vectors)} vectors."
            )
        self._set_sorted(ids, *self._keep(vectors))

    def add(self, candidate_ids, vectors) -> None:
        """Adds candidates that are not in the index yet, as in `assign`."""
        more = CandidateIndex.from_vectors(
            candidate_ids,
            self._as_vectors("vectors", vectors),
            candidate_dtype=self.candidate_dtype,
        )
        if len(self):
            self._check_kind("candidate_ids", more._ids)
            ids = np.concatenate([self._ids, more._ids])
        else:
            ids = more._ids
        self._set_sorted(
            ids,
            np.concatenate([self._vectors, more._vectors]),
            np.concatenate([self._scales, more._scales]),
        )

    def search(
        self,
        query_vectors,
        k: int = 10,
        *,
        exclude=None,
        allowed_ids=None,
        excluded_rows=None,
    ):
        """The `k` best candidates for each query.

        Args:
            query_vectors: Floats, shape `(batch, dim)`.
            k: int. May exceed the number of candidates, up to 2**20.
            exclude: Optional list with an array of ids for each query, which
                it does not get. Ids that are not in the index have no effect.
            allowed_ids: Optional array of ids: all others are left out.
            excluded_rows: Optional integers, `(batch, num_excluded)`: instead
                of `exclude`, the `rows` of those ids, padded with -1.

        Returns:
            `(ids, scores)`, NumPy arrays of shape `(batch, k)`, best first.
            Where fewer than `k` candidates are left, the rest has the score
            minus infinity and the id -1, or `""` among strings.

        Raises:
            ValueError: If the index is empty, a vector is not finite or has
                another length, an id of `allowed_ids` is unknown, or both
                `exclude` and `excluded_rows` are given.
        """
        if not len(self):
            raise ValueError(
                "The index has no candidates to search. Use `assign()` or "
                "`add()` first."
            )
        k = exact.check_k(k, len(self))
        queries = self._as_vectors("query_vectors", query_vectors)
        num_queries = len(queries)
        if excluded_rows is None:
            excluded_rows = self._rows_of_each(exclude, num_queries)
        elif exclude is None:
            excluded_rows = self._as_rows(excluded_rows, num_queries)
        else:
            raise ValueError(
                "Give either `exclude` or `excluded_rows`. Received: both."
            )
        # Each new shape is compiled, so there are few: powers of two.
        more = next_power_of_two(num_queries) - num_queries
        if excluded_rows is not None:
            width = excluded_rows.shape[1]
            more_columns = next_power_of_two(width) - width
            excluded_rows = np.pad(
                excluded_rows,
                ((0, more), (0, more_columns)),
                constant_values=PADDING,
            )
        scores, rows = self._search(
            np.pad(queries, ((0, more), (0, 0))),
            k,
            excluded_rows,
            self._allowed(allowed_ids),
        )
        scores = np.asarray(keras.ops.convert_to_numpy(scores))[:num_queries]
        rows = np.asarray(keras.ops.convert_to_numpy(rows))[:num_queries]
        filler = -1 if self._ids.dtype.kind == "i" else ""
        return np.where(rows < 0, filler, self._ids[rows]), scores

    def ids(self) -> np.ndarray:
        """All ids in rising order, int64 or str, `(num_candidates,)`."""
        return self._ids.copy()

    def rows(self, candidate_ids) -> np.ndarray:
        """Where in `ids()` each id stands, int32 `(num_ids,)`.

        -1 for an id that is not in the index. A row is good until candidates
        are assigned or added.
        """
        ids = _as_ids("candidate_ids", candidate_ids)
        self._check_kind("candidate_ids", ids)
        return self._rows(ids)

    def vectors(self) -> np.ndarray:
        """The vectors of `ids()`, float32, `(num_candidates, dim)`.

        With the ids, all that another vector database needs: its score is the
        inner product.
        """
        return self._vectors.astype("float32") * self._scales[:, None]

    def __len__(self) -> int:
        return len(self._ids)

    def __bool__(self) -> bool:
        return True  # An empty index is no missing index.

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dimension": self.embedding_dimension,
            "candidate_dtype": self.candidate_dtype,
            "chunk_size": self.chunk_size,
        }

    def save_own_variables(self, store):
        store["format_version"] = np.array(_FORMAT_VERSION, "int64")
        bits = self.candidate_dtype == "bfloat16"
        store["vectors"] = (
            self._vectors.view("uint16") if bits else self._vectors
        )
        store["scales"] = self._scales
        for name, array in _ids_to_numbers(self._ids).items():
            store[name] = array

    def load_own_variables(self, store):
        saved = {name: np.array(store[name]) for name in store.keys()}
        version = int(saved.get("format_version", 0))
        if version != _FORMAT_VERSION:
            raise ValueError(
                f"The candidate index {self.name!r} was saved in the format "
                f"{version or 'of something else'}; this version of "
                f"keras_dp_retrieval reads format {_FORMAT_VERSION}."
            )
        kept_as = _KEPT_AS[self.candidate_dtype]
        vectors, scales = saved["vectors"], saved["scales"]
        ids = _ids_from_numbers(saved)
        if (
            vectors.shape != (len(ids), self.embedding_dimension)
            or vectors.dtype.itemsize != kept_as.itemsize
            or scales.shape != ids.shape
        ):
            raise ValueError(
                f"The saved candidate index {self.name!r} does not fit: "
                f"{len(ids)} ids and {vectors.dtype} vectors of shape "
                f"{vectors.shape} for {self.candidate_dtype} vectors of "
                f"length {self.embedding_dimension}."
            )
        self._set_sorted(ids, vectors.view(kept_as), scales)

    def _set_sorted(self, ids, vectors, scales):
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise ValueError(
                "Every candidate must have an id of its own. Received more "
                f"than once: {_some(twice)}."
            )
        self._set(ids, vectors[order], scales[order])

    def _set(self, ids, vectors, scales):
        self._ids, self._vectors, self._scales = ids, vectors, scales
        self._placed = None

    def _keep(self, vectors):
        """`vectors` rounded to what is kept, and a scale for each."""
        scales = np.ones(len(vectors), "float32")
        if self.candidate_dtype == "int8":
            scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(127)
            vectors = vectors / np.where(scales > 0, scales, 1)[:, None]
            vectors = np.rint(vectors)
        return vectors.astype(_KEPT_AS[self.candidate_dtype]), scales

    def _no_vectors(self):
        return np.zeros((0, self.embedding_dimension), "float32")

    def _as_vectors(self, name, vectors):
        vectors = _as_floats(name, vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.embedding_dimension:
            raise ValueError(
                f"`{name}` must have the shape (any number, "
                f"{self.embedding_dimension}). Received: "
                f"{name}.shape={vectors.shape}."
            )
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise ValueError(
                f"`{name}` must be finite. Received NaN or infinity in "
                f"{len(bad)} of {len(vectors)} vectors, rows {_some(bad)}. "
                "They come from weights that are no numbers any more: train "
                "again with a lower learning rate, or load an earlier save."
            )
        return vectors

    def _check_kind(self, name, ids):
        if len(ids) and ids.dtype.kind != self._ids.dtype.kind:
            kinds = {"i": "integers", "U": "strings"}
            raise ValueError(
                f"`{name}` must be of the kind of the ids in the index, "
                f"{kinds[self._ids.dtype.kind]}. Received: "
                f"{kinds[ids.dtype.kind]}."
            )

    def _rows(self, ids):
        if not len(self) or not len(ids):
            return np.full(len(ids), -1, "int32")
        rows = np.searchsorted(self._ids, ids).clip(max=len(self) - 1)
        return np.where(self._ids[rows] == ids, rows, -1).astype("int32")

    def _rows_of_each(self, exclude, num_queries):
        if exclude is None:
            return None
        if not _checks.is_listed(exclude):
            raise ValueError(
                "`exclude` must be a list with an array of ids for each query."
                f" Received: a {type(exclude).__name__}."
            )
        exclude = [_as_ids("exclude", ids) for ids in exclude]
        if len(exclude) != num_queries:
            raise ValueError(
                "`exclude` must have an array of ids for each query. Received: "
                f"{len(exclude)} for {num_queries} queries."
            )
        for ids in exclude:
            self._check_kind("exclude", ids)
        longest = max(map(len, exclude), default=0)
        return pad_lists([self._rows(ids) for ids in exclude], longest)

    def _as_rows(self, rows, num_queries):
        rows = np.asarray(keras.ops.convert_to_numpy(rows))
        fits = rows.ndim == 2 and rows.dtype.kind in "iu"
        if not fits or len(rows) != num_queries:
            raise ValueError(
                "`excluded_rows` must be whole numbers, one row for each "
                f"query, padded with -1. Received: {rows.dtype} values of "
                f"shape {rows.shape} for {num_queries} queries."
            )
        return np.where(rows < len(self), rows, -1).astype("int32")

    def _allowed(self, allowed_ids):
        if allowed_ids is None:
            return None
        allowed_ids = _as_ids("allowed_ids", allowed_ids)
        self._check_kind("allowed_ids", allowed_ids)
        mask = np.zeros(len(self), bool)
        if len(allowed_ids):
            rows = self._rows(allowed_ids)
            if (rows < 0).any():
                raise ValueError(
                    "`allowed_ids` must be in the index. Received unknown ids: "
                    f"{_some(allowed_ids[rows < 0])}."
                )
            mask[rows] = True
        return mask

    def _search(self, queries, k, excluded_rows, allowed):
        mesh, axis = exact.mesh_and_axis()
        if self._placed is None or self._placed[0] != mesh:
            scales = self._scales if self.candidate_dtype == "int8" else None
            self._placed = (
                mesh,
                *_place((self._vectors, scales), mesh, axis),
            )
        _, vectors, scales = self._placed
        if len(vectors) > len(self) and allowed is None:
            allowed = np.ones(len(self), bool)  # And no padding.
        (allowed,) = _place((allowed,), mesh, axis)
        return exact.top_k(
            queries,
            vectors,
            k,
            excluded_rows=excluded_rows,
            allowed=allowed,
            candidate_scales=scales,
            chunk_size=self.chunk_size,
        )


def _place(arrays, mesh, axis):
    """Per-candidate arrays on the device, or a share of each on each."""
    if mesh is None:
        put = keras.ops.convert_to_tensor
    else:
        from keras_dp_retrieval._jax import sharded_search

        def put(array):
            return sharded_search.shard(array, mesh, axis)

    return [None if array is None else put(array) for array in arrays]


def _as_floats(name, vectors) -> np.ndarray:
    try:
        array = keras.ops.convert_to_numpy(vectors)
        if array.dtype.kind in "biuf" or array.dtype == _KEPT_AS["bfloat16"]:
            return array.astype("float32")
        reason = f"{array.dtype} values"
    except (TypeError, ValueError) as error:
        reason = f"a {type(vectors).__name__} ({error})"
    raise ValueError(
        f"`{name}` must be an array of real numbers. Received: {reason}."
    )


def _as_ids(name, ids):
    """`ids` as an int64 or str array, `(num_ids,)`; never truncated."""
    if not _checks.is_listed(ids):
        raise ValueError(
            f"`{name}` must be a list or an array of ids. Received: a "
            f"{type(ids).__name__}."
        )
    array = id_column(name, ids)
    return array if array.size else array.astype("int64")


def _ids_to_numbers(ids):
    """Arrays of numbers that hold `ids`, for files that take only numbers."""
    if ids.dtype.kind == "i":
        return {"ids": ids}
    encoded = [one.encode() for one in ids.tolist()]
    return {
        "id_bytes": np.frombuffer(b"".join(encoded), "uint8"),
        "id_ends": np.cumsum([len(one) for one in encoded], dtype="int64"),
    }


def _ids_from_numbers(saved):
    if "ids" in saved:
        return saved["ids"].astype("int64")
    whole, ends = saved["id_bytes"].tobytes(), saved["id_ends"].tolist()
    starts = [0, *ends[:-1]]
    return np.array(
        [whole[a:b].decode() for a, b in zip(starts, ends, strict=True)], str
    )


def _some(values):
    shown = ", ".join(map(repr, values[:5].tolist()))
    return shown + (", ..." if len(values) > 5 else "")
