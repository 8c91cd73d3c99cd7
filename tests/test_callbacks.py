"""DistributionAwareCallback against a clock that the test turns itself."""

import copy
import csv
import json
import types
import warnings

import jax
import keras
import numpy as np
import pytest

from keras_dp_retrieval import (
    RetrievalDataset,
    TwoTowerRetrieval,
    report,
)
from keras_dp_retrieval._jax import compilation, devices
from keras_dp_retrieval._keras import adapters
from keras_dp_retrieval.callbacks import DistributionAwareCallback
from keras_dp_retrieval.callbacks.record import (
    slowest_device,
    slowest_process,
    step_seconds,
)
from keras_dp_retrieval.callbacks.row_counter import RowCounter
from keras_dp_retrieval.callbacks.step_recorder import StepRecorder


class Clock:
    """Stands still until `advance` is called."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def compiler(monkeypatch):
    """A compiler's account that the test writes itself."""
    account = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(compilation, "totals", account)
    monkeypatch.setattr(compilation, "_PHASES", ())  # Not the real one.
    return account


class Batches(keras.utils.PyDataset):
    """Batches of ones; fetching one takes `seconds` on the clock.

    `fit` shuffles them by default.
    """

    def __init__(self, sizes, clock=None, seconds=0.0, weights=None):
        super().__init__()
        self.sizes, self.weights = sizes, weights
        self.clock, self.seconds = clock, seconds

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        if self.seconds:
            self.clock.advance(self.seconds)
        rows = self.sizes[index]
        x, y = np.ones((rows, 3), "float32"), np.ones((rows, 1), "float32")
        if self.weights is None:
            return x, y
        return x, y, self.weights[index]


def linear_model(steps_per_execution=1):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=steps_per_execution)
    return model


def make_steps_take(model, seconds_of_step):
    """Every call of the train function moves the clock as the test says.

    The device is done when the call returns: what it does after that, no
    clock of ours governs.
    """
    model.make_train_function()
    inner, calls = model.train_function, iter(range(10**6))

    def train_function(state, iterator):
        outputs = jax.block_until_ready(inner(state, iterator))
        seconds_of_step(next(calls))
        return outputs

    model.train_function = train_function
    return train_function


