"""The metrics by hand, against a slow plain oracle, and in bounded memory."""

import dataclasses
import math
import os
import pathlib
import socket
import subprocess
import sys
import types
import warnings

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st

from keras_dp_retrieval import metrics
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.movielens import MovieLensRetrievalDataset
from keras_dp_retrieval.data.padding import pad_lists
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.metrics import ranker
from keras_dp_retrieval.metrics.protocol import check_shapes
from keras_dp_retrieval.warning_categories import TrainingWarning

# ---------------------------------------------------------------------------
# Stand-ins: all that `evaluate` needs of a data set and a model
# ---------------------------------------------------------------------------


class Data:
    """`train` is seen before the split `test`; row 0 is no candidate."""

    def __init__(self, num_users, num_candidates, train, test):
        self.num_users, self.num_candidates = num_users, num_candidates
        self.parts = {"train": train, "test": test}
        self.candidate_vocabulary = Vocabulary(np.arange(1, num_candidates))

    def candidate_counts(self, split):
        rows = self.ratings(split).candidate_rows
        return np.bincount(rows, minlength=self.num_candidates)

    def ratings(self, split):
        return self.parts[split]

    def seen_before(self, split):
        assert split == "test"
        return Interactions.from_ratings(self.parts["train"], self.num_users)


@dataclasses.dataclass
class Tables:
    users: np.ndarray
    candidates: np.ndarray

    def user_vectors(self, user_rows):
        return keras.ops.convert_to_tensor(self.users)[np.asarray(user_rows)]

    def candidate_vectors(self):
        return keras.ops.convert_to_tensor(self.candidates)


def pairs(users, candidates):
    return Ratings(np.array(users, "int32"), np.array(candidates, "int32"))


def random_pairs(rng, num_users, num_candidates, num):
    return pairs(
        rng.integers(1, num_users, num), rng.integers(1, num_candidates, num)
    )


def random_case(seed, num_users=40, num_candidates=50, dim=4, values=None):
    """A data set and a model; small whole `values` make many ties."""
    rng = np.random.default_rng(seed)
    data = Data(
        num_users,
        num_candidates,
        random_pairs(rng, num_users, num_candidates, num_users * 6),
        random_pairs(rng, num_users, num_candidates, num_users * 3),
    )
    shapes = (num_users, dim), (num_candidates, dim)
    if values:
        tables = [rng.integers(-values, values + 1, shape) for shape in shapes]
    else:
        tables = [rng.normal(size=shape) for shape in shapes]
    return data, Tables(*[table.astype("float32") for table in tables])


# ---------------------------------------------------------------------------
# The oracle: one user at a time, sets and sorts, nothing shared with the code
# ---------------------------------------------------------------------------


def oracle_lists(model, data, split):
    train, test = data.seen_before(split), data.ratings(split)
    lists, held_outs = {}, {}
    for user in sorted(set(test.user_rows.tolist())):
        held_outs[user] = set(
            test.candidate_rows[test.user_rows == user].tolist()
        )
        had = set(train.of(np.array([user]))[0].tolist())
        scores = model.candidates @ model.users[user]
        order = np.argsort(-scores, kind="stable").tolist()
        real = range(1, len(data.candidate_vocabulary.ids) + 1)
        lists[user] = [row for row in order if row in real and row not in had]
    return lists, held_outs


def oracle(model, data, ks, split="test"):
    lists, held_outs = oracle_lists(model, data, split)
    last = len(data.candidate_vocabulary.ids)
    counts = data.candidate_counts("train")[1 : last + 1]
    percentile = [
        np.mean((counts < own) + 0.5 * (counts == own)) for own in counts
    ]
    result = {"num_users": float(len(lists))}
    for k in ks:
        rows = []
        shown, percentiles = set(), []
        for user, ranked in lists.items():
            top, held_out = ranked[:k], held_outs[user]
            ranks = [r for r, row in enumerate(top, 1) if row in held_out]
            ideal = range(1, min(k, len(held_out)) + 1)
            rows.append(
                [
                    len(ranks) / len(held_out),
                    sum(1 / math.log2(r + 1) for r in ranks)
                    / sum(1 / math.log2(r + 1) for r in ideal),
                    1 / ranks[0] if ranks else 0.0,
                    1.0 if ranks else 0.0,
                    len(ranks) / k,
                ]
            )
            shown |= set(top)
            percentiles += [percentile[row - 1] for row in top]
        names = ["recall", "ndcg", "mrr", "hit_rate", "precision"]
        for name, value in zip(names, np.mean(rows, axis=0), strict=True):
            result[f"{name}_at_{k}"] = value
        result[f"coverage_at_{k}"] = len(shown) / len(counts)
        result[f"popularity_percentile_at_{k}"] = (
            np.mean(percentiles) if percentiles else math.nan
        )
    return result


