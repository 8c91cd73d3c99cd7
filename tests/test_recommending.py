"""What a trained model answers: ids in, ids, scores and vectors out."""

import time

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.model import recommending

USERS = [10, 10, 10, 20, 20, 30, 40, 40, 50]
MOVIES = [1000, 2000, 3000, 1000, 4000, 3000, 2000, 1000, 4000]
NAMES = {1000: "tea", 2000: "jam", 3000: "oats", 4000: "rye"}


def data_of(kind="numbers"):
    users, movies = USERS, MOVIES
    if kind == "names":
        users = [f"user {user}" for user in users]
        movies = [NAMES[movie] for movie in movies]
    return kdr.RetrievalDataset.from_interactions(
        user_ids=users,
        candidate_ids=movies,
        validation_fraction=0.0,
        test_fraction=0.0,
    )


def model_of(kind="numbers", **kwargs):
    data = data_of(kind)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 4, **kwargs)
    # As if it were trained, so that every candidate may be recommended.
    counts = np.r_[0, np.bincount(data.ratings("train").candidate_rows)[1:]]
    model.candidate_counts.assign(counts)
    return model


def history_model(kind="numbers", **kwargs):
    data = data_of(kind)
    tower = kdr.IdHistoryTower(data.num_users, data.num_candidates, 4, **kwargs)
    return model_of(kind, user_tower=tower)


# What is left out


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_what_is_excluded_by_the_request_is_left_out_too(kind, indexed):
    model = model_of(kind)
    if indexed:
        model.build_index()
    users, movies = model.user_vocabulary.ids, model.candidate_vocabulary.ids
    everything, scores = model.recommend(users, k=4, exclude_seen=False)
    exclude = [movies[:n] for n in (0, 1, 2, 4, 3)]
    for exclude_seen in (False, True):
        ids, kept = model.recommend(
            users, k=4, exclude_seen=exclude_seen, exclude=exclude
        )
        for row, user in enumerate(users):
            seen = [m for u, m in zip(USERS, MOVIES, strict=True) if u == user]
            if kind == "names":
                seen = [
                    NAMES[m]
                    for u, m in zip(USERS, MOVIES, strict=True)
                    if f"user {u}" == user
                ]
            out = {*exclude[row], *(seen if exclude_seen else [])}
            left = [id for id in everything[row] if id not in out]
            assert ids[row, : len(left)].tolist() == left
            assert np.isneginf(kept[row, len(left) :]).all()
            np.testing.assert_allclose(
                kept[row, : len(left)],
                [
                    s
                    for id, s in zip(everything[row], scores[row], strict=True)
                    if id not in out
                ],
                rtol=1e-6,
            )


def test_what_the_model_does_not_know_may_be_excluded():
    model = model_of()
    ids, _ = model.recommend([50], k=4, exclude=[[7, 1000, 99]])
    assert sorted(ids[0].tolist()) == [-1, -1, 2000, 3000]  # Has seen 4000.
    tower = history_model()
    ids, _ = tower.recommend(
        histories=[[1000], []], k=4, exclude=[[2000], [3000, 4000]]
    )
    assert sorted(ids[0].tolist()) == [-1, -1, 3000, 4000]
    assert sorted(ids[1].tolist()) == [-1, -1, 1000, 2000]


@pytest.mark.parametrize(
    "exclude", [5, [1000], [[1000]], [[1000], 5], {10: [1000]}, ["ab", "cd"]]
)
def test_what_is_excluded_is_one_list_a_user(exclude):
    with pytest.raises(ValueError, match=r"`exclude` must be a list of lists"):
        model_of().recommend([10, 20], exclude=exclude)


# Rows and ids


def test_predictions_are_rows_and_recommendations_are_ids():
    model = model_of(k=3)
    model.compile()
    users = np.array([1, 2, 3])  # Rows, as in training.
    rows = model.predict(users, verbose=0)["predictions"]
    ids, _ = model.recommend([10, 20, 30], k=3, exclude_seen=False)
    assert rows.max() <= 4
    np.testing.assert_array_equal(
        rows, model.candidate_vocabulary.rows(ids.reshape(-1)).reshape(3, 3)
    )
    np.testing.assert_array_equal(model(users)["predictions"], rows)


