"""The users of a request: known ones, and those who never were in training."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.padding import in_few_shapes
from keras_dp_retrieval.model import encoding, feature_rows, id_rows
from keras_dp_retrieval.model.asked_users import (
    KnownUsers,
    NewUsers,
    UsersWithFeatures,
)
from keras_dp_retrieval.model.row_lists import joined
from keras_dp_retrieval.towers import history_tower

# Where an answer comes from.
BY_ID, BY_HISTORY, BY_FEATURES = "model", "history", "features"
POPULAR = "popular"

# What becomes of unknown ids.
UNKNOWN = ("raise", POPULAR)


def users_of(
    model, user_ids, histories, user_features, unknown="raise"
) -> "Users":
    """The users of a request: by ids, by histories, or by their features.

    Args:
        model: `TwoTowerRetrieval`.
        user_ids: As in `TwoTowerRetrieval.recommend`, and the others.

    Raises:
        ValueError: If none of them is given, or they do not fit the model.
    """
    skips = _checks.one_of("unknown", unknown, UNKNOWN) == POPULAR
    needs_histories = encoding.needs_histories(model)
    _check_given(user_ids, histories, user_features, skips or needs_histories)
    known = new = None
    if user_ids is not None:
        known = _known_users(model, user_ids, skips)
        if needs_histories and histories is None:
            histories = _no_histories(model, len(known), skips)
    if histories is not None:
        rows = known.rows if known is not None and needs_histories else None
        new = _new_users(model, histories, skips, rows)
    given = [users for users in (known, new) if users is not None]
    lengths = [len(users) for users in given]
    if len(set(lengths)) > 1:
        raise ValueError(
            "`histories` must have a list for each of `user_ids`. Received: "
            f"{lengths[1]} for {lengths[0]} users."
        )
    columns = has_features = None
    if user_features is not None:
        lengths.append(feature_rows.num_rows(user_features))
        columns, has_features = feature_rows.encoded(
            model, "user", user_features, user_ids, lengths[0]
        )
        if not skips:
            has_features = np.ones(lengths[0], bool)
    num_unknown = np.zeros(lengths[0], "int32")
    for users in given:
        num_unknown += users.num_unknown
    return Users(
        model,
        # Where histories come along, ids go with them.
        _with_features(model, None if needs_histories else known, new, columns),
        _sources(known, new, has_features, skips),
        num_unknown,
    )


def _check_given(user_ids, histories, user_features, takes_both):
    given = [user_ids is not None, histories is not None]
    if all(given) and not takes_both:
        raise ValueError(
            "Give either `user_ids` or `histories`, or `user_features` alone. "
            "Received: both. With `unknown='popular'`, histories go with ids: "
            "they are for those that are unknown."
        )
    if user_features is None and not any(given):
        raise ValueError(
            "Give either `user_ids` or `histories`, or `user_features` alone. "
            "Received: neither."
        )


def _no_histories(model, num_users, skips) -> list | None:
    """What users have had that come by their ids alone."""
    if not skips:
        raise ValueError(encoding.without_histories(model, "`user_ids` alone"))
    return [[]] * num_users


def _sources(known, new, has_features, skips) -> np.ndarray:
    """Where each answer comes from: the first of these that there is."""
    there_is = {}
    if known is not None:
        there_is[BY_ID] = known.is_known
    if new is not None:
        there_is[BY_HISTORY] = new.has_history
    if has_features is not None:
        there_is[BY_FEATURES] = has_features
    # Who raises at what is unknown means an empty history as it is.
    otherwise = POPULAR if skips else next(iter(there_is))
    return np.select(list(there_is.values()), list(there_is), otherwise)


def _with_features(model, known, new, columns) -> list:
    """Those who are asked about, with the features that the tower takes."""
    asked = [users for users in (known, new) if users is not None]
    if columns is not None:
        return [
            UsersWithFeatures(model, users, columns)
            for users in asked or [None]
        ]
    if new is not None and model.user_features is not None:
        unknown = model.user_features.schema.unknown(len(new))
        asked[-1] = UsersWithFeatures(model, new, unknown)
    return asked


def _known_users(model, user_ids, skips) -> KnownUsers:
    if skips:
        found = id_rows.known_user_rows(model, user_ids)
    else:
        rows = id_rows.user_rows(model, user_ids)
        found = rows, np.ones(len(rows), bool)
    return KnownUsers(*found, model.histories)


def _new_users(model, histories, skips, user_rows) -> NewUsers:
    reader = history_tower(model.user_tower)
    if reader is None:
        raise ValueError(
            "`histories` need a user tower that takes them, such as "
            "`IdHistoryTower` or `RecencyTower`. Received: "
            f"{type(model.user_tower).__name__}."
        )
    # As many as there are ids, which may be none.
    least = 1 if user_rows is None else 0
    is_lists = _checks.is_listed(histories) and len(histories) >= least
    if not is_lists or not all(map(_checks.is_listed, histories)):
        raise ValueError(
            "`histories` must be a list of lists of candidate ids, such "
            "as [[50, 172, 181]], one for each user. Received: "
            f"{_checks.shown(histories):.80}."
        )
    if skips:
        lists = [
            id_rows.known_candidate_rows(model, history)
            for history in histories
        ]
    else:
        lists = [id_rows.candidate_rows(model, one) for one in histories]
    num_unknown = [
        len(history) - len(rows)
        for history, rows in zip(histories, lists, strict=True)
    ]
    return NewUsers(lists, num_unknown, reader.max_length, user_rows)


class Users:
    """The users of a request.

    Args:
        model: `TwoTowerRetrieval`.
        asked: Those whose rows are known, those whose histories are given, or
            both, in this order: then the latter are for whom the former does
            not know.
        sources: str `(batch,)`: where each answer comes from. Whoever has
            `POPULAR` is not for the tower, which could say nothing.
        num_unknown: int32 `(batch,)`. Ids of the user and of the history that
            the model does not know.
    """

    def __init__(self, model, asked, sources, num_unknown):
        self._model, self._asked = model, asked
        self.sources, self.num_unknown = sources, num_unknown

    def __len__(self):
        return len(self.sources)

    def lengths(self) -> np.ndarray:
        """How many items each is known to have seen, int `(batch,)`."""
        return sum(one.lengths() for one in self._asked)

    def vectors(self, part: slice, encode=None):
        """The vectors of some, `(part, dim)`.

        All of a part go through the tower, so that few shapes occur.

        Args:
            part: slice.
            encode: Optional function that the inputs of the tower are given
                to. By default `user_vectors` of the model, for numbers of
                users that are powers of two.
        """
        encode = encode or self._encode
        by_id = self.sources[part] == BY_ID
        asked = self._asked
        if len(asked) > 1 and (by_id.all() or not by_id.any()):
            asked = asked[:1] if by_id.all() else asked[1:]
        vectors = [encode(one.inputs(part)) for one in asked]
        if len(vectors) == 1:
            return vectors[0]
        return ops.where(by_id[:, None], *vectors)

    def _encode(self, inputs) -> np.ndarray:
        """The vectors of inputs of the tower; each new shape is compiled."""
        num_users = len(keras.tree.flatten(inputs)[0])
        padded = keras.tree.map_structure(in_few_shapes, inputs)
        vectors = ops.convert_to_numpy(self._model.user_vectors(padded))
        return vectors[:num_users]

    def seen(self, part: slice) -> np.ndarray | None:
        """Their seen items, `(part, longest)` rows, padded with -1."""
        rows = None
        for one in self._asked:
            rows = joined(rows, one.seen(part))
        return rows