def assert_same(actual, expected, tolerance=1e-9):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], value, atol=tolerance, rtol=0, err_msg=name
        )


# ---------------------------------------------------------------------------
# Hand values
# ---------------------------------------------------------------------------

# Held out: three candidates; found at ranks 2 and 4 of a list of five.
HITS = np.array([[False, True, False, True, False]])
NUM_HELD_OUT = np.array([3])


def test_recall_divides_by_the_held_out_candidates():
    assert metrics.recall_at_k(HITS, NUM_HELD_OUT, 5) == [2 / 3]
    assert metrics.recall_at_k(HITS, NUM_HELD_OUT, 2) == [1 / 3]
    assert metrics.recall_at_k(HITS, NUM_HELD_OUT, 1) == [0.0]


def test_precision_divides_by_k_also_beyond_the_list():
    assert metrics.precision_at_k(HITS, 4) == [2 / 4]
    assert metrics.precision_at_k(HITS, 50) == [2 / 50]


def test_hit_rate_asks_for_one_hit():
    assert metrics.hit_rate_at_k(HITS, 1) == [0.0]
    assert metrics.hit_rate_at_k(HITS, 5) == [1.0]


def test_mrr_is_one_over_the_rank_of_the_first_hit():
    assert metrics.mrr_at_k(HITS, 1) == [0.0]
    assert metrics.mrr_at_k(HITS, 5) == [1 / 2]


def test_ndcg_is_relative_to_an_ideal_that_is_cut_at_k():
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    ideal_5 = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    ideal_2 = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(
        metrics.ndcg_at_k(HITS, NUM_HELD_OUT, 5), gain / ideal_5
    )
    np.testing.assert_allclose(
        metrics.ndcg_at_k(HITS, NUM_HELD_OUT, 2), 1 / math.log2(3) / ideal_2
    )
    # The list ends at 5: the ranks after it are misses.
    np.testing.assert_allclose(
        metrics.ndcg_at_k(HITS, NUM_HELD_OUT, 50), gain / ideal_5
    )


def test_each_user_has_a_number():
    hits = np.array([[False, True], [False, False]])
    num_held_out = np.array([1, 2])
    found = [
        metrics.recall_at_k(hits, num_held_out, 2),
        metrics.precision_at_k(hits, 2),
        metrics.hit_rate_at_k(hits, 2),
        metrics.mrr_at_k(hits, 2),
        metrics.ndcg_at_k(hits, num_held_out, 2),
    ]
    second_rank = 1 / math.log2(3)
    expected = [[1, 0], [0.5, 0], [1, 0], [0.5, 0], [second_rank, 0]]
    np.testing.assert_allclose(found, expected)


def test_perfect_list_of_one_hit_is_perfect_however_much_was_held_out():
    hits, num_held_out = np.array([[True]]), np.array([100])
    assert metrics.ndcg_at_k(hits, num_held_out, 1) == [1.0]
    assert metrics.mrr_at_k(hits, 1) == [1.0]
    assert metrics.precision_at_k(hits, 1) == [1.0]


def test_equal_counts_share_the_middle_of_their_ranks():
    np.testing.assert_allclose(
        metrics.popularity_percentiles([5, 0, 0, 9]), [0.625, 0.25, 0.25, 0.875]
    )
    np.testing.assert_array_equal(metrics.popularity_percentiles([7]), [0.5])


def test_mean_percentile_of_all_candidates_is_a_half():
    counts = np.random.default_rng(0).integers(0, 4, 101)
    percentiles = metrics.popularity_percentiles(counts)
    assert percentiles.mean() == pytest.approx(0.5)


