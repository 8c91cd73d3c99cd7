"""One `fit` that is saved and goes on: where it begins, when it is saved."""

import keras

from keras_dp_retrieval._keras.epochs import batches_read, begin_at
from keras_dp_retrieval.callbacks import training_state
from keras_dp_retrieval.callbacks.stop_together import StopTogether


class ResumedFit:
    """What `PaddedModel.fit` asks of `ResumeTraining`.

    Args:
        run: `Run`.
        batches: `PaddedBatches` that it is trained on.
        callbacks: list. The user's, whose state is kept.
        epochs: int. As in `fit`.
        initial_epoch: int. As in `fit`.
        has_length: bool. Whether the steps of an epoch are known.

    Attributes:
        initial_epoch: int. Where `fit` is to begin.
        initial_step: int. Likewise, within that epoch.
        read: int. The batches of the pass that were read before that epoch.
        before: list of callbacks that come before all others.
        after: list of callbacks that come behind all others.
    """

    def __init__(
        self, run, batches, callbacks, *, epochs, initial_epoch, has_length
    ):
        self.run, self.batches, self.epochs = run, batches, epochs
        self.has_length = has_length
        history: list = []
        if not any(isinstance(c, keras.callbacks.History) for c in callbacks):
            history.append(keras.callbacks.History())
        self.kept = [*callbacks, *history]
        self.before = [_BetweenSteps(self)]
        self.after = [*history, _BetweenEpochs(self)]
        self.initial_epoch, self.initial_step = initial_epoch, 0
        self.read = 0
        self.stop = StopTogether()
        # Where it stands; `_BetweenEpochs` notes it.
        self.epoch, self.pass_number, self.random = initial_epoch, 0, None
        self.done = 0
        self.iterator = None
        if run.loaded is not None:
            self._go_on()

    def _go_on(self):
        run = self.run
        state = run.loaded.state
        self.initial_epoch, self.initial_step = state["epoch"], state["batch"]
        self.read, self.random = run["read"], run["random_of_pass"]
        if run["stopped"]:
            self.initial_epoch = max(self.initial_epoch, self.epochs)
        now = run["random"]
        self.batches.start_at(
            run["pass"],
            self.read + self.initial_step,
            lambda: training_state.set_random_state(now),
        )

    @property
    def is_within_epoch(self) -> bool:
        """Whether it begins behind the first step of an epoch."""
        return bool(self.initial_step) and self.initial_epoch < self.epochs

    def epochs_made(self, iterator) -> None:
        """Has Keras count its steps from where it begins.

        Args:
            iterator: Keras' `EpochIterator` of the `fit`, or of an
                `evaluate` in it, which comes later.
        """
        if self.iterator is None:
            self.iterator = iterator
            if self.read or self.is_within_epoch:
                begin_at(iterator, self.initial_step, self.read)

    def __enter__(self):
        self.stop.__enter__()
        return self

    def __exit__(self, *error):
        self.stop.__exit__(*error)

    def restore(self):
        """Sets everything to what it was when the checkpoint was written."""
        run = self.run
        run.restore(self.kept)
        # Where batches are read again up to here, their order is drawn again.
        again = None if self.batches.is_ours else run["random_of_pass"]
        training_state.set_random_state(again or run["random"])
        run.forget()

    def begin_epoch(self, epoch: int) -> None:
        """Notes what the epoch begins with."""
        is_first = epoch == self.initial_epoch
        self.epoch = epoch
        self.done = self.initial_step if is_first else 0
        self.pass_number = self.batches.pass_number
        if not is_first:
            self.read = batches_read(self.iterator)
        if not self.read and not self.done:
            self.random = training_state.random_state()

    def end_step(self, done: int) -> None:
        """Saves between two steps, if it is time.

        Args:
            done: int. The steps of the epoch that are done.
        """
        steps, self.done = done - self.done, done
        due = self.run.schedule.due_within_epoch(steps)
        # Of data without a known length this may be the end of it.
        if not steps or not self.has_length:
            return
        must_stop = self.stop.here()
        if due or must_stop:
            self._save(self.epoch, done)
        if must_stop:
            self.stop.end_process(self.run)

    def end_epoch(self, steps: int) -> None:
        """Saves at the end of an epoch, if it is time, or the last one."""
        stopped = bool(self.run.model.stop_training)
        left = max(steps - self.done, 0)
        due = self.run.schedule.due_after_epoch(left)
        is_last = stopped or self.epoch + 1 >= self.epochs
        must_stop = self.stop.here()
        if due or is_last or must_stop:
            self.pass_number = self.batches.pass_number
            self.read = batches_read(self.iterator)
            if not self.read:
                self.random = None
            self._save(self.epoch + 1, 0, stopped=stopped)
        if must_stop:
            self.stop.end_process(self.run)

    def _save(self, epoch: int, batch: int, stopped: bool = False) -> None:
        self.run.save(
            epoch,
            batch,
            self.kept,
            stopped=stopped,
            read=self.read,
            random=training_state.random_state(),
            random_of_pass=self.random,
            **{"pass": self.pass_number},
        )


class _BetweenSteps(keras.callbacks.Callback):
    """Comes before all others: what they did of this step is nothing yet.

    No hook on the end of batches: one makes Keras wait for every step.
    """

    def __init__(self, fit: ResumedFit):
        super().__init__()
        self._fit = fit

    def on_train_batch_begin(self, batch, logs=None):
        self._fit.end_step(batch)


class _BetweenEpochs(keras.callbacks.Callback):
    """Comes behind all others: what they remember is what they did."""

    def __init__(self, fit: ResumedFit):
        super().__init__()
        self._fit = fit

    def on_train_begin(self, logs=None):
        fit = self._fit
        if fit.run.loaded is None:
            return
        if self.params.get("verbose"):
            print(
                f"Resuming at epoch {fit.initial_epoch + 1}, step "
                f"{fit.initial_step}, of {fit.run.loaded.path}."
            )
        if not fit.is_within_epoch:
            fit.restore()

    def on_epoch_begin(self, epoch, logs=None):
        fit = self._fit
        if epoch == fit.initial_epoch and fit.is_within_epoch:
            # Behind what callbacks do when an epoch begins, which they have
            # done before; and Keras has just begun the metrics anew.
            fit.restore()
        fit.begin_epoch(epoch)

    def on_epoch_end(self, epoch, logs=None):
        self._fit.end_epoch(self.params.get("steps") or 0)
