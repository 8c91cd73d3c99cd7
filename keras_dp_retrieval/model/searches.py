"""The search behind `recommend`: in the towers' vectors, or in an index."""

import functools
import weakref

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.index import search_index
from keras_dp_retrieval.index.exact import top_k
from keras_dp_retrieval.index.few_shapes import search_in_few_shapes
from keras_dp_retrieval.index.sorted_ids import as_ids
from keras_dp_retrieval.model import id_rows
from keras_dp_retrieval.model.candidate_filters import fulfilled
from keras_dp_retrieval.model.candidate_states import retrievable_rows
from keras_dp_retrieval.model.popular import popular_search
from keras_dp_retrieval.model.request_users import POPULAR
from keras_dp_retrieval.model.row_lists import joined, padded
from keras_dp_retrieval.training.finite import check_vectors

# By the ids of a catalogue, what `_table_rows` found last, which takes longer
# than a search: the model's vocabulary and size, and the rows.
_TABLE_ROWS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class Restrictions:
    """Which candidates a request may get.

    Args:
        model: `TwoTowerRetrieval`.
        num_users: int. Users of the request.
        exclude, allowed_ids, filters, unknown: As in
            `TwoTowerRetrieval.recommend`.

    Attributes:
        selected: Optional bool `(num_candidates,)`, by table row: those that
            `allowed_ids` and `filters` leave. None if they leave all.
        exclude: Optional list with the ids that each user does not get.

    Raises:
        ValueError: If they do not fit the model.
    """

    def __init__(
        self, model, num_users, exclude, allowed_ids, filters, unknown
    ):
        self._model = model
        self.exclude = _lists_of_ids(exclude, num_users)
        self.selected = None
        if filters is not None:
            self.selected = fulfilled(model, filters, unknown)
        if allowed_ids is not None:
            allowed = _mask(model, _allowed_rows(model, allowed_ids, unknown))
            if self.selected is not None:
                allowed &= self.selected
            self.selected = allowed

    @functools.cached_property
    def retrievable(self) -> np.ndarray:
        """Those that the model can recommend, bool `(num_candidates,)`."""
        mask = _mask(self._model, retrievable_rows(self._model))
        return mask if self.selected is None else mask & self.selected

    @functools.cached_property
    def excluded_rows(self) -> list | None:
        """`exclude` as table rows; ids that the model does not know are not."""
        if self.exclude is None:
            return None
        return [
            id_rows.known_candidate_rows(self._model, ids)
            for ids in self.exclude
        ]


class Search:
    """A search for users of each kind; what one needs is made when it is used.

    Args:
        model: `TwoTowerRetrieval`.
        restrictions: `Restrictions`.
        index: Optional `SearchIndex`. By default the towers' vectors.
    """

    def __init__(self, model, restrictions: Restrictions, index):
        self._model, self._restrictions = model, restrictions
        self._index = index

    def __call__(self, users, part: slice, k: int, exclude_seen: bool):
        """Returns `(ids, scores)` of some users, `(part, k)` each."""
        seen = users.seen(part) if exclude_seen else None
        is_popular = users.sources[part] == POPULAR
        if is_popular.all() and len(is_popular):
            return self._popular(len(is_popular), part, k, seen)
        vectors = users.vectors(part)
        check_vectors("user", vectors)
        found = self._of_vectors(vectors, part, k, seen)
        if not is_popular.any():
            return found
        popular = self._popular(len(is_popular), part, k, seen)
        return tuple(
            np.where(is_popular[:, None], one, other)
            for one, other in zip(popular, found, strict=True)
        )

    def _popular(self, num_users, part, k, seen):
        excluded = _excluded(seen, self._restrictions.excluded_rows, part)
        return self._of_popular(num_users, k, excluded)

    @functools.cached_property
    def _of_popular(self):
        return popular_search(self._model, self._restrictions.retrievable)

    @functools.cached_property
    def _of_vectors(self):
        if self._index is None:
            return _tower_search(self._model, self._restrictions)
        return _index_search(self._model, self._restrictions, self._index)


