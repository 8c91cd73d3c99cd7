"""Where the seconds of an epoch go: training, validation, other callbacks."""

import keras


class EpochPhases:
    """Follows an epoch from hook to hook.

    Args:
        recorder: What measures the training steps: a `StepRecorder`, or an
            `EpochReader` on other backends.
        clock: Callable without arguments that returns seconds.
    """

    def __init__(self, recorder, clock):
        self._recorder = recorder
        self._clock = clock
        self._left_at = None

    def begin(self):
        """An epoch begins."""
        self._trained_at = None  # When training or validation ended last.
        self._test_started = None
        self._validation_seconds = 0.0
        self._validation_compile_seconds = 0.0
        self._callbacks_seconds = 0.0
        self._recorder.begin()

    def begin_training(self):
        """Training begins, or resumes after a validation in mid-epoch."""
        recorder = self._recorder
        if not recorder.training:
            since = self._trained_at
            if since is None:
                since = recorder.began
            self._callbacks_seconds += self._clock() - since
            self._trained_at = None
        recorder.catch_up()

    def finish_training(self):
        """Waits for the last step; returns the epoch's `EpochStats`."""
        stats = self._recorder.finish()
        if self._trained_at is None:
            self._trained_at = self._recorder.finished
        return stats

    def begin_validation(self):
        """Validation begins: what runs until then is training."""
        self.finish_training()
        self._recorder.where = "in validation"
        self._test_compiled = _compile_seconds()
        self._test_started = self._clock()

    def end_validation(self):
        """Validation ends, if it began."""
        if self._test_started is None:
            return
        self._trained_at = self._clock()
        self._validation_seconds += self._trained_at - self._test_started
        self._validation_compile_seconds += (
            _compile_seconds() - self._test_compiled
        )
        self._test_started = None
        self._recorder.where = "in another callback"

    def end(self):
        """The epoch ends: since training or validation ran other callbacks."""
        self._callbacks_seconds += self._clock() - self._trained_at

    def seconds(self, training_seconds: float) -> dict:
        """What is known of the epoch beside its training, and the sum."""
        return {
            "validation_seconds": self._validation_seconds,
            "validation_compile_seconds": self._validation_compile_seconds,
            "callbacks_seconds": self._callbacks_seconds,
            "seconds": (
                training_seconds
                + self._validation_seconds
                + self._callbacks_seconds
            ),
        }

    def leave(self):
        """The callbacks behind ours are next."""
        self._recorder.where = "in another callback"
        self._left_at = self._clock()

    def seconds_since_left(self) -> float | None:
        """How long other callbacks took since `leave`; None the second time."""
        if self._left_at is None:
            return None
        seconds = self._clock() - self._left_at
        self._left_at = None
        return seconds


def _compile_seconds() -> float:
    """What this program has compiled so far, in seconds."""
    if keras.backend.backend() != "jax":
        return 0.0
    from keras_dp_retrieval._jax import compilation

    return compilation.seconds()
