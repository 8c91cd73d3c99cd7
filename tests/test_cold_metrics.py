"""Users and candidates that training has not: by hand, against an oracle."""

import math

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import metrics
from keras_dp_retrieval.cli import cold_table
from keras_dp_retrieval.metrics import ranker
from tests.test_metrics import (
    Data,
    Tables,
    assert_same,
    oracle,
    oracle_lists,
    pairs,
    random_case,
)

USER_METRICS = ("recall", "ndcg", "mrr", "hit_rate", "precision")
GROUPS = (
    "warm_users",
    "cold_users",
    "warm_candidates",
    "cold_candidates",
    "cold_among_cold",
)


def with_cold(seed, **options):
    """A random case without the users above 25, and candidates above 38."""
    data, model = random_case(seed, **options)
    train = data.parts["train"]
    kept = (train.user_rows <= 25) & (train.candidate_rows <= 38)
    data.parts["train"] = train.take(np.flatnonzero(kept))
    return data, model


# ---------------------------------------------------------------------------
# The oracle: one user at a time, sets and sorts, nothing shared with the code
# ---------------------------------------------------------------------------


def oracle_of_user(top, relevant, k):
    ranks = [r for r, row in enumerate(top[:k], 1) if row in relevant]
    ideal = range(1, min(k, len(relevant)) + 1)
    return [
        len(ranks) / len(relevant),
        sum(1 / math.log2(r + 1) for r in ranks)
        / sum(1 / math.log2(r + 1) for r in ideal),
        1 / ranks[0] if ranks else 0.0,
        1.0 if ranks else 0.0,
        len(ranks) / k,
    ]


def cold_oracle(model, data, ks):
    lists, held_outs = oracle_lists(model, data, "test")
    train = data.ratings("train")
    trained_users = set(train.user_rows.tolist())
    trained = set(train.candidate_rows.tolist())
    every = set(range(1, len(data.candidate_vocabulary.ids) + 1))
    result = {}
    for k in ks:
        rows = {group: [] for group in GROUPS}
        for user, ranked in lists.items():
            held_out = held_outs[user]
            kind = "warm" if user in trained_users else "cold"
            rows[f"{kind}_users"].append(oracle_of_user(ranked, held_out, k))
            if held_out & trained:
                rows["warm_candidates"].append(
                    oracle_of_user(ranked, held_out & trained, k)
                )
            if held_out - trained:
                cold_list = [row for row in ranked if row not in trained]
                for group, top in (
                    ("cold_candidates", ranked),
                    ("cold_among_cold", cold_list),
                ):
                    rows[group].append(
                        oracle_of_user(top, held_out - trained, k)
                    )
        shown = {row for ranked in lists.values() for row in ranked[:k]}
        for group in GROUPS:
            means = (
                np.mean(rows[group], axis=0) if rows[group] else [np.nan] * 5
            )
            for name, value in zip(USER_METRICS, means, strict=True):
                result[f"{group}_{name}_at_{k}"] = value
        for kind, are in (("warm", every & trained), ("cold", every - trained)):
            result[f"{kind}_candidates_coverage_at_{k}"] = (
                len(shown & are) / len(are) if are else np.nan
            )
            result[f"num_{kind}_candidates"] = len(are)
            result[f"num_{kind}_users"] = len(rows[f"{kind}_users"])
            result[f"num_users_of_{kind}_candidates"] = len(
                rows[f"{kind}_candidates"]
            )
    return {**oracle(model, data, ks), **result}


