"""Users of one kind in a request: by their rows, histories or features."""

import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.model.row_lists import padded
from keras_dp_retrieval.towers import history_tower


class KnownUsers:
    """Users whom the model has rows for, and their seen items.

    Args:
        rows: int32 `(batch,)`.
        is_known: bool `(batch,)`. Those of others count for nothing.
        histories: Optional `Histories`.
    """

    def __init__(self, rows, is_known, histories):
        self.rows = rows
        self._histories = histories
        self.is_known = is_known
        self.num_unknown = (~is_known).astype("int32")

    def __len__(self):
        return len(self.rows)

    def lengths(self) -> np.ndarray:
        """How many items each is known to have seen, int `(batch,)`."""
        if self._histories is None:
            return np.zeros(len(self.rows), "int32")
        return self._histories.lengths(self.rows)

    def inputs(self, part: slice) -> np.ndarray:
        """The inputs of the user tower, `(part, ...)`."""
        return self.rows[part]

    def seen(self, part: slice) -> np.ndarray | None:
        """Their seen items, `(part, longest)` rows, padded with -1."""
        if self._histories is None:
            return None
        seen = self._histories.padded(self.rows[part])
        # Without a vocabulary, row 0 may be somebody.
        return np.where(self.is_known[part, None], seen, PADDING)


class NewUsers:
    """The same of users whose histories come with the request.

    Args:
        histories: int32 arrays of candidate rows, oldest first.
        num_unknown: Ints. How many more items each history has.
        max_length: Optional int. How many of the latest go into the tower.
        rows: Optional int32 `(batch,)`. Their rows, where they are known.
    """

    def __init__(self, histories, num_unknown, max_length, rows=None):
        self._histories = histories
        self._max_length = max_length
        self._rows = rows
        self.has_history = np.array([len(one) > 0 for one in histories], bool)
        self.num_unknown = np.array(num_unknown, "int32")

    def __len__(self):
        return len(self._histories)

    def lengths(self) -> np.ndarray:
        return np.array([len(one) for one in self._histories], "int32")

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


class UsersWithFeatures:
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

    def lengths(self) -> np.ndarray:
        if self._users is None:
            return np.zeros(len(self), "int32")
        return self._users.lengths()

    def inputs(self, part: slice) -> dict:
        columns = {name: one[part] for name, one in self._columns.items()}
        length = len(next(iter(columns.values())))
        rows = np.zeros(length, "int32")
        histories = np.full((length, 1), PADDING, "int32")
        reads_histories = history_tower(self._model.user_tower) is not None
        if self._users is not None:
            inputs = self._users.inputs(part)
            if reads_histories:
                if not isinstance(inputs, dict) and inputs.ndim == 1:
                    # Padded to the longest of these, not of all users.
                    history = self._users.seen(part)
                    inputs = {"user_id": inputs, "history": history}
                rows, histories = encoding.with_histories(self._model, inputs)
            else:
                rows = inputs
        history = {"history": histories} if reads_histories else {}
        return {"user_id": rows, **columns, **history}

    def seen(self, part: slice) -> np.ndarray | None:
        return None if self._users is None else self._users.seen(part)
