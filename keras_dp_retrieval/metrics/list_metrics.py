"""Metrics of one recommendation list, in NumPy.

The functions take `hits`, which says what of each user's list was held out,
and return one float64 number per user: to be summed and divided by whoever
knows all users.
"""

import numpy as np


def recall_at_k(hits, num_held_out, k: int) -> np.ndarray:
    """The share of a user's held-out candidates found in the first `k`.

    Divides by the number of held-out candidates, also where that is more than
    `k` (Manning, Raghavan and Schütze, Introduction to Information Retrieval,
    2008, section 8.3).

    Args:
        hits: bool, shape `(num_users, list_length)`, best first: whether that
            recommendation was held out. Lists shorter than `k` end in misses.
        num_held_out: int, shape `(num_users,)`, 1 or more.
        k: int. Only the first `k` recommendations count.

    Returns:
        float64, shape `(num_users,)`.
    """
    return hits[:, :k].sum(axis=1) / np.asarray(num_held_out, "float64")


def precision_at_k(hits, k: int) -> np.ndarray:
    """The share of the first `k` recommendations that are hits.

    Divides by `k`, also where fewer than `k` candidates were left to fill the
    list. Arguments and result as in `recall_at_k`.
    """
    return hits[:, :k].sum(axis=1) / float(k)


def hit_rate_at_k(hits, k: int) -> np.ndarray:
    """1 where there is a hit among the first `k`, else 0.

    Arguments and result as in `recall_at_k`.
    """
    return hits[:, :k].any(axis=1).astype("float64")


def mrr_at_k(hits, k: int) -> np.ndarray:
    """1 / rank of the first hit, ranks from 1; 0 without a hit in the first k.

    The mean over users is the mean reciprocal rank (Voorhees, The TREC-8
    Question Answering Track Report, 1999), cut at `k`. Arguments and result as
    in `recall_at_k`.
    """
    first = hits[:, :k].argmax(axis=1)
    return hit_rate_at_k(hits, k) / (first + 1.0)


def ndcg_at_k(hits, num_held_out, k: int) -> np.ndarray:
    """Discounted gain of the first `k`, relative to the best list of length k.

    Gains are 0 or 1 and a hit at rank r counts 1 / log2(r + 1). The ideal list
    has its hits first and is cut at `k` as well: the sum over the ranks 1 to
    min(k, num_held_out). (Järvelin and Kekäläinen, Cumulated gain-based
    evaluation of IR techniques, ACM TOIS 20(4), 2002; the discount as in
    Burges et al., Learning to rank using gradient descent, ICML 2005, which
    also discounts the second rank.) Arguments and result as in `recall_at_k`.
    """
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    hits = hits[:, :k]
    gain = hits @ discounts[: hits.shape[1]]
    ideal = np.cumsum(discounts)
    return gain / ideal[np.minimum(num_held_out, k) - 1]


def popularity_percentiles(counts) -> np.ndarray:
    """How popular each candidate is: the share of candidates less popular.

    Equal counts share the middle of their ranks: (number with a smaller count
    + half the number with the same count, itself included) / number. So the
    mean over all candidates is 0.5, whatever the counts.

    Args:
        counts: Numbers, shape `(num_candidates,)`.

    Returns:
        float64, shape `(num_candidates,)`, between 0 and 1.
    """
    ordered = np.sort(counts)
    less = np.searchsorted(ordered, counts, side="left")
    less_or_equal = np.searchsorted(ordered, counts, side="right")
    return (less + less_or_equal) / (2.0 * max(len(ordered), 1))
