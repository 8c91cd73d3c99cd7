"""`top_k` against one NumPy sort, on awkward sizes and with ties."""

import numpy as np
import pytest

from keras_dp_retrieval import topk


def sorted_top_k(queries, candidates, k, excluded=None, allowed=None):
    """The same by a full stable sort, one query at a time."""
    scores = np.full((len(queries), k), -np.inf, "float32")
    rows = np.full((len(queries), k), -1, "int32")
    for i, query in enumerate(queries):
        every = np.float32(candidates) @ query
        usable = every > -np.inf
        if allowed is not None:
            usable &= allowed
        if excluded is not None:
            usable[[row for row in excluded[i] if row >= 0]] = False
        order = np.argsort(-every, kind="stable")
        order = order[usable[order]][:k]
        scores[i, : len(order)], rows[i, : len(order)] = every[order], order
    return scores, rows


def tied_vectors(num_queries=5, num_candidates=100, dim=4, seed=0):
    """Vectors of few small integers: exact products and many ties."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-2, 3, (num_queries, dim)).astype("float32"),
        rng.integers(-2, 3, (num_candidates, dim)).astype("float32"),
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("k", [1, 10, 100, 130])
@pytest.mark.parametrize("chunk_size", [1, 7, 100, 101, None])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_equals_a_full_sort(on_devices, num_devices, chunk_size, k):
    on_devices(num_devices)
    queries, candidates = tied_vectors()
    found = topk.top_k(queries, candidates, k, chunk_size=chunk_size)
    assert_same(found, sorted_top_k(queries, candidates, k))


@pytest.mark.parametrize("chunk_size", [1, 7, 100, 101])
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_filters_equal_a_full_sort(on_devices, num_devices, chunk_size):
    on_devices(num_devices)
    queries, candidates = tied_vectors()
    rng = np.random.default_rng(1)
    excluded = rng.integers(-1, 100, (5, 30))
    allowed = rng.random(100) < 0.5
    found = topk.top_k(
        queries,
        candidates,
        40,
        excluded_rows=excluded,
        allowed=allowed,
        chunk_size=chunk_size,
    )
    assert_same(found, sorted_top_k(queries, candidates, 40, excluded, allowed))
    assert (np.array(found[1]) == -1).any()  # Some query has fewer than 40.
