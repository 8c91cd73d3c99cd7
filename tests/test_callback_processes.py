"""DistributionAwareCallback in two processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from keras_dp_retrieval import report
from keras_dp_retrieval.callbacks.peers import Peers
from keras_dp_retrieval.processes.stall_observer import StallObserver
from keras_dp_retrieval.processes.words import describe

# Two processes with one device each train a linear model. `LATE` sleeps in
# process 1 in every step; `STUCK` stops it for good before step 3 of epoch 1;
# `ALONE` gives the callback to process 0 alone.
PROGRAM = """
    import json, os, sys, time
    index, address, folder, mode = int(sys.argv[1]), *sys.argv[2:5]
    import jax
    jax.config.update("jax_num_cpu_devices", 1)
    import keras, numpy as np
    keras.distribution.initialize(address, 2, index)
    keras.utils.set_random_seed(0)
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(auto_shard_dataset=False)
    )
    from keras_dp_retrieval.callbacks import DistributionAwareCallback

    class Batches(keras.utils.PyDataset):
        fetched = 0

        def __len__(self):
            return 6

        def __getitem__(self, step):
            Batches.fetched += 1
            if mode == "LATE" and index == 1:
                time.sleep(0.05)
            if mode == "STUCK" and index == 1 and Batches.fetched == 11:
                open(folder + "/stuck", "w").close()
                time.sleep(1000)
            weights = np.ones(4, "float32")
            weights[3] = index  # The last row of process 0 is padding.
            return np.ones((4, 3)), np.ones((4, 1)), weights

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = DistributionAwareCallback(
        folder + "/run", stalled_seconds=SECONDS, when_stalled=ACTION
    )
    callbacks = [] if mode == "ALONE" and index else [callback]
    history = model.fit(
        Batches(), epochs=2, verbose=0, shuffle=False, callbacks=callbacks
    )
    print("RECORD", json.dumps([callback.history, history.history]))
    sys.stdout.flush()
    time.sleep(0.2)
