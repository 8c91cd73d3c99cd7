"""Proves an export: it is loaded elsewhere, asked, and compared."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np

from keras_dp_retrieval.index.faiss_kinds import KINDS
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.serving import exported_tables, standalone_check
from keras_dp_retrieval.towers import history_tower

# Requests of each kind.
MOST_REQUESTS = 64

# Candidates of a list.
K = 100

# How much scores may differ, relative to the largest of a list.
TOLERANCE = 1e-5

# Of the approximate indexes, the k of the recalls.
RECALLS = (10, 100)

_PROCESSES = {
    "onnx": ("onnx",),
    "saved_model": ("saved_model",),
    "parquet": ("parquet", "npz"),
    "faiss": KINDS,
}


def prove(model, exact, formats, folder) -> dict:
    """Compares what an export answers with what the model recommends.

    Args:
        model: `TwoTowerRetrieval`.
        exact: `CandidateIndex` of its candidates.
        formats: list of str.
        folder: Path of the export.

    Returns:
        dict: `"recalls"` of the approximate indexes, and `"proof"`: the
        number of requests, and of each artefact the largest difference of a
        score, and how many ids differ because their scores are so close.

    Raises:
        RuntimeError: If an artefact cannot be loaded, or they disagree.
    """
    asked = _asked(model, exact)
    expected = _Expected(exact, asked)
    recalls: dict = {}
    proof: dict = {"num_requests": len(asked["requests"])}
    with tempfile.TemporaryDirectory() as scratch:
        requests = pathlib.Path(scratch) / "requests.json"
        contents = {**asked, "vectors": asked["vectors"].tolist()}
        requests.write_text(json.dumps(contents), encoding="utf-8")
        for artefact in [one for name in formats for one in _PROCESSES[name]]:
            found = _answers(artefact, folder, requests, scratch)
            if "vectors" in found and "ids" not in found:
                found["ids"], found["scores"] = exact.search(
                    found["vectors"], asked["k"]
                )
            is_exact = artefact not in ("ivf", "hnsw")
            proof[artefact] = expected.compared(artefact, found, is_exact)
            if not is_exact:
                recalls[artefact] = expected.recalls(found["ids"])
    return {"recalls": recalls, "proof": proof}


def _answers(artefact, folder, requests, scratch) -> dict:
    output = pathlib.Path(scratch) / f"{artefact}.npz"
    source = pathlib.Path(standalone_check.__file__).read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", source, artefact, folder, requests, output],
        cwd=scratch,
        # On the CPU: another process may have the accelerator.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or str(done.returncode))[-1500:]
        raise RuntimeError(
            f"What was exported as {artefact!r} cannot be served. A process "
            f"of its own ended with: {reason}"
        )
    with np.load(output) as saved:
        return dict(saved)


class _Expected:
    """What the model recommends.

    Args:
        exact: `CandidateIndex`.
        asked: As `_asked` makes it.
    """

    def __init__(self, exact, asked):
        self.ids, self.scores = asked.pop("ids"), asked.pop("scores")
        self._exact, self._vectors = exact, asked["vectors"]

    def compared(self, artefact, found, is_exact: bool) -> dict:
        """How far answers are from the model's; raises if that is too far."""
        ids, scores = found["ids"], found["scores"]
        rows = self._exact.rows(ids.reshape(-1)).reshape(ids.shape)
        is_found = rows >= 0
        true = np.einsum(
            "qd,qkd->qk", self._vectors, self._exact.vectors()[rows]
        )
        scale = np.maximum(np.abs(self.scores).max(axis=1), 1e-30)[:, None]
        far = np.where(is_found, np.abs(scores - true) / scale, 0)
        if is_exact:
            if ids.shape != self.ids.shape or not is_found.all():
                raise _disagreement(artefact, "lists are shorter")
            differ = ids != self.ids
            far = np.maximum(far, np.abs(true - self.scores) / scale)
        else:
            differ = np.zeros(ids.shape, bool)
        for row in rows:
            row = row[row >= 0]
            if len(np.unique(row)) < len(row):
                raise _disagreement(artefact, "an id comes twice in a list")
        if not far.max(initial=0) <= TOLERANCE:
            request, place = np.unravel_index(far.argmax(), far.shape)
            raise _disagreement(
                artefact,
                f"scores differ by {far.max():.2g} of the largest of a list, "
                f"where {TOLERANCE:g} may be, such as that of "
                f"{ids[request, place]!r} at place {place} of request "
                f"{request}: {scores[request, place]:.7g}, where the model "
                f"has {self.ids[request, place]!r} with "
                f"{self.scores[request, place]:.7g}",
            )
        return {
            "largest_score_difference": float(far.max(initial=0)),
            "num_ids": int(ids.size),
            "num_ids_of_equal_score": int(differ.sum()),
        }

    def recalls(self, ids) -> dict[str, float]:
        """The share of the true best k among the first k, by k."""
        return {
            str(k): float(
                np.mean(
                    [
                        np.isin(one[:k], other[:k]).mean()
                        for one, other in zip(self.ids, ids, strict=True)
                    ]
                )
            )
            for k in RECALLS
            if k <= self.ids.shape[1]
        }


