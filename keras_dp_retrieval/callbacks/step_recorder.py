"""Measures the training steps of one epoch from inside `fit`, on JAX.

Keras on JAX fetches the batch and runs the step in one call,
`model.train_function(state, iterator)`. `TimedTrainFunction` stands in for it
and lets a `StepRecorder` make the call, which sees what passes through:
batches, rows, the time to fetch them, compilation. Nothing here waits for the
step just started.

What every step runs is written for speed: between two steps of a model the
processor forgets this code, and each function and object that a step touches
costs a microsecond of fetching it again.
"""

from keras_dp_retrieval._keras.adapters import unstacked_batches
from keras_dp_retrieval.callbacks.compilations import Compilations
from keras_dp_retrieval.callbacks.epoch_stats import EpochStats

# The host waits, if at all, for the step two before the one just started: the
# device then always has work queued.
STEPS_BEHIND = 2

# A wait costs some ten microseconds a device, and up to a step where the host
# is what the devices wait for. So the number of steps in a window grows until
# it lasts long enough. (The host's clock alone cannot end one: the host may
# queue a whole epoch at once.)
SHORTEST_WINDOW_SECONDS = 0.08
LONGEST_WINDOW_SECONDS = 1.0
WINDOW_GROWTH = 4


class StepRecorder:
    """Gathers one epoch's `EpochStats`; `on_recompile`: see `Compilations`.

    To the train function it is the iterator that the batches come from.
    """

    def __init__(self, clock, on_recompile, step_axis=None):
        from keras_dp_retrieval._jax import compilation, devices

        self._clock = clock
        self._step_axis = step_axis
        self._devices = devices
        compilation.listen()
        self._compiler = compilation.totals
        self._window = 1
        self._turn = 0
        self._compiled = Compilations(on_recompile)
        self._window_end = self._outputs = None
        # Of one call of the train function.
        self._iterator = None
        self._batches: list = []
        self._compilations: list = []  # (batch, seconds)
        self._fetched = 0  # Attempts: the last may find the end of the data.
        self.armed = False
        self.running = self.training = False
        self.progress = 0
        self.where = "before the first epoch"
        self.epoch = EpochStats()

    def place(self) -> tuple[int, str]:
        """How far the main thread has come, and where it is, in words."""
        return self.progress, f"{self.where}, step {self.epoch.steps}"

    def begin(self):
        """A new epoch starts now; its training with the first batch."""
        before, self.epoch = self.epoch, EpochStats()
        # One `fit` runs on the same devices throughout.
        self.epoch.device_names = before.device_names
        self.epoch.num_devices = before.num_devices
        self.armed, self.running, self.training = False, True, False
        self._window_end = self._outputs = None
        self._batches.clear()
        self._compilations.clear()
        self._call_seconds = 0.0
        self._marked_steps = 0
        if before.num_devices > 1:
            # In short epochs too there is a window whose end tells who lags.
            self._window = max(min(self._window, before.steps // 3), 1)
        self._mark_at = self._window
        self._compiled_since_mark = 0.0
        self.progress += 1
        self.began = self.started = self._marked_at = self._clock()
        self.finished = None

    def catch_up(self):
        """A step begins that does not simply follow the one before."""
        if self.armed:  # That one was announced, and not made by us.
            self.epoch.unseen += 1
        if self.training:
            return
        now = self._clock()
        if self.finished is None:
            # What other callbacks did at the epoch's begin is no training.
            self.started = now
        else:  # Training resumes after a validation in mid-epoch.
            self.started += now - self.finished
        self._marked_at = now
        self.running = self.training = True

    def note_unseen(self):
        """A step was made that nobody announced."""
        if self.training:
            self.epoch.unseen += 1

    def finish(self) -> EpochStats:
        """Waits for the last step and returns the epoch; can be repeated."""
        if self.running:
            self.epoch.unseen += self.armed
            self.running = self.training = self.armed = False
            now = self.finished = self._wait(self._outputs)
            if self.epoch.steps > self._marked_steps:
                self._mark(self.epoch.steps, now)
            self.epoch.training_seconds = now - self.started
            self._window_end = self._outputs = self._iterator = None
            self.epoch.inside_step_seconds = (
                self._call_seconds
                - self.epoch.compile_seconds
                - self.epoch.input_wait_seconds
            )
            self.epoch.rows.fold()
        return self.epoch

    def abandon(self):
        """`fit` raised: lets go of every array."""
        self.running = self.training = self.armed = False
        self._window_end = self._outputs = self._iterator = None
        self._batches.clear()
        self.epoch = EpochStats()

    def call(self, train_function, state, iterator):
        """Makes one call of the train function; its devices work on."""
        self.armed = False
        self._iterator = iterator
        self._fetched = 0
        self._compiled_seen = self._compiler.seconds
        started = self._clock()
        try:
            outputs = train_function(state, self)
        finally:  # It may have looked for data in vain, which took time too.
            now = self._clock()
            self._call_seconds += now - started
        if self._compiler.seconds > self._compiled_seen:
            self._note_compiled()
        self.where = "in training"
        self._outputs = outputs
        epoch, batches = self.epoch, self._batches
        epoch.calls += 1
        # Where a call fetches several batches, each is one step's.
        axis = self._step_axis if self._fetched == 1 else None
        if axis is not None and (group := unstacked_batches(batches[0])):
            batches[:], axis = group, None
        if self._compilations:
            self._compiled_since_mark += self._compiled.note(
                self._compilations, epoch, batches, self._fetched, axis
            )
            self._compilations.clear()
        for batch in batches:
            epoch.steps += epoch.rows.add(batch, axis)
        batches.clear()
        if epoch.steps >= self._mark_at:
            self._try_to_mark(now, outputs)
        return outputs

    def __iter__(self):
        return self

    def __next__(self):
        self.where = "fetching its batch"
        if self._fetched and self._compiler.seconds > self._compiled_seen:
            self._note_compiled()
        self._fetched += 1
        started = self._clock()
        try:
            batch = next(self._iterator)
        finally:
            self.epoch.input_wait_seconds += self._clock() - started
            # What compiles during the fetch is part of the wait for input.
            self._compiled_seen = self._compiler.seconds
        self.progress += 1
        self.where = "inside the training step"
        self._batches.append(batch)
        return batch

    def _try_to_mark(self, now, outputs):
        """Ends the window if its last step is done, or was queued long ago."""
        epoch = self.epoch
        if not epoch.num_devices:
            self._note_devices(outputs)
        if self._window_end is None:
            # Of all steps, only a window's last one's logs are held: letting
            # go of arrays costs time too.
            self._window_end = epoch.steps, epoch.calls, outputs[0]
        done, call, logs = self._window_end
        leaf = self._devices.leaf_to_wait_for(logs)
        if leaf is not None and leaf.is_ready():
            self._mark(done, now)
        elif epoch.calls - call >= STEPS_BEHIND:
            if leaf is None:
                # Without logs, or with logs that the next step was given as
                # its state, only the newest state is sure to be there.
                done, leaf = epoch.steps, outputs[1]
            self._mark(done, self._wait(leaf))

    def _note_devices(self, outputs):
        leaf = self._devices.leaf_to_wait_for(outputs)
        if leaf is not None:
            names, count = self._devices.devices_of(leaf)
            self.epoch.device_names, self.epoch.num_devices = names, count

    def _note_compiled(self):
        """What compiled since the last fetch was that batch's step."""
        batch = max(len(self._batches) - 1, 0)
        spent = self._compiler.seconds - self._compiled_seen
        self._compilations.append((batch, spent))

    def _mark(self, steps_done, now):
        """Ends a window: `steps_done` steps are known to be done at `now`."""
        seconds = now - self._marked_at - self._compiled_since_mark
        steps = steps_done - self._marked_steps
        self.epoch.windows.append((steps, max(seconds, 0.0)))
        self._marked_steps, self._marked_at = steps_done, now
        self._window_end = None
        self._compiled_since_mark = 0.0
        if seconds < SHORTEST_WINDOW_SECONDS:
            self._window *= WINDOW_GROWTH
        elif seconds > LONGEST_WINDOW_SECONDS and self._window > 1:
            self._window //= WINDOW_GROWTH
        self._mark_at = steps_done + self._window

    def _wait(self, arrays) -> float:
        """Waits for one of `arrays` on every device; returns the time then."""
        leaf = self._devices.leaf_to_wait_for(arrays)
        # What is there already does not tell who was late: it is only asked
        # where nothing else was.
        if leaf is not None and not (self.epoch.lags and leaf.is_ready()):
            self._wait_in_turn(leaf)
        self.progress += 1
        return self._clock()

    def _wait_in_turn(self, leaf):
        if self.epoch.num_devices == 1:  # Nobody to be compared with.
            before = self._clock()
            leaf.block_until_ready()
            self.epoch.waited_seconds += self._clock() - before
            return
        waits = self._devices.wait_in_turn(leaf, self._turn, self._clock)
        self._turn += 1
        self.epoch.waited_seconds += sum(seconds for _, seconds in waits)
        # The first one's wait is everybody's; its own lag is measured when
        # another device is read first.
        for name, seconds in waits[1:]:
            self.epoch.lags.setdefault(name, []).append(seconds)
