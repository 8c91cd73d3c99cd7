"""Candidates come, change and go while an index is searched."""

import numpy as np
import pytest
from jax import monitoring

from keras_dp_retrieval.index import CandidateIndex, FaissIndex
from tests.test_index import sorted_search, tied_vectors

KINDS = ["exact", "int8", "flat", "ivf", "hnsw"]


def index_of(kind, ids, vectors):
    if kind in ("exact", "int8"):
        kept_as = "int8" if kind == "int8" else "float32"
        return CandidateIndex.from_vectors(
            ids, vectors, candidate_dtype=kept_as
        )
    pytest.importorskip("faiss", reason="needs the extra `index`")
    return FaissIndex(
        CandidateIndex.from_vectors(ids, vectors),
        kind,
        # Wide enough to miss nothing.
        **({"num_probes": 99} if kind == "ivf" else {}),
    )


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("exact", "names"),
        ("hnsw", "numbers"),
        *(
            pytest.param(kind, named, marks=pytest.mark.slow)
            for kind in KINDS
            for named in ("numbers", "names")
        ),
    ],
)
def test_after_any_updates_a_search_is_that_of_a_new_index(kind, named):
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(4, 8)), {}

    def some_ids(numbers):
        return [f"id {n}" if named == "names" else int(n) for n in numbers]

    def some_vectors(ids):
        drawn = rng.normal(size=(len(ids), 8)).astype("float32")
        vectors.update(zip(ids, drawn, strict=True))
        return drawn

    first = some_ids(range(100, 200))
    index = index_of(kind, first, some_vectors(first))
    for step in range(4):
        new = some_ids(range(100 * step + 1000, 100 * step + 1040))[::-1]
        index.add(new, some_vectors(new))
        changed = rng.choice(list(vectors), 30, replace=False).tolist()
        index.replace(changed, some_vectors(changed))
        gone = rng.choice(list(vectors), 25, replace=False).tolist()
        index.remove(gone)
        for one in gone:
            del vectors[one]
        assert index.ids().tolist() == sorted(vectors)
        assert len(index) == len(vectors)
        known = np.array(sorted(vectors))
        anew = index_of(kind, known, np.array([vectors[i] for i in known]))
        exclude = [rng.choice(known, n) for n in (0, 5, 30, 1)]
        allowed = rng.choice(known, 60, replace=False)
        for asked in ({}, {"exclude": exclude, "allowed_ids": allowed}):
            ids, scores = index.search(queries, 7, **asked)
            expected = anew.search(queries, 7, **asked)
            np.testing.assert_array_equal(ids, expected[0])
            np.testing.assert_allclose(scores, expected[1], rtol=1e-5)
    if kind == "exact":
        np.testing.assert_array_equal(index.vectors(), anew.vectors())


def test_who_searches_keeps_the_candidates_that_there_were():
    queries, vectors = tied_vectors()
    for kind in ("exact", "hnsw"):
        index = index_of(kind, np.arange(100), vectors)
        before = index.catalogue()
        expected = before.best_rows(queries, 9, None, None)
        index.remove(np.arange(50))
        index.replace([60], [[9, 9, 9, 9]])
        index.add([7, 1000], vectors[:2] * 9)
        found = before.best_rows(queries, 9, None, None)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        assert 1000 in index.search(queries, 9)[0]


@pytest.mark.parametrize("num_devices", [1, 8])
def test_updates_compile_nothing_until_the_room_is_used(
    num_devices, on_devices
):
    on_devices(num_devices)
    queries, vectors = tied_vectors()
    index = CandidateIndex.from_vectors(np.arange(100), vectors)
    index.add([100], vectors[:1])  # Makes room for 112.
    index.search(queries)
    compiled = []
    monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name)
    )
    for one in range(101, 112):
        index.add([one], vectors[one - 100 :][:1])
        index.replace([one - 1], vectors[:1])
        index.remove([one - 101])
        ids, scores = index.search(queries)
    names = [name for name in compiled if "compile" in name]
    monitoring.clear_event_listeners()
    assert not names
    expected = sorted_search(queries, index.ids(), index.vectors(), 10)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda x: x.add([20], np.eye(3)[:1]), "more than once: 20"),
        (lambda x: x.replace([21], np.eye(3)[:1]), "unknown ids: 21. Use `add"),
        (lambda x: x.replace([20, 20], np.eye(3)[:2]), "more than once: 20"),
        (lambda x: x.replace([20], np.eye(2)[:1]), r"\(any number, 3\)"),
        (lambda x: x.replace(["a"], np.eye(3)[:1]), "integers.*strings"),
        (lambda x: x.replace([10, 20], np.eye(3)), "2 ids and 3 vectors"),
        (lambda x: x.remove([20, 21]), "unknown ids: 21"),
        (lambda x: x.remove([20, 20]), "more than once: 20"),
    ],
)
def test_what_does_not_fit_changes_nothing(kind, update, message):
    index = index_of(kind, [10, 20, 30], np.eye(3))
    with pytest.raises(ValueError, match=message):
        update(index)
    assert index.ids().tolist() == [10, 20, 30]
    assert index.search(np.eye(3), 1)[0].tolist() == [[10], [20], [30]]
