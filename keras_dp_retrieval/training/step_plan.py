"""How a training step runs. It is decided here, and nowhere else.

Two questions, asked when `fit` makes its compiled function:

1. **Which gradients?** *Dense*: the gradient of every weight, and the
   optimizer's own update, as Keras has it (`_jax/steps.py::train_step`).
   *Row-sparse*: of embedding tables, the gradients of the looked-up rows
   alone, and the update of these rows by a rule of the optimizer
   (`_jax/row_sparse_step.py`, `row_rules.py`).
2. **How many steps a program?** *One*, called by Keras for each batch; or
   *fused*: `steps_per_execution` steps as one program
   (`_jax/train_functions.py::fused_train_function`), for which
   `PaddedBatches` stacks the batches of a group.

The answers do not depend on each other. Everything runs on JAX: `fit` and
`train_on_batch` refuse other backends before it comes to this.

From `fit` on, a step passes through `PaddedBatches` (padding), Keras'
trainer (which calls the train function), `PaddedModel.train_step` (which asks
`plan`), one of the two steps named above, and from there the model's `call`
and `compute_loss`.
"""

import dataclasses

from keras_dp_retrieval._keras.adapters import keras_fuses_steps
from keras_dp_retrieval.training import row_rules

EMBEDDING_UPDATES = ("auto", "dense", "row_sparse")

# From this many rows on, `"auto"` updates row by row. Below it, a dense step
# of two tables is about as fast.
LARGE_TABLE = 20_000


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """How the training steps of a compiled model run.

    Attributes:
        tables: list of `keras.Variable`: the embedding tables whose looked-up
            rows alone are updated. Empty: the step is dense.
        rule: The `RowRule` that updates them; None where there are none.
        fused: bool. Whether we fuse `steps_per_execution` steps.
    """

    tables: list
    rule: row_rules.RowRule | None
    fused: bool


def plan(model) -> StepPlan:
    """Decides how the training steps of a compiled `PaddedModel` run.

    A model says by `embedding_updates` what it was asked for, and by
    `row_tables()` which tables it reads by looking up rows.
    """
    rule = _row_rule(model)
    tables = [] if rule is None else _tables(model)
    return StepPlan(tables, rule, fuses_steps(model))


def fuses_steps(model) -> bool:
    """Whether a group of `steps_per_execution` steps is one program of ours.

    Keras 3.15 on JAX calls a compiled step that many times from Python. A
    later one fuses them itself (keras#23527): then this is left to it.
    """
    return (
        not keras_fuses_steps()
        and model.steps_per_execution > 1
        and model.jit_compile
        and not model.run_eagerly
    )


def _row_rule(model) -> row_rules.RowRule | None:
    """The rule that updates the model's tables by row; None: densely."""
    if model.embedding_updates == "dense":
        return None
    if model.embedding_updates == "row_sparse":
        return row_rules.row_rule(model.optimizer)  # It warns if there is none.
    if not any(table.shape[0] >= LARGE_TABLE for table in _tables(model)):
        return None
    if row_rules.dense_reason(model.optimizer):
        return None
    rule = row_rules.row_rule(model.optimizer)
    return rule if rule is not None and rule.exact else None


def _tables(model) -> list:
    tables = model.row_tables()
    if model.embedding_updates == "auto":
        # A regularizer has a gradient for every row.
        tables = [table for table in tables if table.regularizer is None]
    return tables
