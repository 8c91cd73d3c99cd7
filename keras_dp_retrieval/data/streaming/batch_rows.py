"""Rows of shards, put together to batches: all of them, or one process's."""

import numpy as np

from keras_dp_retrieval.data.streaming.window_reader import Windows


class ShardRows:
    """The rows of one shard from a batch on.

    Args:
        windows: `Windows`.
        shard: int.
        batch: int. The first.
        ahead: bool. Whether the next window is read while one is in use, and
            forgotten after it.
    """

    def __init__(self, windows: Windows, shard: int, batch: int, ahead=True):
        self._windows = windows
        self._shard = shard
        self._ahead = ahead
        self._window, self._row = windows.order.place(shard, batch)
        windows.start(shard, self._window)

    def take(self, num_rows: int) -> list[np.ndarray]:
        """Returns the next rows, by column; there must be so many."""
        taken = []
        while True:
            columns = self._windows.columns(self._shard, self._window)
            if self._ahead:
                self._windows.start(self._shard, self._window + 1)
            rows = slice(self._row, self._row + num_rows)
            found = [column[rows] for column in columns]
            taken.append(found)
            num_found = len(found[0])
            self._row += num_found
            num_rows -= num_found
            if self._row == len(columns[0]) and self._ahead:
                self._windows.forget(self._shard, self._window)
            if self._row == len(columns[0]):
                self._window, self._row = self._window + 1, 0
            if not num_rows:
                break
        if len(taken) == 1:
            return taken[0]
        return [np.concatenate(column) for column in zip(*taken, strict=True)]


class BatchRows:
    """Batches one after the other: some of the rows of each.

    Args:
        windows: `Windows`.
        own: slice. Which rows of each padded batch; no others are read,
            except that what pads a batch is one of its own rows.
        batch: int. The first.
        ahead: bool. See `ShardRows`.
    """

    def __init__(self, windows: Windows, own: slice, batch: int, ahead=True):
        self._windows = windows
        self._order = windows.order
        self._own = own
        self._ahead = ahead
        self._begin = batch
        shares = self._order.shares
        self._shards = {
            shard: ShardRows(windows, shard, batch, ahead)
            for shard in self.shards()
            if not self._is_at_end(shard, batch)
        }
        self._first_rows: ShardRows | None = None
        self._first_shard = int(np.searchsorted(shares, 0, side="right")) - 1

    def shards(self) -> list[int]:
        """The shards that the rows are from."""
        shares = self._order.shares
        return [
            shard
            for shard in range(self._order.num_shards)
            if max(shares[shard], self._own.start)
            < min(shares[shard + 1], self._own.stop)
        ]

    def _is_at_end(self, shard: int, batch: int) -> bool:
        """Whether a shard has no rows from a batch on."""
        is_last = batch == self._order.num_batches - 1
        return is_last and not self._order.rows_of(shard, batch)

    def take(self, start: int, stop: int) -> tuple[list, np.ndarray]:
        """Returns the next batches, `start` to `stop`.

        Returns:
            `(columns, real)`: arrays `(stop - start, own rows)`, and which
            rows are no padding, bool of the same shape.
        """
        order, own = self._order, self._own
        num_steps, width = stop - start, own.stop - own.start
        num_full = min(stop, order.num_batches - 1) - start
        columns: list[np.ndarray] = []
        for shard, rows in self._shards.items():
            low = int(order.shares[shard])
            share = int(order.shares[shard + 1]) - low
            in_last = order.rows_of(shard, stop - 1)
            num_rows = num_full * share
            if num_full < num_steps:
                num_rows += in_last
            if not num_rows:
                continue
            found = rows.take(num_rows)
            if not columns:
                columns = [
                    np.zeros((num_steps, width), column.dtype)
                    for column in found
                ]
            for column, values in zip(columns, found, strict=True):
                full = values[: num_full * share].reshape(num_full, share)
                _place(column[:num_full], full, low - own.start)
                if num_full < num_steps:
                    last = values[None, num_full * share :]
                    _place(column[num_full:], last, low - own.start)
        sizes = np.full(num_steps, order.batch_size)
        if num_full < num_steps:
            sizes[-1] = order.rows_in_last
        num_real = np.clip(sizes - own.start, 0, width)
        real = np.arange(width) < num_real[:, None]
        return self._padded(columns, num_real, real, start), real

    def _padded(self, columns, num_real, real, start) -> list[np.ndarray]:
        """Padding repeats the first row here, or else of the whole batch."""
        empty = np.flatnonzero(num_real == 0)
        if len(empty):
            found = self._first_of_batches(start + int(empty[0]), len(empty))
            if not columns:
                shape = real.shape
                columns = [np.zeros(shape, one.dtype) for one in found]
            for column, values in zip(columns, found, strict=True):
                column[empty, 0] = values
        if not real.all():
            for column in columns:
                np.copyto(column, column[:, :1].copy(), where=~real)
        return columns

    def _first_of_batches(self, batch: int, num: int) -> list[np.ndarray]:
        """The first row of so many batches, by column."""
        order, shard = self._order, self._first_shard
        if self._first_rows is None:
            self._first_rows = ShardRows(
                self._windows, shard, batch, self._ahead
            )
        share = int(order.shares[shard + 1] - order.shares[shard])
        num_rows = sum(
            order.rows_of(shard, batch + number) for number in range(num)
        )
        found = self._first_rows.take(num_rows)
        return [column[::share] for column in found]


def _place(target: np.ndarray, values: np.ndarray, start: int) -> None:
    """Writes columns of `values` to `start` on, as far as they are inside."""
    first = max(-start, 0)
    last = min(values.shape[1], target.shape[1] - start)
    if first < last:
        target[:, start + first : start + last] = values[:, first:last]
