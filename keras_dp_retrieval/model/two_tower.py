"""TwoTowerRetrieval: which candidates does this user want to see?"""

import types

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.model import (
    batch_checks,
    building,
    candidate_states,
    compiling,
    encoding,
    feature_parts,
    growth,
    id_rows,
    known_data,
    loading,
    new_interactions,
    prefixes,
    recommending,
    saving,
    training_loss,
)
from keras_dp_retrieval.model.compiled_encoding import CompiledEncoding
from keras_dp_retrieval.model.input_specs import CalledWith
from keras_dp_retrieval.model.whole_files import on_process_zero
from keras_dp_retrieval.training import step_plan
from keras_dp_retrieval.training.in_use import loops, reads
from keras_dp_retrieval.training.padded_model import PaddedModel


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class TwoTowerRetrieval(PaddedModel):
    """Retrieves candidates by the dot product of two towers' vectors.

    One tower turns users into vectors, the other candidates; a candidate's
    score for a user is the dot product of their vectors and nothing else. The
    model trains on batches of `x` = int user ids `(batch,)` and `y` =
    `{"movie_id": (batch,), "rating": (batch,)}`, on one device or many, for
    any number of rows: what Keras would refuse, because it does not divide by
    the devices, is padded with rows of weight 0, which count nowhere.

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
            `"in_batch_softmax"`, `"bucketed_softmax"`, an `Objective`, or a
            `keras.losses.Loss` of rating and dot product. `"auto"` takes the
            full softmax up to 100,000 candidates and the in-batch softmax
            beyond.
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
        histories: Optional `Histories`: every user's interaction history,
            the seen items that `recommend` leaves out. Without them, a tower
            that reads histories takes those that come with the batches; see
            `call`.
        user_features: Optional `FeatureLookup`: the features of all users.
            The user tower is then given a dict, see `FeatureTower`, which is
            also the default tower.
        candidate_features: Likewise, of all candidates.
        popularity_weight: float. What is added to a candidate's score for
            being popular; see the property. Training does not know of it.

    Attributes:
        trained_on: Optional dict, which is saved with the model: the
            `fingerprint` of the data set that it was made for, that is which
            interactions, and how they were split. `evaluate` refuses a part
            that was trained on. After `add_interactions` it is that of the
            new data, and `"earlier"` lists those before, oldest first.

    Example:

    ```python
    model = kdr.TwoTowerRetrieval(944, 1683, embedding_dimension=32)
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    model.fit(user_ids, {"movie_id": movie_ids}, epochs=5)
    ids, scores = model.recommend([1, 2, 3], k=10)
    ```
    """

    noted = ("multi_positive",)

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
        user_features=None,
        candidate_features=None,
        popularity_weight=0.0,
        **kwargs,
    ):
        if "popularity_offset" in kwargs:
            popularity_weight = _checks.former_argument(
                kwargs, "popularity_offset", popularity_weight=popularity_weight
            )
        super().__init__(**kwargs)
        # Inside a namespace, because Keras forbids a built model to be given
        # a layer, and an index is built when the model has been.
        self._indexed = types.SimpleNamespace(index=None)
        self._encoding = CompiledEncoding(self)
        self._popularity_weight = 0.0
        self.popularity_weight = popularity_weight
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
        self.objective = building.objective(objective, self.num_candidates)
        self.initial_stddev = building.initial_stddev(initial_stddev)
        self.user_features = feature_parts.lookup("user", user_features)
        self.candidate_features = feature_parts.lookup(
            "candidate", candidate_features
        )
        self.user_tower = building.tower(self, "user", user_tower)
        self.candidate_tower = building.tower(
            self, "candidate", candidate_tower
        )
        self.embedding_updates = _checks.one_of(
            "embedding_updates", embedding_updates, step_plan.EMBEDDING_UPDATES
        )
        self.histories = building.histories(histories)
        building.check_parts(self)
        self.called_with = CalledWith()
        self.user_vocabulary = self.candidate_vocabulary = None
        self.candidate_titles = {}
        self.trained_on = None
        self.multi_positive = False
        self._is_exported = False
        self.candidate_counts = candidate_states.add_counts(self)
        self.absent_candidates = candidate_states.add_states(self)
        # In a namespace, because Keras would take it for a weight.
        self._derived = types.SimpleNamespace(
            variables=candidate_states.counts_sum(self)
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
            "user_features": self.user_features
            and serialize(self.user_features),
            "candidate_features": self.candidate_features
            and serialize(self.candidate_features),
            "popularity_weight": self.popularity_weight,
            "format_version": saving.FORMAT_VERSION,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**loading.arguments_of(config))

    @classmethod
    def for_dataset(cls, data, embedding_dimension=32, **kwargs):
        """Returns a model of the size of a data set, which knows its ids.

        Args:
            data: `RetrievalDataset`, or of a subclass. A model of a
                streamed one does not know what users have seen: `recommend`
                takes it as `exclude`, and as `histories` if the tower reads
                them.
            embedding_dimension: int.
            **kwargs: As in the class.

        The model takes and gives the data set's own ids in `recommend`, and
        leaves out the items that a user has in the train part. Its
        `candidate_key` and `rating_key` are those of the data. Batches for
        `fit` hold table rows, as `data.train` does.

        If the data have features, towers get them (see `FeatureTower`), unless
        one is given that knows ids and histories alone.

        Raises:
            ValueError: If `data` is something else.
        """
        known = known_data.arguments_of(data, kwargs)
        model = cls(
            data.num_users,
            data.num_candidates,
            embedding_dimension,
            **{**known, **kwargs},
        )
        known_data.make_known(model, data)
        return model

    # Towers

    def __call__(self, inputs, *args, **kwargs):
        """As in `keras.Model`."""
        # Users at several times are for training.
        self.called_with.note(prefixes.with_one_length(inputs))
        return super().__call__(inputs, *args, **kwargs)

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
        building.build_towers(self, input_shape)
        super().build(input_shape)

    def get_build_config(self):
        return building.build_config(self)

    def build_from_config(self, config):
        building.build_from_config(self, config)

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
            input_signature = self.called_with.input_signature(
                building.usual_spec(self)
            )
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
                (batch,)}`, users with no more than the first `length` entries
                of their histories, `{"user_id": (batch,), "history": (batch,
                length)}`, users with histories that come along, and histories
                alone, `(batch, length)` candidate rows. They are oldest first,
                padded at the end with -1. With lengths `(batch, lengths)`,
                the vectors of users at several times are `(batch, lengths,
                dim)`, and there are no predictions.
            training: bool.

        Returns:
            dict: `"user_embeddings"`, `(batch, dim)`, and outside training
            `"predictions"`, `(batch, k)`, the table rows of candidates, best
            first, -1 where there are no more. `recommend` gives ids.
        """
        vectors = encoding.user_vectors(self, inputs, training)
        outputs = {"user_embeddings": vectors}
        if not training and len(vectors.shape) == 2:
            outputs["predictions"] = recommending.best_rows(
                self, vectors, exported=self._is_exported
            )
        return outputs

    @property
    def needs_histories(self) -> bool:
        """Whether users come with their histories, as the model stores none.

        `evaluate` then gives them to `user_vectors`.
        """
        return encoding.needs_histories(self)

    def user_vectors(self, user_rows):
        """Returns the vectors of users, a tensor `(batch, dim)`.

        With a `popularity_weight` they have `dim + 1` columns: the last is 1,
        and multiplies the popularity bias in `candidate_vectors`.

        Args:
            user_rows: int `(batch,)`. Table rows, or any other inputs that the
                model is called with.
        """
        self.called_with.note(prefixes.with_one_length(user_rows))
        self._in_use.refuse_others("user_vectors")
        return self._encoding.user_vectors(user_rows)

    def candidate_vectors(self, candidate_rows=None):
        """Vectors `(num_candidates, dim)` of the whole table, a tensor.

        With a `popularity_weight`, `(num_candidates, dim + 1)`.

        Args:
            candidate_rows: Optional table rows `(batch,)`: the vectors of
                these alone, `(batch, dim)`.
        """
        self._in_use.refuse_others("candidate_vectors")
        return self._encoding.candidate_vectors(candidate_rows)

    @reads
    def retrievable_mask(self) -> np.ndarray:
        """Which candidates can be recommended, bool `(num_candidates,)`."""
        return ops.convert_to_numpy(candidate_states.retrievable(self))

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
        compiling.refuse_losses_and_metrics(
            loss, loss_weights, metrics, weighted_metrics
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
        self.compile(**compiling.arguments_of(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Mean loss of the rows with a weight, plus the layers' own losses.

        The layers' own losses are the regularizers of weights and what the
        user tower, the candidate tower and the objective add by `add_loss` and
        activity regularizers, each time that they are called. Layers do not
        know of weights: in what they add, padding rows count.
        """
        return training_loss.compute_loss(
            self, x, y, y_pred["user_embeddings"], sample_weight, training
        )

    def training_callbacks(self, batches):
        """Adds the alarm for a loss that stays at the chance level."""
        return [training_loss.chance_alarm(self, batches)]

    def row_tables(self) -> list:
        """The tables that a step reads by looking up rows: `step_plan.py`."""
        return encoding.row_tables(self)

    def check_batch(self, x, y):
        """Raises if an id has no row: JAX would answer NaN or a wrong row.

        Args:
            x: NumPy arrays, the inputs of a batch.
            y: dict of NumPy arrays, the targets, or None.

        Raises:
            ValueError: Also if the targets have no `candidate_key`, lack
                ratings that the objective needs, or have some that are no
                finite numbers.
        """
        batch_checks.check_batch(self, x, y)

    def check_evaluation(self, data, split, *, allow_trained=False):
        """Raises a ValueError if the data do not fit, or were trained on.

        They do not fit if their `candidate_key` or their ids are others.

        Args:
            data: As in `keras_dp_retrieval.evaluate`, which calls this.
            split: str.
            allow_trained: bool. Whether interactions of the part may have
                been trained on. A model that was not made `for_dataset` does
                not know.
        """
        known_data.check_evaluation(self, data, split, allow_trained)

    # Recommending

    @property
    def popularity_weight(self) -> float:
        """What popularity adds to a score; may be set at any time.

        With `counts`, how often candidates were positives in training, a
        candidate's score is its dot product with the user plus

            popularity_weight * log(1 + count / mean of all counts)

        which makes one more coordinate of the vectors: it is 1 for users, and
        the score is still a dot product. 0 leaves the vectors as they are;
        more than 0 favours popular candidates, less rare ones.
        """
        return self._popularity_weight

    @popularity_weight.setter
    def popularity_weight(self, value):
        value = _checks.number_between("popularity_weight", value)
        if value != self._popularity_weight:
            self._drop_index()
            self.predict_function = None  # It was compiled for the old one.
        self._popularity_weight = value

    @property
    def popularity_offset(self) -> float:
        """The former name of `popularity_weight`, until version 0.3."""
        _checks.warn_of_former_name("popularity_offset", "popularity_weight")
        return self.popularity_weight

    @popularity_offset.setter
    def popularity_offset(self, value):
        _checks.warn_of_former_name("popularity_offset", "popularity_weight")
        self.popularity_weight = value

    @reads
    def encode_users(
        self, user_ids=None, *, histories=None, user_features=None
    ) -> np.ndarray:
        """Returns the vectors of users, float32 `(batch, dim)`.

        With a `popularity_weight`, `(batch, dim + 1)`. They are computed
        1,024 at a time, or fewer if their histories are long, which is what
        bounds the memory.

        Args:
            user_ids: Ids of known users `(batch,)`, or
            histories: for each user a list of candidate ids, oldest first; or
                both, as in `recommend`.
            user_features: Optional table of features, as in `recommend`.
        """
        return recommending.encode_users(
            self, user_ids, histories, user_features
        )

    @reads
    def encode_candidates(self, candidate_ids=None) -> np.ndarray:
        """Returns the vectors of candidates, float32 `(batch, dim)`.

        With a `popularity_weight`, `(batch, dim + 1)`. No others are computed,
        and these 16,384 at a time, which is what bounds the memory.

        Args:
            candidate_ids: Ids `(batch,)`. By default all candidates, in the
                order of `retrievable_ids()`.

        The score of a user and a candidate is the dot product of their
        vectors, so any vector database can serve them.
        """
        return recommending.encode_candidates(self, candidate_ids)

    @reads
    def retrievable_ids(self) -> np.ndarray:
        """Returns the ids of all candidates that can be recommended.

        Left out are those whose vector is noise: candidates that training
        does not have, where the candidate tower knows ids alone.
        """
        return id_rows.candidate_ids(
            self, candidate_states.retrievable_rows(self)
        )

    @reads
    def recommend(
        self,
        user_ids=None,
        k=10,
        exclude_seen=True,
        *,
        histories=None,
        user_features=None,
        exclude=None,
        allowed_ids=None,
        filters=None,
        index=None,
        unknown="raise",
        return_info=False,
    ):
        """Returns the k candidates with the highest scores for each user.

        Args:
            user_ids: A list or array of the ids of known users, `(batch,)`.
            k: int. Candidates a user; may exceed the catalogue, up to 2**20.
            exclude_seen: bool. Leaves out the user's seen items, as far as
                the model knows them: made `for_dataset`, it knows those of
                the train part. Those of `histories` are seen, too.
            histories: Instead of `user_ids`, for each user a list of
                candidate ids, oldest first; nobody need have seen the users
                before. Needs a user tower that takes histories. A model that
                stores none, as of streamed data, also takes both.
            user_features: Optional table of features, a frame or a dict of
                columns, for a model that has some: one row for each user, in
                the order of `user_ids` or `histories`, whose stored features
                it replaces. Alone, it asks for users of whom nothing else is
                known.
            exclude: Optional, for each user a list of candidate ids that are
                left out as well, such as what was seen since the model was
                trained. Those that the model does not know are in no list
                anyway.
            allowed_ids: Optional list of candidate ids for all users: the k
                best of these are returned, and no others.
            filters: Optional dict from features of candidates to conditions
                that must hold, such as `{"genres": "Comedy", "year": [1990,
                1999]}`, for a model with `candidate_features`. Of a
                categorical or multi-label column a value, a list of which one
                is enough, or `{"any": [...], "all": [...], "none": [...]}`;
                of numbers and dates (as ISO text) a value, a pair of bounds,
                both included and None where there is none, or `{"min": ...,
                "max": ...}`. What is not known of a candidate fulfils only
                `"none"`. A list has k candidates where so many fulfil it.
            index: Optional `CandidateIndex` or `FaissIndex` to search instead
                of `candidate_index`. What it holds can be recommended.
            unknown: str. With `"raise"`, an id that the model does not know
                is an error. With `"popular"`, a user is answered by what is
                known: by the id; or else by the history, of which unknown
                items are skipped; or else by the features. `user_ids` and
                `histories` then go together. A user of whom nothing is known
                (no id, no item, no feature with a value that training had)
                gets the retrievable candidates with the highest
                `candidate_counts`, equal ones by the lower row, and
                `log1p(count)` as scores; what is to be left out is. Unknown
                `allowed_ids` and values of `filters` are skipped. Ids of
                another kind, such as text for numbers, stay errors.
            return_info: bool. Whether to return the `info` below.

        Returns:
            `(candidate_ids, scores)`, NumPy arrays `(batch, k)`, best first,
            equal scores by the lower id (candidates that were added to a
            trained model come after those that it began with). Where fewer
            than k candidates are left, as for a user who has seen nearly
            everything, the rest has id -1 (`""` among strings) and score
            minus infinity. No candidate has such an id.

            With `return_info=True`, `(candidate_ids, scores, info)`: `info`
            is a dict of NumPy arrays `(batch,)`. `"source"` says what each
            answer comes from, `"model"` (the id, also of a user who has a row
            and was never in training), `"history"`, `"features"` or
            `"popular"`; `"num_unknown"` how many ids, of the user and in
            the history, the model does not know.

        Raises:
            ValueError: If a user or candidate is not known, or vectors are
                NaN or infinite, as after a training that diverged.
        """
        return recommending.recommend(
            self,
            user_ids,
            k,
            exclude_seen,
            histories,
            exclude,
            user_features,
            allowed_ids,
            unknown,
            return_info,
            filters,
            index,
        )

    @property
    def candidate_index(self) -> CandidateIndex | None:
        """What `build_index` made last, until the candidates change."""
        return self._indexed.index

    @reads
    def build_index(self, **kwargs) -> CandidateIndex:
        """Computes all candidates' vectors, once, for `recommend` to search.

        The index is saved with the model. It is as old as the vectors in it,
        so it goes when the model is trained on, given other weights or more
        candidates; a tower that you change in another way needs a new one.

        Args:
            **kwargs: As in `CandidateIndex`: `candidate_dtype="bfloat16"` or
                `"int8"` takes less memory, `chunk_size` bounds the search's.

        Returns:
            The index, which is also `candidate_index` from now on.
        """
        index = recommending.build_index(self, **kwargs)
        self._indexed.index = index
        return index

    def _drop_index(self):
        self._indexed.index = None

    # What makes an index old

    @loops
    def fit(self, *args, **kwargs):
        """As `keras.Model.fit`, on any number of rows; see `PaddedModel`.

        Batches of a data set of other ids than the model's are refused.
        """
        for batches in (
            *args[:1],
            kwargs.get("x"),
            kwargs.get("validation_data"),
        ):
            known_data.check_batches(self, batches)
        self._drop_index()
        try:
            return super().fit(*args, **kwargs)
        finally:
            # A callback may have shuffled them; none is told of an error.
            if self.histories is not None:
                self.histories.restore_rows()

    @loops
    def train_on_batch(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        return super().train_on_batch(*args, **kwargs)

    @reads
    def set_weights(self, weights):
        """As in `keras.Model`."""
        self._drop_index()
        super().set_weights(weights)

    @reads
    def load_weights(self, *args, **kwargs):
        """As in `keras.Model`."""
        self._drop_index()
        super().load_weights(*args, **kwargs)

    # Growth

    @reads
    def add_users(self, ids, *, features=None, seed=0) -> None:
        """Makes new users known, whose histories are empty.

        Args:
            ids: New ids `(n,)`. For a model without a `user_vocabulary`,
                whose ids are rows: how many rows to add.
            features: Optional table of the users' features, a frame or a dict
                of columns: one row for each of `ids`, in this order, or in
                any order with a column of ids.
            seed: int. Seeds the new rows, which the table's initializer draws.

        Raises:
            ValueError: If an id is known already or comes twice, or the user
                tower has no `RowEmbedding` of `num_users` rows, or other
                weights of so many. The model stays as it was.
        """
        growth.add_users(self, ids, seed, features)

    @reads
    def add_candidates(
        self, ids, vectors=None, *, features=None, seed=0
    ) -> None:
        """Makes new candidates known.

        They can be recommended from now on if `vectors` say where they begin,
        or `features` what they are; else once they have been trained, as
        their vectors are noise until then. The number of times that they were
        seen in training begins at 0, and they are nobody's negatives before
        it is more.

        Args:
            ids: New ids `(n,)`. For a model without a
                `candidate_vocabulary`, whose ids are rows: how many rows to
                add.
            vectors: Optional float `(n, dim)`. Where the candidates begin,
                such as the mean of similar ones. By default the table's
                initializer draws them.
            features: Optional table of the candidates' features, a frame or a
                dict of columns: one row for each of `ids`, in this order, or
                in any order with a column of ids.
            seed: int. Seeds these draws.

        Raises:
            ValueError: If an id is known already, comes twice or is -1 or
                `""`, `vectors` do not fit, or the candidate tower has no
                `RowEmbedding` of `num_candidates` rows. The model stays as it
                was.
        """
        if growth.add_candidates(self, ids, vectors, seed, features):
            self._drop_index()

    @reads
    def add_interactions(
        self, data, *, keep_latest=None, learning_rate=None, seed=0
    ):
        """Prepares the model for training on new interactions.

        New users and candidates get rows at the end of the tables, in the
        order of the data set's own rows; known ones keep theirs. The
        interactions of the train part are appended to the histories, and so
        are seen items from now on. What has been learned stays as it is, the
        optimizer's slots and the candidates' counts included. `fit` then
        trains on what is returned:

        ```python
        today = kdr.RetrievalDataset.from_csv("monday.csv")
        data = model.add_interactions(today)
        model.fit(data.train, epochs=1)
        ```

        New interactions come after all earlier ones, whatever their times,
        as the model keeps the order of histories and not their times; where
        the two data sets tell that some are older, a warning says so. They
        must not have been added before. Candidates of the train part become
        negatives and can be recommended, as in a model made `for_dataset`.
        The titles of the data replace those of the same ids. New ids get the
        features that the data have of them, if the model has features; those
        of known ids stay as they are. Where several processes train together,
        all of them call this, with the same data.

        Args:
            data: `RetrievalDataset`, or one of its children. Its
                `candidate_key` must be that of the model, and so must its
                `rating_key` if it has ratings.
            keep_latest: Optional int. Drops what is old: of the earlier
                interactions of each user only so many, the latest, stay in
                the histories. Others are no seen items any more, can be
                recommended again, and `evaluate` does not know that they were
                trained on.
            learning_rate: Optional float. The optimizer's from now on; its
                slots stay. A schedule, such as that of `fit_recipe`, keeps
                counting steps, and may have come to its end: a warning says
                so where the rate is 0.
            seed: int. Seeds the new rows, which the tables' initializers draw.

        Returns:
            `data`, with the same parts, in the rows of the model: `.train` and
            the other batches are for `fit`, and all of it for `evaluate` and
            `RetrievalMetrics`. Its `seen` and `seen_before` begin with the
            earlier histories. `by_user` has the new positives of a user; the
            earlier ones are no negatives.

        Raises:
            ValueError: If the model has no vocabularies, so that its ids are
                rows, or does not fit the data, the tables cannot grow, or the
                interactions were added before. The model stays as it was.
        """
        today = new_interactions.add(
            self, data, keep_latest, learning_rate, seed
        )
        self._drop_index()
        return today

    # Saving

    @reads
    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves the whole model to one file, atomically.

        The file is written beside `filepath` under a hidden name that ends in
        `.tmp.keras`, and renamed when it is complete and on the disk. If the
        save fails or is killed, `filepath` is still the old file. A new file
        gets the permissions of the old one. A killed process may leave its
        hidden file; the next save to `filepath` removes it.

        If several processes train together, all must call this. Process 0
        writes; the others return when the file is there. Warns if weights are
        NaN or infinite: the file is written all the same.

        Args:
            filepath: Path that ends in `.keras`. Where Keras accepts others
                (`zipped=False`, `hf://`, remote paths), it writes them itself.
            overwrite: bool. If False, asks before a file is replaced.
            zipped: As in `keras.Model.save`.
            **kwargs: As in `keras.Model.save`.

        Raises:
            ValueError: If `filepath` ends in `.h5`, or a tower has no
                variables yet and cannot be built without a batch of its
                inputs.
            RuntimeError: In the other processes, if process 0 failed to save
                or did not within ten minutes.
        """
        saving.save(self, super().save, filepath, overwrite, zipped, **kwargs)

    @reads
    def save_weights(self, filepath, *args, **kwargs):
        """As in `keras.Model`; of several processes, number 0 writes."""
        with on_process_zero(filepath) as writes:
            if writes:
                super().save_weights(filepath, *args, **kwargs)

    @classmethod
    def load(cls, filepath, custom_objects=None, compile=True, safe_mode=True):
        """Returns the model in a `.keras` file, or says what is wrong with it.

        As `keras.saving.load_model`. In addition, the file is checked first,
        before anything in it is unpacked, and whatever is wrong with it is
        one error.

        Args:
            filepath: Path of a file that `save` wrote.
            custom_objects: Optional dict of your own classes by name; those
                registered with Keras are found without.
            compile: bool. Whether to restore the optimizer.
            safe_mode: bool. Whether Python code in the file, such as that of
                a `Lambda` layer, is refused. Only a file that you trust may
                run its code.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, incomplete, of a newer format,
                holds another kind of model, unpacks to far more than it is,
                or holds values that no training gives: NaN, rows out of
                range.
        """
        return loading.load(cls, filepath, custom_objects, compile, safe_mode)

    def save_assets(self, folder):
        """Writes what is neither config nor weight; Keras calls it."""
        saving.write_assets(self, folder)

    def load_assets(self, folder):
        """Reads what `save_assets` wrote; Keras calls it."""
        assets = loading.read_assets(self, folder)
        self.user_vocabulary = assets.user_vocabulary
        self.candidate_vocabulary = assets.candidate_vocabulary
        self.candidate_titles = assets.candidate_titles
        self.trained_on = assets.trained_on
        self._indexed.index = assets.candidate_index

    @property
    def variables(self):
        """As in `keras.Model`, and what a step carries beside the weights."""
        return [*super().variables, *self.derived_variables]

    @property
    def derived_variables(self) -> list:
        """The variables that follow from the weights and are not saved."""
        return self._derived.variables

    def load_own_variables(self, store):
        """As in `keras.Model`; files of before format 4 have fewer."""
        if set(store.keys()) == {"0"}:
            self.candidate_counts.assign(store["0"])
        else:
            super().load_own_variables(store)

    def __dir__(self):
        # Keras walks through it to find what has weights of its own, and the
        # index has an asset of its own.
        # A former name warns whoever reads it.
        unread = ("candidate_index", "popularity_offset")
        return [name for name in super().__dir__() if name not in unread]
