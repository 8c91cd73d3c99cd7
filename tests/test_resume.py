"""A `fit` that is stopped and goes on is the `fit` that was never stopped.

Most runs are stopped by an exception here and go on with new objects; the slow
tests, and `benchmarks/kill_matrix.py`, kill processes.
"""

import random
import shutil
import signal

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.callbacks import callback_states
from keras_dp_retrieval.callbacks.checkpoint_files import CheckpointFiles
from keras_dp_retrieval.callbacks.packed_state import pack, unpack
from keras_dp_retrieval.callbacks.save_schedule import SaveSchedule
from tests import killed_runs
from tests import resumed_runs as runs
from tests.programs.train_killed import Job, dataset


@pytest.fixture
def anew(on_devices):
    """What a new process begins with."""

    def begin(devices=1):
        keras.distribution.set_distribution(None)
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        if devices > 1:
            on_devices(devices)

    return begin


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the streamed data."""
    folder = tmp_path_factory.mktemp("runs")
    killed_runs.write_data(folder)
    return folder


def fit(job, *callbacks, epochs=2):
    """A user's program; returns every bit of the model, and the history."""
    data = dataset(job)
    model = runs.model_of(data, job.objective, job.tower, job.fused)
    x, y, options = data.train, None, {}
    if job.data == "arrays":
        x, y = runs.as_arrays(data)
        options = {"batch_size": 10}
    history = model.fit(
        x, y, epochs=epochs, verbose=0, callbacks=list(callbacks), **options
    )
    return runs.digest_of(model), history.history


def job_of(folder, objective, tower, fused=1, data="memory", devices=1):
    return Job(
        str(folder),
        "",
        objective=objective,
        tower=tower,
        fused=fused,
        data=data,
        devices=devices,
    )


CASES = [
    ("rating", "id_history", 1, "memory", 1),
    pytest.param("full_softmax", "id", 4, "memory", 4, marks=pytest.mark.slow),
    ("in_batch_softmax", "id", 4, "streamed", 1),
    ("full_softmax", "id", 1, "arrays", 1),
    pytest.param(
        "full_softmax", "sequence", 4, "streamed", 4, marks=pytest.mark.slow
    ),
    *(
        pytest.param(objective, tower, fused, *more, marks=pytest.mark.slow)
        for objective in runs.OBJECTIVES
        for tower in ("id_history", "recency", "features")
        for fused, *more in [
            (1, "memory", 4),
            (1, "memory", 1),
            (4, "arrays", 1),
            (4, "streamed", 1),
        ]
    ),
]


