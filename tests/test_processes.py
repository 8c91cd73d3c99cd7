"""Joining several processes, and hearing how the others are."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval._jax import runtime
from keras_dp_retrieval.processes import (
    endings,
    joining,
    process_place,
    whereabouts,
)
from keras_dp_retrieval.processes.watch import Watch
from tests.test_callback_processes import Store

VARIABLES = (process_place.ADDRESSES, process_place.COUNT, process_place.INDEX)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in (*VARIABLES, "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("host", 2, 0), {}, "host and a port .* 'host-a:12345'"),
        (("host:0", 2, 0), {}, "host and a port"),
        (("host:12", 2, 2), {}, "process_id=2 with num_processes=2"),
        (("host:12", 0, 0), {}, "`num_processes` must be .*num_processes=0"),
        (("host:12", 2, -1), {}, "`process_id` must be .*process_id=-1"),
        (("host:12", 2, 0), {"local_device_ids": 3}, r"Use \[0\]"),
        (("host:12", 2, 0), {"local_device_ids": []}, r"Use \[0\]"),
        (("host:12", 2, 0), {"when_stalled": "kill"}, "'report', 'abort'"),
        (("host:12", 2, 0), {"stalled_seconds": 0}, "`stalled_seconds`"),
        (
            ("host:12", 2, 0),
            {"heartbeat_timeout_seconds": 0},
            "`heartbeat_timeout_seconds`",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        kdr.initialize_processes(*arguments, **options)


def test_a_variable_that_cannot_be_is_named(monkeypatch):
    monkeypatch.setenv(process_place.COUNT, "two")
    with pytest.raises(
        ValueError, match=rf"Received: {process_place.COUNT}='two'"
    ):
        kdr.initialize_processes()


def test_it_comes_before_the_devices():
    kdr.data_parallel()
    with pytest.raises(RuntimeError, match="right after the imports"):
        kdr.initialize_processes("localhost:12", 2, 0)


def test_one_process_starts_nothing():
    process = kdr.initialize_processes(num_processes=1)
    assert (process.index, process.count) == (0, 1)
    assert process.num_devices == len(process.local_devices) == 8
    assert "Process 0 of 1" in str(process) and "8 of 8 devices" in str(process)


@pytest.fixture
def joined(monkeypatch):
    """What JAX is given, without JAX."""
    given = []
    monkeypatch.setattr(joining, "_joined", [])
    monkeypatch.setattr(joining, "_check_is_first", lambda: None)
    monkeypatch.setattr(joining, "_look_after", lambda *_: None)
    monkeypatch.setattr(
        runtime, "join", lambda *place, **options: given.append(place)
    )
    return given


def test_arguments_go_before_variables(joined, monkeypatch):
    for name, text in zip(VARIABLES, ["a:1,b:2", "4", "3"], strict=True):
        monkeypatch.setenv(name, text)
    first = kdr.initialize_processes(process_id=2)
    assert joined == [("a:1", 4, 2)]
    assert kdr.initialize_processes(process_id=2) is first
    with pytest.raises(RuntimeError, match="one set of arguments"):
        kdr.initialize_processes(process_id=1)
    assert len(joined) == 1


def test_where_nothing_is_known_it_says_what_would_help(joined, monkeypatch):
    def join(*place, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(runtime, "join", join)
    with pytest.raises(ValueError, match=r"keras-dp-retrieval launch.*srun"):
        kdr.initialize_processes()


class Run:
    """Processes that share a store and a clock, in this one process."""

    def __init__(self, count=2, when_stalled="report"):
        self.store, self.now, self.ended = Store(), 0.0, []
        self.watches = [
            Watch(
                self.store,
                index,
                count,
                heartbeat_timeout_seconds=30,
                stalled_seconds=60,
                when_stalled=when_stalled,
                end=self.ended.append,
                clock=lambda: self.now,
            )
            for index in range(count)
        ]

    def after(self, seconds, *alive):
        """A second a time; only `alive` exchange notes."""
        for _ in range(seconds):
            self.now += 1
            for index in alive:
                self.watches[index].exchange()
            for index in alive:
                self.watches[index].judge(self.now)


@pytest.fixture
def said(caplog):
    """What the logger was told since the last call."""

    def so_far():
        text = "".join(f"{one}\n" for one in caplog.messages)
        caplog.clear()
        return text

    return so_far


@pytest.mark.parametrize("lost", [1, 2])
def test_a_silent_process_is_named_by_all_others(said, lost):
    run = Run(count=3)
    whereabouts.moved("fit, epoch 2, step 7")
    run.after(5, 0, 1, 2)
    others = [index for index in range(3) if index != lost]
    run.after(9, *others)
    assert said() == ""
    run.after(4, *others)
    lines = said().splitlines()
    assert len(lines) == 2  # Process 0 and the other one, once each.
    for line in lines:
        assert f"Process {lost} (host " in line and "pid " in line
        assert "has not answered for" in line
        assert "fit, epoch 2, step 7" in line
    run.after(2, 0, 1, 2)
    assert f"Process {lost} (host" in said()  # Answers again.


def test_a_silent_process_0_is_named_by_the_others(said):
    run = Run(count=3)
    run.after(5, 0, 1, 2)
    run.after(13, 1, 2)
    lines = said().splitlines()
    assert len(lines) == 2
    assert all("Process 0 (host" in line for line in lines)


def at(watch, **place):
    """The notes of this process say that it is somewhere else."""
    note = {"where": "fit, epoch 1, step 3", "together": True, **place}

    def post(post=watch._post):
        before = whereabouts.place
        whereabouts.place = lambda: {**before(), **note}
        try:
            post()
        finally:
            whereabouts.place = before

    watch._post = post


def test_who_takes_no_step_is_named_with_its_line(said):
    run = Run()
    at(run.watches[0], progress=9)
    at(run.watches[1], progress=8, running="read (own.py:12)")
    run.after(59, 0, 1)
    assert said() == ""
    run.after(5, 0, 1)
    mine, others = said().splitlines()
    for line in (mine, others):
        assert "Process 0 waits: process 1 (host" in line
        assert "has not moved for 60 s" in line
        assert "read (own.py:12)" in line
    assert run.ended == []


def test_who_has_left_while_others_wait_for_it_is_named(said):
    run = Run()
    at(run.watches[0], progress=9)
    run.watches[1]._done = True
    at(run.watches[1], progress=10, where="at the end of its program")
    run.after(65, 0, 1)
    assert "at the end of its program" in said()


def test_nobody_is_waited_for_where_one_works_alone(said):
    run = Run()
    at(run.watches[0], progress=9, together=False)
    at(run.watches[1], progress=8)
    run.after(100, 0, 1)
    assert said() == ""


def test_a_stall_ends_all_where_that_was_asked_for(said):
    run = Run(when_stalled="abort")
    at(run.watches[0], progress=9)
    at(run.watches[1], progress=8)
    run.store.texts["keras_dp_retrieval/watch/heard/1"] = "yes"
    run.after(62, 0, 1)
    assert run.ended == [1]
    run.watches[1]._talk()
    assert run.ended == [1, 1]
    assert "Process 1 ends too" in said()


def test_a_failure_is_told_to_the_others(said, monkeypatch):
    run = Run()
    whereabouts.moved("fit, epoch 1, step 5")
    run.after(1, 0, 1)
    monkeypatch.setattr(endings._state, "watch", run.watches[1])
    monkeypatch.setattr(endings._state, "code", None)
    endings.failed(ArithmeticError("bad  data."))
    endings.failed(ArithmeticError("what came of it"))
    run.watches[0]._talk()
    heard = said()
    assert "Process 1 (host" in heard and "Process 0 ends too" in heard
    assert "failed, fit, epoch 1, step 5: ArithmeticError: bad data." in heard
    assert "what came of it" not in heard
    assert run.ended == [1]


def test_nobody_is_waited_for_behind_a_loop():
    """Process 0 may write a file there while the others are done."""
    model = kdr.TwoTowerRetrieval(5, 5, 2)
    model.compile("sgd")
    x = np.array([1, 2, 3])
    place = {}

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            place.update(whereabouts.place())

    say = whereabouts.SayWhere
    model.fit(x, {"movie_id": x}, callbacks=[say("fit"), See()], verbose=0)
    assert place["together"] and place["where"] == "fit, epoch 1, step 1"
    for method in ("fit", "evaluate", "predict"):
        if method == "evaluate":
            options = {"callbacks": [say(method)], "verbose": 0}
            model.evaluate(x, {"movie_id": x}, **options)
        elif method == "predict":
            model.predict(x, callbacks=[say(method)], verbose=0)
        place = whereabouts.place()
        assert not place["together"]
        assert place["where"] == f"behind `{method}`"


class Group:
    """A `Watch` of process 1 that notes what it is asked for."""

    index = 1

    def __init__(self, all_leave):
        self.all_leave, self.asked = all_leave, []

    def finish(self, patience):
        return self.all_leave

    def tell(self, text):
        self.asked.append(text)

    def leave(self):
        self.asked.append("leave")


@pytest.mark.parametrize(
    ("error", "code"),
    [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("a reason"), 1)],
)
def test_one_that_exits_within_a_loop_says_so(monkeypatch, error, code):
    group, ended = Group(all_leave=False), []
    monkeypatch.setattr(endings, "end_process", ended.append)
    for name, value in [("watch", group), ("code", None), ("exit", None)]:
        monkeypatch.setattr(endings._state, name, value)
    endings._leave()
    assert not group.asked and not ended  # No loop: it is done.
    whereabouts.moved("fit, epoch 1, step 5")
    with pytest.raises(SystemExit), endings.noting_exit():
        raise error
    endings._leave()
    (said, leave), (ending,) = group.asked, ended
    assert said.startswith("Process 1 (host ") and leave == "leave"
    assert said.endswith(f"ended, fit, epoch 1, step 5, with exit code {code}.")
    assert ending == code


@pytest.mark.parametrize(
    ("all_leave", "error"),
    [(True, SystemExit(3)), (False, endings.AgreedExit(143))],
)
def test_where_all_exit_within_a_loop_nobody_is_told(
    monkeypatch, all_leave, error
):
    group = Group(all_leave)
    for name, value in [("watch", group), ("code", None), ("exit", None)]:
        monkeypatch.setattr(endings._state, name, value)
    with pytest.raises(SystemExit), endings.noting_exit():
        raise error
    endings._leave()
    assert not group.asked


def test_all_leave_together():
    run = Run()
    run.after(1, 0, 1)
    run.watches[1]._done = True
    run.after(1, 0, 1)
    assert not any(watch._all_done.is_set() for watch in run.watches)
    run.watches[0]._done = True
    run.after(2, 0, 1)
    assert all(watch._all_done.is_set() for watch in run.watches)
