"""The recipe for a data set, chosen from its shape."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval import _checks, losses
from keras_dp_retrieval.data.sequences import num_pieces
from keras_dp_retrieval.recipe.hyperparameters import (
    LONGEST,
    OBJECTIVES,
    ORDERS,
    Recipe,
)

# Steps of a training on batches of users, and of a trial; and epochs, where
# these steps are fewer: dependencies of packages still gain until then.
USUAL_STEPS = 240
USUAL_EPOCHS = 20

# Steps that are enough for any data, and for batches of users, where 10 to 20
# epochs of npm's packages (51 steps each) are alike; and the least epochs.
MOST_STEPS = 900
MOST_STEPS_ON_USERS = 640
LEAST_EPOCHS = 10


# Of a training on histories: positions, and, in batches of the least that hold
# so many, steps. In small batches a transformer learns more from as many
# positions. The most are as many as the targets of `order="recency"`, which
# negatives that are drawn from the batch need.
POSITIONS = 1_200_000
POSITIONS_OF_BATCH = 256, 1024

# Users times candidates up to which all logits of an epoch are computed where
# batches are of users: 1e14 FLOP at 128 dimensions, half an hour on one core of
# a CPU; 80,000 users and 300,000 candidates are a fourth of that. In equal time
# it learned more than in-batch negatives: `benchmarks/README.md`.
MOST_PAIRS = 1e11

# Users times candidates up to which vectors have 256 dimensions, beyond it 128.
# With features trials have as many as the model, so that the limit is lower.
WIDE_PAIRS = 1e10
WIDE_PAIRS_WITH_FEATURES = 1e8


def choose_recipe(data, **overrides) -> Recipe:
    """Returns the recipe for the shape of a data set, before any trials.

    If the test part is later than the train part (`split="by_time"` or
    `"leave_last_out"`), the model predicts the next item, and reads histories
    by a `RecencyTower` (trials may find a `SequenceTower` better); else it
    ignores the order. The values were chosen on the validation parts of
    MovieLens 100K and of synthetic data of several shapes, see
    `benchmarks/README.md`.

    The objective is the full softmax up to 100,000 candidates, and beyond as
    long as an epoch is affordable: where the order is ignored, up to 1e11
    users times candidates (80,000 users and 1.2 million candidates, say), in
    chunks that bound the memory of a step. Otherwise it is the in-batch
    softmax.

    Vectors have 256 dimensions where the order is ignored and users times
    candidates are less than 1e10 (with features 1e8), else 128; those of a
    `SequenceTower` 64.

    The number of epochs depends on the batch size, given or chosen.

    Args:
        data: `RetrievalDataset`.
        **overrides: Attributes of `Recipe`.

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
    options = {
        "order": "recency" if in_time else "ignored",
        "use_features": has_features(data),
        **overrides,
    }
    if options["use_features"] and not has_features(data):
        raise ValueError(
            "`use_features=True` needs data with features. Received: data "
            "without `user_features` and `candidate_features`."
        )
    _checks.one_of("order", options["order"], ORDERS)
    options.setdefault("objective", _objective(data, options["order"]))
    _checks.one_of("objective", options["objective"], OBJECTIVES)
    for name in ("batch_size", "max_length"):
        if name in options:
            _checks.positive_int(name, options[name])
    _check_rating_weight(data, options)
    _check_histories(data, options)
    recipes = {
        "ignored": _order_free,
        "recency": _recency,
        "sequence": _sequence,
    }
    chosen = recipes[options["order"]](data, options)
    return dataclasses.replace(chosen, **options)


def _objective(data, order: str) -> str:
    """The objective for a data set.

    In a batch of users each row of logits serves all positives of its user, so
    an epoch of the full softmax costs users times candidates, not interactions
    times candidates as where each interaction is an example.
    """
    pairs = data.num_users * data.num_candidates
    if order == "ignored" and pairs <= MOST_PAIRS:
        return "full_softmax"
    return losses.default_name(data.num_candidates)


def has_features(data) -> bool:
    """Whether a data set has features of users or candidates."""
    return any(
        getattr(data, name, None) is not None
        for name in ("user_features", "candidate_features")
    )