def test_evaluate_by_hand():
    # Candidates 1..4. User 1 had 4 and holds out 1 and 3; user 2 had nothing
    # and holds out 3; user 3 has nothing held out and does not count.
    data = Data(4, 5, pairs([1, 3, 3], [4, 4, 2]), pairs([1, 1, 2], [1, 3, 3]))
    # By score: user 1 gets 4 (had), 3 (hit), 2; user 2 gets 1, 2.
    model = Tables(
        users=np.array([[0, 0], [1, 0], [0, 1], [1, 1]], "float32"),
        candidates=np.array(
            [[9, 9], [1, 4], [2, 3], [3, 2], [4, 1]], "float32"
        ),
    )
    # Counts 0, 1, 0, 2 of candidates 1..4: percentiles 1/4, 5/8, 1/4, 7/8.
    expected = {
        "recall_at_2": 0.25,
        "ndcg_at_2": 0.5 / (1 + 1 / math.log2(3)),
        "mrr_at_2": 0.5,
        "hit_rate_at_2": 0.5,
        "precision_at_2": 0.25,
        "coverage_at_2": 3 / 4,
        "popularity_percentile_at_2": (0.25 + 0.625 + 0.25 + 0.625) / 4,
        "num_users": 2.0,
    }
    assert_same(metrics.evaluate(model, data, ks=(2,)), expected)
    assert_same(oracle(model, data, (2,)), expected)
    task = metrics.RankingTask.prepare(data, "test", (2,))
    of_users = dict(
        zip(task.user_rows, task.ndcg_of_users(model, 2), strict=True)
    )
    best = expected["ndcg_at_2"] * 2  # One user finds one of two, one none.
    assert sorted(of_users.values()) == [0, pytest.approx(best)]


# ---------------------------------------------------------------------------
# Against the oracle
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, 1, 3])
@pytest.mark.parametrize("chunks", [(7, 5), (16, 50), (1000, 1000), (1, 1)])
def test_equals_the_oracle_in_chunks_of_any_size(values, chunks):
    data, model = random_case(seed=1, values=values)
    actual = metrics.evaluate(
        model,
        data,
        ks=(1, 5, 20),
        user_chunk_size=chunks[0],
        candidate_chunk_size=chunks[1],
    )
    assert_same(actual, oracle(model, data, (1, 5, 20)))


@st.composite
def cases(draw):
    """Few shapes, so that few programs are compiled; anything inside them."""
    num_users, num_candidates = 6, draw(st.sampled_from([2, 9]))
    one = st.tuples(
        st.integers(1, num_users - 1), st.integers(1, num_candidates - 1)
    )
    train = draw(st.lists(one, max_size=60))
    test = draw(st.lists(one, min_size=1, max_size=20))
    greedy = draw(st.booleans())  # User 1 has had everything.
    train += [(1, row) for row in range(1, num_candidates) if greedy]
    tables = [
        draw(st.lists(st.integers(-1, 1), min_size=2 * size, max_size=2 * size))
        for size in (num_users, num_candidates)
    ]
    data = Data(
        num_users,
        num_candidates,
        pairs([u for u, _ in train], [c for _, c in train]),
        pairs([u for u, _ in test], [c for _, c in test]),
    )
    return data, Tables(
        *[np.array(table, "float32").reshape(-1, 2) for table in tables]
    )


@hypothesis.given(cases())
@hypothesis.settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_equals_the_oracle_on_awkward_data(case):
    data, model = case
    actual = metrics.evaluate(
        model, data, ks=(1, 3, 30), user_chunk_size=2, candidate_chunk_size=4
    )
    assert_same(actual, oracle(model, data, (1, 3, 30)))


def test_user_who_has_seen_everything_counts_and_gets_nothing():
    data = Data(3, 3, pairs([1, 1, 2], [1, 2, 1]), pairs([1, 1, 2], [1, 2, 2]))
    model = Tables(np.ones((3, 1), "float32"), np.ones((3, 1), "float32"))
    result = metrics.evaluate(model, data, ks=(2,))
    assert result["num_users"] == 2.0
    assert result["recall_at_2"] == 0.5  # User 2 finds the one that is left.
    assert result["coverage_at_2"] == 0.5


