"""A candidate index finds what a plain sort finds, and survives its file."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_dp_retrieval.index import CandidateIndex, exact

LARGE_IDS = 2**40 + 10 * np.arange(100)[::-1]
STRING_IDS = np.array(
    [f"Amélie {n:02d}" if n % 2 else f"{n}" for n in range(100)]
)


def tied_vectors(num_queries=5, num_candidates=100, dim=4, seed=0):
    """Vectors of few small integers: exact products and many ties."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-2, 3, (num_queries, dim)).astype("float32"),
        rng.integers(-2, 3, (num_candidates, dim)).astype("float32"),
    )


def sorted_search(
    queries, candidate_ids, vectors, k, exclude=None, allowed=None
):
    """Ids and scores by a full sort: falling score, then rising id."""
    found = []
    for i, query in enumerate(queries):
        pairs = [
            (-score, one)
            for score, one in zip(
                vectors @ query, candidate_ids.tolist(), strict=True
            )
            if (
                exclude is None or one not in set(np.array(exclude[i]).tolist())
            )
            and (allowed is None or one in set(np.array(allowed).tolist()))
        ]
        found.append(sorted(pairs)[:k])
    ids = np.array([[one for _, one in pairs] for pairs in found])
    return ids, np.array([[-score for score, _ in pairs] for pairs in found])


@pytest.mark.parametrize("candidate_ids", [LARGE_IDS, STRING_IDS])
@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_search_equals_a_full_sort(on_devices, num_devices, candidate_ids):
    on_devices(num_devices)
    queries, vectors = tied_vectors()
    index = CandidateIndex.from_vectors(candidate_ids, vectors, chunk_size=7)
    rng = np.random.default_rng(1)
    exclude = [rng.choice(candidate_ids, n) for n in (0, 3, 50, 9, 20)]
    allowed = rng.choice(candidate_ids, 70, replace=False)
    for filters in ({}, {"exclude": exclude, "allowed_ids": allowed}):
        ids, scores = index.search(queries, k=8, **filters)
        expected = sorted_search(
            queries, candidate_ids, vectors, 8, *filters.values()
        )
        np.testing.assert_array_equal(ids, expected[0])
        np.testing.assert_array_equal(scores, expected[1])
        assert scores.dtype == "float32"


def test_same_index_under_another_distribution(on_devices):
    queries, vectors = tied_vectors()
    index = CandidateIndex.from_vectors(LARGE_IDS, vectors)
    before = index.search(queries)
    for num_devices in (8, 3):
        on_devices(num_devices)
        for one, other in zip(index.search(queries), before, strict=True):
            np.testing.assert_array_equal(one, other)
    # Each of the 3 devices holds its third, not a copy of all.
    placed, _ = index.catalogue().stored.placed(*exact.mesh_and_axis())
    assert {s.data.shape for s in placed.addressable_shards} == {(34, 4)}


@pytest.mark.parametrize(
    ("candidate_ids", "padding"), [([5, 3], -1), (["b", "a"], "")]
)
def test_lists_are_padded_where_there_is_no_candidate(candidate_ids, padding):
    index = CandidateIndex.from_vectors(candidate_ids, np.eye(2))
    ids, scores = index.search([[1, 2]], k=3)
    assert ids.tolist() == [[*candidate_ids[::-1], padding]]
    assert scores.tolist() == [[2, 1, -np.inf]]
    ids, scores = index.search([[1, 2]], k=1, allowed_ids=[])
    assert ids.tolist() == [[padding]] and scores[0, 0] == -np.inf


def test_the_arrays_that_were_given_may_change():
    ids, vectors = np.array([1, 2, 3]), np.eye(3, dtype="float32")
    index = CandidateIndex.from_vectors(ids, vectors)
    ids[:], vectors[:] = 9, 0
    assert index.search(np.eye(3), 1)[0].tolist() == [[1], [2], [3]]


def test_excluded_ids_that_are_not_there_have_no_effect():
    index = CandidateIndex.from_vectors([5, 3], np.eye(2))
    # Truncated to 32 bits, 2**32 + 3 would be candidate 3.
    ids, _ = index.search([[1, 2]], k=2, exclude=[[4, 2**32 + 3, 99]])
    assert ids.tolist() == [[3, 5]]


