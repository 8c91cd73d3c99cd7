"""The recipe that the shape of a data set asks for."""

import dataclasses
import math

from keras_dp_retrieval import _checks

# Beyond this many candidates a full softmax is no longer the cheaper way, and
# the recipe takes the negatives from the batch.
MOST_CANDIDATES_OF_FULL_SOFTMAX = 100_000

# Epochs over large data, where fewer steps would do.
LEAST_EPOCHS = 10


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
    return Recipe(
        order="ignored",
        objective=objective,
        embedding_dimension=256 if users_and_candidates < 1e8 else 128,
        temperature=round(min(max(temperature, 0.1), 0.15), 4),
        learning_rate=0.01,
        weight_decay=0.5,
        batch_size=batch_size,
        # 900 steps are enough.
        epochs=min(max(round(900 / steps), LEAST_EPOCHS), 60),
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
