"""PaddedModel: a Keras model for any number of rows and devices."""

import keras

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval._keras.trainer import Trainer
from keras_dp_retrieval.processes.endings import noting_exit
from keras_dp_retrieval.training import (
    model_batches,
    model_steps,
    resumption,
)
from keras_dp_retrieval.training.finite import NonFiniteGuard
from keras_dp_retrieval.training.fit_arguments import (
    check_validation_freq,
    refuse_class_weight,
)
from keras_dp_retrieval.training.fit_callbacks import added, given
from keras_dp_retrieval.training.in_use import InUse, loops, reads
from keras_dp_retrieval.training.loop_output import (
    verbosity,
    whereabouts,
    with_whereabouts,
)
from keras_dp_retrieval.training.padded_batches import PaddedBatches


class PaddedModel(Trainer):
    """Trains, evaluates and predicts on any number of rows and devices.

    Batches reach the subclass through `PaddedBatches`: all of one size, always
    with a `sample_weight` `(batch,)` that is 0 for padding rows. What it must
    do is to leave rows of weight 0 out of `compute_loss`, and to divide by the
    number of the others. It may override `check_batch`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._in_use = InUse()
        self._starts = resumption.Starts()

    def check_batch(self, x, y):
        """Raises a ValueError if the NumPy arrays of a batch are not valid."""

    def training_callbacks(self, batches: PaddedBatches) -> list:
        """Callbacks of the model's own that `fit` adds to the user's."""
        return []

    # Steps: `step_plan.py` says which

    # What `step_plan` asks; see there.
    embedding_updates = "dense"

    # Whose steps run; see `shared_steps.py`.
    shared_steps = None

    # Names of the attributes that tracing a step sets.
    noted: tuple[str, ...] = ()

    def row_tables(self) -> list:
        """The embedding tables that a step reads by looking up rows."""
        return []

    def train_step(self, state, data):
        return model_steps.train_step(self, state, data)

    def test_step(self, *args):
        return model_steps.test_step(self, *args)

    def predict_step(self, *args):
        if keras.backend.backend() != "jax":
            return super().predict_step(*args)
        outputs, non_trainable = super().predict_step(*args)
        return model_steps.replicated(outputs), non_trainable

    def get_metrics_result(self):
        found = model_steps.metrics_result(self)
        return super().get_metrics_result() if found is None else found

    def reset_metrics(self):
        if not model_steps.reset_loss(self):
            super().reset_metrics()

    def own_train_function(self):
        return model_steps.fused_train_function(self)

    def finish_function(self, function):
        return model_steps.compiled_once(function)

    def finish_train_function(self, function):
        return model_steps.finish_train_function(self, function)

    # Any data, on any number of devices

    @loops
    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
        *,
        non_finite="raise",
    ):
        """Trains as `keras.Model.fit` does, on any number of rows.

        All arguments but the last and the returned `History` are Keras'.
        `padded_batches.py` has what happens to a batch that does not divide
        by the devices. Of several processes, number 0 alone prints.

        Args:
            sample_weight: `(batch,)`, finite and not negative. A row of
                weight 0 does not count.
            non_finite: What happens when the loss, the learning rate or a
                weight is NaN or infinite: `"raise"` ends training at the end
                of the epoch at the latest, before any of the callbacks sees
                it; `"warn"` says so once and goes on. Metrics of retrieved
                lists are refused either way.

        Raises:
            ValueError: If an id is outside its table, a rating or a weight is
                not a finite number, or there is no row at all. Arrays are
                looked at before training; what comes batch by batch is when
                it comes.
            FloatingPointError: If training leaves the finite numbers.
            RuntimeError: If Keras does not run on JAX.
        """
        distribution.require_jax("`fit`")
        self.check_compiled("fit")
        guard = NonFiniteGuard(non_finite)
        refuse_class_weight(class_weight)
        epochs = _checks.positive_int("epochs", epochs)
        initial_epoch = _checks.non_negative_int("initial_epoch", initial_epoch)
        validation_split = _checks.number_between(
            "validation_split",
            0 if validation_split is None else validation_split,
            0,
            1,
            open_high=True,
        )
        check_validation_freq(validation_freq)
        train, validation_data = model_batches.train_and_validation(
            self,
            (x, y, sample_weight),
            validation_data,
            validation_split=validation_split,
            batch_size=batch_size,
            validation_batch_size=validation_batch_size,
            shuffle=_checks.flag("shuffle", shuffle),
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            epochs=epochs,
            initial_epoch=initial_epoch,
            validation_freq=str(validation_freq),
        )
        own = self.training_callbacks(train)
        first = whereabouts("fit")
        with (
            noting_exit(),
            resumption.start(
                self,
                train,
                given(callbacks),
                epochs=epochs,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
            ) as start,
            added(guard, own, callbacks, self, start, first) as callbacks,
            self.keep_weights(),
        ):
            return super().fit(
                train,
                epochs=epochs,
                verbose=verbosity(verbose),
                callbacks=callbacks,
                validation_data=validation_data,
                initial_epoch=start.initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_freq=validation_freq,
            )

    def epochs_made(self, epochs):
        self._starts.epochs_made(epochs)

    @loops
    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """The loss of a data set, as `keras.Model.evaluate` returns it.

        `keras_dp_retrieval.evaluate` has the metrics of the retrieved lists.
        """
        self.check_compiled("evaluate")
        batches = model_batches.padded(
            self, x, y, sample_weight, batch_size, steps_per_epoch=steps
        )
        model_batches.build_on(self, batches)
        with noting_exit(), self.keep_weights():
            return super().evaluate(
                batches,
                verbose=verbosity(verbose),
                steps=steps,
                callbacks=with_whereabouts(callbacks, "evaluate"),
                return_dict=return_dict,
                **kwargs,
            )

    @loops
    def predict(
        self, x, batch_size=None, verbose="auto", steps=None, callbacks=None
    ):
        """Vectors and candidates of any number of users.

        Returns:
            dict of NumPy arrays: `"user_embeddings"`, `(num_users, dim)`, and
            `"predictions"`, `(num_users, k)`, the table rows of candidates,
            best first, -1 where there are no more. They are ids only where
            the model has no vocabulary; `recommend` takes and gives ids.
        """
        batches = model_batches.padded(
            self,
            x,
            None,
            None,
            batch_size,
            steps_per_epoch=steps,
            check=self.check_batch,
        )
        model_batches.build_on(self, batches)
        with noting_exit(), self.keep_weights():
            outputs = super().predict(
                batches,
                verbose=verbosity(verbose),
                steps=steps,
                callbacks=with_whereabouts(callbacks, "predict"),
            )
        real = batches.real_row_mask()
        return {key: rows[real] for key, rows in outputs.items()}

    @loops
    def train_on_batch(
        self,
        x,
        y=None,
        sample_weight=None,
        class_weight=None,
        return_dict=False,
    ):
        """One step on one batch, as in `keras.Model`, of any number of rows.

        Returns:
            The loss of the batch before the step; a dict of the logs with
            `return_dict=True`.

        Raises:
            ValueError: As in `fit`. The weights stay as they were.
            RuntimeError: If Keras does not run on JAX.
        """
        distribution.require_jax("`train_on_batch`")
        self.check_compiled("train_on_batch")
        refuse_class_weight(class_weight)
        batches = model_batches.padded(
            self, x, y, sample_weight, model_batches.num_rows(x)
        )
        model_batches.build_on(self, batches)
        x, y, sample_weight = batches.first_batch()
        return super().train_on_batch(
            x, y, sample_weight, return_dict=return_dict
        )

    @loops
    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """The loss of one batch, as in `keras.Model`, of any number of rows.

        Raises:
            ValueError: As in `fit`.
        """
        self.check_compiled("test_on_batch")
        return PaddedModel.evaluate(
            self,
            x,
            y,
            batch_size=model_batches.num_rows(x),
            sample_weight=sample_weight,
            return_dict=return_dict,
            verbose=0,
        )

    @loops
    def predict_on_batch(self, x):
        """What `predict` returns, of one batch of any number of rows."""
        return PaddedModel.predict(
            self, x, model_batches.num_rows(x), verbose=0
        )

    get_weights = reads(keras.Model.get_weights)
    set_weights = reads(keras.Model.set_weights)
    save_weights = reads(keras.Model.save_weights)
    load_weights = reads(keras.Model.load_weights)
    save = reads(keras.Model.save)
    export = reads(keras.Model.export)
