"""Lists of recommendations as a file: Parquet, CSV or JSON lines."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from keras_dp_retrieval.model.whole_files import renamed_when_whole

SUFFIXES = (".parquet", ".csv", ".jsonl")


def write(path, model, lists: Iterable[tuple]) -> tuple[int, int]:
    """Writes lists to a file, which is there when it is whole.

    A row is a candidate of a user: `user_id` (nothing for somebody new),
    `rank` (from 1), `candidate_id`, `title` (nothing without one), `score` and
    `source`, what the list comes from, as `recommend` says.
    What only fills up a list that is too short is left out.

    Args:
        path: Path. Its suffix, one of `SUFFIXES`, says what is written.
        model: `TwoTowerRetrieval`, for ids and titles.
        lists: `(users, candidate_ids, scores, sources)`, some users at a time:
            ids `(batch,)` or None, `(batch, k)`, `(batch, k)`, `(batch,)`.

    Returns:
        `(num_users, num_rows)`.
    """
    suffix = os.path.splitext(path)[1]
    lists = iter(lists)
    first = next(lists)  # What is wrong with the question is said before.
    num_users = num_rows = 0
    with renamed_when_whole(path, suffix) as temporary:
        with _WRITERS[suffix](temporary, _schema(model)) as write_table:
            for part in _chained(first, lists):
                table = _table(part, model)
                write_table(table)
                num_users += len(part[1])
                num_rows += len(table)
    return num_users, num_rows


def _chained(first, rest) -> Iterator[tuple]:
    yield first
    yield from rest


def _schema(model):
    import pyarrow

    def of(vocabulary):
        is_text = vocabulary is not None and vocabulary.ids.dtype.kind == "U"
        return pyarrow.string() if is_text else pyarrow.int64()

    return pyarrow.schema(
        {
            "user_id": of(model.user_vocabulary),
            "rank": pyarrow.int32(),
            "candidate_id": of(model.candidate_vocabulary),
            "title": pyarrow.string(),
            "score": pyarrow.float32(),
            "source": pyarrow.string(),
        }
    )


def _table(part: tuple, model):
    """Some lists as an Arrow table of `_schema`."""
    import pyarrow

    users, ids, scores, sources = part
    found = np.isfinite(scores)
    ranks = np.broadcast_to(np.arange(1, ids.shape[1] + 1), ids.shape)
    candidates = ids[found].tolist()
    if users is None:
        of_rows = [None] * len(candidates)
    else:
        of_rows = np.repeat(users, found.sum(1)).tolist()
    titles = model.candidate_titles
    columns = [
        of_rows,
        ranks[found],
        candidates,
        [titles.get(one) for one in candidates],
        scores[found],
        np.repeat(sources, found.sum(1)).tolist(),
    ]
    schema = _schema(model)
    return pyarrow.table(
        [
            pyarrow.array(column, field.type)
            for column, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )


@contextlib.contextmanager
def _parquet(path, schema) -> Iterator[Callable]:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema) as writer:
        yield writer.write_table


@contextlib.contextmanager
def _csv(path, schema) -> Iterator[Callable]:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(schema.names)
        yield lambda table: writer.writerows(_rows(table))


@contextlib.contextmanager
def _json_lines(path, schema) -> Iterator[Callable]:
    def write_table(table):
        for row in _rows(table):
            values = dict(zip(schema.names, row, strict=True))
            values["score"] = float(values["score"])
            file.write(json.dumps(values, ensure_ascii=False) + "\n")

    with open(path, "w", encoding="utf-8") as file:
        yield write_table


def _rows(table) -> Iterator[tuple]:
    """Rows of a table, scores as the shortest texts that mean them."""
    place = table.column_names.index("score")
    texts = table.set_column(place, "score", table["score"].cast("string"))
    return zip(*(one.to_pylist() for one in texts.columns), strict=True)


_WRITERS = {".parquet": _parquet, ".csv": _csv, ".jsonl": _json_lines}
