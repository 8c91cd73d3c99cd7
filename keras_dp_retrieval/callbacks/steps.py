"""Measures the training steps of one epoch from inside `fit`, on JAX.

Keras on JAX fetches the batch and runs the step in one call,
`model.train_function(state, iterator)`. `TimedTrainFunction` stands in for it
and tells a `StepRecorder` what passes through: batches, rows, the time to
fetch them, compilation. Nothing here waits for the step just started.
"""

import dataclasses

import keras

from keras_dp_retrieval.callbacks.rows import RowCounter

# The host waits, if at all, for the step two before the one just started: the
# device then always has work queued.
STEPS_BEHIND = 2

# A wait costs some ten microseconds a device. The number of steps in a window
# doubles until it lasts this many seconds: far below a percent.
SHORTEST_WINDOW_SECONDS = 0.02
LONGEST_WINDOW_SECONDS = 0.2


@dataclasses.dataclass
class Steps:
    """What one epoch's training steps were; times in seconds.

    None stands for what the backend does not let us see.
    """

    steps: int = 0
    training_seconds: float = 0.0
    compile_seconds: float | None = 0.0
    compiled_steps: list = dataclasses.field(default_factory=list)
    input_wait_seconds: float | None = 0.0
    inside_step_seconds: float | None = 0.0
    waited_seconds: float = 0.0
    calls: int = 0
    windows: list = dataclasses.field(default_factory=list)
    device_names: list = dataclasses.field(default_factory=list)
    num_devices: int = 0
    lags: dict = dataclasses.field(default_factory=dict)
    rows: RowCounter = dataclasses.field(default_factory=RowCounter)


class StepRecorder:
    """Gathers one epoch's `Steps`; `on_recompile` hears of changed shapes."""

    def __init__(self, clock, on_recompile):
        from keras_dp_retrieval._jax import compilation, devices

        self._clock = clock
        self._on_recompile = on_recompile
        self._devices = devices
        compilation.listen()
        self._compiled = compilation.seconds
        self._window = 1
        self._turn = 0
        self._shapes_compiled: set = set()
        self._window_end = self._state = None
        self.armed = False
        self.running = False
        self.progress = 0
        self.where = "before the first epoch"
        self.epoch = Steps()

    def place(self) -> tuple[int, str]:
        """How far the main thread has come, and where it is, in words."""
        return self.progress, f"{self.where}, step {self.epoch.steps}"

    def arm(self):
        """The next call of the train function is a step of this `fit`."""
        self.armed = True
        self.progress += 1

    def begin(self):
        """A new epoch starts now."""
        self.epoch = Steps()
        self.armed, self.running = False, True
        self._window_end = self._state = None
        self._marked_steps = 0
        self._compiled_since_mark = 0.0
        self.progress += 1
        self.started = self._marked_at = self._clock()

    def finish(self) -> Steps:
        """Waits for the last step and returns the epoch; can be repeated."""
        if self.running:
            self.running = self.armed = False
            now = self._wait(self._state)
            if self.epoch.steps > self._marked_steps:
                self._mark(self.epoch.steps, now)
            self.epoch.training_seconds = now - self.started
            self._window_end = self._state = None
            self.epoch.rows.fold()
        return self.epoch

    def abandon(self):
        """`fit` raised: lets go of every array."""
        self.running = self.armed = False
        self._window_end = self._state = None
        self.epoch = Steps()

    def step(self, call: "_Call", outputs, started: float, now: float):
        """One call of the train function is over (its devices work on)."""
        epoch, first_step = self.epoch, self.epoch.steps
        steps = epoch.rows.add(call.batches, fused=call.fused)
        epoch.steps += steps
        epoch.calls += 1
        self.progress += 1
        self.where = "in training"
        epoch.input_wait_seconds += call.input_seconds
        epoch.inside_step_seconds += now - started - call.input_seconds
        for index, spent in call.compilations:
            epoch.inside_step_seconds -= spent
            self._note_compilation(
                first_step + index, spent, call.batches[index]
            )
        logs, self._state = outputs
        if not epoch.num_devices:
            self._note_devices(outputs)
        if epoch.steps - self._marked_steps >= self._window:
            self._try_to_mark(now, logs)

    def _try_to_mark(self, now, logs):
        """Ends the window if its last step is done, or was queued long ago."""
        epoch = self.epoch
        if self._window_end is None:
            # Of all steps, only a window's last one's logs are held: letting
            # go of arrays costs time too.
            self._window_end = epoch.steps, epoch.calls, logs
        done, call, logs = self._window_end
        leaf = self._devices.leaf_to_wait_for(logs)
        if leaf is not None and leaf.is_ready():
            self._mark(done, now)
        elif epoch.calls - call >= STEPS_BEHIND:
            if leaf is None:
                # Without logs, or with logs that the next step was given as
                # its state, only the newest state is sure to be there.
                done, leaf = epoch.steps, self._state
            self._mark(done, self._wait(leaf))

    def _note_devices(self, outputs):
        leaf = self._devices.leaf_to_wait_for(outputs)
        if leaf is not None:
            names, count = self._devices.devices_of(leaf)
            self.epoch.device_names, self.epoch.num_devices = names, count

    def _note_compilation(self, step, seconds, batch):
        epoch = self.epoch
        epoch.compile_seconds += seconds
        self._compiled_since_mark += seconds
        epoch.compiled_steps.append(step)
        shapes = _shapes(batch)
        if self._shapes_compiled and shapes not in self._shapes_compiled:
            self._on_recompile(step, seconds, self._shapes_compiled, shapes)
        self._shapes_compiled.add(shapes)

    def _mark(self, steps_done, now):
        """Ends a window: `steps_done` steps are known to be done at `now`."""
        seconds = now - self._marked_at - self._compiled_since_mark
        steps = steps_done - self._marked_steps
        self.epoch.windows.append((steps, max(seconds, 0.0)))
        self._marked_steps, self._marked_at = steps_done, now
        self._window_end = None
        self._compiled_since_mark = 0.0
        if seconds < SHORTEST_WINDOW_SECONDS:
            self._window *= 2
        elif seconds > LONGEST_WINDOW_SECONDS and self._window > 1:
            self._window //= 2

    def _wait(self, arrays) -> float:
        """Waits for one of `arrays` on every device; returns the time then."""
        leaf = self._devices.leaf_to_wait_for(arrays)
        if leaf is not None:
            self._wait_in_turn(leaf)
        self.progress += 1
        return self._clock()

    def _wait_in_turn(self, leaf):
        waits = self._devices.wait_in_turn(leaf, self._turn, self._clock)
        self._turn += 1
        self.epoch.waited_seconds += sum(seconds for _, seconds in waits)
        # The first one's wait is everybody's; its own lag is measured when
        # another device is read first.
        for name, seconds in waits[1:]:
            self.epoch.lags.setdefault(name, []).append(seconds)