class Idle(keras.callbacks.Callback):
    """A checkpoint, say: takes its time at the end of every epoch."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def on_epoch_end(self, epoch, logs=None):
        self.clock.advance(self.seconds)


def test_every_second_of_an_epoch_is_accounted_for(clock, compiler):
    model = linear_model()

    def step(call):
        clock.advance(0.1)
        if call == 0:
            clock.advance(3.0)
            compiler.seconds += 3.0

    make_steps_take(model, step)
    model.make_test_function()
    test_function = model.test_function

    def slow_test_function(state, iterator):
        clock.advance(0.4)
        return test_function(state, iterator)

    model.test_function = slow_test_function
    callback = DistributionAwareCallback(clock=clock)
    model.fit(
        Batches([10, 10, 10, 10], clock, 0.02),
        validation_data=(np.ones((10, 3)), np.ones((10, 1))),
        epochs=2,
        verbose=0,
        callbacks=[Idle(clock, 0.5), callback, Idle(clock, 0.25)],
    )
    first, second = callback.history
    for record in (first, second):
        assert record["examples"] == 40
        assert record["steps"] == 4
        assert record["input_wait_seconds"] == pytest.approx(0.08)
        assert record["validation_seconds"] == pytest.approx(0.4)
        assert record["callbacks_seconds"] == pytest.approx(0.75)
        # 4 steps of 0.12 s: compilation is no part of the rate.
        assert record["examples_per_second"] == pytest.approx(40 / 0.48)
        assert record["step_seconds_median"] == pytest.approx(0.12)
        assert record["step_seconds_p95"] == pytest.approx(0.12)
    assert first["compile_seconds"] == pytest.approx(3.0)
    assert first["compiled_steps"] == [0]
    assert first["training_seconds"] == pytest.approx(3.48)
    assert first["seconds"] == pytest.approx(3.48 + 0.4 + 0.75)
    assert second["compile_seconds"] == 0.0
    assert second["compiled_steps"] == []
    assert second["seconds"] == pytest.approx(0.48 + 0.4 + 0.75)


class Slow(keras.callbacks.Callback):
    """Takes its time before an epoch begins."""

    def __init__(self, clock, seconds):
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.clock.advance(self.seconds)


@pytest.mark.parametrize("first", [True, False])
def test_training_begins_with_the_first_batch(clock, compiler, first):
    model = linear_model()
    make_steps_take(model, lambda call: clock.advance(0.1))
    callback = DistributionAwareCallback(clock=clock)
    callbacks = [callback, Slow(clock, 0.5)]
    history = model.fit(
        Batches([40] * 4),
        epochs=2,
        verbose=0,
        callbacks=callbacks if first else callbacks[::-1],
    ).history
    assert history["examples_per_second"] == pytest.approx([400.0] * 2)
    for record in callback.history:
        assert record["training_seconds"] == pytest.approx(0.4)
        assert record["step_seconds_median"] == pytest.approx(0.1)
    last = callback.history[-1]
    # What comes before our own hook is the end of the epoch before.
    assert last["callbacks_seconds"] == pytest.approx(0.5 * first)
    assert callback.history[0]["callbacks_seconds"] == pytest.approx(0.5)


def test_in_evaluate_and_predict_it_measures_nothing():
    model, callback = linear_model(), DistributionAwareCallback()
    data = Batches([4, 4])
    model.evaluate(data, verbose=0, callbacks=[callback])
    model.predict(np.ones((4, 3)), verbose=0, callbacks=[callback])
    assert callback.history == []
    model.fit(data, verbose=0, callbacks=[callback])
    before = copy.deepcopy(callback.history)
    model.evaluate(data, verbose=0, callbacks=[callback])
    model.predict(np.ones((4, 3)), verbose=0, callbacks=[callback])
    assert callback.history == before
    with pytest.raises(RuntimeError, match="broken on purpose"):
        breaks = Breaks("on_train_batch_begin")
        model.fit(data, verbose=0, callbacks=[callback, breaks])
    model.evaluate(data, verbose=0, callbacks=[callback])
    assert callback.history == []


def test_a_validation_in_mid_epoch_is_no_training(clock, compiler):
    model = linear_model()
    make_steps_take(model, lambda call: clock.advance(0.1))
    callback = DistributionAwareCallback(clock=clock)

    class Validate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                clock.advance(0.03)
                self.model.evaluate(
                    Batches([4]), verbose=0, callbacks=[callback, Test()]
                )
                clock.advance(0.05)

    class Test(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            clock.advance(0.7)

    model.fit(
        Batches([4] * 4), epochs=1, verbose=0, callbacks=[callback, Validate()]
    )
    (record,) = callback.history
    assert record["steps"] == 4 and record["examples"] == 16
    # The batch hook before the validation is training, what follows is not.
    assert record["training_seconds"] == pytest.approx(0.43)
    assert record["validation_seconds"] == pytest.approx(0.7)
    assert record["callbacks_seconds"] == pytest.approx(0.05)
    assert record["seconds"] == pytest.approx(0.43 + 0.7 + 0.05)


def looped(model, callback, sizes, announced=lambda step: 1, epochs=2):
    """`train_on_batch` in a loop that calls the callbacks as `fit` does."""
    callbacks = keras.callbacks.CallbackList([callback], model=model)
    callbacks.on_train_begin()
    for epoch in range(epochs):
        callbacks.on_epoch_begin(epoch)
        for step, rows in enumerate(sizes):
            for _ in range(announced(step)):
                callbacks.on_train_batch_begin(step)
            model.train_on_batch(np.ones((rows, 3)), np.ones((rows, 1)))
            callbacks.on_train_batch_end(step)
        callbacks.on_epoch_end(epoch)
    callbacks.on_train_end()
    return callback.history


def test_a_loop_of_train_on_batch_counts_every_row():
    model = linear_model()
    records = looped(model, DistributionAwareCallback(), [100, 100, 100])
    assert [r["examples"] for r in records] == [300, 300]
    assert [r["steps"] for r in records] == [3, 3]
    assert all(r["examples_per_second"] > 0 for r in records)


def test_steps_that_were_not_seen_make_no_figure(on_devices):
    for announced in (
        lambda step: 0,
        lambda step: step != 1,
        lambda step: 1 + (step == 2),
    ):
        callback = DistributionAwareCallback()
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            records = looped(linear_model(), callback, [4] * 3, announced)
        for record in records:
            for name in (
                "examples",
                "examples_per_second",
                "steps",
                "step_seconds_median",
                "compile_seconds",
            ):
                assert record[name] is None
                assert "on_train_batch_begin" in record["unknown"][name]
            json.dumps(record, allow_nan=False)
        assert "Unknown: examples" in report.table(callback._as_run())


def test_a_compilation_is_put_down_to_the_shape_only_where_that_changed(
    on_devices,
):
    # Keras gives the first step weights that JAX may move, and gets them back
    # bound to the one device; each epoch's metrics are new.
    on_devices(1)
    callback = DistributionAwareCallback()
    linear_model().fit(
        Batches([4] * 4), epochs=2, verbose=0, callbacks=[callback]
    )
    first, second = callback.history
    assert first["compiled_steps"] == [0, 1]
    assert first["compile_reasons"] == ["first step", "same shape"]
    assert second["compile_reasons"] == ["same shape"]
    text = report.table(callback._as_run())
    assert "again in epoch 0 step 1, epoch 1 step 0 for a batch of the" in text
    assert "new shape" not in text


def test_one_slow_step_in_ten_shows_in_p95_not_in_the_median(clock, compiler):
    model = linear_model()
    make_steps_take(
        model, lambda call: clock.advance(2.0 if call == 4 else 0.1)
    )
    callback = DistributionAwareCallback(clock=clock)
    model.fit(Batches([4] * 10), epochs=1, verbose=0, callbacks=[callback])
    (record,) = callback.history
    assert record["step_seconds_median"] == pytest.approx(0.1)
    assert record["step_seconds_p95"] == pytest.approx(2.0)


def test_quantiles_weigh_windows_by_their_steps():
    assert step_seconds([]) == (None, None)
    windows = [(90, 9.0), (10, 5.0)]  # 90 steps of 0.1 s, 10 of 0.5 s
    assert step_seconds(windows) == pytest.approx((0.1, 0.5))


def test_recompilation_is_blamed_on_its_step_and_warned_about_once(
    clock, compiler
):
    if adapters.keras_fuses_steps():
        pytest.skip("Batches come in groups: below is a test of those.")
    model = linear_model(steps_per_execution=3)
    batch_shapes = set()
    model.make_train_function()
    inner = model.train_function

    def train_function(state, iterator):
        def watched():
            for batch in iterator:
                # As a compiler does: while the batch is used, not fetched.
                yield batch
                if batch[0].shape not in batch_shapes:
                    batch_shapes.add(batch[0].shape)
                    clock.advance(1.5)
                    compiler.seconds += 1.5

        return inner(state, watched())

    model.train_function = train_function
    callback = DistributionAwareCallback(clock=clock)
    with pytest.warns(UserWarning, match="new shape") as caught:
        model.fit(
            Batches([8, 8, 8, 8, 6, 8, 5, 8, 8]),
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
    (warning,) = [w for w in caught if "new shape" in str(w.message)]
    assert "Step 4 of epoch 0" in str(warning.message)
    assert "(6, 3)" in str(warning.message)
    assert callback.history[0]["compiled_steps"] == [0, 4, 6]
    reasons = ["first step", "new shape", "new shape"]
    assert callback.history[0]["compile_reasons"] == reasons
    assert "epoch 0 step 4, epoch 0 step 6, because a batch came" in (
        report.table(callback._as_run())
    )
    assert callback.history[0]["compile_seconds"] == pytest.approx(4.5)
    assert callback.history[1]["compiled_steps"] == []


@pytest.mark.usefixtures("no_compilation_cache")
def test_the_real_compiler_is_heard():
    model = linear_model()
    callback = DistributionAwareCallback()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(
            Batches([8, 8, 5]),
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[callback],
        )
    first, second = callback.history
    assert first["compiled_steps"] == [0, 2]
    assert 0 < first["compile_seconds"] < first["training_seconds"]
    assert second["compiled_steps"] == []
    assert sum("new shape" in str(w.message) for w in caught) == 1


def test_nested_traces_are_counted_once(monkeypatch):
    monkeypatch.setattr(compilation, "totals", compilation._Totals())
    trace, lower, backend = compilation._PHASES
    compilation._add_span(trace, 2.0, 3.0)  # inside the next
    compilation._add_span(trace, 4.0, 4.5)  # inside the next
    compilation._add_span(trace, 1.0, 5.0)
    compilation._add_span(lower, 5.0, 6.0)
    compilation._add_span(backend, 6.0, 9.0)
    compilation._add_span("/jax/core/something_else", 0.0, 50.0)
    assert compilation.seconds() == pytest.approx(8.0)


@pytest.mark.parametrize("num_devices", [None, 1, 2, 8])
def test_padding_rows_are_no_examples(on_devices, num_devices):
    if num_devices:
        on_devices(num_devices)
    model = linear_model()
    last = np.array([1, 1, 1, 0.5, 0, 0, 0, 0], "float32")
    callback = DistributionAwareCallback()
    model.fit(
        Batches([8, 8], weights=[np.ones(8, "float32"), last]),
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )
    (record,) = callback.history
    assert record["examples"] == 12
    assert record["num_devices"] == (num_devices or 1)
    shares = {None: [12], 1: [12], 2: [8, 4], 8: [2, 2, 2, 2, 1, 1, 1, 1]}
    found = [device["examples"] for device in record["devices"]]
    assert found == shares[num_devices]
    names = [device["name"] for device in record["devices"]]
    assert names == [f"cpu:{i}" for i in range(num_devices or 1)]


def test_rows_without_weights_are_divided_over_the_devices(on_devices):
    on_devices(4)
    callback = DistributionAwareCallback()
    linear_model().fit(Batches([8, 8]), verbose=0, callbacks=[callback])
    (record,) = callback.history
    assert record["examples"] == 16
    assert [device["examples"] for device in record["devices"]] == [4] * 4


def test_a_table_on_two_devices_counts_its_rows_once():
    # Two copies of each half of the batch, along the model axis.
    names = keras.distribution.list_devices()[:4]
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], names)
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=keras.distribution.LayoutMap(mesh),
            batch_dim_name="batch",
        )
    )
    weights = [np.array([1, 1, 0, 1], "float32")] * 2
    for data in (Batches([4, 4]), Batches([4, 4], weights=weights)):
        callback = DistributionAwareCallback()
        linear_model().fit(data, verbose=0, callbacks=[callback])
        (record,) = callback.history
        rows = 8 if data.weights is None else 6
        assert record["examples"] == rows
        shares = [device["examples"] for device in record["devices"]]
        assert sum(shares) == 2 * rows
        assert record["num_devices"] == 4


# Groups of fused steps: `(batch, steps, ...)` as this package stacks them for
# a Keras that does not fuse, `(steps, batch, ...)` as one that does has them.


@pytest.mark.parametrize("step_axis", [0, 1])
def test_fused_batches_are_several_steps(step_axis):
    weights = np.ones((6, 4), "float32")
    weights[4:, 3] = 0  # The last of four steps has two rows of padding.
    x, y = np.zeros((6, 4), "int32"), np.zeros((6, 4), "float32")
    group = x, y, weights
    if step_axis == 0:
        group = tuple(rows.T for rows in group)
    counter = RowCounter()
    assert counter.add(group, step_axis) == 4
    assert counter.add(group[:2], step_axis) == 4
    counter.fold()
    assert counter.total == 22 + 24
    # The same weights per position, in one step: every row has a real one.
    counter = RowCounter()
    assert counter.add((x, y, weights)) == 1
    counter.fold()
    assert counter.total == 6


def test_fused_weights_per_position_are_one_row_each():
    weights = np.zeros((2, 3, 5), "float32")  # Steps, rows, positions.
    weights[0, 1, 2:] = 1
    weights[1, :2] = 1
    counter = RowCounter()
    assert counter.add((np.zeros((2, 3, 5)), None, weights), 0) == 2
    counter.fold()
    assert counter.total == 3


@pytest.mark.parametrize("weighted", [True, False])
def test_a_sharded_group_of_steps_is_counted_by_device(weighted):
    mesh = jax.sharding.Mesh(jax.devices()[:4], ("batch",))
    rows = jax.NamedSharding(mesh, jax.P(None, "batch"))
    x, weights = np.zeros((3, 8)), np.ones((3, 8))
    weights[2, 7] -= weighted
    x, weights = jax.device_put((x, weights), rows)
    counter = RowCounter()
    assert counter.add((x, x, weights)[: 2 + weighted], 0) == 3
    counter.fold()
    assert counter.total == 24 - weighted
    expected = {"cpu:0": 6, "cpu:1": 6, "cpu:2": 6, "cpu:3": 6 - weighted}
    assert +counter.by_device == expected


class Unstacked(list):
    """Stands for Keras' list of the batches that it did not stack."""


