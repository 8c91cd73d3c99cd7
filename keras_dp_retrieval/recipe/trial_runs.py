"""The trials of `fit_recipe`: what is trained, and what it decides."""

import dataclasses
import os

from keras_dp_retrieval.callbacks import ResumeTraining
from keras_dp_retrieval.recipe import trials
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.sequence_trial import (
    TowerDecision,
    sequence_recipe,
)
from keras_dp_retrieval.recipe.training import Branches, Training
from keras_dp_retrieval.recipe.trial_sizes import (
    has_trials,
    num_held_out_users,
    shared_epochs,
    trial_recipe,
)


class TrialRuns:
    """Short trainings on one data set, and what is decided by them.

    Args:
        data: `RetrievalDataset` with a validation part.
        seed: int.
        given: dict. The overrides, which are not changed.
        shared: Optional `Shared`.
        resume: Optional folder for `ResumeTraining`.
        verbose: As in `fit`.
    """

    def __init__(
        self, data, seed, *, given, shared=None, resume=None, verbose=0
    ):
        self._data, self._seed, self._given = data, seed, given
        self._shared, self._resume, self._verbose = shared, resume, verbose
        self._task = trials.prepare(data)
        self._num_users = num_held_out_users(data)

    def choose_setting(self, recipe: Recipe):
        """Chooses temperature and popularity weight.

        Returns:
            What `trials.choose` returns.
        """
        smaller = trial_recipe(self._data, recipe)
        made: list = []

        def train(temperature):
            if not made:
                training = self._training(smaller)
                branches = Branches(training, shared_epochs(smaller.epochs))
                made.extend([branches, self._task.encoder(training.model)])
            branches, encode = made
            branches.train(temperature, self._callbacks)
            return encode()

        given = {"temperature", "popularity_weight"} & set(self._given)
        return trials.choose(
            train,
            self._task,
            recipe.temperature,
            temperatures="temperature" not in given,
            weights="popularity_weight" not in given,
            report=self._report,
            explain=(lambda _: None) if len(given) == 2 else self._explain,
        )

    def choose_tower(self, found, other: Recipe):
        """Chooses between what was found and a `SequenceTower`.

        Args:
            found: What `choose_setting` returned, with a `RecencyTower`.
            other: `Recipe` with a `SequenceTower`.

        Returns:
            As `found`, of the better one; and a `TowerDecision`.
        """
        instead = trials.choose(
            lambda _: self._trained(other, "sequence"),
            self._task,
            other.temperature,
            temperatures=False,
            weights="popularity_weight" not in self._given,
            report=lambda choice: self._report(choice, "SequenceTower, "),
        )
        decision = TowerDecision.of(found, instead)
        self._explain(decision)
        return (instead if decision.takes_sequence else found), decision

    def choose_features(self, of_users, recipe: Recipe) -> Recipe:
        """Chooses whether to use features, by a training without them.

        Args:
            of_users: `(num_users,)`. NDCG@10 of each user with them.
            recipe: `Recipe` with features.
        """
        without = dataclasses.replace(recipe, use_features=False)
        encoded = self._trained(without, "without-features")
        decision = trials.compare(of_users, encoded, self._task, "features")
        self._explain(decision)
        return dataclasses.replace(recipe, use_features=decision.keeps)

    def _training(self, recipe: Recipe) -> Training:
        return Training(self._data, recipe, self._seed, self._shared)

    def _trained(self, recipe: Recipe, name: str):
        """The `Encoded` of a trial in one piece."""
        smaller = trial_recipe(self._data, recipe)
        training = self._training(smaller)
        training.fit(smaller.epochs, callbacks=self._callbacks(name))
        return self._task.encoder(training.model)()

    def _callbacks(self, name: str) -> list:
        if self._resume is None:
            return []
        # The trials are trained again where they were, and one that had
        # ended is as it was: what they are compared by is, too.
        folder = os.path.join(self._resume, "trials", name)
        return [ResumeTraining(folder, keep=1)]

    def _report(self, choice, tower=""):
        if self._verbose:
            print(
                f"Trial: {tower}{choice}: NDCG@10 {choice.ndcg:.4f} of "
                f"{self._num_users:,} held-out users"
            )

    def _explain(self, decision):
        if self._verbose:
            print(f"Chosen: {decision}")


def with_trials(
    data,
    recipe: Recipe,
    seed,
    *,
    given,
    whole,
    against=None,
    verbose=0,
    resume=None,
    shared=None,
) -> Recipe:
    """Returns the recipe with the best setting on the validation part.

    Args:
        data: `RetrievalDataset` with a validation part.
        recipe: `Recipe`, before trials.
        seed: int.
        given: dict. The overrides.
        whole: `RetrievalDataset` that the model is to be trained on.
        against: Optional str. Why a `SequenceTower` is not tried.
        verbose: As in `fit`.
        resume: Optional folder for `ResumeTraining`.
        shared: Optional `Shared`.
    """
    if not has_trials(data, recipe):
        return recipe
    runs = TrialRuns(
        data, seed, given=given, shared=shared, resume=resume, verbose=verbose
    )
    found = runs.choose_setting(recipe)
    recipe = _with_choice(recipe, found[0])
    if not against:
        other = sequence_recipe(whole, recipe, given)
        found, decision = runs.choose_tower(found, other)
        if decision.takes_sequence:
            recipe = _with_choice(other, found[0])
    elif verbose and recipe.order == "recency":
        print(f"SequenceTower is not tried: {against}.")
    if not recipe.use_features or "use_features" in given:
        return recipe
    return runs.choose_features(found[1], recipe)


def _with_choice(recipe: Recipe, choice) -> Recipe:
    return dataclasses.replace(
        recipe,
        temperature=choice.temperature,
        popularity_weight=choice.popularity_weight,
    )
