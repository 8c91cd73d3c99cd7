"""`top_k` against one NumPy sort, on awkward sizes and with ties."""

import os
import subprocess
import sys

import jax
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_dp_retrieval.index import chunks, exact


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
    found = exact.top_k(queries, candidates, k, chunk_size=chunk_size)
    assert_same(found, sorted_top_k(queries, candidates, k))


@pytest.mark.parametrize("chunk_size", [1, 7, 100, 101])
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_filters_equal_a_full_sort(on_devices, num_devices, chunk_size):
    on_devices(num_devices)
    queries, candidates = tied_vectors()
    rng = np.random.default_rng(1)
    excluded = rng.integers(-1, 100, (5, 30))
    allowed = rng.random(100) < 0.5
    found = exact.top_k(
        queries,
        candidates,
        40,
        excluded_rows=excluded,
        allowed=allowed,
        chunk_size=chunk_size,
    )
    assert_same(found, sorted_top_k(queries, candidates, 40, excluded, allowed))
    assert (np.array(found[1]) == -1).any()  # Some query has fewer than 40.


@pytest.mark.parametrize("num_devices", [1, 3])
def test_many_queries_in_groups_equal_a_full_sort(on_devices, num_devices):
    on_devices(num_devices)
    queries, candidates = tied_vectors(2 * chunks.QUERIES_AT_A_TIME + 3)
    excluded = np.random.default_rng(1).integers(-1, 100, (len(queries), 7))
    found = exact.top_k(queries, candidates, 12, excluded_rows=excluded)
    assert_same(found, sorted_top_k(queries, candidates, 12, excluded))
    found = exact.top_k(queries, candidates, 12)
    assert_same(found, sorted_top_k(queries, candidates, 12))


@pytest.mark.parametrize("first_row", [0, 150, 240])
def test_many_excluded_rows_side_by_side_are_left_out(first_row):
    # Far more of one chunk than of the others, repeated and out of order.
    queries, candidates = tied_vectors(3, 300)
    rng = np.random.default_rng(2)
    excluded = rng.integers(first_row, first_row + 60, (3, 120))
    excluded[1, 5:] = -1
    excluded[2] = -1
    found = exact.top_k(
        queries, candidates, 20, excluded_rows=excluded, chunk_size=32
    )
    assert_same(found, sorted_top_k(queries, candidates, 20, excluded))


def test_long_lists_of_many_blocks_equal_a_full_sort():
    # Every branch of `FEW_BLOCKS` is taken: few, some and many blocks matter.
    queries, candidates = tied_vectors(4, 20_000, dim=16)
    found = exact.top_k(queries, candidates, 100, chunk_size=8_192)
    assert_same(found, sorted_top_k(queries, candidates, 100))
    rising = np.sort(candidates, axis=0)
    found = exact.top_k(queries, rising, 100, chunk_size=8_192)
    assert_same(found, sorted_top_k(queries, rising, 100))


@pytest.mark.parametrize("k", [1, 3, 5, 17, 40])
@pytest.mark.parametrize("order", ["shuffled", "rising", "falling", "equal"])
@pytest.mark.parametrize("num_devices", [1, 3])
def test_blocks_equal_a_full_sort(on_devices, num_devices, order, k):
    # 3,000 in chunks of 1,024: several blocks of rows are left unsorted, by
    # each of the branches for few, some and k blocks.
    on_devices(num_devices)
    queries, candidates = tied_vectors(num_candidates=3_000)
    if order != "shuffled":
        step = {"rising": 1, "falling": -1, "equal": 0}[order]
        candidates[:, 0] = step * np.arange(3_000) // 7
        queries[:, 0] = 1
    excluded = np.random.default_rng(1).integers(-1, 3_000, (5, 300))
    found = exact.top_k(
        queries, candidates, k, excluded_rows=excluded, chunk_size=1_024
    )
    assert_same(found, sorted_top_k(queries, candidates, k, excluded))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_candidates=st.sampled_from([1, 5, 64, 129, 700]),
    k=st.sampled_from([1, 2, 9]),
    chunk_size=st.sampled_from([3, 64, 150, 10_000]),
    num_queries=st.sampled_from([1, 4]),
)
def test_any_sizes_equal_a_full_sort(
    seed, num_candidates, k, chunk_size, num_queries
):
    vectors = tied_vectors(num_queries, num_candidates, seed=seed)
    found = exact.top_k(*vectors, k, chunk_size=chunk_size)
    assert_same(found, sorted_top_k(*vectors, k))


def test_ties_across_signed_zeros_go_to_the_lower_row():
    # XLA sorts 0.0 before -0.0 and so would begin with row 1.
    scores, rows = exact.top_k([[1.0]], [[-0.0], [0.0], [-0.0]], 3)
    assert rows[0].tolist() == [0, 1, 2]
    assert not np.signbit(scores).any()


@pytest.mark.parametrize("num_candidates", [4, 4_000])
def test_scores_that_are_no_numbers_are_never_returned(num_candidates):
    candidates = np.full((num_candidates, 1), -np.inf, "float32")
    candidates[:4, 0] = [np.nan, 2.0, -np.inf, np.inf]
    scores, rows = exact.top_k([[1.0]], candidates, 4)
    assert rows[0].tolist() == [3, 1, -1, -1]
    assert scores[0].tolist() == [np.inf, 2.0, -np.inf, -np.inf]


