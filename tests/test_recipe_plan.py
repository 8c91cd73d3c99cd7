"""What is planned is what `fit_recipe` does."""

import dataclasses
import json
import types

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.recipe import (
    build_model,
    fit,
    plan,
    plan_recipe,
    training,
    trial_runs,
    trial_sizes,
    trials,
)


def data_of(num_users=130, **options):
    return kdr.RetrievalDataset.from_synthetic(
        num_users, 40, 1500, **{"split": "by_time", **options}
    )


@pytest.mark.filterwarnings("ignore:.*older than the newest")
@pytest.mark.parametrize("split", ["random", "by_time"])
def test_steps_and_parameters_are_those_of_the_training(split):
    data = data_of(split=split)
    planned = plan_recipe(data)
    whole = data.with_validation_in_train()
    recipe = fit.choose_recipe(whole)
    assert planned.recipe == recipe
    examples = training.examples(whole, recipe)
    assert planned.steps_per_epoch == examples.num_batches
    for objective in ("full_softmax", "in_batch_softmax"):
        other = dataclasses.replace(
            recipe, objective=objective, batch_size=64, rating_weight=0.0
        )
        steps = -(-plan._num_examples(whole, other) // 64)
        assert steps == training.examples(whole, other).num_batches
    model = build_model(whole, recipe)
    model.build()
    trained = [weight.shape for weight in model.trainable_variables]
    assert planned.num_parameters == sum(map(np.prod, trained))


@pytest.mark.filterwarnings("ignore:.*older than the newest")
@pytest.mark.parametrize(
    ("split", "is_trial"), [("random", True), ("by_time", False)]
)
def test_trials_are_planned_where_there_are_any(split, is_trial, monkeypatch):
    trained = []

    def train(data, recipe, *_):
        trained.append((data, recipe))
        raise RuntimeError("enough")

    for module in (trial_runs, fit):
        monkeypatch.setattr(module, "Training", train)
    data = data_of(300, split=split, validation_fraction=0.2)
    planned = plan_recipe(data)
    with pytest.raises(RuntimeError, match="enough"):
        kdr.fit_recipe(data)
    ((on, recipe),) = trained
    assert is_trial == (planned.num_trials != (0, 0))
    assert is_trial == (on is data)
    if is_trial:
        steps = training.examples(on, recipe).num_batches * recipe.epochs
        assert planned.steps_of_trial == steps
        assert planned.dimension_of_trials == recipe.embedding_dimension


@pytest.mark.filterwarnings("ignore:.*older than the newest")
@pytest.mark.parametrize(
    ("dimension", "of_trial"), [(512, 256), (256, 128), (200, 128), (64, 64)]
)
def test_long_trials_have_half_of_the_dimensions(
    dimension, of_trial, monkeypatch
):
    data = data_of(300, split="random", validation_fraction=0.2)
    recipe = fit.choose_recipe(data, embedding_dimension=dimension)
    trial = trial_sizes.trial_recipe(data, recipe)
    assert trial.embedding_dimension == dimension
    steps = training.examples(data, trial).num_batches * trial.epochs
    flop = steps * trial_sizes.flop_per_step(data, recipe)
    monkeypatch.setattr(trial_sizes, "FLOP_OF_LONG_TRIAL", flop)
    trial = trial_sizes.trial_recipe(data, recipe)
    assert trial.embedding_dimension == dimension
    monkeypatch.setattr(trial_sizes, "FLOP_OF_LONG_TRIAL", flop - 1)
    trial = trial_sizes.trial_recipe(data, recipe)
    assert trial.embedding_dimension == of_trial
    assert dataclasses.replace(trial, embedding_dimension=dimension) == (
        dataclasses.replace(recipe, epochs=trial.epochs)
    )
    for other in ({"use_features": True}, {"order": "recency"}):
        changed = dataclasses.replace(recipe, **other)
        trial = trial_sizes.trial_recipe(data, changed)
        assert trial.embedding_dimension == dimension


@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_the_plan_counts_the_dimensions_of_the_trials(monkeypatch):
    data = data_of(300, split="random", validation_fraction=0.2)
    whole = plan_recipe(data)
    assert "dimensions" not in str(whole)
    monkeypatch.setattr(trial_sizes, "FLOP_OF_LONG_TRIAL", 0)
    planned = plan_recipe(data)
    assert "with 128 dimensions" in str(planned)
    assert planned == dataclasses.replace(whole, dimension_of_trials=128)
    in_trials = (whole.most_steps - whole.num_steps) * whole.flop_per_step
    assert planned.most_flop == whole.most_flop - in_trials // 2


@pytest.mark.parametrize(
    ("batch_size", "epochs"),
    [
        (16, 24),  # 10 steps: 240 in all.
        (10, 16),  # 15 steps, likewise.
        (3, 8),  # 50 steps: 400.
        (1, 5),  # 150 steps: more than are needed.
    ],
)
def test_the_length_of_a_trial_follows_from_its_steps(batch_size, epochs):
    data = kdr.RetrievalDataset.from_interactions(
        np.arange(3000) % 150, np.arange(3000) // 150
    )
    recipe = fit.choose_recipe(data, batch_size=batch_size)
    assert trial_sizes.trial_epochs(data, recipe) == epochs


@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_chunks_cost_one_more_product(monkeypatch):
    data = data_of(split="random")
    recipe = fit.choose_recipe(data, batch_size=64, embedding_dimension=8)
    whole = trial_sizes.flop_per_step(data, recipe)
    assert whole == 3 * 2 * 64 * data.num_candidates * 8
    monkeypatch.setattr(trial_sizes, "chunk_size", lambda data: 10)
    assert trial_sizes.flop_per_step(data, recipe) == whole / 3 * 4
    of_batch = dataclasses.replace(
        recipe, objective="in_batch_softmax", rating_weight=0.0
    )
    assert trial_sizes.flop_per_step(data, of_batch) == 3 * 2 * 64 * 64 * 8


@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_few_users_are_not_planned_to_be_chosen_by():
    planned = plan_recipe(data_of(80, split="random"))
    assert planned.num_trials == (0, 0)
    assert "none: too few users" in str(planned)


def test_trainings_lie_between_the_least_and_the_most():
    rng = np.random.default_rng(0)
    task = types.SimpleNamespace(
        ndcg_of_users=lambda model, _: np.full(2, model.ndcg)
    )
    numbers = set()
    for _ in range(200):
        trained = []

        def train(temperature, trained=trained):
            trained.append(temperature)
            return types.SimpleNamespace(
                ndcg=rng.random(), popularity_weight=0.0
            )

        trials.choose(train, task, 0.1)
        numbers.add(len(trained))
    assert (min(numbers), max(numbers)) == trials.NUM_TRAININGS


def test_the_text_says_what_was_not_measured():
    planned = plan_recipe(data_of())
    text = str(planned)
    assert f"{planned.num_steps:,} steps" in text
    assert f"{planned.num_parameters:,}" in text
    assert "nothing was run" in text
    assert json.loads(json.dumps(planned.to_dict()))["num_steps"]