@pytest.fixture
def unstacked(monkeypatch):
    """The kind of list in which a Keras that fuses has a short group."""
    if adapters.keras_fuses_steps():
        return adapters.partial_batch_list
    monkeypatch.setattr(
        adapters.data_adapter_utils,
        "PartialBatchList",
        Unstacked,
        raising=False,
    )
    return Unstacked


def test_groups_of_a_keras_that_fuses_are_counted_step_by_step(
    clock, compiler, unstacked
):
    def batch(rows, steps=()):
        x = np.zeros((*steps, rows, 2), "float32")
        return x, x, np.ones((*steps, rows), "float32")

    def quick(state, iterator):
        next(iterator)
        return {}, state

    def compiles(state, iterator):
        next(iterator)
        compiler.seconds += 1.5
        return {}, state

    calls = []
    recorder = StepRecorder(
        clock, lambda *about: calls.append(about), step_axis=0
    )
    recorder.begin()
    for group, train_function in (
        (batch(4, (3,)), compiles),
        (batch(4, (3,)), quick),
        (batch(4, (2,)), compiles),  # `tf.data` stacks the last ones too.
        (unstacked([batch(4), batch(4)]), quick),
        (unstacked([batch(4), batch(2), batch(4)]), compiles),
    ):
        recorder.catch_up()
        recorder.call(train_function, [], iter([group]))
    stats = recorder.finish()
    assert stats.steps == 3 + 3 + 2 + 2 + 3
    assert stats.rows.total == 4 * 12 + 2
    assert stats.compiled_steps == [0, 6, 11]
    assert stats.compile_reasons == [
        "first step",
        "other number of fused steps",
        "new shape",
    ]
    assert [step for step, *_ in calls] == [11]