def test_an_empty_catalogue_and_no_queries():
    scores, rows = exact.top_k(np.ones((2, 3)), np.ones((0, 3)), 2)
    assert np.array(rows).tolist() == [[-1, -1]] * 2
    assert np.isneginf(scores).all()
    assert exact.top_k(np.ones((0, 3)), np.ones((50, 3)), 2)[1].shape == (0, 2)


@pytest.mark.parametrize("num_devices", [1, 2])
def test_works_within_jit_and_takes_no_part_in_gradients(
    on_devices, num_devices
):
    on_devices(num_devices)
    queries, candidates = tied_vectors()

    @jax.jit
    def best(queries, candidates, excluded):
        scores, rows = exact.top_k(
            queries, candidates, 4, excluded_rows=excluded, chunk_size=32
        )
        return scores.sum(), (scores, rows)

    excluded = np.array([[3, -1]] * 5)
    gradient, found = jax.grad(best, has_aux=True)(
        queries, candidates, excluded
    )
    assert_same(found, sorted_top_k(queries, candidates, 4, excluded))
    assert not np.any(gradient)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float16"])
def test_scores_of_narrow_vectors_are_computed_in_float32(dtype):
    queries, candidates = tied_vectors()
    queries += np.float32(1e-5)  # Lost if the queries were narrowed, too.
    scales = np.random.default_rng(2).random(100).astype("float32")
    narrow = keras.ops.cast(candidates, dtype)
    scores, rows = exact.top_k(queries, narrow, 5, candidate_scales=scales)
    expected = sorted_top_k(queries, candidates * scales[:, None], 5)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], rtol=1e-6)


@pytest.mark.usefixtures("no_compilation_cache")
def test_extra_memory_is_that_of_a_chunk(compiler_options):
    # What XLA reserves beyond arguments and result, for ten times the rows.
    def extra_bytes(num_candidates, num_excluded):
        shapes = (64, 16), (num_candidates, 16)
        arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
        excluded = jax.ShapeDtypeStruct((64, num_excluded), "int32")
        lowered = jax.jit(
            lambda queries, candidates, excluded: exact.top_k(
                queries, candidates, 10, excluded_rows=excluded, chunk_size=4096
            )
        ).lower(*arrays, excluded)
        compiled = lowered.compile(compiler_options)
        return compiled.memory_analysis().temp_size_in_bytes

    chunk_of_scores = 64 * 4096 * 4
    assert extra_bytes(1_000_000, 5) <= extra_bytes(100_000, 5) * 1.05
    assert extra_bytes(1_000_000, 50) < 3 * chunk_of_scores


@pytest.mark.parametrize("num_candidates", [1_000, 1_003])
def test_devices_exchange_only_their_best(
    on_devices, compiler_options, num_candidates
):
    on_devices(4)
    queries, candidates = tied_vectors(num_candidates=num_candidates)
    found = exact.top_k(queries, candidates, 10)
    assert_same(found, sorted_top_k(queries, candidates, 10))
    text = (
        jax.jit(lambda queries, rows: exact.top_k(queries, rows, 10))
        .lower(queries, candidates)
        .compile(compiler_options)
        .as_text()
    )
    gathered = [line for line in text.splitlines() if " all-gather(" in line]
    assert gathered and not any(str(num_candidates) in x for x in gathered)
    assert " all-reduce(" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "`k` must be"),
        ({"chunk_size": 0}, "`chunk_size` must be"),
        ({"query_vectors": np.ones(4)}, r"\(batch, dim\)"),
        ({"query_vectors": np.ones((5, 3))}, r"\(5, 3\) and \(100, 4\)"),
        ({"excluded_rows": np.ones((4, 2))}, "for 5 queries"),
        ({"allowed": np.ones(99, bool)}, r"`allowed`.*\(99,\)"),
        ({"candidate_scales": np.ones(99)}, "`candidate_scales`"),
    ],
)
def test_errors_say_what_does_not_fit(arguments, message):
    queries, candidates = tied_vectors()
    given = {"query_vectors": queries, "candidate_vectors": candidates, "k": 3}
    with pytest.raises(ValueError, match=message):
        exact.top_k(**{**given, **arguments})


ON_ANOTHER_BACKEND = """
import numpy as np
import keras
from keras_dp_retrieval.index import chunks, exact
queries, candidates, excluded = (np.load("in.npz")[x] for x in "abc")
for number, options in enumerate(({}, {"chunk_size": 256})):
    found = exact.top_k(
        queries, candidates, 5, excluded_rows=excluded, **options
    )
    found = [keras.ops.convert_to_numpy(x) for x in found]
    np.savez(f"out{number}.npz", *found)
"""


# TensorFlow's lists are compared with a plain sort in test_backends.py, too.
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "numpy"])
def test_other_backends_give_the_same(tmp_path, backend):
    queries, candidates = tied_vectors(num_candidates=1_000)
    excluded = np.random.default_rng(1).integers(-1, 1_000, (5, 300))
    np.savez(tmp_path / "in.npz", a=queries, b=candidates, c=excluded)
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": os.getcwd()}
    subprocess.run(
        [sys.executable, "-c", ON_ANOTHER_BACKEND],
        env={**os.environ, **environment},
        cwd=tmp_path,
        check=True,
    )
    expected = sorted_top_k(queries, candidates, 5, excluded)
    for number in range(2):
        with np.load(tmp_path / f"out{number}.npz") as found:
            assert_same([found["arr_0"], found["arr_1"]], expected)
