"""The benchmark of large catalogues: its data, its ranking and its clock."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

import bench_large_catalogue as bench
import large_data


def made_up(seed=0):
    return large_data.large_data(60, 300, 1500, held_out=0.2, seed=seed)


def test_the_seed_decides_and_every_candidate_can_be_learned():
    data, again, other = made_up(), made_up(), made_up(seed=1)
    np.testing.assert_array_equal(data.candidate_rows, again.candidate_rows)
    assert len(data.user_rows) != len(other.user_rows)
    pairs = {*zip(data.user_rows, data.candidate_rows, strict=True)}
    assert len(pairs) == len(data.user_rows)
    learned = data.candidate_rows[~data.is_held_out]
    np.testing.assert_array_equal(
        np.unique(learned), np.arange(len(data.popularity))
    )
    assert 0.1 < data.is_held_out.mean() < 0.25
    assert (np.diff(data.user_rows) >= 0).all()  # `Ranking.of` relies on it.


def test_candidates_are_drawn_in_proportion_to_their_probabilities():
    rng = np.random.default_rng(0)
    # Not a multiple of the block, whose last one is shorter.
    candidates = large_data._unit(rng, (150, large_data.NUM_TASTES))
    popularity = rng.random(150).astype("float32")
    user = 2 * large_data._unit(rng, (1, large_data.NUM_TASTES))
    weights = large_data._weights(user, candidates, popularity)
    firsts = np.arange(0, 150, large_data.BLOCK)
    steps = np.cumsum(np.add.reduceat(weights, firsts, axis=1), axis=1)
    found = large_data._draws(
        rng, weights[0], steps[0], np.cumsum(popularity), 20_000
    )
    nothing = np.zeros(0, "int32")
    truth = large_data.LargeData(
        nothing, nothing, nothing, user, candidates, popularity
    )
    (expected,) = truth.probabilities([0])
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    errors = np.bincount(found, minlength=150) / 2e4 - expected
    # The largest of 150 z-scores.
    assert np.abs(errors / np.sqrt(expected / 2e4)).max() < 4.5


def test_ranks_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, 40).astype("float32")  # Many ties.
    order = np.argsort(-scores, kind="stable")
    expected = np.argsort(order)
    np.testing.assert_array_equal(
        bench.ranks_of(scores, np.arange(40)), expected
    )
    scores[3] = np.nan
    with pytest.raises(AssertionError, match="no finite numbers"):
        bench.ranks_of(scores, [0])


def test_what_was_seen_is_left_out_and_the_best_list_is_worth_1():
    data = made_up()
    ranking = bench.Ranking.of(data, 20)
    wanted = np.zeros((60, len(data.popularity)), "float32")
    wanted[data.user_rows, data.candidate_rows] = 2.0
    held = data.is_held_out
    wanted[data.user_rows[held], data.candidate_rows[held]] = 1.0
    worth = ranking.worth(lambda users: wanted[users], chunk_size=7)
    assert worth["recall_at_20"] == 1.0
    assert worth["by_user"] == pytest.approx([1.0] * 20)
    worst = ranking.worth(lambda users: -wanted[users])
    assert worst["ndcg_at_20"] == 0.0


def test_ranking_takes_none_of_the_time_that_methods_have():
    now = [0.0]

    def measure(scores):
        now[0] += 1000
        return {"scores": scores}

    budget = bench.Budget(100, measure, clock=lambda: now[0])
    for _ in range(12):
        now[0] += 10
        if budget.measure_if_due(lambda: now[0] % 1000):
            break
    assert [point["cpu_seconds"] for point in budget.points] == [30, 50, 100]
    assert [point["scores"] for point in budget.points] == [30, 50, 100]


def test_a_slow_step_that_passes_several_points_is_measured_once():
    now, measured = [0.0], []
    budget = bench.Budget(
        100, lambda _: measured.append(1) or {}, clock=lambda: now[0]
    )
    now[0] = 120.0
    assert budget.measure_if_due(lambda: None)
    assert len(measured) == 1
    assert [point["cpu_seconds"] for point in budget.points] == [120] * 3


@pytest.mark.slow
def test_a_small_one_runs_and_everybody_beats_popularity():
    methods = ["full softmax, chunks", "in-batch", "buckets (SCE)", "iALS"]
    sizes = ["--users", "300", "--candidates", "600", "--rows", "12000"]
    done = subprocess.run(
        [
            *(sys.executable, bench.__file__),
            *(*sizes, "--seconds", "10", "--num-evaluated", "200"),
            *("--methods", *methods),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| NDCG@10 after | 25% of the time |" in done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    least = found["bounds"]["popularity"]["ndcg_at_10"]
    assert list(found["runs"]) == methods
    for run in found["runs"].values():
        assert run["points"][-1]["ndcg_at_10"] > 1.2 * least
        assert run["peak_gib"] > 0.1
    assert found["bounds"]["the truth"]["ndcg_at_10"] > 2 * least
