"""Interactions as rows of the tables: columns of one length."""

import concurrent.futures
import dataclasses

import numpy as np

_FEW = 100_000  # Entries that take no longer than threads do to start.


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """Interactions as rows: frozen columns of one length.

    Args:
        user_rows: `(n,)` int32.
        candidate_rows: `(n,)` int32.
        ratings: Optional `(n,)` float32 on the scale they came in.
        timestamps: Optional `(n,)` int64.
        weights: Optional `(n,)` float32, greater than 0.
    """

    user_rows: np.ndarray
    candidate_rows: np.ndarray
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __post_init__(self):
        dtypes = {
            "user_rows": np.int32,
            "candidate_rows": np.int32,
            "ratings": np.float32,
            "timestamps": np.int64,
            "weights": np.float32,
        }
        for name, dtype in dtypes.items():
            column = getattr(self, name)
            if column is None and not name.endswith("_rows"):
                continue
            column = np.asarray(column)
            if column.shape != (len(self.user_rows),):
                raise ValueError(
                    f"`{name}` must have the shape ({len(self.user_rows)},). "
                    f"Received: {column.shape}."
                )
            if name.endswith("_rows"):
                check_rows(name, column)
            object.__setattr__(self, name, column.astype(dtype, copy=False))
        if self.ratings is not None and not np.isfinite(self.ratings).all():
            raise ValueError("`ratings` must be finite numbers.")

    def __len__(self) -> int:
        return len(self.user_rows)

    def take(self, indices) -> "Ratings":
        """Returns the entries at these indices, in this order."""
        columns = [getattr(self, f.name) for f in dataclasses.fields(self)]

        def taken(column):
            return None if column is None else column[indices]

        if len(self) < _FEW:
            return Ratings(*map(taken, columns))
        # Where each entry is far from the next, this waits for the memory,
        # and NumPy lets others work.
        with concurrent.futures.ThreadPoolExecutor() as threads:
            return Ratings(*threads.map(taken, columns))

    def concatenate(self, other: "Ratings") -> "Ratings":
        """Returns these entries, then the other's.

        A column that only one of the two has is left out; the data set sees
        to it that this does not happen.
        """

        def join(name):
            first, second = getattr(self, name), getattr(other, name)
            if first is None or second is None:
                return None
            return np.concatenate([first, second])

        return Ratings(*(join(f.name) for f in dataclasses.fields(self)))


def check_rows(name: str, rows: np.ndarray) -> None:
    """Raises a ValueError unless all rows are whole numbers of 31 bits."""
    # Before any cast: int64 rows would be cut to 32 bits without a word, and
    # JAX answers a row outside its table with NaN.
    if rows.size and not (
        rows.dtype.kind in "iu"
        and rows.min() >= 0
        and rows.max() <= np.iinfo(np.int32).max
    ):
        raise ValueError(
            f"`{name}` must be whole numbers from 0 to 2**31 - 1. Received: "
            f"{rows.dtype} from {rows.min()} to {rows.max()}."
        )


def pair_codes(user_rows, candidate_rows) -> np.ndarray:
    """One int64 `(n,)` for each pair of rows, which are below 2**31."""
    return (np.asarray(user_rows, np.int64) << 32) | candidate_rows
