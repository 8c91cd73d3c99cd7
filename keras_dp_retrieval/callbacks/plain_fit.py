"""A `fit` of any other Keras model, saved at the end of an epoch.

Keras tells a callback neither the data nor the other callbacks, and begins an
epoch with its first step. So after a SIGTERM, which saves within an epoch, its
batches up to there are read again and dropped.
"""

import warnings

import keras

from keras_dp_retrieval._keras.trainer import SkipSteps, begin_at_epoch
from keras_dp_retrieval.callbacks import training_state
from keras_dp_retrieval.callbacks.call_stack import calling_code
from keras_dp_retrieval.callbacks.saved_run import Run
from keras_dp_retrieval.callbacks.stop_together import StopTogether
from keras_dp_retrieval.warning_categories import ResumeWarning


def warn_of_limits(model, has_data: bool) -> None:
    """Says what cannot be restored."""
    order = " The order of the data is known of arrays alone; give a data set "
    order += "of this package as `ResumeTraining(..., data=data)`."
    if has_data:
        order = ""
    warnings.warn(
        f"`fit` of {type(model).__name__} is Keras' own: it is saved at the "
        "end of an epoch or by SIGTERM, and nothing but its `History` is kept "
        f"of other callbacks.{order}",
        ResumeWarning,
        stacklevel=4,
    )


class PlainFit:
    """What `ResumeTraining` does in such a `fit`.

    Args:
        run: `Run`.
        data: Optional `RetrievalDataset` whose `.train` it is trained on.
        epochs: int. As in `fit`.
        steps: Optional int. Those of an epoch, if they are known.
    """

    def __init__(self, run: Run, data, epochs: int, steps: int | None):
        self._run, self._data, self._epochs = run, data, epochs
        self._history = run.model.history
        self._saved_history: dict | None = None
        # Without a known length, what seems to be a step may be the end.
        self._stops_at_steps = bool(steps) and keras.backend.backend() == "jax"
        self._stop = StopTogether(calling_code("fit"))
        self._epoch = self._done = 0
        self._skipped = 0  # Steps of the first epoch that are not made again.
        self._random: dict | None = None  # When the epoch began.
        self._random_then: dict = {}  # Behind those steps.

    def begin(self) -> None:
        """Goes on where the run ended, if it was saved."""
        self._stop.__enter__()
        run = self._run
        if run.loaded is None:
            begin_at_epoch(run.model, None)
            return
        epoch = run.loaded.state["epoch"]
        self._saved_history = run["history"]
        if self._data is not None:
            self._data.start_at_epoch(epoch)
        if run["stopped"]:
            epoch = max(epoch, self._epochs)
        begin_at_epoch(run.model, epoch)
        if epoch < self._epochs:
            self._skipped = run.loaded.state["batch"]
        if not self._skipped:
            self._restore(run["random"])

    def _restore(self, random: dict) -> None:
        self._run.restore([])
        training_state.set_random_state(random)
        self._run.forget()

    def begin_epoch(self, epoch: int) -> None:
        """To be called behind the other callbacks."""
        self._restore_history()
        self._epoch, self._done = epoch, self._skipped
        if self._skipped:
            # Keras has just begun the metrics anew. The order of the epoch is
            # drawn again, from the numbers that it was drawn from.
            self._random = self._run["random_of_epoch"]
            self._random_then = self._run["random"]
            self._restore(self._random)
            SkipSteps(self._run.model, self._skipped)
        else:
            self._random = training_state.random_state()

    def _restore_history(self) -> None:
        """`History` has begun anew."""
        if self._saved_history is not None:
            for name, value in self._saved_history.items():
                setattr(self._history, name, value)
            self._saved_history = None

    def begin_step(self, step: int) -> None:
        """Saves, and ends the program, if a SIGTERM has asked for that.

        Args:
            step: int. The steps of the epoch that are done.
        """
        if self._skipped:
            if step < self._skipped:
                return
            training_state.set_random_state(self._random_then)
            self._skipped = 0
        if step and self._stops_at_steps and self._stop.here():
            past = self._history
            self._save(self._epoch, step, past.epoch, past.history)
            self._stop.end_process(self._run)

    def end_epoch(self, epoch: int, steps: int, logs: dict) -> None:
        """Saves, if it is time, or the last epoch, or after a SIGTERM."""
        stopped = bool(self._run.model.stop_training)
        due = self._run.schedule.due_after_epoch(max(steps - self._done, 0))
        is_last = stopped or epoch + 1 >= self._epochs
        must_stop = self._stop.here()
        if due or is_last or must_stop:
            # `History` comes behind all callbacks: it lacks this epoch.
            history = {k: list(v) for k, v in self._history.history.items()}
            for key, value in logs.items():
                history.setdefault(key, []).append(value)
            epochs = [*self._history.epoch, epoch]
            self._save(epoch + 1, 0, epochs, history, stopped=stopped)
        if must_stop:
            self._stop.end_process(self._run)

    def _save(self, epoch, batch, epochs, history, stopped=False) -> None:
        self._run.save(
            epoch,
            batch,
            [],
            stopped=stopped,
            random=training_state.random_state(),
            random_of_epoch=self._random if batch else None,
            history={"epoch": epochs, "history": history},
        )

    def end(self) -> None:
        """Leaves the model as it was, but for what it has learned."""
        self._restore_history()
        begin_at_epoch(self._run.model, None)
        self.leave()

    def leave(self) -> None:
        """SIGTERM does again what it did before."""
        self._stop.__exit__()