def test_cold_part_by_hand():
    # In training: users 1 and 2, candidates 1 and 2. Cold: user 3, candidates
    # 3, 4 and 5.
    data = Data(4, 6, pairs([1, 2], [1, 2]), pairs([1, 1, 2, 3], [2, 4, 1, 5]))
    # By score: user 1 gets 2 (warm hit), 3, 4 (cold hit), 5; user 2 gets 5,
    # 4, 3, 1 (warm hit); user 3 gets 3, 5 (cold hit), 4, 2, 1.
    model = Tables(
        users=np.eye(4, dtype="float32"),
        candidates=np.array(
            [
                [0, 9, 9, 9],
                [0, 9, 2, 1],
                [0, 8, 9, 2],
                [0, 7, 3, 5],
                [0, 6, 4, 3],
                [0, 5, 5, 4],
            ],
            "float32",
        ),
    )
    result = metrics.evaluate(model, data, ks=(1, 2), cold=True)
    assert result["warm_users_recall_at_1"] == 0.25  # User 1: one of two.
    assert result["cold_users_recall_at_1"] == 0.0
    assert result["cold_users_recall_at_2"] == 1.0
    assert result["cold_users_ndcg_at_2"] == pytest.approx(1 / math.log2(3))
    assert result["warm_candidates_recall_at_1"] == 0.5  # Of users 1 and 2.
    assert result["cold_candidates_recall_at_2"] == 0.5  # Of users 1 and 3.
    # Candidates 3 and 4 before them: the first of the cold ones is at 2.
    assert result["cold_among_cold_recall_at_1"] == 0.0
    assert result["cold_among_cold_recall_at_2"] == 1.0
    # Shown at 1: 2, 5 and 3.
    assert result["warm_candidates_coverage_at_1"] == 1 / 2
    assert result["cold_candidates_coverage_at_1"] == 2 / 3
    assert result["num_warm_users"] == 2 and result["num_cold_users"] == 1
    assert result["num_users_of_warm_candidates"] == 2
    assert result["num_users_of_cold_candidates"] == 2
    assert result["num_warm_candidates"] == 2
    assert result["num_cold_candidates"] == 3


@pytest.mark.parametrize("values", [None, 1])
@pytest.mark.parametrize("chunks", [(7, 5), (1000, 1000)])
def test_cold_part_equals_the_oracle_in_chunks_of_any_size(values, chunks):
    data, model = with_cold(seed=1, values=values)
    actual = metrics.evaluate(
        model,
        data,
        ks=(1, 5, 20),
        cold=True,
        user_chunk_size=chunks[0],
        candidate_chunk_size=chunks[1],
    )
    expected = cold_oracle(model, data, (1, 5, 20))
    assert_same(actual, expected)
    # So that the comparison is worth something.
    assert expected["num_cold_users"] > 5
    assert 0 < expected["cold_candidates_recall_at_5"] < 1
    assert expected["cold_among_cold_recall_at_5"] < 1


def test_any_number_of_devices_gives_the_same_cold_part(on_devices):
    data, model = with_cold(seed=3, values=2)
    expected = cold_oracle(model, data, (1, 10))
    for num_devices in (1, 4):
        on_devices(num_devices)
        actual = metrics.evaluate(
            model,
            data,
            ks=(1, 10),
            cold=True,
            user_chunk_size=20,
            candidate_chunk_size=16,
        )
        assert_same(actual, expected)


def test_cold_part_adds_to_the_result_and_changes_nothing_of_it():
    data, model = with_cold(seed=2)
    without = metrics.evaluate(model, data, ks=(10,))
    result = metrics.evaluate(model, data, ks=(10,), cold=True)
    assert {name: result[name] for name in without} == without
    overall, rest = cold_table.divided(result)
    assert overall == without
    assert all(type(value) is float for value in rest.values())


def test_users_are_encoded_once_for_both_lists():
    data, model = with_cold(seed=2)
    asked = []
    encode = model.user_vectors
    model.user_vectors = lambda rows: asked.extend(rows) or encode(rows)
    metrics.evaluate(model, data, ks=(10,))
    once = list(asked)
    asked.clear()
    metrics.evaluate(model, data, ks=(10,), cold=True)
    assert asked == once


