"""Ids in rising order, which give candidates their rows in an index."""

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.padding import PADDING, pad_lists


class SortedIds:
    """Distinct ids, and the row of each: its index in rising order.

    Args:
        ids: int64 or str `(num_ids,)`, rising.
    """

    def __init__(self, ids: np.ndarray):
        self.array = ids

    @classmethod
    def sort(cls, ids: np.ndarray) -> tuple["SortedIds", np.ndarray]:
        """Sorts ids; returns them and the order that sorts them.

        Raises:
            ValueError: If an id comes twice.
        """
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        twice = ids[1:][ids[1:] == ids[:-1]]
        if len(twice):
            raise ValueError(
                "Every candidate must have an id of its own. Received more "
                f"than once: {some(twice)}."
            )
        return cls(ids), order

    def __len__(self) -> int:
        return len(self.array)

    def of_rows(self, rows) -> np.ndarray:
        """The ids of rows; -1, or `""` among strings, where a row is -1."""
        padding = PADDING if self.array.dtype.kind == "i" else ""
        return np.where(rows < 0, padding, self.array[rows])

    def check_kind(self, name, ids):
        """Raises unless `ids` are integers, or strings, as these are."""
        if len(ids) and ids.dtype.kind != self.array.dtype.kind:
            kinds = {"i": "integers", "U": "strings"}
            raise ValueError(
                f"`{name}` must be of the kind of the ids in the index, "
                f"{kinds[self.array.dtype.kind]}. Received: "
                f"{kinds[ids.dtype.kind]}."
            )

    def rows(self, ids) -> np.ndarray:
        """The row of each id, int32; -1 for one that is not there."""
        if not len(self) or not len(ids):
            return np.full(len(ids), -1, "int32")
        rows = np.searchsorted(self.array, ids).clip(max=len(self) - 1)
        return np.where(self.array[rows] == ids, rows, -1).astype("int32")

    def rows_of_each(self, exclude, num_queries: int) -> np.ndarray:
        """The rows that each query does not get, padded with -1.

        Args:
            exclude: List with an array of ids for each query.
            num_queries: int.
        """
        if not _checks.is_listed(exclude):
            raise ValueError(
                "`exclude` must be a list with an array of ids for each query."
                f" Received: a {type(exclude).__name__}."
            )
        exclude = [as_ids("exclude", ids) for ids in exclude]
        if len(exclude) != num_queries:
            raise ValueError(
                "`exclude` must have an array of ids for each query. Received: "
                f"{len(exclude)} for {num_queries} queries."
            )
        for ids in exclude:
            self.check_kind("exclude", ids)
        longest = max(map(len, exclude), default=0)
        return pad_lists([self.rows(ids) for ids in exclude], longest)

    def known_rows(self, rows, num_queries: int) -> np.ndarray:
        """`rows`, one list for each query; -1 for those that are not there."""
        rows = np.asarray(keras.ops.convert_to_numpy(rows))
        fits = rows.ndim == 2 and rows.dtype.kind in "iu"
        if not fits or len(rows) != num_queries:
            raise ValueError(
                "`excluded_rows` must be whole numbers, one row for each "
                f"query, padded with -1. Received: {rows.dtype} values of "
                f"shape {rows.shape} for {num_queries} queries."
            )
        return np.where(rows < len(self), rows, -1).astype("int32")

    def mask(self, allowed_ids) -> np.ndarray | None:
        """Whether the id of each row is allowed; None allows all."""
        if allowed_ids is None:
            return None
        allowed_ids = as_ids("allowed_ids", allowed_ids)
        self.check_kind("allowed_ids", allowed_ids)
        mask = np.zeros(len(self), bool)
        if len(allowed_ids):
            rows = self.rows(allowed_ids)
            if (rows < 0).any():
                raise ValueError(
                    "`allowed_ids` must be in the index. Received unknown ids: "
                    f"{some(allowed_ids[rows < 0])}."
                )
            mask[rows] = True
        return mask


def as_ids(name, ids):
    """`ids` as an int64 or str array, `(num_ids,)`; never truncated."""
    if not _checks.is_listed(ids):
        raise ValueError(
            f"`{name}` must be a list or an array of ids. Received: a "
            f"{type(ids).__name__}."
        )
    array = id_column(name, ids)
    return array if array.size else array.astype("int64")


def to_numbers(ids):
    """Arrays of numbers that hold `ids`, for files that take only numbers."""
    if ids.dtype.kind == "i":
        return {"ids": ids}
    encoded = [one.encode() for one in ids.tolist()]
    return {
        "id_bytes": np.frombuffer(b"".join(encoded), "uint8"),
        "id_ends": np.cumsum([len(one) for one in encoded], dtype="int64"),
    }


def from_numbers(saved):
    """The ids that `to_numbers` made arrays of."""
    if "ids" in saved:
        return saved["ids"].astype("int64")
    whole, ends = saved["id_bytes"].tobytes(), saved["id_ends"].tolist()
    starts = [0, *ends[:-1]]
    return np.array(
        [whole[a:b].decode() for a, b in zip(starts, ends, strict=True)], str
    )


def some(values) -> str:
    """The first values, as an error shows them."""
    shown = ", ".join(map(repr, values[:5].tolist()))
    return shown + (", ..." if len(values) > 5 else "")
