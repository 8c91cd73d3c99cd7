"""DistributionAwareCallback on TensorFlow and PyTorch, one process each."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import types

import keras
import numpy as np
import pytest

from keras_dp_retrieval.callbacks.other_backends import (
    OWN_STEP,
    RESET,
    WEIGHTED,
    EpochReader,
)

PROGRAM = """
    import json, sys
    import keras, numpy as np
    from keras_dp_retrieval.callbacks import DistributionAwareCallback

    backend = keras.backend.backend()
    assert backend == sys.argv[2]
    found = {}

    class Mixin:
        # The `train_step` of "Customizing what happens in fit()".
        if backend == "tensorflow":
            def train_step(self, data):
                import tensorflow as tf

                x, y = data
                with tf.GradientTape() as tape:
                    y_pred = self(x, training=True)
                    loss = self.compute_loss(y=y, y_pred=y_pred)
                gradients = tape.gradient(loss, self.trainable_variables)
                self.optimizer.apply(gradients, self.trainable_variables)
                return self.logs_of(loss)
        else:
            def train_step(self, data):
                import torch

                x, y = data
                self.zero_grad()
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                loss.backward()
                weights = list(self.trainable_weights)
                with torch.no_grad():
                    self.optimizer.apply(
                        [v.value.grad for v in weights], weights
                    )
                return self.logs_of(loss)

        def logs_of(self, loss):
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
            return {"loss": self.metrics[0].result()}

    class Own(Mixin, keras.Sequential):
        pass

    def model(kind=keras.Sequential, **options):
        made = kind([keras.Input((3,)), keras.layers.Dense(1)])
        made.compile("sgd", "mse", jit_compile=False, **options)
        return made

    def fit(name, made, x, y, callbacks=(), log_dir=None, **options):
        callback = DistributionAwareCallback(log_dir)
        reset = made.reset_metrics
        history = made.fit(
            x, y, epochs=2, verbose=0, callbacks=[callback, *callbacks],
            **options,
        )
        assert made.reset_metrics == reset
        callback.report()
        found[name] = callback.history
        return history.history

    x, y = np.ones((1003, 3)), np.ones((1003, 1))
    small = x[:20], y[:20]
    grouped = {"steps_per_execution": 2} if backend == "tensorflow" else {}
    history = fit(
        "plain", model(**grouped), *small, batch_size=4,
        validation_data=small, log_dir=sys.argv[1],
    )
    assert min(history["examples_per_second"]) > 0
    fit("own step", model(Own), x, y, batch_size=100)
    weights = np.ones(20)
    weights[15:] = 0
    fit("weights", model(), *small, batch_size=4, sample_weight=weights)

    class Evaluate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.evaluate(*small, batch_size=10, verbose=0)

    fit("evaluate", model(), *small, batch_size=4, callbacks=[Evaluate()])

    def endless():
        for _ in range(5):
            yield x[:4], y[:4]

    callback = DistributionAwareCallback()
    model().fit(endless(), epochs=1, verbose=0, callbacks=[callback])
    found["unknown length"] = callback.history

    def loop(name, made, announced):
        callback = DistributionAwareCallback()
        callbacks = keras.callbacks.CallbackList([callback], model=made)
        callbacks.on_train_begin()
        for epoch in range(2):
            callbacks.on_epoch_begin(epoch)
            for step in range(3):
                if announced:
                    callbacks.on_train_batch_begin(step)
                made.train_on_batch(x[:100], y[:100])
                if announced:
                    callbacks.on_train_batch_end(step)
            callbacks.on_epoch_end(epoch)
        callbacks.on_train_end()
        found[name] = callback.history

    loop("loop", model(), True)
    loop("loop without hooks", model(), False)
    made, callback = model(), DistributionAwareCallback()
    made.evaluate(*small, verbose=0, callbacks=[callback])
    made.predict(small[0], verbose=0, callbacks=[callback])
    assert callback.history == []
    print("RECORDS", json.dumps(found))
"""


def records(folder, backend):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), folder, backend],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RECORDS")[1])


def figures(found, name, figure):
    """A figure of both epochs; where it is None there is a reason."""
    for record in found[name]:
        assert (record[figure] is None) == (figure in record["unknown"])
    return [record[figure] for record in found[name]]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_every_figure_is_right_or_none_with_a_reason(tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    found = records(tmp_path, backend)
    shows_batches = backend == "torch"
    assert figures(found, "plain", "examples") == [20, 20]
    assert figures(found, "plain", "steps") == [5, 5]
    assert min(figures(found, "plain", "examples_per_second")) > 0
    assert found["plain"][1]["validation_seconds"] > 0
    for name in ("compile_seconds", "input_wait_seconds"):
        assert figures(found, "plain", name) == [None, None]
        assert "JAX backend alone" in found["plain"][0]["unknown"][name]

    rows = [1003] * 2 if shows_batches else [None] * 2
    assert figures(found, "own step", "examples") == rows
    assert figures(found, "own step", "steps") == [11, 11]
    rows = [15] * 2 if shows_batches else [None] * 2
    assert figures(found, "weights", "examples") == rows
    rows = [20] * 2 if shows_batches else [None] * 2
    assert figures(found, "evaluate", "examples") == rows
    assert figures(found, "evaluate", "steps") == [5, 5]
    assert figures(found, "unknown length", "examples") == [20]
    assert figures(found, "unknown length", "steps") == [5]

    assert figures(found, "loop", "examples") == [300, 300]
    assert figures(found, "loop", "steps") == [3, 3]
    assert figures(found, "loop without hooks", "examples") == [None, None]
    assert figures(found, "loop without hooks", "steps") == [None, None]
    assert figures(found, "loop without hooks", "examples_per_second") == [
        None,
        None,
    ]


class Iterator(types.SimpleNamespace):
    """What TensorFlow's `fit` hands to a step: batches stay out of sight."""


def read(model, batches, step=lambda data: None):
    reader = EpochReader(model, clock=lambda: 0.0)
    model.reset_metrics()
    reader.begin()
    for batch in batches:
        reader.catch_up()
        reader.armed = True
        reader.call(step, batch)
    steps = reader.finish()
    steps.judge()
    return steps


def model_of(kind=keras.Sequential):
    model = kind([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def test_batches_that_can_be_seen_are_counted_whatever_the_step_does():
    x, weights = np.ones((4, 3)), np.array([1, 1, 0, 0.5])
    batches = [[(x, x)], [(x, x, weights)], iter([(x, x, None)])]
    # A generator is what `train_on_batch` of TensorFlow passes on.
    steps = read(model_of(), batches, step=list)
    assert (steps.rows.total, steps.steps) == (4 + 3 + 4, 3)
    assert "examples" not in steps.unknown


def test_rows_out_of_sight_are_known_where_keras_alone_counts_them():
    unweighted, weighted = (
        Iterator(element_spec=("x", "y", "weights")[:n]) for n in (2, 3)
    )

    class Own(keras.Sequential):
        def train_step(self, *args):
            """Counts anything."""

    def found(kind=keras.Sequential, spec=unweighted, reset=False):
        model = model_of(kind)

        def step(data):
            model.metrics[0].update_state(1.0, sample_weight=4)
            if reset:
                model.reset_metrics()

        steps = read(model, [spec] * 3, step)
        assert "reset_metrics" not in vars(model)
        assert steps.steps == 3
        rows = steps.known("examples", steps.rows.total)
        return rows or steps.unknown["examples"]

    assert found() == 12
    assert found(kind=Own) == OWN_STEP
    assert found(spec=weighted) == WEIGHTED
    assert found(reset=True) == RESET