def test_held_out_candidate_that_the_user_had_stays_in_the_denominator():
    data = Data(2, 4, pairs([1], [1]), pairs([1, 1], [1, 2]))
    model = Tables(np.ones((2, 1), "float32"), np.ones((4, 1), "float32"))
    assert metrics.evaluate(model, data, ks=(3,))["recall_at_3"] == 0.5


def test_rating_twice_counts_once():
    once = Data(2, 4, pairs([1], [1]), pairs([1, 1], [2, 3]))
    twice = Data(2, 4, pairs([1], [1]), pairs([1, 1, 1], [2, 2, 3]))
    model = Tables(np.ones((2, 1), "float32"), np.ones((4, 1), "float32"))
    assert_same(
        metrics.evaluate(model, twice, ks=(1, 3)),
        metrics.evaluate(model, once, ks=(1, 3)),
    )


def test_rows_without_an_id_are_never_recommended():
    # Row 0 and the padding rows 3 and 4 score best.
    data = Data(2, 5, pairs([1], [1]), pairs([1], [2]))
    data.candidate_vocabulary = Vocabulary(np.array([10, 20]))
    model = Tables(
        np.ones((2, 1), "float32"),
        np.array([[9], [1], [0], [8], [8], [9]], "float32"),
    )
    result = metrics.evaluate(model, data, ks=(1, 5))
    assert result["recall_at_1"] == 1.0
    assert result["coverage_at_5"] == 0.5


def test_without_a_vocabulary_every_row_is_a_candidate():
    data = Data(2, 3, pairs([1], [1]), pairs([1], [0]))
    data.candidate_vocabulary = None
    model = Tables(np.ones((2, 1), "float32"), np.ones((3, 1), "float32"))
    result = metrics.evaluate(model, data, ks=(1, 2))
    assert result["recall_at_1"] == 1.0
    assert result["coverage_at_2"] == 2 / 3
    del data.candidate_vocabulary
    assert metrics.evaluate(model, data, ks=(1, 2)) == result


def test_coverage_of_one_candidate():
    data = Data(2, 2, pairs([], []), pairs([1], [1]))
    model = Tables(np.ones((2, 1), "float32"), np.ones((2, 1), "float32"))
    assert metrics.evaluate(model, data, ks=(1,))["coverage_at_1"] == 1.0


def test_a_model_that_needs_histories_is_given_what_each_user_had():
    asked = []

    class WithHistories(Tables):
        needs_histories = True

        def user_vectors(self, inputs):
            asked.append(inputs)
            return super().user_vectors(inputs["user_id"])

    data, tables = random_case(seed=7)
    data.max_history = 5
    model = WithHistories(tables.users, tables.candidates)
    actual = metrics.evaluate(model, data, ks=(5,), user_chunk_size=16)
    assert_same(actual, oracle(tables, data, (5,)))
    assert len(asked) > 1
    for inputs in asked:
        users, history = inputs["user_id"], inputs["history"]
        # The width is a power of two, and the rest of it padding.
        assert history.shape == (len(users), 8)
        had = data.seen_before("test").padded(users, 5)
        np.testing.assert_array_equal(history[:, :5], had)
        np.testing.assert_array_equal(history[:, 5:], -1)


def test_diverged_model_is_refused():
    data, model = random_case(seed=0)
    model.users[:] = np.nan
    with pytest.raises(ValueError, match="user vectors must be finite"):
        metrics.evaluate(model, data, ks=(5,))


def test_results_are_plain_floats_under_readable_names():
    data, model = random_case(seed=0)
    result = metrics.evaluate(model, data)
    assert all(type(value) is float for value in result.values())
    assert list(result)[:2] == ["recall_at_10", "ndcg_at_10"]
    assert len(result) == 2 * 7 + 1


