"""The model of a recipe: towers and objective."""

from keras_dp_retrieval.losses import (
    MAX_CANDIDATES_OF_FULL_SOFTMAX,
    FullSoftmax,
    InBatchSoftmax,
)
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.towers import (
    FeatureTower,
    HistoryTower,
    IdHistoryTower,
    RecencyTower,
    SequenceTower,
)

# Candidates of which the logits of a batch are computed at once, where there
# are too many for all: 34 MB for 256 users, a few times.
CHUNK_SIZE = 2**15


def build_model(
    data, recipe: Recipe, seed=0, *, room=None
) -> TwoTowerRetrieval:
    """Returns the model of a recipe, not compiled.

    Args:
        data: `RetrievalDataset`.
        recipe: `Recipe`.
        seed: int.
        room: Optional `Room` for its histories.
    """
    stddev = 0.1 if recipe.predicts_next_item else 0.05
    tower = _tower_of_histories(data, recipe, stddev, seed)
    if recipe.use_features and data.user_features is not None:
        # Ids of users are dropped by the tower of histories, if at all.
        tower = FeatureTower(
            data.user_features,
            recipe.embedding_dimension,
            history=tower,
            id_dropout=0.0,
            stddev=stddev,
            seed=seed,
            name="user_features",
        )
    candidate_tower = None
    options = {"user_features": None, "candidate_features": None}
    if recipe.use_features:
        options = {}
        if data.candidate_features is not None:
            candidate_tower = FeatureTower(
                data.candidate_features,
                recipe.embedding_dimension,
                id_dropout=recipe.id_dropout,
                stddev=stddev,
                seed=seed,
                name="candidate_tower",
            )
    if recipe.objective == "full_softmax":
        objective = FullSoftmax(
            recipe.temperature,
            rating_weight=recipe.rating_weight,
            chunk_size=chunk_size(data),
        )
    else:
        objective = InBatchSoftmax(recipe.temperature)
    if room is not None:
        options["histories"] = room.histories(data)
    return TwoTowerRetrieval.for_dataset(
        data,
        recipe.embedding_dimension,
        objective=objective,
        user_tower=tower,
        candidate_tower=candidate_tower,
        initial_stddev=stddev,
        popularity_weight=recipe.popularity_weight,
        **options,
    )


def _tower_of_histories(data, recipe: Recipe, stddev, seed) -> HistoryTower:
    options = {
        "item_dropout": recipe.item_dropout,
        "query_dropout": recipe.query_dropout,
        "stddev": stddev,
        "seed": seed,
        "name": "user_tower",
    }
    shape = data.num_candidates, recipe.embedding_dimension
    if recipe.order == "ignored":
        return IdHistoryTower(data.num_users, *shape, **options)
    options["max_length"] = recipe.max_length
    if recipe.order == "recency":
        return RecencyTower(*shape, **options)
    return SequenceTower(
        *shape,
        num_heads=1 if recipe.embedding_dimension % 2 else 2,
        dropout=recipe.query_dropout,
        **options,
    )


def chunk_size(data) -> int | None:
    """`chunk_size` of the full softmax; None where all logits fit."""
    if data.num_candidates <= MAX_CANDIDATES_OF_FULL_SOFTMAX:
        return None
    return CHUNK_SIZE
