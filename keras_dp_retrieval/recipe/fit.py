"""fit_recipe: trains a model with hyperparameters chosen from the data."""

import dataclasses
import functools
import math
import os

import keras
import numpy as np

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.callbacks import ResumeTraining
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.streaming.not_in_memory import refuse_streamed
from keras_dp_retrieval.recipe import trials
from keras_dp_retrieval.recipe.shape import (
    USUAL_STEPS,
    Recipe,
    choose_recipe,
)
from keras_dp_retrieval.recipe.sharing import Shared
from keras_dp_retrieval.recipe.training import Branches, Training
from keras_dp_retrieval.training.loop_output import verbosity

# With fewer held-out users than this, differences are mostly noise.
MIN_USERS_TO_CHOOSE_BY = 100

# Of the epochs of a trial, those that only the first one trains. With 0.6 the
# others were hardly other models: what is best stayed where it began.
SHARED = 1 / 3

# As many as trials on large data had before they shared any.
LEAST_EPOCHS_OF_TRIAL = 5


def fit_recipe(
    data,
    seed=0,
    *,
    validation_in_train=True,
    tune=True,
    verbose=0,
    callbacks=None,
    resume=None,
    **overrides,
):
    """Trains a model with hyperparameters that are chosen from the data.

    Features of users and candidates are used if the data have some, unless a
    trial without them does better by more than two standard errors.

    Objective, towers, dimension, optimizer, schedule and number of epochs
    are chosen from the shape of the data, see `Recipe`. The temperature and
    the popularity weight are chosen in trials on held-out interactions: three
    to five trainings of as many epochs (a third of them where batches are of
    interactions), the first third of which they share. Together they take two
    to four times as long as the training itself.

    Args:
        data: `RetrievalDataset`.
        seed: int. The same seed gives the same model on the same machine.
        validation_in_train: bool. If True, the trials use the validation part,
            and the model is then trained on the train and validation parts:
            evaluate it on the test part. If False, or if there is no
            validation part, the trials hold out a part of the train part, and
            the validation part is not used: evaluate on it.
        tune: bool. Whether to run trials. They are skipped if fewer than 100
            users have held-out interactions, or if all that they choose is
            given: `temperature`, `popularity_weight` and, where the data have
            features, `use_features`.
        verbose: As in `fit`. Unless 0, prints a line per trial; of several
            processes, number 0 does.
        callbacks: As in `fit`. They are not called in the trials.
        resume: Optional folder. What is trained is saved there, trials
            included, and a program that was killed and is started again goes
            on where it was; see `ResumeTraining`.
        **overrides: Arguments of `Recipe`, such as `epochs=20`. They are not
            changed by the trials.

    Returns:
        A trained and compiled `TwoTowerRetrieval` with the ids and interaction
        histories of the data set.

    Raises:
        ValueError: If an override is unknown, out of range or would have no
            effect, or if there is nothing to learn from.

    Example:

    ```python
    data = kdr.RetrievalDataset.from_interactions(user_ids, candidate_ids)
    model = kdr.fit_recipe(data)
    ids, scores = model.recommend(["ann"], k=10)
    ```
    """
    distribution.require_jax("`fit_recipe`")
    refuse_streamed("`fit_recipe`", data)
    _checks.instance("data", data, RetrievalDataset)
    seed = _checks.non_negative_int("seed", seed)
    verbose = verbosity(verbose)
    _checks.flag("tune", tune)
    _checks.flag("validation_in_train", validation_in_train)
    whole, for_trials = divided_for_fit(data, validation_in_train)
    if "popularity_offset" in overrides:
        overrides["popularity_weight"] = _checks.former_argument(
            overrides, "popularity_offset", popularity_weight=None
        )
    recipe = choose_recipe(whole, **overrides)
    if recipe.order == "recency" and not _has_next_items(whole):
        num_interactions = len(whole.ratings("train"))
        raise ValueError(
            f"With split={data.split!r} the recipe predicts the next item, so "
            "at least one user must have two interactions in the train part. "
            f"Received: {num_interactions:,} interactions in the train part, "
            "each of another user. Use data with more interactions per user, "
            "or `order='ignored'`."
        )
    shared = None
    if tune and _chosen_in_trials(recipe) - set(overrides):
        shared = Shared.of(whole)
        recipe = _with_trials(
            for_trials(),
            recipe,
            seed,
            given=overrides,
            shared=shared,
            verbose=verbose,
            resume=resume,
        )
    callbacks = list(keras.tree.flatten(callbacks or []))
    if resume is not None:
        callbacks.append(ResumeTraining(os.path.join(resume, "last")))
    return _train(
        whole,
        recipe,
        seed,
        verbose=verbose,
        callbacks=callbacks,
        shared=shared,
    )