# ---------------------------------------------------------------------------
# Devices and memory
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_users", [2, 38])
def test_any_number_of_devices_gives_the_same_result(on_devices, num_users):
    data, model = random_case(seed=3, num_users=num_users, values=2)
    expected = oracle(model, data, (1, 10))
    for num_devices in (1, 2, 4, 8):
        on_devices(num_devices)
        actual = metrics.evaluate(
            model, data, ks=(1, 10), user_chunk_size=20, candidate_chunk_size=16
        )
        assert_same(actual, expected)
        task = metrics.RankingTask.prepare(
            data, "test", (1, 10), user_chunk_size=20
        )
        of_users = task.ndcg_of_users(model, 10)
        assert of_users.shape == task.user_rows.shape
        assert of_users.mean() == pytest.approx(expected["ndcg_at_10"])


def test_users_are_ranked_on_the_devices_of_the_distribution(
    on_devices, monkeypatch
):
    import jax

    from keras_dp_retrieval._jax import ranking

    shard_rows, devices = ranking.shard_rows, []

    def spy(array, mesh):
        devices.append(mesh.devices.tolist())
        return shard_rows(array, mesh)

    monkeypatch.setattr(ranking, "shard_rows", spy)
    data, model = random_case(seed=6)
    metrics.evaluate(model, data, ks=(3,))
    on_devices(4)
    metrics.evaluate(model, data, ks=(3,))
    assert devices[0] == jax.devices()[:1]
    assert devices[-1] == jax.devices()[:4]


def test_each_device_ranks_its_own_users(on_devices):
    from keras_dp_retrieval._jax import ranking
    from keras_dp_retrieval._jax.replication import replicate

    strategy = on_devices(4)
    mesh = ranking.local_mesh(strategy.device_mesh)
    seen_shapes = []

    def rank(users, candidates, excluded, allowed, k, chunk_size):
        seen_shapes.append((users.shape, candidates.shape, excluded.shape))
        return users[:, :k]

    program = ranking.compiled_ranker(rank, mesh, 3, 5)
    ranked = program(
        ranking.shard_rows(np.ones((8, 6), "float32"), mesh),
        replicate(np.ones((10, 6), "float32"), mesh),
        ranking.shard_rows(np.ones((8, 2), "int32"), mesh),
        replicate(np.ones(10, bool), mesh),
    )
    assert seen_shapes == [((2, 6), (10, 6), (2, 2))]
    assert len(ranked.addressable_shards) == 4


ONE_OF_TWO_PROCESSES = """
import sys

import jax

index, port = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))

import keras
import test_metrics

keras.distribution.set_distribution(
    keras.distribution.DataParallel(auto_shard_dataset=False)
)
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 2
data, tables = test_metrics.random_case(seed=3, num_users=38, values=2)
model = test_metrics.Tables(
    keras.Variable(tables.users).value, keras.Variable(tables.candidates).value
)
assert not model.candidates.is_fully_addressable
expected = test_metrics.oracle(tables, data, (1, 10))
# 37 users in chunks of 12: the last chunk leaves the second process none.
actual = test_metrics.metrics.evaluate(
    model, data, ks=(1, 10), user_chunk_size=12, candidate_chunk_size=16
)
test_metrics.assert_same(actual, expected, tolerance=1e-12)
task = test_metrics.metrics.RankingTask.prepare(
    data, "test", (1, 10), user_chunk_size=12
)
of_users = task.ndcg_of_users(model, 10)
assert abs(of_users.mean() - expected["ndcg_at_10"]) < 1e-12
# A model whose user vectors lie divided over the devices of both processes.
sharding = jax.NamedSharding(
    keras.distribution.distribution().device_mesh.backend_mesh,
    jax.P("batch"),
)
model.user_vectors = lambda rows: jax.device_put(tables.users[rows], sharding)
assert not model.user_vectors(range(12)).is_fully_replicated
again = test_metrics.metrics.evaluate(
    model, data, ks=(1, 10), user_chunk_size=12
)
test_metrics.assert_same(again, expected, tolerance=1e-12)
from tests import test_cold_metrics

data, tables = test_cold_metrics.with_cold(seed=3, values=2)
cold = test_metrics.metrics.evaluate(
    tables, data, ks=(1, 10), cold=True, user_chunk_size=12
)
expected = test_cold_metrics.cold_oracle(tables, data, (1, 10))
test_metrics.assert_same(cold, expected, tolerance=1e-12)
print("same")
"""