def test_a_row_counts_if_any_output_weighs_it():
    counter = RowCounter()
    one, other = np.array([1, 0, 0, 1]), np.array([0, 0, 1, 1])
    counter.add((np.zeros((4, 2)), None, {"a": one, "b": other}))
    counter.fold()
    assert counter.total == 3


def test_a_buffer_that_is_filled_again_is_counted_each_time():
    counter, weights = RowCounter(), np.ones(4, "float32")
    x = np.zeros((4, 2))
    for real in (4, 1, 3):
        weights[:] = np.arange(4) < real
        assert counter.add((x, None, weights)) == 1
    counter.fold()
    assert counter.total == 8


def test_a_frozen_view_of_a_buffer_is_counted_each_time():
    counter, buffer = RowCounter(), np.ones(4, "float32")
    view = buffer[:]
    view.flags.writeable = False
    for real in (4, 1, 3):
        buffer[:] = np.arange(4) < real
        counter.add((np.zeros((4, 2)), None, view))
    counter.fold()
    assert counter.total == 8


def test_weights_that_nobody_can_change_are_counted_every_time_they_come():
    counter, x = RowCounter(), np.zeros((4, 2))
    some, all_real = np.array([1.0, 0, 0, 1]), np.ones((4, 3))
    for weights in (some, all_real):
        weights.flags.writeable = False
    steps = [
        counter.add((x, None, weights), step_axis=1)
        for weights in (some, some, all_real, all_real, all_real, some)
    ]
    assert steps == [1, 1, 3, 3, 3, 1]
    counter.fold()
    counter.fold()
    assert counter.total == 3 * 2 + 3 * 12


