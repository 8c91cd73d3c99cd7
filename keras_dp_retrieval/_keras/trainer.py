"""Private parts of `keras.Model`: how it trains on JAX.

`Trainer` overrides what `fit` calls to make its compiled functions. Names are
of `keras/src/trainers/trainer.py` and `keras/src/backend/jax/trainer.py`.
`train_step(state, data)` and `test_step(state, data)` are documented (Keras'
guide on custom train steps in JAX); these are not, or have an underscore.
"""

import contextlib

import keras

from keras_dp_retrieval._keras import variables


class Trainer(keras.Model):
    """A `keras.Model` with hooks where Keras has none."""

    @property
    def loss_tracker(self):
        """The `keras.metrics.Mean` behind the log entry `loss`.

        `Model.metrics` has it too, at an index that depends on the others.
        Keras counts padding rows in it, so our steps update it themselves.
        """
        return self._loss_tracker

    def check_compiled(self, method: str) -> None:
        """Raises Keras' own ValueError if the model was not compiled."""
        self._assert_compile_called(method)

    def own_train_function(self):
        """Returns a train function in place of Keras', or None.

        Called with `(state, iterator)`; returns `(logs, state)`.
        """
        return None

    def finish_function(self, function):
        """Returns what `fit` and `evaluate` are to call for `function`."""
        return function

    def finish_train_function(self, function):
        """Returns what `fit` and `train_on_batch` call for `function`."""
        return self.finish_function(function)

    # `fit` calls these two once, before its first batch, and `evaluate` the
    # second. No public argument of `compile` says how steps are compiled. Go
    # when Keras fuses steps (keras#23527) and compiles them once on a single
    # device too.

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        own = self.own_train_function()
        if own is None:
            super().make_train_function(force)
            own = self.train_function
        self.train_function = self.finish_train_function(own)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self.finish_function(self.test_function)

    def epochs_made(self, epochs) -> None:
        """Called with the `EpochIterator` of a `fit` before its first epoch.

        `evaluate` calls it too, with its own.
        """

    def _symbolic_build(self, iterator=None, data_batch=None):
        # The only place where `fit` hands out what counts its steps.
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)
        if iterator is not None:
            self.epochs_made(iterator)

    def forget_compiled(self) -> None:
        """Makes the next `fit`, `evaluate` or `predict` compile again."""
        self.train_function = self.test_function = self.predict_function = None

    @contextlib.contextmanager
    def keep_weights(self):
        """Restores the weights when a loop over the data fails.

        Keras detaches them before it asks for the first batch, and loses them
        when that fails: only `fit` reattaches them then (keras#21019), and
        only after a first step. Goes when all loops do.
        """
        if keras.backend.backend() != "jax":
            yield
            return
        every = [*self.variables, *self.metrics_variables]
        optimizer = getattr(self, "optimizer", None)  # Unless compiled.
        if optimizer is not None:
            every += optimizer.variables
        saved = [(variable, variable.value) for variable in every]
        try:
            yield
        except BaseException:
            reattach_weights(self)
            for variable, value in saved:
                if variables.is_detached(variable):
                    variable.assign(value)
            raise


def reattach_weights(model) -> None:
    """Gives the variables of a model that is being trained their values.

    Inside `fit` on JAX they are in the last step's results alone. Keras does
    this itself where a callback reads `self.model`, but not where the model
    is reached in another way. Does nothing outside and on other backends.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def begin_at_epoch(model, epoch: int | None) -> None:
    """Has `fit` begin with this epoch, whatever its `initial_epoch` is.

    What `BackupAndRestore` sets in `on_train_begin`. It is never reset: None
    does so.
    """
    model._initial_epoch = epoch


class SkipSteps:
    """Stands in for the train function of a model, on JAX.

    Reads the batches of the first calls and drops them. `fit` has no argument
    to begin within an epoch.

    Args:
        model: `keras.Model` inside `fit`.
        steps: int. How many batches are dropped; whole calls of them.
    """

    def __init__(self, model, steps: int):
        self._inner = self.__wrapped__ = model.train_function
        self._model, self._left = model, steps
        model.train_function = self

    def __call__(self, state, iterator):
        if self._left <= 0:
            # Another one may have been put in front of it.
            if self._model.train_function is self:
                self._model.train_function = self._inner
            return self._inner(state, iterator)
        for _ in range(self._model.steps_per_execution):
            next(iterator)
            self._left -= 1
        return {}, state


def loss_and_updates(model, state, x, y, sample_weight, *, training):
    """Keras' stateless forward pass and loss of a batch.

    `compute_loss_and_updates` is what `JAXTrainer.train_step` differentiates;
    the guide on custom train steps calls it, the reference does not have it.

    Args:
        state: `(trainable, non_trainable, optimizer, metrics)` lists of
            arrays; `optimizer` is None in a test step.

    Returns:
        `(scaled loss, (loss, y_pred, non_trainable, metrics))`.
    """
    trainable, non_trainable, optimizer, metrics = state
    return model.compute_loss_and_updates(
        trainable,
        non_trainable,
        metrics,
        x,
        y,
        sample_weight,
        training=training,
        optimizer_variables=optimizer,
    )


def update_metrics(model, metrics_variables, loss, x, y, y_pred, weights):
    """Keras' own update of metrics, for a model that is not ours.

    Returns:
        `(logs, metrics_variables)`. The loss counts padding rows.
    """
    return model._update_metrics_variables(
        metrics_variables, loss, x, y, y_pred, weights
    )