@pytest.mark.slow
def test_two_processes_share_the_users_and_agree():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    tests = pathlib.Path(__file__).resolve().parent
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + " --xla_force_host_platform_device_count=2",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO_PROCESSES, str(index), port],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            out, error = process.communicate(timeout=150)
            assert out.strip().endswith("same"), error[-3000:]
    finally:
        for process in processes:
            process.kill()


def test_chunks_cover_every_user_once_and_keep_to_their_room():
    data, _ = random_case(seed=5, num_users=100, num_candidates=200)
    data.parts["train"] = pairs(
        np.concatenate([np.full(199, 7), data.parts["train"].user_rows]),
        np.concatenate([np.arange(1, 200), data.parts["train"].candidate_rows]),
    )
    task = metrics.RankingTask.prepare(
        data, "test", (5,), user_chunk_size=16, candidate_chunk_size=32
    )
    chunks = list(task.chunks(4))
    covered = [user for chunk, _, _ in chunks for user in task.user_rows[chunk]]
    assert sorted(covered) == sorted(set(data.parts["test"].user_rows))
    for chunk, num_rows, width in chunks:
        longest = max(map(len, task.seen.of(task.user_rows[chunk])))
        assert longest <= width
        assert num_rows % 4 == 0
        # Four devices cannot rank fewer than four users.
        assert num_rows == 4 or num_rows * width <= 16 * 32
    # User 7 comes first, among few; a few shapes serve all.
    assert chunks[0][1:] == (4, 256)
    assert len({chunk[1:] for chunk in chunks}) <= 3


def test_a_few_users_more_are_ranked_by_the_same_program():
    def num_rows(num_users):
        data, _ = random_case(seed=5, num_users=num_users, num_candidates=50)
        data.parts["test"] = pairs(
            np.arange(1, num_users), np.ones(num_users - 1, int)
        )
        task = metrics.RankingTask.prepare(data, "test", (5,))
        return [size for _, size, _ in task.chunks(1)]

    assert num_rows(571) == num_rows(577) == [576]


def test_evaluate_scores_a_chunk_of_users_and_candidates(monkeypatch):
    best_of_rows, asked = ranker.chunks.best_of_rows, []

    def spy(users, candidates, excluded, allowed, *, chunk_size, **options):
        asked.append((users.shape[0], excluded.shape, chunk_size))
        return best_of_rows(
            users,
            candidates,
            excluded,
            allowed,
            chunk_size=chunk_size,
            **options,
        )

    monkeypatch.setattr(ranker.chunks, "best_of_rows", spy)
    data, model = random_case(seed=6)
    # Sizes no other test has: the program is compiled here, with the spy.
    metrics.evaluate(
        model, data, ks=(3,), user_chunk_size=11, candidate_chunk_size=13
    )
    # Eleven lists of 16 seen candidates take more room than 11 x 13 scores.
    assert asked == [(8, (8, 16), 13)]


def test_backends_without_devices_get_the_same_lists(monkeypatch):
    """JAX shards the users; the others rank all of them by `keras.ops`."""
    data, model = random_case(seed=7, num_users=16)
    users = np.arange(16)
    seen = data.seen_before("test").of(users)
    excluded = pad_lists(seen, max(map(len, seen)))
    rng = np.random.default_rng(0)
    allowed, among = rng.random((2, 50)) < [[0.8], [0.3]]

    def lists():
        rank = ranker.make_ranker(
            model.user_vectors,
            model.candidate_vectors(),
            allowed,
            num_candidates=50,
            k=7,
            chunk_size=13,
            among=among,
        )
        return rank(users, excluded)

    sharded = lists()
    monkeypatch.setattr(ranker.keras.backend, "backend", lambda: "torch")
    whole = lists()
    assert [found.shape for found in whole] == [(16, 7), (16, 7)]
    for found, expected in zip(whole, sharded, strict=True):
        np.testing.assert_array_equal(found, expected)
    for table, kind in [(model.candidates, "candidate"), (model.users, "user")]:
        table[np.flatnonzero(allowed)[0]] = np.nan
        with pytest.raises(ValueError, match=f"{kind} vectors"):
            lists()
        table[np.flatnonzero(allowed)[0]] = 0.0
    model.candidates[np.flatnonzero(~allowed)[0]] = np.nan
    lists()