@pytest.mark.parametrize(
    ("objective", "tower", "fused", "data", "devices"), CASES
)
def test_a_stopped_run_ends_with_the_same_bits(
    anew, folder, tmp_path, objective, tower, fused, data, devices
):
    job = job_of(folder, objective, tower, fused, data, devices)
    anew(devices)
    expected = fit(job)
    if tower != "id":  # For time: one of the default tests is stopped twice.
        anew(devices)
        with pytest.raises(runs.Stopped):
            fit(job, kdr.ResumeTraining(tmp_path, 1), runs.Stop(0, 4))
    anew(devices)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        fit(job, kdr.ResumeTraining(tmp_path, "epoch"), runs.Terminate(1, 4))
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    anew(devices)
    resume = kdr.ResumeTraining(tmp_path)
    assert fit(job, resume, runs.Stop(0, 0).until(1, 4)) == expected
    # What has ended trains nothing more.
    anew(devices)
    assert fit(job, resume, runs.Stop(0, 0)) == expected


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder of a run that ended, and its history."""
    folder = tmp_path_factory.mktemp("ended")
    keras.utils.set_random_seed(0)
    job = job_of(folder, "full_softmax", "id")
    _, history = fit(job, kdr.ResumeTraining(folder / "run"), epochs=1)
    return folder / "run", history


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "in_batch_softmax"}, "of this model.*InBatchSoftmax"),
        ({"data": {"seed": 1}}, "on these data.*contents"),
        (
            {"data": {"batch_size": 11}},
            "on these data.*steps was 11 and is 10",
        ),
        ({"rate": 0.3}, "compiled as this one.*learning_rate was .* is 0.3"),
    ],
    ids=["model", "order", "batches", "optimizer"],
)
def test_a_checkpoint_of_another_run_is_refused(ended, change, says):
    folder, _ = ended
    data = runs.in_memory(**change.get("data", {}))
    model = runs.model_of(data, change.get("objective", "full_softmax"))
    if "rate" in change:
        model.compile(keras.optimizers.Adam(change["rate"]))
    before = model.get_weights() if model.built else None
    with pytest.raises(ValueError, match=f"(?s){says}.*another folder"):
        model.fit(data.train, callbacks=[kdr.ResumeTraining(folder)])
    assert before is None or all(
        (one == other).all()
        for one, other in zip(before, model.get_weights(), strict=True)
    )


def test_more_epochs_go_on_behind_the_last(anew, ended, tmp_path):
    folder, history = ended
    shutil.copytree(folder, tmp_path / "run")
    job = job_of(tmp_path, "full_softmax", "id")
    anew()
    resume = kdr.ResumeTraining(tmp_path / "run")
    _, more = fit(job, resume, runs.Stop(0, 0).until(1, 0), epochs=2)
    assert more["loss"][:1] == history["loss"] and len(more["loss"]) == 2


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped":  # A bit of the largest array.
        content[len(content) // 2] ^= 4
    path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(how)])


@pytest.mark.parametrize("how", ["flipped", "cut", "empty"])
def test_the_newest_whole_checkpoint_is_used(tmp_path, how):
    files = CheckpointFiles(tmp_path, keep=3)
    for epoch in range(3):
        files.save(epoch, 0, {"n": epoch}, {"a": np.full(5000, float(epoch))})
    paths = sorted(tmp_path.iterdir())
    damaged(paths[-1], how)
    with pytest.warns(match=rf"{paths[-1].name} is damaged \(.+\)"):
        found = files.newest()
    assert found.state["n"] == 1 and (found.arrays["a"] == 1).all()
    # It is out of the way, also of what is kept.
    assert files.newest().path == found.path == paths[1]
    files.save(1, 5, {"n": 9}, {})
    assert files.newest().state["n"] == 9


def test_a_save_that_breaks_off_leaves_the_one_before(tmp_path, monkeypatch):
    files = CheckpointFiles(tmp_path, keep=2)
    files.save(0, 1, {"n": 1}, {})
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.save(0, 2, {"n": 2}, {})
    assert files.newest().state["n"] == 1
    for batch in (3, 4, 5):
        files.save(0, batch, {"n": batch}, {})
    names = [path.name for path in sorted(tmp_path.iterdir())]
    assert names == [
        "epoch-00000-batch-00000004.npz",
        "epoch-00000-batch-00000005.npz",
    ]


def test_state_survives_as_it_is(tmp_path):
    import ml_dtypes

    state = {
        "list": [1, 2.5, None, True, "text", float("inf")],
        "tuple": (1, ("a", [])),
        3: np.float32(0.1),
        "arrays": [np.arange(3, dtype="uint32"), np.zeros((0, 2))],
        "short": np.array([1.5, -0.0], ml_dtypes.bfloat16),
    }
    arrays: dict = {}
    packed = pack(state, arrays, "a")
    CheckpointFiles(tmp_path, 1).save(0, 0, {"state": packed}, arrays)
    found = CheckpointFiles(tmp_path, 1).newest()
    again = unpack(found.state["state"], found.arrays)
    for one, other in zip(
        keras.tree.flatten(again), keras.tree.flatten(state), strict=True
    ):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
    with pytest.raises(TypeError, match=r"Received: <object .* of type object"):
        pack({"a": [object()]}, {}, "a")


def test_callbacks_go_on_where_they_were():
    def made():
        return [
            keras.callbacks.EarlyStopping("loss", patience=3, mode="min"),
            keras.callbacks.ReduceLROnPlateau("loss", patience=3),
            keras.callbacks.EarlyStopping("acc", mode="max"),
            kdr.DistributionAwareCallback(),
        ]

    first, second = made(), made()
    first[0].best, first[0].wait, first[0].best_weights = 0.5, 2, [np.ones(2)]
    first[1].cooldown_counter = 4
    first[2].best = 0.75
    first[3].history = [{"epoch": 0}]
    arrays: dict = {}
    packed = pack(callback_states.states(first), arrays, "a")
    for callback in second[:2]:
        callback.on_train_begin()
    callback_states.set_states(second, unpack(packed, arrays))
    assert (second[0].best, second[0].wait) == (0.5, 2)
    np.testing.assert_array_equal(second[0].best_weights, [[1, 1]])
    assert second[1].cooldown_counter == 4 and second[2].best == 0.75
    assert second[3].history == [{"epoch": 0}]
    with pytest.warns(match=r"New are \['History'\].* gone are \['Early"):
        callback_states.set_states(
            [*second[1:], keras.callbacks.History()], unpack(packed, arrays)
        )


def test_callbacks_that_may_forget_are_named():
    class Counter(keras.callbacks.Callback):
        pass

    with pytest.warns(match="keeps nothing of it: Counter, LambdaCallback"):
        callback_states.warn_of_forgetful(
            [
                Counter(),
                Counter(),
                keras.callbacks.LambdaCallback(),
                keras.callbacks.TerminateOnNaN(),
            ]
        )


def test_saving_takes_a_twentieth_of_the_time_at_most():
    now = [0.0]
    schedule = SaveSchedule("auto", lambda: now[0], num_bytes=10)
    due = []
    while now[0] < 1000:
        now[0] += 1
        if schedule.due_within_epoch(steps=1):
            schedule.begin_save()
            now[0] += 2
            schedule.end_save()
            due.append(now[0])
    # 20 times the 2 seconds that saving takes; 10 seconds at first.
    assert due[:3] == [12, 54, 96]
    assert 2 * len(due) / now[0] <= 0.05


@pytest.mark.parametrize(
    ("save_freq", "due"), [("epoch", [3, 6]), (4, [4]), (2, [2, 4, 6])]
)
def test_saves_are_due_by_steps_or_epochs(save_freq, due):
    schedule = SaveSchedule(save_freq, lambda: 0.0, num_bytes=10**9)
    found = []
    for epoch in range(2):
        for step in (1, 2):
            if schedule.due_within_epoch(1):
                found.append(3 * epoch + step)
                schedule.end_save()
        if schedule.due_after_epoch(1):
            found.append(3 * epoch + 3)
            schedule.end_save()
    assert found == due


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"save_freq": "step"}, "save_freq.*'auto', 'epoch'"),
        ({"save_freq": 0}, "save_freq.*1 or more"),
        ({"keep": 0}, "keep.*1 or more"),
        ({"data": [1, 2]}, "data set of this package.*data=.1, 2."),
    ],
)
def test_arguments_are_checked(arguments, says):
    with pytest.raises(ValueError, match=says):
        kdr.ResumeTraining("folder", **arguments)


def test_keras_own_callback_says_that_it_is_not_exact(tmp_path):
    data = runs.in_memory()
    with (
        pytest.warns(match="ResumeTraining` restores them all"),
        pytest.raises(runs.Stopped),
    ):
        runs.model_of(data).fit(
            data.train,
            verbose=0,
            callbacks=[
                keras.callbacks.BackupAndRestore(tmp_path),
                runs.Stop(0, 0),
            ],
        )


def plain_fit(x, y, *callbacks, epochs=3, fused=1):
    """The `fit` of a model that is not of this package."""
    model = keras.Sequential(
        [
            keras.layers.Embedding(30, 3),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.1),
        "mse",
        metrics=["mae"],
        steps_per_execution=fused,
    )
    history = model.fit(
        x, y, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    return runs.digest_of(model), history.history


@pytest.mark.parametrize("fused", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sigterm_saves_a_plain_model_between_two_steps(anew, tmp_path, fused):
    x, y = np.arange(320) % 30, np.arange(320.0)

    def trained(*callbacks):
        anew()
        return plain_fit(x, y, *callbacks, fused=fused)

    expected = trained()
    handler = signal.getsignal(signal.SIGTERM)
    # Twice within the same epoch, and in its first step.
    for at in [(1, 4), (1, 6), (2, 0)]:
        resume = kdr.ResumeTraining(tmp_path)
        with (
            pytest.warns(match="by SIGTERM, and nothing but"),
            pytest.raises(SystemExit) as ended,
        ):
            told = runs.Terminate(*at).until(at[0], at[1] + fused)
            trained(told, resume)
        assert ended.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.warns(match="Keras' own"):
        assert trained(kdr.ResumeTraining(tmp_path)) == expected


def test_sigterm_ends_the_program_after_a_plain_fit_that_broke_off(
    anew, tmp_path
):
    anew()
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    try:
        with (
            pytest.warns(match="Keras' own"),
            pytest.raises(runs.Stopped),
        ):
            resume = kdr.ResumeTraining(tmp_path)
            plain_fit(
                np.arange(60) % 30, np.arange(60.0), runs.Stop(0, 1), resume
            )
        signal.raise_signal(signal.SIGTERM)
        assert noted
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_behind_the_last_save_ends_the_program_after_fit(
    anew, tmp_path
):
    class Late(keras.callbacks.Callback):
        def get_state(self):
            return {}

        def on_train_end(self, logs=None):
            signal.raise_signal(signal.SIGTERM)
            assert not noted

    anew()
    noted = []
    before = signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    try:
        job = job_of(tmp_path, "full_softmax", "id")
        fit(job, kdr.ResumeTraining(tmp_path), Late(), epochs=1)
        assert noted
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_plain_model_is_resumed_after_an_epoch(anew, tmp_path):
    x, y = np.arange(60) % 30, np.arange(60.0)
    anew()
    expected = plain_fit(x, y)
    anew()
    with (
        pytest.warns(match="Sequential is Keras' own"),
        pytest.raises(runs.Stopped),
    ):
        resume = kdr.ResumeTraining(tmp_path, "epoch")
        plain_fit(x, y, runs.Stop(1, 1), resume)
    for stop in [(1, 0), (0, 0)]:  # Goes on there, and has ended.
        anew()
        with pytest.warns(match="Keras' own"):
            resume = kdr.ResumeTraining(tmp_path, "epoch")
            watch = runs.Stop(0, 0).until(*stop) if stop[0] else runs.Stop(0, 0)
            assert plain_fit(x, y, watch, resume) == expected


class Rater(keras.Model):
    """A plain model on the batches of a data set of this package."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(30, 3)
        self.dropout = keras.layers.Dropout(0.5)

    def call(self, x, training=False):
        return self.dropout(self.table(x), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, weights=None, **_):
        error = keras.ops.sum(y_pred, axis=1) - y["rating"]
        return keras.ops.mean(error**2)


