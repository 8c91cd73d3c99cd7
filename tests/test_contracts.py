"""What we rely on and nobody promised: private parts of other libraries.

One test a name of `_keras/` (Keras), `_jax/` (JAX) and
`tuning/_keras_tuner.py` (KerasTuner). A failure says what upstream has changed,
so that whoever meets it with a new release knows where to look.
"""

import ast
import functools
import importlib
import inspect
import json
import pathlib
import pkgutil
import random
import sys

import jax
import keras
import keras_tuner
import numpy as np
import pytest

import keras_dp_retrieval
from keras_dp_retrieval._keras import (
    adapters,
    callbacks,
    epochs,
    layers,
    process_seeds,
    seeds,
    slots,
    trainer,
    variables,
)
from keras_dp_retrieval.tuning import _keras_tuner

pytestmark = pytest.mark.contract

PACKAGE = pathlib.Path(keras_dp_retrieval.__file__).parent


def small_model(optimizer="sgd", **compiled):
    table = keras.layers.Embedding(5, 2)
    model = keras.Sequential([table])
    model.compile(optimizer, "mse", **compiled)
    model.build((None,))
    model.optimizer.build(model.trainable_variables)
    return model, table


X, Y = np.arange(4), np.ones((4, 2), "float32")


# Data adapters


def test_fit_hands_an_adapter_through():
    adapter = adapters.get_data_adapter(x=X, y=Y)
    again = adapters.get_data_adapter(x=adapter)
    assert again is adapter, (
        "`get_data_adapter` no longer hands a `DataAdapter` through: `fit` "
        "cannot be given padded batches that way."
    )


@pytest.mark.parametrize(
    "name",
    [
        "get_numpy_iterator",
        "get_jax_iterator",
        "get_tf_dataset",
        "get_torch_dataloader",
        "on_epoch_begin",
        "on_epoch_end",
        "num_batches",
        "batch_size",
    ],
)
def test_adapters_are_asked_for(name):
    assert hasattr(adapters.DataAdapter, name), (
        f"`DataAdapter.{name}` is gone: look what `fit` asks an adapter for "
        "now, and have `PaddedBatches` answer it."
    )


def test_adapters_are_asked_for_nothing_new():
    known = {
        "get_numpy_iterator",
        "get_jax_iterator",
        "get_native_iterator",
        "get_tf_dataset",
        "get_torch_dataloader",
        "on_epoch_begin",
        "on_epoch_end",
        "num_batches",
        "batch_size",
        "has_partial_batch",
        "partial_batch_size",
    }
    public = {n for n in vars(adapters.DataAdapter) if not n.startswith("_")}
    assert public <= known, (
        f"A `DataAdapter` is now asked for {sorted(public - known)} too: see "
        "whether `PaddedBatches` must answer it."
    )


def test_arrays_and_py_datasets_get_adapters_of_these_classes():
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return X, Y

    adapter = adapters.get_data_adapter(x=X, y=Y)
    assert isinstance(adapter, adapters.ArrayDataAdapter), (
        "Arrays no longer get an `ArrayDataAdapter`: `PaddedBatches.identity` "
        "would not know them."
    )
    adapter = adapters.get_data_adapter(x=Batches())
    assert isinstance(adapter, adapters.PyDatasetAdapter) and hasattr(
        adapter, "py_dataset"
    ), "A `PyDataset` no longer gets a `PyDatasetAdapter` with `py_dataset`."
    x, y = adapters.first_of_py_dataset(adapter)
    assert x is X and y is Y, (
        "`PyDatasetAdapter._standardize_batch` no longer returns a batch as "
        "it is: look up how the adapter makes one of `py_dataset[0]`."
    )


def test_a_tf_dataset_gets_an_adapter_that_gives_it_back():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(2)
    adapter = adapters.get_data_adapter(x=dataset)
    assert isinstance(adapter, adapters.TFDatasetAdapter) and (
        adapter.get_tf_dataset() is dataset
    ), (
        "`TFDatasetAdapter.get_tf_dataset` no longer gives back the data set "
        "that it was made of: our own data sets would be read slowly."
    )


def test_a_split_takes_the_last_rows():
    (train,), (rest,) = adapters.train_validation_split(
        (X,), validation_split=0.25
    )
    np.testing.assert_array_equal(
        train, X[:3], "`train_validation_split` no longer takes the last rows."
    )
    np.testing.assert_array_equal(rest, X[3:])


