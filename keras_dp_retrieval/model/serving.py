"""Serving: raw ids in, raw ids and scores out."""

import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.ratings import PADDING, Vocabulary
from keras_dp_retrieval.topk import top_k

# Users ranked at a time: with the chunks of `top_k`, what bounds the memory.
USERS_PER_CHUNK = 1024


class Serving:
    """The part of `TwoTowerRetrieval` that answers questions.

    Without vocabularies, an id is the row of its table.
    """

    user_vocabulary: Vocabulary | None = None
    candidate_vocabulary: Vocabulary | None = None
    candidate_titles: dict

    def encode_users(self, user_ids) -> np.ndarray:
        """Returns the vectors of known users, float32 `(batch, dim)`."""
        rows = self._user_rows(user_ids)
        return ops.convert_to_numpy(self.user_vectors(rows))

    def encode_candidates(self, candidate_ids=None) -> np.ndarray:
        """Returns the vectors of candidates, float32 `(batch, dim)`.

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

    def recommend(self, user_ids, k=10, exclude_seen=True):
        """Returns the k candidates with the highest scores for each user.

        Args:
            user_ids: Ids of known users, `(batch,)`.
            k: int. Candidates a user; may exceed the catalogue.
            exclude_seen: bool. Leaves out what a user has had, as far as the
                model knows it: made `for_dataset`, it knows the train part.

        Returns:
            `(candidate_ids, scores)`, NumPy arrays `(batch, k)`, best first,
            equal scores by the lower id. Where fewer than k candidates are
            left, the rest has id -1 (`""` among strings) and score minus
            infinity.

        Raises:
            ValueError: If a user is not known.
        """
        k = _checks.positive_int("k", k)
        rows = self._user_rows(user_ids)
        if rows.ndim != 1:
            raise ValueError(
                "`user_ids` must be a list of ids, `(batch,)`. Received: an "
                f"array of shape {rows.shape}."
            )
        candidates = self.candidate_vectors()
        allowed = self._retrievable_rows()
        chunks = [
            self._recommend_rows(part, k, exclude_seen, candidates, allowed)
            for part in _chunks(rows)
        ]
        scores = np.concatenate([scores for scores, _ in chunks])
        found = np.concatenate([found for _, found in chunks])
        return self._candidate_ids(found), scores

    def _recommend_rows(self, rows, k, exclude_seen, candidates, allowed):
        excluded = None
        if exclude_seen and self.histories is not None:
            excluded = self.histories.padded(rows)
        scores, found = top_k(
            self.user_vectors(rows),
            candidates,
            k,
            excluded_rows=excluded,
            allowed=allowed,
        )
        return ops.convert_to_numpy(scores), ops.convert_to_numpy(found)

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


def _chunks(rows):
    # One chunk also for no rows, so that the result has its shape.
    for start in range(0, max(len(rows), 1), USERS_PER_CHUNK):
        yield rows[start : start + USERS_PER_CHUNK]
