"""Batches: are the ids in their tables, and the targets what is learned?"""

import numpy as np

from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.model.id_rows import check_rows
from keras_dp_retrieval.model.prefixes import check_lengths
from keras_dp_retrieval.towers import history_tower
from keras_dp_retrieval.towers.embedding import RowEmbedding

# The square of a larger rating, summed over a batch, overflows a float32.
LARGEST_RATING = 1e15


def check_batch(model, x, y) -> None:
    """What `TwoTowerRetrieval.check_batch` says."""
    _check_users(model, x)
    if y is None:
        return
    if not isinstance(y, dict) or model.candidate_key not in y:
        raise ValueError(_without_candidates(model, y))
    rows = y[model.candidate_key]
    check_rows(
        "candidate", rows, model.num_candidates, padded=np.ndim(rows) > 1
    )
    ratings = y.get(model.rating_key)
    if ratings is None and model.objective.needs_ratings:
        raise ValueError(
            f"The objective {model.objective.name!r} needs ratings: give "
            f"the targets the key {model.rating_key!r} (`rating_key`), or "
            "use a softmax objective. Received the keys: "
            f"{sorted(y)}."
        )
    if ratings is not None:
        _check_ratings(ratings)


def _check_users(model, x) -> None:
    is_history = history_tower(model.user_tower) is not None
    if isinstance(x, dict) and "user_id" in x:
        if "history" in x:
            _check_histories(model, x["history"])
        elif encoding.needs_histories(model):
            keys = f"the keys {sorted(x)}"
            raise ValueError(encoding.without_histories(model, keys))
        if getattr(model.user_tower, "takes_positions", False):
            lengths = np.asarray(x.get("length", 0))
            if lengths.ndim == 2:
                check_lengths(lengths, model.user_tower.max_length)
        x = x["user_id"]
    elif is_history and np.ndim(x) == 2:
        _check_histories(model, x)
        return
    elif encoding.needs_histories(model):
        raise ValueError(encoding.without_histories(model, "user rows alone"))
    if (
        is_history
        or model.user_features is not None
        or isinstance(model.user_tower, RowEmbedding)
    ):
        check_rows("user", x, model.num_users)


def _check_histories(model, histories) -> None:
    """Raises unless they are lists of candidate rows, padded with -1."""
    if np.ndim(histories) != 2:
        raise ValueError(
            "Histories must have the shape `(batch, length)`. Received: "
            f"{np.shape(histories)}. Pad them at the end with -1."
        )
    check_rows("candidate", histories, model.num_candidates, padded=True)
    is_padding = np.asarray(histories) < 0
    if (is_padding[:, :-1] & ~is_padding[:, 1:]).any():
        row = int(np.argmax((is_padding[:, :-1] > is_padding[:, 1:]).any(1)))
        raise ValueError(
            "Histories must be padded at the end alone. Received: -1 before "
            f"a candidate, the first in row {row}. Move the candidates to the "
            "front, oldest first."
        )


def _without_candidates(model, y) -> str:
    expected = (
        f"The targets must be a dict with the key {model.candidate_key!r}, "
        "the `candidate_key` of the model."
    )
    if not isinstance(y, dict):
        return f"{expected} Received: a {type(y).__name__}."
    others = sorted(key for key in y if key != model.rating_key)
    advice = (
        f" Make the model with `candidate_key={others[0]!r}`, as "
        "`TwoTowerRetrieval.for_dataset(data)` does, or the data with "
        f"`candidate_key={model.candidate_key!r}`."
        if len(others) == 1
        else ""
    )
    return f"{expected} Received the keys: {sorted(y)}.{advice}"


def _check_ratings(ratings) -> None:
    bad = ~(np.abs(ratings) <= LARGEST_RATING)
    if bad.any():
        raise ValueError(
            "Ratings must be finite numbers of at most "
            f"{LARGEST_RATING:g} in size. Received: {np.sum(bad)} of "
            f"{np.size(ratings)} that are not, such as "
            f"{np.asarray(ratings)[bad].flat[0]}. Scale them, to "
            "[0, 1] for example."
        )
