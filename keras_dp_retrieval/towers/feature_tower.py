"""FeatureTower: vectors of users or candidates from their features."""

import keras
from keras import ops

from keras_dp_retrieval import _checks, _random_state
from keras_dp_retrieval.data.features import EncodedFeatures, FeatureSchema
from keras_dp_retrieval.towers.base import HistoryTower
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.feature_lookup import FeatureLookup

# From this many rows on, a table is a `RowEmbedding`, whose looked-up rows
# alone are updated; row-sparse steps pass the `EmbedReduce` of keras-rs by.
LARGE_VOCABULARY = 20_000

# Up to this many, a product with the whole table is quicker than to look rows
# up and add them: 0.6 to 1.5 ms a step for 19 labels, 1,683 movies, 256
# dimensions and 6 labels a movie, on two cores; with 130 it is slower.
SMALL_VOCABULARY = 64

COMBINERS = ("sum", "mean", "sqrtn")


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class FeatureTower(keras.layers.Layer):
    """Sums the embeddings of an id, of its features, and of a history.

        vector = id + sum over the columns + history + network

    - A categorical column has one embedding a value.
    - Labels and words have one each, combined by `combiner`.
    - Numbers and dates are multiplied by a vector each, and have one for the
      bin that they are in.
    - `history` is the output of a tower of histories, which may bring
      embeddings of user ids of its own.
    - `network`, if there are `hidden` layers or crosses, is computed from all
      columns side by side, and added: without it the tower is linear in the
      features, which is hard to beat where there are few data.

    What is missing or not known (index 0) adds nothing. Ids are dropped at
    random in training, so that a vector from features alone is one that the
    model was trained with; row 0 is an id that is not known, and adds nothing.

    The inputs are a dict: `"user_id"` or `"candidate_id"`, int `(batch,)`; the
    columns, as a `FeatureLookup` returns them; and for a tower of histories
    `"history"`, `(batch, length)`. Layers of your own, such as a functional
    model, get the same, and any of it may be left out.

    Args:
        features: `data.user_features` or `data.candidate_features`, or a
            `FeatureLookup`.
        embedding_dimension: int. Length of the vectors, `dim`.
        hidden: Widths of the hidden layers of the network, such as `(128,)`.
        num_crosses: int. Layers of `keras_rs.layers.FeatureCross` in front of
            it.
        use_id: bool. Whether ids have embeddings.
        id_dropout: float. In training, drops each id with this probability.
        history: Optional `HistoryTower`.
        combiner: str. `"sum"`, `"mean"` or `"sqrtn"`, the sum over the square
            root of the number.
        stddev: float. Standard deviation of the normal distribution that
            initializes the tables; a tenth of it that of the ids.
        seed: Optional int. Seeds the dropout and the initializers.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        64,
        candidate_tower=kdr.FeatureTower(data.candidate_features, 64),
    )
    ```
    """

    def __init__(
        self,
        features,
        embedding_dimension,
        *,
        hidden=(),
        num_crosses=0,
        use_id=True,
        # Cold items gain from it, and warm ones lose nothing up to here.
        id_dropout=0.3,
        history=None,
        combiner="sum",
        stddev=0.05,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.schema, self.num_rows = _schema_and_rows(features)
        self.embedding_dimension = _checks.table_size(
            "embedding_dimension", embedding_dimension
        )
        self.hidden = [_checks.positive_int("hidden", one) for one in hidden]
        self.num_crosses = _checks.non_negative_int("num_crosses", num_crosses)
        self.use_id = _checks.flag("use_id", use_id)
        self.id_dropout = _checks.number_between("id_dropout", id_dropout, 0, 1)
        if history is not None:
            history = _checks.instance("history", history, HistoryTower)
        self.history = history
        self.combiner = _checks.one_of("combiner", combiner, COMBINERS)
        self.stddev = _checks.number_between("stddev", stddev, 0, open_low=True)
        self.seed = _checks.seed("seed", seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.ids = None
        if self.use_id and self.history is None:
            # Ids that training does not have say next to nothing.
            self.ids = self._table(self.num_rows, "ids", self.stddev / 10)
        self.tables = {
            name: self._feature_table(number, encoder)
            for number, (name, encoder) in enumerate(
                self.schema.encoders.items()
            )
            if not encoder.is_number
        }
        self.numbers = [
            name
            for name, encoder in self.schema.encoders.items()
            if encoder.is_number
        ]
        self.bins = {
            name: self._table(
                len(self.schema.encoders[name].boundaries) + 1, f"bins_{number}"
            )
            for number, name in enumerate(self.numbers)
            if self.schema.encoders[name].boundaries
        }
        self.number_vectors = None
        if self.numbers:
            self.number_vectors = self.add_weight(
                shape=(len(self.numbers), self.embedding_dimension),
                initializer=self._initializer(),
                name="number_vectors",
            )
        self.crosses, self.network = self._network()
        self.built = True

    def _initializer(self, stddev=None):
        return keras.initializers.RandomNormal(
            stddev=stddev or self.stddev, seed=self.seed
        )

    def _glorot(self, number):
        seed = None if self.seed is None else (self.seed + number) % 2**32
        return keras.initializers.GlorotUniform(seed=seed)

    def _table(self, num_rows, name, stddev=None):
        table = RowEmbedding(
            num_rows,
            self.embedding_dimension,
            embeddings_initializer=self._initializer(stddev),
            name=name,
        )
        table.build()
        return table

    def _feature_table(self, number, encoder):
        name = f"feature_{number}"
        if not encoder.is_pooled or encoder.num_indices >= LARGE_VOCABULARY:
            return self._table(encoder.num_indices, name)
        table = _keras_rs_layers().EmbedReduce(
            encoder.num_indices,
            self.embedding_dimension,
            embeddings_initializer=self._initializer(),
            combiner=self.combiner,
            name=name,
        )
        table.build()
        return table

    def _network(self) -> tuple[list, list]:
        """The crosses, and the hidden layers with the output."""
        if not self.hidden and not self.num_crosses:
            return [], []
        num_tables = len(self.tables) + len(self.bins)
        width = self.embedding_dimension * num_tables + len(self.numbers)
        crosses = []
        for number in range(self.num_crosses):
            crosses.append(
                _keras_rs_layers().FeatureCross(
                    kernel_initializer=self._glorot(number)
                )
            )
            crosses[-1].build((None, width))
            crosses[-1].dense.build((None, width))
        layers = [
            keras.layers.Dense(
                units, "relu", kernel_initializer=self._glorot(-1 - number)
            )
            for number, units in enumerate(self.hidden)
        ]
        # It begins as the linear tower, and learns what that leaves over.
        layers.append(
            keras.layers.Dense(
                self.embedding_dimension, kernel_initializer="zeros"
            )
        )
        for layer in layers:
            layer.build((None, width))
            width = layer.units
        return crosses, layers

    def call(self, inputs, training=False):
        """Returns vectors, `(batch, dim)`."""
        rows = _rows(inputs)
        known = self._known(rows, training)
        embedded = [self._embedded(name, inputs[name]) for name in self.tables]
        embedded += [self._binned(name, inputs[name]) for name in self.bins]
        parts = list(embedded)
        if self.ids is not None:
            parts.append(self.ids(rows) * ops.cast(known, "float32")[:, None])
        numbers = None
        if self.numbers:
            numbers = ops.stack([inputs[n] for n in self.numbers], axis=-1)
            parts.append(ops.matmul(numbers, self.number_vectors))
        if self.history is not None:
            parts.append(self._history(inputs, rows, known, training))
        if self.network:
            beside = [*embedded, *([] if numbers is None else [numbers])]
            parts.append(self._deep(ops.concatenate(beside, axis=-1)))
        return sum(parts[1:], parts[0])

    def _known(self, rows, training):
        """Whether an id is known, and not dropped, bool `(batch,)`."""
        known = rows > 0
        if not training or not self.id_dropout:
            return known
        drawn = keras.random.uniform(ops.shape(rows), seed=self.seed_generator)
        return ops.logical_and(known, drawn >= self.id_dropout)

    def _embedded(self, name, indices):
        table = self.tables[name]
        present = ops.cast(indices > 0, "float32")
        if not self.schema.encoders[name].is_pooled:
            return table(indices) * present[:, None]
        if isinstance(table, RowEmbedding):
            return combine(table(indices), present, self.combiner)
        # `EmbedReduce` multiplies and sums what it has looked up one after the
        # other, which takes XLA three times as long on CPUs.
        vectors = ops.cast(table.embeddings, table.compute_dtype)
        if table.input_dim <= SMALL_VOCABULARY:
            return combine_all(vectors, indices, present, self.combiner)
        looked_up = ops.take(vectors, indices, axis=0)
        return combine(looked_up, present, self.combiner)

    def _binned(self, name, numbers):
        boundaries = ops.cast(
            ops.convert_to_tensor(self.schema.encoders[name].boundaries),
            "float32",
        )
        numbers = ops.cast(numbers, "float32")
        is_above = numbers[:, None] >= boundaries
        return self.bins[name](ops.sum(ops.cast(is_above, "int32"), axis=1))

    def _history(self, inputs, rows, known, training):
        if not self.use_id:
            known = ops.zeros_like(known)
        known_rows = ops.where(known, rows, ops.zeros_like(rows))
        return self.history((known_rows, inputs["history"]), training=training)

    @property
    def takes_lists(self) -> bool:
        """Whether the history may be `HistoryLists`, which are not padded."""
        is_own = type(self).call is FeatureTower.call
        return is_own and self.history is not None and self.history.takes_lists

    def _deep(self, x):
        crossed = x
        for layer in self.crosses:
            crossed = layer(x, crossed)
        for layer in self.network:
            crossed = layer(crossed)
        return crossed

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "features": {
                "schema": serialize(self.schema),
                "num_rows": self.num_rows,
            },
            "embedding_dimension": self.embedding_dimension,
            "hidden": self.hidden,
            "num_crosses": self.num_crosses,
            "use_id": self.use_id,
            "id_dropout": self.id_dropout,
            "history": self.history and serialize(self.history),
            "combiner": self.combiner,
            "stddev": self.stddev,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        features = config["features"]
        known = {
            "features": {
                "schema": deserialize(features["schema"]),
                "num_rows": features["num_rows"],
            },
            "history": config["history"] and deserialize(config["history"]),
        }
        return cls(**{**config, **known})


def _keras_rs_layers():
    """The module `keras_rs.layers`, imported late: it takes a second."""
    with _random_state.kept():
        import keras_rs
    return keras_rs.layers


def combine(vectors, weights, combiner: str):
    """Combines vectors `(batch, width, dim)` with weights 0 and 1.

    As `keras_rs.layers.EmbedReduce` does, for tables whose rows are updated
    one by one.
    """
    total = ops.einsum("bw,bwd->bd", weights, vectors)
    return _divided(total, weights, combiner)


def combine_all(table, indices, weights, combiner: str):
    """Combines rows of a small table, by a product with all of it.

    Args:
        table: float `(num_indices, dim)`.
        indices: int `(batch, width)`.
        weights: float `(batch, width)`, 0 and 1.
        combiner: str.
    """
    chosen = ops.one_hot(indices, table.shape[0], dtype=table.dtype)
    counts = ops.sum(chosen * ops.cast(weights, table.dtype)[..., None], axis=1)
    return _divided(ops.matmul(counts, table), weights, combiner)


def _divided(total, weights, combiner: str):
    if combiner == "sum":
        return total
    number = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
    return total / (number if combiner == "mean" else ops.sqrt(number))


def _schema_and_rows(features) -> tuple[FeatureSchema, int]:
    if isinstance(features, (EncodedFeatures, FeatureLookup)):
        return features.schema, features.num_rows
    if isinstance(features, dict) and set(features) == {"schema", "num_rows"}:
        return features["schema"], features["num_rows"]
    raise ValueError(
        "`features` must be those of a data set, `data.user_features` or "
        "`data.candidate_features`, or a `FeatureLookup`. Received: "
        f"{features!r:.80}."
    )


def _rows(inputs):
    for key in ("user_id", "candidate_id"):
        if key in inputs:
            return inputs[key]
    raise ValueError(
        "A `FeatureTower` takes a dict with 'user_id' or 'candidate_id'. "
        f"Received the keys: {sorted(inputs)}."
    )
