"""TwoTowerRetrieval: which candidates does this user want to see?"""

import types
import warnings

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks, losses
from keras_dp_retrieval._keras.layers import (
    added_losses,
    embedding_table,
    sublayers,
    takes_training,
)
from keras_dp_retrieval.index.exact import top_k, top_k_by_sorting
from keras_dp_retrieval.metrics import ChanceAlarm
from keras_dp_retrieval.model import building, known_data
from keras_dp_retrieval.model.growth import (
    ABSENT,
    ABSENT_WITH_VECTOR,
    PRESENT,
    Growing,
)
from keras_dp_retrieval.model.saving import Saving, without_format
from keras_dp_retrieval.model.serving import Serving, check_rows
from keras_dp_retrieval.towers import HistoryTower
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.towers.histories import Histories
from keras_dp_retrieval.training import step_plan
from keras_dp_retrieval.training.in_use import reads
from keras_dp_retrieval.training.padded_model import PaddedModel

# The square of a larger rating, summed over a batch, overflows a float32.
LARGEST_RATING = 1e15

# What `compile` of Keras has and this model has no use for.
NOT_COMPILED = ("loss", "loss_weights", "metrics", "weighted_metrics")


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class TwoTowerRetrieval(Saving, Growing, Serving, PaddedModel):
    """Retrieves candidates by the dot product of two towers' vectors.

    One tower turns users into vectors, the other candidates; a candidate's
    score for a user is the dot product of their vectors and nothing else. The
    model trains on batches of `x` = int user ids `(batch,)` and `y` =
    `{"movie_id": (batch,), "rating": (batch,)}`, on one device or many, for
    any number of rows: what Keras would refuse, because it does not divide by
    the devices, is filled up with rows of weight 0, which count nowhere.

    A row with `sample_weight` 0 does not exist: it adds nothing to the loss,
    and nothing to the number of rows that the loss is divided by.

    A candidate that the train part does not have (the model knows if it was
    made `for_dataset`), or that was added, is nobody's negative until it has
    been somebody's positive: it would only be pushed away from everyone. Where
    the candidate tower knows ids alone, its vector is noise until then, and it
    is not recommended, unless `add_candidates` was given a vector for it.

    Args:
        num_users: int. Rows of the user table: for ids 1 to n, n + 1.
        num_candidates: int. Rows of the candidate table, likewise.
        embedding_dimension: int. Length of the vectors, `dim` below.
        objective: What is learned: `"rating"`, `"full_softmax"`,
            `"in_batch_softmax"`, an `Objective`, or a `keras.losses.Loss` of
            rating and dot product. `"auto"` takes the full softmax up to
            100,000 candidates and the in-batch softmax beyond.
        k: int. How many candidates `predict` returns.
        candidate_key: str. Where `y` has the candidate ids.
        rating_key: str. Where `y` has the ratings. They may be absent unless
            the objective needs them.
        user_tower: Optional layer from user ids (or any `x`) to vectors
            `(batch, dim)`. One vector a user by default.
        candidate_tower: Optional layer from candidate ids, of any shape, to
            vectors `(..., dim)`. One vector a candidate by default.
        embedding_updates: `"dense"` updates whole tables at every step, as
            Keras does. `"row_sparse"`, on JAX, updates the looked-up rows
            alone, so that a step costs what the batch costs; see
            `row_rules.py` for what that means for each optimizer. `"auto"`
            does so where tables are large and the result is the same.
        initial_stddev: Optional float. Starts the default towers from a
            normal distribution of this width; by default they start as
            `keras.layers.Embedding` does.
        histories: Optional `Histories`: what every user has had, which
            `recommend` leaves out.
        popularity_offset: float. What is added to a candidate's score for
            being popular; see the property. Training does not know of it.

    Attributes:
        trained_on: Optional dict, which is saved with the model: the
            `fingerprint` of the data set that it was made for, that is which
            interactions, and how they were split. `evaluate` refuses a part
            that was trained on.

    Example:

    ```python
    model = TwoTowerRetrieval(944, 1683, embedding_dimension=32)
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    model.fit(user_ids, {"movie_id": movie_ids}, epochs=5)
    ids, scores = model.recommend([1, 2, 3], k=10)
    ```
    """

    def __init__(
        self,
        num_users,
        num_candidates,
        embedding_dimension=32,
        *,
        objective="auto",
        k=10,
        candidate_key="movie_id",
        rating_key="rating",
        user_tower=None,
        candidate_tower=None,
        embedding_updates="auto",
        initial_stddev=None,
        histories=None,
        popularity_offset=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.popularity_offset = popularity_offset
        self.num_users = _checks.table_size("num_users", num_users)
        self.num_candidates = _checks.table_size(
            "num_candidates", num_candidates
        )
        self.embedding_dimension = _checks.table_size(
            "embedding_dimension", embedding_dimension
        )
        self.k = _checks.table_size("k", k)
        self.candidate_key = _checks.text("candidate_key", candidate_key)
        self.rating_key = _checks.text("rating_key", rating_key)
        if isinstance(objective, str) and objective == "auto":
            objective = losses.default_name(self.num_candidates)
        self.objective = losses.get(objective)
        if initial_stddev is not None:
            initial_stddev = _checks.number_between(
                "initial_stddev", initial_stddev, 0, open_low=True
            )
        self.initial_stddev = initial_stddev
        if user_tower is None:
            user_tower = self._table("user", self.num_users)
        if candidate_tower is None:
            candidate_tower = self._table("candidate", self.num_candidates)
        layer = keras.layers.Layer
        self.user_tower = _checks.instance("user_tower", user_tower, layer)
        self.candidate_tower = _checks.instance(
            "candidate_tower", candidate_tower, layer
        )
        self.embedding_updates = _checks.one_of(
            "embedding_updates", embedding_updates, step_plan.EMBEDDING_UPDATES
        )
        if histories is not None:
            histories = _checks.instance("histories", histories, Histories)
        self.histories = histories
        if isinstance(self.user_tower, HistoryTower) and histories is None:
            raise ValueError(
                f"A {type(self.user_tower).__name__} needs `histories`. "
                "Received: histories=None. Make the model with "
                "`TwoTowerRetrieval.for_dataset`, or pass `Histories`."
            )
        building.check_parts(self)
        # What the model was first called with. Inside a namespace, because
        # Keras would look for weights in a dict.
        self._called_with = types.SimpleNamespace(spec=None)
        self.candidate_titles = {}
        self.trained_on = None
        self._learns_several_at_once = False
        self._is_exported = False
        self.candidate_counts = self.add_weight(
            shape=(self.num_candidates,),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            name="candidate_counts",
        )
        self.absent_candidates = self.add_weight(
            shape=(self.num_candidates,),
            dtype="int8",
            initializer=_row_zero_is_absent,
            trainable=False,
            name="absent_candidates",
        )

    def _table(self, side: str, num_rows: int) -> keras.layers.Layer:
        initializer = "uniform"
        if self.initial_stddev is not None:
            initializer = keras.initializers.RandomNormal(
                stddev=self.initial_stddev
            )
        return RowEmbedding(
            num_rows,
            self.embedding_dimension,
            embeddings_initializer=initializer,
            name=f"{side}_embedding",
        )

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "num_candidates": self.num_candidates,
            "embedding_dimension": self.embedding_dimension,
            "objective": serialize(self.objective),
            "k": self.k,
            "candidate_key": self.candidate_key,
            "rating_key": self.rating_key,
            "user_tower": serialize(self.user_tower),
            "candidate_tower": serialize(self.candidate_tower),
            "embedding_updates": self.embedding_updates,
            "initial_stddev": self.initial_stddev,
            "histories": self.histories and serialize(self.histories),
            "popularity_offset": self.popularity_offset,
        }

    @classmethod
    def from_config(cls, config):
        config = without_format(config)
        names = ("objective", "user_tower", "candidate_tower", "histories")
        with warnings.catch_warnings():
            # That a tower without a `build` is not built by it: the model
            # builds its towers.
            warnings.filterwarnings(
                "ignore", r"`build\(\)` was called on layer"
            )
            layers = {
                name: keras.saving.deserialize_keras_object(config[name])
                for name in names
                if config[name] is not None
            }
        return cls(**{**config, **layers})

    @classmethod
    def for_dataset(cls, data, embedding_dimension=32, **kwargs):
        """Returns a model of the size of a data set, which knows its ids.

        Args:
            data: `RetrievalDataset`, or one of its children.
            embedding_dimension: int.
            **kwargs: As in the class.

        The model takes and gives the data set's own ids in `recommend`, and
        leaves out what a user had in the train part. Batches for `fit` hold
        table rows, as `data.train` does.

        Raises:
            ValueError: If `data` is something else.
        """
        if not hasattr(data, "user_vocabulary"):
            raise ValueError(
                "`data` must be a `RetrievalDataset`, such as "
                "`RetrievalDataset.from_interactions(user_ids, "
                "candidate_ids)`. Received: "
                f"a {type(data).__name__}, {data!r:.80}."
            )
        known = {
            "candidate_key": data.candidate_key,
            "rating_key": data.rating_key,
            "histories": Histories.from_interactions(data.seen),
        }
        model = cls(
            data.num_users,
            data.num_candidates,
            embedding_dimension,
            **{**known, **kwargs},
        )
        model.user_vocabulary = data.user_vocabulary
        model.candidate_vocabulary = data.candidate_vocabulary
        model.candidate_titles = dict(data.movie_titles)
        model.trained_on = known_data.fingerprint_of(data)
        is_absent = np.asarray(data.candidate_counts("train")) == 0
        model.absent_candidates.assign(
            np.where(is_absent, ABSENT, PRESENT).astype("int8")
        )
        return model

    # Towers

    def __call__(self, inputs, *args, **kwargs):
        """As in `keras.Model`."""
        self._note_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def _note_inputs(self, inputs):
        if self._called_with.spec is None:
            self._called_with.spec = building.spec_of(inputs)

    def _takes_rows(self) -> bool:
        """Whether the model was made for user rows, as far as is known."""
        spec = self._called_with.spec
        return spec is None or spec == building.spec_of_shape((None,))

    def build(self, input_shape=None):
        """Makes the variables of both towers.

        The towers are called on symbolic inputs like those of the first
        batch; before there was one, on int32 inputs.

        Args:
            input_shape: Shape, or nested shapes, of the inputs. By default
                that of user rows, `(batch,)`.

        Raises:
            ValueError: If a tower cannot be called on such inputs, or the
                towers' vectors do not fit together.
        """
        if self.built:
            return
        spec = self._called_with.spec
        try:
            self._build_towers(
                spec
                or building.spec_of_shape(
                    (None,) if input_shape is None else input_shape
                )
            )
        except Exception as error:
            if spec is not None:
                raise
            raise ValueError(
                "The towers could not be built from "
                f"{'user rows' if input_shape is None else input_shape}, as "
                "the model was not called on a batch yet. Call it on one, "
                f"`model(x)`, or train it, first. The reason: {error}"
            ) from error
        super().build(input_shape)

    def _build_towers(self, spec):
        inputs = building.map_spec(keras.KerasTensor, spec)
        rows = keras.KerasTensor((None,), "int32")
        building.check_vectors(
            self,
            self._user_vectors(inputs, training=False),
            self._candidate_vectors(rows, training=False),
        )

    def get_build_config(self):
        if not self.built:
            return None
        return {
            "inputs": self._called_with.spec,
            "weights": building.shapes_of(self),
        }

    def build_from_config(self, config):
        # Files of before format 3 do not say what the model was called with.
        self._called_with.spec = config.get("inputs")
        self.build()
        if "weights" in config:
            building.check_weights(self, config["weights"])

    @reads
    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """Exports the model for inference, as `keras.Model.export` does.

        Args:
            filepath: Path of the artifact.
            format: str. As in Keras.
            verbose: Optional bool. As in Keras.
            input_signature: As in Keras. By default batches of any size of
                what the model was first called with, int32 user rows if it
                never was.
            **kwargs: As in Keras.
        """
        self.build()
        if input_signature is None:
            input_signature = [
                building.map_spec(
                    lambda shape, dtype: keras.InputSpec(dtype, shape),
                    self._called_with.spec or building.spec_of_shape((None,)),
                )
            ]
        self._is_exported = True
        try:
            return super().export(
                filepath,
                format=format,
                verbose=verbose,
                input_signature=input_signature,
                **kwargs,
            )
        finally:
            self._is_exported = False

    def call(self, inputs, training=False):
        """Returns what retrieval yields for a batch of users.

        Args:
            inputs: int user ids `(batch,)`, or what the user tower takes. A
                `HistoryTower` also takes `{"user_id": (batch,), "length":
                (batch,)}`, the users when they had had so many candidates,
                and histories, `(batch, length)` candidate rows.
            training: bool.

        Returns:
            dict: `"user_embeddings"`, `(batch, dim)`, and outside training
            `"predictions"`, `(batch, k)`, the table rows of candidates, best
            first, -1 where there are no more. `recommend` gives ids.
        """
        vectors = self._user_vectors(inputs, training=training)
        outputs = {"user_embeddings": vectors}
        if not training:
            outputs["predictions"] = self._best_rows(vectors)
        return outputs

    def _best_rows(self, vectors):
        # What the candidate tower adds to the loss is counted where the loss
        # is computed; this pass is not part of it.
        with added_losses(self.candidate_tower):
            arrays = self._with_one(vectors), self.candidate_vectors()
        allowed = self._is_retrievable()
        if self._is_exported and keras.backend.backend() == "jax":
            return top_k_by_sorting(*arrays, self.k, allowed=allowed)
        return top_k(*arrays, self.k, allowed=allowed)[1]

    def user_vectors(self, user_rows):
        """Vectors `(batch, dim)` of users, a tensor.

        With a `popularity_offset`, `(batch, dim + 1)`.

        Args:
            user_rows: Table rows `(batch,)`, or anything else that the model
                may be called with.
        """
        self._note_inputs(user_rows)
        self._in_use.refuse_others("user_vectors")
        return self._with_one(self._user_vectors(user_rows, training=False))

    def candidate_vectors(self, candidate_rows=None):
        """Vectors `(num_candidates, dim)` of the whole table, a tensor.

        With a `popularity_offset`, `(num_candidates, dim + 1)`.

        Args:
            candidate_rows: Optional table rows `(batch,)`: the vectors of
                these alone, `(batch, dim)`.
        """
        self._in_use.refuse_others("candidate_vectors")
        rows = candidate_rows
        if rows is None:
            rows = ops.arange(self.num_candidates, dtype="int32")
        vectors = self._candidate_vectors(rows, training=False)
        return self._with_offsets(vectors, candidate_rows)

    def _user_vectors(self, inputs, training):
        if isinstance(self.user_tower, HistoryTower):
            inputs = self._with_histories(inputs)
        return self._scale(_run(self.user_tower, inputs, training))

    def _with_histories(self, inputs):
        """Returns `(user_rows, histories)`, what a `HistoryTower` takes."""
        rows, lengths = inputs, None
        if isinstance(inputs, dict):
            rows, lengths = inputs["user_id"], inputs["length"]
        if len(rows.shape) == 1:
            return rows, self.histories(
                rows, lengths=lengths, max_length=self.user_tower.max_length
            )
        # Histories of users who need not be in the table.
        return ops.zeros_like(inputs[:, 0]), inputs

    def _known_positives(self, x) -> dict:
        """What the users are known to like beside this row's candidate.

        Returns:
            dict of the attributes of `ScoredBatch` that hold it; maybe none.
        """
        if self.histories is None or not self.objective.mask_known_positives:
            return {}
        if isinstance(x, dict) and "length" in x:
            args = x["user_id"], x["length"]
        elif not keras.tree.is_nested(x) and len(x.shape) == 1:
            args = x, None
        else:
            return {}
        return {
            "known_positives": self.histories(*args),
            "known_lists": self.histories.lists(*args),
        }

    def _candidate_vectors(self, rows, training):
        return self._scale(_run(self.candidate_tower, rows, training))

    def _scale(self, vectors):
        return _normalize(vectors) if self.objective.normalize else vectors

    def _competes(self, counts):
        """bool `(num_candidates,)`: who is in training, by those counts."""
        return ops.logical_or(self.absent_candidates == PRESENT, counts > 0)

    def _is_retrievable(self):
        """bool `(num_candidates,)`: whose vector is more than noise.

        Ids that start at 1 leave row 0 untrained under every tower.
        """
        trained = self._competes(self.candidate_counts)
        if _knows_ids_alone(self.candidate_tower):
            told = self.absent_candidates == ABSENT_WITH_VECTOR
        else:
            told = ops.arange(self.num_candidates) > 0
        return ops.logical_or(trained, told)

    @reads
    def retrievable_mask(self) -> np.ndarray:
        """Which candidates can be recommended, bool `(num_candidates,)`."""
        return ops.convert_to_numpy(self._is_retrievable())

    # Training

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """As in `keras.Model`, without losses and metrics.

        The loss is the model's `objective`. `keras_dp_retrieval.evaluate` and
        the callback `RetrievalMetrics` measure what is retrieved.

        Raises:
            ValueError: If a loss or metrics are given.
        """
        if loss is not None or loss_weights is not None:
            received = "loss" if loss is not None else "loss_weights"
            raise ValueError(
                "What a `TwoTowerRetrieval` learns is its `objective`. "
                f"Received: {received}={loss or loss_weights!r} in `compile`. "
                "Make the model with `objective=`: a name such as "
                "'full_softmax', an `Objective`, or a `keras.losses.Loss` of "
                "rating and score."
            )
        if metrics or weighted_metrics:
            received = "metrics" if metrics else "weighted_metrics"
            raise ValueError(
                "A `TwoTowerRetrieval` predicts lists of candidates, which "
                "Keras' metrics cannot compare with its targets. Received: "
                f"{received}={metrics or weighted_metrics!r} in `compile`. "
                "Give `fit` the callback `RetrievalMetrics(data)`, or call "
                "`keras_dp_retrieval.evaluate(model, data)`."
            )
        super().compile(
            optimizer=optimizer,
            run_eagerly=run_eagerly,
            steps_per_execution=_checks.positive_int(
                "steps_per_execution", steps_per_execution
            ),
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )

    def compile_from_config(self, config):
        """As in `keras.Model`; Keras calls it when it loads a model."""
        if type(self).compile is not TwoTowerRetrieval.compile:
            super().compile_from_config(config)  # Says what is missing.
            return
        # Earlier versions took them, and had no use for them either.
        unused = [name for name in NOT_COMPILED if config.get(name)]
        if unused:
            warnings.warn(
                f"The model was compiled with {', '.join(unused)}, which it "
                "never used: it learns by its `objective`. Loaded without.",
                stacklevel=2,
            )
        kept = {k: v for k, v in config.items() if k not in NOT_COMPILED}
        self.compile(**keras.saving.deserialize_keras_object(kept))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean loss of the rows with a weight, plus the layers' own losses.

        The layers' own losses are the regularizers of weights and what the
        user tower, the candidate tower and the objective add by `add_loss` and
        activity regularizers, each time that they are called. Layers do not
        know of weights: to what they add, filler rows are rows.
        """
        # Of the forward pass, and the regularizers of all weights. What
        # follows may clear the list.
        own_losses = list(self.losses)

        def candidate_vectors(rows):
            with added_losses(self.candidate_tower) as added:
                vectors = self._candidate_vectors(rows, training)
            own_losses.extend(added)
            return vectors

        rows = ops.cast(y[self.candidate_key], "int32")
        self._learns_several_at_once = len(rows.shape) > 1
        if sample_weight is None:
            sample_weight = ops.ones(ops.shape(rows)[:1])
        weights = ops.cast(sample_weight, "float32")
        counts = self._counts_with(rows, weights)
        batch = losses.ScoredBatch(
            user_vectors=y_pred["user_embeddings"],
            candidate_rows=rows,
            ratings=y.get(self.rating_key),
            weights=weights,
            lookup=candidate_vectors,
            all_candidate_vectors=lambda: candidate_vectors(
                ops.arange(self.num_candidates, dtype="int32")
            ),
            candidate_counts=ops.cast(self.candidate_counts, "float32"),
            competes=self._competes(counts),
            # Rows with several positives bring them along.
            **(self._known_positives(x) if len(rows.shape) == 1 else {}),
        )
        with added_losses(self.objective) as added:
            per_example = self.objective(batch) * weights
        own_losses.extend(added)
        num_real = ops.sum(ops.cast(weights != 0, "float32"))
        loss = ops.sum(per_example) / ops.maximum(num_real, 1.0)
        if training:
            self.candidate_counts.assign(counts)
        for own in own_losses:
            loss = loss + ops.sum(ops.cast(own, loss.dtype))
        return loss

    def training_callbacks(self, batches):
        """Adds the alarm that goes off when the loss is that of guessing."""

        def num_competitors():
            if self._learns_several_at_once:
                return None  # Their losses are added up.
            competes = self._competes(self.candidate_counts)
            return self.objective.num_competitors(
                max(batches.real_rows, default=1),
                int(ops.convert_to_numpy(competes).sum()),
            )

        return [ChanceAlarm(num_competitors)]

    def _counts_with(self, rows, weights):
        """The counts of candidates with the positives of a batch."""
        weights = ops.reshape(weights, (-1,) + (1,) * (len(rows.shape) - 1))
        weights = ops.broadcast_to(weights, ops.shape(rows))
        if keras.backend.backend() == "jax":
            from keras_dp_retrieval._jax import steps

            return steps.add_counts(self.candidate_counts.value, rows, weights)
        real = ops.logical_and(weights != 0, rows >= 0)
        return self.candidate_counts + ops.segment_sum(
            ops.reshape(ops.cast(real, "int32"), (-1,)),
            ops.reshape(ops.maximum(rows, 0), (-1,)),
            num_segments=self.num_candidates,
        )

    def load_own_variables(self, store):
        """As in `keras.Model`; files of before format 4 have fewer."""
        if set(store.keys()) == {"0"}:
            self.candidate_counts.assign(store["0"])
        else:
            super().load_own_variables(store)

    def row_tables(self) -> list:
        """The tables that a step reads by looking up rows: `step_plan.py`."""
        towers = [self.user_tower]
        if not self.objective.uses_all_candidates:
            towers.append(self.candidate_tower)
        return [
            embedding_table(layer)
            for tower in towers
            for layer in sublayers(tower)
            if isinstance(layer, RowEmbedding) and layer.trainable
        ]

    def check_batch(self, x, y):
        """Raises if an id has no row: JAX would answer NaN or a wrong row."""
        self._check_users(x)
        if y is None:
            return
        if not isinstance(y, dict) or self.candidate_key not in y:
            raise ValueError(
                f"The targets must be a dict with the key "
                f"{self.candidate_key!r} (`candidate_key`). Received: "
                f"{sorted(y) if isinstance(y, dict) else type(y).__name__}."
            )
        ids = y[self.candidate_key]
        check_rows(
            "candidate", ids, self.num_candidates, padded=np.ndim(ids) > 1
        )
        ratings = y.get(self.rating_key)
        if ratings is None and self.objective.needs_ratings:
            raise ValueError(
                f"The objective {self.objective.name!r} needs ratings: give "
                f"the targets the key {self.rating_key!r} (`rating_key`), or "
                "use a softmax objective. Received the keys: "
                f"{sorted(y)}."
            )
        if ratings is not None:
            bad = ~(np.abs(ratings) <= LARGEST_RATING)
            if bad.any():
                raise ValueError(
                    "Ratings must be finite numbers of at most "
                    f"{LARGEST_RATING:g} in size. Received: {np.sum(bad)} of "
                    f"{np.size(ratings)} that are not, such as "
                    f"{np.asarray(ratings)[bad].flat[0]}. Scale them, to "
                    "[0, 1] for example."
                )

    def check_evaluation(self, data, split, *, allow_trained=False):
        """Raises a ValueError if the data's ids do not fit, or were trained on.

        Args:
            data: As in `keras_dp_retrieval.evaluate`, which calls this.
            split: str.
            allow_trained: bool. Whether interactions of the part may have
                been trained on. A model that was not made `for_dataset` does
                not know.
        """
        known_data.check_evaluation(self, data, split, allow_trained)

    def _check_users(self, x):
        if isinstance(x, dict) and "user_id" in x:
            x = x["user_id"]
        is_history = isinstance(self.user_tower, HistoryTower)
        if is_history and np.ndim(x) == 2:
            check_rows("candidate", x, self.num_candidates, padded=True)
        elif is_history or isinstance(self.user_tower, RowEmbedding):
            check_rows("user", x, self.num_users)


def _row_zero_is_absent(shape, dtype=None):
    """All candidates may be in training; row 0 stands for unknown ones."""
    return ops.cast(ops.arange(shape[0]) == 0, dtype)  # PRESENT and ABSENT.


def _knows_ids_alone(tower) -> bool:
    """Whether a candidate tower can say nothing of an untrained id."""
    while isinstance(tower, keras.Sequential) and tower.layers:
        tower = tower.layers[0]
    return isinstance(tower, keras.layers.Embedding)


def _run(tower, inputs, training):
    if takes_training(tower):
        return tower(inputs, training=training)
    return tower(inputs)


def _normalize(vectors):
    """Vectors of length 1. `ops.normalize` has a NaN gradient at zero."""
    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squares, 1e-12))
