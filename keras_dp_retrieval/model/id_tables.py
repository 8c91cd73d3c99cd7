"""Which layers of the towers have a row for each user, or each candidate."""

import keras

from keras_dp_retrieval._keras.layers import own_variables, sublayers
from keras_dp_retrieval.towers import (
    FeatureTower,
    HistoryTower,
    history_tower,
)
from keras_dp_retrieval.towers.embedding import RowEmbedding

# Layers whose weights are never by id, even where their sizes are equal.
_NOT_BY_ROW = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
)

_KNOWN_TOWERS = (FeatureTower, HistoryTower)


def tables_of(model, side, num_rows) -> list[RowEmbedding]:
    """The tables with a row for each user, or each candidate.

    Args:
        model: `TwoTowerRetrieval`.
        side: `"user"` or `"candidate"`.
        num_rows: int. How many there are.

    Raises:
        ValueError: If there is none, it is not known which, or one is not
            plain.
    """
    of_features = _feature_tables(model)
    of_users, tables = (
        [
            table
            for table in _tables_in(one, num_rows)
            if id(table) not in of_features
        ]
        for one in (model.user_tower, model.candidate_tower)
    )
    of_users = [table for table in of_users if table not in tables]
    # A tower of users may look up the candidates that they had.
    if model.num_users != model.num_candidates:
        tables = of_users + tables
    elif len(of_users) > 1 or history_tower(model.user_tower) is not None:
        raise ValueError(
            f"`add_{side}s` finds tables by their number of rows. "
            f"Received: {model.num_users} users and as many candidates, "
            f"and the user tower {model.user_tower.name!r}, whose tables "
            "may belong to either. Make the tables of one side larger."
        )
    elif side == "user":
        tables = of_users
    tower = getattr(model, f"{side}_tower")
    # Who is known by a history or by features needs no row.
    known_otherwise = (
        isinstance(tower, HistoryTower)
        or getattr(model, f"{side}_features") is not None
    )
    if not tables and not known_otherwise:
        raise ValueError(
            f"`add_{side}s` needs a {side} tower with a `RowEmbedding` of "
            f"{num_rows} rows (`num_{side}s`). Received: {tower.name!r}, "
            f"a {type(tower).__name__} without one."
        )
    for table in tables:
        if table.built and len(table.weights) != 1:
            raise ValueError(
                "Only plain tables can grow. Received: "
                f"{table.name!r}, which is quantized or has LoRA weights."
            )
    return tables


def check_other_weights(model, side, num_rows):
    """Refuses weights that have a row for each id and cannot grow."""
    for layer in _layers_by(model, side, num_rows):
        if isinstance(layer, (*_NOT_BY_ROW, RowEmbedding, *_KNOWN_TOWERS)):
            continue
        if id(layer) in _feature_tables(model):
            continue
        for weight in own_variables(layer):
            if weight.shape[:1] != (num_rows,):
                continue
            raise ValueError(
                f"`add_{side}s` can grow a `RowEmbedding` alone. Received: "
                f"{weight.path!r} of {layer.name!r}, a "
                f"{type(layer).__name__}, which has {num_rows} rows "
                f"(`num_{side}s`), too. Keep it in a `RowEmbedding`, or "
                "make a new model."
            )


def feature_towers_of(model, side, num_rows) -> list[FeatureTower]:
    """The towers of features of users, or of candidates."""
    return [
        layer
        for layer in _layers_by(model, side, num_rows)
        if isinstance(layer, FeatureTower) and layer.num_rows == num_rows
    ]


def _layers_by(model, side, num_rows) -> list[keras.layers.Layer]:
    """All layers that may have a row for each user, or each candidate."""
    towers = [getattr(model, f"{side}_tower")]
    # A tower of users may look up the candidates that they had.
    if side == "candidate" and model.num_users != num_rows:
        towers.append(model.user_tower)
    return [layer for tower in towers for layer in sublayers(tower)]


def _feature_tables(model) -> set[int]:
    """The tables of values of features, whose sizes tell nothing of ids."""
    return {
        id(table)
        for tower in (model.user_tower, model.candidate_tower)
        for layer in sublayers(tower)
        if isinstance(layer, FeatureTower)
        for table in (*layer.tables.values(), *layer.bins.values())
    }


def _tables_in(tower, num_rows) -> list[RowEmbedding]:
    return [
        layer
        for layer in sublayers(tower)
        if isinstance(layer, RowEmbedding) and layer.input_dim == num_rows
    ]
