"""What is recommended to somebody of whom nothing is known: what is popular."""

import numpy as np
from keras import ops

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.model import id_rows


def popular_search(model, allowed):
    """Returns a search for the candidates that training had most often.

    Args:
        model: `TwoTowerRetrieval`.
        allowed: bool `(num_candidates,)`. Others are in no list.

    Returns:
        A function `(num_users, k, excluded_rows) -> (ids, scores)`, where
        `excluded_rows` are None or int `(num_users, length)`, padded with -1.
        The score is `log1p(count)`; equal counts go by the lower row. Short
        lists are filled up as those of `recommend`.
    """
    rows_of = popular_rows(model, allowed)

    def search(num_users, k, excluded_rows):
        rows, scores = rows_of(num_users, k, excluded_rows)
        return id_rows.candidate_ids(model, rows), scores

    return search


def popular_rows(model, allowed):
    """Returns the same search, which finds table rows, -1 for padding."""
    counts = ops.convert_to_numpy(model.candidate_counts)
    rows = np.flatnonzero(allowed)

    def search(num_users, k, excluded_rows):
        num_excluded = 0 if excluded_rows is None else excluded_rows.shape[1]
        best = _most_frequent(rows, counts, k + num_excluded)
        left_out = _left_out(best, num_users, excluded_rows)
        chosen = np.argsort(left_out, axis=1, kind="stable")[:, :k]
        is_left = ~np.take_along_axis(left_out, chosen, axis=1)
        found = np.full((num_users, k), PADDING, "int32")
        scores = np.full((num_users, k), -np.inf, "float32")
        filled = chosen.shape[1]
        found[:, :filled] = np.where(is_left, best[chosen], PADDING)
        scores[:, :filled] = np.where(
            is_left, np.log1p(counts[best[chosen]]), -np.inf
        )
        return found, scores

    return search


def _most_frequent(rows, counts, most: int) -> np.ndarray:
    """Up to `most` of the rows by falling count, equal ones rising."""
    # One number that has both, so that not all of a catalogue are sorted.
    keys = (counts[rows].astype("int64") << 32) - rows
    if most < len(rows):
        places = np.argpartition(-keys, most)[:most]
        rows, keys = rows[places], keys[places]
    return rows[np.argsort(-keys)]


def _left_out(best, num_users: int, excluded_rows) -> np.ndarray:
    """Which of the rows `best` are among each user's; `(num_users, best)`."""
    left_out = np.zeros((num_users, len(best) + 1), bool)
    if excluded_rows is not None and len(best):
        by_row = np.argsort(best)
        places = np.searchsorted(best, excluded_rows, sorter=by_row)
        places = by_row[np.minimum(places, len(best) - 1)]
        # What is not among them is written to a last column, and forgotten.
        places = np.where(best[places] == excluded_rows, places, len(best))
        np.put_along_axis(left_out, places, True, axis=1)
    return left_out[:, :-1]
