"""Ids that the model does not know: an error, or what is popular."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.features import feature_schema
from keras_dp_retrieval.model import recommending

# Of rows 1 to 8; two are tied, one was never a positive.
COUNTS = [0, 3, 7, 7, 1, 900, 2, 0, 5]
PAIRS = [(10 + u, 100 + (u * n) % 8) for u in range(6) for n in (1, 3, 4, 7)]
AGES = [20, 30, 40, 50, 60, 70]


def shop(kind="numbers"):
    """Six users of eight items, with features of the users."""
    users, items = map(list, zip(*PAIRS, strict=True))
    known = sorted(set(users))
    every = list(range(100, 108))
    if kind == "names":
        users, items, known, every = (
            [f"id {one}" for one in ids] for ids in (users, items, known, every)
        )
    return kdr.RetrievalDataset.from_interactions(
        user_ids=users,
        candidate_ids=items,
        test_fraction=0,
        validation_fraction=0,
        user_features={
            "user_id": known,
            "country": ["GB", "SE", "GB", "SE", "GB", "DE"],
            "age": AGES,
        },
        candidate_features={"item_id": every, "price": list(range(8))},
    )


def without_vocabulary():
    model = kdr.TwoTowerRetrieval(6, 9, 4)
    model.build()
    model.candidate_counts.assign(COUNTS)
    return model


def model_of(kind="numbers", counts=COUNTS, **kwargs):
    if kind == "rows":
        return without_vocabulary()
    keras.utils.set_random_seed(0)
    data = shop(kind)
    if "history" in kwargs:
        tower = kdr.FeatureTower(
            data.user_features,
            4,
            history=kdr.IdHistoryTower(data.num_users, data.num_candidates, 4),
        )
        kwargs = {"user_tower": tower}
    model = kdr.TwoTowerRetrieval.for_dataset(data, 4, **kwargs)
    model.build()
    model.candidate_counts.assign(counts)
    return model


@pytest.fixture(scope="module")
def reader():
    """A model that takes ids, histories and features."""
    return model_of(history=True)


def popular(model, k, without=(), among=None):
    """The obvious way: sort all, and leave out one by one."""
    ids = np.arange(model.num_candidates)
    if model.candidate_vocabulary is not None:
        ids = model.candidate_vocabulary.raw_ids(ids)
    counts = np.asarray(model.candidate_counts).tolist()
    rows = {one: row for row, one in enumerate(ids.tolist())}
    left = [
        one
        for one in model.retrievable_ids().tolist()
        if one not in without and (among is None or one in among)
    ]
    left.sort(key=lambda one: (-counts[rows[one]], rows[one]))
    scores = [np.log1p(counts[rows[one]]) for one in left[:k]]
    num_short = k - len(scores)
    padding = "" if ids.dtype.kind == "U" else -1
    return left[:k] + [padding] * num_short, scores + [-np.inf] * num_short


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)


# Nobody knows them


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "names", "rows"])
def test_somebody_unknown_gets_what_training_had_most_often(kind, indexed):
    model = model_of(kind)
    if indexed:
        model.build_index()
    items = model.retrievable_ids().tolist()
    users = ["x", "y", ""] if kind == "names" else [99, -5, 2**40]
    exclude = [[], items[2:5], items]
    for k in (1, 3, 20):
        for among in (None, items[1:7], []):
            ids, scores, info = model.recommend(
                users,
                k,
                exclude=exclude,
                allowed_ids=among,
                unknown="popular",
                return_info=True,
            )
            for row, without in enumerate(exclude):
                expected = popular(model, k, without, among)
                same((ids[row].tolist(), scores[row]), expected)
    assert info["source"].tolist() == ["popular"] * 3
    assert info["num_unknown"].tolist() == [1, 1, 1]
    assert scores.dtype == "float32"


def test_what_cannot_be_recommended_is_not_popular():
    users, items = zip(*PAIRS, strict=True)
    data = kdr.RetrievalDataset.from_interactions(users, items, test_fraction=0)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 4)
    model.candidate_counts.assign([9, 1, 1, 4, 0, 2, 0, 0, 0])
    model.add_candidates([5, 6])  # Whose vectors are noise.
    ids, _ = model.recommend([99], k=12, unknown="popular")
    assert ids[0].tolist()[:4] == [102, 104, 100, 101]
    assert sorted(ids[0].tolist()[4:]) == [-1] * 4 + [103, 105, 106, 107]
    ids, _ = model.recommend(
        [10, 99], k=4, unknown="popular", allowed_ids=[5, 102, 100]
    )
    assert sorted(ids[0].tolist()) == [-1, -1, -1, 102]  # Has seen 100.
    assert ids[1].tolist() == [102, 100, -1, -1]


@pytest.mark.parametrize(("indexed", "chunk"), [(False, 2), (True, 1024)])
def test_a_mixed_batch_answers_each_as_if_alone(indexed, chunk, monkeypatch):
    monkeypatch.setattr(recommending, "USERS_PER_CHUNK", chunk)
    model = model_of()
    if indexed:
        model.build_index()
    users = [12, 99, 10, 98, 97, 96, 15]
    exclude = [[104], [104], [], [105], [], [], [107]]
    ids, scores, info = model.recommend(
        users, 4, exclude=exclude, unknown="popular", return_info=True
    )
    assert info["source"].tolist() == [
        "model" if user < 90 else "popular" for user in users
    ]
    for row, user in enumerate(users):
        if user > 90:
            expected = popular(model, 4, exclude[row])
        else:
            alone = model.recommend([user], 4, exclude=[exclude[row]])
            expected = alone[0][0], alone[1][0]
        same((ids[row], scores[row]), expected)


def test_the_tower_is_asked_in_few_shapes(monkeypatch):
    monkeypatch.setattr(recommending, "USERS_PER_CHUNK", 4)
    model = model_of("rows")
    asked, vectors = [], model.user_vectors

    def counted(rows):
        asked.append(rows.shape)
        return vectors(rows)

    monkeypatch.setattr(model, "user_vectors", counted)
    users = [1, 99, 2, 98, 99, 98, 97, 96, 95, 3, 94, 93]
    ids, _ = model.recommend(users, 3, unknown="popular")
    assert asked == [(4,), (4,)]  # Of the four in between, none is known.
    assert ids.shape == (12, 3)


def test_nobody_has_seen_what_row_0_has_seen():
    seen = kdr.Histories(6, 2, 2)
    seen.starts.assign([0, 2, 2, 2, 2, 2, 2])
    seen.candidate_rows.assign([5, 2, 0])
    model = kdr.TwoTowerRetrieval(6, 9, 4, histories=seen)
    model.build()
    model.candidate_counts.assign(COUNTS)
    ids, _ = model.recommend([0, 99], 2, unknown="popular")
    assert ids[1].tolist() == [5, 2]
    assert not np.isin([5, 2], ids[0]).any()


# Histories


@pytest.mark.parametrize("indexed", [False, True])
def test_unknown_items_of_a_history_are_skipped(indexed):
    model = model_of(history=True)
    if indexed:
        model.build_index()
    ids, scores, info = model.recommend(
        histories=[[7, 100, 8, 103], [9], [], [105]],
        k=4,
        unknown="popular",
        return_info=True,
    )
    assert info["source"].tolist() == [
        "history",
        "popular",
        "popular",
        "history",
    ]
    assert info["num_unknown"].tolist() == [2, 1, 0, 0]
    known = model.recommend(histories=[[100, 103], [105]], k=4)
    same((ids[[0, 3]], scores[[0, 3]]), known)
    for row in (1, 2):
        same((ids[row], scores[row]), popular(model, 4))


def test_a_history_is_for_an_id_that_is_unknown(reader):
    histories = [[104], [104, 3], [2, 1], []]
    ids, scores, info = reader.recommend(
        [11, 99, 98, 12],
        k=8,
        histories=histories,
        unknown="popular",
        return_info=True,
    )
    assert info["source"].tolist() == ["model", "history", "popular", "model"]
    assert info["num_unknown"].tolist() == [0, 2, 3, 0]
    # What they had is left out, too.
    by_id = reader.recommend([11, 12], k=8, exclude=[[104], []])
    same((ids[[0, 3]], scores[[0, 3]]), by_id)
    by_history = reader.recommend(histories=[[104]], k=8)
    same((ids[1:2], scores[1:2]), by_history)
    same((ids[2], scores[2]), popular(reader, 8))
    alone = reader.recommend([99], 8, histories=[[104]], unknown="popular")
    same(alone, by_history)


# Features


def test_features_answer_where_no_id_is_known(reader):
    features = {
        "country": ["GB", "SE", "XX", None, "XX", None, "DE"],
        "age": [None, 30, None, None, np.mean(AGES), None, 70],
    }
    users = [10, 99, 98, 97, 96, 11, 95]
    ids, scores, info = reader.recommend(
        users,
        k=5,
        exclude_seen=False,
        user_features=features,
        unknown="popular",
        return_info=True,
    )
    # Nothing is known of a country that training did not have; the mean age
    # is an age.
    assert info["source"].tolist() == [
        *("model", "features", "popular", "popular", "features"),
        *("model", "features"),
    ]
    assert info["num_unknown"].tolist() == [0, 1, 1, 1, 1, 0, 1]
    of_features = [1, 4, 6]
    alone = reader.recommend(
        user_features={
            name: [column[row] for row in of_features]
            for name, column in features.items()
        },
        k=5,
    )
    same((ids[of_features], scores[of_features]), alone)
    for row in (2, 3):
        same((ids[row], scores[row]), popular(reader, 5))


def test_features_of_a_request_are_read_once(reader, monkeypatch):
    read = []
    plain = feature_schema.FeatureSchema._as_arrow

    def counted(self, columns):
        read.append(columns)
        return plain(self, columns)

    monkeypatch.setattr(feature_schema.FeatureSchema, "_as_arrow", counted)
    features = {"country": ["GB"], "age": [30]}
    reader.recommend(user_features=features, k=5, unknown="popular")
    assert len(read) == 1


def test_a_history_speaks_before_features(reader):
    asked = {
        "histories": [[100, 5], [6], [7]],
        "user_features": {"country": ["GB", "GB", "XX"]},
        "k": 5,
    }
    ids, scores, info = reader.recommend(
        **asked, unknown="popular", return_info=True
    )
    assert info["source"].tolist() == ["history", "features", "popular"]
    known = reader.recommend(
        histories=[[100], []], user_features={"country": ["GB", "GB"]}, k=5
    )
    same((ids[:2], scores[:2]), known)
    alone = reader.recommend(user_features={"country": ["GB"]}, k=5)
    same((ids[1:2], scores[1:2]), alone)


# What is refused


def test_unknown_ids_are_errors_unless_one_asks_otherwise(reader):
    for asked in (
        {"user_ids": [10, 99]},
        {"histories": [[100], [7]]},
        {"user_ids": [10], "allowed_ids": [100, 7]},
    ):
        with pytest.raises(ValueError, match=r"must be known.*'popular'"):
            reader.recommend(**asked)
        reader.recommend(**asked, unknown="popular")
    for asked, message in (
        ({"unknown": "skip"}, "`unknown` must be one of 'raise', 'popular'"),
        ({"return_info": 1}, "`return_info` must be True or False"),
        ({"allowed_ids": 100}, "`allowed_ids` must be a list"),
        ({"histories": [[100]]}, "Received: both"),
        (
            {"histories": [[1], [2]], "unknown": "popular"},
            "2 for 1 users",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            reader.recommend([10], **asked)
    with pytest.raises(ValueError, match="known ids are whole numbers"):
        reader.recommend(["ann"], unknown="popular")


def test_the_info_says_what_was_asked_with(reader):
    sources = [
        reader.recommend(**asked, return_info=True)[2]["source"].tolist()
        for asked in (
            {"user_ids": [10, 11]},
            {"histories": [[100], []]},
            {"user_features": {"age": [None]}},
        )
    ]
    assert sources == [["model"] * 2, ["history"] * 2, ["features"]]
    ids, scores, info = reader.recommend(
        [], 3, unknown="popular", return_info=True
    )
    assert ids.shape == scores.shape == (0, 3)
    assert {len(one) for one in info.values()} == {0}


@pytest.mark.parametrize("indexed", [False, True])
def test_the_best_of_what_is_allowed(indexed):
    model = model_of()
    if indexed:
        model.build_index()
    users = [10, 12, 13]
    every, scores = model.recommend(users, k=8, exclude_seen=False)
    allowed = [106, 101, 103, 104, 107]
    ids, kept = model.recommend(
        users,
        3,
        exclude_seen=False,
        allowed_ids=allowed,
        exclude=[[], [101], [103, 106, 107]],
    )
    for row, without in enumerate([[], [101], [103, 106, 107]]):
        is_left = np.isin(every[row], allowed) & ~np.isin(every[row], without)
        left = every[row][is_left][:3].tolist()
        assert ids[row].tolist() == left + [-1] * (3 - len(left))
        np.testing.assert_allclose(
            kept[row, : len(left)], scores[row][is_left][:3], rtol=1e-5
        )
    ids, _ = model.recommend(users, k=3, allowed_ids=[])
    assert (ids == -1).all()
