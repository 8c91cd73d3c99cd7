"""Serving: raw ids in, raw ids and scores out."""

import types
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.ratings import PADDING, Vocabulary
from keras_dp_retrieval.histories import Histories
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.topk import top_k
from keras_dp_retrieval.towers import HistoryTower

# Users ranked at a time: with the chunks of `top_k`, what bounds the memory.
USERS_PER_CHUNK = 1024


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
    _retrievable_rows: Callable

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

    def _with_offsets(self, vectors):
        """All candidates' vectors, with their offsets."""
        if not self.popularity_offset:
            return vectors
        counts = ops.cast(self.candidate_counts, "float32")
        # Relative to the mean, so that more epochs change nothing.
        relative = counts / ops.maximum(ops.mean(counts), 1e-9)
        offsets = self.popularity_offset * ops.log1p(relative)
        offsets = ops.cast(offsets, vectors.dtype)
        return ops.concatenate([vectors, offsets[:, None]], axis=1)

    def encode_users(self, user_ids=None, *, histories=None) -> np.ndarray:
        """Returns the vectors of users, float32 `(batch, dim)`.

        With a `popularity_offset`, `(batch, dim + 1)`.

        Args:
            user_ids: Ids of known users `(batch,)`, or
            histories: for each user a list of candidate ids, oldest first.
        """
        inputs, _ = self._users(user_ids, histories, exclude_seen=False)
        return ops.convert_to_numpy(self.user_vectors(inputs))

    def encode_candidates(self, candidate_ids=None) -> np.ndarray:
        """Returns the vectors of candidates, float32 `(batch, dim)`.

        With a `popularity_offset`, `(batch, dim + 1)`.

        Args:
            candidate_ids: Ids `(batch,)`. By default all candidates, in the
                order of `retrievable_ids()`.

        The score of a user and a candidate is the dot product of their
        vectors, so any vector database can serve them.
        """
        if candidate_ids is None:
            rows = np.flatnonzero(self._retrievable_rows())
        else:
            rows = self._candidate_rows(candidate_ids)
        vectors = ops.convert_to_numpy(self.candidate_vectors())
        return vectors[rows]

    def retrievable_ids(self) -> np.ndarray:
        """Returns the ids of all candidates that can be recommended."""
        return self._candidate_ids(np.flatnonzero(self._retrievable_rows()))

    def recommend(
        self, user_ids=None, k=10, exclude_seen=True, *, histories=None
    ):
        """Returns the k candidates with the highest scores for each user.

        Args:
            user_ids: Ids of known users, `(batch,)`.
            k: int. Candidates a user; may exceed the catalogue.
            exclude_seen: bool. Leaves out what a user has had, as far as the
                model knows it: made `for_dataset`, it knows the train part.
            histories: Instead of `user_ids`, for each user a list of
                candidate ids, oldest first; nobody need have seen the users
                before. Needs a user tower that takes histories.

        Returns:
            `(candidate_ids, scores)`, NumPy arrays `(batch, k)`, best first,
            equal scores by the lower id (candidates that were added to a
            trained model come after those that it began with). Where fewer
            than k candidates are left, the rest has id -1 (`""` among
            strings) and score minus infinity.

        Raises:
            ValueError: If a user or candidate is not known.
        """
        k = _checks.positive_int("k", k)
        inputs, excluded = self._users(user_ids, histories, exclude_seen)
        best = self._best_in_index if self.candidate_index else self._best()
        chunks = []
        # One chunk also for no users, so that the result has its shape.
        for start in range(0, max(len(inputs), 1), USERS_PER_CHUNK):
            part = slice(start, start + USERS_PER_CHUNK)
            vectors = self.user_vectors(inputs[part])
            chunks.append(best(vectors, k, excluded and excluded(part)))
        ids, scores = map(np.concatenate, zip(*chunks, strict=True))
        return ids, scores

    def _best(self):
        """A search like `_best_in_index`, in the towers' present vectors."""
        candidates = self.candidate_vectors()
        allowed = self._retrievable_rows()

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
        exclude = None
        if excluded_rows is not None:
            excluded_rows = ops.convert_to_numpy(excluded_rows)
            exclude = [
                self._candidate_ids(rows[rows >= 0]) for rows in excluded_rows
            ]
        return self.candidate_index.search(vectors, k, exclude=exclude)

    @property
    def candidate_index(self) -> CandidateIndex | None:
        """What `build_index` made last, until the candidates change."""
        return self._indexed.index

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

    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`, on any number of rows; see `PaddedModel`."""
        self._drop_index()
        return super().fit(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        return super().train_on_batch(*args, **kwargs)

    def set_weights(self, weights):
        """As in `keras.Model`."""
        self._drop_index()
        super().set_weights(weights)

    def load_weights(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        super().load_weights(*args, **kwargs)

    def _users(self, user_ids, histories, exclude_seen):
        """Returns `(inputs, excluded)` for user ids or for histories.

        `inputs` `(batch, ...)` go into the user tower. `excluded` is None, or
        a function from a slice of the batch to rows, padded with -1.
        """
        if (user_ids is None) == (histories is None):
            raise ValueError(
                "Give either `user_ids` or `histories`. Received: "
                f"{'neither' if user_ids is None else 'both'}."
            )
        if histories is not None:
            rows = self._padded_histories(histories)
            inputs = self._latest(rows)
            return inputs, (lambda part: rows[part]) if exclude_seen else None
        rows = self._user_rows(user_ids)
        if rows.ndim != 1:
            raise ValueError(
                "`user_ids` must be a list of ids, `(batch,)`. Received: an "
                f"array of shape {rows.shape}."
            )
        if not exclude_seen or self.histories is None:
            return rows, None
        return rows, lambda part: self.histories.padded(rows[part])

    def _padded_histories(self, histories) -> np.ndarray:
        """int32 `(batch, longest)` rows, oldest first, padded with -1."""
        if not isinstance(self.user_tower, HistoryTower):
            raise ValueError(
                "`histories` need a user tower that takes them, such as "
                "`IdHistoryTower` or `RecencyTower`. Received: "
                f"{type(self.user_tower).__name__}."
            )
        lists = [np.asarray(history) for history in histories]
        if not lists or any(history.ndim != 1 for history in lists):
            raise ValueError(
                "`histories` must be a list of lists of candidate ids, such "
                "as [[50, 172, 181]], one for each user."
            )
        longest = max(max(map(len, lists)), 1)
        padded = np.full((len(lists), longest), PADDING, "int32")
        for row, history in zip(padded, lists, strict=True):
            if len(history):
                row[: len(history)] = self._candidate_rows(history)
        return padded

    def _latest(self, padded):
        """Keeps what the tower looks at: the end of each list."""
        max_length = self.user_tower.max_length
        if max_length is None or padded.shape[1] <= max_length:
            return padded
        length = (padded >= 0).sum(axis=1, keepdims=True)
        first = np.maximum(length - max_length, 0)
        places = first + np.arange(max_length)
        return np.take_along_axis(padded, places, axis=1)

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


def _rows(role, ids, vocabulary, num_rows) -> np.ndarray:
    ids = np.asarray(ids)
    if vocabulary is None:
        check_rows(role, ids, num_rows)
        return ids.astype("int32")
    rows = vocabulary.rows(ids)
    if not rows.all():
        unknown = ids[rows == 0]
        raise ValueError(
            f"{role.capitalize()} ids must be known to the model. Received: "
            f"{unknown[0]!r}, and {unknown.size - 1} more unknown. It knows "
            f"{len(vocabulary.ids)} {role}s, such as {vocabulary.ids[0]!r}."
        )
    return rows