def test_a_keras_that_fuses_steps_takes_short_groups():
    if not adapters.keras_fuses_steps():
        pytest.skip("This Keras does not fuse steps.")
    group = adapters.partial_batch_list([(X,), (X,)])
    assert len(list(group)) == 2, (
        "`PartialBatchList` no longer is a list of the batches of a group "
        "with fewer than `steps_per_execution` steps."
    )


def test_keras_asks_for_groups_only_if_it_fuses_steps():
    makes = inspect.getsource(type(small_model()[0]).make_train_function)
    has_scan = "scan" in makes
    fuses = adapters.keras_fuses_steps()
    assert fuses or not has_scan, (
        "Keras seems to fuse steps by itself, but its adapters have no "
        "`super_batch`: see how it asks for a group of batches now."
    )


def test_torch_takes_batches_from_a_loader():
    make = getattr(adapters.data_adapter_utils, "get_torch_dataloader", None)
    assert make and list(inspect.signature(make).parameters) == ["iterable"], (
        "`data_adapter_utils.get_torch_dataloader` no longer takes an "
        "iterable of batches."
    )


# Layers


def test_sublayers_are_walked():
    inner = keras.Sequential([keras.layers.Dense(2)])
    outer = keras.Sequential([inner])
    found = layers.sublayers(outer)
    assert found[0] is outer and {inner, inner.layers[0]} <= set(found), (
        "`Layer._flatten_layers` no longer gives the layer and all below it."
    )


def test_own_variables_leave_out_those_of_sublayers():
    model, table = small_model()
    assert layers.own_variables(model) == [] and (
        layers.own_variables(table) == table.variables
    ), (
        "`Layer._trainable_variables` and `_non_trainable_variables` are no "
        "longer the variables that the layer made itself."
    )


def test_an_embedding_keeps_its_table():
    _, table = small_model()
    assert layers.embedding_table(table) is table.variables[0], (
        "`Embedding._embeddings` no longer is the variable of the table."
    )


def test_layers_know_whether_they_take_training():
    assert layers.takes_training(keras.layers.Dropout(0.5)) and (
        not layers.takes_training(keras.layers.Embedding(2, 2))
    ), "`Layer._call_has_training_arg` no longer says so: towers would train "
    "as if they were asked."


def test_losses_are_gathered_outside_a_step():
    layer = keras.layers.Dense(2, activity_regularizer="l2")
    with layers.added_losses(layer) as added:
        layer(Y)
    assert len(added) == 1 and not layer.losses, (
        "`Layer._losses` no longer holds what a layer adds to the loss when "
        "it is called: it would be counted twice, or not at all."
    )


def test_losses_are_gathered_inside_a_step():
    layer = keras.layers.Dense(2, activity_regularizer="l2")
    layer.build(Y.shape)
    mapping = [(v, v.value) for v in layer.variables]
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        assert layers.get_stateless_scope() is scope, (
            "`get_stateless_scope` no longer finds the scope in effect."
        )
        with layers.added_losses(layer) as added:
            layer(Y)
    assert len(added) == 1 and scope.losses == [], (
        "`StatelessScope.losses` no longer gathers what layers add to the "
        "loss while a step is traced."
    )


# Variables


def test_a_variable_can_be_given_another_shape():
    variable = keras.Variable(np.zeros((2, 3)))
    variables.reshape(variable, (4, 3), keras.ops.ones((4, 3)))
    assert variable.shape == (4, 3) and variable.value.shape == (4, 3), (
        "`Variable._shape` and `_initialize` no longer set shape and value: "
        "tables cannot grow in place."
    )
    variable.assign(np.zeros((4, 3)))


def test_a_detached_variable_is_known():
    model, table = small_model()
    assert not variables.is_detached(table.variables[0])
    model._purge_model_variables(trainable_variables=True)
    assert variables.is_detached(table.variables[0]), (
        "Keras no longer detaches weights by `Variable._value = None`: look "
        "how `fit` keeps them now, and whether a failing loop loses them."
    )


def test_a_derived_variable_follows_its_source():
    source = keras.Variable(np.ones(3))
    total = variables.Derived(source, keras.ops.sum, (), "float32", "total")
    assert float(total.value) == 3
    source.assign([1.0, 2.0, 3.0])
    with keras.StatelessScope([(total, keras.ops.ones(()))]) as scope:
        inside = float(total.value)
        total.assign(keras.ops.zeros(()))
    assert (inside, float(scope.get_current_value(total))) == (1, 0), (
        "A variable's value in a `StatelessScope` is not the scope's."
    )
    assert float(total.value) == 6, (
        "`Variable.assign` no longer gives `_value` another array, or "
        "`_direct_assign` also runs in a `StatelessScope`."
    )
    total.assign(7.0)
    assert float(total.value) == 7, (
        "`Variable.assign` no longer calls `_direct_assign`."
    )