def _disagreement(artefact, what: str) -> RuntimeError:
    return RuntimeError(
        f"What was exported as {artefact!r} does not answer as the model "
        f"does: {what}."
    )


def _asked(model, exact) -> dict:
    """Requests of each kind that the model takes, and its answers.

    Returns:
        dict: `"requests"`, a list of dicts for JSON; `"k"`; and what the model
        answers: `"vectors"`, `"ids"`, `"scores"`.
    """
    k = min(K, len(exact))
    requests: list[dict] = []
    answers = []
    for kind in (_of_known, _of_histories, _of_features):
        some, arguments = kind(model)
        if not some:
            continue
        requests += some
        with _full_precision():
            answers.append(
                (
                    model.encode_users(**arguments),
                    *model.recommend(
                        **arguments, k=k, exclude_seen=False, index=exact
                    ),
                )
            )
    vectors, ids, scores = map(np.concatenate, zip(*answers, strict=True))
    return {
        "requests": requests,
        "k": k,
        "vectors": vectors,
        "ids": ids,
        "scores": scores,
    }


def _full_precision():
    """What is compared is computed on the CPU elsewhere."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    from keras_dp_retrieval._jax.precision import full_precision

    return full_precision()


def _some_users(model) -> tuple[np.ndarray, list]:
    """Rows and ids of some users, from all over the table."""
    vocabulary = model.user_vocabulary
    first = 0 if vocabulary is None else 1
    last = model.num_users if vocabulary is None else vocabulary.num_rows
    number = min(MOST_REQUESTS, last - first)
    rows = np.linspace(first, last - 1, number).round().astype("int32")
    ids = rows if vocabulary is None else vocabulary.raw_ids(rows)
    return rows, ids.tolist()


def _of_known(model) -> tuple[list, dict]:
    if encoding.needs_histories(model):
        return [], {}
    _, ids = _some_users(model)
    return [{"user_id": one} for one in ids], {"user_ids": ids}


def _of_histories(model) -> tuple[list, dict]:
    """Histories that end before the last item, and made-up ones."""
    if history_tower(model.user_tower) is None:
        return [], {}
    rows, ids = _some_users(model)
    histories = []
    if model.histories is not None:
        candidates = model.candidate_vocabulary
        for items in exported_tables.stored_histories(model, rows):
            one = (
                items[:-1]
                if candidates is None
                else (candidates.raw_ids(items[:-1]))
            )
            histories.append(one.tolist())
    rng = np.random.default_rng(0)
    known = model.retrievable_ids()
    for length in (0, 1, 2, 5, 300):
        histories.append(rng.choice(known, length).tolist())
    requests = [{"history": one} for one in histories]
    arguments: dict = {"histories": histories}
    if encoding.needs_histories(model):
        ids = (ids * len(histories))[: len(histories)]
        arguments["user_ids"] = ids
        pairs = zip(requests, ids, strict=True)
        requests = [{**one, "user_id": user} for one, user in pairs]
    return [{"features": {}, **one} for one in requests], arguments


def _of_features(model) -> tuple[list, dict]:
    """The features of known users, of whom nothing else is said."""
    if model.user_features is None:
        return [], {}
    rows, _ = _some_users(model)
    columns = {
        name: [" ".join(one) if kind == "text" else one for one in column]
        for name, column, kind in _raw_features(model, rows)
    }
    names = list(columns)
    requests = [
        {"features": dict(zip(names, values, strict=True)), "history": []}
        for values in zip(*columns.values(), strict=True)
    ]
    return requests, {"user_features": columns}


def _raw_features(model, rows):
    """Yields names, values that JSON can hold, and kinds."""
    decoded = exported_tables.decoded(model.user_features, rows)
    for name, column in decoded.items():
        kind = model.user_features.schema.encoders[name].kind
        values = column.to_pylist()
        if kind == "date":
            values = [one and one.isoformat() for one in values]
        elif kind == "text":
            values = [one or [] for one in values]
        yield name, values, kind