"""


def start(folder, mode="", seconds=20.0, action="report"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = textwrap.dedent(PROGRAM)
    program = program.replace("SECONDS", str(seconds))
    program = program.replace("ACTION", repr(action))
    flags = os.environ["XLA_FLAGS"]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": flags + " --xla_force_host_platform_device_count=1",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, str(i), address, folder, mode],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def end(processes):
    """Leaves none behind, whatever the test found."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_two_processes_agree_and_the_late_one_is_named(tmp_path):
    processes = start(str(tmp_path), "LATE")
    try:
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        end(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    found = [json.loads(out.split("RECORD")[1]) for out, _ in outputs]
    (records, logs), (others_records, others_logs) = found
    for name in ("examples_per_second", "examples_per_second_per_device"):
        # EarlyStopping and the like decide alike in all processes.
        assert logs[name] == others_logs[name]
    for record, others in zip(records, others_records, strict=True):
        assert record["examples"] == others["examples"] == 6 * (3 + 4)
        assert record["num_devices"] == 2
        assert [d["process"] for d in record["devices"]] == [0, 1]
        assert [d["examples"] for d in record["devices"]] == [18, 24]
        assert record["devices"][0]["name"] == "cpu:0"
        assert record["missing_processes"] == []
        assert record["processes"] == others["processes"]
    steady = records[1]
    assert steady["slowest_process"] == 1
    waits = [p["input_wait_seconds"] for p in steady["processes"]]
    assert waits[0] < 0.25 <= 0.3 <= waits[1]
    medians = [p["step_seconds_median"] for p in steady["processes"]]
    assert medians[0] == pytest.approx(medians[1], rel=0.5)
    # Process 0 alone wrote, and what it wrote is its own history.
    run = report.read_run(tmp_path / "run")
    assert run["epochs"] == records
    text = report.table(run)
    assert "2 processes" in text and "Process 1 is the slowest" in text


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_a_stuck_process_is_named_and_all_end(tmp_path, first):
    """Whichever of them sees it first: one that is stuck sees it, too."""
    patience = f"(2.0 if index == {first} else 1000.0)"
    processes = start(str(tmp_path), "STUCK", patience, action="abort")
    outputs = []
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "stuck").exists():
            assert time.monotonic() < deadline, "never came to be stuck"
            time.sleep(0.1)
        stuck_at = time.monotonic()
        for process in processes:
            try:
                outputs.append(process.communicate(timeout=60))
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()
                pytest.fail(f"It was still there after 60 s:\n{errors[-3000:]}")
        waited = time.monotonic() - stuck_at
    finally:
        end(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        # Said before `fit` breaks off because the other one is gone.
        before = errors.partition("Traceback")[0]
        assert "process 1 has not moved" in before
        assert "fetching its batch" in before
        assert process.returncode == 1, errors[-2000:]
    assert waited < 30  # 2 s and a second or so, on an idle machine.
    run = report.read_run(tmp_path / "run")
    (stall,) = run["stalls"]
    assert stall["process"] == 1 and stall["seen_by"] == first
    assert "Process 1 stalled" in report.table(run)


@pytest.mark.slow
def test_a_process_without_the_callback_is_not_waited_for(tmp_path):
    started = time.monotonic()
    processes = start(str(tmp_path), "ALONE", seconds=60.0)
    try:
        outputs = [process.communicate(timeout=150) for process in processes]
    finally:
        end(processes)
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
        assert "did not report" not in errors
    assert time.monotonic() - started < 100  # It was 120 s of waiting alone.
    records, _ = json.loads(outputs[0][0].split("RECORD")[1])
    for record in records:
        assert record["missing_processes"] == []
        # Process 1's rows were trained on, and nobody counted them.
        assert record["examples"] is None
        assert "1 of 2 processes" in record["unknown"]["examples"]
        assert record["processes"][0]["examples"] == 18


class Store:
    """Keys and texts, in place of JAX's coordination service."""

    def __init__(self):
        self.texts, self.waits = {}, []

    def key_value_set(self, key, text, allow_overwrite=False):
        self.texts[key] = text

    def key_value_dir_get(self, folder):
        return [(k, t) for k, t in self.texts.items() if k.startswith(folder)]

    def key_value_delete(self, key):
        self.texts.pop(key, None)

    def blocking_key_value_get(self, key, milliseconds):
        if key not in self.texts:
            self.waits.append(milliseconds)
            raise RuntimeError("DEADLINE_EXCEEDED")
        return self.texts[key]


def joined(store, index, started_at=0, **others):
    return Peers(
        index,
        2,
        60.0,
        lambda: (0, "here"),
        others.pop("on_stall", None),
        started_at=started_at,
        client=store,
        **others,
    )


def test_nobody_waits_for_a_process_that_does_not_take_part():
    store = Store()
    alone = joined(store, 0)
    for epoch in range(3):
        assert alone.gather(epoch, {"process": 0}) == ([{"process": 0}], [])
    assert store.waits == []


STALL = {"process": 1, "where": "fetching", "seconds": 2.0, "answers": True}


def test_who_ends_says_why_and_waits_until_the_others_have_heard():
    store, seen, ends = Store(), [], []
    one, two, three = (
        joined(
            store,
            i,
            on_stall=seen.append,
            when_stalled="report" if i == 2 else "abort",
            end=lambda i=i: ends.append(i),
        )
        for i in range(3)
    )
    stall = STALL | {"seen_by": 1}
    two._stalled(stall)
    assert len(store.waits) == 2 and store.waits[0] > 2_900
    for peer in (one, three):
        heard = peer._farewell_of_others()
        assert heard == stall
        assert peer._farewell_of_others() is None  # Said once.
        peer._stalled(heard)
    # The one that only reports does not end.
    assert (seen, ends) == ([stall] * 3, [1, 0])
    assert joined(store, 0, started_at=3)._farewell_of_others() is None


def test_who_cannot_answer_is_not_waited_for_at_the_end():
    store = Store()
    one, _ = (
        joined(store, i, on_stall=dict, when_stalled="abort", end=dict)
        for i in range(2)
    )
    one._stalled(STALL | {"answers": False, "seen_by": 0})
    assert store.waits == []


def test_those_who_take_part_read_each_other_and_nothing_older():
    store = Store()
    for started_at in (0, 6):
        peers = [joined(store, i, started_at) for i in range(2)]
        for epoch in range(2):
            others = f"{peers[1]._fit_number}/{epoch}"
            peers[1]._store.post(
                store, f"keras_dp_retrieval/notes/1/{others}", '{"n": 1}'
            )
            found, missing = peers[0].gather(epoch, {"n": 0})
            assert ([note["n"] for note in found], missing) == ([0, 1], [])
        for one in peers:
            one.stop()
        # The next `fit` of process 0 is its own alone.
        alone = joined(store, 0, started_at + 3)
        assert alone.gather(0, {"n": 0}) == ([{"n": 0}], [])
        alone.stop()
    assert store.waits == []
    assert not [key for key in store.texts if "/here/" in key]


def test_what_a_broken_fit_left_behind_is_not_waited_for():
    store = Store()
    joined(store, 1, started_at=0)  # Broke off, and never said so.
    alone = joined(store, 0, started_at=4)
    assert alone.gather(0, {}) == ([{}], [])
    assert store.waits == []


def test_a_process_that_went_silent_is_waited_for_once():
    store = Store()
    one, _ = joined(store, 0), joined(store, 1)
    for epoch in range(3):
        assert one.gather(epoch, {}) == ([{}], [1])
    first, *others = store.waits
    assert 59_000 < first <= 60_000 and others == [1, 1]


def notes(*positions):
    return {
        process: {"progress": progress, "where": "training", "beat": beat}
        for process, (progress, beat) in enumerate(positions)
    }


def test_nobody_stalls_while_steps_are_taken():
    observer = StallObserver(index=0, seconds=10.0)
    for now in range(0, 100, 5):
        assert observer.look(notes((now, now), (now, now)), now) is None


def test_the_process_furthest_behind_is_the_one_that_stalls():
    observer = StallObserver(index=0, seconds=10.0)
    for now in range(0, 10):
        assert observer.look(notes((7, now), (5, now), (7, now)), now) is None
    stall = observer.look(notes((7, 10), (5, 10), (7, 10)), 10.0)
    assert (stall["process"], stall["seconds"]) == (1, 10.0)
    assert stall["answers"]
    assert "process 1 has not moved for 10 s" in describe(stall)
    # Said once; a later stall is said again.
    assert observer.look(notes((7, 11), (5, 11), (7, 11)), 11.0) is None
    for now in range(12, 22):
        assert observer.look(notes((9, now), (8, now), (9, now)), now) is None
    assert observer.look(notes((9, 22), (8, 22), (9, 22)), 22.0) is not None


def test_a_process_without_a_heartbeat_is_named_before_a_slow_one():
    observer = StallObserver(index=0, seconds=10.0)
    for now in range(0, 10):
        observer.look(notes((7, now), (6, now), (7, 3)), now)
    stall = None
    for now in range(10, 16):
        stall = observer.look(notes((7, now), (6, now), (7, 3)), now) or stall
    assert stall["process"] == 2
    assert not stall["answers"]
    assert "frozen or dead" in describe(stall)


def test_all_at_the_same_place_blames_nobody():
    observer = StallObserver(index=1, seconds=10.0)
    for now in range(0, 40):
        assert observer.look(notes((7, now), (7, now)), now) is None


def test_the_stalled_process_says_so_itself():
    observer = StallObserver(index=1, seconds=10.0)
    for now in range(0, 10):
        observer.look(notes((7, now), (5, now)), now)
    stall = observer.look(notes((7, 10), (5, 10)), 10.0)
    assert "This is what the other processes wait for" in describe(stall)
