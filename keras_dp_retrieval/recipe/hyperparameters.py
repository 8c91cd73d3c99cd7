"""Recipe: the hyperparameters of a training."""

import dataclasses

import keras

from keras_dp_retrieval import _checks

# The longest histories that are read whole.
LONGEST = 100

ORDERS = ("ignored", "recency", "sequence")
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
            the next item from those before it. `"sequence"`: so is this, but
            it is a `SequenceTower` of two blocks.
        objective: `"full_softmax"` or `"in_batch_softmax"`.
        embedding_dimension: int. Length of the vectors.
        temperature: float. Temperature of the softmax.
        learning_rate: float. Initial learning rate of a cosine decay to 0.
        weight_decay: float. Decoupled weight decay of AdamW.
        batch_size: int. Users per batch with `order="ignored"` and
            `objective="full_softmax"`; histories with `order="sequence"`; else
            interactions.
        epochs: int. Epochs over the training data.
        item_dropout: float. Rate at which items of a history are dropped in
            training.
        query_dropout: float. Dropout rate of the user vectors in training, and
            of what the parts of a `SequenceTower` add.
        rating_weight: float. `rating_weight` of `FullSoftmax`; 0 if there are
            no ratings to learn from.
        popularity_weight: float. `popularity_weight` of `TwoTowerRetrieval`.
        use_features: bool. Whether the towers get the features of the data,
            as they do if there are any, unless trials advise against it.
        id_dropout: float. `id_dropout` of the candidates' `FeatureTower`.
        max_length: int. Histories are truncated to this many of the latest
            items, unless the order is ignored.

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
    max_length: int = LONGEST

    def __post_init__(self):
        _checks.one_of("order", self.order, ORDERS)
        _checks.one_of("objective", self.objective, OBJECTIVES)
        for name in (
            "embedding_dimension",
            "batch_size",
            "epochs",
            "max_length",
        ):
            _checks.positive_int(name, getattr(self, name))
        for name in ("temperature", "learning_rate"):
            value = getattr(self, name)
            _checks.number_between(name, value, 0, open_low=True)
        for name in ("weight_decay", "rating_weight", "popularity_weight"):
            _checks.number_between(name, getattr(self, name))
        _checks.flag("use_features", self.use_features)
        for name in ("item_dropout", "query_dropout", "id_dropout"):
            _checks.number_between(name, getattr(self, name), 0, 1)

    @property
    def predicts_next_item(self) -> bool:
        """Whether it is trained in order of time, on what comes next."""
        return self.order != "ignored"

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config) -> "Recipe":
        return cls(**config)
