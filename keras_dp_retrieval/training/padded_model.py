"""PaddedModel: a Keras model for any number of rows and devices."""

import contextlib
import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks, agreement, distribution
from keras_dp_retrieval._keras.adapters import (
    keras_fuses_steps,
    single_steps,
    train_validation_split,
)
from keras_dp_retrieval._keras.trainer import Trainer
from keras_dp_retrieval.training import step_plan
from keras_dp_retrieval.training.finite import NonFiniteGuard
from keras_dp_retrieval.training.in_use import InUse, loops, reads
from keras_dp_retrieval.training.padded_batches import (
    NO_ROWS,
    PaddedBatches,
    read_by_keras,
)
from keras_dp_retrieval.training.row_weights import row_weights


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

    def check_batch(self, x, y):
        """Raises a ValueError if the NumPy arrays of a batch are not valid."""

    def training_callbacks(self, batches: PaddedBatches) -> list:
        """Callbacks of the model's own that `fit` adds to the user's."""
        return []

    # Steps: `step_plan.py` says which

    # What `step_plan` asks; see there.
    embedding_updates = "dense"

    def row_tables(self) -> list:
        """The embedding tables that a step reads by looking up rows."""
        return []

    def train_step(self, state, data):
        from keras_dp_retrieval._jax import row_sparse_step, steps

        plan = step_plan.plan(self)
        if not plan.tables:
            return steps.train_step(self, state, data)
        return row_sparse_step.train_step(
            self,
            state,
            data,
            plan.tables,
            plan.rule,
            update_metrics=functools.partial(steps.update_metrics, self),
        )

    def test_step(self, *args):
        if keras.backend.backend() != "jax":
            return self._test_step_elsewhere(*args)
        from keras_dp_retrieval._jax import steps

        return steps.test_step(self, *args)

    def _test_step_elsewhere(self, data):
        """As `steps.test_step`: Keras would count padding rows in the loss."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False)
        loss = self.compute_loss(x, y, y_pred, weights, training=False)
        num_real = ops.sum(ops.cast(weights != 0, "float32"))
        self.loss_tracker.update_state(loss, sample_weight=num_real)
        return self.compute_metrics(x, y, y_pred, weights)

    def predict_step(self, *args):
        if keras.backend.backend() != "jax":
            return super().predict_step(*args)
        from keras_dp_retrieval._jax.replication import replicate

        outputs, non_trainable = super().predict_step(*args)
        return replicate(outputs), non_trainable

    def own_train_function(self):
        if not step_plan.fuses_steps(self):
            return None
        from keras_dp_retrieval._jax import train_functions

        return train_functions.fused_train_function(self)

    def finish_function(self, function):
        return _compiled_once(function)

    def finish_train_function(self, function):
        if (
            keras.backend.backend() == "jax"
            and keras_fuses_steps()
            and self.steps_per_execution > 1
        ):
            function = single_steps(function)
        return self.finish_function(function)

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
        by the devices.

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
        _refuse_class_weight(class_weight)
        epochs = _checks.positive_int("epochs", epochs)
        initial_epoch = _checks.non_negative_int("initial_epoch", initial_epoch)
        validation_split = _checks.number_between(
            "validation_split",
            0 if validation_split is None else validation_split,
            0,
            1,
            open_high=True,
        )
        shuffle = _checks.flag("shuffle", shuffle)
        _check_validation_freq(validation_freq)
        if validation_split and validation_data is None:
            with read_by_keras():
                (x, y, sample_weight), validation_data = train_validation_split(
                    (x, y, sample_weight), validation_split=validation_split
                )
        train = self._batches(
            x,
            y,
            sample_weight,
            batch_size,
            shuffle=shuffle,
            steps_per_epoch=steps_per_epoch,
            steps_per_group=(
                self.steps_per_execution if step_plan.fuses_steps(self) else 1
            ),
        )
        self._build_on(train)
        if validation_data is not None:
            with read_by_keras():
                val_x, val_y, val_weight = keras.utils.unpack_x_y_sample_weight(
                    validation_data
                )
            validation_data = self._batches(
                val_x,
                val_y,
                val_weight,
                (
                    batch_size
                    if validation_batch_size is None
                    else validation_batch_size
                ),
                steps_per_epoch=validation_steps,
            )
        _check_all_processes_agree(train, validation_data)
        own = self.training_callbacks(train)
        with (
            _added(guard, own, callbacks, self) as callbacks,
            self.keep_weights(),
        ):
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
        self.check_compiled("evaluate")
        batches = self._batches(
            x, y, sample_weight, batch_size, steps_per_epoch=steps
        )
        self._build_on(batches)
        with self.keep_weights():
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
            x,
            None,
            None,
            batch_size,
            steps_per_epoch=steps,
            check=self.check_batch,
        )
        self._build_on(batches)
        with self.keep_weights():
            outputs = super().predict(
                batches, verbose=verbose, steps=steps, callbacks=callbacks
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
        _refuse_class_weight(class_weight)
        batches = self._batches(x, y, sample_weight, _num_rows(x))
        self._build_on(batches)
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
            batch_size=_num_rows(x),
            sample_weight=sample_weight,
            return_dict=return_dict,
            verbose=0,
        )

    @loops
    def predict_on_batch(self, x):
        """What `predict` returns, of one batch of any number of rows."""
        return PaddedModel.predict(self, x, _num_rows(x), verbose=0)

    get_weights = reads(keras.Model.get_weights)
    set_weights = reads(keras.Model.set_weights)
    save_weights = reads(keras.Model.save_weights)
    load_weights = reads(keras.Model.load_weights)
    save = reads(keras.Model.save)
    export = reads(keras.Model.export)

    def _batches(
        self, x, y, sample_weight, batch_size, *, check=None, **kwargs
    ):
        if isinstance(x, PaddedBatches):
            return x
        first = _first(x)
        if batch_size is not None:
            batch_size = _checks.positive_int("batch_size", batch_size)
        if kwargs.get("steps_per_epoch") is not None:
            _checks.positive_int("steps", kwargs["steps_per_epoch"])
        if sample_weight is not None:
            sample_weight = row_weights(sample_weight)
        check = check or self._check_example
        if _are_arrays((x, y)):
            # Whatever is wrong shows up before anything is trained.
            if not len(first):
                raise ValueError(NO_ROWS)
            check(*_as_numpy((x, y)))
            check = None
        steps_per_group = kwargs.pop("steps_per_group", 1)
        return PaddedBatches(
            {
                "x": x,
                "y": y,
                "sample_weight": sample_weight,
                "batch_size": batch_size,
                **kwargs,
            },
            check=check,
            steps_per_group=steps_per_group,
        )

    def _check_example(self, x, y):
        """As `check_batch`, of what a loss is computed of."""
        if y is None:
            raise ValueError(
                "Training and evaluation need targets. Received: y=None. Give "
                "`y`, or batches of `(x, y)`."
            )
        self.check_batch(x, y)

    def _build_on(self, batches: PaddedBatches):
        if not self.built:
            x, _, _ = batches.first_batch()
            # Symbolically: processes hold different rows, and JAX would
            # compare.
            self(
                keras.tree.map_structure(
                    lambda rows: keras.KerasTensor(rows.shape, str(rows.dtype)),
                    x,
                )
            )
        # Keras' nightly begins a pass over the data where the optimizer alone
        # is not built, and workers that are stopped in it repeat batches.
        optimizer = getattr(self, "optimizer", None)  # Unless compiled.
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.trainable_variables)


def _check_validation_freq(epochs):
    """Raises unless it is a number of epochs, or a list of their numbers."""
    for number in epochs if isinstance(epochs, (list, tuple)) else [epochs]:
        _checks.positive_int("validation_freq", number)


def _refuse_class_weight(class_weight):
    if class_weight is not None:
        raise ValueError(
            "`class_weight` has no meaning here: the targets are candidates, "
            "not classes. Received: a `class_weight`. Pass `sample_weight`, "
            "one weight for each row."
        )


@contextlib.contextmanager
def _added(guard, own, callbacks, model):
    """Gives the callbacks of a `fit`, with the model's among them.

    The guard comes before all that judge or keep the weights, but behind what
    measures the time of the epoch, which it would otherwise be part of.
    """
    ready = isinstance(callbacks, keras.callbacks.CallbackList)
    given = (
        callbacks.callbacks if ready else keras.tree.flatten(callbacks or [])
    )
    place = 0
    while place < len(given) and getattr(given[place], "_only_measures", False):
        place += 1
    every = [*given[:place], guard, *given[place:], *own]
    if not ready:
        yield every
        return
    for callback in (guard, *own):
        callback.set_model(model)
        callback.set_params(callbacks.params)
    callbacks.callbacks = every
    try:
        yield callbacks
    finally:
        callbacks.callbacks = given


def _are_arrays(data) -> bool:
    """Whether all of the data is there, as arrays or tensors."""
    return all(
        hasattr(leaf, "__array__")
        and hasattr(leaf, "dtype")
        and np.ndim(leaf) > 0
        for leaf in keras.tree.flatten(data)
        if leaf is not None
    )


def _as_numpy(data):
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else ops.convert_to_numpy(leaf), data
    )


def _first(x):
    """The first array of `x`, or what hands out its batches.

    Raises:
        ValueError: If nothing is there.
    """
    leaves = keras.tree.flatten(x)
    if not leaves or any(leaf is None for leaf in leaves):
        raise ValueError(
            "`x` must hold the users, as arrays or as batches. Received: "
            f"x={x!r:.80}."
        )
    return leaves[0]


def _num_rows(x) -> int:
    """Rows of a batch; 1 of an empty one, which is refused later."""
    return max(len(_first(x)), 1)


def _check_all_processes_agree(train, validation):
    """Raises where other processes have other data, or stop elsewhere."""
    if distribution.process_count() == 1:
        return  # Reading all data for its identity takes time.
    parts = {"training": train, "validation": validation}
    agreement.check(
        {
            f"{part} {name}": value
            for part, batches in parts.items()
            if batches is not None
            for name, value in batches.identity().items()
        }
    )


def _compiled_once(function):
    """A train or test function without what makes JAX compile it again."""
    if (
        keras.backend.backend() != "jax"
        or keras.distribution.distribution() is None
        or distribution.num_devices() > 1
    ):
        return function
    from keras_dp_retrieval._jax import train_functions

    return train_functions.on_committed_state(function)
