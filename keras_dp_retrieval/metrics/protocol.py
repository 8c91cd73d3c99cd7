"""Where an evaluation gets its vectors from: anybody's model, by a protocol."""

from collections.abc import Callable
from typing import Any

import numpy as np

USER_METHODS = ("user_vectors", "encode_users")


def check_protocol(model, vectors: Callable | None = None) -> None:
    """Raises unless `vectors_of` can get vectors out of the model.

    Raises:
        TypeError: With what the model lacks, and what would work.
    """
    if vectors is not None:
        check_function(vectors)
        return
    has_users = _users_method(model) is not None
    has_candidates = callable(getattr(model, "candidate_vectors", None))
    if has_users and has_candidates:
        return
    lacks = ["`user_vectors` or `encode_users`"] * (not has_users)
    lacks += ["`candidate_vectors`"] * (not has_candidates)
    raise TypeError(
        "To be evaluated, a model needs the methods `user_vectors(user_rows)` "
        "(or `encode_users(user_rows)`) and `candidate_vectors()`, or you "
        "pass `vectors=`: a function of the model that returns the two, such "
        "as `vectors=lambda model: (model.user_embedding, "
        "model.candidate_embedding.embeddings)`. Received: a model of type "
        f"{type(model).__name__} without {' and '.join(lacks)}."
    )


def _users_method(model) -> Any:
    found = (getattr(model, name, None) for name in USER_METHODS)
    return next((method for method in found if callable(method)), None)


def check_function(vectors) -> None:
    """Raises a TypeError if `vectors` is given and cannot be called."""
    if vectors is not None and not callable(vectors):
        raise TypeError(
            "`vectors` must be a function of the model that returns "
            "`(encode_users, candidate_vectors)`. Received: "
            f"vectors={vectors!r:.80}."
        )


def vectors_of(model, vectors: Callable | None) -> tuple[Callable, Any]:
    """Returns `(encode_users, candidate_vectors)` of the model as it is now.

    Args:
        model: With the methods that `evaluate` describes, or any model where
            `vectors` is given.
        vectors: Optional function, as in `evaluate`.

    Returns:
        A function from user rows to `(batch, dim)`, and an array
        `(num_candidates, dim)`.

    Raises:
        TypeError: If the model has no such methods, or the function returns
            something else.
    """
    check_protocol(model, vectors)
    if vectors is None:
        return _users_method(model), model.candidate_vectors()
    pair = vectors(model)
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not is_pair or not callable(pair[0]):
        shown = [type(p).__name__ for p in pair] if is_pair else pair
        raise TypeError(
            "`vectors` must return `(encode_users, candidate_vectors)`: a "
            "function from user rows to vectors, and the vectors of all "
            f"candidates. It returned: {shown!r:.80}."
        )
    return pair[0], pair[1]


def recommended(model, vectors: Callable | None, real):
    """Which candidates may be in a list, bool `(num_candidates,)`.

    Args:
        model: As in `vectors_of`. Its method `retrievable_mask()`, if it has
            one, says what it never recommends.
        vectors: Likewise. With a function, all may.
        real: bool `(num_candidates,)`. The candidates of the data.
    """
    mask = getattr(model, "retrievable_mask", None)
    if vectors is not None or not callable(mask):
        return real
    known = np.asarray(mask(), bool)[: len(real)]
    # Too few: that is an error of the vectors.
    return real & np.pad(known, (0, len(real) - len(known)))


def check_shapes(user_vectors, candidate_vectors, num_users: int) -> None:
    """Raises a ValueError unless dot products of the two can be taken."""
    users = tuple(user_vectors.shape)
    candidates = tuple(candidate_vectors.shape)
    if (
        len(users) != 2
        or len(candidates) != 2
        or users[0] != num_users
        or users[1] != candidates[1]
    ):
        raise ValueError(
            "The model must give vectors of shape (batch, dim) for users and "
            "(num_candidates, dim) for candidates, with the same dim. "
            f"Received: {users} for {num_users} users, and {candidates}."
        )
