"""A training step that differentiates looked-up rows instead of tables.

The gradient of an embedding lookup is as large as the table, and so are the
optimizer's update and, with several devices, what they exchange. Here every
lookup of a sparse table adds an array of zeros, as large as the rows it read,
and the step differentiates those zeros: their gradient is that of the rows.
No array of a table's size is made, only the tables and slots themselves,
which are updated in place.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import keras
from jax.extend.core import get_opaque_trace_state

from keras_dp_retrieval import _lookups
from keras_dp_retrieval._jax import list_sums, row_sparse
from keras_dp_retrieval._jax.merged_lookups import merge_lookups
from keras_dp_retrieval._keras import slots, trainer
from keras_dp_retrieval.warning_categories import TrainingWarning


def train_step(
    model, state, data, sparse_variables, rule, *, update_metrics=None
):
    """One row-sparse training step, with the contract of Keras' `train_step`.

    Stateless: it may be jitted, with the state donated, and scanned over. A
    sparse table that the loss also reads in another way than through
    `RowEmbedding` (as a whole for a full softmax, by a regularizer, inside a
    scan or a rematerialised block) is found out while the step is traced and
    gets its dense gradient, with a warning.

    Args:
        model: A built and compiled `keras.Model` on the JAX backend.
        state: `(trainable, non_trainable, optimizer, metrics)` lists of
            arrays, in the order of the model's variables.
        data: `x`, `(x, y)` or `(x, y, sample_weight)`.
        sparse_variables: The trainable `keras.Variable`s, tables of
            `RowEmbedding` layers, whose rows are updated. All other trainable
            variables get the optimizer's own update.
        rule: The `RowRule` of the model's optimizer.
        update_metrics: Optional `f(metrics_variables, loss, x, y, y_pred,
            sample_weight) -> (logs, metrics_variables)`, with the loss before
            any scaling. By default Keras' own, which counts padding rows.

    Returns:
        `(logs, state)`.
    """
    trainable, *others = state
    optimizer_values = state[2]
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

    def compute_loss(trainable):
        return trainer.loss_and_updates(
            model, (trainable, *others), x, y, sample_weight, training=True
        )

    variables = model.trainable_variables
    chosen = {id(variable) for variable in sparse_variables}
    sparse = {
        i
        for i, v in enumerate(variables)
        if id(v) in chosen and not v.overwrite_with_gradient
    }
    lookups, read_whole = _find_lookups(
        compute_loss, variables, trainable, sparse
    )
    _warn_dense(variables[i] for i in sorted(read_whole))
    aux, gradients, touched = _differentiate(
        compute_loss, variables, trainable, sparse - read_whole, lookups
    )
    loss, y_pred, non_trainable, metrics = aux
    trainable, optimizer_values = _apply(
        rule, variables, trainable, optimizer_values, gradients, touched
    )
    update = update_metrics or functools.partial(trainer.update_metrics, model)
    logs, metrics = update(metrics, loss, x, y, y_pred, sample_weight)
    return logs, (trainable, non_trainable, optimizer_values, metrics)


class _LookupTape:
    """Follows the lookups of some tables through one run of the model.

    Tables go by their index in the model's trainable variables. Indices, unlike
    ids of objects, are the same in every process, so that all processes
    compile one program.

    Args:
        variables: List of the model's trainable variables.
        tables: `{index: (num_rows, dim)}`, the tables to follow.
        offsets: Optional list of `(..., dim)`, one for each lookup in turn,
            added to its rows, or to their sums.
    """

    def __init__(self, variables, tables, offsets=None):
        self._indices = {id(variables[index]): index for index in tables}
        self._tables = tables
        self._offsets = offsets
        self._trace = get_opaque_trace_state()
        self.lookups = []  # The table's index, and the shape of the result.
        self.ids = []  # The ids of each lookup, or the entries of its lists.

    def lookup(self, variable, ids):
        index = self._index(variable)
        if index is None:
            return None
        rows = row_sparse.take(self._tables[index], ids)
        return self._noted(index, ids, rows)

    def list_sums(self, variable, entries):
        index = self._index(variable)
        if index is None:
            return None
        sums, numbers = list_sums.list_sums(self._tables[index], entries)
        return self._noted(index, entries, sums), numbers

    def _index(self, variable):
        # Inside a scan, a remat or a vmap of the model the ids cannot be
        # brought out, and one lookup may stand for many.
        if get_opaque_trace_state() != self._trace:
            return None
        return self._indices.get(id(variable))

    def _noted(self, index, ids, result):
        if self._offsets is not None:
            result = result + self._offsets[len(self.ids)]
        self.lookups.append((index, result.shape))
        self.ids.append(ids)
        return result


def _find_lookups(compute_loss, variables, trainable, sparse):
    """Traces the loss once to learn how it reads the sparse tables.

    Returns:
        `(lookups, read_whole)`: a list of `(index of the table, shape of what
        was found)`, and the set of the indices of tables that the loss also
        reads in another way; their lookups are left out.
    """
    tables = {index: trainable[index] for index in sorted(sparse)}
    lookups = []
    read_whole = set()

    def loss(ones):
        values = list(trainable)
        for index, one in ones.items():
            values[index] = _guard(
                values[index], one, lambda index=index: read_whole.add(index)
            )
        tape = _LookupTape(variables, tables)
        with _lookups.follow(tape):
            loss, _ = compute_loss(values)
        lookups.extend(tape.lookups)
        return loss

    ones = {index: jnp.ones(()) for index in tables}
    jax.eval_shape(jax.grad(loss), ones)
    return [one for one in lookups if one[0] not in read_whole], read_whole


def _guard(table, one, report):
    """`table`; calls `report()` if a gradient flows back to it.

    JAX runs the backward rule only if the loss depends on the result in a
    differentiable way. `one` is there to be differentiated.
    """

    @jax.custom_vjp
    def guard(table, one):
        return table

    def backward(_, gradient):
        report()
        return None, jnp.zeros(())

    guard.defvjp(lambda table, one: (table, None), backward)
    return guard(table, one)


def _warn_dense(variables):
    paths = ", ".join(variable.path for variable in variables)
    if paths:
        warnings.warn(
            f"Updated densely: {paths}. The loss does not read these tables "
            "through `RowEmbedding` lookups alone (but as a whole, by a "
            "regularizer, or inside a scan, vmap or remat), so every row may "
            "have a gradient.",
            TrainingWarning,
            stacklevel=3,
        )


def _differentiate(compute_loss, variables, trainable, sparse, lookups):
    """Gradients of the dense variables, and the touched rows of the others.

    Returns:
        `(aux, gradients, touched)`: what the loss function returns beside the
        loss, `{index: gradient}` and `{index: TouchedRows}`.
    """
    tables = {index: trainable[index] for index in sorted(sparse)}
    dense = {i: v for i, v in enumerate(trainable) if i not in sparse}
    offsets = [
        jnp.zeros(shape, tables[index].dtype) for index, shape in lookups
    ]

    def loss(dense, offsets):
        values = [(dense | tables)[i] for i in range(len(variables))]
        tape = _LookupTape(variables, tables, offsets)
        with _lookups.follow(tape):
            loss, aux = compute_loss(values)
        return loss, (aux, tape.ids)

    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (gradients, row_gradients), (aux, ids) = grad(dense, offsets)
    touched = {}
    for index, table in tables.items():
        mine = [i for i, lookup in enumerate(lookups) if lookup[0] == index]
        touched[index] = merge_lookups(
            [ids[i] for i in mine], [row_gradients[i] for i in mine], table
        )
    return aux, gradients, touched


def _apply(rule, variables, trainable, optimizer_values, gradients, touched):
    """Updates dense variables by the optimizer, touched rows by the rule.

    Returns:
        `(trainable, optimizer_values)`, lists in the order they came in.
    """
    optimizer = rule.optimizer
    gradients, touched = _clip(optimizer, variables, gradients, touched)
    everything = [*variables, *optimizer.variables]
    values = [*trainable, *optimizer_values]
    mapping = list(zip(everything, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        for index, rows in touched.items():
            table = variables[index]
            memory = rule.slots(table)
            updated = rule.update(
                table,
                scope.get_current_value(table),
                [scope.get_current_value(slot) for slot in memory],
                rows,
            )
            for update in zip([table, *memory], updated, strict=True):
                scope.add_update(update)
            if table.constraint is not None:
                # A constraint speaks of the whole table: a norm along axis 0
                # is that of a column, and rows that were never touched must
                # keep to it as well. So this is one pass over the table, as
                # in the dense step.
                table.assign(table.constraint(table))
        if gradients:
            # This counts the iteration, too.
            optimizer.apply(
                list(gradients.values()), [variables[i] for i in gradients]
            )
        else:
            slots.count_step(optimizer)
    values = [scope.get_current_value(v) for v in everything]
    return values[: len(variables)], values[len(variables) :]


def _clip(optimizer, variables, gradients, touched):
    """Clips dense gradients and touched rows together, by Keras' own rules.

    The entries of `TouchedRows` that hold no row hold zeros, so a norm over
    them is the norm of the dense gradient. The optimizer clips the dense ones
    again when it applies them; they are within the bound by then.

    What is called the gradient of a variable with `overwrite_with_gradient`
    (the scales of float8 layers) is its next value: it is not clipped and
    counts in no norm.
    """
    descended = {
        index: gradient
        for index, gradient in gradients.items()
        if not variables[index].overwrite_with_gradient
    }
    clipped = slots.clip(
        optimizer,
        [*descended.values(), *(rows.gradients for rows in touched.values())],
    )
    dense = gradients | dict(zip(descended, clipped, strict=False))
    rows = zip(touched.items(), clipped[len(descended) :], strict=True)
    return dense, {
        index: old._replace(gradients=new) for (index, old), new in rows
    }