def test_a_short_last_group_of_fused_steps_is_nobodys_mistake(recwarn):
    data = RetrievalDataset.from_synthetic(
        30, 20, 200, batch_size=10, validation_fraction=0.0, test_fraction=0.25
    )
    model = TwoTowerRetrieval.for_dataset(data, 4, objective="rating")
    model.compile("adagrad", steps_per_execution=4)
    callback = DistributionAwareCallback()
    model.fit(data.train, epochs=2, verbose=0, callbacks=[callback])
    assert callback.history[0]["compiled_steps"] == [0, 12]
    assert [record["steps"] for record in callback.history] == [15, 15]
    assert [record["examples"] for record in callback.history] == [150, 150]
    assert not [w for w in recwarn if "new shape" in str(w.message)]
    assert "compiled again" not in report.table(callback._as_run())


@pytest.mark.parametrize("steps_per_execution", [1, 3, 4])
def test_steps_per_execution_and_early_stop(steps_per_execution):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.stop and batch >= 3:
                self.model.stop_training = True

    stop = Stop()
    for stop.stop, steps in ((False, 7), (True, None)):
        callback = DistributionAwareCallback()
        model = linear_model(steps_per_execution)
        before = int(model.optimizer.iterations)
        model.fit(Batches([5] * 7), verbose=0, callbacks=[callback, stop])
        taken = int(model.optimizer.iterations) - before
        assert steps in (None, taken)
        (record,) = callback.history
        assert record["steps"] == taken
        assert record["examples"] == 5 * taken


def test_unknown_number_of_steps():
    def generator():
        for _ in range(5):
            yield np.ones((4, 3)), np.ones((4, 1))

    callback = DistributionAwareCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras: your input ran out of data.
        linear_model().fit(generator(), verbose=0, callbacks=[callback])
    assert callback.history[0]["steps"] == 5
    assert callback.history[0]["examples"] == 20


