"""Which ids there are, and how often in each part, found block by block."""

import numpy as np

from keras_dp_retrieval.data.encoded_ids import EncodedIds

# Ids up to this are counted in a table with an entry for each number.
_LONGEST_TABLE = 2**25
# Otherwise blocks are put together when so many ids, or as many as are known,
# wait for it: each is then sorted again a few times at most.
_WAITING = 2**22


class IdTally:
    """Counts ids in memory that follows the distinct ones.

    Args:
        name: str. How errors call the column.
        num_parts: int.
    """

    def __init__(self, name: str, num_parts: int):
        self._name = name
        self._num_parts = num_parts
        self._kind: str | None = None
        self._table = np.zeros((0, num_parts), np.int32)
        self._ids: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        self._num_known = self._num_waiting = 0

    def add(self, encoded: EncodedIds, parts: np.ndarray) -> None:
        """Counts a column.

        Args:
            encoded: `EncodedIds`.
            parts: int `(n,)`. The part of each entry.

        Raises:
            ValueError: If there are strings, and whole numbers were before,
                or the other way round.
        """
        if not len(encoded):
            return
        kind = encoded.ids.dtype.kind
        if self._kind not in (None, kind):
            raise ValueError(
                f"`{self._name}` must be all whole numbers or all strings. "
                "Received: both."
            )
        self._kind = kind
        counts = self.counts(encoded, parts)
        if kind == "i" and encoded.ids[0] >= 0:
            if encoded.ids[-1] < _LONGEST_TABLE:
                self._add_to_table(encoded.ids, counts)
                return
        self._ids.append(encoded.ids)
        self._counts.append(counts)
        self._num_waiting += len(encoded.ids)
        if self._num_waiting > max(_WAITING, self._num_known):
            self._merge()

    def counts(self, encoded: EncodedIds, parts: np.ndarray) -> np.ndarray:
        """int32 `(num_distinct, num_parts)`: how often each id occurs."""
        cells = encoded.codes * np.int64(self._num_parts) + parts
        counts = np.bincount(
            cells, minlength=len(encoded.ids) * self._num_parts
        )
        return counts.reshape(-1, self._num_parts).astype(np.int32)

    def _add_to_table(self, ids: np.ndarray, counts: np.ndarray) -> None:
        longest = int(ids[-1]) + 1
        if longest > len(self._table):
            room = min(max(longest, 2 * len(self._table)), _LONGEST_TABLE)
            grown = np.zeros((room, self._num_parts), np.int32)
            grown[: len(self._table)] = self._table
            self._table = grown
        self._table[ids] += counts

    def _merge(self) -> None:
        if len(self._ids) < 2:
            return
        ids = np.concatenate(self._ids)
        counts = np.concatenate(self._counts)
        self._ids, self._counts = [], []
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        is_new = np.concatenate([[True], ids[1:] != ids[:-1]])
        starts = np.flatnonzero(is_new)
        self._ids = [ids[starts]]
        self._counts = [np.add.reduceat(counts[order], starts, axis=0)]
        self._num_known, self._num_waiting = len(starts), 0

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(ids, counts)`: all ids, sorted, and int32 counts of each.

        The counts have the shape `(num_distinct, num_parts)`.
        """
        in_table = np.flatnonzero(self._table.any(axis=1))
        if len(in_table):
            self._ids.append(in_table)
            self._counts.append(self._table[in_table])
        self._table = self._table[:0]
        if not self._ids:
            return np.zeros(0, np.int64), np.zeros((0, self._num_parts), int)
        self._merge()
        return self._ids[0], self._counts[0]
