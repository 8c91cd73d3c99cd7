"""The users of a request: known ones, and those who never were in training."""

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import (
    PADDING,
    next_power_of_two,
    pad_lists,
)
from keras_dp_retrieval.model import encoding, feature_rows, id_rows
from keras_dp_retrieval.towers import history_tower


def users_of(model, user_ids, histories, user_features) -> "Users":
    """The users of a request: by ids, by histories, or by their features.

    Args:
        model: `TwoTowerRetrieval`.
        user_ids: As in `TwoTowerRetrieval.recommend`, and the others.

    Raises:
        ValueError: If it is neither or both, or they do not fit the model.
    """
    given = [user_ids is not None, histories is not None]
    needs_histories = encoding.needs_histories(model)
    is_twice = all(given) and not needs_histories
    if is_twice or (user_features is None and not any(given)):
        raise ValueError(
            "Give either `user_ids` or `histories`, or `user_features` alone. "
            f"Received: {'both' if is_twice else 'neither'}."
        )
    users: _KnownUsers | _NewUsers | None = None
    rows = None
    if user_ids is not None:
        rows = id_rows.user_rows(model, user_ids)
    if histories is not None:
        users = _new_users(model, histories, rows)
    elif rows is not None:
        if needs_histories:
            raise ValueError(
                encoding.without_histories(model, "`user_ids` alone")
            )
        users = _KnownUsers(rows, model.histories)
    if user_features is not None:
        length = feature_rows.num_rows(user_features)
        columns = feature_rows.encoded(
            model,
            "user",
            user_features,
            user_ids,
            length if users is None else len(users),
        )
        return _UsersWithFeatures(model, users, columns)
    assert users is not None
    if isinstance(users, _NewUsers) and model.user_features is not None:
        unknown = model.user_features.schema.unknown(len(users))
        return _UsersWithFeatures(model, users, unknown)
    return users


def _new_users(model, histories, user_rows) -> "_NewUsers":
    reader = history_tower(model.user_tower)
    if reader is None:
        raise ValueError(
            "`histories` need a user tower that takes them, such as "
            "`IdHistoryTower` or `RecencyTower`. Received: "
            f"{type(model.user_tower).__name__}."
        )
    is_lists = _checks.is_listed(histories) and len(histories)
    if not is_lists or not all(map(_checks.is_listed, histories)):
        raise ValueError(
            "`histories` must be a list of lists of candidate ids, such "
            "as [[50, 172, 181]], one for each user. Received: "
            f"{_checks.shown(histories):.80}."
        )
    if user_rows is not None and len(user_rows) != len(histories):
        raise ValueError(
            "`histories` must have a list for each of `user_ids`. Received: "
            f"{len(histories)} for {len(user_rows)} users."
        )
    return _NewUsers(
        [id_rows.candidate_rows(model, history) for history in histories],
        reader.max_length,
        user_rows,
    )


class _KnownUsers:
    """Users whom the model has rows for, and their seen items.

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
        """The inputs of the user tower, `(part, ...)`."""
        return self._rows[part]

    def seen(self, part: slice) -> np.ndarray | None:
        """Their seen items, `(part, longest)` rows, padded with -1."""
        if self._histories is None:
            return None
        return self._histories.padded(self._rows[part])


class _NewUsers:
    """The same of users whose histories come with the request.

    Args:
        histories: int32 arrays of candidate rows, oldest first.
        max_length: Optional int. How many of the latest go into the tower.
        rows: Optional int32 `(batch,)`. Their rows, where they are known.
    """

    def __init__(self, histories, max_length, rows=None):
        self._histories = histories
        self._max_length = max_length
        self._rows = rows

    def __len__(self):
        return len(self._histories)

    def inputs(self, part: slice) -> np.ndarray | dict:
        latest = -(self._max_length or 0)
        histories = padded(
            [rows[latest:] for rows in self._histories[part]],
            self._max_length,
        )
        if self._rows is None:
            return histories
        return {"user_id": self._rows[part], "history": histories}

    def seen(self, part: slice) -> np.ndarray:
        return padded(self._histories[part])


class _UsersWithFeatures:
    """The same of users whose features come with the request.

    Args:
        model: `TwoTowerRetrieval`.
        users: The same users by ids or histories, or None.
        columns: dict from names to encoded features, `(batch, ...)`.
    """

    def __init__(self, model, users, columns):
        self._model, self._users, self._columns = model, users, columns

    def __len__(self):
        return len(next(iter(self._columns.values())))

    def inputs(self, part: slice) -> dict:
        columns = {name: one[part] for name, one in self._columns.items()}
        length = len(next(iter(columns.values())))
        rows = np.zeros(length, "int32")
        histories = np.full((length, 1), PADDING, "int32")
        reads_histories = history_tower(self._model.user_tower) is not None
        if self._users is not None:
            inputs = self._users.inputs(part)
            if reads_histories:
                rows, histories = encoding.with_histories(self._model, inputs)
            else:
                rows = inputs
        history = {"history": histories} if reads_histories else {}
        return {"user_id": rows, **columns, **history}

    def seen(self, part: slice) -> np.ndarray | None:
        return None if self._users is None else self._users.seen(part)


Users = _KnownUsers | _NewUsers | _UsersWithFeatures


def padded(lists, most=None) -> np.ndarray:
    """int32 `(batch, longest)`, padded with -1.

    `longest` is rounded up to a power of two, or to `most`, so that few shapes
    occur.
    """
    width = next_power_of_two(max(map(len, lists)))
    width = width if most is None else min(width, most)
    return pad_lists(lists, width)
