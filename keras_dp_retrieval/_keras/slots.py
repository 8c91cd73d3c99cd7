"""Private parts of optimizers: slots, clipping and the step counter.

A row-sparse step updates some rows of a table and of its slots where
`Optimizer.apply` would compute whole tables. All of this goes when Keras'
optimizers take the gradient of some rows (keras#19109: "Gradients obtained
from sparse inputs are not sparse").

Names without a file are of `keras/src/optimizers/base_optimizer.py`.
"""

import keras

# The attributes that hold an optimizer's slots, each a list in the order of
# the variables it was built with, by class: keras/src/optimizers/sgd.py,
# adagrad.py, rmsprop.py, adam.py and adamw.py.
_SLOT_LISTS: dict[type, tuple[str, ...]] = {
    keras.optimizers.SGD: (),
    keras.optimizers.Adagrad: ("_accumulators",),
    keras.optimizers.RMSprop: ("_velocities",),
    keras.optimizers.Adam: ("_momentums", "_velocities"),
    keras.optimizers.AdamW: ("_momentums", "_velocities"),
}


def slots_of(optimizer, variable) -> list[keras.Variable]:
    """The slots that hold what the optimizer remembers of a variable.

    Args:
        optimizer: One of SGD and RMSprop without momentum, Adagrad, Adam and
            AdamW, built.
        variable: One of the variables it was built with.

    Returns:
        list of variables: none, the accumulator, the velocity, or momentum
        and velocity.
    """
    index = optimizer._get_variable_index(variable)
    lists = _SLOT_LISTS[type(optimizer)]
    return [getattr(optimizer, name)[index] for name in lists]


def built_for(optimizer) -> list[keras.Variable]:
    """The variables that an optimizer was built with, in order.

    `Optimizer.variables` has the slots alone.
    """
    return optimizer._trainable_variables


def moving_averages(optimizer) -> list[keras.Variable]:
    """With `use_ema`: the average of each variable, in order."""
    return optimizer._model_variables_moving_average


def decays(optimizer, variable) -> bool:
    """Whether decoupled weight decay is applied to a variable.

    `exclude_from_weight_decay` is public, and has no public question.
    """
    return optimizer.weight_decay is not None and optimizer._use_weight_decay(
        variable
    )


def clip(optimizer, gradients: list) -> list:
    """Gradients clipped by `clipnorm`, `global_clipnorm` or `clipvalue`."""
    return optimizer._clip_gradients(gradients)


def count_step(optimizer) -> None:
    """Counts a step in which no variable was given to `Optimizer.apply`.

    `Optimizer.iterations` is public, and may be read alone.
    """
    optimizer._iterations.assign_add(1)


def with_learning_rate(optimizer, learning_rate: float):
    """Returns an optimizer with another learning rate, and the same slots.

    `Optimizer.learning_rate` can be set, but not in the place of a schedule.
    """
    config = {**optimizer.get_config(), "learning_rate": learning_rate}
    other = type(optimizer).from_config(config)
    if not optimizer.built:
        return other
    other.build(built_for(optimizer))
    for mine, theirs in zip(
        _all_but_the_rate(other), _all_but_the_rate(optimizer), strict=True
    ):
        mine.assign(theirs)
    return other


def _all_but_the_rate(optimizer) -> list[keras.Variable]:
    # A number is a variable, a schedule is none.
    rate = optimizer.learning_rate
    return [one for one in optimizer.variables if one is not rate]
