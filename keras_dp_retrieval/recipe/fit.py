"""fit_recipe: a good model in one line, chosen from the data."""

import dataclasses

import keras
import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.callbacks import FreshTies
from keras_dp_retrieval.losses import FullSoftmax, InBatchSoftmax
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.recipe import trials
from keras_dp_retrieval.recipe.shape import Recipe, choose_recipe
from keras_dp_retrieval.towers import IdHistoryTower, RecencyTower

# With fewer held-out users than this, what is better is mostly chance.
LEAST_USERS_TO_CHOOSE_BY = 100


def fit_recipe(
    data,
    seed=0,
    *,
    validation_in_train=True,
    tune=True,
    verbose=0,
    callbacks=None,
    **overrides,
):
    """Trains a good model on any data set, without anything to tune.

    Objective, towers, dimension, optimizer, schedule and number of epochs
    follow from the shape of the data (`choose_recipe`). What the shape cannot
    tell, the temperature and how much popularity counts, is tried out on
    interactions that are held out, in trainings of a third of the epochs:
    three or four of them, which take about as long as the training itself.
    All of it can be done by hand with the parts of this package.

    Args:
        data: `RetrievalDataset`.
        seed: int. The same seed gives the same model on the same machine.
        validation_in_train: bool. Whether, after the trials, the validation
            part is learned from too: evaluate on the test part then. With
            False it is left alone, and the trials hold out a part of the
            train part, as they do where there is no validation part:
            evaluate on the validation part then.
        tune: bool. Whether there are trials. There are none either where
            fewer than 100 users have something held out.
        verbose: As in `fit`; unless 0, a line tells of each trial.
        callbacks: As in `fit`. The trials go without them.
        **overrides: Attributes of `Recipe`, such as `epochs=20`. What is
            given here is not tried out.

    Returns:
        A trained and compiled `TwoTowerRetrieval`, which knows the ids of the
        data set and what its users have had.

    Example:

    ```python
    data = kdr.RetrievalDataset.from_interactions(user_ids, candidate_ids)
    model = kdr.fit_recipe(data)
    ids, scores = model.recommend(["ann"], k=10)
    ```
    """
    distribution.require_jax("`fit_recipe`")
    seed = _checks.non_negative_int("seed", seed)
    whole, has_validation = data, False
    if validation_in_train and data.split != "tutorial":
        whole = data.with_validation_in_train()
        has_validation = len(data.ratings("validation")) > 0
    recipe = choose_recipe(whole, **overrides)
    if recipe.order == "recency" and not _something_came_next(whole):
        num_interactions = len(whole.ratings("train"))
        raise ValueError(
            f"With split={data.split!r} the recipe learns what users had "
            "next, so one of them must have two interactions to learn from. "
            f"Received: {num_interactions:,} interactions in the train part, "
            "each of another user. Use data with more interactions a user, or "
            "`order='ignored'`, which learns who had what."
        )
    if tune and not {"temperature", "popularity_offset"} <= set(overrides):
        recipe = _tried_out(
            data if has_validation else data.with_part_of_train_held_out(),
            recipe,
            seed,
            given=overrides,
            verbose=verbose,
        )
    return _train(whole, recipe, seed, verbose=verbose, callbacks=callbacks)


def _tried_out(data, recipe: Recipe, seed, *, given, verbose) -> Recipe:
    """The recipe with what does best on the validation part."""
    num_users = len(np.unique(data.ratings("validation").user_rows))
    if num_users < LEAST_USERS_TO_CHOOSE_BY:
        return recipe
    if recipe.order == "recency" and not _something_came_next(data):
        return recipe
    shorter = dataclasses.replace(
        recipe, epochs=max(round(recipe.epochs / 3), 1)
    )

    def train(temperature):
        trial = dataclasses.replace(shorter, temperature=temperature)
        return _train(data, trial, seed)

    def report(choice):
        if verbose:
            print(
                f"Trial: {choice}: NDCG@10 {choice.ndcg:.4f} of "
                f"{num_users:,} held-out users"
            )

    def explain(decision):
        if verbose:
            print(f"Chosen: {decision}")

    best = trials.choose(
        train,
        data,
        recipe.temperature,
        temperatures="temperature" not in given,
        offsets="popularity_offset" not in given,
        report=report,
        explain=explain,
    )
    return dataclasses.replace(
        recipe,
        temperature=best.temperature,
        popularity_offset=best.popularity_offset,
    )


def _something_came_next(data) -> bool:
    """Whether a user has two interactions in the train part."""
    users = data.ratings("train").user_rows
    return len(np.unique(users)) < len(users)


def _train(data, recipe: Recipe, seed, *, verbose=0, callbacks=None):
    """Returns the model of a recipe, trained on the train part."""
    keras.utils.set_random_seed(seed)
    model = build_model(data, recipe, seed)
    examples = _examples(data, recipe)
    num_steps = int(examples.cardinality())
    model.compile(
        optimizer=keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                recipe.learning_rate, num_steps * recipe.epochs
            ),
            weight_decay=recipe.weight_decay,
            beta_2=0.99,
        ),
        # Groups of steps that run as one program; more at a time gain little.
        steps_per_execution=min(num_steps, 16),
    )
    callbacks = list(keras.tree.flatten(callbacks or []))
    if recipe.order == "recency":
        callbacks.insert(0, FreshTies(examples))
    model.fit(
        examples,
        epochs=recipe.epochs,
        verbose=verbose,
        callbacks=callbacks,
    )
    return model


def build_model(data, recipe: Recipe, seed=0) -> TwoTowerRetrieval:
    """Returns the model of a recipe, neither compiled nor trained."""
    options = {
        "item_dropout": recipe.item_dropout,
        "query_dropout": recipe.query_dropout,
        "seed": seed,
        "name": "user_tower",
    }
    shape = data.num_candidates, recipe.embedding_dimension
    stddev = 0.1 if recipe.order == "recency" else 0.05
    if recipe.order == "recency":
        tower = RecencyTower(*shape, stddev=stddev, **options)
    else:
        tower = IdHistoryTower(data.num_users, *shape, stddev=stddev, **options)
    if recipe.objective == "full_softmax":
        objective = FullSoftmax(
            recipe.temperature, rating_weight=recipe.rating_weight
        )
    else:
        objective = InBatchSoftmax(recipe.temperature)
    return TwoTowerRetrieval.for_dataset(
        data,
        recipe.embedding_dimension,
        objective=objective,
        user_tower=tower,
        initial_stddev=stddev,
        popularity_offset=recipe.popularity_offset,
    )


def _examples(data, recipe: Recipe):
    if recipe.order == "recency":
        return data.next_items(recipe.batch_size)
    if recipe.objective == "full_softmax":
        return data.by_user(recipe.batch_size)
    return data.by_interaction(recipe.batch_size)
