"""Features: a table of attributes of users or candidates."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.features.feature_table import (
    KINDS,
    FeatureTable,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class Features:
    """A table of features: one row for each user, or for each candidate.

    A data set takes such a table as `user_features` or `candidate_features`.
    This class is for what has to be said of it; a table alone will do
    otherwise.

    The kind of a column is inferred, unless it is stated in `kinds`:

    | kind | what it is | inferred from |
    | --- | --- | --- |
    | `"categorical"` | one of several values | strings, booleans |
    | `"numeric"` | a quantity | numbers |
    | `"multi_label"` | any number of labels | lists, and `"a|b|c"` |
    | `"text"` | words | strings of several words that rarely repeat |
    | `"date"` | a moment | dates and times |

    Whole numbers that are codes, such as postal codes, must be stated:
    `kinds={"zip": "categorical"}`. Numbers as strings are categorical.

    Example:

    ```python
    data = kdr.RetrievalDataset.from_csv(
        "events.csv",
        candidate_features=kdr.Features(
            "items.csv", kinds={"zip": "categorical"}
        ),
    )
    ```

    Args:
        source: A data frame of pandas or polars, an Arrow table, a dict of
            columns, or the path of a CSV or Parquet file.
        id_column: str. The column with the ids of users, or candidates. With
            `"auto"`, the one that has the name it would have among the
            interactions, such as `user_id`, or `item_id`.
        columns: Optional list of str. The columns to use; by default all
            others.
        kinds: Optional dict from a column to its kind.
    """

    def __init__(
        self,
        source,
        *,
        id_column: str = "auto",
        columns: Sequence[str] | None = None,
        kinds: Mapping[str, str] | None = None,
    ):
        self.source = source
        self.id_column = _checks.text("id_column", id_column)
        self.columns = (
            None if columns is None else _checks.texts("columns", columns)
        )
        if not isinstance(kinds, Mapping | None):
            raise ValueError(
                "`kinds` must be a dict from columns to kinds, such as "
                f"{{'zip': 'categorical'}}. Received: {kinds!r:.80}."
            )
        self.kinds = dict(kinds or {})
        for kind in self.kinds.values():
            _checks.one_of("kinds", kind, KINDS)

    @classmethod
    def of(cls, given) -> "Features":
        """Returns what was given, as `Features`."""
        return given if isinstance(given, Features) else cls(given)

    def read(self, side: str) -> FeatureTable:
        """Returns the table.

        Args:
            side: `"user"` or `"candidate"`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If there is no such column, a column is of no kind, or
                an id comes twice.
        """
        if isinstance(self.source, FeatureTable):
            return self.source
        # It takes a while to import Arrow, which not everybody needs.
        from keras_dp_retrieval.data.features import feature_reading

        wanted = self.id_column, self.columns, self.kinds
        if isinstance(self.source, (str, os.PathLike)):
            path = pathlib.Path(self.source)
            return feature_reading.table_of_file(path, side, *wanted)
        return feature_reading.table_of_columns(self.source, side, *wanted)

    def get_config(self) -> dict:
        if isinstance(self.source, FeatureTable):
            return {
                "source": {
                    self.source.id_column: self.source.ids.tolist(),
                    **_as_lists(self.source.columns),
                },
                "id_column": self.source.id_column,
                "kinds": dict(self.source.kinds),
            }
        if isinstance(self.source, (str, os.PathLike)):
            source: str | dict = os.fspath(self.source)
            dates: dict[str, str] = {}
        else:
            source, dates = self._lists_and_dates()
        return {
            "source": source,
            "id_column": self.id_column,
            "columns": self.columns,
            "kinds": {**dates, **self.kinds},
        }

    def _lists_and_dates(self) -> tuple[dict[str, list], dict[str, str]]:
        """The columns for JSON, and the kind of those with dates, as text."""
        from keras_dp_retrieval.data.features import feature_reading, kinds

        named = feature_reading.named_columns_of(self.source, "`source`")
        columns = {
            name: feature_reading.as_arrow(name, column)
            for name, column in named.items()
        }
        dates = {
            name: "date"
            for name, column in columns.items()
            if kinds.is_moment(column.type)
            and (self.columns is None or name in self.columns)
        }
        return _as_lists(columns), dates

    @classmethod
    def from_config(cls, config) -> "Features":
        return cls(**config)


def _as_lists(columns: Mapping) -> dict[str, list]:
    """Columns of Arrow as lists that JSON can hold."""
    from keras_dp_retrieval.data.features import feature_arrays

    return {name: feature_arrays.as_list(one) for name, one in columns.items()}


def columns_for_ids(source, side: str, names: Sequence[str], ids) -> dict:
    """Returns the columns of a table, with one row for each of some ids.

    Args:
        source: A frame or a dict of columns. Without a column of ids, its rows
            are those of `ids`, in this order.
        side: `"user"` or `"candidate"`.
        names: The columns that there may be.
        ids: Optional raw ids `(n,)`.

    Raises:
        ValueError: If it has other columns, lacks an id, or has one twice.
    """
    from keras_dp_retrieval.data.features import feature_reading

    return feature_reading.columns_for_ids(source, side, names, ids)
