"""Anybody's batches of `(x, y)`, as far as an evaluation needs to know them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.divided import Divided
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class BatchedInteractions:
    """Interactions and histories from batches that were made elsewhere.

    What `RetrievalDataset.from_batches` returns: enough for
    `keras_dp_retrieval.evaluate` and `RetrievalMetrics`, with the ids as the
    model's tables have them. Nothing is looked up or put in another order: id
    7 is row 7. It holds the ids of all interactions, 8 bytes each, and makes
    no batches.

    Args:
        parts: dict from `"train"`, `"validation"` and `"test"` to
            `(user_rows, candidate_rows)`, or None where there is no such part.
        num_candidates: Optional int. Rows of the candidate table.
        candidates: Optional ints: the rows that are candidates.
    """

    def __init__(self, parts: Mapping, num_candidates=None, candidates=None):
        ratings = {
            part: Ratings(*(parts.get(part) or (np.zeros(0, int),) * 2))
            for part in PARTS
        }
        used = np.unique(
            np.concatenate([p.candidate_rows for p in ratings.values()])
        )
        self.candidates = candidates
        known = used
        if candidates is not None:
            known = np.unique(_ids("candidates", candidates))
            strange = np.setdiff1d(used, known)
            if len(strange):
                raise ValueError(
                    "`candidates` must have every candidate of the batches. "
                    f"Received: {len(strange)} others in the batches, such as "
                    f"{int(strange[0])}."
                )
        if not len(known):
            raise ValueError("There must be interactions. Received: none.")
        least = int(known[-1]) + 1
        self.num_candidates = least
        if num_candidates is not None:
            count = _checks.positive_int("num_candidates", num_candidates)
            if count < least:
                raise ValueError(
                    "`num_candidates` must be greater than every candidate "
                    f"id. Received: num_candidates={count} and the id "
                    f"{least - 1}."
                )
            self.num_candidates = count
        self.real_candidates = np.zeros(self.num_candidates, bool)
        self.real_candidates[known] = True
        self.num_users = 1 + max(
            int(part.user_rows.max(initial=0)) for part in ratings.values()
        )
        self._divided = Divided(ratings, self.num_users, self.num_candidates)

    def ratings(self, split: str) -> Ratings:
        """Returns the interactions of `"train"`, `"validation"` or `"test"`."""
        return self._divided.ratings(split)

    def seen_before(self, split: str) -> Interactions:
        """The interaction histories before this part, by user.

        For the test part that is train and validation, for the validation
        part it is train, and before the train part there is nothing.
        """
        return self._divided.seen_before(split)

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row."""
        return self._divided.candidate_counts(split)

    def user_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_users,)` int64: interactions of each row."""
        return self._divided.user_counts(split)

    def get_config(self) -> dict:
        candidates = self.candidates
        return {
            "parts": {
                part: [p.user_rows.tolist(), p.candidate_rows.tolist()]
                for part, p in self._divided.parts.items()
            },
            "num_candidates": self.num_candidates,
            "candidates": candidates
            if candidates is None
            else np.asarray(candidates).tolist(),
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "BatchedInteractions":
        return cls(**config)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{len(part):,} {name}"
            for name, part in self._divided.parts.items()
        )
        return f"<{type(self).__name__}: {sizes}>"


def read_parts(
    parts: Mapping[str, Any], user_key: str, candidate_key: str
) -> dict:
    """Reads each part once.

    Args:
        parts: dict from the names of the parts to `(x, y)` arrays, or batches
            of them: a `tf.data.Dataset`, a `keras.utils.PyDataset` or any
            iterable; or to None.
        user_key: str. Where `x` is a dict, the users' key in it.
        candidate_key: str. Where `y` is a dict, the candidates' key in it.

    Returns:
        dict from the names to `(user_rows, candidate_rows)`, or None.
    """
    return {
        name: _read_part(name, part, user_key, candidate_key)
        for name, part in parts.items()
    }


def _read_part(name: str, part: Any, user_key: str, candidate_key: str):
    if part is None:
        return None
    columns: tuple[list, list] = ([], [])
    for x, y, weights in _batches(name, part):
        users = _column(f"x of {name}", x, user_key, "user_key")
        candidates = _column(f"y of {name}", y, candidate_key, "candidate_key")
        if users.shape != candidates.shape:
            raise ValueError(
                "Users and candidates must have one id for each interaction. "
                f"Received in {name}: shapes {users.shape} and "
                f"{candidates.shape}."
            )
        if weights is not None:
            # Rows of weight 0 are padding.
            real = np.asarray(weights).reshape(len(users), -1).any(axis=1)
            users, candidates = users[real], candidates[real]
        columns[0].append(users)
        columns[1].append(candidates)
    if not columns[0]:
        return None
    users, candidates = (np.concatenate(column) for column in columns)
    return users, candidates


def _batches(name: str, part) -> Iterator[tuple]:
    for batch in _elements(name, part):
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError(
                f"`{name}` must be `(x, y)` or batches of `(x, y)`, with "
                "sample weights after them if you like. Received: a batch of "
                f"type {type(batch).__name__}."
            )
        x, y, weights = (*batch, None)[:3]
        if isinstance(weights, Mapping):
            weights = np.stack(
                [np.asarray(w) for w in weights.values()], axis=-1
            )
        yield x, y, weights


def _elements(name: str, part) -> Iterable:
    if isinstance(part, tuple):
        return [part]
    if isinstance(part, keras.utils.PyDataset):
        if part.num_batches is None:
            raise ValueError(
                f"`{name}` must end. Received: a PyDataset without a length."
            )
        return (part[index] for index in range(part.num_batches))
    if hasattr(part, "cardinality") and hasattr(part, "as_numpy_iterator"):
        if int(part.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
            raise ValueError(
                f"`{name}` must end. Received: a tf.data.Dataset that repeats "
                "for ever. Pass it without `.repeat()`."
            )
        return part.as_numpy_iterator()
    if isinstance(part, Iterable) and not isinstance(part, (str, Mapping)):
        return part
    raise ValueError(
        f"`{name}` must be `(x, y)` or batches of `(x, y)`. Received: "
        f"{type(part).__name__}."
    )


def _column(what: str, value, key, argument: str) -> np.ndarray:
    if isinstance(value, Mapping):
        if key not in value:
            raise ValueError(
                f"`{argument}` must be a key of {what}. Received: "
                f"{argument}={key!r} with the keys {list(value)}."
            )
        value = value[key]
    ids = _ids(what, value)
    # Keras shows a model columns of shape (batch, 1), too.
    if ids.ndim == 2 and ids.shape[1] == 1:
        ids = ids[:, 0]
    if ids.ndim != 1:
        raise ValueError(
            f"The ids in {what} must have the shape (batch,). Received: "
            f"{ids.shape}."
        )
    return ids


def _ids(what: str, value) -> np.ndarray:
    """Whole numbers from 0 on; an error for whatever else."""
    ids = np.asarray(keras.ops.convert_to_numpy(value))
    whole = ids.dtype.kind in "iu"
    if ids.size and (not whole or ids.min() < 0 or ids.max() >= 2**31):
        shown = f"of type {ids.dtype}"
        if whole:
            shown = f"from {ids.min()} to {ids.max()}"
        raise ValueError(
            f"The ids in {what} must be rows of the model's tables: whole "
            f"numbers from 0 to 2**31 - 1. Received: values {shown}."
        )
    return ids
