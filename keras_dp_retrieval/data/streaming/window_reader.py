"""Rows of one part, read window by window, some of them ahead."""

import concurrent.futures

import numpy as np

from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.moments import Moments
from keras_dp_retrieval.data.streaming.parallel import NUM_THREADS
from keras_dp_retrieval.data.streaming.row_order import EpochOrder, Piece
from keras_dp_retrieval.data.streaming.user_timelines import UserTimelines


class PartReader:
    """Reads pieces of a part as columns of table rows.

    Args:
        columns: `BlockColumns`.
        moments: `Moments`.
        part: int. 0 for train, 1 for validation, 2 for test.
        block_counts: int `(num_blocks, 3)`.
        users: `IdLookup`.
        candidates: `IdLookup`.
        rating_range: The ratings that become 0 and 1.
        timelines: Optional `UserTimelines`. With it, a last column has the
            rank of each row.

    Attributes:
        keys: Names of the columns.
    """

    def __init__(
        self,
        columns: BlockColumns,
        moments: Moments,
        part: int,
        block_counts: np.ndarray,
        users: IdLookup,
        candidates: IdLookup,
        rating_range: tuple[float, float],
        timelines: UserTimelines | None = None,
    ):
        self._columns = columns
        self._moments = moments
        self._part = part
        self._block_counts = block_counts
        self._lookups = {"user_ids": users, "candidate_ids": candidates}
        self._rating_range = rating_range
        self.timelines = timelines
        self._in_files = [
            key
            for key in ("user_ids", "candidate_ids", "ratings", "weights")
            if columns.has(key)
        ]
        self.keys = [*self._in_files, *["ranks"] * (timelines is not None)]

    @property
    def counts(self) -> np.ndarray:
        """int64 `(num_blocks,)`: rows of the part in each block."""
        return self._block_counts[:, self._part]

    def read(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Returns the columns of some pieces, one behind the other."""
        read = [self._read(piece) for piece in pieces]
        return [np.concatenate(column) for column in zip(*read, strict=True)]

    def _read(self, piece: Piece) -> list[np.ndarray]:
        counts = self._block_counts[piece.block]
        is_mixed = bool(counts.sum() > counts[self._part])
        found = self._columns.read(
            piece.block, [*self._in_files, *["timestamps"] * is_mixed]
        )
        rows: slice | np.ndarray = slice(piece.start, piece.stop)
        if is_mixed:
            parts = self._moments.parts(found["timestamps"])
            rows = np.flatnonzero(parts == self._part)[rows]
        read = [
            self._as_read(key, _taken(found[key], rows))
            for key in self._in_files
        ]
        if self.timelines is not None:
            read.append(self.timelines.ranks_in(piece.block, rows))
        return read

    def _as_read(self, key: str, column) -> np.ndarray:
        if key in self._lookups:
            return self._lookups[key].rows(column)
        if key == "ratings":
            low, high = self._rating_range
            return (column - low) / np.float32(high - low)
        return column


def _taken(column, rows):
    """Some entries of an array, or of a column of Arrow."""
    if isinstance(column, np.ndarray):
        return column[rows]
    if isinstance(rows, slice):
        return column.slice(rows.start, rows.stop - rows.start)
    return column.take(rows)


class Windows:
    """The windows of an epoch, each read once and forgotten when used up.

    Args:
        reader: `PartReader`.
        order: `EpochOrder`.
    """

    def __init__(self, reader: PartReader, order: EpochOrder):
        self.order = order
        self._reader = reader
        self._threads = concurrent.futures.ThreadPoolExecutor(NUM_THREADS)
        self._pieces: dict[int, list[list[Piece]]] = {}
        self._reading: dict[tuple[int, int], concurrent.futures.Future] = {}

    def start(self, shard: int, window: int) -> None:
        """Has a window read in the background, if there is such a one."""
        if shard not in self._pieces:
            self._pieces[shard] = self.order.windows(shard)
        known = (shard, window) in self._reading
        if window < len(self._pieces[shard]) and not known:
            self._reading[shard, window] = self._threads.submit(
                self._read, shard, window
            )

    def _read(self, shard: int, window: int) -> list[np.ndarray]:
        columns = self._reader.read(self._pieces[shard][window])
        order = self.order.shuffled(shard, window, len(columns[0]))
        return [np.take(column, order) for column in columns]

    def columns(self, shard: int, window: int) -> list[np.ndarray]:
        """Returns the columns of a window, in its order."""
        self.start(shard, window)
        return self._reading[shard, window].result()

    def forget(self, shard: int, window: int) -> None:
        """Frees the memory of a window."""
        del self._reading[shard, window]

    def keep(self, shards) -> None:
        """Forgets what is read of all other shards."""
        for shard, window in list(self._reading):
            if shard not in shards:
                self._reading.pop((shard, window)).cancel()

    def close(self) -> None:
        """Ends reading."""
        self._reading.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