def test_added_candidates_are_found_and_keep_the_order_of_ids():
    queries, vectors = tied_vectors()
    index = CandidateIndex(4)
    index.add(STRING_IDS[50:], vectors[50:])
    index.search(queries)
    index.add(STRING_IDS[:50], vectors[:50])
    whole = CandidateIndex.from_vectors(STRING_IDS, vectors)
    assert len(index) == 100
    np.testing.assert_array_equal(index.ids(), np.sort(STRING_IDS))
    np.testing.assert_array_equal(index.vectors(), whole.vectors())
    np.testing.assert_array_equal(
        index.search(queries)[0], whole.search(queries)[0]
    )


@pytest.mark.parametrize(
    ("candidate_dtype", "error"), [("bfloat16", 2**-7), ("int8", 1 / 127)]
)
def test_rounded_vectors_are_near_and_searched_exactly(candidate_dtype, error):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 8)).astype("float32")
    vectors[7] = 0
    queries = rng.standard_normal((4, 8)).astype("float32")
    index = CandidateIndex.from_vectors(
        np.arange(300), vectors, candidate_dtype=candidate_dtype
    )
    kept = index.vectors()
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    assert (np.abs(kept - vectors) <= 0.51 * error * largest).all()
    ids, scores = index.search(queries, k=20)
    expected = np.argsort(-(queries @ kept.T), axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(
        scores, np.take_along_axis(queries @ kept.T, expected, 1), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: x.assign([1, 1, 2], np.eye(3)), "more than once: 1"),
        (lambda x: x.assign([1, 2], np.eye(3)), "2 ids and 3 vectors"),
        (lambda x: x.assign([1.5, 2, 3], np.eye(3)), "mixture of: .*float"),
        (lambda x: x.assign([1, "a", 3], np.eye(3)), "strings"),
        (lambda x: x.assign([2**63, 1, 3], np.eye(3)), "64 bits"),
        (lambda x: x.assign(["a", "b\0", "c"], np.eye(3)), "NUL character"),
        (lambda x: x.assign(["a", "b" * 300, "c"], np.eye(3)), "at most 256"),
        (lambda x: x.assign(["a", np.nan, "c"], np.eye(3)), "missing values"),
        (
            lambda x: x.assign(
                np.ma.array([1, 2, 3], mask=[0, 1, 0]), np.eye(3)
            ),
            "missing values",
        ),
        (lambda x: x.assign(5, np.eye(3)), "`candidate_ids` must be"),
        (lambda x: x.assign({1: 1}, np.eye(3)), "`candidate_ids` must be"),
        (lambda x: x.assign([[1], [2, 3]], np.eye(3)), "one-dimensional"),
        (lambda x: x.assign([1, 2], "ab"), "array of real numbers"),
        (lambda x: x.assign([1], [[1j, 0, 0]]), "array of real numbers"),
        (lambda x: x.assign([1, 2], [[1], [2, 3]]), "array of real numbers"),
        (lambda x: x.search({"a": 1}), "array of real numbers"),
        (lambda x: x.search(np.eye(3), exclude=5), "`exclude` must be a list"),
        (lambda x: x.search(np.eye(3)[:1], exclude=[5]), "`exclude` must be"),
        (lambda x: x.search(np.eye(3), allowed_ids=5), "`allowed_ids` must"),
        (lambda x: x.assign([True, False], np.eye(3)[:2]), "bool"),
        (lambda x: x.assign([1], [[1, np.nan, 0]]), "finite.*rows 0"),
        (lambda x: x.assign([1], [[1, 2]]), r"\(any number, 3\)"),
        (lambda x: x.add([10], np.eye(3)[:1]), "more than once: 10"),
        (lambda x: x.add(["a"], np.eye(3)[:1]), "integers.*strings"),
        (lambda x: x.search(np.eye(3), k=0), "`k` must be"),
        (lambda x: x.search([1, 2, 3]), r"\(any number, 3\)"),
        (lambda x: x.search([[1, np.inf, 3]]), "finite"),
        (lambda x: x.search(np.eye(3), exclude=[[1]]), "1 for 3 queries"),
        (lambda x: x.search(np.eye(3)[:1], exclude=[["a"]]), "integers"),
        (
            lambda x: x.search(np.eye(3), allowed_ids=[10, 11]),
            "unknown ids: 11",
        ),
        (lambda x: CandidateIndex(3).search(np.eye(3)), "no candidates"),
        (lambda x: CandidateIndex(3, candidate_dtype="int4"), "int8"),
        (
            lambda x: CandidateIndex.from_vectors([1], [1.0]),
            "num_candidates, dim",
        ),
    ],
)
def test_errors_name_the_rule_and_leave_the_index_as_it_was(call, message):
    index = CandidateIndex.from_vectors([10, 20, 30], np.eye(3))
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.ids().tolist() == [10, 20, 30]
    np.testing.assert_array_equal(index.vectors(), np.eye(3))


