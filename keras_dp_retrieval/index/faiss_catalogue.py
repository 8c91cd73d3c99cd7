"""Candidates at one moment, and FAISS' search among them."""

import threading

import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.index.exact_catalogue import ExactCatalogue
from keras_dp_retrieval.index.faiss_kinds import FaissSettings, faiss

# How much wider a second search is than the first.
WIDER = 4

# The most that a search is widened because few candidates are allowed; where
# there are fewer still, scoring them all is not much slower.
MOST_WIDENED = 16


class SearchCounts:
    """How many queries there were, and how they were answered."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts = {"num_queries": 0, "num_widened": 0, "num_exact": 0}

    def add(self, num_queries: int, num_widened: int, num_exact: int):
        with self._lock:
            self._counts["num_queries"] += num_queries
            self._counts["num_widened"] += num_widened
            self._counts["num_exact"] += num_exact

    def as_dict(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)


class FaissCatalogue:
    """A `Catalogue` that FAISS searches.

    FAISS numbers vectors as they come, its *positions*: a candidate that is
    replaced gets a new one, and the position of one that is gone stays, hidden.

    Args:
        exact: `ExactCatalogue` of the same candidates.
        settings: `FaissSettings`.
        index: FAISS' index. It may have more positions than are known here.
        row_of_position: int64 `(num_positions,)`; -1 where it is hidden.
        counts: `SearchCounts`, or None.
        lock: Held while FAISS' index is searched, or changed.
    """

    def __init__(
        self,
        exact: ExactCatalogue,
        settings: FaissSettings,
        index,
        row_of_position: np.ndarray,
        counts: SearchCounts | None,
        lock,
    ):
        self.exact, self.settings = exact, settings
        self.ids = exact.ids
        self.counts = counts
        self._index, self._lock = index, lock
        self._row_of_position = row_of_position

    @property
    def embedding_dimension(self) -> int:
        return self.exact.embedding_dimension

    @classmethod
    def built(cls, exact, settings, counts) -> "FaissCatalogue":
        """Builds FAISS' index of all candidates."""
        return cls(
            exact,
            settings,
            settings.build(exact.stored.as_float32()),
            np.arange(len(exact.ids)),
            counts,
            threading.Lock(),
        )

    def following(self, exact: ExactCatalogue, new_rows) -> "FaissCatalogue":
        """The candidates of `exact`, of which `new_rows` are new or replaced.

        Args:
            exact: `ExactCatalogue`.
            new_rows: int `(num_new,)`.
        """
        num_positions = len(self._row_of_position) + len(new_rows)
        if num_positions > 2 * len(exact.ids):
            return FaissCatalogue.built(exact, self.settings, self.counts)
        row_of_position = np.full(num_positions, PADDING)
        shown = np.flatnonzero(self._row_of_position >= 0)
        kept = exact.ids.rows(self.ids.array[self._row_of_position[shown]])
        kept[np.isin(kept, new_rows)] = PADDING
        row_of_position[shown] = kept
        if len(new_rows):
            row_of_position[-len(new_rows) :] = new_rows
            with self._lock:
                self._index.add(exact.stored.as_float32(new_rows))
        return FaissCatalogue(
            exact,
            self.settings,
            self._index,
            row_of_position,
            self.counts,
            self._lock,
        )

    def uncounted(self) -> "FaissCatalogue":
        """The same candidates, whose searches are not counted."""
        return FaissCatalogue(
            self.exact,
            self.settings,
            self._index,
            self._row_of_position,
            None,
            self._lock,
        )

    def best_rows(self, queries, k, excluded_rows, allowed):
        """As `Catalogue` says, but for the candidates that FAISS misses."""
        num_allowed = len(self.ids) if allowed is None else int(allowed.sum())
        to_find = np.full(len(queries), num_allowed)
        if excluded_rows is not None:
            to_find -= _number_excluded(excluded_rows, allowed)
        to_find = np.minimum(to_find, k)
        widening = 1.0
        if self.settings.is_approximate:
            widening = len(self.ids) / max(num_allowed, 1)
        scores = np.full((len(queries), k), -np.inf, "float32")
        rows = np.full((len(queries), k), PADDING, "int32")
        left = np.flatnonzero(to_find)
        widened: np.ndarray = left[:0]
        if widening <= MOST_WIDENED:
            widened = left if widening > 1 else widened
            for factor in (widening, widening * WIDER):
                if not len(left):
                    break
                widened = np.union1d(widened, left if factor > 1 else [])
                excluded = _of(excluded_rows, left)
                width = k if excluded is None else k + excluded.shape[1]
                scores[left], rows[left] = self._found(
                    queries[left], k, width, factor, excluded, allowed
                )
                num_found = (rows[left] >= 0).sum(axis=1)
                left = left[num_found < to_find[left]]
        if len(left):
            scores[left], rows[left] = self.exact.best_rows(
                queries[left], k, _of(excluded_rows, left), allowed
            )
        if self.counts is not None:
            num_widened = len(np.setdiff1d(widened, left))
            self.counts.add(len(queries), num_widened, len(left))
        return scores, rows

    def _found(self, queries, k, width, factor, excluded_rows, allowed):
        """The best that FAISS finds, as `best_rows` returns them."""
        width = min(width, len(self.ids))
        selector = self._selector(allowed)
        parameters = self.settings.parameters(selector, width, factor)
        with self._lock:
            found, positions = self._index.search(
                np.ascontiguousarray(queries), width, params=parameters
            )
        rows = np.append(self._row_of_position, PADDING)[positions]
        if excluded_rows is not None:
            rows[_is_excluded(rows, excluded_rows, len(self.ids))] = PADDING
        scores = np.where(rows >= 0, found, np.float32("-inf"))
        # What is hidden last, then by falling score, then by rising row.
        order = np.lexsort((rows, -scores, rows < 0), axis=1)[:, :k]
        scores, rows = (
            np.take_along_axis(one, order, axis=1) for one in (scores, rows)
        )
        missing = ((0, 0), (0, k - order.shape[1]))
        return (
            np.pad(scores, missing, constant_values=-np.inf),
            np.pad(rows, missing, constant_values=PADDING),
        )

    def _selector(self, allowed):
        """What tells FAISS which positions there are; None if all are."""
        shown = self._row_of_position >= 0
        if allowed is not None:
            shown = shown & allowed[self._row_of_position]
        elif shown.all() and len(shown) == self._index.ntotal:
            return None
        bits = np.packbits(shown, bitorder="little")
        return faiss().IDSelectorBitmap(bits)


def _number_excluded(excluded_rows, allowed) -> np.ndarray:
    """How many allowed candidates each query does not get, `(batch,)`."""
    in_order = np.sort(excluded_rows, axis=1)
    counted = in_order >= 0
    counted[:, 1:] &= in_order[:, 1:] > in_order[:, :-1]
    if allowed is not None:
        counted &= allowed[in_order]
    return counted.sum(axis=1)


def _is_excluded(rows, excluded_rows, num_rows: int) -> np.ndarray:
    """Which of `rows`, `(batch, width)`, are among each query's excluded."""
    query = np.arange(len(rows))[:, None] * np.int64(num_rows)
    excluded = (query + excluded_rows)[excluded_rows >= 0]
    return np.isin(query + rows, excluded) & (rows >= 0)


def _of(excluded_rows, queries):
    """The excluded rows of some queries, no wider than they need be."""
    if excluded_rows is None:
        return None
    of_these = excluded_rows[queries]
    longest = (of_these >= 0).sum(axis=1).max(initial=0)
    return np.sort(of_these, axis=1)[:, of_these.shape[1] - longest :]
