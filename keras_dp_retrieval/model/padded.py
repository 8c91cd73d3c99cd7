"""PaddedModel: a Keras model for any number of rows and devices."""

import contextlib

import keras

from keras_dp_retrieval import distribution
from keras_dp_retrieval.batches import (
    PaddedBatches,
    keras_fuses_steps,
    train_validation_split,
)
from keras_dp_retrieval.model.in_use import InUse, loops, reads


class PaddedModel(keras.Model):
    """Trains, evaluates and predicts on any number of rows and devices.

    Batches reach the subclass through `PaddedBatches`: all of one size, always
    with a `sample_weight` `(batch,)` that is 0 for filler rows. What it must
    do is to leave rows of weight 0 out of `compute_loss`, and to divide by the
    number of the others. It may override `check_batch`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._in_use = InUse()

    def check_batch(self, x, y):
        """Raises a ValueError if the NumPy arrays of a batch are not valid."""

    def training_callbacks(self, batches: PaddedBatches) -> list:
        """Callbacks of the model's own that `fit` adds to the user's."""
        return []

    # Steps on JAX

    @property
    def loss_tracker(self):
        """The `keras.metrics.Mean` behind the log entry `loss`."""
        return self._loss_tracker

    def train_step(self, *args):
        if keras.backend.backend() != "jax":
            return super().train_step(*args)
        from keras_dp_retrieval._jax import steps

        return steps.train_step(self, *args)

    def test_step(self, *args):
        if keras.backend.backend() != "jax":
            return super().test_step(*args)
        from keras_dp_retrieval._jax import steps

        return steps.test_step(self, *args)

    def predict_step(self, *args):
        if keras.backend.backend() != "jax":
            return super().predict_step(*args)
        from keras_dp_retrieval._jax import steps

        outputs, non_trainable = super().predict_step(*args)
        return steps.replicate(outputs), non_trainable

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        if self._fuses_steps():
            from keras_dp_retrieval._jax import steps

            self.train_function = steps.fused_train_function(self)
        else:
            super().make_train_function(force)
        self.train_function = _compiled_once(self.train_function)

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = _compiled_once(self.test_function)

    def _fuses_steps(self) -> bool:
        """Whether a group of `steps_per_execution` steps is one program.

        Keras 3.15 on JAX calls a compiled step that many times from Python. A
        later one fuses them itself (keras#23527): then this is left to it.
        """
        return (
            keras.backend.backend() == "jax"
            and not keras_fuses_steps()
            and self.steps_per_execution > 1
            and self.jit_compile
            and not self.run_eagerly
        )

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
    ):
        """Trains as `keras.Model.fit` does, on any number of rows.

        All arguments and the returned `History` are Keras'. See `batches.py`
        for what happens to a batch that does not divide by the devices.

        Raises:
            ValueError: If an id is outside its table, a rating is not finite,
                or there is no row at all. The weights stay as they were.
        """
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = train_validation_split(
                (x, y, sample_weight), validation_split=validation_split
            )
        train = self._batches(
            x,
            y,
            sample_weight,
            batch_size,
            shuffle=shuffle,
            class_weight=class_weight,
            steps_per_epoch=steps_per_epoch,
            steps_per_group=(
                self.steps_per_execution if self._fuses_steps() else 1
            ),
        )
        self._build_on(train)
        if validation_data is not None:
            val_x, val_y, val_weight = keras.utils.unpack_x_y_sample_weight(
                validation_data
            )
            validation_data = self._batches(
                val_x,
                val_y,
                val_weight,
                validation_batch_size or batch_size,
                steps_per_epoch=validation_steps,
            )
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            own = self.training_callbacks(train)
            callbacks = [*keras.tree.flatten(callbacks or []), *own]
        with self._keep_weights():
            return super().fit(
                train,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation_data,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_freq=validation_freq,
            )

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
        batches = self._batches(
            x, y, sample_weight, batch_size, steps_per_epoch=steps
        )
        self._build_on(batches)
        with self._keep_weights():
            return super().evaluate(
                batches,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
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
        batches = self._batches(
            x, None, None, batch_size, steps_per_epoch=steps
        )
        self._build_on(batches)
        with self._keep_weights():
            outputs = super().predict(
                batches, verbose=verbose, steps=steps, callbacks=callbacks
            )
        real = batches.is_real_row()
        return {key: rows[real] for key, rows in outputs.items()}

    train_on_batch = loops(keras.Model.train_on_batch)
    test_on_batch = loops(keras.Model.test_on_batch)
    predict_on_batch = loops(keras.Model.predict_on_batch)
    get_weights = reads(keras.Model.get_weights)
    set_weights = reads(keras.Model.set_weights)
    save_weights = reads(keras.Model.save_weights)
    load_weights = reads(keras.Model.load_weights)
    save = reads(keras.Model.save)
    export = reads(keras.Model.export)

    def _batches(self, x, y, sample_weight, batch_size, **kwargs):
        if isinstance(x, PaddedBatches):
            return x
        steps_per_group = kwargs.pop("steps_per_group", 1)
        return PaddedBatches(
            {
                "x": x,
                "y": y,
                "sample_weight": sample_weight,
                "batch_size": batch_size,
                **kwargs,
            },
            check=self.check_batch,
            steps_per_group=steps_per_group,
        )

    def _build_on(self, batches: PaddedBatches):
        if self.built:
            return
        x, _, _ = batches.first_batch()
        # Symbolically: processes hold different rows, and JAX would compare.
        self(
            keras.tree.map_structure(
                lambda rows: keras.KerasTensor(rows.shape, str(rows.dtype)), x
            )
        )

    @contextlib.contextmanager
    def _keep_weights(self):
        """Puts the weights back when a loop over the data fails.

        Keras detaches them before it asks for the first batch, and loses them
        when that fails.
        """
        if keras.backend.backend() != "jax":
            yield
            return
        variables = [*self.variables, *self.metrics_variables]
        if self.optimizer is not None:
            variables += self.optimizer.variables
        saved = [(variable, variable.value) for variable in variables]
        try:
            yield
        except BaseException:
            self.jax_state_sync()
            for variable, value in saved:
                if variable._value is None:
                    variable.assign(value)
            raise


def _compiled_once(function):
    """A train or test function without what makes JAX compile it again."""
    if (
        keras.backend.backend() != "jax"
        or keras.distribution.distribution() is None
        or distribution.num_devices() > 1
    ):
        return function
    from keras_dp_retrieval._jax import steps

    return steps.on_committed_state(function)
