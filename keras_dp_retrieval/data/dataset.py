"""RetrievalDataset: the user's own interactions as train and test batches."""

import copy
import functools
import warnings
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import (
    arguments,
    batched,
    dataset_options,
    descriptions,
    part_batches,
    splits,
    synthetic,
)
from keras_dp_retrieval.data.divided import Divided, vocabulary_of
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.leakage import LeakageReport
from keras_dp_retrieval.data.parts import divide, hold_out
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.raw_data import RawData, RawRatings
from keras_dp_retrieval.data.readers import tables
from keras_dp_retrieval.data.vocabulary import Vocabulary


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RetrievalDataset:
    """Train, validation and test batches from your own interactions.

    Ids can be whole numbers or strings. The tables of a model have one row
    for each of them; row 0 is for ids that are not known. An id that occurs
    in the test part alone has a row too.

    `.train`, `.validation` and `.test` are `tf.data.Dataset`s of `(x, y)`:
    user rows `(batch,)` int32, and `{"candidate_id": candidate rows (batch,)
    int32, "rating": (batch,) float32}` with the ratings stretched to 0 to 1;
    without ratings, `"rating"` is absent. All batches have the same number of
    rows, a multiple of the number of devices when you ask for the part. Where
    the interactions do not fill a batch, the rest is padding: valid rows are
    repeated, and a third entry, `sample_weight`, is 0 for them and 1 for the
    others, or the weights of the interactions. A part without interactions is
    None.

    The train part is shuffled in every epoch, in an order that depends on
    the seed and the number of the epoch alone. Validation and test keep
    their order.

    Repeated interactions are kept. `leakage` says what the test part shares
    with the train part; a warning says so where it distorts the figures.

    The config holds all interactions as plain lists, so that it can be saved
    as JSON. That is meant for small data.

    Example:

        data = RetrievalDataset.from_interactions(
            user_ids=["ann", "ann", "bob"], candidate_ids=[7, 9, 7]
        )
        model.fit(data.train, validation_data=data.validation)

    Args:
        user_ids: `(n,)` whole numbers or strings: a list, an array or
            tensor, or a column of a data frame. None may be missing; strings
            have at most 256 characters.
        candidate_ids: `(n,)`, likewise.
        ratings: Optional `(n,)` floats inside `rating_range`, kept as float32.
        timestamps: Optional `(n,)` whole numbers, or dates from 1678 to 2261:
            of NumPy or pandas, `datetime`, or ISO strings. Those without a
            time zone count as UTC. Only their order is used.
        weights: Optional `(n,)` floats greater than 0: what each interaction
            weighs in the loss. Batches have them as `sample_weight`; metrics
            over the full catalogue, `by_user` and `next_items` count every
            interaction once.
        split: str. `"random"`, `"by_time"` or `"leave_last_out"`; see
            `keras_dp_retrieval.data.splits`.
        test: Optional `(user_ids, candidate_ids)`, and if you like `ratings`,
            `timestamps` and `weights` after them: the test part. `split` then
            only takes the validation part out of the interactions.
        validation: Likewise, the validation part. It must have ratings,
            timestamps and weights if the interactions do.
        test_fraction: float. Test share of all interactions.
        validation_fraction: float. Validation share of the rest; 0 for no
            validation part.
        batch_size: int. Interactions in a batch, over all devices.
        seed: int. Of the split and of the order of the epochs.
        candidate_titles: Optional dict, raw candidate id to title, or a
            Series of pandas with the ids as its index.
        candidate_key: str. Name of the candidates in `y`.
        rating_key: str. Name of the ratings in `y`.
        rating_range: `(lowest, highest)`, the ratings that become 0 and 1 in
            `y`.
        is_synthetic: bool. Whether the interactions are made up, so that
            whoever prints figures can say so.
        validation_in_train: bool. Whether the validation part is learned
            from, to refit a model whose settings have been chosen.
    """

    # Set by `_set_options`.
    split: str
    test_fraction: float
    validation_fraction: float
    batch_size: int
    seed: int
    candidate_key: str
    rating_key: str
    validation_in_train: bool
    _source_note = ""  # What was done to a file, for the description.

    def __init__(
        self,
        user_ids,
        candidate_ids,
        ratings=None,
        timestamps=None,
        *,
        weights=None,
        split: str = "random",
        test=None,
        validation=None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.1,
        batch_size: int = 1000,
        seed: int = 42,
        candidate_titles: Mapping | None = None,
        candidate_key: str = "candidate_id",
        rating_key: str = "rating",
        rating_range: tuple[float, float] = (1.0, 5.0),
        is_synthetic: bool = False,
        validation_in_train: bool = False,
    ):
        has_timestamps = timestamps is not None
        held_out = test is not None or validation is not None
        splits.check_split(split, has_timestamps, held_out)
        self._set_options(
            split=split,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            batch_size=batch_size,
            seed=seed,
            candidate_key=candidate_key,
            rating_key=rating_key,
            validation_in_train=validation_in_train,
        )
        self.rating_range = arguments.rating_range(rating_range)
        self.is_synthetic = bool(is_synthetic)
        self._raw_data = arguments.raw_data(
            RawRatings(user_ids, candidate_ids, ratings, timestamps, weights),
            validation=validation,
            test=test,
            titles=candidate_titles,
            rating_range=self.rating_range,
        )
        _ = self._divided  # Whatever is wrong with the split shows up here.

    def _set_options(self, **options):
        for name, value in dataset_options.checked_options(**options).items():
            setattr(self, name, value)

    def _options(self) -> dict:
        return {name: getattr(self, name) for name in dataset_options.OPTIONS}

    # What there is.

    def _read(self) -> RawData:
        return self._raw_data

    @functools.cached_property
    def _loaded(self) -> RawData:
        return self._read()

    @functools.cached_property
    def user_vocabulary(self) -> Vocabulary:
        """Which user has which row."""
        return vocabulary_of(self._loaded, "users")

    @functools.cached_property
    def candidate_vocabulary(self) -> Vocabulary:
        """Which candidate has which row."""
        return vocabulary_of(self._loaded, "candidates")

    @property
    def num_users(self) -> int:
        """Rows of a user table: the known users, and row 0 for unknown."""
        return self.user_vocabulary.num_rows

    @property
    def num_candidates(self) -> int:
        """Rows of a candidate table: the known ones, and row 0."""
        return self.candidate_vocabulary.num_rows

    @property
    def candidate_titles(self) -> dict:
        """Raw candidate id to title; empty if no titles were given."""
        return self._loaded.titles

    @property
    def movie_titles(self) -> dict:
        """The former name of `candidate_titles`, until version 0.3."""
        _checks.warn_of_former_name("movie_titles", "candidate_titles")
        return self.candidate_titles

    def _to_rows(self, raw: RawRatings) -> Ratings:
        return Ratings(
            self.user_vocabulary.rows_of(raw.users),
            self.candidate_vocabulary.rows_of(raw.candidates),
            raw.ratings,
            raw.timestamps,
            raw.weights,
        )

    @functools.cached_property
    def _divided(self) -> Divided:
        parts, note = divide(
            self._loaded,
            self._to_rows,
            split=self.split,
            test_fraction=self.test_fraction,
            validation_fraction=self.validation_fraction,
            validation_in_train=self.validation_in_train,
            seed=self.seed,
        )
        divided = self._with_parts(parts, note)
        if not self.validation_in_train:  # Said when it was tuned.
            for sentence in divided.leakage.warnings:
                warnings.warn(sentence, stacklevel=2)
        return divided

    def _with_parts(self, parts: Mapping, note: str) -> Divided:
        return Divided(
            parts,
            self.num_users,
            self.num_candidates,
            note,
            validation_is_test=self.split == "tutorial",
        )

    def ratings(self, split: str) -> Ratings:
        """Returns the interactions of `"train"`, `"validation"` or `"test"`."""
        return self._divided.ratings(split)

    @property
    def leakage(self) -> LeakageReport:
        """What the test part shares with the train part."""
        return self._divided.leakage

    @property
    def seen(self) -> Interactions:
        """The interaction history of each user in the train part."""
        return self._divided.seen

    def seen_before(self, split: str) -> Interactions:
        """The interaction history of each user before this part.

        For the test part that is train and validation, for the validation
        part it is train, and before the train part there is nothing. Where
        validation and test are the same rows, it is train for both.
        """
        return self._divided.seen_before(split)

    @functools.cached_property
    def fingerprint(self) -> dict:
        """Which interactions these are and how they are split, for JSON.

        `"data"` says in words where they are from; `"train"` is a hash of the
        rows that are learned from; the others are arguments of the class.
        Models made `for_dataset` keep it as `trained_on`.
        """
        return descriptions.fingerprint(
            self.ratings("train"), self._shown(), self._options()
        )

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row."""
        return self._divided.candidate_counts(split)

    # Batches.

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the train part."""
        return -(-len(self.ratings("train")) // self.batch_size)

    @property
    def train(self):
        """`tf.data.Dataset` of the train part, shuffled in every epoch."""
        return self._batches.of("train")

    @property
    def validation(self):
        """`tf.data.Dataset` of the validation part, in a fixed order."""
        if self.split == "tutorial":
            return self.test
        return self._batches.of("validation")

    @property
    def test(self):
        """`tf.data.Dataset` of the test part, in a fixed order."""
        return self._batches.of("test")

    @functools.cached_property
    def _batches(self) -> part_batches.PartBatches:
        return part_batches.PartBatches(
            self._divided.parts,
            self.num_users,
            split=self.split,
            batch_size=self.batch_size,
            candidate_key=self.candidate_key,
            rating_key=self.rating_key,
            rating_range=self.rating_range,
            seed=self.seed,
        )

    def by_interaction(self, batch_size: int | None = None):
        """Returns the train part in batches of another size than `.train`.

        A `tf.data.Dataset` of what `.train` has, shuffled in every epoch
        whatever the split; it counts epochs of its own.

        Args:
            batch_size: int. That of the data set by default.
        """
        return self._batches.by_interaction(batch_size)

    def by_user(self, batch_size: int = 64):
        """Returns the train part as one example a user.

        A `tf.data.Dataset` of `x`, user rows `(batch,)`, and `y`, all the
        candidates of each `(batch, positives)`, padded with -1, and their
        ratings. A softmax objective learns from them all against one row of
        logits, so an epoch costs users x candidates, not interactions x
        candidates. Shuffled in every epoch, as `train`.

        `positives` is the most that a user has. A batch of so many rows is
        smaller than its logits, unless interactions are repeated often.
        """
        return self._batches.by_user(batch_size)

    def next_items(self, batch_size: int = 1024):
        """Returns the train part as next-item examples.

        A `tf.data.Dataset` of `x`, `{"user_id": user rows (batch,), "length":
        (batch,)}`: users, and the length of the history prefix that is known;
        and `y`, the candidate that came next. Every interaction but a user's
        first is one example. Shuffled in every epoch, as `train`.

        Interactions of a user with one timestamp stand in the order they came
        in. The callback `ShuffleTies(dataset)` shuffles them in every epoch.
        Without timestamps all stand in that order, as `"leave_last_out"`
        takes them.

        Raises:
            ValueError: If the order is not known: without timestamps, and
                with a split other than `"leave_last_out"`; or if no user has
                two interactions.
        """
        return self._batches.next_items(batch_size)

    def start_at_epoch(self, epoch: int) -> None:
        """Makes the next pass over `.train` the epoch of this number.

        The order of an epoch is a function of the seed and its number, so a
        run that is resumed at epoch 7 sees what it would have seen. Passes
        count from 0; one that is broken off does not count.
        """
        self._batches.start_at_epoch(epoch)

    def with_validation_in_train(self) -> "RetrievalDataset":
        """Returns this data set with the validation part learned from.

        For the last fit, after all settings have been chosen. The test part
        stays the same; `.validation` is None.
        """
        dataset_options.check_validation_can_be_trained_on(self.split)
        refit = self._without_parts()
        refit.validation_in_train = True
        return refit

    def with_part_of_train_held_out(self) -> "RetrievalDataset":
        """Returns this data set with a validation part taken out of train.

        To choose settings by, where there is no validation part or where it
        is kept for something else: it is in no part of the result. What is
        held out follows the split: each user's last interaction, the latest,
        or some at random; a tenth if there is no `validation_fraction`. Its
        `get_config` is that of the data set it came from.
        """
        train, validation = hold_out(
            self.ratings("train"),
            split=self.split,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
        )
        smaller = self._without_parts()
        if smaller.split == "tutorial":
            smaller.split = "random"
        smaller._divided = smaller._with_parts(
            {
                "train": train,
                "validation": validation,
                "test": self.ratings("test"),
            },
            self._divided.note,
        )
        return smaller

    def _without_parts(self) -> "RetrievalDataset":
        """A copy that has not been divided into parts."""
        other = copy.copy(self)
        for name in ("_divided", "fingerprint", "_batches"):
            other.__dict__.pop(name, None)
        return other

    # Where it comes from and goes to.

    @classmethod
    def from_interactions(
        cls, user_ids, candidate_ids, ratings=None, timestamps=None, **options
    ) -> "RetrievalDataset":
        """Makes a data set from columns; `options` as in the class."""
        return RetrievalDataset(
            user_ids, candidate_ids, ratings, timestamps, **options
        )

    @classmethod
    def from_dataframe(
        cls,
        frame,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        **options,
    ) -> "RetrievalDataset":
        """Makes a data set from a pandas data frame, or one like it.

        Args:
            frame: A data frame of pandas or polars, an Arrow table, or a dict
                of columns.
            user_column: str. With `"auto"`, the column `user_id`, or the one
                that is called `userId`, `user`, `customer_id` or the like.
                `description` says which it is.
            candidate_column: str. Likewise: `candidate_id`, or `item_id`,
                `movieId`, `product` or the like.
            rating_column: Optional str. With `"auto"`, one that is called
                `rating`, `stars` or the like, if there is one.
            timestamp_column: Optional str, likewise.
            weight_column: Optional str, likewise. See `weights`.
            filters: Optional dict, such as `{"event": "purchase"}` or
                `{"event": ["purchase", "cart"]}`, or list of `(column,
                operator, value)` as for `pandas.read_parquet`: only rows that
                meet all conditions are read. Rows are counted after that in
                messages.
            repeated: str. What becomes of a pair of user and candidate that
                comes several times: `"keep"` all; only the `"first"` or the
                `"last"` in time, and of those of one time, or without
                timestamps, in the order they came in; or `"sum"`, the last
                with the sum of their weights.
            **options: As in the class.

        Raises:
            ValueError: If there are other columns, several that can be meant,
                or something in them does not fit.
        """
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_frame(frame, request), options)

    @classmethod
    def from_parquet(
        cls,
        path,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        **options,
    ) -> "RetrievalDataset":
        """Makes a data set from a Parquet file, or a folder of them.

        Arguments as in `from_dataframe`. Folders that are named as
        `event=purchase` are a column, too.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, has other columns, or something in
                them does not fit.
        """
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_parquet(path, request), options)

    @classmethod
    def from_csv(
        cls,
        path,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        **options,
    ) -> "RetrievalDataset":
        """Makes a data set from a CSV file whose first line names columns.

        Arguments as in `from_dataframe`. Columns are separated by commas,
        semicolons or tabs; the file is UTF-8, as it is or packed with gzip.
        Ids are strings unless all of them are written as whole numbers;
        timestamps are numbers or ISO dates.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, has other columns, or something in
                them does not fit.
        """
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_csv(path, request), options)

    @staticmethod
    def from_batches(
        train,
        validation=None,
        test=None,
        *,
        user_key: str = "user_id",
        candidate_key: str = "candidate_id",
        num_candidates: int | None = None,
        candidates=None,
    ) -> batched.BatchedInteractions:
        """Returns what full-catalogue metrics need of your own batches.

        For a model and a pipeline of your own, whose ids are the rows of the
        model's tables: pass the result to `keras_dp_retrieval.evaluate` or
        `RetrievalMetrics`, and your batches to `fit`, as ever. The seen items
        of a user, those of the earlier parts, are left out of the lists. Rows
        of sample weight 0 count nowhere. Each part is read once, here.

        Args:
            train: `(x, y)`, or batches of it: a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or any iterable that ends. `x` are user
                ids `(batch,)`, or a dict with them under `user_key`; `y` are
                candidate ids `(batch,)`, or a dict with them under
                `candidate_key`.
            validation: Optional, likewise.
            test: Optional, likewise.
            user_key: str.
            candidate_key: str.
            num_candidates: Optional int. Rows of the candidate table; by
                default the greatest id and one.
            candidates: Optional ints, `(n,)`: the ids of the catalogue. By
                default those that occur in the batches: others, such as id 0
                of a table whose ids begin with 1, are not recommended.

        Returns:
            An object with `ratings(split)`, `seen_before(split)`,
            `candidate_counts(split)`, `num_candidates`, `num_users` and
            `real_candidates`. It makes no batches.

        Raises:
            ValueError: If there is anything else in the batches, such as
                strings: look them up first, as for the model.
        """
        parts = {"train": train, "validation": validation, "test": test}
        return batched.BatchedInteractions(
            batched.read_parts(parts, user_key, candidate_key),
            num_candidates,
            candidates,
        )

    @classmethod
    def from_synthetic(
        cls,
        num_users: int,
        num_candidates: int,
        num_ratings: int,
        *,
        num_tastes: int = 12,
        popularity_exponent: float = 0.9,
        data_seed: int = 42,
        **options,
    ) -> "RetrievalDataset":
        """Makes up a data set of any shape, with known structure.

        Args:
            num_users: int. Likewise the next four, as in
                `keras_dp_retrieval.data.synthetic.synthetic_ratings`.
            data_seed: int. Of the interactions; `seed` is that of the split.
            **options: As in the class.
        """
        made_up = synthetic.synthetic_ratings(
            num_users,
            num_candidates,
            num_ratings,
            num_tastes=num_tastes,
            popularity_exponent=popularity_exponent,
            seed=data_seed,
        )
        told = {"candidate_titles": made_up.titles, "is_synthetic": True}
        return cls._from_raw(made_up.ratings, {**told, **options})

    @classmethod
    def _from_table(cls, read: tuple[RawRatings, str], options: Mapping):
        raw, note = read
        made = cls._from_raw(raw, options)
        made._source_note = note
        return made

    @classmethod
    def _from_raw(cls, raw: RawRatings, options: Mapping):
        return RetrievalDataset(
            raw.users,
            raw.candidates,
            raw.ratings,
            raw.times(),
            weights=raw.weights,
            **options,
        )

    def get_config(self) -> dict:
        return {
            **descriptions.raw_data_config(self._raw_data),
            **self._options(),
            "rating_range": list(self.rating_range),
            "is_synthetic": self.is_synthetic,
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "RetrievalDataset":
        return cls(**config)

    def _shown(self) -> str:
        return f"{len(self._raw_data.interactions):,} interactions"

    def __repr__(self) -> str:
        return descriptions.in_short(
            type(self).__name__,
            self._shown(),
            self._options(),
            self.is_synthetic,
        )

    @property
    def description(self) -> str:
        """A line on what is in it; reads the data if need be."""
        sizes = descriptions.sizes(
            self._divided, self._shown(), self.split, self.is_synthetic
        )
        return "; ".join(filter(None, (sizes, self._source_note)))
