"""Searches on all devices, which resume where they were killed."""

import gc
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import jax.monitoring
import keras
import keras_tuner
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import tuning
from keras_dp_retrieval.tuning.frozen_heap import frozen_heap
from keras_dp_retrieval.tuning.progress import write_json
from keras_dp_retrieval.tuning.stopping import MedianStopping

PROGRAM = pathlib.Path(__file__).parent / "programs" / "search_tiny.py"
NDCG = keras_tuner.Objective("val_ndcg_at_10", "max")


@pytest.fixture(autouse=True)
def no_garbage_collection(monkeypatch):
    """KerasTuner asks for two before every trial: a tenth of a second each."""
    monkeypatch.setattr(gc, "collect", lambda generation=2: 0)


@pytest.fixture(scope="module")
def data():
    return kdr.RetrievalDataset.from_synthetic(40, 60, 1200, batch_size=200)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """One for all searches, so that they share compiled programs."""
    return tmp_path_factory.mktemp("tuning")


def search_quietly(data, directory, **options):
    """Searches on two devices; keyword arguments replace these."""
    defaults = {
        "max_trials": 3,
        "epochs": 3,
        "embedding_dimension": (4, 8),
        "devices": keras.distribution.list_devices()[:2],
        "directory": directory,
        "verbose": 0,
    }
    if "hypermodel" in options:
        data = None
        del defaults["embedding_dimension"], defaults["devices"]
    return tuning.search(data, **{**defaults, **options})


@pytest.fixture
def search(data, directory, request):
    """`search_quietly` in a project of the test's own."""

    def run(project_name="search", **options):
        # Names of tests have brackets, which KerasTuner's `glob` would read.
        name = re.sub(r"\W", "_", f"{request.node.name}_{project_name}")
        options = {"project_name": name, **options}
        return search_quietly(data, directory, **options)

    return run


# So high a learning rate that the last epoch is not the best.
FINISHED = {"project_name": "finished", "learning_rate": (30.0, 60.0)}


@pytest.fixture(scope="module")
def finished(data, directory):
    """One search for all tests that only look at what a search leaves."""
    return search_quietly(data, directory, **FINISHED)


class Interruption(BaseException):
    """Like a kill: nothing after it is done, and nothing catches it."""


class Interrupt(keras.callbacks.Callback):
    """Interrupts in the middle of an epoch of the n-th trial that begins."""

    def __init__(self, trial, epoch):
        super().__init__()
        self.trial, self.epoch = trial, epoch
        self.begun = []  # One list for all copies.

    def __deepcopy__(self, memo):
        copied = Interrupt(self.trial, self.epoch)
        copied.begun = self.begun
        return copied

    def on_train_begin(self, logs=None):
        self.begun.append(1)

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (len(self.begun) - 1, self.now, batch) == (
            self.trial,
            self.epoch,
            1,
        ):
            raise Interruption


def outcome(result):
    """All that a search found, without what depends on the machine."""
    return [
        (t.trial_id, t.values, t.status, t.score, t.best_epoch, t.curve)
        for t in result.trials
    ]


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


# Devices


def test_every_trial_runs_on_all_devices(search):
    result = search(devices=None, max_trials=2)
    assert [t.num_devices for t in result.trials] == [8, 8]


def test_trial_on_too_few_devices_ends_the_search(search, data):
    class Forgetful(tuning.RetrievalHyperModel):
        def make_model(self, hp):
            keras.distribution.set_distribution(None)
            return super().make_model(hp)

    with pytest.raises(RuntimeError, match="must run on 8 devices"):
        search(hypermodel=Forgetful(data, embedding_dimension=4))


