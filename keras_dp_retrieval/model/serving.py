"""Serving: raw ids in, raw ids and scores out."""

import types
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_lists,
)
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.index.exact import DEFAULT_CHUNK_SIZE, check_k, top_k
from keras_dp_retrieval.towers import HistoryTower
from keras_dp_retrieval.towers.histories import Histories
from keras_dp_retrieval.training.finite import check_vectors
from keras_dp_retrieval.training.in_use import loops, reads

# Users ranked, and candidates encoded, at a time: with the chunks of `top_k`,
# what bounds the memory.
USERS_PER_CHUNK = 1024
CANDIDATES_PER_CHUNK = DEFAULT_CHUNK_SIZE


class Serving:
    """The part of `TwoTowerRetrieval` that answers questions.

    Without vocabularies, an id is the row of its table.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Inside a namespace, because Keras forbids a built model to be given
        # a layer, and an index is built when the model has been.
        self._indexed = types.SimpleNamespace(index=None)
        self._popularity_offset = 0.0

    user_vocabulary: Vocabulary | None = None
    candidate_vocabulary: Vocabulary | None = None
    candidate_titles: dict

    # What the model brings along.
    num_users: int
    num_candidates: int
    user_tower: keras.layers.Layer
    histories: Histories | None
    candidate_counts: keras.Variable
    user_vectors: Callable
    candidate_vectors: Callable
    retrievable_mask: Callable

    @property
    def popularity_offset(self) -> float:
        """What popularity adds to a score; may be set at any time.

        With `counts`, how often candidates were positives in training, a
        candidate's score is its dot product with the user plus

            popularity_offset * log(1 + count / mean of all counts)

        which makes one more coordinate of the vectors: it is 1 for users, and
        the score is still a dot product. 0 leaves the vectors as they are;
        more than 0 favours popular candidates, less rare ones.
        """
        return self._popularity_offset

    @popularity_offset.setter
    def popularity_offset(self, value):
        value = _checks.number_between("popularity_offset", value)
        if value != self._popularity_offset:
            self._drop_index()
            self.predict_function = None  # It was compiled for the old one.
        self._popularity_offset = value

    def _with_one(self, vectors):
        """Users' vectors, with what is multiplied by the offsets."""
        if not self.popularity_offset:
            return vectors
        one = ops.ones_like(vectors[:, :1])
        return ops.concatenate([vectors, one], axis=1)

    def _with_offsets(self, vectors, rows=None):
        """Candidates' vectors, by default of all, with their offsets."""
        if not self.popularity_offset:
            return vectors
        counts = ops.cast(self.candidate_counts, "float32")
        # Relative to the mean, so that more epochs change nothing.
        mean = ops.maximum(ops.mean(counts), 1e-9)
        if rows is not None:
            counts = ops.take(counts, rows)
        offsets = self.popularity_offset * ops.log1p(counts / mean)
        offsets = ops.cast(offsets, vectors.dtype)
        return ops.concatenate([vectors, offsets[:, None]], axis=1)

    @reads
    def encode_users(self, user_ids=None, *, histories=None) -> np.ndarray:
        """Returns the vectors of users, float32 `(batch, dim)`.

        With a `popularity_offset`, `(batch, dim + 1)`. They are computed
        1,024 at a time, which is what bounds the memory.

        Args:
            user_ids: Ids of known users `(batch,)`, or
            histories: for each user a list of candidate ids, oldest first.
        """
        users = self._users(user_ids, histories)
        return _in_chunks(
            lambda part: self.user_vectors(users.inputs(part)),
            len(users),
            USERS_PER_CHUNK,
        )

    @reads
    def encode_candidates(self, candidate_ids=None) -> np.ndarray:
        """Returns the vectors of candidates, float32 `(batch, dim)`.

        With a `popularity_offset`, `(batch, dim + 1)`. No others are computed,
        and these 16,384 at a time, which is what bounds the memory.

        Args:
            candidate_ids: Ids `(batch,)`. By default all candidates, in the
                order of `retrievable_ids()`.

        The score of a user and a candidate is the dot product of their
        vectors, so any vector database can serve them.
        """
        if candidate_ids is None:
            rows = self._known_retrievable_rows()
        else:
            rows = self._candidate_rows(candidate_ids)
        return _in_chunks(
            lambda part: self.candidate_vectors(rows[part]),
            len(rows),
            CANDIDATES_PER_CHUNK,
        )

    @reads
    def retrievable_ids(self) -> np.ndarray:
        """Returns the ids of all candidates that can be recommended.

        Left out are those whose vector is noise: candidates that training
        does not have, where the candidate tower knows ids alone.
        """
        return self._candidate_ids(self._known_retrievable_rows())

    def _known_retrievable_rows(self) -> np.ndarray:
        """Table rows, int32, rising: those with an id, if there are ids.

        Row 0 stands for candidates that nobody knows. It may have been trained
        on all the same.
        """
        rows = np.flatnonzero(self.retrievable_mask()).astype("int32")
        if self.candidate_vocabulary is None:
            return rows
        return rows[(rows > 0) & (rows < self.candidate_vocabulary.num_rows)]

    @reads
    def recommend(
        self, user_ids=None, k=10, exclude_seen=True, *, histories=None
    ):
        """Returns the k candidates with the highest scores for each user.

        Args:
            user_ids: A list or array of the ids of known users, `(batch,)`.
            k: int. Candidates a user; may exceed the catalogue, up to 2**20.
            exclude_seen: bool. Leaves out what a user has had, as far as the
                model knows it: made `for_dataset`, it knows the train part.
            histories: Instead of `user_ids`, for each user a list of
                candidate ids, oldest first; nobody need have seen the users
                before. Needs a user tower that takes histories.

        Returns:
            `(candidate_ids, scores)`, NumPy arrays `(batch, k)`, best first,
            equal scores by the lower id (candidates that were added to a
            trained model come after those that it began with). Where fewer
            than k candidates are left, as for a user who has had nearly
            everything, the rest has id -1 (`""` among strings) and score
            minus infinity. No candidate has such an id.

        Raises:
            ValueError: If a user or candidate is not known, or vectors are
                NaN or infinite, as after a training that diverged.
        """
        k = check_k(k, self.num_candidates)
        _checks.one_of("exclude_seen", exclude_seen, (True, False))
        users = self._users(user_ids, histories)
        best = self._best_in_index if self.candidate_index else self._best()
        found = []
        for part in _parts(len(users), USERS_PER_CHUNK):
            vectors = self.user_vectors(users.inputs(part))
            check_vectors("user", vectors)
            excluded_rows = users.seen(part) if exclude_seen else None
            found.append(best(vectors, k, excluded_rows))
        ids, scores = map(np.concatenate, zip(*found, strict=True))
        return ids, scores

    def _best(self):
        """A search like `_best_in_index`, in the towers' present vectors."""
        candidates = self.candidate_vectors()
        allowed = np.zeros(self.num_candidates, bool)
        allowed[self._known_retrievable_rows()] = True
        check_vectors("candidate", candidates, allowed)

        def best(vectors, k, excluded_rows):
            scores, rows = top_k(
                vectors,
                candidates,
                k,
                excluded_rows=excluded_rows,
                allowed=allowed,
            )
            rows = ops.convert_to_numpy(rows)
            return self._candidate_ids(rows), ops.convert_to_numpy(scores)

        return best

    def _best_in_index(self, vectors, k, excluded_rows):
        """Returns `(ids, scores)`; `excluded_rows` are padded with -1."""
        index = self.candidate_index
        if excluded_rows is not None:
            # Each once: users have the same few in common.
            rows, places = np.unique(excluded_rows, return_inverse=True)
            first = 0 if self.candidate_vocabulary is None else 1
            there = rows >= first
            in_index = np.full(len(rows), PADDING, "int32")
            in_index[there] = index.rows(self._candidate_ids(rows[there]))
            excluded_rows = in_index[places].reshape(excluded_rows.shape)
        return index.search(vectors, k, excluded_rows=excluded_rows)

    @property
    def candidate_index(self) -> CandidateIndex | None:
        """What `build_index` made last, until the candidates change."""
        return self._indexed.index

    @reads
    def build_index(self, **kwargs) -> CandidateIndex:
        """Computes all candidates' vectors, once, for `recommend` to search.

        The index is saved with the model. It is as old as the vectors in it,
        so it goes when the model is trained on, given other weights or more
        candidates; a tower that you change in another way needs a new one.

        Args:
            **kwargs: As in `CandidateIndex`: `candidate_dtype="bfloat16"` or
                `"int8"` takes less memory, `chunk_size` bounds the search's.

        Returns:
            The index, which is also `candidate_index` from now on.
        """
        self._indexed.index = CandidateIndex.from_vectors(
            self.retrievable_ids(), self.encode_candidates(), **kwargs
        )
        return self._indexed.index

    def _drop_index(self):
        self._indexed.index = None

    @loops
    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`, on any number of rows; see `PaddedModel`."""
        self._drop_index()
        try:
            return super().fit(*args, **kwargs)
        finally:
            # A callback may have shuffled them; none is told of an error.
            if self.histories is not None:
                self.histories.restore_rows()

    @loops
    def train_on_batch(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        return super().train_on_batch(*args, **kwargs)

    @reads
    def set_weights(self, weights):
        """As in `keras.Model`."""
        self._drop_index()
        super().set_weights(weights)

    @reads
    def load_weights(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        super().load_weights(*args, **kwargs)

    def _users(self, user_ids, histories) -> "_Users":
        """The users of a question, by their ids or by their histories."""
        if (user_ids is None) == (histories is None):
            raise ValueError(
                "Give either `user_ids` or `histories`. Received: "
                f"{'neither' if user_ids is None else 'both'}."
            )
        if histories is None:
            return _KnownUsers(self._user_rows(user_ids), self.histories)
        if not isinstance(self.user_tower, HistoryTower):
            raise ValueError(
                "`histories` need a user tower that takes them, such as "
                "`IdHistoryTower` or `RecencyTower`. Received: "
                f"{type(self.user_tower).__name__}."
            )
        is_lists = _checks.is_listed(histories) and len(histories)
        if not is_lists or not all(map(_checks.is_listed, histories)):
            raise ValueError(
                "`histories` must be a list of lists of candidate ids, such "
                "as [[50, 172, 181]], one for each user. Received: "
                f"{_checks.shown(histories):.80}."
            )
        return _NewUsers(
            [self._candidate_rows(history) for history in histories],
            self.user_tower.max_length,
        )

    # Ids

    def _user_rows(self, user_ids) -> np.ndarray:
        return _rows("user", user_ids, self.user_vocabulary, self.num_users)

    def _candidate_rows(self, candidate_ids) -> np.ndarray:
        return _rows(
            "candidate",
            candidate_ids,
            self.candidate_vocabulary,
            self.num_candidates,
        )

    def _candidate_ids(self, rows) -> np.ndarray:
        if self.candidate_vocabulary is None:
            return rows
        return self.candidate_vocabulary.raw_ids(rows)


def check_rows(role, ids, num_rows, *, padded=False):
    """Raises unless `ids` are whole numbers from 0 to `num_rows` - 1.

    JAX answers an id that is too large with NaN and a negative one with some
    other row. `padded` allows the -1 that fills up lists of ids.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise ValueError(
            f"{role.capitalize()} ids must be whole numbers. Received: an "
            f"array of {ids.dtype}. A model made with "
            "`TwoTowerRetrieval.for_dataset` knows ids of other kinds."
        )
    lowest = PADDING if padded else 0
    if ids.size and (ids.min() < lowest or ids.max() >= num_rows):
        wrong = ids[(ids < lowest) | (ids >= num_rows)]
        raise ValueError(
            f"{role.capitalize()} ids must be from 0 to {num_rows - 1} "
            f"(`num_{role}s` - 1). Received: {wrong[0]}, and "
            f"{wrong.size - 1} more outside. For ids 1 to n, "
            f"`num_{role}s` is n + 1."
        )


class _KnownUsers:
    """Users whom the model has rows for, and what they have had.

    Args:
        rows: int32 `(batch,)`.
        histories: Optional `Histories`.
    """

    def __init__(self, rows, histories):
        self._rows = rows
        self._histories = histories

    def __len__(self):
        return len(self._rows)

    def inputs(self, part: slice) -> np.ndarray:
        """What goes into the user tower, `(part, ...)`."""
        return self._rows[part]

    def seen(self, part: slice) -> np.ndarray | None:
        """What they have had, `(part, longest)`, padded with -1."""
        if self._histories is None:
            return None
        return self._histories.padded(self._rows[part])


class _NewUsers:
    """The same of users who are known by their histories alone.

    Args:
        histories: int32 arrays of candidate rows, oldest first.
        max_length: Optional int. How many of the latest go into the tower.
    """

    def __init__(self, histories, max_length):
        self._histories = histories
        self._max_length = max_length

    def __len__(self):
        return len(self._histories)

    def inputs(self, part: slice) -> np.ndarray:
        latest = -(self._max_length or 0)
        return _padded(
            [rows[latest:] for rows in self._histories[part]],
            self._max_length,
        )

    def seen(self, part: slice) -> np.ndarray:
        return _padded(self._histories[part])


_Users = _KnownUsers | _NewUsers


def _padded(lists, most=None) -> np.ndarray:
    """int32 `(batch, longest)`, padded with -1.

    `longest` is rounded up to a power of two, or to `most`, so that few shapes
    occur.
    """
    width = next_power_of_two(max(map(len, lists)))
    width = width if most is None else min(width, most)
    return pad_lists(lists, width)


def _parts(length, size) -> list[slice]:
    """Slices of up to `size`; one also of nothing, for the result's shape."""
    return [
        slice(start, start + size) for start in range(0, max(length, 1), size)
    ]


def _in_chunks(encode, length, size) -> np.ndarray:
    """All of `encode(slice)`, float32 `(length, dim)`, `size` at a time."""
    parts = _parts(length, size)
    for part in parts:
        chunk = ops.convert_to_numpy(encode(part))
        if part is parts[0]:
            vectors = np.empty((length, chunk.shape[1]), "float32")
        vectors[part] = chunk
    return vectors


def _rows(role, ids, vocabulary, num_rows) -> np.ndarray:
    if ops.is_tensor(ids):
        ids = ops.convert_to_numpy(ids)
    if not _checks.is_listed(ids):
        raise ValueError(
            f"{role.capitalize()} ids must be a list or an array, `(batch,)`. "
            f"Received: a {type(ids).__name__}, {_checks.shown(ids):.80}."
        )
    if vocabulary is None:
        ids = id_column(f"{role}_ids", ids)
        check_rows(role, ids, num_rows)
        return ids.astype("int32")
    rows = vocabulary.rows(ids)
    if rows.ndim != 1:
        raise ValueError(
            f"{role.capitalize()} ids must have the shape `(batch,)`. "
            f"Received: an array of shape {rows.shape}."
        )
    if not rows.all():
        unknown = np.asarray(ids)[rows == 0]
        raise ValueError(
            f"{role.capitalize()} ids must be known to the model. Received: "
            f"{_checks.shown(unknown[0])}, and {unknown.size - 1} more "
            f"unknown. It knows {len(vocabulary.ids)} {role}s, such as "
            f"{_checks.shown(vocabulary.ids[0])}."
        )
    return rows
