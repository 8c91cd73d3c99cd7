"""fit_recipe: trains a model with hyperparameters chosen from the data."""

import os

import keras

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.callbacks import ResumeTraining
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.streaming.not_in_memory import refuse_streamed
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.sequence_trial import reason_against
from keras_dp_retrieval.recipe.shape import choose_recipe
from keras_dp_retrieval.recipe.sharing import Shared
from keras_dp_retrieval.recipe.training import Training
from keras_dp_retrieval.recipe.trial_runs import with_trials
from keras_dp_retrieval.recipe.trial_sizes import (
    divided_for_fit,
    has_next_items,
)
from keras_dp_retrieval.training.loop_output import verbosity


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
    interactions), the first third of which they share. Where they are long,
    their vectors are of half the length (of 128 at least). Together they take
    one to four times as long as the training itself.

    Where the test part is later than the train part, one more trial may replace
    the `RecencyTower` by a `SequenceTower`, if this does better by more than
    two standard errors. It reads 400,000 interactions, or one epoch, which
    takes about as long as the others together. It is made if half of the users
    have 8 interactions or more and the order of most is known: at most half of
    the interactions may have the time of another one of their user. (Those are
    shuffled in every epoch of training; in what is held out and what is served
    they stand in the order of the file.) It is not made with features of users,
    nor if `order`, `batch_size`, `epochs`, `learning_rate`, `weight_decay` or
    `max_length` is given, which are for one of the two: `order="sequence"` asks
    for the other.

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
            given: `temperature`, `popularity_weight` and, where they are in
            question, `use_features` and `order`.
        verbose: As in `fit`. Unless 0, prints a line per trial, and what was
            chosen and why; of several processes, number 0 does.
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
    if recipe.predicts_next_item and not has_next_items(whole):
        num_interactions = len(whole.ratings("train"))
        raise ValueError(
            f"With split={data.split!r} the recipe predicts the next item, so "
            "at least one user must have two interactions in the train part. "
            f"Received: {num_interactions:,} interactions in the train part, "
            "each of another user. Use data with more interactions per user, "
            "or `order='ignored'`."
        )
    shared = None
    against = tune and reason_against(whole, recipe, overrides)
    in_question = _chosen_in_trials(recipe) - set(overrides)
    if tune and (in_question or not against):
        shared = Shared.of(whole)
        recipe = with_trials(
            for_trials(),
            recipe,
            seed,
            given=overrides,
            against=against,
            whole=whole,
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


def _train(
    data, recipe: Recipe, seed, *, verbose=0, callbacks=None, shared=None
):
    """Returns the model of a recipe, trained on the train part."""
    training = Training(data, recipe, seed, shared)
    training.fit(recipe.epochs, verbose=verbose, callbacks=callbacks)
    return training.model
