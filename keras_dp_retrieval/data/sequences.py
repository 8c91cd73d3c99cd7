"""What came next, many targets of a user in one example."""

import numpy as np

from keras_dp_retrieval.data.examples import (
    BatchesLookedUp,
    refuse_no_next_items,
)
from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.data.pipelines import EpochShuffle
from keras_dp_retrieval.data.timeline import Timeline


def by_sequence(
    timeline: Timeline,
    example,
    epochs_seed: int,
    batch_size: int,
    max_length: int,
):
    """Returns `BatchesLookedUp` of each piece of a user's history.

    Its columns are users, the lengths of their histories before each target,
    and the targets, padded with 0 and -1. It has the timeline.
    """
    pieces = Pieces(timeline, max_length)
    epochs = EpochShuffle(len(pieces), epochs_seed)
    return BatchesLookedUp(
        pieces.look_up, example, epochs, batch_size, timeline
    )


class Pieces:
    """Each target of a timeline once, in pieces of `max_length` items.

    A target is an interaction with others before it. A piece is the history up
    to its last target, of which a tower reads the latest `max_length` items;
    the next piece has as its targets at most half as many more.

    Args:
        timeline: `Timeline`.
        max_length: int.
    """

    def __init__(self, timeline: Timeline, max_length: int):
        later = np.flatnonzero(timeline.lengths)
        if not len(later):
            refuse_no_next_items(timeline)
        self._timeline = timeline
        self._max_length = min(max_length, int(timeline.lengths.max()))
        users, lengths = timeline.user_rows[later], timeline.lengths[later]
        is_first = np.append(True, users[1:] != users[:-1])
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(later)) - 1
        # Where the user's history begins in `candidate_rows`.
        begin = timeline.indices[later[firsts]] - lengths[firsts]
        numbers, first_end, step = _divided(
            lengths[firsts], lengths[lasts], self._max_length
        )
        of = np.repeat(np.arange(len(firsts)), numbers)
        number = np.arange(len(of)) - np.repeat(
            np.cumsum(numbers) - numbers, numbers
        )
        self._users = users[firsts][of]
        self._begin = begin[of]
        ends = np.minimum(first_end[of] + number * step, lengths[lasts][of])
        self._ends = ends
        # The history before the first target of the piece.
        self._first_lengths = np.where(
            number == 0,
            lengths[firsts][of],
            first_end[of] + step * (number - 1) + 1,
        )

    def __len__(self):
        return len(self._users)

    def look_up(self, indices) -> list[np.ndarray]:
        """Returns `[users, lengths, targets]` of some pieces.

        int32 `(batch,)`; and `(batch, max_length)` each: column `c` belongs to
        item `c` of the history that a tower reads.
        """
        ends = self._ends[indices, None]
        starts = np.maximum(ends - self._max_length, 0)
        lengths = starts + np.arange(1, self._max_length + 1)
        is_target = (lengths >= self._first_lengths[indices, None]) & (
            lengths <= ends
        )
        at = np.where(is_target, self._begin[indices, None] + lengths, 0)
        targets = np.where(
            is_target, self._timeline.candidate_rows[at], PADDING
        )
        return [
            self._users[indices],
            np.where(lengths <= ends, lengths, 0).astype("int32"),
            targets.astype("int32"),
        ]


def num_pieces(num_interactions, max_length: int) -> int:
    """How many pieces there are, without a timeline.

    Args:
        num_interactions: int `(num_users,)`. Of each user.
        max_length: int. As in `Pieces`.
    """
    lasts = np.asarray(num_interactions) - 1
    lasts = lasts[lasts > 0]
    max_length = min(max_length, int(lasts.max(initial=1)))
    numbers, _, _ = _divided(np.ones_like(lasts), lasts, max_length)
    return int(numbers.sum())


def _divided(firsts, lasts, max_length: int):
    """Divides each user's targets, from one history length to another.

    Returns:
        `(numbers, first_end, step)`: the pieces of each, the length of the
        history before the first piece's last target, and what the next pieces
        go on by.
    """
    step = max(max_length // 2, 1)
    first_end = np.maximum(firsts - 1 + step, max_length)
    first_end = np.minimum(first_end, lasts)
    return 1 - (first_end - lasts) // step, first_end, step  # Rounded up.
