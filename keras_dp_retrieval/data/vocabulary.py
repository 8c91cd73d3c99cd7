"""Which row of a table each raw id has.

A *raw id* is what the user of the library has: an int64 or a string. A *row*
is its dense int32 index into an embedding table. Row 0 is "unknown"; the known
ids have the rows 1 to n, in sorted order. Ids that come later go to the end.
"""

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import MAX_ID_LENGTH, id_column
from keras_dp_retrieval.data.encoded_ids import EncodedIds, encode_ids
from keras_dp_retrieval.data.padding import PADDING


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """The known raw ids, and which row of a table each of them has.

    Args:
        ids: `(n,)` int64 or string, distinct: the ids of the rows 1 to n.
            `from_ids` sorts them; those of a vocabulary that was `extended`
            stand in the order in which they came.
    """

    ids: np.ndarray
    _sorted: np.ndarray = dataclasses.field(init=False, repr=False)
    _sorted_rows: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        ids = id_column("ids", self.ids, _longest(self.ids))
        order, in_order = np.arange(len(ids)), ids
        if not (ids[1:] > ids[:-1]).all():
            order = np.argsort(ids, kind="stable")
            in_order = ids[order]
        if (in_order[1:] == in_order[:-1]).any():
            raise ValueError(
                "`ids` of a vocabulary must be distinct. Use "
                "`Vocabulary.from_ids(ids)` to make them so."
            )
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "_sorted", in_order)
        rows = (order + 1).astype(np.int32)
        object.__setattr__(self, "_sorted_rows", rows)

    @classmethod
    def from_ids(cls, *raw_ids) -> "Vocabulary":
        """Returns the vocabulary of all ids in one or more columns.

        Args:
            *raw_ids: `(n,)` each: raw ids, or `EncodedIds`.
        """
        columns = [encode_ids("ids", ids).ids for ids in raw_ids]
        if len({column.dtype.kind for column in columns}) > 1:
            raise ValueError(
                "Ids must be all whole numbers or all strings. Received: "
                f"{[str(column.dtype) for column in columns]}."
            )
        if len(columns) == 1:
            return cls(columns[0])
        return cls(np.unique(np.concatenate(columns)))

    def extended(self, raw_ids) -> "Vocabulary":
        """Returns a vocabulary with new ids, on rows after all the others.

        Args:
            raw_ids: `(n,)`. Distinct ids that are not known yet.
        """
        new = id_column("ids", raw_ids)
        if not len(new):
            return self
        known = new[self.rows(new) > 0]
        if len(known) or len(np.unique(new)) < len(new):
            such = f", such as {_checks.shown(known[0])}" if len(known) else ""
            raise ValueError(
                f"New ids must be distinct and not known yet. Received: "
                f"{len(new)} ids, {len(known)} of them known{such}, and "
                f"{len(new) - len(np.unique(new))} repeated. Leave the known "
                "ones out with `ids[vocabulary.rows(ids) == 0]`."
            )
        if not len(self.ids):
            return Vocabulary(new)
        return Vocabulary(np.concatenate([self.ids, new]))

    @property
    def num_rows(self) -> int:
        """Rows of a table for these ids: one each, and row 0 for unknown."""
        return len(self.ids) + 1

    def rows(self, raw_ids) -> np.ndarray:
        """Returns the int32 row of each raw id, 0 for an unknown one.

        Args:
            raw_ids: `(n,)`, or a NumPy array of any shape.
        """
        if isinstance(raw_ids, np.ndarray) and raw_ids.ndim != 1:
            return self.rows(raw_ids.reshape(-1)).reshape(raw_ids.shape)
        raw_ids = id_column("ids", raw_ids, _longest(self.ids))
        if not len(self.ids) or not len(raw_ids):
            return np.zeros(len(raw_ids), np.int32)
        if raw_ids.dtype.kind != self.ids.dtype.kind:
            raise ValueError(
                f"The known ids are {_kind(self.ids)}. Received: "
                f"{_kind(raw_ids)}, such as {_checks.shown(raw_ids[0])}."
            )
        indices = np.searchsorted(self._sorted, raw_ids)
        indices = np.minimum(indices, len(self.ids) - 1)
        known = self._sorted[indices] == raw_ids
        return np.where(known, self._sorted_rows[indices], np.int32(0))

    def rows_of(self, column: EncodedIds) -> np.ndarray:
        """Returns the int32 row of each entry of an encoded column, `(n,)`."""
        if column.ids is self.ids and self.ids is self._sorted:
            return column.codes + np.int32(1)
        return self.rows(column.ids)[column.codes]

    def raw_ids(self, rows) -> np.ndarray:
        """Returns the raw id of each row.

        Row 0 gives 0 or `""`, and padding (a negative row) -1 or `""`.
        """
        rows = np.asarray(rows)
        if rows.size and rows.max() >= self.num_rows:
            raise ValueError(
                f"Rows must be less than {self.num_rows}. Received: "
                f"{int(rows.max())}."
            )
        strings = self.ids.dtype.kind == "U"
        of_unknown, of_padding = ("", "") if strings else (0, PADDING)
        fill = np.where(rows < 0, of_padding, of_unknown)
        if not len(self.ids):
            return fill
        # The ids that were asked for, never a copy of them all.
        return np.where(rows > 0, self.ids[np.maximum(rows, 1) - 1], fill)

    def get_config(self) -> dict:
        return {"ids": self.ids.tolist()}

    @classmethod
    def from_config(cls, config: Mapping) -> "Vocabulary":
        return cls(config["ids"])


def _longest(ids) -> int:
    """The length that ids may have beside these."""
    # An array of strings, such as one of a saved model, has its width already.
    is_wide = isinstance(ids, np.ndarray) and ids.dtype.kind == "U"
    return max(MAX_ID_LENGTH, ids.dtype.itemsize // 4 if is_wide else 0)


def _kind(ids: np.ndarray) -> str:
    return "strings" if ids.dtype.kind == "U" else "whole numbers"
