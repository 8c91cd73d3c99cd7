"""The peers of models with features: what else finds new items and users.

A peer is `fit(data, seed, asked, **setting)`: it learns from the train part of
a data set and returns, for each `Asked` of the list, scores of all candidates,
`(number of users, num_candidates)` in NumPy. Those that run in environments of
their own are in `peers_hybrid.py`.
"""

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np
import scipy.sparse

HYBRID = pathlib.Path(__file__).with_name("peers_hybrid.py")


class Unavailable(Exception):
    """This peer cannot run here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """Users, and what is known of each.

    Args:
        rows: int `(n,)`.
        histories: Lists of candidate rows.
        are_new: bool. Whether the histories are not in the train part.
    """

    rows: np.ndarray
    histories: list
    are_new: bool = False

    def matrix(self, num_candidates: int) -> scipy.sparse.csr_matrix:
        """The histories, 0 or 1: float32 `(n, num_candidates)`."""
        lengths = [len(one) for one in self.histories]
        columns = np.concatenate([*self.histories, []]).astype(int)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        found = scipy.sparse.csr_matrix(
            (np.ones(len(rows), "float32"), (rows, columns)),
            shape=(len(lengths), num_candidates),
        )
        found.data[:] = 1
        return found


def train_matrix(data) -> scipy.sparse.csr_matrix:
    """Interactions of the train part, 0 or 1."""
    rows = np.arange(data.num_users)
    return Asked(rows, data.seen.of(rows)).matrix(data.num_candidates)


def one_hot(features, num_rows) -> np.ndarray:
    """Encoded features as columns of 0 and 1, numbers in their bins."""
    if features is None:
        return np.zeros((num_rows, 0), "float32")
    blocks = []
    for name, encoder in features.schema.encoders.items():
        column = features.columns[name]
        if encoder.is_number:
            column = 1 + np.searchsorted(encoder.boundaries, column, "right")
            size = len(encoder.boundaries) + 2
        else:
            size = encoder.num_indices
        block = np.zeros((num_rows, size), "float32")
        rows = np.arange(num_rows)
        for indices in column.reshape(len(column), -1).T:
            block[rows, indices] = 1
        blocks.append(block[:, 1:])
    table = np.concatenate(blocks, axis=1)
    table[~features.is_known] = 0
    return table


def each(fit) -> Callable:
    """A peer, of a function that returns a function of an `Asked`."""

    @functools.wraps(fit)
    def fit_and_ask(data, seed, asked, **setting):
        return list(map(fit(data, seed, **setting), asked))

    return fit_and_ask


@each
def random_scores(data, seed):
    rng = np.random.default_rng(seed)
    return lambda asked: rng.random((len(asked.rows), data.num_candidates))


@each
def popularity(data, seed):
    counts = data.candidate_counts("train").astype("float64")
    return lambda asked: np.repeat(counts[None], len(asked.rows), 0)


@each
def popularity_by_features(data, seed, *, shrink):
    """Popularity among the users of each feature's value, relative to all.

    Naive Bayes: log shares of a candidate, shrunk towards its share of all.
    """
    features = one_hot(data.user_features, data.num_users)
    counts = features.T @ train_matrix(data).toarray()
    overall = data.candidate_counts("train") + 0.5
    overall = overall / overall.sum()
    shares = counts + shrink * overall
    shares /= shares.sum(axis=1, keepdims=True)
    lifts = np.log(shares) - np.log(overall)
    return lambda asked: features[asked.rows] @ lifts + np.log(overall)


@each
def content_knn(data, seed):
    """Cosine of TF-IDF vectors: a candidate's, and the sum of a history's."""
    table = one_hot(data.candidate_features, data.num_candidates)
    found_in = np.maximum(table.sum(axis=0), 1)
    table = table * np.log(len(table) / found_in)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return lambda asked: (asked.matrix(len(table)) @ table) @ table.T


@each
def item_knn(data, seed, *, neighbours, shrink):
    """Candidates similar to the history's, by cosine; as in `peers.py`."""
    seen = train_matrix(data)
    similar = (seen.T @ seen).toarray()
    norms = np.sqrt(np.diag(similar))
    np.fill_diagonal(similar, 0)
    similar /= norms[:, None] * norms + shrink + 1e-9
    if neighbours < len(similar):
        least = np.partition(similar, -neighbours, axis=1)[:, -neighbours]
        similar[similar < least[:, None]] = 0
    return lambda asked: asked.matrix(len(similar)) @ similar.T


@each
def ease(data, seed, *, l2):
    """Linear weights from candidate to candidate; as in `peers.py`."""
    seen = train_matrix(data)
    gram = (seen.T @ seen).toarray().astype("float64")
    gram[np.diag_indices_from(gram)] += l2
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return lambda asked: asked.matrix(len(weights)) @ weights


def hybrid(name: str) -> Callable:
    """A peer of `peers_hybrid.py`."""

    def fit(data, seed, asked, *, python, **setting):
        if python is None:
            raise Unavailable(f"pass --{name}-python")
        with tempfile.TemporaryDirectory() as folder:
            given, found = (f"{folder}/{one}.npz" for one in ("in", "out"))
            np.savez(given, **arrays_of(data, asked))
            command = [python, HYBRID, name, given, found]
            command += ["--seed", str(seed), "--setting", json.dumps(setting)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            environment.pop("PYTHONPATH", None)
            subprocess.run(command, check=True, env=environment)
            with np.load(found) as file:
                return list(file["scores"])

    return fit


def arrays_of(data, asked) -> dict:
    """What `peers_hybrid.py` is given."""
    train = data.ratings("train")
    histories = [one.matrix(data.num_candidates).toarray() for one in asked]
    return {
        "num_users": data.num_users,
        "num_candidates": data.num_candidates,
        "train": np.stack([train.user_rows, train.candidate_rows], axis=1),
        "user_features": one_hot(data.user_features, data.num_users),
        "candidate_features": one_hot(
            data.candidate_features, data.num_candidates
        ),
        "asked": asked[0].rows,
        "histories": np.stack(histories),
        "are_new": asked[0].are_new,
    }
