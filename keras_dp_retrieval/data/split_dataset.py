"""SplitDataset: interactions as parts, vocabularies and batches."""

import copy
import dataclasses
import functools
import warnings
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import (
    batch_sources,
    dataset_options,
    descriptions,
    examples,
    part_batches,
)
from keras_dp_retrieval.data.dataset_description import (
    DatasetDescription,
    describe,
)
from keras_dp_retrieval.data.divided import Divided, vocabulary_of
from keras_dp_retrieval.data.features import EncodedFeatures
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.leakage import LeakageReport
from keras_dp_retrieval.data.parts import divide, hold_out
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.raw_data import RawData, RawRatings
from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.warning_categories import DataWarning


class SplitDataset:
    """What the data sets have in common, wherever their interactions are from.

    A subclass sets the options (`_set_options`), `rating_range` and
    `is_synthetic`; `_read` returns its interactions when they are first asked
    for, and `_shown` names them.
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

    rating_range: tuple[float, float]
    is_synthetic: bool
    # What a model was trained on before; see `in_rows_of`.
    _earlier: Interactions | None = None
    _source_note = ""  # What was done to a file, for the description.
    _origin: Mapping | None = None  # How a file was read, for the fingerprint.

    def _set_options(self, **options):
        for name, value in dataset_options.checked_options(**options).items():
            setattr(self, name, value)

    def _options(self) -> dict:
        return {name: getattr(self, name) for name in dataset_options.OPTIONS}

    # What there is.

    def _read(self) -> RawData:
        """Returns the interactions, and what else was given."""
        raise NotImplementedError

    def _shown(self) -> str:
        """Names the data in a few words, such as "MovieLens 100k"."""
        raise NotImplementedError

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
                warnings.warn(sentence, DataWarning, stacklevel=2)
        return divided

    def _with_parts(self, parts: Mapping, note: str) -> Divided:
        return Divided(
            parts,
            self.num_users,
            self.num_candidates,
            note,
            validation_is_test=self.split == "tutorial",
            earlier=self._earlier,
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
        rows that are learned from, `"newest"` the last of their timestamps;
        `"file"`, where there is one, how it was read by the command line; the
        others are arguments of the class. Models made `for_dataset` keep it
        as `trained_on`.
        """
        fingerprint = descriptions.fingerprint(
            self.ratings("train"), self._shown(), self._options()
        )
        return (
            fingerprint
            if self._origin is None
            else {**fingerprint, "file": self._origin}
        )

    def raw_interactions(self) -> RawRatings:
        """The interactions as they came, before they were divided."""
        return self._loaded.interactions

    def raw_features(self, side: str) -> FeatureTable | None:
        """The features of `"user"` or `"candidate"`, not encoded."""
        return getattr(self._loaded, f"{side}_features")

    @functools.cached_property
    def user_features(self) -> EncodedFeatures | None:
        """The encoded features of all users, by row; None without any.

        The encoders are fitted on the users of the train part.
        """
        table = self.raw_features("user")
        if table is None:
            return None
        is_trained = np.diff(self.seen.indptr) > 0
        return EncodedFeatures.of(table, self.user_vocabulary, is_trained)

    @functools.cached_property
    def candidate_features(self) -> EncodedFeatures | None:
        """Likewise those of the candidates."""
        table = self.raw_features("candidate")
        if table is None:
            return None
        is_trained = self.candidate_counts("train") > 0
        return EncodedFeatures.of(table, self.candidate_vocabulary, is_trained)

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row."""
        return self._divided.candidate_counts(split)

    def user_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_users,)` int64: interactions of each row."""
        return self._divided.user_counts(split)

    # Batches.

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the train part."""
        return -(-len(self.ratings("train")) // self.batch_size)

    @property
    def train(self):
        """`tf.data.Dataset` of the train part, shuffled in every epoch."""
        return self._with_ids(self._batches.of("train"))

    @property
    def validation(self):
        """`tf.data.Dataset` of the validation part, in a fixed order."""
        if self.split == "tutorial":
            return self.test
        return self._with_ids(self._batches.of("validation"))

    @property
    def test(self):
        """`tf.data.Dataset` of the test part, in a fixed order."""
        return self._with_ids(self._batches.of("test"))

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
            earlier=self._earlier,
        )

    def by_interaction(self, batch_size: int | None = None):
        """Returns the train part in batches of another size than `.train`.

        A `tf.data.Dataset` of what `.train` has, shuffled in every epoch
        whatever the split; it counts epochs of its own.

        Args:
            batch_size: int. That of the data set by default.
        """
        return self._with_ids(self._batches.by_interaction(batch_size))

    def by_user(self, batch_size: int = 64, *, num_positives=None):
        """Returns the train part as one example a user.

        A `tf.data.Dataset` of `x`, user rows `(batch,)`, and `y`, all the
        candidates of each `(batch, positives)`, padded with -1, and their
        ratings. A softmax objective learns from them all against one row of
        logits, so an epoch costs users x candidates, not interactions x
        candidates. Shuffled in every epoch, and padded to batches of one size
        with rows of weight 0, as `train`.

        `positives` is the most that a user has. A batch of so many rows is
        smaller than its logits, unless interactions are repeated often.

        Args:
            batch_size: int. Users in a batch.
            num_positives: Optional int. Pads to this many instead, so that
                several data sets have batches of one shape.

        Raises:
            ValueError: If a user has more than `num_positives`.
        """
        return examples.as_dataset(
            self.source_by_user(batch_size, num_positives)
        )

    def source_by_user(self, batch_size: int, num_positives=None):
        """What `by_user` is made of: `fit` takes it, too."""
        return self._with_ids(self._batches.by_user(batch_size, num_positives))

    def next_items(self, batch_size: int = 1024):
        """Returns the train part as next-item examples.

        A `tf.data.Dataset` of `x`, `{"user_id": user rows (batch,), "length":
        (batch,)}`: users, and the length of the history prefix that is known;
        and `y`, the candidate that came next. Every interaction but a user's
        first is one example. Shuffled in every epoch, and padded to batches
        of one size with rows of weight 0, as `train`.

        Interactions of a user with one timestamp stand in the order they came
        in. The callback `ShuffleTies(dataset)` shuffles them in every epoch.
        Without timestamps all stand in that order, as `"leave_last_out"`
        takes them.

        Raises:
            ValueError: If the order is not known: without timestamps, and
                with a split other than `"leave_last_out"`; or if no user has
                two interactions.
        """
        return examples.as_dataset(self.source_of_next_items(batch_size))

    def source_of_next_items(self, batch_size: int):
        """What `next_items` is made of: `fit` takes it, too."""
        return self._with_ids(self._batches.next_items(batch_size))

    def by_sequence(self, batch_size: int = 32, max_length: int = 100):
        """Returns the examples of `next_items`, many of a user side by side.

        A `tf.data.Dataset` of `x`, `{"user_id": user rows (batch,), "length":
        (batch, targets)}`, and `y`, the candidates that came next, `(batch,
        targets)`, padded with -1. A `SequenceTower` has the vectors for all of
        them in one pass; other towers that read histories make one for each.

        A user with up to `max_length + 1` interactions is one example. Longer
        histories are divided: each further example goes on by half of
        `max_length`, so that its targets have at least so many items before
        them. `targets` is `max_length`, or what the longest history has.

        It is shuffled and padded as `next_items`, has the same rule for
        interactions with one timestamp, and raises the same errors.

        Args:
            batch_size: int. Examples in a batch, with up to `batch_size x
                targets` targets.
            max_length: int. That of the tower.
        """
        return examples.as_dataset(
            self.source_by_sequence(batch_size, max_length)
        )

    def source_by_sequence(self, batch_size: int, max_length: int):
        """What `by_sequence` is made of: `fit` takes it, too."""
        return self._with_ids(self._batches.by_sequence(batch_size, max_length))

    def _with_ids(self, batches):
        """Notes whose rows they hold, so that no other model trains on them."""
        source = batch_sources.source_of(batches)
        if source is not None:
            source.row_ids = {
                "user": self.user_vocabulary.ids,
                "candidate": self.candidate_vocabulary.ids,
            }
        return batches

    def start_at_epoch(self, epoch: int) -> None:
        """Makes the next pass over `.train` the epoch of this number.

        The order of an epoch is a function of the seed and its number, so a
        run that is resumed at epoch 7 sees what it would have seen. Passes
        count from 0; one that is broken off does not count.
        """
        self.start_at(epoch)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Makes the next `fit` on `.train` go on within an epoch.

        Args:
            epoch: int. Its number, from 0.
            batch: int. How many of its batches have been learned from.

        Raises:
            ValueError: If an epoch has fewer batches.
        """
        self._batches.start_at(epoch, batch)

    def with_validation_in_train(self) -> "SplitDataset":
        """Returns this data set with the validation part learned from.

        For the last fit, after all settings have been chosen. The test part
        stays the same; `.validation` is None.
        """
        dataset_options.check_validation_can_be_trained_on(self.split)
        refit = self._without_parts()
        refit.validation_in_train = True
        return refit

    def with_part_of_train_held_out(self) -> "SplitDataset":
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

    def in_rows_of(
        self,
        user_vocabulary: Vocabulary,
        candidate_vocabulary: Vocabulary,
        earlier: Interactions | None = None,
    ) -> "SplitDataset":
        """Returns this data set with other rows for its ids, same parts.

        `TwoTowerRetrieval.add_interactions` makes it for a model that knows
        others, too. Its `get_config` is that of the data set it came from.

        Args:
            user_vocabulary: `Vocabulary` that has all ids of this data set.
            candidate_vocabulary: Likewise.
            earlier: Optional `Interactions` in these rows, which come before
                the parts: `seen` and `seen_before` have them, too.
        """
        other = self._without_parts()
        other.user_vocabulary = user_vocabulary
        other.candidate_vocabulary = candidate_vocabulary
        other._earlier = earlier
        users = user_vocabulary.rows(self.user_vocabulary.ids)
        candidates = candidate_vocabulary.rows(self.candidate_vocabulary.ids)
        parts = {
            part: dataclasses.replace(
                ratings,
                user_rows=users[ratings.user_rows - 1],
                candidate_rows=candidates[ratings.candidate_rows - 1],
            )
            for part, ratings in self._divided.parts.items()
        }
        other._divided = other._with_parts(parts, self._divided.note)
        return other

    def _without_parts(self) -> "SplitDataset":
        """A copy that has not been divided into parts."""
        other = copy.copy(self)
        for name in (
            "_divided",
            "fingerprint",
            "_batches",
            "user_features",
            "candidate_features",
        ):
            other.__dict__.pop(name, None)
        return other

    def describe(self) -> DatasetDescription:
        """Returns what is in the data set, in figures; `print` shows the text.

        Sizes, density, how many interactions users and candidates have, the
        long tail, the time span, repeated and tied interactions, and what the
        parts have and share. `to_dict()` of it is for JSON.
        """
        return describe(self)

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
