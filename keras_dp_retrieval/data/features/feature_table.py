"""FeatureTable: features as they came in, as columns of Arrow."""

import dataclasses
from collections.abc import Mapping

import numpy as np

KINDS = ("categorical", "numeric", "multi_label", "text", "date")


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of users or candidates, one row for each id.

    Args:
        ids: `(n,)` int64 or string, distinct.
        columns: dict from names to `pyarrow.ChunkedArray` `(n,)`.
        kinds: dict from names to one of `KINDS`.
        id_column: str. What the column of ids was called.
        are_ids_written: bool. Whether whole numbers among the ids were read
            from a text, a CSV file, and might be meant as strings.
    """

    ids: np.ndarray
    columns: Mapping
    kinds: Mapping[str, str]
    id_column: str
    are_ids_written: bool = False

    def __len__(self) -> int:
        return len(self.ids)