def largest_intermediate(jaxpr):
    """Numbers in the largest array any equation makes, inner ones included."""
    from jax.extend import core

    largest = 0
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = value if isinstance(value, (list, tuple)) else [value]
            for item in inner:
                if isinstance(item, core.ClosedJaxpr):
                    item = item.jaxpr
                if isinstance(item, core.Jaxpr):
                    largest = max(largest, largest_intermediate(item))
        sizes = [
            math.prod(variable.aval.shape) for variable in equation.outvars
        ]
        largest = max(largest, *sizes, 0)
    return largest


def ranking_program(num_users, num_candidates, chunk_size, dim=4):
    import jax

    from keras_dp_retrieval._jax import ranking

    program = ranking.compiled_ranker(
        ranker.best_rows, ranking.local_mesh(), 10, chunk_size
    )
    return program.trace(
        jax.ShapeDtypeStruct((num_users, dim), "float32"),
        jax.ShapeDtypeStruct((num_candidates, dim), "float32"),
        jax.ShapeDtypeStruct((num_users, 16), "int32"),
        jax.ShapeDtypeStruct((num_candidates,), "bool"),
    )


def test_no_intermediate_is_larger_than_users_times_candidates_in_a_chunk():
    num_users, num_candidates, chunk_size, dim = 64, 10_007, 512, 4
    traced = ranking_program(num_users, num_candidates, chunk_size, dim)
    # The vectors themselves may be copied to pad them to whole chunks.
    table = (num_candidates + chunk_size) * dim
    bound = max(num_users * (chunk_size + 2 * 16), table)
    assert largest_intermediate(traced.jaxpr.jaxpr) <= bound
    assert bound < num_users * num_candidates / 8  # Else it proves nothing.


@pytest.mark.usefixtures("no_compilation_cache")
def test_compiled_memory_does_not_grow_with_users_times_catalogue(
    compiler_options,
):
    def temporary_bytes(num_candidates):
        lowered = ranking_program(64, num_candidates, 512).lower()
        program = lowered.compile(compiler_options)
        return program.memory_analysis().temp_size_in_bytes

    chunk_bytes = 64 * 512 * 4
    small, large = temporary_bytes(4_096), temporary_bytes(65_536)
    table_bytes = 65_536 * 4 * 4
    assert large <= small + 2 * table_bytes
    assert large <= 8 * chunk_bytes + 2 * table_bytes
    assert large < 64 * 65_536 * 4 / 4


# ---------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------


def test_split_without_ratings_is_named():
    data, model = random_case(seed=0)
    data.parts["test"] = pairs([], [])
    with pytest.raises(ValueError, match="no ratings in its 'test' part"):
        metrics.evaluate(model, data)


def test_model_with_too_few_candidates_is_told_both_numbers():
    data, model = random_case(seed=0)
    model.candidates = model.candidates[:10]
    with pytest.raises(ValueError, match="10 candidate vectors for 50 rows"):
        metrics.evaluate(model, data)


def test_vectors_of_other_than_two_axes_are_refused():
    two, three = np.zeros((4, 3)), np.zeros((4, 3, 1))
    for users, candidates in ((two, three), (three, two)):
        with pytest.raises(ValueError, match="with the same dim"):
            check_shapes(users, candidates, 4)
    check_shapes(two, two, 4)


@pytest.mark.parametrize("ks", [(), 10, "10", (0,), (1.5,)])
def test_ks_must_be_lengths(ks):
    data, model = random_case(seed=0)
    with pytest.raises(ValueError, match="`ks` must be"):
        metrics.evaluate(model, data, ks=ks)


@pytest.mark.parametrize("name", ["user_chunk_size", "candidate_chunk_size"])
def test_sizes_of_chunks_are_checked(name):
    data, model = random_case(seed=0)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        metrics.evaluate(model, data, **{name: 0})


