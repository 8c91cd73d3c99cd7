"""Growth: new users and candidates for a model that has learned already.

What was learned stays as it is, the optimizer's slots included: new ids get
new rows at the end of the tables. The next `fit` is compiled again.

Every layer of the towers that holds its size as an attribute `num_users` or
`num_candidates`, as the towers of this package do, is given the new one. A
tower of your own whose `get_config` has the size from elsewhere must see to
that itself. Other weights with a row for each id, such as a table of features,
cannot grow and are refused.
"""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval._keras import slots
from keras_dp_retrieval._keras.layers import embedding_table, sublayers
from keras_dp_retrieval._keras.variables import reshape
from keras_dp_retrieval.data.padding import refuse_padding_ids
from keras_dp_retrieval.model import encoding, feature_rows, id_tables
from keras_dp_retrieval.model.candidate_states import (
    ABSENT,
    ABSENT_WITH_VECTOR,
)
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories


def add_users(model, ids, seed, features=None) -> None:
    """What `TwoTowerRetrieval.add_users` says."""
    seed = _checks.seed("seed", seed)
    num_new, vocabulary = _extended("user", model.user_vocabulary, ids)
    found = _features(model, "user", features, ids, num_new)
    if num_new:
        with undone_on_error() as undo:
            grow(model, {"user": num_new}, seed, undo, features={"user": found})
        model.user_vocabulary = vocabulary


def add_candidates(model, ids, vectors, seed, features=None) -> int:
    """What `TwoTowerRetrieval.add_candidates` says; returns how many."""
    seed = _checks.seed("seed", seed)
    num_new, vocabulary = _extended(
        "candidate", model.candidate_vocabulary, ids
    )
    if vectors is not None:
        vectors = _start_vectors(model, vectors, num_new)
    found = _features(model, "candidate", features, ids, num_new)
    if num_new:
        with undone_on_error() as undo:
            grow(
                model,
                {"candidate": num_new},
                seed,
                undo,
                vectors,
                features={"candidate": found},
            )
        model.candidate_vocabulary = vocabulary
    return num_new


def _features(model, side, features, ids, num_new):
    if features is None:
        return None
    ids = ids if np.ndim(ids) else None
    found = feature_rows.encoded(model, side, features, ids, num_new)
    # Whoever has a row of features has some, as in training.
    return found._replace(is_known=np.ones(num_new, bool))


def _start_vectors(model, vectors, num_new) -> np.ndarray:
    if not isinstance(model.candidate_tower, RowEmbedding):
        raise ValueError(
            "`vectors` are for a candidate tower that is one "
            "`RowEmbedding`. Received: a "
            f"{type(model.candidate_tower).__name__}. Leave them out."
        )
    vectors = np.asarray(vectors, "float32")
    expected = (num_new, model.candidate_tower.output_dim)
    if vectors.shape != expected or not np.isfinite(vectors).all():
        raise ValueError(
            f"`vectors` must be finite and have the shape {expected}. "
            f"Received: shape {vectors.shape}, "
            f"{np.sum(~np.isfinite(vectors))} values not finite."
        )
    return vectors


@contextlib.contextmanager
def undone_on_error():
    """Gives a stack of what takes changes back, which is done on an error."""
    with contextlib.ExitStack() as undo:
        yield undo
        undo.pop_all()  # All went well: nothing is undone.


def grow(model, num_new, seed, undo, vectors=None, features=None) -> None:
    """Gives a model new rows at the end of its tables.

    Args:
        model: `TwoTowerRetrieval`.
        num_new: dict from `"user"` and `"candidate"`, or one of them, to how
            many.
        seed: int. Of the new rows.
        undo: As `undone_on_error` gives it.
        vectors: Optional float `(num_new["candidate"], dim)`.
        features: Optional dict from a side to its new rows' encoded features,
            `feature_rows.NewFeatures`; without, they are unknown.

    Raises:
        ValueError: If a table cannot grow.
    """
    model.build()
    old = {side: getattr(model, f"num_{side}s") for side in num_new}
    # Of both sides before either grows, which may make them equally long.
    tables = {
        side: id_tables.tables_of(model, side, old[side]) for side in num_new
    }
    feature_towers = {
        side: id_tables.feature_towers_of(model, side, old[side])
        for side in num_new
    }
    for side in num_new:
        id_tables.check_other_weights(model, side, old[side])
    for side, number in num_new.items():
        of_side = vectors if side == "candidate" else None
        for table in tables[side]:
            _grow_table(table, old[side] + number, of_side, seed, undo)
        _grow_layers(model, side, old[side], number, undo)
        for tower in feature_towers[side]:
            undo.callback(setattr, tower, "num_rows", old[side])
            tower.num_rows = old[side] + number
        found = (features or {}).get(side)
        feature_rows.grow(model, side, found, number, resize, undo)
    if "candidate" in num_new:
        counts = ops.convert_to_numpy(model.candidate_counts)
        longer = np.pad(counts, (0, num_new["candidate"]))
        resize(model.candidate_counts, longer, undo)
        absent = ops.convert_to_numpy(model.absent_candidates)
        longer = np.pad(
            absent,
            (0, num_new["candidate"]),
            constant_values=ABSENT if vectors is None else ABSENT_WITH_VECTOR,
        )
        resize(model.absent_candidates, longer, undo)
    for side, number in num_new.items():
        _check_new_vectors(model, side, old[side], number)
    _grow_slots(getattr(model, "optimizer", None), undo)
    # They were compiled for the old shapes.
    model.forget_compiled()


