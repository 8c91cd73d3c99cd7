"""Filters of `recommend`: a plain loop over all candidates finds the same."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_dp_retrieval as kdr
from tests.feature_filters import candidate_table, meets, request_filters

NUM_CANDIDATES = 60


@pytest.fixture(scope="module")
def table():
    return candidate_table(NUM_CANDIDATES)


@pytest.fixture(scope="module")
def model(table):
    return model_of(table)


def model_of(table):
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        user_ids=rng.integers(0, 9, 600),
        candidate_ids=rng.integers(0, NUM_CANDIDATES, 600),
        test_fraction=0.0,
        validation_fraction=0.0,
        candidate_features=kdr.Features(
            table,
            kinds={"zip": "categorical", "genres": "multi_label"},
        ),
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, popularity_weight=0.5, objective="full_softmax"
    )
    model.candidate_counts.assign(data.candidate_counts())
    return model


def best_by_hand(model, table, user, k, filters, exclude=(), allowed=None):
    """Ids and scores of who meets the filters, by a loop and a sort."""
    ids = model.retrievable_ids()
    scores = model.encode_candidates() @ model.encode_users([user])[0]
    left = [
        (-score, one)
        for score, one in zip(scores.tolist(), ids.tolist(), strict=True)
        if meets(table, one, filters)
        and one not in exclude
        and (allowed is None or one in allowed)
    ]
    return sorted(left)[:k]


def check(model, table, filters, k=5, **options):
    users = [0, 3]
    rng = np.random.default_rng(len(str(filters)))
    exclude = [rng.choice(NUM_CANDIDATES, n).tolist() for n in (7, 0)]
    ids, scores = model.recommend(
        users,
        k=k,
        exclude_seen=False,
        exclude=exclude,
        filters=filters,
        **options,
    )
    allowed = options.get("allowed_ids")
    for row, user in enumerate(users):
        expected = best_by_hand(
            model, table, user, k, filters, exclude[row], allowed
        )
        found = ids[row][np.isfinite(scores[row])]
        assert len(found) == len(expected)
        np.testing.assert_allclose(
            scores[row, : len(found)], [-s for s, _ in expected], rtol=1e-5
        )
        assert found.tolist() == [one for _, one in expected]


CONDITIONS = [
    {"genres": "Comedy"},
    {"genres": ["Comedy", "War"], "year": [1990, 1999]},
    {"genres": {"all": ["Comedy", "War"]}},
    {"genres": {"none": ["Comedy"], "any": ["War", "a b"]}},
    {"year": {"min": 1995}},
    {"year": [None, 1985]},
    {"year": 1990},
    {"zip": 7, "year": [1900, 2100]},
    {"zip": {"none": [7, 8]}},
    {"fresh": True},
    {"made": ["2001-01-01", None]},
    {"genres": []},
    {"genres": {"none": []}},
    {},
]


@pytest.mark.parametrize("filters", CONDITIONS, ids=map(str, CONDITIONS))
def test_lists_have_the_best_that_fulfil_all(model, table, filters):
    check(model, table, filters)
    check(model, table, filters, allowed_ids=list(range(0, 60, 2)))
    check(model, table, json.loads(json.dumps(filters)), k=80)


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [2, 8])
def test_several_devices_filter_as_one_does(on_devices, table, num_devices):
    on_devices(num_devices)
    model = model_of(table)
    check(model, table, CONDITIONS[1])
    model.build_index()
    check(model, table, CONDITIONS[1])


def test_an_index_is_filtered_as_the_towers_are(model, table):
    index = kdr.CandidateIndex.from_vectors(
        model.retrievable_ids(), model.encode_candidates()
    )
    for filters in CONDITIONS:
        check(model, table, filters, index=index)
    index.remove([11, 12])
    ids, _ = model.recommend([0], k=60, index=index, exclude_seen=False)
    assert not {11, 12} & set(ids[0].tolist()) and (ids[0, -2:] == -1).all()
    index.add([12], model.encode_candidates([12]))
    ids, _ = model.recommend(
        [0], k=2, index=index, allowed_ids=[11, 12], exclude_seen=False
    )
    assert ids.tolist() == [[12, -1]]


def test_what_the_index_alone_knows_is_recommended_and_can_be_excluded(model):
    index = kdr.CandidateIndex.from_vectors(
        [*model.retrievable_ids(), 500],
        [*model.encode_candidates(), 99 * model.encode_users([0])[0]],
    )
    ids, _ = model.recommend([0, 0], k=1, index=index, exclude=[[], [500]])
    assert ids[0] == 500 and ids[1] != 500
    ids, _ = model.recommend([0], k=1, index=index, allowed_ids=[3, 4])
    assert 500 not in ids


def test_a_missing_number_is_not_the_mean_even_after_a_save(
    model, table, tmp_path
):
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    year = np.array([np.nan if y is None else y for y in table["year"]])
    assert 1985 < np.nanmean(year) < 1995 and np.isnan(year).any()
    for one in (model, loaded):
        ids, _ = one.recommend(
            [0], k=60, exclude_seen=False, filters={"year": [1985, 1995]}
        )
        found = ids[0][ids[0] >= 0]
        np.testing.assert_array_equal(
            np.sort(found), np.flatnonzero((year >= 1985) & (year <= 1995))
        )


@pytest.mark.slow
def test_a_new_candidate_is_filtered_by_its_features(table):
    model = model_of(table)
    model.add_candidates(
        [100, 101, 102],
        features={"genres": ["War", "", "War"], "year": [None, 1990.0, 1990.0]},
    )
    ids, _ = model.recommend(
        [0], k=99, filters={"genres": "War", "year": 1990}, exclude_seen=False
    )
    assert 102 in ids[0] and not {100, 101} & set(ids[0].tolist())


def test_who_is_unknown_gets_what_is_popular_and_fulfils_the_filters(
    model, table
):
    filters = {"genres": "Comedy", "zip": ["nowhere", 7]}
    ids, _, info = model.recommend(
        [0, 77], k=4, unknown="popular", return_info=True, filters=filters
    )
    assert info["source"].tolist() == ["model", "popular"]
    for one in ids[ids >= 0].tolist():
        assert meets(table, one, {"genres": "Comedy", "zip": 7})
    counts = keras.ops.convert_to_numpy(model.candidate_counts)
    fulfil = [
        one
        for one in range(NUM_CANDIDATES)
        if meets(table, one, {"genres": "Comedy", "zip": 7})
    ]
    best = sorted((-counts[one + 1], one) for one in fulfil)[:4]
    assert ids[1][ids[1] >= 0].tolist() == [one for _, one in best]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("Comedy", r"must be a dict .* \{'genres': 'Comedy'"),
        ({"genre": "Comedy"}, r"Received: 'genre'. There are: \{'genres'"),
        ({5: "Comedy"}, "Received: 5. There are"),
        ({"genres": "Comdy"}, "that training had. Received: 'Comdy'. There"),
        ({"genres": {"or": "Comedy"}}, r"some of \['any', 'all', 'none'\]"),
        ({"genres": {}}, r"some of \['any', 'all', 'none'\]"),
        ({"genres": None}, "texts, numbers or truth values"),
        ({"genres": [["Comedy"]]}, "texts, numbers or truth values"),
        ({"year": [1990]}, r"two bounds, such as \[1990, None\]"),
        ({"year": [1999, 1990]}, "a lower bound first"),
        ({"year": "1990"}, "must have numbers"),
        ({"year": None}, "a number or a pair"),
        ({"year": [True, None]}, "must have numbers"),
        ({"year": float("nan")}, "finite number"),
        ({"made": [1990, None]}, "dates, such as '1995-12-31'"),
        ({"made": "yesterday"}, "must hold dates"),
        ({"blurb": "some"}, "Received: 'blurb', a text"),
    ],
)
def test_a_filter_that_does_not_fit_is_an_error_that_says_why(
    model, filters, message
):
    with pytest.raises(ValueError, match=message):
        model.recommend([0], filters=filters)


def test_models_without_features_say_so():
    model = kdr.TwoTowerRetrieval(20, 30, 4)
    with pytest.raises(ValueError, match="need a model with features"):
        model.recommend([1], filters={"genres": "Comedy"})
    with pytest.raises(ValueError, match="a `CandidateIndex` or a `FaissInd"):
        model.recommend([1], index=[1])
    index = kdr.CandidateIndex.from_vectors([1], np.ones((1, 3)))
    with pytest.raises(ValueError, match="length 4, as the model"):
        model.recommend([1], index=index)


@settings(max_examples=30, deadline=None, database=None)
@given(filters=request_filters(), k=st.sampled_from([1, 5]))
def test_any_filters_find_what_a_loop_finds(model, table, filters, k):
    check(model, table, filters, k=k)
