"""One pass over all blocks: the ids, and how much of which part is where."""

import concurrent.futures
import dataclasses
import hashlib
import zlib
from typing import Protocol

import numpy as np

from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_tally import IdTally
from keras_dp_retrieval.data.streaming.moments import Moments
from keras_dp_retrieval.data.streaming.parallel import results_in_order
from keras_dp_retrieval.data.vocabulary import Vocabulary

IDS = ("user_ids", "candidate_ids")


@dataclasses.dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over the files found.

    Args:
        users: `Vocabulary`.
        candidates: `Vocabulary`.
        user_counts: int32 `(num_users, 3)`. Interactions of each row in the
            train, validation and test part.
        candidate_counts: int32 `(num_candidates, 3)`, likewise.
        block_counts: int64 `(num_blocks, 3)`. Interactions of each part in
            each block.
        digest: str. Differs where ids or their order do.
    """

    users: Vocabulary
    candidates: Vocabulary
    user_counts: np.ndarray
    candidate_counts: np.ndarray
    block_counts: np.ndarray
    digest: str

    def num_rows(self, part: str) -> int:
        """Interactions of a part."""
        return int(self.block_counts[:, PARTS.index(part)].sum())


class WithRows(Protocol):
    """Says who has a row beside those that the files have."""

    def check_type(self, key: str, ids: np.ndarray) -> None:
        """Raises a ValueError if ids are of another type than these."""

    def vocabulary(
        self, key: str, ids: np.ndarray, given: Vocabulary | None
    ) -> Vocabulary:
        """Returns all who have a row; `ids` are those of the files."""


def survey(
    columns: BlockColumns,
    moments: Moments,
    given: dict[str, Vocabulary],
    others: WithRows,
) -> Survey:
    """Reads ids and times of every block once.

    Args:
        columns: `BlockColumns`.
        moments: `Moments`.
        given: dict from `"user_ids"` and `"candidate_ids"` to a vocabulary,
            where it is known already.
        others: `WithRows`.

    Raises:
        ValueError: If something in a block does not fit, or has an id that a
            given vocabulary has not.
    """
    keys = [key for key in (*IDS, "timestamps") if columns.has(key)]
    tallies = {key: IdTally(key, len(PARTS)) for key in IDS}
    block_counts = np.zeros((len(columns), len(PARTS)), np.int64)
    digest = hashlib.sha256()

    def read(block):
        found = columns.read(block, keys)
        encoded = {key: columns.encoded(block, key, found[key]) for key in IDS}
        num_rows = len(encoded["user_ids"])
        times = found.get("timestamps")
        if times is None:
            parts = np.zeros(num_rows, np.int8)
        else:
            parts = moments.parts(times)
        checks = [
            zlib.crc32(np.ascontiguousarray(array).tobytes())
            for key in IDS
            for array in (encoded[key].ids, encoded[key].codes, parts)
        ]
        return encoded, parts, checks

    for block, (encoded, parts, checks) in enumerate(
        results_in_order(read, range(len(columns)))
    ):
        block_counts[block] = np.bincount(parts, minlength=len(PARTS))
        digest.update(np.array(checks, np.uint32).tobytes())
        for key in IDS:
            others.check_type(key, encoded[key].ids)
            tallies[key].add(encoded[key], parts)
    if not block_counts.sum():
        columns.blocks.filter_note(0)  # Says so if it is the filter's work.
        raise ValueError("There must be interactions. Received: none.")
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        (users, of_users), (candidates, of_candidates) = threads.map(
            lambda key: _with_rows(key, tallies[key], given.get(key), others),
            IDS,
        )
    return Survey(
        users,
        candidates,
        of_users,
        of_candidates,
        block_counts,
        digest.hexdigest(),
    )


def _with_rows(
    key: str, tally: IdTally, given: Vocabulary | None, others: WithRows
) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of ids, and the counts by row."""
    ids, counts = tally.result()
    vocabulary = others.vocabulary(key, ids, given)
    rows = vocabulary.rows(ids)
    if not rows.all():
        raise ValueError(
            f"`{key}` must have every id of the files. Received: "
            f"{np.count_nonzero(rows == 0):,} others in the files, such as "
            f"{ids[rows == 0][0]!r}. Add them, leave `{key}` out, or leave "
            "their rows out with `filters=`."
        )
    by_row = np.zeros((vocabulary.num_rows, counts.shape[1]), np.int32)
    by_row[rows] = counts
    return vocabulary, by_row
