"""DistributionAwareCallback: where the time of `fit` goes, device by device."""

import copy
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_dp_retrieval import _checks, distribution, report
from keras_dp_retrieval._keras.adapters import step_axis
from keras_dp_retrieval._keras.callbacks import model_of
from keras_dp_retrieval.callbacks import other_backends, peers
from keras_dp_retrieval.callbacks.epoch_phases import EpochPhases
from keras_dp_retrieval.callbacks.record import (
    epoch_record,
    process_note,
    unknown_on_jax,
)
from keras_dp_retrieval.callbacks.run_output import (
    RunOutput,
    memory_in_use,
    run_header,
)
from keras_dp_retrieval.callbacks.step_recorder import StepRecorder
from keras_dp_retrieval.callbacks.timed_train_function import (
    TimedTrainFunction,
    make_train_function,
    runs_groups,
)
from keras_dp_retrieval.processes.words import describe
from keras_dp_retrieval.warning_categories import (
    RetrievalWarning,
    TrainingWarning,
)


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class DistributionAwareCallback(keras.callbacks.Callback):
    """Measures the throughput and time of `fit`, in total and by device.

    Works in any `model.fit`, on one device or many, in one process or many,
    and never makes the host wait for the step just started. Put it first in
    the list of callbacks, so that the others see the logs that it adds.

    Training is a model's `fit`, or a loop of `train_on_batch` that calls the
    callback as `fit` does, `on_train_batch_begin` before every step included.
    In `evaluate` and `predict` it measures nothing: `history` and `report()`
    stay those of the last `fit`.

    Adds to the logs of every epoch:

    - `examples_per_second`: real examples (sample weight other than 0) of all
      processes, over the seconds of training without compilation and
      validation. Waiting for input counts: it is part of what training costs.
      NaN where it is not known.
    - `examples_per_second_per_device`: the same over the number of devices.
      Under data parallelism the devices take equal shares of each batch, so
      this is a mean, not a measurement of each.

    `history` has one dict per epoch; times are seconds on this process's
    clock:

    - `epoch`, `examples`, `steps`, `num_devices` and the two rates above;
      `scaling_efficiency`: the rate per device over `baseline`'s.
    - `step_seconds_median`, `step_seconds_p95`: time from one step's end to
      the next one's, waiting for input included, compilation left out. Taken
      over windows of a few steps, at whose end the host waits for a step it
      queued earlier; a step counts with its window's mean. Windows grow until
      they last 0.08 s, so a single slow step shows if steps are long.
    - `seconds` of the epoch = `training_seconds` + `validation_seconds` +
      `callbacks_seconds` (other callbacks' work at an epoch's begin and end,
      such as checkpoints; their batch hooks count as training, which begins
      with the first batch: until then Keras also makes its iterator).
      `training_seconds` contains `compile_seconds` (tracing, lowering and
      compiling; `compiled_steps` says in which steps, `compile_reasons` why
      in each of them: its first step, a new shape of the batch, another
      number of fused steps, or none of these) and
      `input_wait_seconds` (fetching the batch and handing it to the devices).
      `validation_compile_seconds` is the part of validation that compiled.
    - `devices`: `name`, `process`, `examples`, `examples_per_second`,
      `memory_bytes` (where the backend reports it) and `finish_lag_seconds`:
      how much later a device finished its part of a step than the devices that
      the host waited for before it, in rotating order; the mean over the
      windows. All devices wait for each other where gradients are summed, so
      the lag shows only what is slow after that. `slowest_device` names a
      device that clearly lags.
    - `processes`: `process`, `examples`, its times, and
      `outside_step_seconds`: training time its main thread spent outside the
      step, on input and batch hooks. `slowest_process` is the one that clearly
      spends most there: the others wait for it inside the step. Only processes
      with this callback are listed; `missing_processes` are those of them that
      did not report at the epoch's end.
    - `unknown`: why a figure is None, by its name. On other backends than JAX
      most are, and compilation counts in the rates; PyTorch's first batch is
      fetched before training begins.

    Example:

    ```python
    callback = kdr.DistributionAwareCallback("runs/8_devices")
    model.fit(data.train, epochs=5, callbacks=[callback])
    callback.report()
    callback.plot("8_devices.png")
    ```

    Args:
        log_dir: Optional folder for a run record (`run.jsonl`, which the
            command `keras-dp-retrieval report` reads) and TensorBoard
            scalars. Process 0 alone writes.
        baseline: Optional path of a run record, or of its folder, made on one
            device: gives the scaling efficiency.
        stalled_seconds: float. With several processes: how long one may make
            no progress before the others name it.
        when_stalled: `"report"` names the process in the log and in
            `stalls`, and keeps waiting; `"abort"` then ends this process and
            all others whose callback has it so, with exit code 1: nothing
            else can free a main thread from a collective operation.
        clock: Optional callable without arguments that returns seconds;
            `time.perf_counter` by default.
    """

    # It neither judges nor keeps weights: `PaddedModel.fit` lets it end the
    # epoch before it looks at them.
    _only_measures = True

    def __init__(
        self,
        log_dir: str | os.PathLike | None = None,
        *,
        baseline: str | os.PathLike | None = None,
        stalled_seconds: float = 60.0,
        when_stalled: str = "report",
        clock: Callable[[], float] | None = None,
    ):
        super().__init__()
        self.log_dir = (
            None if log_dir is None else _checks.path("log_dir", log_dir)
        )
        self.baseline = (
            None if baseline is None else _checks.path("baseline", baseline)
        )
        self.stalled_seconds = _checks.number_between(
            "stalled_seconds", stalled_seconds, low=0.0, open_low=True
        )
        self.when_stalled = _checks.one_of(
            "when_stalled", when_stalled, ("report", "abort")
        )
        self.clock = clock
        self._clock = clock or time.perf_counter
        self.history: list[dict] = []
        self.stalls: list[dict] = []
        self.run: dict = {}
        # Alive during `fit` alone.
        self._epoch: Any = None
        self._recorder: Any = None
        self._timed: Any = None
        self._peers: Any = None
        self._phases: Any = None
        self._output: Any = None

    def get_config(self):
        clock = self.clock
        if clock is not None:
            clock = keras.saving.serialize_keras_object(clock)
        return {
            "log_dir": self.log_dir,
            "baseline": self.baseline,
            "stalled_seconds": self.stalled_seconds,
            "when_stalled": self.when_stalled,
            "clock": clock,
        }

    @classmethod
    def from_config(cls, config):
        clock = config.get("clock")
        if clock is not None:
            clock = keras.saving.deserialize_keras_object(clock)
        return cls(**{**config, "clock": clock})

    def __deepcopy__(self, memo):
        """A copy with the same settings and history, attached to no model."""
        copied = copy.copy(self)
        copied.history = copy.deepcopy(self.history, memo)
        copied.stalls = copy.deepcopy(self.stalls, memo)
        copied.run = copy.deepcopy(self.run, memo)
        copied.set_model(None)
        copied._recorder = copied._timed = copied._peers = None
        copied._phases = copied._output = copied._epoch = None
        return copied

    def get_state(self) -> dict:
        """What `ResumeTraining` keeps: the epochs so far."""
        return {"history": self.history, "stalls": self.stalls}

    def set_state(self, state: dict) -> None:
        """Goes on behind the epochs of a run that was interrupted."""
        self.history, self.stalls = state["history"], state["stalls"]

    # What Keras calls. No batch-end hook: Keras would then wait for every
    # step before it calls the callbacks, ours and all others.

    def on_train_begin(self, logs=None):
        model = self.model
        self._end_fit()
        self._process = distribution.process_index()
        self._output = RunOutput(None if self._process else self.log_dir)
        self._baseline_rate = None
        if self.baseline is not None and self._process == 0:
            self._baseline_rate = report.baseline_rate(self.baseline)
        make_train_function(model)
        if keras.backend.backend() == "jax":
            self._recorder = StepRecorder(
                self._clock,
                self._recompiled,
                step_axis() if runs_groups(model) else None,
            )
            self._peers = peers.Peers(
                self._process,
                distribution.process_count(),
                self.stalled_seconds,
                self._recorder.place,
                self._stalled,
                self.when_stalled,
                other_backends.iterations(model),
            )
            self._peers.watch()
        else:
            self._recorder = other_backends.EpochReader(model, self._clock)
        self._phases = EpochPhases(self._recorder, self._clock)
        self._warned = False
        self._header_written = False

    def on_epoch_begin(self, epoch, logs=None):
        self._close_epoch()
        if not self._header_written:
            self._begin_run(epoch)
        self._epoch = epoch
        self._phases.begin()

    def on_train_batch_begin(self, batch, logs=None):
        # Keras calls this in the main thread, right before the step.
        recorder = self._recorder
        if recorder is None:
            return
        if recorder.armed or not recorder.training:
            self._phases.begin_training()
        if model_of(self).train_function is not self._timed:
            self._stand_in()
        # The next call of the train function is a step of this `fit`.
        recorder.armed = True
        recorder.progress += 1

    def on_test_begin(self, logs=None):
        if self._epoch is not None:
            self._phases.begin_validation()

    def on_test_end(self, logs=None):
        if self._epoch is not None:
            self._phases.end_validation()

    def on_epoch_end(self, epoch, logs=None):
        stats = self._phases.finish_training()
        stats.judge()
        self._phases.end()
        record = self._record(stats)
        record.update(self._phases.seconds(record["training_seconds"]))
        self.history.append(record)
        self._epoch = None
        if logs is not None:
            for name in (
                "examples_per_second",
                "examples_per_second_per_device",
            ):
                # Callbacks that read logs, CSVLogger for one, take floats
                # alone, and the same names in every epoch.
                value = record[name]
                logs[name] = float("nan") if value is None else float(value)
        self._output.add_epoch(record)
        self._phases.leave()

    def on_train_end(self, logs=None):
        self._close_epoch()
        self._end_fit()

    # What the user calls.

    def report(self) -> str:
        """Prints the run as a table, and returns the table as text.

        Of several processes, number 0 alone prints.
        """
        table = report.table(self._as_run())
        if distribution.process_index() == 0:
            print(table)
        return table

    def plot(self, path: str | os.PathLike | None = None):
        """Returns a matplotlib figure: throughput, and where the time went.

        Args:
            path: Optional file to write the figure to, such as `"run.png"`;
                of several processes, number 0 alone writes.

        Raises:
            ImportError: If matplotlib is not installed; names the command
                that installs it.
        """
        if distribution.process_index():
            path = None
        return report.draw([self._as_run()], path)

    def _as_run(self) -> dict:
        return {"run": self.run, "epochs": self.history, "stalls": self.stalls}

    # Parts of the hooks.

    def _stand_in(self):
        """Puts the timed train function in the model's place for it."""
        model = model_of(self)
        if model.train_function is None:
            return  # Its step is none that could be seen.
        if self._timed is None or not self._timed.is_in_use():
            self._timed = TimedTrainFunction(
                model, model.train_function, self._recorder
            )
            model.train_function = self._timed

    def _record(self, stats) -> dict:
        if not stats.num_devices:  # No step was seen that would tell.
            stats.num_devices = distribution.mesh_size()
        note = process_note(self._process, stats, memory_in_use())
        notes, missing, unknown = [note], [], dict(stats.unknown)
        if self._peers is not None:
            notes, missing = self._peers.gather(self._epoch, note)
            unknown = {**unknown_on_jax(notes), **unknown}
        record = epoch_record(self._epoch, stats, notes, unknown)
        record["missing_processes"] = missing
        if missing:
            warnings.warn(
                f"Processes {missing} did not report epoch {self._epoch} "
                f"within {self.stalled_seconds:g} s. Its examples are "
                "unknown.",
                RetrievalWarning,
                stacklevel=2,
            )
        rate = record["examples_per_second_per_device"]
        if self._baseline_rate and rate is not None:
            record["scaling_efficiency"] = rate / self._baseline_rate
        return record

    def _close_epoch(self):
        """Adds the callbacks that came after us to the epoch before."""
        seconds = self._phases.seconds_since_left()
        if seconds is None:
            return
        record = self.history[-1]
        record["callbacks_seconds"] += seconds
        record["seconds"] += seconds
        names = ("epoch", "callbacks_seconds", "seconds")
        self._output.add("epoch_closed", {name: record[name] for name in names})

    def _begin_run(self, first_epoch):
        self._header_written = True
        # A `fit` that goes on where another ended continues its history.
        self.history = [r for r in self.history if r["epoch"] < first_epoch]
        self.run = run_header(first_epoch, model_of(self).name)
        self._output.add("run", self.run)

    def _end_fit(self):
        """Leaves the model as it was; also after a `fit` that broke off."""
        if self._peers is not None:
            self._peers.stop()
        if self._timed is not None:
            self._timed.remove()
        self._recorder = self._timed = self._peers = self._epoch = None

    def _recompiled(self, step, seconds, shapes_before, shapes):
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"Step {step} of epoch {self._epoch} compiled the training step "
            f"again, in {seconds:.2f} s, because a batch came in a new shape: "
            f"{_shown(shapes)} after {_shown(next(iter(shapes_before)))}. "
            "Pad every batch to one size.",
            TrainingWarning,
            stacklevel=2,
        )

    def _stalled(self, stall):
        """Runs in the thread that watches the other processes."""
        self.stalls.append(stall)
        peers.logger.error(describe(stall))
        self._output.add("stall", stall)


def _shown(shapes) -> str:
    return ", ".join(str(shape) for shape in shapes)
