"""FAISS behind `recommend`: what it may miss, and what it may not."""

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.index import faiss_catalogue

faiss = pytest.importorskip("faiss", reason="needs the extra `index`")

KINDS = ["flat", "ivf", "hnsw"]


def vectors_of(num_candidates=2000, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_candidates, dim)).astype("float32")


@pytest.fixture(scope="module")
def exact():
    ids = 7 * np.arange(2000)[::-1]
    return kdr.CandidateIndex.from_vectors(ids, vectors_of())


@pytest.fixture(scope="module")
def indexes(exact):
    return {kind: kdr.FaissIndex(exact, kind) for kind in KINDS}


def recall(found, best):
    pairs = zip(found, best, strict=True)
    return np.mean([np.isin(other, one).mean() for one, other in pairs])


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_nearly_what_exact_search_finds(exact, indexes, kind):
    queries = vectors_of(64, seed=1)
    ids, scores = indexes[kind].search(queries, 10)
    best, best_scores = exact.search(queries, 10)
    assert recall(ids, best) >= {"flat": 1, "ivf": 0.85, "hnsw": 0.99}[kind]
    assert (np.diff(scores) <= 0).all()
    both = ids == best
    np.testing.assert_allclose(scores[both], best_scores[both], rtol=1e-5)
    measured = indexes[kind].measure_recall(queries, ks=(10, 100, 5000))
    assert measured[10] == recall(ids, best) and list(measured) == [10, 100]
    assert indexes[kind].report()["recalls"] == measured


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.0005])
def test_a_list_is_as_long_as_it_can_be_whatever_is_left_out(
    exact, indexes, kind, share
):
    rng = np.random.default_rng(2)
    queries = vectors_of(8, seed=3)
    ids = exact.ids()
    allowed = rng.choice(ids, round(len(ids) * share), replace=False)
    # The best are left out, of all or of few, and things that are not there.
    best, _ = exact.search(queries, 50, allowed_ids=allowed)
    exclude = [[*one[one >= 0][: 9 * row], 3] for row, one in enumerate(best)]
    found, scores = indexes[kind].search(
        queries, 20, exclude=exclude, allowed_ids=allowed
    )
    expected, _ = exact.search(
        queries, 20, exclude=exclude, allowed_ids=allowed
    )
    np.testing.assert_array_equal(found >= 0, expected >= 0)
    np.testing.assert_array_equal(np.isfinite(scores), found >= 0)
    for row in range(8):
        there = found[row][found[row] >= 0]
        assert len(set(there)) == len(there)
        assert set(there) <= set(allowed) - set(exclude[row])
    assert recall(found, expected) > 0.7


def test_the_report_says_how_often_it_searched_wider_and_exactly(exact):
    index = kdr.FaissIndex(exact, "ivf", num_lists=50, num_probes=1)
    queries, ids = vectors_of(6, seed=4), exact.ids()

    def counts():
        report = index.report()
        return [report[f"num_{one}"] for one in ("queries", "widened", "exact")]

    index.search(queries, 3)
    assert counts() == [6, 0, 0]
    index.search(queries, 3, allowed_ids=ids[::2])
    assert counts() == [12, 6, 0]
    best, _ = exact.search(queries, 500)
    nothing = [[]] * 5
    # One list, or four, have fewer than so many.
    found, _ = index.search(queries, 500)
    assert counts() == [18, 6, 6]
    np.testing.assert_array_equal(found, best)
    few = ids[: len(ids) // (faiss_catalogue.MOST_WIDENED + 1)]
    index.search(queries, 3, allowed_ids=few)
    assert counts() == [24, 6, 12]
    index.search(queries, 3, exclude=[ids[:0], *nothing])
    assert counts() == [30, 6, 12]
    index.measure_recall(queries)
    assert counts() == [30, 6, 12]
    assert index.report()["num_candidates"] == 2000
    assert index.report()["settings"] == {"num_lists": 50, "num_probes": 1}


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_recommend_searches_it_and_leaves_out_what_is_seen(weight):
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        user_ids=rng.integers(0, 50, 3000),
        candidate_ids=[f"c{n}" for n in rng.integers(0, 400, 3000)],
        test_fraction=0.0,
        validation_fraction=0.0,
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, popularity_weight=weight)
    model.candidate_counts.assign(data.candidate_counts())
    users = np.arange(50)
    expected = model.recommend(users, k=10)
    index = kdr.FaissIndex(model.build_index(), "flat")
    found = model.recommend(users, k=10, index=index)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    hnsw = kdr.FaissIndex(model.build_index(), "hnsw")
    assert recall(model.recommend(users, 10, index=hnsw)[0], expected[0]) > 0.98
    exclude = expected[0][:, :3].tolist()
    for one in (index, hnsw):
        ids, _ = model.recommend(users, 10, index=one, exclude=exclude)
        assert not any(
            set(row) & set(out) for row, out in zip(ids, exclude, strict=True)
        )


def test_what_is_hidden_is_dropped_when_it_is_most(monkeypatch):
    vectors = vectors_of(100)
    exact = kdr.CandidateIndex.from_vectors(np.arange(100), vectors)
    index = kdr.FaissIndex(exact, "hnsw")
    built = []
    monkeypatch.setattr(
        faiss_catalogue.FaissCatalogue,
        "built",
        classmethod(
            lambda cls, *args, build=faiss_catalogue.FaissCatalogue.built: (
                built.append(1) or build(*args)
            )
        ),
    )
    index.replace(np.arange(100), vectors[::-1])
    assert not built
    index.replace([5], vectors[:1])
    assert built == [1]
    np.testing.assert_array_equal(
        index.search(vectors[:1], 3)[0],
        index._exact.search(vectors[:1], 3)[0],
    )


def test_arguments_that_do_not_fit_are_errors(exact):
    with pytest.raises(ValueError, match="`kind` must be one of 'flat'"):
        kdr.FaissIndex(exact, "lsh")
    with pytest.raises(ValueError, match="must be a `CandidateIndex`"):
        kdr.FaissIndex(vectors_of(3))
    with pytest.raises(ValueError, match="an empty index"):
        kdr.FaissIndex(kdr.CandidateIndex(3))
    with pytest.raises(ValueError, match="no more than there are candidates"):
        kdr.FaissIndex(exact, "ivf", num_lists=3000)
    with pytest.raises(ValueError, match="`num_links` must be a whole number"):
        kdr.FaissIndex(exact, "hnsw", num_links=0)
    index = kdr.FaissIndex(
        kdr.CandidateIndex.from_vectors([1, 2], np.eye(2)), "flat"
    )
    with pytest.raises(ValueError, match="must leave a candidate"):
        index.remove([1, 2])


def test_without_faiss_the_error_names_the_command(exact, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"keras-dp-retrieval\[index\]"):
        kdr.FaissIndex(exact)
