"""A searchable catalogue: candidate vectors and the ids they belong to."""

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    refuse_padding_ids,
)
from keras_dp_retrieval.index import exact, sorted_ids
from keras_dp_retrieval.index.sorted_ids import SortedIds, as_ids
from keras_dp_retrieval.index.stored_vectors import (
    KEPT_AS,
    StoredVectors,
    as_floats,
    as_vectors,
)

_FORMAT_VERSION = 1


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class CandidateIndex(keras.layers.Layer):
    """Candidate vectors with their ids, and exact search among them.

    The score of a candidate is the dot product of its vector and the query's.
    The result is that of a full sort: by falling score, equal scores by rising
    id. Where a `keras.distribution.DataParallel` is in effect, each device
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
            "candidate_dtype", candidate_dtype, KEPT_AS
        )
        if chunk_size is not None:
            chunk_size = _checks.positive_int("chunk_size", chunk_size)
        self.chunk_size = chunk_size
        self.built = True
        none = np.zeros((0, self.embedding_dimension), "float32")
        self._set(np.zeros(0, "int64"), self._rounded(none))

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
        vectors = as_floats("vectors", vectors)
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
        ids = as_ids("candidate_ids", candidate_ids)
        refuse_padding_ids("candidate_ids", ids)
        vectors = self._as_vectors("vectors", vectors)
        if len(ids) != len(vectors):
            raise ValueError(
                "There must be one id for each vector. Received: "
                f"{len(ids)} ids and {len(vectors)} vectors."
            )
        self._set(ids, self._rounded(vectors))

    def add(self, candidate_ids, vectors) -> None:
        """Adds candidates that are not in the index yet, as in `assign`."""
        more = CandidateIndex.from_vectors(
            candidate_ids,
            self._as_vectors("vectors", vectors),
            candidate_dtype=self.candidate_dtype,
        )
        ids = more.ids()
        if len(self):
            self._ids.check_kind("candidate_ids", ids)
            ids = np.concatenate([self.ids(), ids])
        self._set(ids, self._stored.with_more(more._stored))

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
        if exclude is not None and excluded_rows is not None:
            raise ValueError(
                "Give either `exclude` or `excluded_rows`. Received: both."
            )
        if exclude is not None:
            excluded_rows = self._ids.rows_of_each(exclude, num_queries)
        elif excluded_rows is not None:
            excluded_rows = self._ids.known_rows(excluded_rows, num_queries)
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
        scores, rows = self._stored.top_k(
            np.pad(queries, ((0, more), (0, 0))),
            k,
            excluded_rows,
            self._ids.mask(allowed_ids),
            self.chunk_size,
        )
        scores = np.asarray(keras.ops.convert_to_numpy(scores))[:num_queries]
        rows = np.asarray(keras.ops.convert_to_numpy(rows))[:num_queries]
        return self._ids.of_rows(rows), scores

    def ids(self) -> np.ndarray:
        """All ids in rising order, int64 or str, `(num_candidates,)`."""
        return self._ids.array.copy()

    def rows(self, candidate_ids) -> np.ndarray:
        """Where in `ids()` each id stands, int32 `(num_ids,)`.

        -1 for an id that is not in the index. A row is good until candidates
        are assigned or added.
        """
        ids = as_ids("candidate_ids", candidate_ids)
        self._ids.check_kind("candidate_ids", ids)
        return self._ids.rows(ids)

    def vectors(self) -> np.ndarray:
        """The vectors of `ids()`, float32, `(num_candidates, dim)`.

        With the ids, all that another vector database needs: its score is the
        inner product.
        """
        return self._stored.as_float32()

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
        rounded = self._stored.rounded
        store["vectors"] = rounded.view("uint16") if bits else rounded
        store["scales"] = self._stored.scales
        for name, array in sorted_ids.to_numbers(self.ids()).items():
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
        kept_as = KEPT_AS[self.candidate_dtype]
        vectors, scales = saved["vectors"], saved["scales"]
        ids = sorted_ids.from_numbers(saved)
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
        self._set(ids, StoredVectors(vectors.view(kept_as), scales))

    def _set(self, ids, stored: StoredVectors):
        self._ids, order = SortedIds.sort(ids)
        self._stored = stored.in_order(order)

    def _rounded(self, vectors) -> StoredVectors:
        return StoredVectors.of(vectors, self.candidate_dtype)

    def _as_vectors(self, name, vectors):
        return as_vectors(name, vectors, self.embedding_dimension)
