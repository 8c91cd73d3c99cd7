"""Conditions on columns that are given as text, such as `event=purchase`."""

import datetime
import re

from keras_dp_retrieval.data.readers.column_names import check_names
from keras_dp_retrieval.data.readers.file_kinds import is_parquet

# What stands before the operator is the name of a column.
_CONDITION = re.compile(r"([^=!<>]+)(==|!=|<=|>=|=|<|>)(.+)", re.S)


def parse_conditions(option: str, texts) -> list[tuple[str, str, str]]:
    """Returns `(name, operator, value)` of each condition; values are text.

    Args:
        option: str. How errors call what the conditions were given as.
        texts: List of str, such as `"event=purchase"`, `"price>5"`, or
            `"event=purchase,cart"` for one of several values.

    Raises:
        ValueError: If one is something else.
    """
    parsed = []
    for text in texts:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ValueError(
                f"`{option}` must be a column, one of = != < <= > >=, and a "
                "value, such as event=purchase or 'price>5'. Received: "
                f"{text!r}."
            )
        name, operator, value = found.groups()
        parsed.append((name.strip(), operator.replace("==", "="), value))
    return parsed


def typed_conditions(path, conditions) -> list[tuple]:
    """Returns conditions as `RowFilter` takes them, for the columns of a file.

    In a Parquet file a value is what its column holds. In a CSV file `=` and
    `!=` compare what is written; the others compare numbers or dates.

    Args:
        path: Path of the file.
        conditions: As `parse_conditions` returns them.

    Raises:
        ValueError: If a value is not of the type that it is compared with.
    """
    types = {}
    if conditions and is_parquet(path):
        types = _types(path, [name for name, *_ in conditions])
    return [
        _typed(name, operator, text, types)
        for name, operator, text in conditions
    ]


def _types(path, names) -> dict:
    import pyarrow
    from pyarrow import dataset as arrow

    what = f"The file {str(path)!r}"
    try:
        schema = arrow.dataset(
            path, format="parquet", partitioning="hive"
        ).schema
    except (pyarrow.ArrowException, OSError):
        return {}  # Whoever reads it says what is wrong.
    check_names(dict.fromkeys(names), schema.names, what, "Correct `filters`.")
    types = {name: schema.field(name).type for name in names}
    return {
        name: kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        for name, kind in types.items()
    }


def _typed(name: str, operator: str, text: str, types: dict) -> tuple:
    if operator in ("=", "!="):
        values = [_value(name, one, types) for one in text.split(",")]
        if len(values) > 1:
            return name, "in" if operator == "=" else "not in", values
        return name, "==" if operator == "=" else "!=", values[0]
    if name in types:
        return name, operator, _value(name, text, types)
    return name, operator, _number_or_date(name, text)


def _value(name: str, text: str, types: dict):
    if name not in types:
        return text
    import pyarrow

    try:
        return pyarrow.scalar(text).cast(types[name]).as_py()
    except (pyarrow.ArrowException, ValueError):
        raise ValueError(
            f"The column {name!r} holds {types[name]}, and must be compared "
            f"with such a value. Received: {text!r:.80}."
        ) from None


def _number_or_date(name: str, text: str):
    for read in (int, float, datetime.datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    raise ValueError(
        f"The column {name!r} can be less or greater than a number or an ISO "
        f"date. Received: {text!r:.80}. Texts can be compared with = and !=."
    )
