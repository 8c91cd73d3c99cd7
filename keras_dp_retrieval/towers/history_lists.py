"""HistoryLists: the histories of a batch of users, without padding."""

from typing import Any, NamedTuple

from keras import ops


class HistoryLists(NamedTuple):
    """The histories of a batch, each where it stands in an array of many.

    Attributes:
        rows: int32 `(num_interactions,)`: candidate rows, the history of
            example `e` is `rows[begin[e]:begin[e] + sizes[e]]`; or
            `(batch, longest)`, histories padded at the end with -1, of which
            `begin` says where they stand in their own row.
        begin: int32 `(batch,)`.
        sizes: int32 `(batch,)`.
        columns: int32 `(longest,)`, the numbers from 0 on: as many as the
            longest history there may be.
    """

    rows: Any
    begin: Any
    sizes: Any
    columns: Any

    @classmethod
    def of_padded(cls, histories) -> "HistoryLists":
        """Those of int `(batch, longest)`, padded at the end with -1."""
        columns = ops.arange(histories.shape[1], dtype="int32")
        ends = ops.where(histories >= 0, columns + 1, 0)
        sizes = ops.max(ends, axis=1, initial=0)
        return cls(histories, ops.zeros_like(sizes), sizes, columns)

    def padded(self):
        """int32 `(batch, longest)`, oldest first, padded with -1."""
        if len(self.rows.shape) == 2:
            return self.rows
        return self.part(self.columns)

    def part(self, columns):
        """Some columns of `padded()`, of which there may be more.

        Args:
            columns: int32 `(columns,)`.
        """
        rows, begin = self.rows, self.begin
        if len(rows.shape) == 2:
            length = rows.shape[1]
            begin = ops.arange(ops.shape(rows)[0], dtype="int32") * length
            rows = ops.reshape(rows, (-1,))
        last = ops.shape(rows)[0] - 1
        found = ops.take(rows, ops.minimum(begin[:, None] + columns, last))
        return ops.where(columns < self.sizes[:, None], found, -1)
