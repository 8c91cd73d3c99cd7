"""What becomes of pairs of user and candidate that come more than once."""

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.orders import time_order
from keras_dp_retrieval.data.ratings import Ratings, pair_codes
from keras_dp_retrieval.data.raw_data import RawRatings

REPEATED = ("keep", "first", "last", "sum")


def check_repeated(repeated: str, has_weights: bool) -> None:
    """Raises a ValueError if this cannot be done with repeated pairs."""
    _checks.one_of("repeated", repeated, REPEATED)
    if repeated == "sum" and not has_weights:
        raise ValueError(
            "`repeated='sum'` adds up weights. Received: no weights. Name "
            "their column with `weight_column=...`, or use `repeated='last'`."
        )


def merge_repeated(raw: RawRatings, repeated: str) -> tuple[RawRatings, str]:
    """Returns each pair of user and candidate once, and what was done.

    Args:
        raw: `RawRatings`.
        repeated: str. `"keep"` leaves all. `"first"` and `"last"` keep one of
            each pair: the oldest or the newest, and of those of one time, or
            without timestamps, the first or the last that came in. `"sum"`
            keeps the last, with the sum of all weights.

    Returns:
        `(raw, note)`. What is kept stays in its order.

    Raises:
        ValueError: If there are no weights to add up.
    """
    check_repeated(repeated, raw.weights is not None)
    if repeated == "keep":
        return raw, ""
    pairs = pair_codes(raw.users.codes, raw.candidates.codes)
    order = time_order(
        Ratings(raw.users.codes, raw.candidates.codes, None, raw.timestamps)
    )
    order = order[np.argsort(pairs[order], kind="stable")]
    in_order = pairs[order]
    is_first = np.append(True, in_order[1:] != in_order[:-1])
    is_kept = is_first if repeated == "first" else np.append(is_first[1:], True)
    kept = order[is_kept]
    in_their_order = np.argsort(kept)
    kept = kept[in_their_order]
    num_left_out = len(raw) - len(kept)
    if not num_left_out:
        return raw, ""
    merged = raw.take(kept)
    if raw.weights is not None and repeated == "sum":
        sums = np.add.reduceat(
            raw.weights[order], np.flatnonzero(is_first), dtype=np.float64
        )
        merged = merged.with_weights(sums[in_their_order])
    return merged, f"{num_left_out:,} repeated pairs merged ({repeated!r})"