def _chosen_in_trials(recipe: Recipe) -> set[str]:
    """What trials choose, unless it is given."""
    features = {"use_features"} if recipe.use_features else set()
    return {"temperature", "popularity_weight", *features}


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
    return recipe.order != "recency" or _has_next_items(data)


def trial_epochs(data, recipe: Recipe) -> int:
    """Epochs of a trial on these data.

    As many as the model's, where these are few: which temperature and
    popularity weight are best depends on them.
    """
    if recipe.order == "recency" or recipe.objective != "full_softmax":
        return max(round(recipe.epochs / 3), 1)
    num_users = num_distinct(data.ratings("train").user_rows)
    usual = round(USUAL_STEPS / math.ceil(num_users / recipe.batch_size))
    return min(max(usual, LEAST_EPOCHS_OF_TRIAL), recipe.epochs)


def shared_epochs(epochs: int) -> int:
    """Those of a trial that only the first one trains."""
    return min(round(epochs * SHARED), epochs - 1)


def _with_trials(
    data, recipe: Recipe, seed, *, given, verbose, resume=None, shared=None
) -> Recipe:
    """Returns the recipe with the best setting on the validation part."""
    num_users = num_held_out_users(data)
    if not has_trials(data, recipe):
        return recipe
    epochs = trial_epochs(data, recipe)
    shorter = dataclasses.replace(recipe, epochs=epochs)
    task = trials.prepare(data)

    def callbacks(name):
        if resume is None:
            return []
        # The trials are trained again where they were, and one that had
        # ended is as it was: what they are compared by is, too.
        folder = os.path.join(resume, "trials", name)
        return [ResumeTraining(folder, keep=1)]

    @functools.cache
    def branches():
        training = Training(data, shorter, seed, shared)
        branches = Branches(training, shared_epochs(epochs))
        return branches, task.encoder(training.model)

    def train(temperature):
        training, encode = branches()
        training.train(temperature, callbacks)
        return encode()

    def train_without_features(recipe):
        without = dataclasses.replace(
            recipe, epochs=shorter.epochs, use_features=False
        )
        training = Training(data, without, seed, shared)
        training.fit(without.epochs, callbacks=callbacks("without-features"))
        return task.encoder(training.model)()

    def report(choice):
        if verbose:
            print(
                f"Trial: {choice}: NDCG@10 {choice.ndcg:.4f} of "
                f"{num_users:,} held-out users"
            )

    def explain(decision):
        if verbose:
            print(f"Chosen: {decision}")

    nothing_chosen = {"temperature", "popularity_weight"} <= set(given)
    best, of_users = trials.choose(
        train,
        task,
        recipe.temperature,
        temperatures="temperature" not in given,
        weights="popularity_weight" not in given,
        report=report,
        explain=(lambda decision: None) if nothing_chosen else explain,
    )
    recipe = dataclasses.replace(
        recipe,
        temperature=best.temperature,
        popularity_weight=best.popularity_weight,
    )
    if not recipe.use_features or "use_features" in given:
        return recipe
    decision = trials.compare(
        of_users, train_without_features(recipe), task, "features"
    )
    explain(decision)
    return dataclasses.replace(recipe, use_features=decision.keeps)


def _has_next_items(data) -> bool:
    """Whether any user has two interactions in the train part."""
    users = data.ratings("train").user_rows
    return num_distinct(users) < len(users)


def _train(
    data, recipe: Recipe, seed, *, verbose=0, callbacks=None, shared=None
):
    """Returns the model of a recipe, trained on the train part."""
    training = Training(data, recipe, seed, shared)
    training.fit(recipe.epochs, verbose=verbose, callbacks=callbacks)
    return training.model