def rated(resume, *callbacks, data=None):
    data = data or runs.in_memory()
    if resume is not None:
        resume = kdr.ResumeTraining(resume, "epoch", data=data)
        callbacks = [*callbacks, resume]
    model = Rater()
    model.compile(keras.optimizers.Adam(0.1))
    found = model.fit(data.train, epochs=3, verbose=0, callbacks=callbacks)
    return runs.digest_of(model), found.history


@pytest.mark.slow
def test_a_plain_model_goes_on_with_the_order_of_the_data(anew, tmp_path):
    anew()
    expected = rated(None)
    anew()
    with pytest.warns(match="Keras' own"), pytest.raises(runs.Stopped):
        rated(tmp_path, runs.Stop(1, 2))
    anew()
    with pytest.warns(match="Keras' own"), pytest.raises(SystemExit):
        rated(tmp_path, runs.Terminate(1, 5))
    anew()
    with pytest.warns(match="Keras' own"):
        assert rated(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("fused", [1, 2])
def test_a_generator_is_read_again_up_to_where_it_was(anew, tmp_path, fused):
    def trained(*callbacks):
        anew()
        data = runs.in_memory()

        def batches():
            for number in range(1000):
                x, y = runs.as_arrays(data)
                take = slice(number % 7, number % 7 + 8)
                yield x[take], {key: one[take] for key, one in y.items()}

        model = runs.model_of(data, fused=fused)
        found = model.fit(
            batches(),
            epochs=3,
            steps_per_epoch=4,
            verbose=0,
            callbacks=list(callbacks),
        )
        return runs.digest_of(model), found.history

    expected = trained()
    for stop in [(1, 2), (2, 0)]:
        resume = kdr.ResumeTraining(tmp_path, save_freq=1)
        with (
            pytest.warns(match="The order of these data"),
            pytest.raises(runs.Stopped),
        ):
            trained(resume, runs.Stop(*stop))
    with pytest.warns(match="The order of these data"):
        assert trained(kdr.ResumeTraining(tmp_path)) == expected


KILLS = [
    ("rating", "id_history", 1, "memory", 1, 1),
    ("full_softmax", "recency", 4, "memory", 4, 1),
    ("in_batch_softmax", "features", 4, "arrays", 1, 1),
    ("full_softmax", "id_history", 1, "streamed", 4, 1),
    ("in_batch_softmax", "id", 4, "streamed", 1, 2),
    ("rating", "features", 1, "memory", 1, 2),
    ("full_softmax", "features", 1, "streamed", 1, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(KILLS)))
def test_a_killed_process_ends_with_the_same_bits(tmp_path, number):
    objective, tower, fused, data, devices, processes = KILLS[number]
    job = job_of("", objective, tower, fused, data, devices)
    job.processes = processes
    rng = random.Random(number)
    kills = [killed_runs.random_kill(rng, fused) for _ in range(2)]
    outcome = killed_runs.killed(job, tmp_path, kills)
    assert outcome.kills and outcome.same_weights and outcome.same_history


@pytest.mark.slow
@pytest.mark.parametrize("fused", [1, 4])
def test_processes_that_are_told_to_end_stop_before_the_same_step(
    tmp_path, fused
):
    job = job_of("", "full_softmax", "id", fused)
    job.processes, job.save_freq = 2, "epoch"
    kills = [("terminate", 3), ("terminate", 2)]
    outcome = killed_runs.killed(job, tmp_path, kills)
    assert outcome.kills == kills
    assert outcome.same_weights and outcome.same_history


@pytest.mark.slow
def test_the_recipe_goes_on_within_its_trials_and_behind_them(anew, tmp_path):
    def recipe(*callbacks, resume=None):
        anew()
        data = kdr.RetrievalDataset.from_synthetic(
            200, 30, 3000, batch_size=64, split="leave_last_out"
        )
        model = kdr.fit_recipe(
            data,
            epochs=3,
            embedding_dimension=4,
            resume=resume,
            callbacks=callbacks,
        )
        return runs.digest_of(model), model.popularity_weight

    expected = recipe()
    folder = tmp_path / "run"
    fits = []

    def break_off(self, *arguments, **options):
        fits.append(options["epochs"])
        if len(fits) == 3:  # The third trial.
            raise runs.Stopped
        return fit_of(self, *arguments, **options)

    fit_of = kdr.TwoTowerRetrieval.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdr.TwoTowerRetrieval, "fit", break_off)
        with pytest.raises(runs.Stopped):
            recipe(resume=folder)
    with pytest.raises(runs.Stopped):
        recipe(runs.Stop(1, 2), resume=folder)
    assert recipe(resume=folder) == expected
    assert recipe(runs.Stop(0, 0), resume=folder) == expected


@pytest.mark.slow
def test_the_command_line_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = zip(*runs.interactions().values(), strict=True)
    lines = ["user_id,item_id,rating,timestamp"]
    lines += [",".join(map(str, row)) for row in rows]
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    command = ["train", "--interactions", "shop.csv", "--resume", "run"]
    command += ["--objective", "full_softmax", "--epochs"]
    assert cli.main([*command, "2"]) == 0
    first = keras.saving.load_model("model.keras")
    assert cli.main([*command, "2"]) == 0
    assert "Resuming at epoch 3, step 0, of run/" in capsys.readouterr().out
    again = keras.saving.load_model("model.keras")
    assert runs.digest_of(first) == runs.digest_of(again)
