"""What an epoch's steps tell on a backend other than JAX."""

import keras
import numpy as np

from keras_dp_retrieval.callbacks.epoch_stats import EpochStats
from keras_dp_retrieval.callbacks.row_counter import real_rows

INSIDE_THE_STEP = (
    "known on the JAX backend alone: elsewhere the batch is fetched and "
    "computed where a callback cannot look"
)
UNKNOWN = {
    name: INSIDE_THE_STEP
    for name in (
        "compile_seconds",
        "compiled_steps",
        "input_wait_seconds",
        "outside_step_seconds",
        "step_seconds_median",
        "step_seconds_p95",
        "finish_lag_seconds",
        "memory_bytes",
    )
}
OF_ROWS = ("examples", "examples_per_second", "examples_per_second_per_device")
OWN_STEP = (
    "the model has a `train_step` or `metrics` of its own, which may count "
    "anything, and TensorFlow's steps do not show their batches"
)
WEIGHTED = (
    "TensorFlow's steps do not show their batches, so that rows of sample "
    "weight 0 cannot be told from the others"
)
RESET = (
    "the metrics, by which TensorFlow's rows are counted, were reset in the "
    "middle of the epoch, as `evaluate` does"
)
REPLICAS = "the rows of several replicas are not counted"
GROUPED = (
    "with `steps_per_execution` and a `train_step` or optimizer that counts "
    "otherwise, it cannot be told how many steps the last group had"
)


class EpochReader:
    """Counts an epoch's steps and rows as far as they can be seen.

    It sees every call of the model's train function. In PyTorch, and in
    `train_on_batch`, the batch is handed to that function and its rows are
    counted as on JAX. In TensorFlow's `fit` it is not: there the rows are
    those that Keras averages the loss over, where Keras' own step does it and
    nobody resets the count.
    """

    def __init__(self, model, clock):
        self._model = model
        self._clock = clock
        self.armed = False
        self.running = self.training = False
        self.progress = 0
        self.where = ""

    def begin(self):
        """A new epoch starts now; its training with the first batch."""
        self.epoch = EpochStats()
        self.armed, self.running, self.training = False, True, False
        self._rows = self._batches = self._out_of_sight = 0
        self._weighted = False
        self._stop_listening = lambda: None
        self._iterations = iterations(self._model)
        # Whatever is in it now is not of this epoch.
        self._was_reset = _rows_of_loss(self._model) != 0
        self.began = self.started = self._clock()
        self.finished = None

    def catch_up(self):
        """A step begins that does not simply follow the one before."""
        if self.armed:
            self.epoch.unseen += 1
        if self.training:
            return
        now = self._clock()
        if self.finished is None:
            self.started = now
        else:  # After a validation in mid-epoch, which resets the metrics.
            self.started += now - self.finished
            self._was_reset = True
        self._listen_for_resets()
        self.running = self.training = True

    def note_unseen(self):
        """A step was made that nobody announced."""
        if self.training:
            self.epoch.unseen += 1

    def abandon(self):
        """The train function raised: maybe only at the end of the data."""
        self.armed = False

    def call(self, train_function, data):
        """Makes one call of the train function."""
        self.armed = False
        if hasattr(data, "element_spec"):
            self._weighted = self._weighted or _has_weights(data.element_spec)
            outputs = train_function(data)
            self._out_of_sight += 1
        elif isinstance(data, (list, tuple)):
            outputs = train_function(data)
            for batch in data:
                self._count(batch)
        else:
            outputs = train_function(self._watched(data))
        self.epoch.calls += 1
        return outputs

    def _watched(self, batches):
        for batch in batches:
            self._count(batch)
            yield batch

    def _count(self, batch):
        x, _, weights = keras.utils.unpack_x_y_sample_weight(batch)
        self._batches += 1
        if weights is None:
            self._rows += keras.tree.flatten(x)[0].shape[0]
            return
        arrays = [
            keras.ops.convert_to_numpy(leaf)[None]
            for leaf in keras.tree.flatten(weights)
        ]
        self._rows += real_rows(arrays, fused=False)

    def finish(self) -> EpochStats:
        """Waits for the last step and returns the epoch; can be repeated."""
        if self.running:
            self.epoch.unseen += self.armed
            self.running = self.training = self.armed = False
            # Reading a number waits for the device.
            taken = iterations(self._model) - self._iterations
            self._stop_listening()
            self.finished = self._clock()
            stats = self.epoch
            stats.training_seconds = self.finished - self.started
            stats.compile_seconds = stats.input_wait_seconds = None
            stats.inside_step_seconds = None
            stats.num_devices = _replicas(self._model)
            stats.unknown.update(UNKNOWN)
            self._tell_rows(stats)
            self._tell_steps(stats, taken)
        return self.epoch

    def _tell_rows(self, stats):
        stats.rows.total = self._rows
        why = None
        if self._out_of_sight:
            stats.rows.total += _rows_of_loss(self._model)
            if not _is_kerass_own_step(self._model):
                why = OWN_STEP
            elif self._weighted:
                why = WEIGHTED
            elif self._was_reset or self._batches:
                why = RESET
        if stats.num_devices > 1:
            why = REPLICAS
        if why is not None:
            stats.unknown.update(dict.fromkeys(OF_ROWS, why))

    def _tell_steps(self, stats, taken):
        made = self._out_of_sight
        group = getattr(self._model, "steps_per_execution", 1)
        if group == 1 or not made:
            stats.steps = self._batches + made
            return
        # The last group may have been shorter than the others.
        stats.steps = taken
        may_be = (made - 1) * group < taken <= made * group
        if self._batches or not may_be or not _is_kerass_own_step(self._model):
            stats.unknown["steps"] = GROUPED

    def _listen_for_resets(self):
        # An attribute of the instance, past Keras' own tracking of attributes.
        # It takes itself away when it is called, also after a `fit` that broke
        # off.
        before = vars(self._model).get("reset_metrics")

        def reset_metrics():
            self._was_reset = True
            stop_listening()
            self._model.reset_metrics()

        def stop_listening():
            if vars(self._model).get("reset_metrics") is reset_metrics:
                del vars(self._model)["reset_metrics"]
                if before is not None:
                    vars(self._model)["reset_metrics"] = before

        self._stop_listening = stop_listening
        vars(self._model)["reset_metrics"] = reset_metrics


def _has_weights(spec) -> bool:
    """Whether a `tf.data` batch of this kind may have sample weights."""
    return isinstance(spec, tuple) and len(spec) > 2


def _is_kerass_own_step(model) -> bool:
    kind = type(model)
    return all(
        getattr(kind, name) is getattr(keras.Model, name)
        for name in ("train_step", "metrics", "make_train_function")
    )


def _replicas(model) -> int:
    strategy = getattr(model, "distribute_strategy", None)
    return int(getattr(strategy, "num_replicas_in_sync", 1))


def iterations(model) -> int:
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        return 0
    return int(_number(optimizer.iterations))


def _rows_of_loss(model) -> float:
    """The rows that Keras has averaged the loss over since the last reset."""
    for metric in model.metrics:
        if metric.name == "loss" and hasattr(metric, "count"):
            return _number(metric.count)
    return 0.0


def _number(variable) -> float:
    return float(np.asarray(keras.ops.convert_to_numpy(variable)))
