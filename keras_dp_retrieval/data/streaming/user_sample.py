"""What some users have in a part and before it, in one pass over the files."""

import numpy as np

from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.moments import Moments
from keras_dp_retrieval.data.streaming.parallel import results_in_order


def interactions_of_users(
    columns: BlockColumns,
    moments: Moments,
    lookups: tuple[IdLookup, IdLookup],
    is_chosen: np.ndarray,
    blocks,
    part: int,
) -> tuple[Ratings, Interactions]:
    """Returns the interactions of some users in a part, and those before it.

    Args:
        columns: `BlockColumns`.
        moments: `Moments`.
        lookups: `IdLookup`s of users and candidates.
        is_chosen: bool `(num_users,)`. Whose.
        blocks: ints. Where there may be some.
        part: int. 0 for train, 1 for validation, 2 for test.
    """
    users, candidates = lookups
    keys = ["user_ids", "candidate_ids"]
    keys += ["timestamps"] * columns.has("timestamps")

    def read(block):
        found = columns.read(block, keys)
        rows = users.rows(found["user_ids"])
        chosen = np.flatnonzero(is_chosen[rows])
        times = found.get("timestamps", np.zeros(len(rows), np.int64))[chosen]
        ids = found["candidate_ids"]
        ids = ids[chosen] if isinstance(ids, np.ndarray) else ids.take(chosen)
        kept = rows[chosen], candidates.rows(ids), times
        return *kept, moments.parts(times)

    found = [
        np.concatenate(column)
        for column in zip(*results_in_order(read, blocks), strict=True)
    ]
    parts = found.pop()
    of_part, before = parts == part, parts < part
    rows, ids, times = (column[before] for column in found)
    seen = Interactions.from_ratings(
        Ratings(rows, ids, timestamps=times), len(is_chosen)
    )
    rows, ids, times = (column[of_part] for column in found)
    return Ratings(rows, ids, timestamps=times), seen
