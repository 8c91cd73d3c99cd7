"""Candidates at one moment, and exact search among them."""

import numpy as np

from keras_dp_retrieval.index.few_shapes import search_in_few_shapes
from keras_dp_retrieval.index.sorted_ids import SortedIds, some
from keras_dp_retrieval.index.stored_vectors import StoredVectors


class ExactCatalogue:
    """A `Catalogue` that scores every candidate.

    Args:
        ids: int64 or str `(num_candidates,)`, in any order.
        stored: `StoredVectors` of these ids.
        chunk_size: Optional int. Candidates scored at a time.

    Raises:
        ValueError: If an id comes twice.
    """

    def __init__(self, ids, stored: StoredVectors, chunk_size: int | None):
        self.chunk_size = chunk_size
        if (ids[1:] > ids[:-1]).all():  # As after most updates: no copy.
            self.ids, self.stored = SortedIds(ids), stored
            return
        self.ids, order = SortedIds.sort(ids)
        self.stored = stored.in_order(order)

    @property
    def embedding_dimension(self) -> int:
        return self.stored.rounded.shape[1]

    def with_more(self, ids, stored: StoredVectors) -> "ExactCatalogue":
        """These candidates and others."""
        if not len(self.ids):
            return ExactCatalogue(ids, stored, self.chunk_size)
        self.ids.check_kind("candidate_ids", ids)
        return ExactCatalogue(
            np.concatenate([self.ids.array, ids]),
            self.stored.with_more(stored),
            self.chunk_size,
        )

    def with_others(self, ids, stored: StoredVectors) -> "ExactCatalogue":
        """These candidates, some of them with other vectors."""
        rows = self.rows_of_all(ids)
        stored = self.stored.with_others(rows, stored)
        return ExactCatalogue(self.ids.array, stored, self.chunk_size)

    def without(self, ids) -> "ExactCatalogue":
        """These candidates but for some."""
        kept = np.delete(np.arange(len(self.ids)), self.rows_of_all(ids))
        return ExactCatalogue(
            self.ids.array[kept], self.stored.in_order(kept), self.chunk_size
        )

    def rows_of_all(self, ids) -> np.ndarray:
        """The row of each id; raises unless all are there, each once."""
        self.ids.check_kind("candidate_ids", ids)
        rows = self.ids.rows(ids)
        if (rows < 0).any():
            raise ValueError(
                "`candidate_ids` must be in the index. Received unknown ids: "
                f"{some(ids[rows < 0])}. Use `add()` for new ones."
            )
        SortedIds.sort(ids)  # Raises at one that comes twice.
        return rows

    def best_rows(self, queries, k, excluded_rows, allowed):
        """As `Catalogue` says; exact."""

        def search(queries, excluded_rows):
            return self.stored.top_k(
                queries, k, excluded_rows, allowed, self.chunk_size
            )

        return search_in_few_shapes(search, queries, excluded_rows)
