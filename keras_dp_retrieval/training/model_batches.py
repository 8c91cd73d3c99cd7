"""What `fit`, `evaluate` and `predict` are given, as padded batches."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks, agreement, distribution
from keras_dp_retrieval._keras.adapters import train_validation_split
from keras_dp_retrieval.training import same_model, step_plan
from keras_dp_retrieval.training.keras_data import read_by_keras
from keras_dp_retrieval.training.padded_batches import NO_ROWS, PaddedBatches
from keras_dp_retrieval.training.row_weights import row_weights


def train_and_validation(
    model,
    train,
    validation,
    *,
    validation_split,
    batch_size,
    validation_batch_size,
    shuffle,
    steps_per_epoch,
    validation_steps,
    **settings,
) -> tuple:
    """The batches that `fit` trains on, and those that it validates on.

    Args:
        model: `PaddedModel`; it is built, if it was not.
        train: `(x, y, sample_weight)` as `fit` was given them.
        validation: As the argument `validation_data` of `fit`.
        validation_split: float. Held out of `train` where there is none.
        batch_size: As in `fit`; likewise the others.
        **settings: Further arguments of `fit` that all processes must be
            given alike, JSON.

    Returns:
        `(train, validation)`, `PaddedBatches`; `validation` may be None.
    """
    if validation_split and validation is None:
        with read_by_keras():
            train, validation = train_validation_split(
                train, validation_split=validation_split
            )
    if not model.built:
        same_model.check_seed()
    x, y, sample_weight = train
    train = padded(
        model,
        x,
        y,
        sample_weight,
        batch_size,
        shuffle=shuffle,
        steps_per_epoch=steps_per_epoch,
        steps_per_group=(
            model.steps_per_execution if step_plan.fuses_steps(model) else 1
        ),
    )
    build_on(model, train)
    if validation is not None:
        if validation_batch_size is None:
            validation_batch_size = batch_size
        with read_by_keras():
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
                validation
            )
        validation = padded(
            model,
            x,
            y,
            sample_weight,
            validation_batch_size,
            steps_per_epoch=validation_steps,
        )
    settings = {"shuffle": shuffle, **settings}
    _check_all_processes_agree(model, train, validation, settings)
    return train, validation


def padded(model, x, y, sample_weight, batch_size, *, check=None, **kwargs):
    """What a method was given, as `PaddedBatches`; checked where it is there.

    Args:
        model: `PaddedModel`.
        x: As in `fit`; likewise `y`, `sample_weight` and `batch_size`.
        check: Optional function of `(x, y)` that raises for bad rows. By
            default `check_batch` of the model, of targets that must be there.
        **kwargs: Further arguments of `fit` that concern the data, and
            `steps_per_group` of `PaddedBatches`.
    """
    if isinstance(x, PaddedBatches):
        return x
    first = _first(x)
    if batch_size is not None:
        batch_size = _checks.positive_int("batch_size", batch_size)
    if kwargs.get("steps_per_epoch") is not None:
        _checks.positive_int("steps", kwargs["steps_per_epoch"])
    if sample_weight is not None:
        sample_weight = row_weights(sample_weight)
    check = check or functools.partial(_check_example, model)
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


def _check_example(model, x, y):
    """As `check_batch`, of what a loss is computed of."""
    if y is None:
        raise ValueError(
            "Training and evaluation need targets. Received: y=None. Give "
            "`y`, or batches of `(x, y)`."
        )
    model.check_batch(x, y)


def build_on(model, batches: PaddedBatches) -> None:
    """Makes the variables of a model that has none yet, and the optimizer's."""
    if not model.built:
        x, _, _ = batches.first_batch()
        # Symbolically: processes hold different rows, and JAX would
        # compare.
        model(
            keras.tree.map_structure(
                lambda rows: keras.KerasTensor(rows.shape, str(rows.dtype)),
                x,
            )
        )
    # Keras' nightly begins a pass over the data where the optimizer alone
    # is not built, and workers that are stopped in it repeat batches.
    optimizer = getattr(model, "optimizer", None)  # Unless compiled.
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


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


def num_rows(x) -> int:
    """Rows of a batch; 1 of an empty one, which is refused later."""
    return max(len(_first(x)), 1)


def _check_all_processes_agree(model, train, validation, settings):
    """Raises where others have another model or data, or stop elsewhere."""
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
        | same_model.identity(model, settings)
    )
