"""A `fit` of any other Keras model, resumed at the end of an epoch.

Keras tells a callback neither the data nor the other callbacks, and begins an
epoch with its first step.
"""

import warnings

from keras_dp_retrieval._keras.trainer import begin_at_epoch
from keras_dp_retrieval.callbacks import training_state
from keras_dp_retrieval.callbacks.saved_run import Run


def warn_of_limits(model, has_data: bool) -> None:
    """Says what cannot be restored."""
    order = " The order of the data is known of arrays alone; give a data set "
    order += "of this package as `ResumeTraining(..., data=data)`."
    if has_data:
        order = ""
    warnings.warn(
        f"`fit` of {type(model).__name__} is Keras' own: it is resumed at the "
        "end of an epoch, and nothing but its `History` is kept of other "
        f"callbacks.{order}",
        stacklevel=4,
    )


class PlainFit:
    """What `ResumeTraining` does in such a `fit`.

    Args:
        run: `Run`.
        data: Optional `RetrievalDataset` whose `.train` it is trained on.
        epochs: int. As in `fit`.
    """

    def __init__(self, run: Run, data, epochs: int):
        self._run, self._data, self._epochs = run, data, epochs
        self._history = run.model.history
        self._saved_history: dict | None = None

    def begin(self) -> None:
        """Goes on where the run ended, if it was saved."""
        run = self._run
        if run.loaded is None:
            begin_at_epoch(run.model, None)
            return
        run.restore([])
        training_state.set_random_state(run["random"])
        self._saved_history = run["history"]
        epoch = run.loaded.state["epoch"]
        if self._data is not None:
            self._data.start_at_epoch(epoch)
        if run["stopped"]:
            epoch = max(epoch, self._epochs)
        begin_at_epoch(run.model, epoch)
        run.forget()

    def restore_history(self) -> None:
        """To be called when `History` has begun anew."""
        if self._saved_history is not None:
            for name, value in self._saved_history.items():
                setattr(self._history, name, value)
            self._saved_history = None

    def end_epoch(self, epoch: int, steps: int, logs: dict) -> None:
        """Saves, if it is time, or the last epoch."""
        stopped = bool(self._run.model.stop_training)
        due = self._run.schedule.due_after_epoch(steps)
        if not (due or stopped or epoch + 1 >= self._epochs):
            return
        # `History` comes behind all callbacks: it lacks this epoch.
        history = {key: list(v) for key, v in self._history.history.items()}
        for key, value in logs.items():
            history.setdefault(key, []).append(value)
        self._run.save(
            epoch + 1,
            0,
            [],
            stopped=stopped,
            random=training_state.random_state(),
            history={
                "epoch": [*self._history.epoch, epoch],
                "history": history,
            },
        )

    def end(self) -> None:
        """Leaves the model as it was, but for what it has learned."""
        self.restore_history()
        begin_at_epoch(self._run.model, None)
