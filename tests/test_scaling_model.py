"""What devices exchange, read off compiled programs, against a hand count."""

import pathlib
import sys

import keras
import pytest

import keras_dp_retrieval as kdr

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

import collectives
import scaling_model

BATCH, ROWS, DIM = 64, 50, 16
FLOAT = 4


def step_on(num_devices, objective, updates):
    model = collectives.built_model(objective, ROWS, DIM, updates)
    kdr.data_parallel(keras.distribution.list_devices()[:num_devices])
    found = collectives.in_program(collectives.training_step(model, BATCH))
    # What has one number an example, or one in all, is not counted by hand.
    return [c for c in found if c.num_bytes > 4 * BATCH]


@pytest.mark.parametrize(
    ("objective", "updates", "gathered", "summed"),
    [
        # The gradients of both towers' rows, to every device.
        ("rating", "row_sparse", 2 * BATCH, 0),
        # Those of the whole tables, summed.
        pytest.param("rating", "dense", 0, 2 * ROWS, marks=pytest.mark.slow),
        ("full_softmax", "dense", 0, 2 * ROWS),
        # Also the vectors of all candidates of the batch, and their gradients.
        ("in_batch_softmax", "row_sparse", 3 * BATCH, BATCH),
        pytest.param(
            "in_batch_softmax",
            "dense",
            BATCH,
            BATCH + 2 * ROWS,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_step_exchanges_the_bytes_that_one_counts_by_hand(
    objective, updates, gathered, summed
):
    found = step_on(8, objective, updates)
    by_kind = {
        kind: sum(c.num_bytes for c in found if c.kind == kind)
        for kind in {c.kind for c in found} | {"all-gather", "all-reduce"}
    }
    assert by_kind == {
        "all-gather": gathered * DIM * FLOAT,
        "all-reduce": summed * DIM * FLOAT,
    }


def test_fused_steps_exchange_what_all_devices_count_in_one_go():
    model = collectives.built_model("rating", ROWS, DIM, "dense")
    kdr.data_parallel(keras.distribution.list_devices()[:2])
    found = collectives.in_program(collectives.training_step(model, BATCH, 5))
    gathered = [c.num_bytes for c in found if c.kind == "all-gather"]
    # Of users' batches: candidates, ratings and weights. None in the steps.
    assert gathered == [BATCH * 5 * FLOAT] * 3


def test_two_devices_are_given_results_of_the_size_that_eight_are():
    assert sorted(map(str, step_on(2, "rating", "row_sparse"))) == sorted(
        map(str, step_on(8, "rating", "row_sparse"))
    )


def test_an_evaluation_exchanges_nothing():
    kdr.data_parallel()
    assert collectives.in_program(collectives.evaluation(64, 1000, 16)) == []


def test_a_search_exchanges_the_best_k_of_each_device():
    kdr.data_parallel()
    found = collectives.in_program(collectives.search(64, 1024, 16, k=5))
    assert sum(c.num_bytes for c in found) == 8 * 64 * 5 * (4 + 4)


def test_an_exchange_takes_latency_and_the_bytes_of_a_ring():
    link = scaling_model.Link(bytes_per_second=1e6, seconds=1e-3)
    program = [("all-gather", 8000), ("all-reduce", 8000)]
    # 7/8 of 8000 bytes once and twice; log2(8) = 3 messages there and back.
    seconds = scaling_model.exchange_seconds(program, 8, link)
    assert seconds == pytest.approx(3 * 7e-3 + 2 * 6e-3)
    assert scaling_model.exchange_seconds(program, 1, link) == 0
    slower = scaling_model.Link(bytes_per_second=1e5, seconds=2e-3)
    seconds = scaling_model.exchange_seconds(program, 16, link, slower)
    assert seconds == pytest.approx(3 * 15 / 16 * 0.08 + 2 * 8 * 2e-3)


def test_only_the_divided_part_of_a_step_gets_shorter():
    step = scaling_model.Step(divided=6.0, whole=2.0)
    link = scaling_model.Link(bytes_per_second=1.0, seconds=0.0)
    assert step.on(1) == 8 and step.on(3) == 4
    # 4 s, and 2/3 of 3 bytes.
    share = scaling_model.efficiency(step, [("all-gather", 3)], 3, link)
    assert share == pytest.approx(8 / 6 / 3)


@pytest.mark.slow
def test_512_devices_exchange_what_two_do():
    request = {
        "steps": [("in_batch_softmax", 4096, 100, 16)],
        "evaluations": [],
        "searches": [],
    }
    few, many = (scaling_model.in_process(request, n) for n in (2, 512))
    # The compiler may order them in another way.
    assert sorted(few[0]) == sorted(many[0])


def test_a_collective_takes_what_those_of_its_size_took():
    times = {
        "all-gather": [(100, 1.0), (300, 2.0)],
        "all-reduce": [(100, 5.0), (300, 9.0)],
    }
    # One between two sizes, and one below the smallest.
    program = [("all-gather", 200), ("all-reduce", 4)]
    assert scaling_model.loopback_seconds(program, times) == 1.5 + 5.0