# Optimizers


@pytest.mark.parametrize("kind", list(slots._SLOT_LISTS))
def test_slots_are_found(kind):
    model, table = small_model(kind())
    found = slots.slots_of(model.optimizer, table.variables[0])
    # The step counter and the learning rate come first.
    expected = model.optimizer.variables[2:]
    assert {id(slot) for slot in found} == {id(slot) for slot in expected}, (
        f"The slots of `{kind.__name__}` are no longer in the attributes "
        f"{slots._SLOT_LISTS[kind]}, by the index that "
        "`Optimizer._get_variable_index` gives: row-sparse steps would leave "
        "some as they are."
    )


def test_an_optimizer_knows_what_it_was_built_for():
    model, _ = small_model()
    assert slots.built_for(model.optimizer) == model.trainable_variables, (
        "`Optimizer._trainable_variables` no longer are the variables that "
        "it was built with."
    )


def test_averages_are_kept_for_each_variable():
    model, table = small_model(keras.optimizers.SGD(use_ema=True))
    (average,) = slots.moving_averages(model.optimizer)
    assert average.shape == table.variables[0].shape, (
        "`Optimizer._model_variables_moving_average` no longer has one "
        "average for each variable."
    )


def test_weight_decay_can_leave_a_variable_out():
    optimizer = keras.optimizers.SGD(weight_decay=0.1)
    left_out, other = (keras.Variable(np.zeros(2)) for _ in range(2))
    optimizer.exclude_from_weight_decay([left_out])
    optimizer.build([left_out, other])
    assert slots.decays(optimizer, other), (
        "`Optimizer._use_weight_decay` no longer says which variables decay."
    )
    assert not slots.decays(optimizer, left_out)
    assert not slots.decays(keras.optimizers.SGD(), other)


def test_gradients_are_clipped_together():
    optimizer = keras.optimizers.SGD(global_clipnorm=1.0)
    clipped = slots.clip(optimizer, [np.full(1, 3.0), np.full(1, 4.0)])
    np.testing.assert_allclose(
        np.concatenate(clipped),
        [0.6, 0.8],
        rtol=1e-6,
        err_msg="`Optimizer._clip_gradients` no longer clips by the norm of "
        "all gradients that it is given.",
    )


def test_a_step_can_be_counted():
    optimizer = keras.optimizers.SGD()
    optimizer.build([])
    slots.count_step(optimizer)
    assert int(optimizer.iterations) == 1, (
        "`Optimizer._iterations` no longer is the step counter: learning rate "
        "schedules would stand still."
    )


# The trainer