def test_second_list_scores_the_cold_candidates_alone(monkeypatch):
    data, model = with_cold(seed=2, dim=3)
    best_of_rows, sizes = ranker.chunks.best_of_rows, []

    def spy(users, candidates, *args, **options):
        sizes.append(len(candidates))
        return best_of_rows(users, candidates, *args, **options)

    monkeypatch.setattr(ranker.chunks, "best_of_rows", spy)
    metrics.evaluate(model, data, ks=(9,), cold=True)
    num_cold = (data.candidate_counts("train")[1:] == 0).sum()
    assert 10 < num_cold < 20
    assert sizes == [50, num_cold]


def test_a_part_of_the_catalogue_has_rows_of_its_own():
    part = ranker._PartOfCatalogue(np.array([0, 1, 0, 1, 0], bool), 5, 10)
    assert part.options == {"k": 2, "chunk_size": 2}
    assert part.positions_of(np.array([[3, -1, 0]])).tolist() == [[1, -1, -1]]
    assert part.rows_of(np.array([[1, -1, 0]])).tolist() == [[3, -1, 1]]
    nothing = ranker._PartOfCatalogue(np.zeros(5, bool), 5, 10)
    assert nothing.allowed.tolist() == [False]  # A row that no list may have.
    assert nothing.options == {"k": 1, "chunk_size": 1}


def test_without_cold_ones_figures_are_nan_and_numbers_zero():
    data, model = random_case(seed=1)
    rows = np.arange(1, 50)
    data.parts["train"] = pairs(rows % 39 + 1, rows)
    result = metrics.evaluate(model, data, ks=(5,), cold=True)
    assert result["num_cold_users"] == result["num_cold_candidates"] == 0
    for name in ("cold_users", "cold_candidates", "cold_among_cold"):
        assert math.isnan(result[f"{name}_recall_at_5"])
    assert math.isnan(result["cold_candidates_coverage_at_5"])
    assert result["warm_users_recall_at_5"] == result["recall_at_5"]
    assert result["warm_candidates_ndcg_at_5"] == result["ndcg_at_5"]
    assert "are in training" in cold_table.shown(cold_table.divided(result)[1])


def test_unknown_candidate_is_cold_and_a_miss():
    data = Data(3, 4, pairs([1], [1]), pairs([1, 1], [0, 3]))
    model = Tables(np.ones((3, 1), "float32"), np.ones((4, 1), "float32"))
    result = metrics.evaluate(model, data, ks=(3,), cold=True)
    assert result["cold_candidates_recall_at_3"] == 0.5
    assert result["cold_among_cold_recall_at_3"] == 0.5
    assert result["num_cold_candidates"] == 2  # 2 and 3; 0 is none.


def test_model_that_never_lists_cold_candidates_misses_them():
    data, model = with_cold(seed=2)
    model.retrievable_mask = lambda: data.candidate_counts("train") > 0
    result = metrics.evaluate(model, data, ks=(10,), cold=True)
    assert result["num_users_of_cold_candidates"] > 0
    assert result["cold_candidates_recall_at_10"] == 0
    assert result["cold_among_cold_recall_at_10"] == 0
    assert result["cold_candidates_coverage_at_10"] == 0
    assert result["warm_candidates_recall_at_10"] > 0


def test_cold_must_be_a_flag():
    data, model = random_case(seed=1)
    with pytest.raises(ValueError, match="`cold` must be"):
        metrics.evaluate(model, data, cold="yes")


# ---------------------------------------------------------------------------
# Data sets and models
# ---------------------------------------------------------------------------


def shop():
    """Two kinds of users, who like two kinds of candidates; some are new.

    Users and candidates of even numbers belong together. Users 12 to 15 and
    candidates 12 to 15 are in the test part alone.
    """
    numbers = np.arange(16)
    users, candidates = np.meshgrid(numbers, numbers, indexing="ij")
    like = users % 2 == candidates % 2
    is_new = (users >= 12) | (candidates >= 12)
    kept = like & (is_new | ((users + candidates) % 8 != 6))
    users, candidates, is_new = users[kept], candidates[kept], is_new[kept]
    kinds = np.where(numbers % 2 == 0, "even", "odd")
    return kdr.RetrievalDataset(
        users[~is_new],
        candidates[~is_new],
        test=(users[is_new], candidates[is_new]),
        validation_fraction=0,
        user_features={"user_id": numbers, "kind": kinds},
        candidate_features={"item_id": numbers, "kind": kinds},
    )