def test_what_an_evaluation_misses_of_its_data_is_named():
    _, model = random_case(seed=0)
    missing = "ratings, seen_before, num_candidates, candidate_counts"
    with pytest.raises(TypeError, match=f"Received: a dict without {missing}"):
        metrics.evaluate(model, {}, ks=(5,))
    data = types.SimpleNamespace(ratings=None, num_candidates=3)
    missing = "a SimpleNamespace without seen_before, candidate_counts"
    with pytest.raises(TypeError, match=missing):
        metrics.evaluate(model, data, ks=(5,))


# ---------------------------------------------------------------------------
# MovieLens
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def movielens(data_dir):
    return MovieLensRetrievalDataset(
        "100k", source="files", data_dir=data_dir / "ml-100k"
    )


@pytest.mark.realdata
def test_equals_the_oracle_on_movielens(movielens, on_devices):
    rng = np.random.default_rng(1)
    model = Tables(
        rng.normal(size=(944, 16)).astype("float32"),
        rng.normal(size=(1683, 16)).astype("float32"),
    )
    expected = oracle(model, movielens, (10, 20))
    for num_devices in (1, 8):
        on_devices(num_devices)
        actual = metrics.evaluate(model, movielens, candidate_chunk_size=500)
        assert_same(actual, expected)


@pytest.mark.realdata
def test_most_popular_movies_are_far_better_than_chance(movielens):
    counts = movielens.candidate_counts("train").astype("float32")
    model = Tables(np.ones((944, 1), "float32"), counts[:, None])
    actual = metrics.evaluate(model, movielens)
    assert_same(actual, oracle(model, movielens, (10, 20)))
    # Published figures of popularity on random 80/20 splits lie about there.
    assert 0.08 < actual["recall_at_10"] < 0.16
    assert actual["popularity_percentile_at_10"] > 0.95
    assert actual["coverage_at_10"] < 0.1


# ---------------------------------------------------------------------------
# The alarm
# ---------------------------------------------------------------------------


def test_chance_level_is_the_loss_of_equal_scores():
    logits = np.zeros((1, 8192), "float32")
    loss = keras.losses.sparse_categorical_crossentropy(
        np.array([5]), logits, from_logits=True
    )
    assert metrics.chance_level(8192) == pytest.approx(float(loss[0]), 1e-5)


@pytest.mark.parametrize("loss", [9.0109, 9.0107, 8.93, 9.09])
def test_alarm_near_chance_says_what_to_change(loss):
    says = r"ln\(8192\) = 9\.0109.*temperature"
    with pytest.warns(TrainingWarning, match=says):
        assert metrics.warn_if_at_chance(loss, 8192, epoch=2)


def test_alarm_among_two_and_at_chance_to_the_last_digit():
    with pytest.warns(TrainingWarning, match="within 0%"):
        assert metrics.warn_if_at_chance(math.log(2), 2, 5, tolerance=0.0)


@pytest.mark.parametrize(
    ("loss", "num_competitors", "epoch"),
    [
        (9.0109, 8192, 0),  # Too early to tell.
        (9.0109, 8192, 1),
        (8.9, 8192, 5),  # Learning.
        (12.0, 8192, 5),  # Worse than chance: something else is wrong.
        (math.nan, 8192, 5),
        (0.0, 1, 5),  # Nobody to compete with.
    ],
)
def test_alarm_is_silent_otherwise(loss, num_competitors, epoch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not metrics.warn_if_at_chance(loss, num_competitors, epoch)


def test_alarm_looks_at_the_loss_of_epochs_behind_the_first_two():
    alarm = metrics.ChanceAlarm(lambda: 8192)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alarm.on_epoch_end(1, {"loss": 9.0109})
        alarm.on_epoch_end(2, {"loss": 8.0})
        alarm.on_epoch_end(2, {})
        alarm.on_epoch_end(2)
        metrics.ChanceAlarm(lambda: None).on_epoch_end(2, {"loss": 9.0109})
    with pytest.warns(TrainingWarning, match="the loss of guessing"):
        alarm.on_epoch_end(2, {"loss": 9.0109})


def test_alarm_is_shown_once_in_a_run():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for epoch, loss in enumerate([9.02, 9.01, 9.009, 9.008, 9.007]):
            metrics.warn_if_at_chance(loss, 8192, epoch)
    assert len(shown) == 1