def _check_rating_weight(data, options):
    """Raises if `rating_weight` would have no effect."""
    if not options.get("rating_weight"):
        return
    reason = None
    if options["order"] != "ignored":
        reason = f"order={options['order']!r}, which predicts the next item"
    elif options["objective"] == "in_batch_softmax":
        reason = (
            "objective='in_batch_softmax', which weighs all interactions alike"
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


def _check_histories(data, options):
    """Raises if `max_length` would have no effect, or features too high a cost.

    A `SequenceTower` makes the vectors of all positions of a history in one
    pass, unless there are features of the user beside it.
    """
    order = options["order"]
    if "max_length" in options and order == "ignored":
        raise ValueError(
            "`max_length` needs order='recency' or order='sequence'. Received: "
            f"max_length={options['max_length']!r} with order='ignored', which "
            "reads whole histories. Leave it out, or change the order."
        )
    if order == "sequence" and has_user_features(data, options["use_features"]):
        raise ValueError(
            "`order='sequence'` learns a history in one pass, which it cannot "
            "with features of users. Received: data with `user_features`, and "
            "use_features=True. Use `use_features=False` or `order='recency'`."
        )


def has_user_features(data, use_features: bool) -> bool:
    """Whether the user tower would get features."""
    return use_features and getattr(data, "user_features", None) is not None


def _has_ratings(data) -> bool:
    return getattr(data.ratings("train"), "ratings", None) is not None


def _order_free(data, options) -> Recipe:
    objective, batch_size = options["objective"], options.get("batch_size")
    num_interactions = len(data.ratings("train"))
    per_user = num_interactions / (data.num_users - 1)
    pairs = (data.num_users - 1) * (data.num_candidates - 1)
    most = WIDE_PAIRS_WITH_FEATURES if options["use_features"] else WIDE_PAIRS
    # Where the trials start: 0.15 is best at 74 interactions per user, and
    # sparser data needs less.
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
    if by_user:
        usual = max(USUAL_STEPS / steps, USUAL_EPOCHS)
        epochs = min(usual, MOST_STEPS_ON_USERS / steps)
    else:
        epochs = MOST_STEPS / steps
    return Recipe(
        order="ignored",
        objective=objective,
        embedding_dimension=256 if pairs < most else 128,
        temperature=round(min(max(temperature, 0.1), 0.15), 4),
        learning_rate=0.01,
        weight_decay=0.5,
        batch_size=batch_size,
        epochs=min(max(round(epochs), LEAST_EPOCHS), 60),
        rating_weight=0.8 if by_user and _has_ratings(data) else 0.0,
    )


def _recency(data, options) -> Recipe:
    batch_size = options.get("batch_size") or 1024
    steps = math.ceil(len(data.ratings("train")) / batch_size)
    return Recipe(
        order="recency",
        objective=options["objective"],
        embedding_dimension=128,
        temperature=0.13,
        learning_rate=0.01,
        weight_decay=1.0,
        batch_size=batch_size,
        # About 760 steps, and at least 2 epochs.
        epochs=min(max(round(760 / steps), 2), 30),
        rating_weight=0.0,
    )


def _sequence(data, options) -> Recipe:
    num_interactions = np.bincount(data.ratings("train").user_rows)
    max_length = options.get("max_length") or _usual_length(num_interactions)
    of_epoch = max(num_pieces(num_interactions, max_length), 1) * max_length
    epochs = min(max(round(POSITIONS / of_epoch), 2), 30)
    least, positions = POSITIONS_OF_BATCH
    if options["objective"] == "full_softmax":
        # Of large data two epochs are more steps than are needed.
        enough = round(of_epoch * epochs / POSITIONS * least)
        positions = min(max(enough, least), positions)
    batch_size = options.get("batch_size")
    return Recipe(
        order="sequence",
        objective=options["objective"],
        # Of 128, a step takes three times as long.
        embedding_dimension=64,
        temperature=0.13,
        learning_rate=0.005,
        weight_decay=0.1,
        batch_size=batch_size or max(round(positions / max_length), 1),
        epochs=epochs,
        # With 0.2 and 0.3, a transformer learns what depends on several items
        # three times as late.
        item_dropout=0.0,
        query_dropout=0.1,
        rating_weight=0.0,
        max_length=max_length,
    )


def _usual_length(num_interactions) -> int:
    """Of the histories of most users: a few long ones are divided."""
    lengths = num_interactions[num_interactions > 1]
    if not len(lengths):
        return 1
    return min(math.ceil(np.quantile(lengths, 0.9)), LONGEST)
