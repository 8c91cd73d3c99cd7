"""What every user did before each interaction, in memory as flat arrays."""

import numpy as np

from keras_dp_retrieval.data.orders import user_order
from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.parallel import results_in_order

# Interactions that are put in order at a time, but for a user who has more.
_AT_A_TIME = 2**20


class UserTimelines:
    """Looks up the history that a user had at the time of an interaction.

    That is what the user did strictly before: what has the time of the
    interaction itself is left out, wherever it stands in the files, and so is
    the interaction. Those of one earlier time stand in the order of the
    files.

    Takes 8 bytes for an interaction and 8 for a user.

    Args:
        starts: int64 `(num_users + 1,)`. Where each user's interactions begin
            in `candidate_rows`.
        candidate_rows: int32 `(num_interactions + max_history,)`. The
            candidates of each user, oldest first; what stands behind the last
            one does not matter.
        ranks: int32 `(num_interactions,)`, in the order of the files. How many
            earlier interactions the user has.
        offsets: int64 `(num_blocks + 1,)`. Where each block begins in `ranks`.
        max_history: int. Histories are truncated to this many of the latest.
    """

    def __init__(self, starts, candidate_rows, ranks, offsets, max_history):
        self.max_history = max_history
        self._starts = starts
        self._ranks = ranks
        self._offsets = offsets
        # A view: window `i` is what stands at `i` and behind.
        self._windows = np.lib.stride_tricks.sliding_window_view(
            candidate_rows, max_history
        )

    def ranks_in(self, block: int, rows) -> np.ndarray:
        """Returns the ranks of some rows of a block, int32 `(n,)`.

        Args:
            block: int.
            rows: int `(n,)`, or a slice.
        """
        first, last = self._offsets[block : block + 2]
        return self._ranks[first:last][rows]

    def before(self, user_rows, ranks) -> np.ndarray:
        """Returns histories, int32 `(..., max_history)`.

        Args:
            user_rows: int `(...)`.
            ranks: int `(...)`, of one interaction of each user.

        Returns:
            Candidate rows, oldest first, padded at the end with -1.
        """
        ends = self._starts[user_rows] + ranks
        lengths = np.minimum(ranks, self.max_history)
        found = self._windows[ends - lengths]
        places = np.arange(self.max_history)
        np.copyto(found, PADDING, where=places >= lengths[..., None])
        return found


def read_timelines(
    columns: BlockColumns,
    lookups: tuple[IdLookup, IdLookup],
    user_counts: np.ndarray,
    block_counts: np.ndarray,
    max_history: int,
) -> UserTimelines:
    """Reads ids and times of every block once.

    Takes 8 bytes for an interaction beside what it returns.

    Args:
        columns: `BlockColumns`, with time stamps.
        lookups: `IdLookup`s of users and candidates.
        user_counts: int `(num_users,)`. Interactions of each user.
        block_counts: int `(num_blocks,)`. Interactions in each block.
        max_history: int. As in `UserTimelines`.
    """
    starts, offsets = (
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        for counts in (user_counts, block_counts)
    )
    num_rows = int(starts[-1])
    candidates = np.zeros(num_rows + max_history, np.int32)
    times = np.empty(num_rows, np.int64)
    # Where each interaction stands in the two; then its rank, in its place.
    places = np.empty(num_rows, np.int32 if num_rows < 2**31 else np.int64)
    free = starts[:-1].copy()
    blocks = results_in_order(
        lambda block: _by_user(columns, lookups, block), range(len(columns))
    )
    for offset, (order, users, rows, moments) in zip(
        offsets[:-1], blocks, strict=True
    ):
        taken = _take_places(users, free)
        candidates[taken] = rows
        times[taken] = moments
        places[offset + order] = taken
    _replace_times_by_ranks(times, candidates, starts)
    _replace_places_by_ranks(places, times)
    ranks = places.astype(np.int32, copy=False)
    return UserTimelines(starts, candidates, ranks, offsets, max_history)


def _by_user(columns, lookups, block: int) -> tuple:
    """A block sorted by user: the order, users, candidates, and times."""
    found = columns.read(block, ["user_ids", "candidate_ids", "timestamps"])
    users, rows = (
        lookup.rows(found[key])
        for lookup, key in zip(
            lookups, ("user_ids", "candidate_ids"), strict=True
        )
    )
    order = user_order(Ratings(users, rows))
    return order, users[order], rows[order], found["timestamps"][order]


def _take_places(users: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The next free place of each of sorted users, int64 `(n,)`.

    Args:
        users: int `(n,)`, sorted.
        free: int64 `(num_users,)`. The first free places, which are moved on.
    """
    is_first = np.ones(len(users), bool)
    is_first[1:] = users[1:] != users[:-1]
    firsts = np.flatnonzero(is_first)
    counts = np.diff(np.append(firsts, len(users)))
    distinct = users[firsts]
    moved = np.repeat(free[distinct] - firsts, counts)
    free[distinct] += counts
    return moved + np.arange(len(users))


def _replace_times_by_ranks(times, candidates, starts) -> None:
    """Sorts each user's candidates by time; times become ranks.

    The ranks stay where the times were, so that they are those of the
    interactions in the order of the files.
    """
    marks = np.arange(0, len(times) + _AT_A_TIME, _AT_A_TIME)
    bounds = np.unique(np.searchsorted(starts[:-1], marks))

    def replace(share):
        users = slice(bounds[share], bounds[share + 1])
        ends = starts[users.start : users.stop + 1]
        part = slice(ends[0], ends[-1])
        counts = np.diff(ends)
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        found = times[part]
        order = user_order(Ratings(rows, candidates[part], timestamps=found))
        candidates[part] = candidates[part][order]
        found = found[order]
        is_later = np.ones(len(rows), bool)
        is_later[1:] = (rows[1:] != rows[:-1]) | (found[1:] != found[:-1])
        places = np.arange(len(rows))
        since = np.maximum.accumulate(np.where(is_later, places, 0))
        times[part.start + order] = since - (ends[:-1] - ends[0])[rows]

    for _ in results_in_order(replace, range(len(bounds) - 1)):
        pass


def _replace_places_by_ranks(places, ranks) -> None:
    def replace(start):
        part = slice(start, start + _AT_A_TIME)
        places[part] = ranks[places[part]]

    for _ in results_in_order(replace, range(0, len(places), _AT_A_TIME)):
        pass
