"""What an epoch's steps tell on a backend other than JAX."""

import keras

from keras_dp_retrieval.callbacks.steps import Steps

INSIDE_THE_STEP = (
    "known on the JAX backend alone: elsewhere the batch is fetched and "
    "computed where a callback cannot look"
)
UNKNOWN = {
    name: INSIDE_THE_STEP
    for name in (
        "compile_seconds",
        "input_wait_seconds",
        "step_seconds_median",
        "step_seconds_p95",
        "finish_lag_seconds",
        "memory_bytes",
    )
}


class EpochReader:
    """Reads an epoch's rows and steps from the model's own counts.

    The rows are those that the loss was averaged over, so they include rows
    of weight 0; the steps are the optimizer's.
    """

    def __init__(self, model, clock):
        self._model = model
        self._clock = clock
        self.running = False
        self.where = ""

    def begin(self):
        """A new epoch starts now."""
        self.running = True
        self._iterations = self._optimizer_steps()
        self.started = self._clock()

    def finish(self) -> Steps:
        """Waits for the last step and returns the epoch; can be repeated."""
        if self.running:
            self.running = False
            rows = self._rows()  # Reading a number waits for the device.
            steps = Steps(
                steps=self._optimizer_steps() - self._iterations,
                training_seconds=self._clock() - self.started,
                compile_seconds=None,
                input_wait_seconds=None,
                inside_step_seconds=None,
                num_devices=1,
            )
            steps.rows.total = rows
            self.epoch = steps
        return self.epoch

    def _optimizer_steps(self) -> int:
        optimizer = self._model.optimizer
        return 0 if optimizer is None else int(_number(optimizer.iterations))

    def _rows(self) -> float | None:
        for metric in self._model.metrics:
            if metric.name == "loss" and hasattr(metric, "count"):
                return _number(metric.count) or None
        return None


def _number(variable) -> float:
    return float(keras.ops.convert_to_numpy(variable))