class Hooks(trainer.Trainer):
    """Notes when Keras asks for its functions."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(5, 2)
        self.finished = []

    def call(self, x):
        return self.table(x)

    def finish_function(self, function):
        self.finished.append(function)
        return function


def test_fit_calls_the_functions_that_the_trainer_made():
    model = Hooks()
    model.compile("sgd", "mse")
    model.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert len(model.finished) == 2, (
        "`fit` no longer makes its compiled functions by "
        "`make_train_function` and `make_test_function`: steps are not fused."
    )
    model.forget_compiled()
    model.fit(X, Y, verbose=0)
    assert len(model.finished) == 3, (
        "`fit` no longer makes its function again where `train_function` is "
        "None: a model that grew would run the step of its old size."
    )


class Starting(Hooks):
    """Begins its first epoch at a step."""

    at = (0, 0)
    made = None

    def epochs_made(self, iterator):
        if self.made is None:
            self.made = iterator
            epochs.begin_at(iterator, *self.at)


class Steps(keras.callbacks.Callback):
    """Notes the steps of every epoch, and what was read of the pass."""

    def __init__(self):
        super().__init__()
        self.steps, self.read = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append([])
        self.read.append(epochs.batches_read(self.model.made))

    def on_train_batch_begin(self, batch, logs=None):
        self.steps[-1].append(batch)


@pytest.mark.parametrize("fused", [1, 2])
def test_an_epoch_can_begin_at_a_step(fused):
    model, steps = Starting(), Steps()
    model.at = 4, 0
    model.compile("sgd", "mse", steps_per_execution=fused)
    x, y = np.arange(5).repeat(2), np.ones((10, 2))
    options = {"batch_size": 1, "verbose": 0, "callbacks": [steps]}
    model.fit(x, y, epochs=2, validation_data=(X, Y), **options)
    assert steps.steps == [[*range(4, 10, fused)], [*range(0, 10, fused)]], (
        "`fit` no longer builds the model with the `EpochIterator` that it "
        "counts steps with, or takes them from another method than "
        "`_enumerate_iterator`: a resumed epoch would begin with step 0."
    )


def test_a_pass_can_last_several_epochs():
    model, steps = Starting(), Steps()
    model.compile("sgd", "mse")
    x, y = np.arange(4).repeat(3), np.ones((12, 2))
    options = {"batch_size": 1, "verbose": 0, "callbacks": [steps]}
    model.fit(x, y, epochs=3, steps_per_epoch=4, **options)
    assert steps.read == [0, 4, 8], (
        "`_steps_seen` no longer counts what was read of a pass that several "
        "epochs share: a resumed run would go on with another batch."
    )


def test_the_first_epoch_can_be_set_by_a_callback():
    class Late(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            trainer.begin_at_epoch(self.model, 2)

    model, steps = Starting(), Steps()
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=3, callbacks=[Late(), steps], verbose=0)
    assert len(steps.steps) == 1, (
        "`fit` no longer begins with `_initial_epoch`, as `BackupAndRestore` "
        "sets it: a plain Keras model would be trained from the first epoch."
    )


def test_callbacks_remember_what_we_keep():
    remembered = callbacks.REMEMBERED
    made = [
        keras.callbacks.EarlyStopping("loss"),
        keras.callbacks.History(),
        keras.callbacks.ModelCheckpoint("{epoch}.keras"),
        keras.callbacks.ReduceLROnPlateau("loss"),
        keras.callbacks.SwapEMAWeights(),
    ]
    assert {type(one) for one in made} == set(remembered)
    for callback in made:
        code = inspect.getsource(type(callback))
        missing = [
            name
            for name in remembered[type(callback)]
            if f"self.{name} =" not in code and not hasattr(callback, name)
        ]
        assert not missing, (
            f"`{type(callback).__name__}` no longer has {missing}: see what "
            "it remembers now, or a resumed run loses it."
        )


def test_the_global_random_numbers_have_a_state():
    keras.utils.clear_session()
    assert seeds.global_state_of_seeds() is None
    keras.random.normal((2,))
    state = np.array(seeds.global_state_of_seeds())
    drawn = np.array(keras.random.normal((2,)))
    seeds.set_global_state_of_seeds(state)
    again = np.array(keras.random.normal((2,)))
    np.testing.assert_array_equal(
        again,
        drawn,
        err_msg="Keras keeps its global random numbers elsewhere: what "
        "`keras.random` draws without a seed differs in a resumed run.",
    )


def test_seeds_are_those_that_keras_sets(monkeypatch):
    # Else it does call Keras' function.
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    drawn = []
    for set_random_seed in (keras.utils.set_random_seed, seeds.set_random_seed):
        set_random_seed(7)
        assert process_seeds.seed_in_use() == 7
        normal = np.array(keras.random.normal((2,)))
        drawn.append([random.random(), np.random.rand(), *normal])
    assert drawn[0] == drawn[1], (
        "`keras.utils.set_random_seed` sets other seeds now: `fit_recipe` "
        "trains another model than before with the same seed."
    )


def test_a_train_function_takes_state_and_iterator():
    model = Hooks()
    calls = []

    def own(state, iterator):
        calls.append([len(state), next(iterator)])
        return {"seven": np.float32(7)}, state

    model.own_train_function = lambda: own
    model.compile("sgd", "mse")
    history = model.fit(X, Y, batch_size=4, verbose=0)
    assert calls[0][0] == 4 and history.history["seven"] == [7.0], (
        "`fit` no longer calls `train_function(state, iterator)` with a state "
        "of four lists, and takes logs and state from it."
    )


def test_the_loss_tracker_is_behind_the_loss():
    model = Hooks()
    model.compile("sgd", "mse")
    loss = model.train_on_batch(X, Y)
    assert float(model.loss_tracker.result()) == pytest.approx(float(loss)), (
        "`Trainer._loss_tracker` no longer is the metric behind `loss`."
    )


def test_a_model_knows_that_it_is_not_compiled():
    with pytest.raises(ValueError, match="compile") as caught:
        Hooks().check_compiled("fit")
    assert "_assert_compile_called" not in str(caught.value), (
        "`Trainer._assert_compile_called` is gone."
    )


def test_weights_are_reattached_inside_fit():
    model = Hooks()
    model.compile("sgd", "mse")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            table = callbacks.model_of(self).table.variables[0]
            seen.append(variables.is_detached(table))
            trainer.reattach_weights(model)
            seen.append(variables.is_detached(table))

    model.fit(X, Y, verbose=0, callbacks=[Look()])
    assert seen == [True, False], (
        "Inside `fit` the weights are no longer detached until "
        "`jax_state_sync`, or `Callback._model` reattaches them."
    )


def test_the_loss_and_its_updates_are_stateless():
    model = Hooks()
    model.compile("sgd", "mse")
    model(X)
    table = model.table.variables[0]
    state = [[table.value], [], None, []]
    state[3] = [v.value for v in model.metrics_variables]
    weights = np.ones(4, "float32")
    result = trainer.loss_and_updates(
        model, state, X, Y, weights, training=False
    )
    _, (loss, y_pred, non_trainable, metrics) = result
    expected = np.mean((np.asarray(table.value)[X] - 1) ** 2)
    np.testing.assert_allclose(
        loss,
        expected,
        rtol=1e-5,
        err_msg="`compute_loss_and_updates` no longer returns `(scaled loss, "
        "(loss, y_pred, non_trainable, metrics))`.",
    )
    assert y_pred.shape == (4, 2) and non_trainable == []
    logs, updated = trainer.update_metrics(
        model, metrics, loss, X, Y, y_pred, weights
    )
    assert "loss" in logs and len(updated) == len(metrics), (
        "`_update_metrics_variables` no longer returns logs and variables."
    )


def test_a_failing_loop_loses_the_weights_but_for_us():
    model = Hooks()
    model.compile("sgd", "mse")
    model(X)

    def broken():
        raise RuntimeError("no data")
        yield

    with pytest.raises(RuntimeError, match="no data"), model.keep_weights():
        model.evaluate(adapters.get_data_adapter(x=broken_batches(broken)))
    assert not variables.is_detached(model.table.variables[0]), (
        "The weights are lost where a loop over the data fails, although they "
        "were kept: look how Keras detaches them now."
    )


def broken_batches(iterate):
    class Broken(adapters.DataAdapter):
        num_batches = batch_size = None
        has_partial_batch = False
        partial_batch_size = None

        def get_jax_iterator(self, *args):
            return iterate()

        get_numpy_iterator = get_jax_iterator

    return Broken()


# JAX


def test_jax_says_whether_it_has_started():
    from keras_dp_retrieval._jax import devices

    jax.devices()
    assert devices.has_started() is True, (
        "`jax._src.xla_bridge.backends_are_initialized` no longer says "
        "whether JAX has started its devices."
    )


def test_jax_keeps_the_client_of_its_processes():
    from jax._src import distributed

    assert hasattr(distributed.global_state, "client"), (
        "`jax._src.distributed.global_state.client` is gone: processes cannot "
        "leave notes for each other, so a stall stays unexplained."
    )


def test_processes_are_joined_with_time_limits():
    names = inspect.signature(jax.distributed.initialize).parameters
    missing = {
        "local_device_ids",
        "cluster_detection_method",
        "heartbeat_timeout_seconds",
        "initialization_timeout",
    } - set(names)
    assert not missing, (
        f"`jax.distributed.initialize` no longer takes {sorted(missing)}."
    )
    assert hasattr(jax.config, "jax_enable_preemption_service"), (
        "JAX's option `jax_enable_preemption_service` is gone: see that "
        "SIGTERM still ends one of several processes."
    )


def test_keras_knows_the_seed_that_was_set():
    keras.utils.set_random_seed(11)
    assert process_seeds.seed_in_use() == 11, (
        "`rng_utils.get_random_seed` no longer returns what "
        "`set_random_seed` was given: processes with other seeds fail late."
    )
    process_seeds.agree_on_seed()  # Keeps what the user chose, and asks nobody.
    assert process_seeds.seed_in_use() == 11


def test_jax_reports_what_it_compiles():
    from keras_dp_retrieval._jax import compilation

    compilation.listen()
    before = compilation.seconds()
    events = []
    jax.monitoring.register_event_time_span_listener(
        lambda event, *_, **__: events.append(event)
    )
    jax.jit(lambda x: x * 2 + 7)(np.ones(3))
    missing = set(compilation._PHASES) - set(events)
    assert not missing and compilation.seconds() > before, (
        f"JAX no longer reports {sorted(missing)}: `compile_seconds` would "
        "leave out a phase. See which events jax.monitoring has."
    )


def test_jax_tells_one_trace_from_another():
    from jax.extend.core import get_opaque_trace_state

    outside = get_opaque_trace_state()
    assert outside == get_opaque_trace_state()
    inside = []

    def body(carry, x):
        inside.append(get_opaque_trace_state())
        return carry, x

    jax.lax.scan(body, 0.0, np.ones(2))
    assert all(state != outside for state in inside), (
        "`get_opaque_trace_state` no longer distinguishes a scan's body from "
        "what is around it: lookups inside would be taken for lookups outside."
    )


def test_the_compilation_cache_can_be_moved():
    from jax.experimental.compilation_cache import compilation_cache

    assert callable(getattr(compilation_cache, "reset_cache", None)), (
        "`compilation_cache.reset_cache` is gone: a folder that is set after "
        "something was compiled is not used."
    )
    for name in (
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    ):
        assert hasattr(jax.config, name), f"JAX's option `{name}` is gone."


def test_an_array_says_whether_it_is_bound_to_its_device():
    free = jax.numpy.ones(2)
    bound = jax.device_put(free, free.sharding)
    assert not free.committed and bound.committed, (
        "`jax.Array.committed` no longer says whether an array is bound to "
        "its device: a step on one device may be compiled twice."
    )


# KerasTuner


BEST_M = keras_tuner.Objective("m", "max")


def one_choice():
    values = keras_tuner.HyperParameters()
    values.Choice("x", [1, 2, 3, 4])
    return {"objective": BEST_M, "hyperparameters": values, "seed": 1}


class Hooked(_keras_tuner.OracleHooks, keras_tuner.oracles.RandomSearchOracle):
    """Notes which trials KerasTuner writes, and ignores some failures."""

    def __init__(self, ignored=False):
        super().__init__(max_trials=4, **one_choice())
        self.ignored = ignored
        self.written = []

    def write_trial(self, trial, path):
        self.written.append(pathlib.Path(path))
        trial.save(path)

    def ignores_failure(self, trial):
        return self.ignored


class Search(keras_tuner.Tuner):
    """A search without models: `m` of a trial is its `x`, or an error."""

    fails = False

    def run_trial(self, trial, **kwargs):
        x = trial.hyperparameters["x"]
        if self.fails:
            raise ArithmeticError("no luck")
        return {"m": float(x)}


def searched(tmp_path, oracle):
    tuner = Search(oracle, directory=tmp_path, project_name="p")
    tuner.search(verbose=0)
    return tuner


def test_an_oracle_writes_its_trials_by_one_method(tmp_path):
    oracle = Hooked()
    searched(tmp_path, oracle)
    folders = _keras_tuner.trial_folders(tmp_path / "p")
    assert len(folders) == 4 and (
        set(oracle.written) == {f / _keras_tuner.TRIAL_FILE for f in folders}
    ), (
        "`Oracle._save_trial` no longer writes a trial to `trial.json` in "
        "`Oracle._get_trial_dir`: a killed search could leave half a file."
    )


def test_an_oracle_and_a_tuner_write_their_states_to_files(tmp_path):
    tuner = searched(tmp_path, Hooked())
    for path, name in [
        (tuner.oracle.state_file, "Oracle._get_oracle_fname"),
        (_keras_tuner.tuner_file(tuner), "BaseTuner._get_tuner_fname"),
    ]:
        assert pathlib.Path(path).parent == tmp_path / "p" and (
            pathlib.Path(path).exists()
        ), (
            f"`{name}` no longer is the file that KerasTuner writes: a search "
            "would be resumed from another."
        )


def test_failures_in_a_row_are_counted_by_one_method(tmp_path):
    class Failing(Search):
        fails = True

    def search(name, ignored):
        oracle = Hooked(ignored)
        Failing(oracle, directory=tmp_path, project_name=name).search(verbose=0)
        return oracle

    with pytest.raises(RuntimeError, match="consecutive failures"):
        search("counted", ignored=False)
    oracle = search("ignored", ignored=True)
    assert len(oracle.trials) == len(oracle.end_order) == 4, (
        "`Oracle._check_consecutive_failures` no longer looks for failures in "
        "`end_order`: trials that diverge would end a search."
    )


def test_a_trial_file_has_the_result(tmp_path):
    searched(tmp_path, Hooked())
    folder = _keras_tuner.trial_folder(tmp_path / "p", "0")
    trial = _keras_tuner.read_trial(folder)
    score = float(trial["values"]["x"])
    assert trial == {
        "trial_id": "0",
        "values": {"x": score},
        "status": "COMPLETED",
        "score": score,
        "message": None,
    }, "`Trial.get_state` no longer writes these: results could not be read."


def test_a_grid_is_continued_from_its_state(tmp_path):
    def grid():
        oracle = keras_tuner.oracles.GridSearchOracle(
            max_trials=2, **one_choice()
        )
        return searched(tmp_path, oracle).oracle

    first = grid()
    state = json.loads(json.dumps(_keras_tuner.grid_state(first)))
    assert state["ordered_ids"] == ["0", "1"], (
        "`GridSearchOracle._ordered_ids` no longer is a linked list of the "
        "trials, with `_next_index` and `_memory`."
    )
    resumed = grid()  # KerasTuner reloads all but the grid.
    _keras_tuner.set_grid_state(resumed, state)
    first.max_trials = resumed.max_trials = 4
    assert (
        resumed.populate_space("2")
        == first.populate_space("2")
        == {
            "status": "RUNNING",
            "values": {"x": 3},
        }
    ), (
        "`GridSearchOracle._populate_next` and `_ordered_ids` no longer are "
        "all that a grid search continues from (keras-tuner#1055)."
    )


class Flat:
    """A Gaussian process that expects the same everywhere."""

    def fit(self, x, y):
        pass

    def predict(self, x, return_std):
        return np.zeros(1), np.zeros(1)


def test_a_bayesian_search_draws_from_its_random_state(tmp_path):
    oracle = keras_tuner.oracles.BayesianOptimizationOracle(
        max_trials=1, num_initial_points=1, **one_choice()
    )
    searched(tmp_path, oracle)
    oracle.gpr = Flat()  # So that it stays where it starts.
    chosen = []
    for seed in (5, 5, 6):
        _keras_tuner.set_random_points(oracle, seed)
        chosen.append(oracle.populate_space("1")["values"]["x"])
    assert chosen[0] == chosen[1] != chosen[2], (
        "`BayesianOptimizationOracle._random_state` no longer gives the "
        "points from which a search looks for its next trial: a resumed "
        "search would end differently."
    )


def test_a_hypermodel_gets_the_callbacks_of_the_tuner(tmp_path):
    epochs = [{"logs": {"m": 0.75}}, {"logs": {"m": 0.5}}]
    given = []

    class Look(keras_tuner.HyperModel):
        def build(self, hp):
            return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

        def fit(self, hp, model, callbacks, **kwargs):
            given.extend(callbacks)
            return {"m": 1.0}

    tuner = keras_tuner.RandomSearch(
        *(Look(), BEST_M, 1), directory=tmp_path, project_name="p"
    )
    tuner.search(verbose=0)
    hook = _keras_tuner.trial_hook(given)
    assert hook.tuner is tuner and hook.trial.trial_id == "0", (
        "`TunerCallback` no longer has `tuner` and `trial`: a hypermodel "
        "cannot find the folder of its trial."
    )
    _keras_tuner.restore_best_value(given, epochs)
    best = [c.best_value for c in given if hasattr(c, "best_value")]
    assert best == [0.75], (
        "`SaveBestEpoch` no longer has `best_value` and `objective`: a "
        "resumed trial would overwrite the weights of its best epoch."
    )


def test_hyperband_keeps_its_rounds_among_the_values(tmp_path):
    oracle = keras_tuner.oracles.HyperbandOracle(max_epochs=3, **one_choice())
    oracle.max_trials = 1
    tuner = searched(tmp_path, oracle)
    (trial,) = tuner.oracle.trials.values()
    names = trial.hyperparameters.values
    assert {n for n in names if not _keras_tuner.is_own_value(n)} == {"x"}, (
        "Hyperband's own values no longer begin with `tuner/`: tables would "
        "show them as hyperparameters."
    )


# No private name stands anywhere else.


FILES = sorted(PACKAGE.rglob("*.py"))
# What may name what a library does not export: folders, or one file.
PRIVATE = ("_keras/", "_jax/", "tuning/_keras_tuner.py")
# Of Python's own library, and documented there.
PYTHON = {"_exit", "_getframe", "_current_frames", "_replace", "_asdict"}
# Public by name, but in no reference.
ORACLES = (
    keras_tuner.oracles.RandomSearchOracle,
    keras_tuner.oracles.GridSearchOracle,
    keras_tuner.oracles.BayesianOptimizationOracle,
    keras_tuner.oracles.HyperbandOracle,
)
UNDOCUMENTED = {
    "compute_loss_and_updates",
    "jax_state_sync",
    "make_test_function",
    "predict_function",
    "test_function",
}


def is_behind(path, doors):
    return path.relative_to(PACKAGE).as_posix().startswith(doors)


def private_uses(tree):
    """`(line, name)` of every attribute with one underscore in front."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr"):
                name = getattr(node.args[1], "value", None)
        if not isinstance(name, str) or name.startswith("__"):
            continue
        if name.startswith("_") or name in UNDOCUMENTED:
            yield node.lineno, name


