"""The columns of a block as NumPy has them, checked."""

import numpy as np

from keras_dp_retrieval.data.encoded_ids import EncodedIds, encode_ids
from keras_dp_retrieval.data.float_columns import (
    check_rating_range,
    rating_column,
    weight_column,
)
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.data.streaming.parquet_blocks import (
    ParquetBlocks,
    counted_from,
)
from keras_dp_retrieval.data.timestamps import timestamp_column


class BlockColumns:
    """Reads columns of one block at a time.

    The type of the time stamps must be the same in all blocks: dates, or
    numbers.

    Args:
        blocks: `ParquetBlocks`.
        rating_range: `(lowest, highest)`.
    """

    def __init__(
        self, blocks: ParquetBlocks, rating_range: tuple[float, float]
    ):
        self.blocks = blocks
        self._rating_range = rating_range

    def __len__(self) -> int:
        return len(self.blocks)

    def has(self, key: str) -> bool:
        """Whether there is such a column."""
        return key in self.blocks.wanted

    def times(self, block: int) -> tuple[np.ndarray, bool]:
        """Returns `(timestamps, has_dates)`; see `timestamp_column`."""
        column = self.blocks.read(block, ["timestamps"])["timestamps"]
        with counted_from(self.blocks.where(block)):
            return timestamp_column(_of_arrow(column))

    def read(self, block: int, keys) -> dict:
        """Returns columns as arrays, and ids as columns of Arrow or NumPy.

        Args:
            block: int.
            keys: Of `"user_ids"`, `"candidate_ids"`, `"ratings"`,
                `"timestamps"` and `"weights"`.
        """
        columns = self.blocks.read(block, keys)
        with counted_from(self.blocks.where(block)):
            return {
                key: self._checked(key, column)
                for key, column in columns.items()
            }

    def _checked(self, key: str, column):
        column = _of_arrow(column)
        if key == "timestamps":
            return timestamp_column(column)[0]
        if key == "weights":
            return weight_column(column)
        if key != "ratings":
            return column
        ratings = rating_column(column)
        check_rating_range(ratings, *self._rating_range)
        return ratings

    def encoded(self, block: int, key: str, column) -> EncodedIds:
        """Returns a column of ids that `read` returned, each id once."""
        with counted_from(self.blocks.where(block)):
            ids = encode_ids(key, column)
            if key == "candidate_ids":
                refuse_padding_ids(key, ids.ids)
            return ids


def _of_arrow(column):
    """A column of numbers or dates as an array; texts stay as they are."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
        if not _is_text(kind):
            column = column.cast(kind)
    return column if _is_text(kind) else column.to_numpy()


def _is_text(kind) -> bool:
    from pyarrow import types

    return (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )
