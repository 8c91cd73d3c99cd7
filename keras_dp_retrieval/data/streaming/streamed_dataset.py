"""StreamedDataset: interactions that need not fit into memory."""

import functools
import hashlib
from collections.abc import Mapping

import keras
import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import arguments, dataset_options, pipelines
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.readers import tables
from keras_dp_retrieval.data.row_padding import padded_size
from keras_dp_retrieval.data.sampled_users import SampledUsers, chosen_users
from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.moments import Moments, find_moments
from keras_dp_retrieval.data.streaming.not_in_memory import (
    IN_MEMORY,
    NotInMemory,
    needs_memory,
)
from keras_dp_retrieval.data.streaming.parquet_blocks import ParquetBlocks
from keras_dp_retrieval.data.streaming.streamed_batches import (
    Position,
    StreamedBatches,
)
from keras_dp_retrieval.data.streaming.survey import IDS, survey
from keras_dp_retrieval.data.streaming.user_sample import (
    interactions_of_users,
)
from keras_dp_retrieval.data.streaming.window_reader import PartReader
from keras_dp_retrieval.data.vocabulary import Vocabulary


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class StreamedDataset(NotInMemory):
    """Train, validation and test batches of Parquet files, read as they go.

    What `RetrievalDataset.from_parquet(..., streaming=True)` returns. Batches
    look as those of a `RetrievalDataset` do, and the rows of the tables are
    the same. In memory are the ids, the counts of users and candidates, and
    the rows that are shuffled; what needs all interactions at once (`ratings`,
    `seen`, `by_user`, `next_items`, `leakage`) is an error that says so.

    When it is made, the time stamps are read four times at most, to find the
    moments at which the parts begin, and then ids and time stamps once, to
    list and count the ids. The files must not change from then on.

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
        batch_size: int. Interactions in a batch, over all devices.
        seed: int. Of the order of the epochs.
        candidate_titles: As in `RetrievalDataset`.
        candidate_key: str. As in `RetrievalDataset`.
        rating_key: str. As in `RetrievalDataset`.
        rating_range: As in `RetrievalDataset`.

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
        batch_size: int = 1000,
        seed: int = 42,
        candidate_titles: Mapping | None = None,
        candidate_key: str = "candidate_id",
        rating_key: str = "rating",
        rating_range: tuple[float, float] = (1.0, 5.0),
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
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
        )
        holds_out = test_fraction or validation_fraction
        holds_out = holds_out or test_from is not None
        holds_out = holds_out or validation_from is not None
        if timestamp_column is None and holds_out:
            raise ValueError(
                "A streamed data set is split at a moment in time. Received: "
                "no time stamps. Name their column with "
                "`timestamp_column=...`, or learn from all interactions with "
                "`test_fraction=0, validation_fraction=0`."
            )
        given = {
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
        self._given = given
        self.path = tables.existing(path)
        self._blocks = ParquetBlocks(
            self.path, request.columns, request.row_filter
        )
        self._columns = BlockColumns(self._blocks, self.rating_range)
        self._moments = Moments()
        if self._columns.has("timestamps"):
            self._moments = find_moments(
                self._columns.times,
                len(self._columns),
                test_from=test_from,
                validation_from=validation_from,
                test_fraction=self.test_fraction,
                validation_fraction=self.validation_fraction,
            )
        self._survey = survey(self._columns, self._moments, given)
        self.candidate_titles = arguments.titles_of(
            candidate_titles, self._survey.candidates.ids
        )
        self._positions = {part: Position() for part in PARTS}
        self._made: dict[str, tuple] = {}

    # What there is.

    @property
    def user_vocabulary(self) -> Vocabulary:
        """Which user has which row."""
        return self._survey.users

    @property
    def candidate_vocabulary(self) -> Vocabulary:
        """Which candidate has which row."""
        return self._survey.candidates

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
        moments = self._moments
        return {
            part: moments.shown(getattr(moments, part)) for part in PARTS[1:]
        }

    def num_rows(self, split: str) -> int:
        """Returns how many interactions a part has."""
        return self._survey.num_rows(_checks.one_of("split", split, PARTS))

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row."""
        return _of_part(self._survey.candidate_counts, split)

    def user_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_users,)` int64: interactions of each row."""
        return _of_part(self._survey.user_counts, split)

    @functools.cached_property
    def fingerprint(self) -> dict:
        """As that of a `RetrievalDataset`; `"moments"` says where parts begin.

        `"train"` is a hash of the ids in all files and of the moments.
        """
        digest = hashlib.sha256(self._digest.encode())
        return {
            "data": self._shown(),
            "train": digest.hexdigest(),
            "split": self.split,
            "seed": self.seed,
            "test_fraction": self.test_fraction,
            "validation_fraction": self.validation_fraction,
            "validation_in_train": False,
            "moments": self.moments,
        }

    @property
    def _digest(self) -> str:
        # Other machines have the folder elsewhere.
        return repr((self._blocks.names(), self._survey.digest))

    def _shown(self) -> str:
        num_rows = sum(map(self.num_rows, PARTS))
        return f"{num_rows:,} interactions"

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
        part = PARTS.index(_checks.one_of("split", split, PARTS))
        longest = max(map(self.num_rows, PARTS))
        size = min(self.batch_size, longest)
        form = pipelines.BatchFormat(
            size,
            padded_size(size),
            self.candidate_key,
            self.rating_key,
            self.rating_range,
        )
        reader = PartReader(
            self._columns,
            self._moments,
            part,
            self._survey.block_counts,
            *self._lookups,
            self.rating_range,
        )
        return StreamedBatches(
            reader,
            form,
            window=self.shuffle_window,
            seed=self.seed if split == "train" else None,
            position=self._positions[split],
            digest=self._digest,
        )

    @functools.cached_property
    def _lookups(self) -> tuple[IdLookup, IdLookup]:
        return (
            IdLookup("user_ids", self.user_vocabulary),
            IdLookup("candidate_ids", self.candidate_vocabulary),
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
        part = PARTS.index(_checks.one_of("split", split, PARTS))
        rows = np.flatnonzero(self.user_counts(split))
        is_chosen = np.zeros(self.num_users, bool)
        is_chosen[chosen_users(rows, max_users, seed)] = True
        up_to = self._survey.block_counts[:, : part + 1]
        ratings, seen = interactions_of_users(
            self._columns,
            self._moments,
            self._lookups,
            is_chosen,
            np.flatnonzero(up_to.any(axis=1)),
            part,
        )
        return SampledUsers(self, split, ratings, seen)

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
            "batch_size": self.batch_size,
            "seed": self.seed,
            "candidate_titles": [
                [key, title] for key, title in self.candidate_titles.items()
            ],
            "candidate_key": self.candidate_key,
            "rating_key": self.rating_key,
            "rating_range": list(self.rating_range),
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "StreamedDataset":
        return cls(**config)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {self._shown()} of {str(self.path)!r}, "
            f"split='by_time', batch_size={self.batch_size}, "
            f"seed={self.seed}>"
        )

    @property
    def description(self) -> str:
        """A line on what is in it."""
        parts = ", ".join(f"{self.num_rows(part):,} {part}" for part in PARTS)
        begins = ", ".join(
            f"{part} from {moment} on"
            for part, moment in self.moments.items()
            if moment is not None
        )
        sizes = (
            f"{self._shown()}, streamed: {self.num_users - 1:,} users, "
            f"{self.num_candidates - 1:,} candidates; split 'by_time': {parts}"
        )
        notes = (
            begins,
            self._blocks.note,
            self._blocks.filter_note(sum(map(self.num_rows, PARTS))),
        )
        return "; ".join(filter(None, (sizes, *notes)))


def _of_part(counts: np.ndarray, split: str) -> np.ndarray:
    part = PARTS.index(_checks.one_of("split", split, PARTS))
    return counts[:, part].astype(np.int64)


def from_options(path, options: Mapping) -> StreamedDataset:
    """Makes a data set from the arguments of `RetrievalDataset.from_parquet`.

    Args:
        path: Path.
        options: Its other arguments.

    Raises:
        ValueError: If one of them needs all interactions in memory.
    """
    options = dict(options)
    split = options.pop("split", "by_time")
    if split != "by_time":
        raise ValueError(
            "A streamed data set is split at a moment in time, "
            f"`split='by_time'`. Received: split={split!r}. {IN_MEMORY}"
        )
    repeated = options.pop("repeated", "keep")
    if repeated != "keep":
        raise needs_memory(f"`repeated={repeated!r}`")
    for name in ("test", "validation"):
        if options.pop(name, None) is not None:
            raise ValueError(
                "The parts of a streamed data set are found in its files. "
                f"Received: `{name}`. Say when it begins: `{name}_from=...`."
            )
    return StreamedDataset(path, **options)