def test_works_with_a_tuner_of_keras_tuner(data, tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(len(self.model.variables[0].value.sharding.device_set))

        def __deepcopy__(self, memo):
            return Look()

    tuner = keras_tuner.RandomSearch(
        tuning.RetrievalHyperModel(data, embedding_dimension=(4, 8)),
        objective=NDCG,
        max_trials=1,
        seed=1,
        directory=tmp_path,
    )
    tuner.search(epochs=2, callbacks=[Look()], verbose=0)
    assert seen == [8, 8]
    assert set(tuner.get_best_hyperparameters()[0].values) == {
        "embedding_dimension",
        "learning_rate",
    }


# Resuming


@pytest.mark.parametrize(
    ("tuner", "max_trials", "interruptions"),
    [
        # Trial, of those that this process begins, and epoch.
        pytest.param(
            *("random", 3, [(1, 1), (0, 1), (1, 2)]), marks=pytest.mark.slow
        ),
        pytest.param("grid", 4, [(1, 1), (1, 2)], marks=pytest.mark.slow),
        # It draws at random from the seventh trial on.
        pytest.param("bayesian", 8, [(7, 1)], marks=pytest.mark.slow),
        # The fourth trial continues from the second epoch of an earlier one.
        pytest.param(
            *("hyperband", 4, [(1, 0), (2, 2)]), marks=pytest.mark.slow
        ),
    ],
)
def test_interrupted_search_ends_like_one_that_was_not(
    search, finished, tuner, max_trials, interruptions
):
    options = {
        "tuner": tuner,
        "max_trials": max_trials,
        "learning_rate": (0.01, 0.1, 1) if tuner == "grid" else (0.01, 1),
    }
    if tuner == "random":
        options["learning_rate"] = FINISHED["learning_rate"]
        whole = finished
    else:
        whole = search(project_name="whole", **options)
    assert len(whole.trials) == max_trials
    for trial, epoch in interruptions:
        interrupt = Interrupt(trial, epoch)
        with pytest.raises(Interruption):
            search(project_name="broken", callbacks=[interrupt], **options)
    resumed = search(project_name="broken", **options)
    assert outcome(resumed) == outcome(whole)
    for a, b in zip(
        weights(resumed.best_model), weights(whole.best_model), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_remembers_epochs_before_the_interruption(search):
    # The learning rate is so high that it gets no better than at once.
    options = {
        "learning_rate": 50.0,
        "max_trials": 1,
        "epochs": 30,
        "patience": 4,
    }
    whole = search(project_name="whole", **options)
    trial = whole.trials[0]
    assert trial.status == "STOPPED EARLY"
    assert len(trial.curve) == trial.best_epoch + 4
    with pytest.raises(Interruption):
        at = Interrupt(0, len(trial.curve) - 2)
        search(project_name="broken", callbacks=[at], **options)
    assert outcome(search(project_name="broken", **options)) == outcome(whole)


@pytest.mark.slow
def test_random_numbers_of_a_layer_go_on(data, search):
    class WithDropout(tuning.RetrievalHyperModel):
        def make_model(self, hp):
            tower = keras.Sequential(
                [
                    kdr.RowEmbedding(data.num_users, 4),
                    keras.layers.Dropout(0.5),
                ]
            )
            model = kdr.TwoTowerRetrieval.for_dataset(data, 4, user_tower=tower)
            model(np.array([1]))
            model.compile(keras.optimizers.Adam(0.1))
            hp.Fixed("learning_rate", 0.1)
            return model

    options = {"max_trials": 1, "hypermodel": WithDropout(data)}
    whole = search(project_name="whole", **options)
    with pytest.raises(Interruption):
        at = Interrupt(0, 2)
        search(project_name="broken", callbacks=[at], **options)
    assert outcome(search(project_name="broken", **options)) == outcome(whole)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_trial(tmp_path):
    def run(folder, *where):
        return subprocess.run(
            [sys.executable, str(PROGRAM), str(tmp_path / folder), *where],
            capture_output=True,
            text=True,
            cwd=PROGRAM.parents[2],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )

    assert run("broken", "1", "2", "3").returncode == -signal.SIGKILL
    broken = tmp_path / "broken" / "search"
    progress = json.loads((broken / "trial_1" / "progress.json").read_text())
    assert [past["epoch"] for past in progress["epochs"]] == [0, 1]
    first = (broken / "trial_0" / "progress.json").stat().st_mtime_ns
    assert run("broken").returncode == 0
    assert run("whole").returncode == 0
    resumed, whole = (
        tuning.SearchResult(
            tmp_path / name / "search", *("val_ndcg_at_10", "max")
        )
        for name in ("broken", "whole")
    )
    # The finished trial was left alone.
    assert (broken / "trial_0" / "progress.json").stat().st_mtime_ns == first
    assert outcome(resumed) == outcome(whole)
    assert resumed.snippet == whole.snippet
    for a, b in zip(
        weights(resumed.best_model), weights(whole.best_model), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_finished_search_is_not_repeated(finished, data, directory):
    files = list(finished.folder.glob("trial_*/checkpoint.weights.h5"))
    times = [path.stat().st_mtime_ns for path in files]
    assert len(times) == 3
    again = search_quietly(data, directory, **FINISHED)
    assert outcome(again) == outcome(finished)
    assert [path.stat().st_mtime_ns for path in files] == times


@pytest.mark.usefixtures("finished")
def test_search_does_not_go_on_with_other_settings(data, directory):
    with pytest.raises(ValueError, match=r"epochs=2.*started with 3.*overwr"):
        search_quietly(data, directory, **FINISHED, epochs=2)


# Seeds, failures, compilation


@pytest.mark.slow
def test_seed_0_is_a_seed(search):
    first, again, other = (
        search(project_name=name, seed=seed, max_trials=2, epochs=1)
        for name, seed in [("a", 0), ("b", 0), ("c", 1)]
    )
    assert outcome(first) == outcome(again)
    assert first.trials[1].values != other.trials[1].values


def test_search_whose_trials_all_fail_raises_the_first_error(search, data):
    class Broken(tuning.RetrievalHyperModel):
        def fit(self, hp, model, **kwargs):
            raise ArithmeticError(f"dimension {hp['embedding_dimension']}")

    for max_trials in (2, 5):  # KerasTuner gives up after three.
        with pytest.raises(RuntimeError, match="dimension 4") as caught:
            search(
                hypermodel=Broken(data, embedding_dimension=4),
                max_trials=max_trials,
                overwrite=True,
            )
        assert isinstance(caught.value.__cause__, ArithmeticError)


def test_one_failure_does_not_end_the_search(search, data):
    class Fragile(tuning.RetrievalHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            if hp["embedding_dimension"] == 4:
                raise ArithmeticError("four")
            return super().fit(hp, model, *args, **kwargs)

    hypermodel = Fragile(data, embedding_dimension=(4, 8), learning_rate=0.1)
    result = search(hypermodel=hypermodel, tuner="grid", epochs=1)
    assert sorted(t.status for t in result.trials) == ["COMPLETED", "FAILED"]
    assert result.best_hyperparameters["embedding_dimension"] == 8
    assert "FAILED ArithmeticError: four" in result.table()


def test_trials_that_diverge_fail_and_the_search_goes_on(search):
    # More in a row than KerasTuner allows of other failures.
    result = search(
        tuner="grid",
        learning_rate=(1e30, 1e31, 1e32, 1e33, 0.1),
        embedding_dimension=4,
        model_objective="rating",
        max_trials=5,
        epochs=1,
    )
    assert sorted(t.status for t in result.trials) == [
        "COMPLETED",
        *["FAILED"] * 4,
    ]
    assert result.best_hyperparameters["learning_rate"] == 0.1
    assert "Training must stay with finite numbers" in result.table()


@pytest.mark.filterwarnings("ignore:Early stopping conditioned:UserWarning")
def test_unknown_objective_says_which_there_are(search):
    with pytest.raises(ValueError, match=r"val_ndcg_at_5.*val_ndcg_at_10"):
        search(objective="val_ndcg_at_5", epochs=1, max_trials=1)


@pytest.mark.slow
@pytest.mark.usefixtures("no_compilation_cache")
def test_same_dimensions_compile_once(search):
    misses = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            misses.append(event)

    options = {"embedding_dimension": 5, "epochs": 1}
    jax.clear_caches()  # What other tests compiled is no miss here.
    jax.monitoring.register_event_listener(listen)
    search(project_name="first", max_trials=1, **options)
    in_first = len(misses)
    jax.clear_caches()  # As in a new process.
    search(project_name="second", max_trials=2, **options)
    assert in_first > 5
    assert len(misses) == in_first
    assert not jax.config.jax_compilation_cache_dir


def test_a_search_collects_only_its_own_garbage(search):
    frozen = []

    class Look(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            return Look()

        def on_train_begin(self, logs=None):
            frozen.append(gc.get_freeze_count())

    gc.unfreeze()  # What `conftest.py` has frozen.
    try:
        search(max_trials=1, epochs=1, callbacks=[Look()])
        assert frozen[0] > 100_000  # The modules of JAX and Keras.
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


def test_what_the_caller_has_frozen_stays_frozen():
    before = gc.get_freeze_count()
    with pytest.raises(ArithmeticError), frozen_heap():
        raise ArithmeticError
    assert gc.get_freeze_count() == before > 0


# Results


def test_best_model_is_the_one_that_was_measured(finished, data):
    best = finished.best_trial
    assert best.best_epoch < len(best.curve)  # Its last weights are others.
    measured = kdr.evaluate(finished.best_model, data, "validation", ks=(10,))
    assert measured["ndcg_at_10"] == best.score
    assert best.score == max(t.score for t in finished.trials)


@pytest.mark.slow
def test_snippet_makes_the_best_model_again(search, data):
    result = search(
        temperature=(0.1, 0.5),
        weight_decay=0.01,
        model_objective=("full_softmax", "in_batch_softmax"),
        devices=None,
    )
    names = {"data": data}
    snippet = result.snippet.replace("data = ...", "pass  # ")
    data.start_at_epoch(0)
    exec(snippet, names)
    measured = kdr.evaluate(names["model"], data, "validation", ks=(10,))
    assert measured["ndcg_at_10"] == result.best_trial.score


@pytest.fixture(scope="module")
def data_with_features():
    rng = np.random.default_rng(0)
    return kdr.RetrievalDataset(
        rng.integers(0, 20, 300),
        rng.integers(0, 30, 300),
        batch_size=100,
        candidate_features={
            "item_id": np.arange(35),
            "group": [f"g{item % 3}" for item in range(35)],
        },
    )


TOWERS = {
    "hidden_width": (4, 8),
    "num_hidden_layers": (0, 1),
    "id_dropout": (0.0, 0.5),
}


@pytest.mark.slow
def test_a_search_trains_the_feature_towers_that_it_is_asked_for(
    data_with_features, directory
):
    result = search_quietly(
        data_with_features,
        directory,
        project_name="one_feature_tower",
        hidden_width=8,
        num_hidden_layers=2,
        id_dropout=0.25,
        max_trials=1,
        epochs=1,
    )
    tower = result.best_model.candidate_tower
    assert tower.hidden == [8, 8] and tower.id_dropout == 0.25
    assert "hidden=(8, 8), id_dropout=0.25" in result.snippet


@pytest.mark.slow
def test_hidden_layers_and_dropout_of_feature_towers_are_searched(
    data_with_features, directory
):
    options = {
        "project_name": "feature_towers",
        "embedding_dimension": 4,
        "learning_rate": (0.1, 0.5),
        "devices": None,
        "epochs": 2,
        **TOWERS,
    }
    with pytest.raises(Interruption):
        search_quietly(
            data_with_features,
            directory,
            callbacks=[Interrupt(1, 1)],
            **options,
        )
    result = search_quietly(data_with_features, directory, **options)
    shapes = {
        (t.chosen["num_hidden_layers"], t.chosen.get("hidden_width"))
        for t in result.trials
    }
    assert len(shapes) > 1
    # Where there are no layers, there is no width.
    assert all((number == 0) == (width is None) for number, width in shapes)
    dropped = {t.chosen["id_dropout"] for t in result.trials}
    assert len(dropped) == 3 and 0 <= min(dropped) < max(dropped) <= 0.5
    assert {*TOWERS} <= {*result.table().splitlines()[0].split()}
    # The best model has what the best trial chose, and the snippet makes it.
    chosen = result.best_trial.chosen
    tower = result.best_model.candidate_tower
    width = chosen.get("hidden_width")
    assert tower.hidden == [width] * chosen["num_hidden_layers"]
    assert tower.id_dropout == chosen["id_dropout"]
    names = {"data": data_with_features}
    data_with_features.start_at_epoch(0)
    exec(result.snippet.replace("data = ...", "pass  # "), names)
    measured = kdr.evaluate(
        names["model"], data_with_features, "validation", ks=(10,)
    )
    assert measured["ndcg_at_10"] == result.best_trial.score


def test_towers_are_searched_only_when_asked_for(data_with_features):
    values = keras_tuner.HyperParameters()
    tuning.RetrievalHyperModel(data_with_features).build(values)
    assert not {*TOWERS} & {*values.values}
    hypermodel = tuning.RetrievalHyperModel(data_with_features, **TOWERS)
    config = keras.saving.serialize_keras_object(hypermodel)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert again.id_dropout == [0.0, 0.5] and again.hidden_width == [4, 8]


def test_table_and_figure_show_every_trial(finished, tmp_path):
    result = finished
    lines = result.table().splitlines()
    assert len(lines) == 4
    assert lines[1].split()[0] == result.best_trial.trial_id
    assert lines[1].split()[-2:] == ["2", "COMPLETED"]
    figure = result.plot(tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size > 10_000
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ["epoch", "embedding_dimension", "learning_rate"]


@pytest.mark.slow
def test_loss_is_minimized(search):
    result = search(objective="val_loss", epochs=1)
    assert result.direction == "min"
    assert result.best_trial.score == min(t.score for t in result.trials)


def test_tensorboard_knows_hyperparameters_and_metric(finished):
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    result = finished
    trial = result.trials[1]
    run = event_accumulator.EventAccumulator(
        str(result.folder / f"trial_{trial.trial_id}")
    )
    run.Reload()
    content = run.PluginTagToContent("hparams")
    message = plugin_data_pb2.HParamsPluginData.FromString(
        content["_hparams_/session_start_info"]
    )
    started = message.session_start_info
    values = {
        name: value.number_value for name, value in started.hparams.items()
    }
    assert values == trial.values
    scalars = [event.value for event in run.Scalars("val_ndcg_at_10")]
    np.testing.assert_allclose(scalars, trial.curve, rtol=1e-6)


def test_config_survives_json(data):
    hypermodel = tuning.RetrievalHyperModel(
        data, embedding_dimension=(4, 8), learning_rate=(0.1, 0.2), seed=3
    )
    config = keras.saving.serialize_keras_object(hypermodel)
    again = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(config))
    )
    assert again.get_settings() == hypermodel.get_settings()
    first, second = keras_tuner.HyperParameters(), keras_tuner.HyperParameters()
    hypermodel.build(first)
    again.build(second)
    assert first.get_config() == second.get_config()
    assert [p.name for p in first.space] == [
        "embedding_dimension",
        "learning_rate",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_dimension": ()}, "must have a value to choose"),
        ({"embedding_dimension": (0,)}, "embedding_dimension"),
        ({"learning_rate": (0.0, 1.0)}, "learning_rate"),
        ({"model_objective": "ratings"}, "model_objective"),
        (
            {"model_objective": "rating", "temperature": 0.1},
            "belongs to the softmax",
        ),
        ({"id_dropout": 0.3}, "data with features. .*`user_features=..."),
        ({"hidden_width": (0,)}, "hidden_width"),
        ({"id_dropout": (0.0, 1.5)}, "id_dropout"),
    ],
)
def test_ranges_are_checked(data, options, message):
    with pytest.raises(ValueError, match=message):
        tuning.RetrievalHyperModel(data, **options)


def test_a_number_of_layers_needs_their_width(data_with_features):
    with pytest.raises(ValueError, match=r"Add such as `hidden_width="):
        tuning.RetrievalHyperModel(data_with_features, num_hidden_layers=2)


# Trials that fall behind


def median_stopping_stops_at(folder, curve, finished, direction="max"):
    """The epoch at which the rule stops a trial with this curve, or None."""
    for number, values in enumerate(finished):
        trial = folder / f"trial_{number}"
        trial.mkdir(parents=True, exist_ok=True)
        (trial / "trial.json").touch()  # As in every folder of KerasTuner's.
        epochs = [{"epoch": e, "logs": {"m": v}} for e, v in enumerate(values)]
        write_json(
            trial / "progress.json", {"epochs": epochs, "finished": True}
        )
    model = keras.Sequential()
    model.stop_training = False
    rule = MedianStopping(folder, "m", direction, first_epoch=1)
    rule.set_model(model)
    rule.on_train_begin()
    for epoch, value in enumerate(curve):
        rule.on_epoch_end(epoch, {"m": value})
        if model.stop_training:
            return epoch
    return None


def test_median_rule_by_hand(tmp_path):
    # Means up to the third epoch: 3, 2 and 6; up to the second: 3, 1.5 and 6.
    finished = [[3, 3, 3], [1, 2, 3], [6, 6, 6]]
    stops = median_stopping_stops_at
    assert stops(tmp_path, [0, 0, 0], finished) == 1  # 0 waits for first_epoch.
    assert stops(tmp_path, [3, 0, 0], finished) is None  # Its best counts.
    assert stops(tmp_path, [2.9, 2.9, 9], finished) == 1
    assert stops(tmp_path, [9, 9, 9], finished, "min") == 1
    assert stops(tmp_path, [3, 9, 9], finished, "min") is None
    assert stops(tmp_path / "few", [0, 0, 0], finished[:2]) is None


# Several workers


@pytest.mark.slow
def test_chief_and_two_workers(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])

    def start(name):
        env = {
            **os.environ,
            "PYTHONPATH": os.getcwd(),
            "KERASTUNER_TUNER_ID": name,
            "KERASTUNER_ORACLE_IP": "localhost",
            "KERASTUNER_ORACLE_PORT": port,
        }
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )

    processes = [start(name) for name in ("chief", "worker0", "worker1")]
    try:
        said = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert said[0].splitlines()[-1].startswith("completed:")
    result = tuning.SearchResult(tmp_path / "search", "val_ndcg_at_10", "max")
    assert [t.num_devices for t in result.trials] == [2, 2, 2]
    # Every trial ran in one of the workers, and both did some.
    printed = ["\n".join(s.splitlines()[:-1]).count("] ") for s in said[1:]]
    assert sum(printed) == 3 and min(printed) >= 1
    assert result.best_model.count_params() > 0