def test_a_list_that_is_too_short_is_filled_with_what_is_no_id():
    for kind, padding in (("numbers", -1), ("names", "")):
        model = model_of(kind)
        user = model.user_vocabulary.ids[:1]
        without_index = model.recommend(user, k=3)
        model.build_index()
        for ids, scores in (without_index, model.recommend(user, k=3)):
            left = 4000 if kind == "numbers" else "rye"
            assert ids.tolist() == [[left, padding, padding]]
            assert np.isneginf(scores[0, 1:]).all()


@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_what_has_no_id_is_never_recommended(kind):
    model = model_of(kind)
    # Row 0, all that is unknown, was seen in training more than the others.
    model.candidate_counts.assign([9, 1, 1, 1, 1])
    known = model.candidate_vocabulary.ids.tolist()
    assert model.retrievable_ids().tolist() == known
    user = model.user_vocabulary.ids[:1]
    for _ in range(2):
        ids, scores = model.recommend(user, k=5, exclude_seen=False)
        assert sorted(ids[0, :4].tolist()) == sorted(known)
        assert np.isneginf(scores[0, 4])
        assert model.encode_candidates().shape == (4, 4)
        model.build_index()


@pytest.mark.parametrize("padding", [-1, ""])
def test_no_candidate_may_have_the_id_of_padding(padding):
    message = f"must not be {padding!r}, which fills up lists"
    ids = [padding, 5 if padding == -1 else "a"]
    with pytest.raises(ValueError, match=message):
        kdr.CandidateIndex.from_vectors(ids, np.eye(2))
    index = kdr.CandidateIndex.from_vectors(ids[1:], [[1.0, 2.0]])
    with pytest.raises(ValueError, match=message):
        index.add(ids[:1], [[2.0, 1.0]])
    assert index.ids().tolist() == ids[1:]
    with pytest.raises(ValueError, match=message):
        kdr.RetrievalDataset.from_interactions([1, 2], ids)
    model = model_of("numbers" if padding == -1 else "names")
    with pytest.raises(ValueError, match=message):
        model.add_candidates([padding])
    assert model.num_candidates == 5
    # Users are never filled up, and other ids below 0 are ids.
    kdr.RetrievalDataset.from_interactions([-1, 2], [-5, 7])


# What is asked


BAD_IDS = [
    {"user": 10},
    {"user_id": [10]},
    10,
    np.int64(10),
    "user 10",
    b"user 10",
    {10, 20},
    (user for user in [10]),
    object(),
    [[10, 20]],
    [[10], [20, 30]],
    [10, [20]],
    np.ma.masked_array([10, 20], [False, True]),
    [10.0],
    [True],
    [None],
    [10, None],
    [b"user 10"],
    [2**70],
    [{"user": 10}],
    np.array(["2020-01-01"], "datetime64[D]"),
]


@pytest.mark.parametrize("kind", ["numbers", "names", "rows"])
def test_ids_that_are_none_end_in_an_error_of_ours(kind):
    if kind == "rows":
        model = kdr.TwoTowerRetrieval(50, 20, 4)
    else:
        model = model_of(kind)
    other_kind = [10] if kind == "names" else ["user 10"]
    for ids in [*BAD_IDS, other_kind]:
        for ask in (
            model.recommend,
            model.encode_users,
            model.encode_candidates,
        ):
            with pytest.raises(ValueError, match="Received"):
                ask(ids)
                pytest.fail(f"{ids!r} was taken")


@pytest.mark.parametrize("kind", ["numbers", "names", "rows"])
def test_ids_come_in_lists_and_arrays_of_all_sorts(kind):
    import pandas as pd

    if kind == "rows":
        model, users = kdr.TwoTowerRetrieval(50, 20, 4), [10, 20]
    else:
        model = model_of(kind)
        users = model.user_vocabulary.ids[:2].tolist()
    expected = model.recommend(users, k=2)
    forms = [tuple, np.array, pd.Series, lambda x: np.array(x, object)]
    if kind != "names":
        forms += [ops.convert_to_tensor, lambda x: np.array(x, "uint8")]
    for form in forms:
        found = model.recommend(form(users), k=2)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    for empty in ([], np.zeros(0), np.zeros(0, "int32")):
        assert model.recommend(empty, k=2)[0].shape == (0, 2)
        assert model.encode_users(empty).shape == (0, 4)
        assert model.encode_candidates(empty).shape == (0, 4)


