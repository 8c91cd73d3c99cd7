"""Whether there are trials, which data they are made on, and how large."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.recipe_model import chunk_size
from keras_dp_retrieval.recipe.shape import USUAL_STEPS

# With fewer held-out users than this, differences are mostly noise.
MIN_USERS_TO_CHOOSE_BY = 100

# Of the epochs of a trial, those that only the first one trains. With 0.6 the
# others were hardly other models: what is best stayed where it began.
SHARED = 1 / 3

# Where an epoch has many steps, a trial has more than the usual ones: after 5
# epochs of npm's packages (51 steps each) a popularity weight still made up for
# what had not been learned, and cost the whole training 0.005 of NDCG@10.
STEPS_OF_LONGER_TRIAL = 400
EPOCHS_OF_LONGER_TRIAL = 8
LEAST_EPOCHS_OF_TRIAL = 5

# Where the logits of one trial are more than this, two seconds or so on a CPU,
# trials have vectors of half the length, which takes another program: compiling
# it takes as long. The least length of a half: with a fourth, 64, a popularity
# weight made up for what Debian's packages lost, and cost 0.007 of NDCG@10.
FLOP_OF_LONG_TRIAL = 2e11
LEAST_HALF = 128


def divided_for_fit(data, validation_in_train: bool = True):
    """Returns the data to train on, and what makes those of the trials.

    Args:
        data: `RetrievalDataset`.
        validation_in_train: bool. As in `fit_recipe`.

    Returns:
        `(whole, for_trials)`: a data set, and a function that returns one
        whose validation part is not in the train part of either.
    """
    whole, has_validation = data, False
    if validation_in_train and data.split != "tutorial":
        whole = data.with_validation_in_train()
        has_validation = len(data.ratings("validation")) > 0
    if has_validation:
        return whole, lambda: data
    return whole, data.with_part_of_train_held_out


def num_held_out_users(data) -> int:
    """Users of the validation part, by whom trials choose."""
    return num_distinct(data.ratings("validation").user_rows)


def num_distinct(rows: np.ndarray) -> int:
    """How many rows there are; a sort of many would take seconds."""
    return int(np.count_nonzero(np.bincount(rows)))


def has_trials(data, recipe: Recipe) -> bool:
    """Whether trials on this data set have enough to choose by."""
    if num_held_out_users(data) < MIN_USERS_TO_CHOOSE_BY:
        return False
    return not recipe.predicts_next_item or has_next_items(data)


def trial_recipe(data, recipe: Recipe) -> Recipe:
    """The recipe of a trial on these data: shorter, of no longer vectors."""
    recipe = dataclasses.replace(recipe, epochs=trial_epochs(data, recipe))
    # With features of MovieLens, half of the dimensions chose otherwise.
    if not _is_by_user(recipe) or recipe.use_features:
        return recipe
    steps = _steps_by_user(data, recipe) * recipe.epochs
    if steps * flop_per_step(data, recipe) <= FLOP_OF_LONG_TRIAL:
        return recipe
    dimension = recipe.embedding_dimension
    shorter = max(dimension // 2, min(dimension, LEAST_HALF))
    return dataclasses.replace(recipe, embedding_dimension=shorter)


def flop_per_step(data, recipe: Recipe) -> int:
    """Floating-point operations of the logits of a step, there and back."""
    is_full = recipe.objective == "full_softmax"
    others = data.num_candidates if is_full else recipe.batch_size
    # Once forward and for each of two gradients; chunks are computed again.
    products = 4 if is_full and chunk_size(data) else 3
    # A product and a sum.
    each = 2 * recipe.batch_size * others * recipe.embedding_dimension
    return products * each


def trial_epochs(data, recipe: Recipe) -> int:
    """Epochs of a trial on these data.

    As many as the model's, where these are few: which temperature and
    popularity weight are best depends on them.
    """
    if not _is_by_user(recipe):
        return max(round(recipe.epochs / 3), 1)
    steps = _steps_by_user(data, recipe)
    longer = min(STEPS_OF_LONGER_TRIAL / steps, EPOCHS_OF_LONGER_TRIAL)
    epochs = round(max(USUAL_STEPS / steps, longer))
    return min(max(epochs, LEAST_EPOCHS_OF_TRIAL), recipe.epochs)


def _is_by_user(recipe: Recipe) -> bool:
    return not recipe.predicts_next_item and recipe.objective == "full_softmax"


def _steps_by_user(data, recipe: Recipe) -> int:
    """Steps of an epoch in batches of users."""
    num_users = num_distinct(data.ratings("train").user_rows)
    return math.ceil(num_users / recipe.batch_size)


def shared_epochs(epochs: int) -> int:
    """Those of a trial that only the first one trains."""
    return min(round(epochs * SHARED), epochs - 1)


def has_next_items(data) -> bool:
    """Whether any user has two interactions in the train part."""
    users = data.ratings("train").user_rows
    return num_distinct(users) < len(users)