@keras.saving.register_keras_serializable(package="test_index")
class Holder(keras.Model):
    """A model with a weight and an index."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)
        self.index = CandidateIndex(4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("candidate_ids", [LARGE_IDS, STRING_IDS])
def test_a_model_saves_the_index_it_holds(tmp_path, on_devices, candidate_ids):
    queries, vectors = tied_vectors()
    on_devices(8)
    model = Holder()
    model(queries)
    model.index.assign(candidate_ids, vectors)
    before = model.index.search(queries)
    model.save(tmp_path / "model.keras")
    on_devices(2)
    index = keras.saving.load_model(tmp_path / "model.keras").index
    for one, other in zip(index.search(queries), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert index.ids().dtype == np.sort(candidate_ids).dtype


IN_A_FRESH_PROCESS = """
import json, sys
import keras
import keras_dp_retrieval.index
for path in sys.argv[1:]:
    index = keras.saving.load_model(path)
    ids, scores = index.search([[1.0, -2.0, 0.5, 2.0]], k=5)
    print(json.dumps([ids.tolist(), scores.tolist(), index.get_config()]))
"""


@pytest.mark.slow
def test_an_index_alone_loads_in_a_fresh_process(tmp_path):
    _, vectors = tied_vectors()
    expected, paths = [], []
    for kept_as in ("float32", "bfloat16", "int8"):
        index = CandidateIndex.from_vectors(
            STRING_IDS, vectors / 3, candidate_dtype=kept_as, chunk_size=50
        )
        paths.append(tmp_path / f"{kept_as}.keras")
        keras.saving.save_model(index, paths[-1])
        ids, scores = index.search([[1.0, -2.0, 0.5, 2.0]], k=5)
        expected.append([ids.tolist(), scores.tolist(), index.get_config()])
        assert expected[-1][-1]["candidate_dtype"] == kept_as
    loaded = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *paths],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-3:]
    assert [json.loads(line) for line in loaded] == json.loads(
        json.dumps(expected)
    )


def test_an_empty_index_survives_its_file(tmp_path):
    keras.saving.save_model(CandidateIndex(3), tmp_path / "index.keras")
    index = keras.saving.load_model(tmp_path / "index.keras")
    assert len(index) == 0
    index.add(["a"], [[1, 2, 3]])
    assert index.search([[1, 0, 0]], k=1)[0] == [["a"]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda store: store.update(format_version=2), "reads format 1"),
        (lambda store: store.pop("format_version"), "reads format 1"),
        (lambda store: store.update(ids=store["ids"][1:]), "99 ids"),
        (lambda store: store.update(vectors=np.zeros((100, 3))), "100, 3"),
        (lambda store: store.update(ids=store["ids"] * 0), "more than once"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(damage, message):
    _, vectors = tied_vectors()
    store = {}
    CandidateIndex.from_vectors(LARGE_IDS, vectors).save_own_variables(store)
    damage(store)
    index = CandidateIndex.from_vectors([7], vectors[:1])
    with pytest.raises(ValueError, match=message):
        index.load_own_variables(store)
    assert index.ids().tolist() == [7]