class Breaks(keras.callbacks.Callback):
    """Raises at a given event."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self._raise)

    def _raise(self, *args, **kwargs):
        raise RuntimeError("broken on purpose")


@pytest.mark.parametrize(
    "hook",
    ["on_epoch_begin", "on_train_batch_begin", "on_test_begin", "on_epoch_end"],
)
def test_the_model_is_itself_again_after_an_exception(hook):
    model = linear_model()
    model.make_train_function()
    own = model.train_function
    callback = DistributionAwareCallback()
    data = Batches([4] * 3)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        model.fit(
            data,
            validation_data=data,
            verbose=0,
            callbacks=[callback, Breaks(hook)],
        )
    # A later `fit` without us is left alone, from its first step on.
    model.fit(data, verbose=0)
    assert model.train_function is own
    # And one with us measures as if nothing had happened.
    model.fit(data, verbose=0, callbacks=[callback])
    assert callback.history[-1]["steps"] == 3
    assert model.train_function is own


def test_an_exception_in_the_data_leaves_the_model_alone():
    class Broken(Batches):
        def __getitem__(self, index):
            if index == 1:
                raise OSError("disk on fire")
            return super().__getitem__(index)

    model = linear_model()
    model.make_train_function()
    own = model.train_function
    with pytest.raises(OSError, match="disk on fire"):
        model.fit(
            Broken([4] * 3), verbose=0, callbacks=[DistributionAwareCallback()]
        )
    assert model.train_function is own


def test_training_is_the_same_with_and_without_it():
    weights = []
    for callbacks in ([], [DistributionAwareCallback()]):
        keras.utils.set_random_seed(1)
        model = linear_model()
        model.fit(Batches([4] * 5), epochs=2, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights())
    for without, with_callback in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_callback)


def test_a_second_fit_starts_anew_and_a_continued_one_continues():
    model, callback = linear_model(), DistributionAwareCallback()
    data = Batches([4] * 2)
    model.fit(data, epochs=3, verbose=0, callbacks=[callback])
    assert [r["epoch"] for r in callback.history] == [0, 1, 2]
    model.fit(data, epochs=5, initial_epoch=3, verbose=0, callbacks=[callback])
    assert [r["epoch"] for r in callback.history] == [0, 1, 2, 3, 4]
    model.fit(data, epochs=1, verbose=0, callbacks=callback)  # no list
    assert [r["epoch"] for r in callback.history] == [0]
    other = linear_model()
    other.fit(data, epochs=1, verbose=0, callbacks=[callback])
    assert [r["steps"] for r in callback.history] == [2]


def test_two_of_them_in_one_fit_agree(tmp_path):
    one, two = DistributionAwareCallback(), DistributionAwareCallback()
    model = linear_model()
    model.make_train_function()
    own = model.train_function
    model.fit(Batches([4] * 6), epochs=2, verbose=0, callbacks=[one, two])
    model.fit(Batches([4]), verbose=0)
    assert [r["steps"] for r in one.history] == [6, 6]
    assert [r["examples"] for r in two.history] == [24, 24]
    assert model.train_function is own


def test_keras_keeps_its_asynchronous_hooks():
    callback = DistributionAwareCallback()
    hooks = keras.callbacks.CallbackList([callback], model=linear_model())
    # With a batch-end hook, Keras waits for every step for every callback.
    assert hooks._async_train and hooks._async_test and hooks._async_predict


@pytest.mark.parametrize("num_devices", [1, 2])
def test_the_host_waits_for_few_steps_only(
    monkeypatch, on_devices, clock, compiler, num_devices
):
    on_devices(num_devices)
    waits = []
    real = devices.wait_in_turn
    monkeypatch.setattr(
        devices,
        "wait_in_turn",
        lambda *args: waits.append(1) or real(*args),
    )
    callback = DistributionAwareCallback(clock=clock)
    linear_model().fit(Batches([4] * 256), verbose=0, callbacks=[callback])
    # Steps that take no time: windows of 1, 4, 16, 64 steps, and the end.
    assert len(waits) <= 5 * (num_devices > 1)
    (record,) = callback.history
    assert record["steps"] == 256


def test_every_epoch_tells_of_every_device_however_short(on_devices):
    on_devices(2)
    callback = DistributionAwareCallback()
    model = laggard_model(slow_device=1, seconds=0.005)
    model.fit(Batches([4] * 12), epochs=6, verbose=0, callbacks=[callback])
    lags = [
        [device["finish_lag_seconds"] for device in record["devices"]]
        for record in callback.history
    ]
    # The device that is waited for first has no lag of its own then.
    assert all(any(lag is not None for lag in epoch) for epoch in lags)
    assert sum((second or 0) > 0.003 for _, second in lags) >= 2, lags
    assert callback.history[-1]["steps"] == 12


def test_logs_are_floats_in_every_epoch_and_reach_other_callbacks(tmp_path):
    path = tmp_path / "log.csv"
    history = linear_model().fit(
        Batches([4] * 3),
        epochs=2,
        verbose=0,
        callbacks=[
            DistributionAwareCallback(),
            keras.callbacks.CSVLogger(path),
        ],
    )
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for name in ("examples_per_second", "examples_per_second_per_device"):
        values = history.history[name]
        assert all(type(value) is float and value > 0 for value in values)
        assert [float(row[name]) for row in rows] == pytest.approx(values)


def test_rate_per_device_is_the_rate_over_the_devices(
    on_devices, clock, compiler
):
    on_devices(8)
    model = linear_model()
    make_steps_take(model, lambda call: clock.advance(0.25))
    callback = DistributionAwareCallback(clock=clock)
    history = model.fit(Batches([16] * 4), verbose=0, callbacks=[callback])
    assert history.history["examples_per_second"] == [64.0]
    assert history.history["examples_per_second_per_device"] == [8.0]
    for device in callback.history[0]["devices"]:
        assert device["examples_per_second"] == pytest.approx(8.0)


class FakeShard:
    def __init__(self, device, ready_at, clock):
        self.device, self.data = device, self
        self._ready_at, self._clock = ready_at, clock

    def block_until_ready(self):
        self._clock.now = max(self._clock.now, self._ready_at)


def test_shards_are_waited_for_in_turn_from_any_start(clock):
    array = types.SimpleNamespace(
        addressable_shards=[
            FakeShard(device, clock.now + ready, clock)
            for device, ready in zip(
                jax.devices()[:4], [1.0, 1.0, 1.2, 1.0], strict=True
            )
        ]
    )
    assert devices.wait_in_turn(array, 0, clock) == [
        ("cpu:0", pytest.approx(1.0)),
        ("cpu:1", 0.0),
        ("cpu:2", pytest.approx(0.2)),
        ("cpu:3", 0.0),
    ]
    clock.now = 100.0
    # Read first, the slow one hides its lag; it is not the next one's.
    names = [name for name, _ in devices.wait_in_turn(array, 6, clock)]
    assert names == ["cpu:2", "cpu:3", "cpu:0", "cpu:1"]


def test_a_device_that_lags_is_named_with_its_lag(
    monkeypatch, on_devices, clock, compiler
):
    on_devices(4)
    done = {f"cpu:{i}": 0.2 * (i == 2) for i in range(4)}

    def wait_in_turn(array, first, clock):
        names = list(done)[first % 4 :] + list(done)[: first % 4]
        slowest, waits = 0.0, []
        for name in names:
            waits.append((name, max(done[name] - slowest, 0.0)))
            slowest = max(slowest, done[name])
        clock.advance(slowest)
        return waits

    monkeypatch.setattr(devices, "wait_in_turn", wait_in_turn)
    pending = types.SimpleNamespace(is_ready=lambda: False)
    monkeypatch.setattr(devices, "leaf_to_wait_for", lambda tree: pending)
    monkeypatch.setattr(
        devices, "devices_of", lambda array: (list(done), len(done))
    )
    model = linear_model()
    make_steps_take(model, lambda call: clock.advance(0.5))
    callback = DistributionAwareCallback(clock=clock)
    model.fit(Batches([4] * 9), verbose=0, callbacks=[callback])
    (record,) = callback.history
    lags = [device["finish_lag_seconds"] for device in record["devices"]]
    assert lags == pytest.approx([0.0, 0.0, 0.2, 0.0])
    assert record["slowest_device"] == "cpu:2"
    assert "Device cpu:2 is the slowest" in report.table(callback._as_run())


def test_a_real_laggard_is_named(on_devices):
    on_devices(8)
    callback = DistributionAwareCallback()
    slow = 0.03
    model = laggard_model(slow_device=5, seconds=slow)
    model.fit(Batches([16] * 12), epochs=2, verbose=0, callbacks=[callback])
    record = callback.history[-1]
    assert record["slowest_device"] == "cpu:5"
    lag = record["devices"][5]["finish_lag_seconds"]
    assert 0.6 * slow < lag < 3 * slow


def laggard_model(slow_device, seconds):
    """A model one of whose devices sleeps at the end of every step."""
    import time

    mesh = jax.sharding.Mesh(
        keras.distribution.distribution().device_mesh.backend_mesh.devices,
        "batch",
    )

    def maybe_sleep(loss, index):
        if index == slow_device:
            time.sleep(seconds)
        return np.asarray(loss)

    def one_device(loss):
        shape = jax.ShapeDtypeStruct(loss.shape, loss.dtype)
        return jax.pure_callback(
            maybe_sleep, shape, loss, jax.lax.axis_index("batch")
        )

    everywhere = jax.sharding.PartitionSpec()
    delayed = jax.shard_map(
        one_device,
        mesh=mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        check_vma=False,
    )

    class Laggard(keras.Sequential):
        def train_step(self, state, data):
            logs, state = super().train_step(state, data)
            return {**logs, "loss": delayed(logs["loss"])}, state

    model = Laggard([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def lag_of(**lags):
    return [
        {"name": name, "finish_lag_seconds": lag} for name, lag in lags.items()
    ]


def test_small_or_common_lags_name_nobody():
    assert slowest_device(lag_of(a=0.0, b=0.2), 1.0) == "b"
    assert slowest_device(lag_of(a=0.0, b=0.05), 1.0) is None  # 5 % of a step
    assert slowest_device(lag_of(a=0.2, b=0.2, c=0.3), 1.0) is None
    assert slowest_device(lag_of(a=0.2), 1.0) is None
    assert slowest_device(lag_of(a=None, b=None), 1.0) is None


def test_the_process_that_comes_late_to_the_step_is_named():
    def note(process, outside):
        return {
            "process": process,
            "outside_step_seconds": outside,
            "training_seconds": 11.0,
            "compile_seconds": 1.0,
        }

    assert slowest_process([note(0, 1.0), note(1, 3.0)]) == 1
    assert slowest_process([note(0, 2.5), note(1, 3.0)]) is None
    assert slowest_process([note(0, 2.5)]) is None
    assert slowest_process([note(0, None), note(1, None)]) is None


def test_unknown_figures_say_why():
    callback = DistributionAwareCallback()
    linear_model().fit(Batches([4]), verbose=0, callbacks=[callback])
    (record,) = callback.history
    assert record["devices"][0]["memory_bytes"] is None
    assert "CPU" in record["unknown"]["memory_bytes"]
    json.dumps(record, allow_nan=False)


def test_config_survives_json_and_deepcopy_needs_no_fit_state(tmp_path):
    callback = DistributionAwareCallback(
        tmp_path / "run",
        baseline=tmp_path / "one",
        stalled_seconds=np.float32(5),
        when_stalled="abort",
    )
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(callback))
    )
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == callback.get_config()
    assert again.log_dir == str(tmp_path / "run")
    used = DistributionAwareCallback(clock=Clock())
    linear_model().fit(Batches([4]), verbose=0, callbacks=[used])
    copied = copy.deepcopy(used)
    assert copied.history == used.history
    linear_model().fit(Batches([4] * 2), verbose=0, callbacks=[copied])
    assert [r["steps"] for r in copied.history] == [2]
    assert [r["steps"] for r in used.history] == [1]


def test_wrong_arguments_say_what_would_work():
    with pytest.raises(ValueError, match="`stalled_seconds` must be"):
        DistributionAwareCallback(stalled_seconds=0)
    with pytest.raises(ValueError, match="'report', 'abort'"):
        DistributionAwareCallback(when_stalled="cry")


@pytest.mark.slow
def test_keras_tuner_copies_it_for_every_trial(tmp_path):
    keras_tuner = pytest.importorskip("keras_tuner")
    counted = []

    class Counting(DistributionAwareCallback):
        def on_train_end(self, logs=None):
            super().on_train_end(logs)
            counted.append([record["steps"] for record in self.history])

    def build(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 1e-3, 1e-1)), "mse")
        return model

    tuner = keras_tuner.RandomSearch(
        build, "loss", max_trials=2, seed=1, directory=tmp_path
    )
    tuner.search(Batches([4] * 3), epochs=2, verbose=0, callbacks=[Counting()])
    assert counted == [[3, 3], [3, 3]]


def test_files_are_read_back_as_they_were_measured(tmp_path):
    callback = DistributionAwareCallback(tmp_path)
    idle = keras.callbacks.LambdaCallback()
    linear_model().fit(
        Batches([4] * 3), epochs=3, verbose=0, callbacks=[callback, idle]
    )
    run = report.read_run(tmp_path)
    assert run["epochs"] == callback.history
    assert report.table(run) == report.table(callback._as_run())


def test_tensorboard_reads_the_scalars_of_every_device(tmp_path, on_devices):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    on_devices(2)
    callback = DistributionAwareCallback(tmp_path)
    linear_model().fit(
        Batches([4] * 3), epochs=2, verbose=0, callbacks=[callback]
    )
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    for device, tag in enumerate(
        ["device_examples_per_second/cpu_0", "device_examples_per_second/cpu_1"]
    ):
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [0, 1]
        assert [scalar.value for scalar in scalars] == pytest.approx(
            [
                record["devices"][device]["examples_per_second"]
                for record in callback.history
            ]
        )
    assert "time/input_wait_seconds" in events.Tags()["scalars"]


def test_scaling_efficiency_is_against_the_recorded_device(
    tmp_path, on_devices, clock, compiler
):
    def fit(callback, seconds):
        model = linear_model()
        make_steps_take(model, lambda call: clock.advance(seconds))
        model.fit(Batches([8] * 2), epochs=2, verbose=0, callbacks=[callback])

    fit(DistributionAwareCallback(tmp_path / "one", clock=clock), 0.5)
    on_devices(4)
    callback = DistributionAwareCallback(
        tmp_path / "four", baseline=tmp_path / "one", clock=clock
    )
    fit(callback, 0.25)  # 4 devices, twice as fast: half of ideal
    for record in callback.history:
        assert record["scaling_efficiency"] == pytest.approx(0.5)
    wrong = DistributionAwareCallback(baseline=tmp_path / "four", clock=clock)
    with pytest.raises(ValueError, match=r"one device .* on \[4\] devices"):
        fit(wrong, 0.25)