def test_histories_that_are_none_end_in_an_error_of_ours():
    model = history_model()
    rule = "list of lists of candidate ids"
    bad = [5, "abc", [], [5], ["abc"], [None], {"a": [1000]}, [{"a": 1000}]]
    for histories in [*bad, (one for one in [[1000]])]:
        with pytest.raises(ValueError, match=rule):
            model.recommend(histories=histories)
    for histories in ([[1000.0]], [["tea"]], [[99]], [[[1000]]], [[None]]):
        with pytest.raises(ValueError, match="Received"):
            model.recommend(histories=histories)


def test_unknown_ids_are_shown_as_they_are_written():
    model = model_of()
    model.add_candidates([7])
    with pytest.raises(
        ValueError, match=r"Received: 99999, and 0 more.* 10\. "
    ):
        model.recommend([np.int64(99999)])
    with pytest.raises(ValueError, match="known, such as 7, and 0 repeated"):
        model.add_candidates([7])
    with pytest.raises(ValueError, match=r"whole numbers.*such as 'ann'.$"):
        model.recommend(["ann"])
    with pytest.raises(ValueError, match=r"Received: k=2\.5\.$"):
        model.recommend([10], k=np.float64(2.5))


def test_a_list_may_be_longer_than_the_catalogue_within_reason(on_devices):
    on_devices(2)
    model = model_of()
    for _ in range(2):
        ids, scores = model.recommend([10, 40], k=5000)
        assert ids.shape == scores.shape == (2, 5000)
        assert (ids[:, 4:] == -1).all() and np.isneginf(scores[:, 4:]).all()
        for k in (2**20 + 1, 2**31, 10**12):
            with pytest.raises(ValueError, match="`k` must be at most 1,048,"):
                model.recommend([10], k=k)
        index = model.build_index()
    with pytest.raises(ValueError, match="`k` must be at most 1,048,576"):
        index.search(np.ones((1, 4)), k=2**31)
    with pytest.raises(ValueError, match="`exclude_seen` must be one of True"):
        model.recommend([10], exclude_seen="no")


# Through an index


@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_an_index_gives_what_the_towers_give_after_growth(kind):
    model = history_model(kind)
    # They stand behind the others in the table, and before them in the index.
    model.add_candidates([5, 1500] if kind == "numbers" else ["a", "kale"])
    users = model.user_vocabulary.ids
    items = model.candidate_vocabulary.ids.tolist()
    histories = [items[:1], items[2:], items[::-1]]
    for exclude_seen in (True, False):
        expected = model.recommend(users, 4, exclude_seen)
        of_histories = model.recommend(
            None, 4, exclude_seen, histories=histories
        )
        model.build_index()
        found = model.recommend(users, 4, exclude_seen)
        again = model.recommend(None, 4, exclude_seen, histories=histories)
        for one, other in zip(
            [*found, *again], [*expected, *of_histories], strict=True
        ):
            assert one.dtype.kind == other.dtype.kind
            if one.dtype.kind == "f":
                np.testing.assert_allclose(one, other, rtol=1e-5)
            else:
                np.testing.assert_array_equal(one, other)
        model.set_weights(model.get_weights())  # Drops the index.


def test_what_an_index_excludes_may_be_named_by_row():
    index = kdr.CandidateIndex.from_vectors([30, 10, 20], np.eye(3))
    assert index.rows([20, 99, 10]).tolist() == [1, -1, 0]
    assert kdr.CandidateIndex(3).rows([20]).tolist() == [-1]
    queries = np.array([[3, 1, 2], [1, 2, 3]])  # For 30, 10 and 20.
    by_id = index.search(queries, 2, exclude=[[30, 99], []])
    rows = [[2, -1, -1], [-1, 7, -1]]
    by_row = index.search(queries, 2, excluded_rows=rows)
    assert by_id[0].tolist() == by_row[0].tolist() == [[20, 10], [20, 10]]
    for bad in ([[0]], [0, 1], [[0.5], [1.0]]):
        with pytest.raises(ValueError, match="`excluded_rows` must be whole"):
            index.search(queries, 2, excluded_rows=bad)
    with pytest.raises(ValueError, match="either `exclude` or"):
        index.search(queries, 2, exclude=[[], []], excluded_rows=rows)


