"""Recipe: hyperparameters chosen from the shape of a data set."""

import dataclasses
import math

import keras

from keras_dp_retrieval import _checks, losses

# Steps of a training on batches of users, and of a trial; and epochs, where
# these steps are fewer: dependencies of packages still gain until then.
USUAL_STEPS = 240
USUAL_EPOCHS = 20

# Steps that are enough for any data, and the least epochs.
MOST_STEPS = 900
LEAST_EPOCHS = 10


ORDERS = ("ignored", "recency")
OBJECTIVES = ("full_softmax", "in_batch_softmax")


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyperparameters of `fit_recipe`, which takes each as an override.

    Example:

    ```python
    model = kdr.fit_recipe(data, epochs=20, temperature=0.1)
    ```

    Args:
        order: `"ignored"`: the model is an `IdHistoryTower`, and is trained to
            predict each item of a user from the others, in whatever order they
            came. `"recency"`: it is a `RecencyTower`, and is trained to predict
            the next item from those before it.
        objective: `"full_softmax"` or `"in_batch_softmax"`.
        embedding_dimension: int. Length of the vectors.
        temperature: float. Temperature of the softmax.
        learning_rate: float. Initial learning rate of a cosine decay to 0.
        weight_decay: float. Decoupled weight decay of AdamW.
        batch_size: int. Users per batch with `order="ignored"` and
            `objective="full_softmax"`, else interactions.
        epochs: int. Epochs over the training data.
        item_dropout: float. Rate at which items of a history are dropped in
            training.
        query_dropout: float. Dropout rate of the user vectors in training.
        rating_weight: float. `rating_weight` of `FullSoftmax`; 0 if there are
            no ratings to learn from.
        popularity_weight: float. `popularity_weight` of `TwoTowerRetrieval`.
        use_features: bool. Whether the towers get the features of the data,
            as they do if there are any, unless trials advise against it.
        id_dropout: float. `id_dropout` of the candidates' `FeatureTower`.

    Raises:
        ValueError: If a value is out of range.
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
    popularity_weight: float = 0.0
    use_features: bool = False
    id_dropout: float = 0.3

    def __post_init__(self):
        _checks.one_of("order", self.order, ORDERS)
        _checks.one_of("objective", self.objective, OBJECTIVES)
        for name in ("embedding_dimension", "batch_size", "epochs"):
            _checks.positive_int(name, getattr(self, name))
        for name in ("temperature", "learning_rate"):
            value = getattr(self, name)
            _checks.number_between(name, value, 0, open_low=True)
        for name in ("weight_decay", "rating_weight", "popularity_weight"):
            _checks.number_between(name, getattr(self, name))
        _checks.flag("use_features", self.use_features)
        for name in ("item_dropout", "query_dropout", "id_dropout"):
            _checks.number_between(name, getattr(self, name), 0, 1)

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config) -> "Recipe":
        return cls(**config)


def choose_recipe(data, **overrides) -> Recipe:
    """Returns the recipe for the shape of a data set, before any trials.

    If the test part is later than the train part (`split="by_time"` or
    `"leave_last_out"`), the model predicts the next item; else it ignores the
    order. The values were chosen on the validation parts of MovieLens 100K and
    of synthetic data of several shapes, see `benchmarks/README.md`.

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
        "objective": losses.default_name(data.num_candidates),
        "use_features": has_features(data),
        **overrides,
    }
    if options["use_features"] and not has_features(data):
        raise ValueError(
            "`use_features=True` needs data with features. Received: data "
            "without `user_features` and `candidate_features`."
        )
    _checks.one_of("order", options["order"], ORDERS)
    _checks.one_of("objective", options["objective"], OBJECTIVES)
    if "batch_size" in options:
        _checks.positive_int("batch_size", options["batch_size"])
    _check_rating_weight(data, options)
    recipe = _recency if options["order"] == "recency" else _order_free
    chosen = recipe(data, options["objective"], options.get("batch_size"))
    return dataclasses.replace(chosen, **options)


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
    if options["order"] == "recency":
        reason = "order='recency', which predicts the next item"
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


def _has_ratings(data) -> bool:
    return getattr(data.ratings("train"), "ratings", None) is not None


def _order_free(data, objective, batch_size) -> Recipe:
    num_interactions = len(data.ratings("train"))
    per_user = num_interactions / (data.num_users - 1)
    users_and_candidates = (data.num_users - 1) * (data.num_candidates - 1)
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
    epochs = MOST_STEPS / steps
    if by_user:
        epochs = min(max(USUAL_STEPS / steps, USUAL_EPOCHS), epochs)
    return Recipe(
        order="ignored",
        objective=objective,
        embedding_dimension=256 if users_and_candidates < 1e8 else 128,
        temperature=round(min(max(temperature, 0.1), 0.15), 4),
        learning_rate=0.01,
        weight_decay=0.5,
        batch_size=batch_size,
        epochs=min(max(round(epochs), LEAST_EPOCHS), 60),
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
        # About 760 steps, and at least 2 epochs.
        epochs=min(max(round(760 / steps), 2), 30),
        rating_weight=0.0,
    )
