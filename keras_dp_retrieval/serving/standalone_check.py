"""Asks an export for lists, with nothing but the libraries that it is for.

A program of its own, which does not import this package: `python
standalone_check.py KIND FOLDER REQUESTS OUTPUT`. It shows what whoever serves
an export has to do.
"""

import datetime
import json
import pathlib
import re
import sys

import numpy as np

EPOCH = datetime.datetime(1970, 1, 1)


def main(kind: str, folder, requests, output) -> None:
    """Answers requests, or the vectors of users, with one artefact.

    Args:
        kind: `"onnx"` or `"saved_model"`; `"parquet"` or `"npz"`; or
            `"flat"`, `"ivf"` or `"hnsw"`.
        folder: Path of the export.
        requests: Path of a JSON file: `"requests"`, a list of dicts with
            `"user_id"`, `"history"` and `"features"`, each of which may be
            absent; their `"vectors"`; and `"k"`.
        output: Path of the `.npz` file to write: `vectors`, `ids`, `scores`.
    """
    folder = pathlib.Path(folder)
    asked = json.loads(pathlib.Path(requests).read_text())
    vectors = np.array(asked["vectors"], "float32")
    found: dict = {}
    if kind in ("onnx", "saved_model"):
        run = onnx_tower(folder) if kind == "onnx" else tensorflow_tower(folder)
        inputs = Inputs(folder).of(asked["requests"])
        vectors = run(inputs)
        one = run({name: array[:1] for name, array in inputs.items()})
        assert one.shape == (1, vectors.shape[1]), one.shape
        found["vectors"] = vectors
    if kind in ("flat", "ivf", "hnsw"):
        ids, scores = faiss_search(folder, kind, vectors, asked["k"])
        found |= {"ids": ids, "scores": scores}
    elif kind == "npz":
        saved = np.load(folder / "candidates.npz")
        found |= best_by_hand(
            saved["ids"], saved["vectors"], vectors, asked["k"]
        )
    elif (folder / "candidates.parquet").exists():
        ids, candidates = parquet_candidates(folder)
        found |= best_by_hand(ids, candidates, vectors, asked["k"])
    assert "keras_dp_retrieval" not in sys.modules
    np.savez(output, **found)


def onnx_tower(folder):
    """The user tower in ONNX Runtime: a dict of arrays to vectors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / "user_tower" / "user_tower.onnx"),
        providers=["CPUExecutionProvider"],
    )
    return lambda inputs: session.run(["vector"], inputs)[0]


def tensorflow_tower(folder):
    """The user tower in TensorFlow."""
    import tensorflow as tf

    tower = tf.saved_model.load(str(folder / "user_tower" / "saved_model"))

    def run(inputs):
        tensors = {name: tf.constant(one) for name, one in inputs.items()}
        return tower.serve(tensors).numpy()

    run.tower = tower  # Its variables live as long as it does.
    return run


def parquet_candidates(folder):
    """Ids and vectors, `(num_candidates,)` and `(num_candidates, dim)`."""
    from pyarrow import parquet

    table = parquet.read_table(
        folder / "candidates.parquet", columns=["id", "vector"]
    ).combine_chunks()
    flat = np.concatenate(
        [chunk.flatten().to_numpy() for chunk in table["vector"].chunks]
    )
    ids = np.array(table["id"].to_pylist())
    return ids, flat.reshape(len(ids), -1)


def best_by_hand(ids, vectors, queries, k) -> dict:
    """The best k by falling inner product, equal ones by their place."""
    found: dict = {"ids": [], "scores": []}
    for query in queries:
        scores = vectors @ query
        order = np.argsort(-scores, kind="stable")[:k]
        found["ids"].append(ids[order])
        found["scores"].append(scores[order])
    return found


def faiss_search(folder, kind, queries, k):
    """Ids and scores of an index of FAISS."""
    import faiss

    index = faiss.read_index(str(folder / "index" / f"{kind}.faiss"))
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    ids = np.load(folder / "index" / "ids.npy")
    assert index.ntotal == len(ids)
    scores, positions = index.search(queries, k)
    padding = "" if ids.dtype.kind == "U" else -1
    return np.where(positions >= 0, ids[positions], padding), scores


class Inputs:
    """Makes the inputs of the user tower of requests.

    Args:
        folder: Path of the export.
    """

    def __init__(self, folder):
        from pyarrow import parquet

        contents = json.loads((folder / "encoders.json").read_text())
        self.inputs = contents["inputs"]
        self.encoders = contents["user_features"]
        tower = folder / "user_tower"
        self.users = {
            user["id"]: user
            for user in parquet.read_table(tower / "users.parquet").to_pylist()
        }
        self.candidates = {}
        if "history" in self.inputs:
            rows = parquet.read_table(tower / "candidate_rows.parquet")
            self.candidates = dict(
                zip(*map(list, rows.to_pydict().values()), strict=True)
            )

    def of(self, requests) -> dict:
        """The inputs by name, arrays `(batch, ...)`."""
        users = [self.users.get(one.get("user_id"), {}) for one in requests]
        found = {
            "user_id": np.array([user.get("row", 0) for user in users], "int32")
        }
        pairs = list(zip(requests, users, strict=True))
        if "history" in self.inputs:
            length = self.inputs["history"]["shape"][1]
            given = [
                one["history"] if "history" in one else user.get("history")
                for one, user in pairs
            ]
            found["history"] = padded(
                [
                    [self.candidates[i] for i in one or []][-(length or 0) :]
                    for one in given
                ],
                length,
                -1,
            )
        for name, encoder in self.encoders.items():
            values = [
                one["features"].get(name)
                if "features" in one
                else user.get(f"feature_{name}")
                for one, user in pairs
            ]
            found[name] = encoded(encoder, values)
        return found


def encoded(encoder, values) -> np.ndarray:
    """A column of features as the user tower takes it."""
    if encoder["kind"] in ("numeric", "date"):
        numbers = [
            encoder["mean"] if one is None else number(one) for one in values
        ]
        scaled = (np.array(numbers) - encoder["mean"]) / encoder["stddev"]
        return scaled.astype("float32")
    index = {value: at for at, value in enumerate(encoder["values"], 1)}
    if encoder["kind"] == "categorical":
        return np.array([index.get(one, 0) for one in values], "int32")
    if encoder["kind"] == "text":
        values = [
            re.findall(r"[^\W_]+", " ".join(one or []).lower())
            if not isinstance(one, str)
            else re.findall(r"[^\W_]+", one.lower())
            for one in values
        ]
    lists = [
        [index[one] for one in dict.fromkeys(value or []) if one in index]
        for value in values
    ]
    return padded(lists, None, 0)


def number(value) -> float:
    """A number, or the days since 1970 of a date."""
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.datetime):
        return (value - EPOCH).total_seconds() / 86400
    return float(value)


def padded(lists, length, padding) -> np.ndarray:
    """Lists as one array, `(batch, length)`, by default as long as any."""
    if length is None:
        length = max(1, *map(len, lists)) if lists else 1
    rows = np.full((len(lists), length), padding, "int32")
    for row, values in zip(rows, lists, strict=True):
        row[: len(values)] = values
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
