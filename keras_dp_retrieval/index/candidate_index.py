"""A searchable catalogue: candidate vectors and the ids they belong to."""

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.index import search_index, sorted_ids
from keras_dp_retrieval.index.exact_catalogue import ExactCatalogue
from keras_dp_retrieval.index.sorted_ids import as_ids
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

    Candidates can be added, replaced and removed while others search: a search
    sees those that there were when it began. Updates must come from one
    thread. They copy the vectors, and compile nothing after the first one of
    them, until there are an eighth more candidates.

    An id is a whole number of 64 bits or a string, but neither -1 nor `""`:
    these fill up lists that are shorter than `k`.

    Example:

    ```python
    index = kdr.CandidateIndex.from_vectors([10, 20, 30], vectors)
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

    _catalogue: ExactCatalogue

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
        self._set(np.zeros(0, "int64"), StoredVectors.of(none, candidate_dtype))

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
        self._set(*self._given(candidate_ids, vectors))

    def add(self, candidate_ids, vectors) -> None:
        """Adds candidates that are not in the index yet, as in `assign`."""
        ids, stored = self._given(candidate_ids, vectors)
        self._catalogue = self._catalogue.with_more(ids, stored)

    def replace(self, candidate_ids, vectors) -> None:
        """Gives candidates that are in the index other vectors.

        Args:
            candidate_ids: Integers or strings, shape `(num_replaced,)`.
            vectors: Floats, shape `(num_replaced, dim)`.

        Raises:
            ValueError: If an id is not in the index, and as in `assign`.
        """
        ids, stored = self._given(candidate_ids, vectors)
        self._catalogue = self._catalogue.with_others(ids, stored)

    def remove(self, candidate_ids) -> None:
        """Removes candidates that are in the index.

        Args:
            candidate_ids: Integers or strings, shape `(num_removed,)`.

        Raises:
            ValueError: If an id is not in the index, or comes twice.
        """
        ids = as_ids("candidate_ids", candidate_ids)
        self._catalogue = self._catalogue.without(ids)

    def copy(self) -> "CandidateIndex":
        """An index of the same candidates; updates change one of the two."""
        other = CandidateIndex.from_config(self.get_config())
        other._catalogue = self._catalogue
        return other

    def catalogue(self) -> ExactCatalogue:
        """The candidates at this moment, which no update changes."""
        return self._catalogue

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
        return search_index.search(
            self._catalogue,
            query_vectors,
            k,
            exclude=exclude,
            allowed_ids=allowed_ids,
            excluded_rows=excluded_rows,
        )

    def ids(self) -> np.ndarray:
        """All ids in rising order, int64 or str, `(num_candidates,)`."""
        return self._catalogue.ids.array.copy()

    def rows(self, candidate_ids) -> np.ndarray:
        """Where in `ids()` each id stands, int32 `(num_ids,)`.

        -1 for an id that is not in the index. A row is good until candidates
        are assigned, added or removed.
        """
        ids = as_ids("candidate_ids", candidate_ids)
        in_index = self._catalogue.ids
        in_index.check_kind("candidate_ids", ids)
        return in_index.rows(ids)

    def vectors(self) -> np.ndarray:
        """The vectors of `ids()`, float32, `(num_candidates, dim)`.

        With the ids, all that another vector database needs: its score is the
        inner product.
        """
        return self._catalogue.stored.as_float32()

    def __len__(self) -> int:
        return len(self._catalogue.ids)

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
        stored = self._catalogue.stored
        rounded = stored.rounded
        store["vectors"] = rounded.view("uint16") if bits else rounded
        store["scales"] = stored.scales
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
        self._catalogue = ExactCatalogue(ids, stored, self.chunk_size)

    def _given(self, candidate_ids, vectors) -> tuple:
        """Ids as an array and their vectors as kept, checked."""
        ids = as_ids("candidate_ids", candidate_ids)
        refuse_padding_ids("candidate_ids", ids)
        vectors = as_vectors("vectors", vectors, self.embedding_dimension)
        if len(ids) != len(vectors):
            raise ValueError(
                "There must be one id for each vector. Received: "
                f"{len(ids)} ids and {len(vectors)} vectors."
            )
        # Of their own: the caller may go on to change the arrays.
        return ids.copy(), StoredVectors.of(vectors, self.candidate_dtype)
