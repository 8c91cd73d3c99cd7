"""Ranks users: from vectors to the rows of the best candidates."""

from collections.abc import Callable

import keras
import numpy as np

from keras_dp_retrieval import distribution
from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.index import chunks
from keras_dp_retrieval.metrics.protocol import check_shapes
from keras_dp_retrieval.training.finite import check_vectors


def best_rows(
    user_vectors, candidate_vectors, excluded_rows, allowed, *, k, chunk_size
):
    """The rows of the best `k` candidates of each user, -1 where none is."""
    _, rows = chunks.best_of_rows(
        user_vectors,
        candidate_vectors,
        excluded_rows,
        allowed,
        candidate_scales=None,
        first_row=0,
        num_rows=candidate_vectors.shape[0],
        k=k,
        chunk_size=chunk_size,
    )
    return rows


def make_ranker(
    encode_users,
    candidate_vectors,
    allowed,
    *,
    num_candidates: int,
    k: int,
    chunk_size: int,
    among=None,
) -> Callable:
    """Returns `rank(user_rows, excluded_rows)` -> lists, NumPy in and out.

    `user_rows` are those of all processes, `excluded_rows` and the lists
    those of this process. The lists are a tuple of one array of rows, or of
    two with `among`: users are encoded once for both.

    Args:
        encode_users: Function from user rows to `(batch, dim)`.
        candidate_vectors: Floats `(num_rows, dim)`, one row a candidate row.
        allowed: bool `(num_candidates,)`. Which rows a list may hold.
        num_candidates: int. Candidate rows of the data.
        k: int. Length of the lists.
        chunk_size: int. Candidates scored at a time.
        among: Optional bool `(num_candidates,)`. Which rows the second list
            may hold, of those allowed; it is no longer than there are.

    Raises:
        ValueError: If there are fewer vectors than candidate rows, or some
            are NaN or infinite.
    """
    candidates = keras.ops.convert_to_tensor(candidate_vectors)
    num_rows = int(candidates.shape[0]) if candidates.shape else 0
    if num_rows < num_candidates:
        raise ValueError(
            "The model must have a vector for every candidate of the data. "
            f"Received: {num_rows} candidate vectors for "
            f"{num_candidates} rows."
        )
    allowed = np.pad(allowed, (0, num_rows - num_candidates))
    catalogues = [_Catalogue(allowed, k, chunk_size)]
    if among is not None:
        some = allowed & np.pad(among, (0, num_rows - num_candidates))
        catalogues.append(_PartOfCatalogue(some, k, chunk_size))

    def vectors_of_users(user_rows):
        vectors = keras.ops.convert_to_tensor(encode_users(user_rows))
        check_shapes(vectors, candidates, len(user_rows))
        return vectors

    if keras.backend.backend() == "jax":
        return _sharded_ranker(vectors_of_users, candidates, catalogues)
    check_vectors("candidate", candidates, allowed)
    programs = [_program(one, one.table(candidates)) for one in catalogues]

    def rank(user_rows, excluded_rows):
        vectors = vectors_of_users(user_rows)
        check_vectors("user", vectors)
        return tuple(
            one.rows_of(program(vectors, one.positions_of(excluded_rows)))
            for one, program in zip(catalogues, programs, strict=True)
        )

    return rank


class _Catalogue:
    """The candidates that a list is made of: all rows of the table.

    Args:
        allowed: bool. Which of them the list may hold.
        k: int. Length of the lists.
        chunk_size: int. Candidates scored at a time.
    """

    def __init__(self, allowed, k: int, chunk_size: int):
        self.allowed = allowed
        self.options = {"k": k, "chunk_size": min(chunk_size, len(allowed))}

    def table(self, candidates):
        """Their vectors."""
        return candidates

    def positions_of(self, rows) -> np.ndarray:
        """Where rows of the table stand in this one, -1 for others."""
        return rows

    def rows_of(self, positions) -> np.ndarray:
        """The rows of positions, -1 for -1."""
        return keras.ops.convert_to_numpy(positions)


class _PartOfCatalogue(_Catalogue):
    """Some rows, copied into a table of their own, so that few cost little.

    Args:
        allowed: bool `(num_rows,)`. Which rows.
    """

    def __init__(self, allowed, k: int, chunk_size: int):
        rows = np.flatnonzero(allowed).astype("int32")
        # A table has a row at least.
        self._rows = rows if len(rows) else np.zeros(1, "int32")
        self._positions = np.full(len(allowed), PADDING, "int32")
        self._positions[rows] = np.arange(len(rows))
        super().__init__(
            allowed[self._rows], min(k, len(self._rows)), chunk_size
        )

    def table(self, candidates):
        return keras.ops.take(candidates, self._rows, axis=0)

    def positions_of(self, rows) -> np.ndarray:
        return np.where(rows == PADDING, PADDING, self._positions[rows])

    def rows_of(self, positions) -> np.ndarray:
        positions = super().rows_of(positions)
        return np.where(positions == PADDING, PADDING, self._rows[positions])


def _program(catalogue, candidates) -> Callable:
    usable = keras.ops.convert_to_tensor(catalogue.allowed)

    def program(vectors, excluded_rows):
        excluded = keras.ops.convert_to_tensor(excluded_rows)
        return best_rows(
            vectors, candidates, excluded, usable, **catalogue.options
        )

    return program


def _sharded_ranker(encode_users, candidates, catalogues) -> Callable:
    """A ranker that shards this process's users over its devices."""
    from keras_dp_retrieval._jax import ranking
    from keras_dp_retrieval._jax.replication import replicate

    strategy = keras.distribution.distribution()
    mesh = ranking.local_mesh(strategy and strategy.device_mesh)
    candidates = ranking.local_copy(candidates)
    check_vectors("candidate", candidates, catalogues[0].allowed)
    programs = [
        (
            one,
            ranking.compiled_ranker(best_rows, mesh, **one.options),
            *replicate((one.table(candidates), one.allowed), mesh),
        )
        for one in catalogues
    ]

    def rank(user_rows, excluded_rows):
        # Every process computes the vectors of all users of the chunk: the
        # model may be one program over all processes, so they call it alike.
        vectors = ranking.local_copy(encode_users(user_rows))
        check_vectors("user", vectors)
        if len(excluded_rows) < len(user_rows):
            vectors = vectors[distribution.process_rows(len(user_rows))]
        vectors = ranking.shard_rows(vectors, mesh)
        # Both programs run before either is waited for.
        found = [
            program(
                vectors,
                table,
                ranking.shard_rows(one.positions_of(excluded_rows), mesh),
                allowed,
            )
            for one, program, table, allowed in programs
        ]
        return tuple(
            one.rows_of(positions)
            for one, positions in zip(catalogues, found, strict=True)
        )

    return rank
