"""fit_recipe: a good model in one line, chosen from the data."""

import dataclasses
import math

import keras
import numpy as np

from keras_dp_retrieval import _checks, distribution, recipe_trials
from keras_dp_retrieval.callbacks import FreshTies
from keras_dp_retrieval.losses import FullSoftmax, InBatchSoftmax
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.towers import IdHistoryTower, RecencyTower

# With fewer held-out users than this, what is better is mostly chance.
LEAST_USERS_TO_CHOOSE_BY = 100

# Beyond this many candidates a full softmax is no longer the cheaper way, and
# the recipe takes the negatives from the batch.
MOST_CANDIDATES_OF_FULL_SOFTMAX = 100_000

# Passes over large data, of which fewer batches would do for one.
LEAST_EPOCHS_BY_USER = 10
LEAST_EPOCHS_IN_BATCH = 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything `fit_recipe` decides. Each can be overridden by its name.

    Attributes:
        order: `"ignored"`: who had what; `"recency"`: what came next.
        objective: `"full_softmax"` or `"in_batch_softmax"`.
        embedding_dimension: int.
        temperature: float. Of the softmax.
        learning_rate: float. Where the cosine schedule starts; it ends at 0.
        weight_decay: float. Of AdamW, decoupled.
        batch_size: int. Users, or interactions where the order counts or the
            negatives come from the batch.
        epochs: int. Passes over them.
        item_dropout: float. Of a user's history.
        query_dropout: float. Of a user's vector.
        rating_weight: float. What the objective makes of ratings; 0 where it
            has none to learn from.
        popularity_offset: float. Of the model.
    """

    order: str
    objective: str
    embedding_dimension: int
    temperature: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    item_dropout: float = 0.2
    query_dropout: float = 0.3
    rating_weight: float = 0.8
    popularity_offset: float = 0.0

    def __post_init__(self):
        _checks.one_of("order", self.order, ("ignored", "recency"))
        _checks.one_of(
            "objective", self.objective, ("full_softmax", "in_batch_softmax")
        )
        for name in ("embedding_dimension", "batch_size", "epochs"):
            _checks.positive_int(name, getattr(self, name))
        for name in ("temperature", "learning_rate"):
            value = getattr(self, name)
            _checks.number_between(name, value, 0, open_low=True)
        for name in ("weight_decay", "rating_weight", "popularity_offset"):
            _checks.number_between(name, getattr(self, name))
        for name in ("item_dropout", "query_dropout"):
            _checks.number_between(name, getattr(self, name), 0, 1)


def choose_recipe(data, **overrides) -> Recipe:
    """Returns the recipe for the shape of a data set, before any trials.

    Where the test part is later than the train part (`split="by_time"` or
    `"leave_last_out"`), what a user had last counts most; else the order is
    ignored. The figures were chosen on the validation parts of MovieLens 100K
    and of synthetic data of several shapes; `benchmarks/README.md` has them.

    Args:
        data: `RetrievalDataset`.
        **overrides: Attributes of `Recipe`.

    The number of epochs follows from the size of the batches, also from one
    that is given.

    Raises:
        ValueError: If an override is none of them, out of range, or would
            have no effect.
    """
    names = {field.name for field in dataclasses.fields(Recipe)}
    unknown = sorted(set(overrides) - names)
    if unknown:
        raise ValueError(
            f"`fit_recipe` has no option {unknown[0]!r}. There are: "
            f"{', '.join(sorted(names))}."
        )
    in_time = data.split in ("by_time", "leave_last_out")
    is_small = data.num_candidates <= MOST_CANDIDATES_OF_FULL_SOFTMAX
    options = {
        "order": "recency" if in_time else "ignored",
        "objective": "full_softmax" if is_small else "in_batch_softmax",
        **overrides,
    }
    if "batch_size" in options:
        _checks.positive_int("batch_size", options["batch_size"])
    _check_rating_weight(data, options)
    recipe = _recency if options["order"] == "recency" else _order_free
    chosen = recipe(data, options["objective"], options.get("batch_size"))
    return dataclasses.replace(chosen, **options)


def _check_rating_weight(data, options):
    """Raises if ratings are to count where nothing learns from them."""
    if not options.get("rating_weight"):
        return
    reason = None
    if options["order"] == "recency":
        reason = "order='recency', which learns what came next"
    elif options["objective"] == "in_batch_softmax":
        reason = (
            "objective='in_batch_softmax', which takes every interaction alike"
        )
    elif not _has_ratings(data):
        reason = "data without ratings"
    if reason:
        raise ValueError(
            "`rating_weight` needs ratings, order='ignored' and "
            "objective='full_softmax'. Received: rating_weight="
            f"{options['rating_weight']!r} with {reason}. Leave it out, or "
            "change the other."
        )


def _has_ratings(data) -> bool:
    return getattr(data.ratings("train"), "ratings", None) is not None


def _order_free(data, objective, batch_size) -> Recipe:
    num_interactions = len(data.ratings("train"))
    per_user = num_interactions / (data.num_users - 1)
    users_and_candidates = (data.num_users - 1) * (data.num_candidates - 1)
    # Where the trials start. Sparser data wants less: 74 interactions a user
    # is where 0.15 was found.
    temperature = 0.15 * (per_user / 74) ** 0.2
    by_user = objective == "full_softmax"
    if by_user:
        num_examples = data.num_users
        usual = 2 ** round(math.log2(max(data.num_users / 16, 1)))
        batch_size = batch_size or min(max(usual, 64), 256)
    else:
        num_examples = num_interactions
        batch_size = batch_size or data.batch_size
    steps = math.ceil(num_examples / batch_size)
    least = LEAST_EPOCHS_BY_USER if by_user else LEAST_EPOCHS_IN_BATCH
    return Recipe(
        order="ignored",
        objective=objective,
        embedding_dimension=256 if users_and_candidates < 1e8 else 128,
        temperature=round(min(max(temperature, 0.1), 0.15), 4),
        learning_rate=0.01,
        weight_decay=0.5,
        batch_size=batch_size,
        # 900 steps are enough.
        epochs=min(max(round(900 / steps), least), 60),
        rating_weight=0.8 if by_user and _has_ratings(data) else 0.0,
    )


def _recency(data, objective, batch_size) -> Recipe:
    batch_size = batch_size or 1024
    steps = math.ceil(len(data.ratings("train")) / batch_size)
    return Recipe(
        order="recency",
        objective=objective,
        embedding_dimension=128,
        temperature=0.13,
        learning_rate=0.01,
        weight_decay=1.0,
        batch_size=batch_size,
        # About 760 steps, or twice over the data.
        epochs=min(max(round(760 / steps), 2), 30),
        rating_weight=0.0,
    )


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

    best = recipe_trials.choose(
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