def _grow_layers(model, side, old, num_new, undo):
    """Gives the layers of a model the new number of users or candidates."""
    size = f"num_{side}s"
    for layer in sublayers(model):
        if side == "user" and isinstance(layer, Histories):
            starts = ops.convert_to_numpy(layer.starts)
            resize(layer.starts, np.pad(starts, (0, num_new), "edge"), undo)
        if getattr(layer, size, None) == old:
            undo.callback(setattr, layer, size, old)
            setattr(layer, size, old + num_new)


def _check_new_vectors(model, side, old, num_new):
    """Refuses a tower that has no vectors for the new rows."""
    if side == "user" and (
        encoding.needs_histories(model) or not model.called_with.takes_rows()
    ):
        return
    vectors_of = getattr(encoding, f"{side}_vectors")
    # Tables are too short at their ends, and a look-up of all the histories
    # would take much memory.
    rows = np.unique([old, old + num_new - 1]).astype("int32")
    vectors = vectors_of(model, ops.convert_to_tensor(rows))
    if np.isfinite(ops.convert_to_numpy(vectors)).all():
        return
    tower = getattr(model, f"{side}_tower")
    raise ValueError(
        f"The {side} tower {tower.name!r} must have a finite vector for "
        f"each of the new {side}s. Received: NaN or infinity for some, as "
        "where a table is too short. Make a new model."
    )


def _extended(side, vocabulary, ids):
    """Returns `(number of new rows, vocabulary)`."""
    if vocabulary is None:
        if np.ndim(ids):
            raise ValueError(
                f"The model has no `{side}_vocabulary`, so that ids are rows. "
                f"Received: `ids` of shape {np.shape(ids)}. Give the number "
                "of rows to add."
            )
        return _checks.positive_int("ids", ids), None
    longer = vocabulary.extended(ids)
    if side == "candidate":
        refuse_padding_ids("ids", longer.ids[len(vocabulary.ids) :])
    return longer.num_rows - vocabulary.num_rows, longer


def _grow_table(table, num_rows, vectors, seed, undo):
    variable = embedding_table(table)
    old = ops.convert_to_numpy(variable)
    undo.callback(setattr, table, "input_dim", table.input_dim)
    table.input_dim = num_rows
    if vectors is None:
        # Drawn for the whole table, because some initializers scale with the
        # number of rows, and because a second growth must not draw the same.
        initializer = _seeded(table.embeddings_initializer, seed)
        shape = (num_rows, table.output_dim)
        drawn = initializer(shape, dtype=variable.dtype)
        vectors = ops.convert_to_numpy(drawn)[len(old) :]
    longer = np.concatenate([old, vectors.astype(old.dtype)])
    resize(variable, longer, undo)


def _seeded(initializer, seed):
    config = initializer.get_config()
    if "seed" in config:
        config["seed"] = seed
    return type(initializer).from_config(config)


def _grow_slots(optimizer, undo):
    """Gives each slot the rows that its variable has got.

    A new optimizer knows how rows begin in every kind of slot.
    """
    if optimizer is None or not optimizer.built:
        return
    variables = slots.built_for(optimizer)
    new = type(optimizer).from_config(optimizer.get_config())
    new.build(variables)
    if new.use_ema:  # The average of a new row begins where the row does.
        averages = slots.moving_averages(new)
        for average, variable in zip(averages, variables, strict=True):
            average.assign(variable)
    for slot, start in zip(optimizer.variables, new.variables, strict=True):
        if slot.shape != start.shape:
            rows = np.array(ops.convert_to_numpy(start))
            rows[: slot.shape[0]] = ops.convert_to_numpy(slot)
            resize(slot, rows, undo)


def resize(variable: keras.Variable, value: np.ndarray, undo) -> None:
    """Gives a variable another shape and value; `undo` can take it back.

    In place, because layers, models and optimizers know their variables by
    identity and order.
    """
    undo.callback(reshape, variable, variable.shape, variable.value)
    tensor = ops.convert_to_tensor(value, dtype=variable.dtype)
    reshape(variable, tuple(value.shape), tensor)
