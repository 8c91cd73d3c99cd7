"""What an evaluation reads of a data set, and which lists it asks for."""

from collections.abc import Iterable

import numpy as np

from keras_dp_retrieval import _checks


def check_ks(ks) -> tuple[int, ...]:
    """Returns the lengths in `ks` as a tuple of rising, distinct ints."""
    # An array without dimensions says that it can be iterated over.
    is_list = isinstance(ks, Iterable) and getattr(ks, "shape", None) != ()
    is_list = is_list and not isinstance(ks, (str, bytes))
    ks = list(ks) if is_list else ks
    if not is_list or not ks:
        raise ValueError(
            "`ks` must be a list of one or more lengths, such as (10, 20). "
            f"Received: ks={ks!r}."
        )
    return tuple(sorted({_checks.positive_int("ks", k) for k in ks}))


def check_data(data):
    """Raises unless `data` has what an evaluation reads."""
    needed = ("ratings", "seen_before", "num_candidates", "candidate_counts")
    missing = [name for name in needed if not hasattr(data, name)]
    if missing:
        raise TypeError(
            "`data` must be a data set of this package, or have "
            f"{', '.join(f'`{name}`' for name in needed)}. Received: a "
            f"{type(data).__name__} without {', '.join(missing)}. Make one "
            "with `RetrievalDataset.from_interactions` or, of batches, "
            "`RetrievalDataset.from_batches`."
        )


def held_out_pairs(data, split: str) -> np.ndarray:
    """The distinct pairs of a split as `RankingTask.held_out` has them."""
    ratings = data.ratings(split)
    if ratings is None or not len(ratings):
        raise ValueError(
            f"There is nothing to evaluate: the data has no ratings in its "
            f"{split!r} part. Use another `split`, or make the data set with "
            "one that holds some out."
        )
    users = np.asarray(ratings.user_rows, "int64")
    return np.unique(users * data.num_candidates + ratings.candidate_rows)


def real_candidates(data) -> np.ndarray:
    """Which rows stand for a candidate: bool, `(num_candidates,)`."""
    real = getattr(data, "real_candidates", None)
    if real is not None:
        return np.asarray(real, bool)
    vocabulary = getattr(data, "candidate_vocabulary", None)
    real = np.ones(data.num_candidates, bool)
    if vocabulary is not None:
        # Row 0 stands for unknown ids; rows after the last id are padding.
        real[0] = False
        real[len(vocabulary.ids) + 1 :] = False
    return real
