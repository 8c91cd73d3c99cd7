"""The model of a recipe: towers and objective."""

from keras_dp_retrieval.losses import FullSoftmax, InBatchSoftmax
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.recipe.shape import Recipe
from keras_dp_retrieval.towers import FeatureTower, IdHistoryTower, RecencyTower


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
    tower_options = {
        "item_dropout": recipe.item_dropout,
        "query_dropout": recipe.query_dropout,
        "seed": seed,
        "name": "user_tower",
    }
    shape = data.num_candidates, recipe.embedding_dimension
    stddev = 0.1 if recipe.order == "recency" else 0.05
    if recipe.order == "recency":
        tower = RecencyTower(*shape, stddev=stddev, **tower_options)
    else:
        tower = IdHistoryTower(
            data.num_users, *shape, stddev=stddev, **tower_options
        )
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
            recipe.temperature, rating_weight=recipe.rating_weight
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
