"""StreamedDataset: interactions that need not fit into memory."""

import functools
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import arguments, dataset_options, pipelines
from keras_dp_retrieval.data.batch_sources import Position
from keras_dp_retrieval.data.features import EncodedFeatures
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.readers import tables
from keras_dp_retrieval.data.row_padding import padded_size
from keras_dp_retrieval.data.sampled_users import SampledUsers, chosen_users
from keras_dp_retrieval.data.streaming import (
    streamed_arguments,
    streamed_description,
)
from keras_dp_retrieval.data.streaming.not_in_memory import NotInMemory
from keras_dp_retrieval.data.streaming.streamed_batches import StreamedBatches
from keras_dp_retrieval.data.streaming.streamed_features import (
    StreamedFeatures,
)
from keras_dp_retrieval.data.streaming.streamed_files import StreamedFiles
from keras_dp_retrieval.data.streaming.survey import IDS
from keras_dp_retrieval.data.vocabulary import Vocabulary


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class StreamedDataset(NotInMemory):
    """Train, validation and test batches of Parquet files, read as they go.

    What `RetrievalDataset.from_parquet(..., streaming=True)` returns. Batches
    look as those of a `RetrievalDataset` do, and the rows of the tables are
    the same. In memory are the ids, the counts of users and candidates, and
    the rows that are shuffled; what needs all interactions at once (`ratings`,
    `seen`, `by_user`, `next_items`, `leakage`) is an error that says so.

    With `max_history`, for towers that read histories, the users of a batch
    are `x = {"user_id": (batch,), "history": (batch, max_history)}`: beside
    each example the candidate rows that its user had strictly before it, at
    most so many of the latest, oldest first, padded at the end with -1. What
    has the same time as the example is left out, and so is the example; those
    of one earlier time stand in the order of the files. Where a part begins
    does not matter: a test example knows what was in validation. This takes 8
    bytes of memory for an interaction and 8 for a user, in every process, and
    8 more for an interaction while the data set is made.

    When it is made, the time stamps are read four times at most, to find the
    moments at which the parts begin, and then ids and time stamps once, to
    list and count the ids; with `max_history` once more. The files must not
    change from then on.

    The parts are divided by time: every interaction of an earlier part is
    older than every one of a later part.

    The order of the train part depends on the files, `batch_size`, `seed` and
    the number of the epoch alone. Row groups come in random order, up to 16
    places of it at a time, and rows are shuffled among at least
    `shuffle_window` others. Validation and test have a fixed order. Several
    processes have the same batches as one; each reads the row groups that its
    rows of the batches are from, and up to two sixteenths of all more.

    Args:
        path: Path of a Parquet file, or a folder of them. No row group may
            have more than 16,777,216 rows.
        user_column: str, and the next five as in
            `RetrievalDataset.from_dataframe`.
        candidate_column: str.
        rating_column: Optional str.
        timestamp_column: Optional str. May be absent if nothing is held out.
        weight_column: Optional str.
        filters: Optional.
        test_from: Optional time stamp: the test part begins with it. By
            default a moment that leaves `test_fraction`.
        validation_from: Optional time stamp, likewise.
        test_fraction: float. Test share of all interactions; 0 for no test
            part.
        validation_fraction: float. Validation share of the rest.
        shuffle_window: int. Rows among which a row is shuffled, at least.
        user_ids: Optional `(n,)`: all users there are. By default those that
            the files have.
        candidate_ids: Optional `(n,)`, likewise.
        max_history: Optional int. Has the histories of the users come with the
            examples, so many entries long.
        batch_size: int. Interactions in a batch, over all devices.
        seed: int. Of the order of the epochs.
        candidate_titles: As in `RetrievalDataset`.
        candidate_key: str. As in `RetrievalDataset`.
        rating_key: str. As in `RetrievalDataset`.
        rating_range: As in `RetrievalDataset`.
        user_features: As in `RetrievalDataset`. They are read into memory;
            the encoders are fitted on the users of the train part.
        candidate_features: Likewise.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged or has other columns, or something in
            it does not fit.
    """

    split = "by_time"
    validation_in_train = False
    is_synthetic = False

    def __init__(
        self,
        path,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        test_from=None,
        validation_from=None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.1,
        shuffle_window: int = 2**22,
        user_ids=None,
        candidate_ids=None,
        max_history: int | None = None,
        batch_size: int = 1000,
        seed: int = 42,
        candidate_titles: Mapping | None = None,
        candidate_key: str = "candidate_id",
        rating_key: str = "rating",
        rating_range: tuple[float, float] = (1.0, 5.0),
        user_features=None,
        candidate_features=None,
    ):
        options = dataset_options.checked_options(
            split=self.split,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            batch_size=batch_size,
            seed=seed,
            candidate_key=candidate_key,
            rating_key=rating_key,
            validation_in_train=False,
        )
        self.test_fraction = options["test_fraction"]
        self.validation_fraction = options["validation_fraction"]
        self.batch_size = options["batch_size"]
        self.seed = options["seed"]
        self.candidate_key = options["candidate_key"]
        self.rating_key = options["rating_key"]
        self.rating_range = arguments.rating_range(rating_range)
        self.shuffle_window = _checks.positive_int(
            "shuffle_window", shuffle_window
        )
        self.max_history = streamed_arguments.max_history(max_history)
        streamed_arguments.refuse_without_times(
            timestamp_column,
            test_fraction,
            validation_fraction,
            test_from,
            validation_from,
            max_history=self.max_history,
        )
        # First, as they are small: what is wrong with them is said at once.
        self._features = StreamedFeatures(user_features, candidate_features)
        self._given = {
            key: Vocabulary.from_ids(ids)
            for key, ids in zip(IDS, (user_ids, candidate_ids), strict=True)
            if ids is not None
        }
        self._arguments = {
            "path": str(path),
            "user_column": user_column,
            "candidate_column": candidate_column,
            "rating_column": rating_column,
            "timestamp_column": timestamp_column,
            "weight_column": weight_column,
            "filters": filters,
            "test_from": test_from,
            "validation_from": validation_from,
        }
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
        )
        self.path = tables.existing(path)
        self._files = StreamedFiles(
            self.path,
            request,
            self._given,
            rating_range=self.rating_range,
            moments={
                "test_from": test_from,
                "validation_from": validation_from,
                "test_fraction": self.test_fraction,
                "validation_fraction": self.validation_fraction,
            },
            max_history=self.max_history,
            features=self._features,
        )
        self.candidate_titles = arguments.titles_of(
            candidate_titles, self._files.survey.candidates.ids
        )
        self._positions = {part: Position() for part in PARTS}
        self._made: dict[str, tuple] = {}

    # What there is.

    @property
    def user_vocabulary(self) -> Vocabulary:
        """Which user has which row."""
        return self._files.survey.users

    @property
    def candidate_vocabulary(self) -> Vocabulary:
        """Which candidate has which row."""
        return self._files.survey.candidates

    @property
    def num_users(self) -> int:
        """Rows of a user table: the known users, and row 0 for unknown."""
        return self.user_vocabulary.num_rows

    @property
    def num_candidates(self) -> int:
        """Rows of a candidate table: the known ones, and row 0."""
        return self.candidate_vocabulary.num_rows

    @property
    def moments(self) -> dict:
        """Where the validation and the test part begin, None without one."""
        moments = self._files.moments
        return {
            part: moments.shown(getattr(moments, part)) for part in PARTS[1:]
        }

    def num_rows(self, split: str) -> int:
        """Returns how many interactions a part has."""
        return self._files.survey.num_rows(
            _checks.one_of("split", split, PARTS)
        )

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row."""
        return _of_part(self._files.survey.candidate_counts, split)

    def user_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_users,)` int64: interactions of each row."""
        return _of_part(self._files.survey.user_counts, split)

    def raw_features(self, side: str) -> FeatureTable | None:
        """The features of `"user"` or `"candidate"`, not encoded."""
        return self._features.tables[side]

    @functools.cached_property
    def user_features(self) -> EncodedFeatures | None:
        """The encoded features of all users, by row; None without any."""
        counts = self.user_counts("train")
        return self._features.encoded("user", self.user_vocabulary, counts)

    @functools.cached_property
    def candidate_features(self) -> EncodedFeatures | None:
        """Likewise those of the candidates."""
        return self._features.encoded(
            "candidate",
            self.candidate_vocabulary,
            self.candidate_counts("train"),
        )

    @functools.cached_property
    def fingerprint(self) -> dict:
        """As that of a `RetrievalDataset`; `"moments"` says where parts begin.

        `"train"` is a hash of the ids in all files and of the moments.
        """
        return streamed_description.fingerprint(self, self._files)

    # Batches.

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the train part."""
        return -(-self.num_rows("train") // self.batch_size)

    @property
    def train(self):
        """`tf.data.Dataset` of the train part, shuffled in every epoch."""
        return self._dataset("train")

    @property
    def validation(self):
        """`tf.data.Dataset` of the validation part, in a fixed order."""
        return self._dataset("validation")

    @property
    def test(self):
        """`tf.data.Dataset` of the test part, in a fixed order."""
        return self._dataset("test")

    def start_at_epoch(self, epoch: int) -> None:
        """Makes the next pass over `.train` the epoch of this number."""
        self.start_at(epoch)

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Makes the next `fit` go on within an epoch.

        What comes before is not read. The position is that of the training,
        not of the reading: which batches have been learned from, over all
        processes, however many there were.

        Args:
            epoch: int. Its number, from 0.
            batch: int. How many of its batches have been learned from.
        """
        self.batches("train").start_at(epoch, batch)

    def batches(self, split: str) -> StreamedBatches:
        """Returns the batches of a part as NumPy arrays: a `BatchSource`."""
        _checks.one_of("split", split, PARTS)
        longest = max(map(self.num_rows, PARTS))
        size = min(self.batch_size, longest)
        form = pipelines.BatchFormat(
            size,
            padded_size(size),
            self.candidate_key,
            self.rating_key,
            self.rating_range,
        )
        return StreamedBatches(
            self._files.reader(split),
            form,
            window=self.shuffle_window,
            seed=self.seed if split == "train" else None,
            position=self._positions[split],
            digest=self._files.digest,
        )

    def _dataset(self, split: str):
        if not self.num_rows(split):
            return None
        num_rows = padded_size(self.batch_size)
        # The same one in every call, until batches are padded otherwise.
        if self._made.get(split, (None,))[0] != num_rows:
            made = self.batches(split).as_dataset()
            self._made[split] = (num_rows, made)
        return self._made[split][1]

    def of_some_users(
        self, split: str, max_users: int, seed: int = 0
    ) -> SampledUsers:
        """Returns what an evaluation reads, of some users of a part.

        The files are read once.

        Args:
            split: str. The part.
            max_users: int. How many of its users at most.
            seed: int. Of their draw.
        """
        rows = np.flatnonzero(self.user_counts(split))
        is_chosen = np.zeros(self.num_users, bool)
        is_chosen[chosen_users(rows, max_users, seed)] = True
        return SampledUsers(
            self, split, *self._files.of_users(is_chosen, split)
        )

    # Where it comes from and goes to.

    def get_config(self) -> dict:
        return {
            **self._arguments,
            "test_fraction": self.test_fraction,
            "validation_fraction": self.validation_fraction,
            "shuffle_window": self.shuffle_window,
            **{
                key: self._given[key].ids.tolist()
                if key in self._given
                else None
                for key in IDS
            },
            "max_history": self.max_history,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "candidate_titles": [
                [key, title] for key, title in self.candidate_titles.items()
            ],
            "candidate_key": self.candidate_key,
            "rating_key": self.rating_key,
            "rating_range": list(self.rating_range),
            **self._features.get_config(),
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "StreamedDataset":
        return cls(**StreamedFeatures.from_config(config))

    def __repr__(self) -> str:
        shown = streamed_description.num_interactions(self)
        return (
            f"<{type(self).__name__}: {shown} of {str(self.path)!r}, "
            f"split='by_time', batch_size={self.batch_size}, "
            f"seed={self.seed}>"
        )

    @property
    def description(self) -> str:
        """A line on what is in it."""
        return streamed_description.description(
            self, self._files, self._features
        )


def _of_part(counts: np.ndarray, split: str) -> np.ndarray:
    part = PARTS.index(_checks.one_of("split", split, PARTS))
    return counts[:, part].astype(np.int64)
