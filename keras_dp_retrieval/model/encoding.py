"""Encoding: what the towers make of rows and other inputs, as tensors.

A score is the dot product of a user's and a candidate's vector. What
popularity adds to it is one more coordinate, the bias coordinate: 1 for users,
`popularity_bias` for candidates. Training does not know of it.
"""

import keras
from keras import ops

from keras_dp_retrieval._keras.layers import (
    embedding_table,
    sublayers,
    takes_training,
)
from keras_dp_retrieval.model import prefixes
from keras_dp_retrieval.model.candidate_states import knows_ids_alone
from keras_dp_retrieval.towers import history_tower, latest, takes_lists
from keras_dp_retrieval.towers.embedding import RowEmbedding

# What inputs say of users, beside their features.
WHO = {"user_id", "length", "history"}


def user_vectors(model, inputs, training=False):
    """Vectors of users, `(batch, dim)`, without the bias coordinate.

    Args:
        model: `TwoTowerRetrieval`.
        inputs: What `model.call` takes. With several lengths for each user,
            `(batch, lengths)`, the vectors are `(batch, lengths, dim)`.
        training: bool.
    """
    if prefixes.has_several_lengths(inputs):
        return _vectors_of_prefixes(model, inputs, training)
    inputs = user_inputs(model, inputs)
    return _scaled(model, _run(model.user_tower, inputs, training))


def _vectors_of_prefixes(model, inputs, training):
    """In one pass where the tower can, else one by one."""
    lengths, tower = inputs["length"], model.user_tower
    if model.user_features is None and getattr(tower, "takes_positions", False):
        longest = {**inputs, "length": ops.max(lengths, axis=1)}
        rows, histories = with_histories(model, longest)
        positions = prefixes.positions_of(lengths, histories.shape[1])
        inputs = rows, histories
        vectors = tower(inputs, training=training, positions=positions)
        return _scaled(model, vectors)
    one_each = prefixes.with_one_length(inputs)
    vectors = user_vectors(model, one_each, training)
    return ops.reshape(vectors, (*ops.shape(lengths), vectors.shape[-1]))


def user_inputs(model, inputs):
    """What the user tower takes, for inputs of the model.

    That is a dict for a model with features of users: `"user_id"`, the columns
    of features, and `"history"` for a tower of histories. A dict of encoded
    columns is taken as it is.
    """
    reads_histories = history_tower(model.user_tower) is not None
    as_lists = takes_lists(model.user_tower)
    is_dict = isinstance(inputs, dict)
    if model.user_features is None:
        if reads_histories:
            return with_histories(model, inputs, as_lists)
        if is_dict and knows_ids_alone(model.user_tower):
            return inputs["user_id"]
        return inputs
    if is_dict and not WHO.issuperset(inputs):
        return inputs
    if reads_histories:
        rows, histories = with_histories(model, inputs, as_lists)
        history = {"history": histories}
    else:
        rows = inputs["user_id"] if is_dict else inputs
        history = {}
    return {"user_id": rows, **model.user_features(rows), **history}


def needs_histories(model) -> bool:
    """Whether users come with their histories, as the model stores none."""
    return (
        model.histories is None and history_tower(model.user_tower) is not None
    )


def candidate_vectors(model, rows, training=False):
    """Vectors of table rows, `(..., dim)`, without the bias coordinate."""
    if model.candidate_features is None:
        vectors = _run(model.candidate_tower, rows, training)
    else:
        vectors = _vectors_of_features(model, rows, training)
    return _scaled(model, vectors)


def all_candidate_vectors(model):
    """Those of all table rows, `(num_candidates, dim)`, outside of training."""
    tower = model.candidate_tower
    is_table = type(tower) in (keras.layers.Embedding, RowEmbedding)
    if (
        not is_table
        or not tower.built
        or model.candidate_features is not None
        or tower.quantization_mode is not None
        or tower.input_dim != model.num_candidates
    ):
        rows = ops.arange(model.num_candidates, dtype="int32")
        return candidate_vectors(model, rows)
    # To look up every row of a large table would take most of the time. A copy
    # all the same, as the next step of a training takes the table's memory.
    table = ops.cast(tower.embeddings, tower.compute_dtype)
    return _scaled(model, table * 1)