def test_validation_is_no_training_and_is_seen_all_the_same():
    # In training: users 1 and 2, once each, and candidates 1 and 2.
    data = kdr.RetrievalDataset.from_batches(
        (np.array([1, 2]), np.array([1, 2])),
        validation=(np.array([1, 4]), np.array([3, 1])),
        test=(np.array([1, 2, 3, 4]), np.array([4, 3, 4, 2])),
    )
    scores = np.array([0, 1, 2, 4, 3], "float32")[:, None]
    model = Tables(np.ones((5, 1), "float32"), scores)
    result = metrics.evaluate(model, data, ks=(1,), cold=True)
    assert result["num_warm_users"] == result["num_cold_users"] == 2
    assert result["num_cold_candidates"] == 2
    # Of cold ones user 1 gets 4, having had 3; user 2 gets 3, as user 3 does.
    assert result["cold_among_cold_recall_at_1"] == 2 / 3


@pytest.fixture(scope="module")
def shop_model():
    keras.utils.set_random_seed(0)
    data = shop()
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, objective="full_softmax")
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    model.fit(data.train, epochs=15, verbose=0)
    return data, model


def test_features_find_cold_candidates_and_cold_users(shop_model):
    data, model = shop_model
    result = kdr.evaluate(model, data, ks=(2, 8), cold=True)
    assert result["num_cold_users"] == result["num_cold_candidates"] == 4
    assert result["num_warm_users"] == 12
    # Half of the cold ones are of a user's kind: two.
    assert result["cold_among_cold_recall_at_2"] == 1.0
    assert result["cold_candidates_recall_at_8"] == 1.0
    assert result["cold_users_recall_at_8"] == 1.0


def test_drawn_users_have_the_same_cold_part(shop_model):
    data, model = shop_model
    result = kdr.evaluate(model, data, ks=(2,), cold=True, max_users=10_000)
    assert result == kdr.evaluate(model, data, ks=(2,), cold=True)
    some = kdr.evaluate(model, data, ks=(2,), cold=True, max_users=5)
    assert some == kdr.evaluate(
        model, data, ks=(2,), cold=True, max_users=5, seed=0
    )
    assert some["num_cold_users"] + some["num_warm_users"] == 5
    assert some["num_cold_candidates"] == 4


def test_counts_of_users_are_those_of_their_interactions():
    data = shop()
    for part in ("train", "validation", "test"):
        rows = data.ratings(part).user_rows.tolist()
        expected = [rows.count(user) for user in range(data.num_users)]
        assert data.user_counts(part).tolist() == expected


def test_metrics_in_fit_have_the_cold_part(shop_model):
    data, model = shop_model
    callback = kdr.RetrievalMetrics(data, ks=(2,), split="test", cold=True)
    callback.set_model(model)
    callback.set_params({"epochs": 1})
    logs = {}
    callback.on_epoch_end(0, logs)
    expected = kdr.evaluate(model, data, ks=(2,), cold=True)
    assert logs == {
        f"test_{name}": value
        for name, value in expected.items()
        if not name.startswith("num_")
    }
    assert callback.get_config()["cold"] is True


def test_table_shows_each_group_beside_its_users():
    data, model = with_cold(seed=2)
    result = metrics.evaluate(model, data, ks=(5,), cold=True)
    lines = cold_table.shown(cold_table.divided(result)[1]).splitlines()
    headings = "warm users  cold users  warm candidates  cold candidates"
    assert headings in lines[1]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["users"][1] == f"{result['num_cold_users']:.0f}"
    recalls = [f"{result[f'{group}_recall_at_5']:.4f}" for group in GROUPS]
    assert rows["recall_at_5"] == recalls
    assert rows["coverage_at_5"][0] == "-"