def test_an_answer_costs_the_same_however_large_the_vocabulary():
    # A copy of all ids for each user would make it a thousand times slower.
    def seconds(num_ids):
        vocabulary = Vocabulary(np.arange(num_ids) + 10)
        rows = np.arange(1, 11)[None]
        best = np.inf
        for _ in range(20):
            began = time.perf_counter()
            vocabulary.raw_ids(rows)
            best = min(best, time.perf_counter() - began)
        return best

    assert seconds(3_000_000) < 20 * seconds(1_000)


def test_raw_ids_of_unknown_rows_and_of_padding():
    rows = [[2, 0], [-1, 1]]
    numbers, names = Vocabulary([7, 9]), Vocabulary(["a", "bc"])
    assert numbers.raw_ids(rows).tolist() == [[9, 0], [-1, 7]]
    assert names.raw_ids(rows).tolist() == [["bc", ""], ["", "a"]]
    nothing = Vocabulary(np.zeros(0, "int64"))
    assert nothing.raw_ids([0, -1]).tolist() == [0, -1]
    with pytest.raises(ValueError, match=r"less than 3\. Received: 3"):
        numbers.raw_ids([3])


# Vectors


class Counting(keras.layers.Layer):
    """A tower that remembers how many rows it was asked for at a time."""

    def __init__(self, num_rows):
        super().__init__()
        self.table = kdr.RowEmbedding(num_rows, 4)
        self.table.build()
        self.asked = []
        self.built = True

    def call(self, rows):
        self.asked.append(rows.shape[0])
        return self.table(rows)


@pytest.mark.parametrize("popularity_weight", [0.0, 0.5])
def test_only_the_vectors_that_are_asked_for_are_computed(
    popularity_weight, monkeypatch
):
    users, candidates = Counting(20), Counting(30)
    model = kdr.TwoTowerRetrieval(
        20,
        30,
        4,
        user_tower=users,
        candidate_tower=candidates,
        popularity_weight=popularity_weight,
    )
    model.candidate_counts.assign(np.arange(30))
    every = ops.convert_to_numpy(model.candidate_vectors())
    candidates.asked.clear()
    found = model.encode_candidates([7, 3, 7])
    np.testing.assert_allclose(found, every[[7, 3, 7]], rtol=1e-6)
    assert candidates.asked == [3]
    monkeypatch.setattr(recommending, "CANDIDATES_PER_CHUNK", 8)
    monkeypatch.setattr(recommending, "USERS_PER_CHUNK", 8)
    candidates.asked.clear()
    found = model.encode_candidates()
    np.testing.assert_allclose(found, every[1:], rtol=1e-6)
    assert candidates.asked == [8, 8, 8, 5]
    whole = ops.convert_to_numpy(model.user_vectors(np.arange(20)))
    users.asked.clear()
    found = model.encode_users(np.arange(20))
    np.testing.assert_allclose(found, whole, rtol=1e-6)
    assert users.asked == [8, 8, 4]


def test_histories_are_padded_chunk_by_chunk(monkeypatch):
    model = history_model(max_length=3)
    histories = [[1000], [2000, 1000], [], [1000, 2000, 3000, 4000], [4000]]
    whole = model.encode_users(histories=histories)
    ids, scores = model.recommend(histories=histories, k=3)
    monkeypatch.setattr(recommending, "USERS_PER_CHUNK", 2)
    np.testing.assert_allclose(
        model.encode_users(histories=histories), whole, rtol=1e-6
    )
    again = model.recommend(histories=histories, k=3)
    np.testing.assert_array_equal(again[0], ids)
    np.testing.assert_allclose(again[1], scores, rtol=1e-6)
    # The tower sees the latest three; all that were had are left out.
    assert ids[3].tolist() == [-1, -1, -1]
    np.testing.assert_allclose(
        whole[3], model.encode_users(histories=[histories[3][-3:]])[0]
    )


@pytest.mark.parametrize(
    "policy",
    [
        "bfloat16",
        "mixed_bfloat16",
        pytest.param("float16", marks=pytest.mark.slow),
    ],
)
def test_vectors_and_scores_are_float32_under_every_policy(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = model_of(popularity_weight=0.5)
        for _ in range(2):
            assert model.encode_users([10, 20]).dtype == "float32"
            assert model.encode_candidates([1000]).dtype == "float32"
            assert model.encode_candidates().dtype == "float32"
            assert model.recommend([10], k=2)[1].dtype == "float32"
            model.build_index()
    finally:
        keras.config.set_dtype_policy(before)