def _vectors_of_features(model, rows, training):
    # Towers of features take one axis, as they would of a batch.
    flat = rows if len(rows.shape) == 1 else ops.reshape(rows, (-1,))
    inputs = {"candidate_id": flat, **model.candidate_features(flat)}
    vectors = _run(model.candidate_tower, inputs, training)
    if flat is rows:
        return vectors
    return ops.reshape(vectors, (*ops.shape(rows), vectors.shape[-1]))


def row_tables(model) -> list:
    """The embedding tables that the training step reads by looking up rows."""
    towers = [model.user_tower]
    if not model.objective.uses_all_candidates:
        towers.append(model.candidate_tower)
    return [
        embedding_table(layer)
        for tower in towers
        for layer in sublayers(tower)
        if isinstance(layer, RowEmbedding) and layer.trainable
    ]


def append_user_bias(model, vectors):
    """Appends the bias coordinate, if the model has one, to users' vectors."""
    if not model.popularity_weight:
        return vectors
    return _append_bias(vectors, ops.ones_like(vectors[..., 0]))


def append_candidate_bias(model, vectors, rows=None):
    """Likewise to candidates' vectors: of `rows`, by default of all."""
    if not model.popularity_weight:
        return vectors
    return _append_bias(vectors, popularity_bias(model, rows))


def popularity_bias(model, rows=None):
    """What popularity adds to the scores of candidates, float `(batch,)`.

    Args:
        model: `TwoTowerRetrieval`; its `popularity_weight` has the formula.
        rows: Optional table rows `(batch,)`. By default all candidates.
    """
    counts = ops.cast(model.candidate_counts, "float32")
    # Relative to the mean, so that more epochs change nothing.
    mean = ops.maximum(ops.mean(counts), 1e-9)
    if rows is not None:
        counts = ops.take(counts, rows)
    return model.popularity_weight * ops.log1p(counts / mean)


def with_histories(model, inputs, as_lists=False):
    """Returns `(user_rows, histories)`, what a `HistoryTower` takes.

    Args:
        model: `TwoTowerRetrieval`.
        inputs: What it takes.
        as_lists: bool. Whether stored histories are to be `HistoryLists`,
            which are not padded to the longest of all users.

    Raises:
        ValueError: If there are no histories, here or in the model.
    """
    max_length = history_tower(model.user_tower).max_length
    rows, lengths = inputs, None
    if isinstance(inputs, dict):
        rows, lengths = inputs["user_id"], inputs.get("length")
        if "history" in inputs:
            return rows, latest(inputs["history"], max_length)
    elif len(inputs.shape) == 2:
        # Histories of users who need not be in the table.
        return ops.zeros_like(inputs[:, 0]), latest(inputs, max_length)
    if model.histories is None:
        raise ValueError(without_histories(model, "user rows alone"))
    look_up = model.histories.unpadded if as_lists else model.histories
    return rows, look_up(rows, lengths=lengths, max_length=max_length)


def without_histories(model, received: str) -> str:
    """What to say where users come without their histories."""
    reader = history_tower(model.user_tower)
    return (
        f"A {type(reader).__name__} needs the histories of the users, and the "
        f"model stores none. Received: {received}. Batches of streamed data "
        "have them with `max_history=...`, as `{'user_id': (batch,), "
        "'history': (batch, length)}`; `recommend` and `encode_users` take "
        "`histories=`. A model made with `TwoTowerRetrieval.for_dataset` of "
        "data in memory stores them."
    )


def _append_bias(vectors, bias):
    bias = ops.cast(bias, vectors.dtype)
    return ops.concatenate([vectors, bias[..., None]], axis=-1)


def _run(tower, inputs, training):
    if isinstance(inputs, dict):
        inputs = _wanted(tower, inputs)
    if takes_training(tower):
        return tower(inputs, training=training)
    return tower(inputs)


def _wanted(tower, inputs: dict):
    """The inputs that a functional model has; other layers get all."""
    names = (
        getattr(tower, "input", None)
        if isinstance(tower, keras.Model)
        else None
    )
    if isinstance(names, keras.KerasTensor) and names.name in inputs:
        return inputs[names.name]
    if not isinstance(names, dict):
        return inputs
    missing = sorted(set(names) - set(inputs))
    if missing:
        raise ValueError(
            f"The inputs of the tower {tower.name!r} must be among "
            f"{sorted(inputs)}. Received others: {missing}."
        )
    return {name: inputs[name] for name in names}


def _scaled(model, vectors):
    """Of length 1 where the objective wants it, else as they are."""
    if not model.objective.normalize:
        return vectors
    # `ops.normalize` has a NaN gradient at zero.
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))