class TimedTrainFunction:
    """Calls the model's train function and tells the recorder about it.

    It measures a call only after `recorder.armed` was set for it, by a hook
    that `fit` calls before each step. Called without, the `fit` it was made
    for is over (or broke off) and it takes itself out of the model.
    """

    def __init__(self, model, inner, recorder: StepRecorder, clock):
        self._model = model
        self.inner = self.__wrapped__ = inner
        self._recorder = recorder
        self._clock = clock
        self._may_fuse = model.steps_per_execution > 1
        self._call = _Call(recorder, clock)

    def __call__(self, state, iterator):
        recorder, call = self._recorder, self._call
        if not recorder.armed:
            self.remove()
            return self.inner(state, iterator)
        recorder.armed = False
        started = self._clock()
        call.begin(iterator)
        try:
            outputs = self.inner(state, call)
        except StopIteration:
            raise  # How an epoch of unknown length ends.
        except BaseException:
            recorder.abandon()
            self.remove()
            raise
        call.note_compiled()
        call.fused = self._may_fuse and call.fetched == 1
        recorder.step(call, outputs, started, self._clock())
        call.end()
        return outputs

    def remove(self):
        """Puts the model's own train function back."""
        if self._model.train_function is self:
            self._model.train_function = self.inner

    def is_in_use(self) -> bool:
        """Whether the model calls this, directly or through another one."""
        function = self._model.train_function
        while isinstance(function, TimedTrainFunction):
            if function is self:
                return True
            function = function.inner
        return False


class _Call:
    """The iterator that one call of the train function reads from."""

    def __init__(self, recorder, clock):
        self._clock = clock
        self._recorder = recorder
        self._compiled = recorder._compiled
        self._iterator = None
        self.fused = False

    def begin(self, iterator):
        self._iterator = iterator
        self._compiled_seen = self._compiled()
        self.compilations = []  # (batch, seconds)
        self.input_seconds = 0.0
        self.fetched = 0  # Attempts: the last may find the end of the data.
        self.batches = []

    def note_compiled(self):
        """What compiled since the last fetch was that batch's step."""
        compiled = self._compiled()
        if compiled > self._compiled_seen:
            batch = max(len(self.batches) - 1, 0)
            self.compilations.append((batch, compiled - self._compiled_seen))

    def end(self):
        """Holds no batch beyond its step."""
        self._iterator, self.batches = None, []

    def __iter__(self):
        return self

    def __next__(self):
        self.fetched += 1
        self._recorder.where = "fetching its batch"
        if self.fetched > 1:
            self.note_compiled()
        started = self._clock()
        try:
            batch = next(self._iterator)
        finally:
            self.input_seconds += self._clock() - started
            # What compiles during the fetch is part of the wait for input.
            self._compiled_seen = self._compiled()
        self._recorder.progress += 1
        self._recorder.where = "inside the training step"
        self.batches.append(batch)
        return batch


def _shapes(batch) -> tuple:
    return tuple(
        tuple(leaf.shape)
        for leaf in keras.tree.flatten(batch)
        if hasattr(leaf, "shape")
    )