def _tower_search(model, restrictions):
    """Returns a search in the candidate tower's present vectors.

    That is a function `(vectors, part, k, seen) -> (ids, scores)`, where
    `part` is the slice of users that it is for, and `seen` None or the table
    rows of their seen items, int `(batch, length)`, padded with -1.
    """
    allowed = restrictions.retrievable
    candidates = model.candidate_vectors()
    check_vectors("candidate", candidates, allowed)

    def search(vectors, part, k, seen):
        def best(queries, excluded_rows):
            return top_k(
                queries,
                candidates,
                k,
                excluded_rows=excluded_rows,
                allowed=allowed,
            )

        excluded_rows = _excluded(seen, restrictions.excluded_rows, part)
        scores, rows = search_in_few_shapes(best, vectors, excluded_rows)
        return id_rows.candidate_ids(model, rows), scores

    return search


def _index_search(model, restrictions, index):
    """Returns a search like that of `_tower_search` in an index.

    What is in the index can be recommended, also what the model does not know.
    """
    catalogue = index.catalogue()
    expected = model.embedding_dimension + bool(model.popularity_weight)
    if catalogue.embedding_dimension != expected:
        raise ValueError(
            f"`index` must hold vectors of the length {expected}, as the "
            f"model makes them. Received: {catalogue.embedding_dimension}. "
            "Make it of `model.build_index()`."
        )
    allowed = excluded_rows = None
    if restrictions.selected is not None:
        table_rows = _table_rows(model, catalogue)
        allowed = restrictions.selected[table_rows] & (table_rows >= 0)
    if restrictions.exclude is not None:
        excluded_rows = [
            _rows_of(catalogue, as_ids("exclude", ids))
            for ids in restrictions.exclude
        ]

    def search(vectors, part, k, seen):
        if seen is not None:
            seen = _rows_in_catalogue(model, catalogue, seen)
        return search_index.search(
            catalogue,
            vectors,
            k,
            excluded_rows=_excluded(seen, excluded_rows, part),
            allowed=allowed,
        )

    return search


def _excluded(seen, excluded_rows, part) -> np.ndarray | None:
    """What some users do not get: what they have seen, and the others."""
    if excluded_rows is None:
        return seen
    return joined(seen, padded(excluded_rows[part]))


def _table_rows(model, catalogue) -> np.ndarray:
    """The table row of each row of a catalogue, -1 where there is none."""
    ids, vocabulary = catalogue.ids, model.candidate_vocabulary
    kept = _TABLE_ROWS.get(ids)
    if kept is not None and kept[0] is vocabulary:
        if kept[1] == model.num_candidates:
            return kept[2]
    rows = np.full(len(ids), PADDING, "int32")
    is_known = id_rows.known_candidates(model, ids.array)
    rows[is_known] = id_rows.known_candidate_rows(model, ids.array)
    _TABLE_ROWS[ids] = vocabulary, model.num_candidates, rows
    return rows


def _rows_in_catalogue(model, catalogue, table_rows) -> np.ndarray:
    """Where the candidates of table rows stand; -1 if nowhere."""
    # Each once: users have the same few in common.
    rows, inverse = np.unique(table_rows, return_inverse=True)
    first = 0 if model.candidate_vocabulary is None else 1
    known = rows >= first
    found = np.full(len(rows), PADDING, "int32")
    ids = id_rows.candidate_ids(model, rows[known])
    found[known] = _rows_of(catalogue, ids)
    return found[inverse].reshape(table_rows.shape)


def _rows_of(catalogue, ids) -> np.ndarray:
    catalogue.ids.check_kind("candidate_ids", ids)
    return catalogue.ids.rows(ids)


def _allowed_rows(model, allowed_ids, unknown) -> np.ndarray:
    if not _checks.is_listed(allowed_ids):
        raise ValueError(
            "`allowed_ids` must be a list or an array of candidate ids. "
            f"Received: {_checks.shown(allowed_ids):.80}."
        )
    rows_of = id_rows.candidate_rows
    if unknown == POPULAR:
        rows_of = id_rows.known_candidate_rows
    return rows_of(model, allowed_ids)


def _mask(model, rows) -> np.ndarray:
    mask = np.zeros(model.num_candidates, bool)
    mask[rows] = True
    return mask


def _lists_of_ids(exclude, num_users) -> list | None:
    if exclude is None:
        return None
    lists = list(exclude) if _checks.is_listed(exclude) else None
    if (
        lists is None
        or len(lists) != num_users
        or not all(map(_checks.is_listed, lists))
    ):
        raise ValueError(
            "`exclude` must be a list of lists of candidate ids, one for each "
            f"of the {num_users} users. Received: "
            f"{_checks.shown(exclude):.80}."
        )
    return lists
