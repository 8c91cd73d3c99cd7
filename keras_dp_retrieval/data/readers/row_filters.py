"""Which rows of a file or frame are read, as Arrow and pandas say it."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from keras_dp_retrieval.data.readers.column_names import check_names

_OPERATORS = ("==", "=", "!=", "<", ">", "<=", ">=", "in", "not in")


class RowFilter:
    """Conditions on columns, all of which a row that is read meets.

    Args:
        filters: A dict from a column's name to the value it must have, or to
            a list of the values it may have; or a list of `(name, operator,
            value)`, as for `pandas.read_parquet`. A row without a value does
            not meet a condition.

    Raises:
        ValueError: If it is anything else.
    """

    def __init__(self, filters):
        self._conditions = _conditions(filters)
        self.names = list(dict.fromkeys(name for name, *_ in self._conditions))

    def check_names(self, there: Sequence, what: str) -> None:
        """Raises a ValueError unless each column is there once.

        Args:
            there: The names of all columns.
            what: str. How the error calls where they are.
        """
        check_names(self.names, there, what, "Correct `filters`.")

    def expression(self):
        """Returns all conditions as one expression of Arrow."""
        from pyarrow import parquet

        return parquet.filters_to_expression(self._conditions)

    def _types(self) -> dict[str, Any]:
        """Returns as what a column of text is to be read, by name."""
        import pyarrow

        types = {}
        for name, _, value in self._conditions:
            first = value[0] if isinstance(value, list) else value
            kinds = {
                str: pyarrow.string(),
                bool: pyarrow.bool_(),
                datetime.datetime: pyarrow.timestamp("us"),
                datetime.date: pyarrow.date32(),
            }
            types[name] = kinds.get(type(first), pyarrow.float64())
        return types

    def cast(self, name: str, texts):
        """Returns a column of text as what it is compared with."""
        import pyarrow

        kind = self._types()[name]
        if kind == texts.type:
            return texts
        try:
            return texts.cast(kind)
        except pyarrow.ArrowException as error:
            raise self.does_not_fit(error) from error

    def mask(self, table):
        """Returns a column of booleans: which rows meet all conditions."""
        import pyarrow
        from pyarrow import acero

        steps = [
            acero.Declaration(
                "table_source", acero.TableSourceNodeOptions(table)
            ),
            acero.Declaration(
                "project",
                acero.ProjectNodeOptions([self.expression()], ["mask"]),
            ),
        ]
        try:
            mask = acero.Declaration.from_sequence(steps).to_table()
        except (pyarrow.ArrowException, TypeError) as error:
            raise self.does_not_fit(error) from error
        return mask["mask"].fill_null(False)

    def does_not_fit(self, error: Exception) -> ValueError:
        """Returns an error on conditions that the columns do not allow."""
        return ValueError(
            "`filters` must compare columns with values of their type. "
            f"Received: filters={self._conditions!r:.200}. Arrow says: "
            f"{str(error).splitlines()[0]:.200}"
        )

    def note(self, num_kept: int, num_rows: int) -> str:
        """Returns a text on how many rows were kept.

        Raises:
            ValueError: If there is none.
        """
        if num_rows and not num_kept:
            raise ValueError(
                "`filters` must leave at least one row. Received: none of "
                f"{num_rows:,} with filters={self._conditions!r:.200}."
            )
        return f"filters kept {num_kept:,} of {num_rows:,} rows"


def _conditions(filters) -> list[tuple]:
    if isinstance(filters, Mapping):
        filters = [
            (name, "in" if _is_several(value) else "==", value)
            for name, value in filters.items()
        ]
    if not isinstance(filters, (list, tuple)) or not filters:
        raise _no_filters(filters)
    conditions = []
    for one in filters:
        if not isinstance(one, (list, tuple)) or len(one) != 3:
            raise _no_filters(filters)
        name, operator, value = one
        several = _is_several(value)
        if (
            not isinstance(name, str)
            or operator not in _OPERATORS
            or several != (operator in ("in", "not in"))
            or not (value if several else value is not None)
        ):
            raise _no_filters(filters)
        conditions.append((name, operator, list(value) if several else value))
    return conditions


def _is_several(value) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _no_filters(filters) -> ValueError:
    return ValueError(
        "`filters` must be a dict such as {'event': 'purchase'}, or a list "
        "such as [('event', 'in', ['purchase', 'cart']), ('price', '>', 5)], "
        f"with one of the operators {list(_OPERATORS)}. Received: "
        f"filters={filters!r:.200}."
    )
