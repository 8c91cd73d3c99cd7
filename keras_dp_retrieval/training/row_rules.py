"""Row-sparse rules for Keras optimizers, and the reason where there is none.

| optimizer | rule | tables and slots |
| --- | --- | --- |
| `SGD` without momentum | `"sgd"` | those of the dense step |
| `Adagrad` | `"adagrad"` | those of the dense step |
| `RMSprop` without momentum, not centered | `"rmsprop"` | the same |
| `Adam`, `AdamW`, without AMSGrad | `"lazy_adam"`, `"lazy_adamw"` | lazy |
| any other | none | dense |

A row is touched in a step when its gradient, summed over the batch, is not
exactly zero.

- RMSprop lets the velocity of untouched rows decay. The rule does so too, in
  one pass over that slot, so its cost still grows with the table (two tables
  of 1M rows of 64 on a busy CPU: about an eighth of the dense step).
- Lazy Adam leaves the moments of untouched rows as they are; dense Adam lets
  them decay and goes on moving those rows. It is another algorithm.
- Weight decay is applied to the rows that a step touches, at every step that
  touches them; the dense step shrinks all rows all the time. With weight decay
  a rule is lazy, and equals the dense step only where every row is touched.
- Gradient clipping sees the gradient of a table as its touched rows, repeats
  already summed. The rows left out are zeros, so `clipnorm` (the norm of one
  table), `global_clipnorm` (of all variables) and `clipvalue` give what they
  give in the dense step.
- An `embeddings_constraint` is applied to the whole table after every step, as
  in the dense step: that pass grows with the table. A regularizer of a table
  has a gradient for every row: such a table is updated densely.
- `use_ema`, gradient accumulation and loss scaling (also by a
  `LossScaleOptimizer`, as mixed float16 has it) have no rule: dense.
"""

import dataclasses
import warnings
import weakref
from collections.abc import Callable

import keras
from keras import ops

from keras_dp_retrieval._keras.slots import decays, slots_of
from keras_dp_retrieval.warning_categories import TrainingWarning


@dataclasses.dataclass(frozen=True)
class RowRule:
    """How one optimizer updates the touched rows of a table.

    Attributes:
        name: What the rule computes, such as `"adagrad"` or `"lazy_adam"`.
        exact: Whether tables and slots equal those of the dense step. The
            others are lazy: they leave untouched rows alone where the dense
            step would still change them.
        optimizer: The `keras.optimizers.Optimizer` the rule speaks for.
    """

    name: str
    exact: bool
    optimizer: keras.optimizers.Optimizer
    _update: Callable = dataclasses.field(repr=False)

    def get_config(self) -> dict:
        """`{"name", "exact"}`, for the record of a run."""
        return {"name": self.name, "exact": self.exact}

    def slots(self, variable) -> list:
        """The optimizer's slot variables of `variable`, in rule order."""
        return slots_of(self.optimizer, variable)

    def update(self, variable, table, slots, touched):
        """Returns `(table, *slots)` after one step on the touched rows.

        The optimizer's iterations and learning rate are read as they stand,
        so this runs inside the step's `keras.StatelessScope`.

        Args:
            variable: The `keras.Variable` of the table.
            table: `(num_rows, dim)`. Its value.
            slots: List of `(num_rows, dim)`. The values of `slots(variable)`.
            touched: `_jax.row_sparse.TouchedRows`, already clipped.
        """
        from keras_dp_retrieval._jax import row_sparse

        optimizer = self.optimizer
        rate = ops.cast(optimizer.learning_rate, table.dtype)
        if decays(optimizer, variable):
            table = row_sparse.decay(
                table, touched, rate * optimizer.weight_decay
            )
        return self._update(optimizer, rate, table, slots, touched)


def row_rule(optimizer: keras.optimizers.Optimizer) -> RowRule | None:
    """The row-sparse rule of a Keras optimizer; None, and one warning, if none.

    None means that embedding tables have to be updated densely. The warning
    says why, once for each optimizer object.
    """
    reason = dense_reason(optimizer)
    if reason is None:
        return _find_rule(optimizer)
    if optimizer not in _warned:
        _warned.add(optimizer)
        warnings.warn(
            f"Embedding tables are updated densely: {reason} Every step "
            "costs as much as the whole table. Row-sparse rules exist for "
            "SGD and RMSprop without momentum, Adagrad, Adam and AdamW.",
            TrainingWarning,
            stacklevel=2,
        )
    return None


def dense_reason(optimizer: keras.optimizers.Optimizer) -> str | None:
    """Why this optimizer has no row-sparse rule, in a sentence; or None."""
    name = type(optimizer).__name__
    if type(optimizer) not in _KINDS:
        # A subclass may have changed the rule: only the classes themselves.
        return f"there is no row-sparse rule for the optimizer {name}."
    if optimizer.use_ema:
        return f"{name}(use_ema=True) averages every row at every step."
    if optimizer.gradient_accumulation_steps:
        return (
            f"{name}(gradient_accumulation_steps="
            f"{optimizer.gradient_accumulation_steps}) keeps a gradient for "
            "every row."
        )
    if optimizer.loss_scale_factor is not None:
        return (
            f"{name}(loss_scale_factor={optimizer.loss_scale_factor}) has no "
            "row-sparse rule."
        )
    for option in ("momentum", "centered", "amsgrad"):
        if getattr(optimizer, option, False):
            value = getattr(optimizer, option)
            return f"{name}({option}={value}) has no row-sparse rule."
    return None


# Optimizers that were warned about: they are not kept alive for it.
_warned: weakref.WeakSet = weakref.WeakSet()


def _find_rule(optimizer) -> RowRule:
    name, update = _KINDS[type(optimizer)]
    exact = not name.startswith("lazy") and not optimizer.weight_decay
    return RowRule(name, exact, optimizer, update)


def _sgd(optimizer, rate, table, slots, touched):
    from keras_dp_retrieval._jax import row_sparse

    return (row_sparse.sgd(table, touched, learning_rate=rate),)


def _adagrad(optimizer, rate, table, slots, touched):
    from keras_dp_retrieval._jax import row_sparse

    return row_sparse.adagrad(
        table, *slots, touched, learning_rate=rate, epsilon=optimizer.epsilon
    )


def _rmsprop(optimizer, rate, table, slots, touched):
    from keras_dp_retrieval._jax import row_sparse

    return row_sparse.rmsprop(
        table,
        *slots,
        touched,
        learning_rate=rate,
        rho=optimizer.rho,
        epsilon=optimizer.epsilon,
    )


def _lazy_adam(optimizer, rate, table, slots, touched):
    from keras_dp_retrieval._jax import row_sparse

    # The bias correction counts all steps of the optimizer, as in dense Adam.
    step = ops.cast(optimizer.iterations + 1, table.dtype)
    correction = ops.sqrt(1 - ops.power(optimizer.beta_2, step))
    correction = correction / (1 - ops.power(optimizer.beta_1, step))
    return row_sparse.lazy_adam(
        table,
        *slots,
        touched,
        step_size=rate * correction,
        beta_1=optimizer.beta_1,
        beta_2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
    )


# Optimizer -> name of its rule, the rule.
_KINDS: dict[type, tuple[str, Callable]] = {
    keras.optimizers.SGD: ("sgd", _sgd),
    keras.optimizers.Adagrad: ("adagrad", _adagrad),
    keras.optimizers.RMSprop: ("rmsprop", _rmsprop),
    keras.optimizers.Adam: ("lazy_adam", _lazy_adam),
    keras.optimizers.AdamW: ("lazy_adamw", _lazy_adam),
}