def defined(tree):
    """The names that a file gives to its own functions and attributes."""
    for node in ast.walk(tree):
        if isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ):
            yield node.name
        elif isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Store) and (
                ast.unparse(node.value) in ("self", "cls")
            ):
                yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


TREES = {path: ast.parse(path.read_text()) for path in FILES}
OURS = {name for tree in TREES.values() for name in defined(tree)}


def test_private_names_stay_in_their_files():
    model, table = small_model()
    objects = [
        model,
        table,
        model.optimizer,
        table.variables[0],
        keras.metrics.Mean(),
        keras.losses.MeanSquaredError(),
        keras.callbacks.Callback(),
        keras.callbacks.CallbackList(),
        keras_tuner.HyperModel(),
        keras_tuner.Tuner,
        keras_tuner.Hyperband,
        *(kind(BEST_M) for kind in ORACLES),
    ]
    upstream = {name for one in objects for name in dir(one)}
    found = []
    for path, tree in TREES.items():
        if is_behind(path, PRIVATE):
            continue
        own = set(defined(tree))
        for line, name in private_uses(tree):
            foreign = name not in OURS or name in upstream
            if name not in own | PYTHON and foreign:
                found.append(f"{path.relative_to(PACKAGE)}:{line} {name}")
    assert not found, (
        f"Private names of other libraries belong into {', '.join(PRIVATE)}, "
        f"with a reason and a contract test: {found}"
    )


