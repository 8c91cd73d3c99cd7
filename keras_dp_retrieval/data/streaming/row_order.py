"""In which order the rows of an epoch come, by arithmetic alone.

The blocks of a part, in an order drawn from the seed and the epoch, are one
long row of rows. It is cut into shards of equal length, and every batch has an
equal share of each, in the order of the shards. Inside a shard, the rows of a
window are shuffled, which is one block or several.

So the batches depend on the files, the batch size, the seed and the epoch, and
not on how many processes there are; a process need read only the shards that
its rows of the batches are from; and what stands at any batch is known without
reading what comes before.
"""

import dataclasses

import numpy as np

_MOST_SHARDS = 16
_BLOCKS_A_SHARD = 4


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some rows of a part in one block.

    Args:
        block: int.
        start: int. The first, counting rows of the part alone.
        stop: int. The one after the last.
    """

    block: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def number_of_shards(num_blocks: int) -> int:
    """Into how many shards so many blocks are divided.

    A block on the edge of two shards is read for each, so there are several
    blocks to a shard. A power of two divides among usual numbers of processes.
    """
    most = max(num_blocks // _BLOCKS_A_SHARD, 1)
    return min(1 << (most.bit_length() - 1), _MOST_SHARDS)


class EpochOrder:
    """What each batch of an epoch is made of.

    Args:
        counts: int `(num_blocks,)`. Rows of the part in each block.
        batch_size: int. Rows of all batches but the last.
        window: int. Rows that are shuffled together, over all shards: at
            least these, as a window is made of whole blocks.
        seed: Optional ints: of the order. None keeps the order of the files.

    Attributes:
        num_batches: int.
        rows_in_last: int. Rows of the last batch.
        shares: int `(num_shards + 1,)`. Where the shares of the shards begin
            in a batch.
    """

    def __init__(self, counts, batch_size: int, window: int, seed=None):
        counts = np.asarray(counts, np.int64)
        self._seed = seed
        num_rows = int(counts.sum())
        self.batch_size = batch_size
        self.num_batches = -(-num_rows // batch_size)
        self.rows_in_last = num_rows - (self.num_batches - 1) * batch_size
        used = np.flatnonzero(counts)
        self._num_shards = number_of_shards(len(used))
        self.shares = (
            np.arange(self._num_shards + 1) * batch_size // self._num_shards
        )
        self._window = max(window // self._num_shards, 1)
        if seed is not None:
            used = np.random.default_rng(seed).permutation(used)
        self._blocks = used
        self._ends = np.cumsum(counts[used])
        # Where each shard begins: so many rows in each batch, and in the last
        # what that batch has of its share.
        in_last = np.minimum(self.shares, self.rows_in_last)
        self._bounds = (self.num_batches - 1) * self.shares + in_last

    @property
    def num_shards(self) -> int:
        return self._num_shards

    def rows_of(self, shard: int, batch: int) -> int:
        """How many rows a shard has in a batch."""
        start, stop = self.shares[shard], self.shares[shard + 1]
        if batch == self.num_batches - 1:
            stop = min(stop, self.rows_in_last)
        return max(int(stop - start), 0)

    def windows(self, shard: int) -> list[list[Piece]]:
        """The pieces that are shuffled together, in the order they come in."""
        windows: list[list[Piece]] = []
        room = 0
        for piece in self._pieces(shard):
            if room <= 0:
                windows.append([])
                room = self._window
            windows[-1].append(piece)
            room -= len(piece)
        return windows

    def _pieces(self, shard: int) -> list[Piece]:
        start, stop = map(int, self._bounds[shard : shard + 2])
        first = int(np.searchsorted(self._ends, start, side="right"))
        pieces = []
        while start < stop:
            end = int(self._ends[first])
            begin = int(self._ends[first - 1]) if first else 0
            until = min(end, stop)
            pieces.append(
                Piece(int(self._blocks[first]), start - begin, until - begin)
            )
            start, first = until, first + 1
        return pieces

    def place(self, shard: int, batch: int) -> tuple[int, int]:
        """Where a shard stands before a batch: a window, and a row in it."""
        share = int(self.shares[shard + 1] - self.shares[shard])
        row = batch * share
        for number, window in enumerate(self.windows(shard)):
            length = sum(map(len, window))
            if row < length:
                return number, row
            row -= length
        return len(self.windows(shard)), 0

    def shuffled(self, shard: int, window: int, num_rows: int) -> np.ndarray:
        """Returns int32 `(num_rows,)`, the order inside a window."""
        order = np.arange(num_rows, dtype=np.int32)
        if self._seed is not None:
            rng = np.random.default_rng([*self._seed, shard, window])
            rng.shuffle(order)
        return order
