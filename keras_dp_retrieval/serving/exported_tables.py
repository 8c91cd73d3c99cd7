"""Candidates, users and encoders as plain Parquet, NumPy and JSON."""

import json

import keras
import numpy as np

from keras_dp_retrieval.data.features.column_encoders import is_no_number
from keras_dp_retrieval.model import id_rows
from keras_dp_retrieval.serving import exported_tower
from keras_dp_retrieval.towers import history_tower

# Columns of `candidates.parquet` that no feature may be called.
_RESERVED = ("id", "vector", "title")


def write_candidates(model, exact, folder) -> None:
    """Writes `candidates.parquet` and `candidates.npz`.

    Args:
        model: `TwoTowerRetrieval`.
        exact: `CandidateIndex` of its candidates.
        folder: Path.
    """
    import pyarrow
    from pyarrow import parquet

    ids, vectors = exact.ids(), exact.vectors()
    arrays = {"ids": ids, "vectors": vectors}
    flat = pyarrow.array(vectors.reshape(-1))
    columns = {
        "id": pyarrow.array(ids),
        "vector": pyarrow.FixedSizeListArray.from_arrays(
            flat, vectors.shape[1]
        ),
    }
    if model.candidate_titles:
        titles = [model.candidate_titles.get(one) for one in ids.tolist()]
        columns["title"] = pyarrow.array(titles, pyarrow.string())
        arrays["titles"] = np.array([title or "" for title in titles])
    lookup = model.candidate_features
    if lookup is not None:
        rows = id_rows.candidate_rows(model, ids)
        for name, column in decoded(lookup, rows).items():
            columns[f"feature_{name}" if name in _RESERVED else name] = column
        for name, variable in lookup.columns.items():
            encoded = keras.ops.convert_to_numpy(variable)[rows]
            arrays[f"feature_{name}"] = encoded
    parquet.write_table(pyarrow.table(columns), folder / "candidates.parquet")
    np.savez(folder / "candidates.npz", **arrays)


def write_users(model, folder) -> None:
    """Writes `users.parquet`, and `candidate_rows.parquet` for histories."""
    import pyarrow
    from pyarrow import parquet

    ids, rows = _known(model.user_vocabulary, model.num_users)
    columns = {"id": pyarrow.array(ids), "row": pyarrow.array(rows)}
    reads_histories = history_tower(model.user_tower) is not None
    if reads_histories and model.histories is not None:
        histories = [
            id_rows.candidate_ids(model, items)
            for items in stored_histories(model, rows)
        ]
        columns["history"] = pyarrow.array(histories)
    if model.user_features is not None:
        for name, column in decoded(model.user_features, rows).items():
            columns[f"feature_{name}"] = column
    parquet.write_table(pyarrow.table(columns), folder / "users.parquet")
    if reads_histories:
        ids, rows = _known(model.candidate_vocabulary, model.num_candidates)
        columns = {"id": pyarrow.array(ids), "row": pyarrow.array(rows)}
        table = pyarrow.table(columns)
        parquet.write_table(table, folder / "candidate_rows.parquet")


def write_encoders(model, path) -> None:
    """Writes what the inputs of the user tower are, and what values mean."""
    inputs = {
        name: {"dtype": dtype, "shape": ["batch", *shape[1:]]}
        for name, (dtype, shape) in exported_tower.inputs_of(model).items()
    }
    inputs["user_id"]["from"] = "the row of the id; 0 for somebody new"
    if "history" in inputs:
        inputs["history"]["from"] = (
            "the rows of what the user had, oldest first, the latest if there "
            "are more than fit, padded at the end with -1"
        )
    contents = {
        "output": {
            "name": exported_tower.OUTPUT,
            "dtype": "float32",
            "shape": ["batch", "dimension"],
        },
        "inputs": inputs,
        "user_features": _encoders(model.user_features),
        "candidate_features": _encoders(model.candidate_features),
        "kinds": {
            "categorical": "index in `values`, from 1; 0 for others",
            "multi_label": "such indices, each once, padded with 0",
            "text": "such indices of its words: runs of letters and digits, "
            "in lower case",
            "numeric": "(value - mean) / stddev; 0 for none",
            "date": "(days since 1970 - mean) / stddev; 0 for none",
        },
    }
    path.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def decoded(lookup, rows) -> dict:
    """The features of table rows as Arrow columns, null where not known.

    Numbers have six digits more than the standard deviation, as the model
    keeps them in float32.

    Args:
        lookup: `FeatureLookup`.
        rows: int `(num_rows,)`.
    """
    import pyarrow

    is_known = keras.ops.convert_to_numpy(lookup.is_known)[rows] > 0
    found = {}
    for name, encoder in lookup.schema.encoders.items():
        column = keras.ops.convert_to_numpy(lookup.columns[name])[rows]
        if encoder.is_number:
            missing = ~is_known | keras.ops.convert_to_numpy(
                is_no_number(column)
            )
            digits = 5 - int(np.floor(np.log10(encoder.stddev)))
            numbers = column.astype("float64") * encoder.stddev + encoder.mean
            numbers = np.round(numbers, digits)
            if encoder.kind == "date":
                seconds = np.rint(numbers * 86400).astype("M8[s]")
                found[name] = pyarrow.array(seconds, mask=missing)
            else:
                found[name] = pyarrow.array(numbers, mask=missing)
            continue
        values = np.array([None, *encoder.values], object)
        if encoder.is_pooled:
            lists = [values[one[one > 0]].tolist() for one in column]
            kind = pyarrow.list_(pyarrow.string())
            found[name] = pyarrow.array(lists, kind)
        else:
            found[name] = pyarrow.array(values[column], pyarrow.string())
    return found


def stored_histories(model, rows) -> list[np.ndarray]:
    """The stored history of each user row: candidate rows, oldest first."""
    starts = keras.ops.convert_to_numpy(model.histories.starts)
    items = keras.ops.convert_to_numpy(model.histories.candidate_rows)
    return [items[starts[row] : starts[row + 1]] for row in rows.tolist()]


def _known(vocabulary, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids that there are, and their rows."""
    if vocabulary is None:
        rows = np.arange(num_rows, dtype="int32")
        return rows.astype("int64"), rows
    rows = np.arange(1, vocabulary.num_rows, dtype="int32")
    return vocabulary.ids, rows


def _encoders(lookup) -> dict:
    if lookup is None:
        return {}
    return {
        name: {"kind": encoder.kind, **encoder.get_config()}
        for name, encoder in lookup.schema.encoders.items()
    }