@pytest.mark.parametrize(
    ("module", "home"),
    [
        ("keras.src", "_keras/"),
        ("jax._src", "_jax/"),
        ("keras_tuner.src", "tuning/_keras_tuner.py"),
    ],
)
def test_private_modules_are_imported_in_their_files(module, home):
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path, line, name in modules_named()
        if f"{name}.".startswith(f"{module}.") and not is_behind(path, home)
    ]
    assert not found, f"`{module}` is named outside of `{home}`: {found}"


@functools.cache
def modules_named():
    """`(path, line, module)` of all files."""
    return [
        (path, node.lineno, name)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        for name in modules(node)
    ]


def modules(node):
    """The modules that a node of a file names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return [f"{node.value.id}.{node.attr}"]
    return []


def test_nothing_private_is_overridden_elsewhere():
    bases = (
        keras.layers.Layer,
        keras.callbacks.Callback,
        keras.metrics.Metric,
        keras.losses.Loss,
        keras.optimizers.Optimizer,
        adapters.DataAdapter,
        keras_tuner.HyperModel,
        keras_tuner.Oracle,
        keras_tuner.engine.base_tuner.BaseTuner,
    )
    found = []
    for module in pkgutil.walk_packages([str(PACKAGE)], "keras_dp_retrieval."):
        path = module.name.partition(".")[2].replace(".", "/")
        if path == "__main__" or f"{path}.py".startswith(
            ("_keras", PRIVATE[2])
        ):
            continue
        for one in vars(importlib.import_module(module.name)).values():
            if not isinstance(one, type) or one.__module__ != module.name:
                continue
            for base in bases:
                if not issubclass(one, base):
                    continue
                upstream = [
                    parent
                    for parent in one.__mro__
                    if parent.__module__.startswith(("keras.", "keras_tuner."))
                ]
                found += [
                    f"{one.__name__}.{key}"
                    for key in vars(one)
                    if key in UNDOCUMENTED
                    or (key.startswith("_") and not key.startswith("__"))
                    if any(key in vars(parent) for parent in upstream)
                ]
    # Keras gives these to every class that it makes.
    generated = ("_abc_impl", "_tf_", "_self_", "_keras_api")
    found = [f for f in found if not f.split(".")[1].startswith(generated)]
    assert not found, f"Private parts of a library are overridden: {found}"
