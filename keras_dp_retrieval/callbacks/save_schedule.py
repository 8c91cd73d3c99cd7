"""When a run is saved: by steps, by epochs, or by what it costs."""

import math
from collections.abc import Callable

# `"auto"`: what saving may take of the time of `fit`.
SHARE = 0.05

# `"auto"`: seconds between two saves, at least. More often than that loses
# nobody much time, and a disk has other things to do.
SECONDS = 10.0

# What a disk writes in a second, until the first save says so: a slow one.
_BYTES_A_SECOND = 1e8


class SaveSchedule:
    """Says when the next save is due.

    Args:
        save_freq: `"auto"`, `"epoch"` or int, as in `ResumeTraining`.
        clock: Callable without arguments that returns seconds.
        num_bytes: int. Of a save, to guess what the first one costs.
    """

    def __init__(
        self, save_freq: str | int, clock: Callable[[], float], num_bytes: int
    ):
        # A number of steps, or infinitely many.
        self._every = math.inf if isinstance(save_freq, str) else save_freq
        self._is_auto = save_freq == "auto"
        self._by_epoch = save_freq == "epoch"
        self._clock = clock
        self._cost = num_bytes / _BYTES_A_SECOND
        self._last = clock()
        self._steps = 0
        self._began = 0.0

    def due_within_epoch(self, steps: int) -> bool:
        """Whether to save between two steps.

        Args:
            steps: int. How many were made since the last question.
        """
        self._steps += steps
        return self._is_due()

    def due_after_epoch(self, steps: int) -> bool:
        """Whether to save at the end of an epoch."""
        self._steps += steps
        return self._by_epoch or self._is_due()

    def begin_save(self) -> None:
        """To be called when the steps before are done, and before a save."""
        self._began = self._clock()

    def end_save(self) -> None:
        """To be called when it is on the disk."""
        self._last = self._clock()
        self._cost = self._last - self._began
        self._steps = 0

    def _is_due(self) -> bool:
        if not self._is_auto:
            return self._steps >= self._every
        seconds = max(SECONDS, self._cost / SHARE)
        return self._clock() - self._last >= seconds
