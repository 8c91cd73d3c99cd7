"""What every index can do, and the search that all of them have in common."""

from typing import Protocol

import numpy as np

from keras_dp_retrieval.index.exact import check_k
from keras_dp_retrieval.index.sorted_ids import SortedIds
from keras_dp_retrieval.index.stored_vectors import as_vectors


class Catalogue(Protocol):
    """The candidates of an index at one moment, which no update changes.

    A row is the place of a candidate's id in `ids`, and stays good however
    the index changes.

    Attributes:
        ids: `SortedIds`.
    """

    ids: SortedIds

    @property
    def embedding_dimension(self) -> int:
        """Length of a vector."""

    def best_rows(
        self, queries, k: int, excluded_rows, allowed
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `k` best candidates for each query.

        Args:
            queries: float32 `(batch, dim)`, finite.
            k: int.
            excluded_rows: Optional int32 `(batch, num_excluded)`: rows that
                the query does not get, padded with -1.
            allowed: Optional bool `(num_candidates,)`: rows with False are
                returned for no query.

        Returns:
            `(scores, rows)`, float32 and int32 `(batch, k)`, best first, equal
            scores by rising row; minus infinity and -1 where there are no
            more.
        """


class SearchIndex(Protocol):
    """Candidates that can be searched: exactly or approximately.

    `CandidateIndex` and `FaissIndex` are such, and `recommend` takes any.
    """

    embedding_dimension: int

    def catalogue(self) -> Catalogue:
        """The candidates at this moment."""

    def search(
        self, query_vectors, k: int = 10, *, exclude=None, allowed_ids=None
    ):
        """Ids and scores of the best, as in `CandidateIndex.search`."""

    def add(self, candidate_ids, vectors) -> None:
        """Adds candidates that are not in the index yet."""

    def replace(self, candidate_ids, vectors) -> None:
        """Gives candidates that are in the index other vectors."""

    def remove(self, candidate_ids) -> None:
        """Removes candidates that are in the index."""


def search(
    catalogue: Catalogue,
    query_vectors,
    k: int,
    *,
    exclude=None,
    allowed_ids=None,
    excluded_rows=None,
    allowed=None,
):
    """What `CandidateIndex.search` says, among the candidates of a catalogue.

    Args:
        catalogue: `Catalogue`.
        query_vectors: Floats, shape `(batch, dim)`.
        k: int.
        exclude, allowed_ids, excluded_rows: As in `CandidateIndex.search`.
        allowed: Optional bool `(num_candidates,)`: instead of `allowed_ids`,
            which rows are.
    """
    ids = catalogue.ids
    if not len(ids):
        raise ValueError(
            "The index has no candidates to search. Use `assign()` or "
            "`add()` first."
        )
    k = check_k(k, len(ids))
    queries = as_vectors(
        "query_vectors", query_vectors, catalogue.embedding_dimension
    )
    if exclude is not None and excluded_rows is not None:
        raise ValueError(
            "Give either `exclude` or `excluded_rows`. Received: both."
        )
    if exclude is not None:
        excluded_rows = ids.rows_of_each(exclude, len(queries))
    elif excluded_rows is not None:
        excluded_rows = ids.known_rows(excluded_rows, len(queries))
    if allowed is None:
        allowed = ids.mask(allowed_ids)
    scores, rows = catalogue.best_rows(queries, k, excluded_rows, allowed)
    return ids.of_rows(rows), scores
