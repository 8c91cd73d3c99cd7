"""The files of a streamed data set, and what passes over them found."""

import functools
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.readers.tables import Request
from keras_dp_retrieval.data.streaming.block_columns import BlockColumns
from keras_dp_retrieval.data.streaming.id_lookup import IdLookup
from keras_dp_retrieval.data.streaming.moments import Moments, find_moments
from keras_dp_retrieval.data.streaming.parquet_blocks import ParquetBlocks
from keras_dp_retrieval.data.streaming.streamed_features import (
    StreamedFeatures,
)
from keras_dp_retrieval.data.streaming.survey import survey
from keras_dp_retrieval.data.streaming.user_sample import (
    interactions_of_users,
)
from keras_dp_retrieval.data.streaming.user_timelines import (
    UserTimelines,
    read_timelines,
)
from keras_dp_retrieval.data.streaming.window_reader import PartReader
from keras_dp_retrieval.data.vocabulary import Vocabulary


class StreamedFiles:
    """Reads the files as often as it takes to know what is where.

    Args:
        path: Path that exists.
        request: `tables.Request`.
        given: dict from `"user_ids"` and `"candidate_ids"` to a vocabulary,
            where it is known already.
        rating_range: `(lowest, highest)`.
        moments: dict of the arguments of `find_moments` that say where the
            parts begin.
        max_history: Optional int. The length of the histories that come with
            the examples.
        features: `StreamedFeatures`. Whoever has some has a row.

    Attributes:
        blocks: `ParquetBlocks`.
        moments: `Moments`.
        survey: `Survey`.
        timelines: `UserTimelines`, or None without `max_history`.
    """

    def __init__(
        self,
        path: pathlib.Path,
        request: Request,
        given: dict[str, Vocabulary],
        *,
        rating_range: tuple[float, float],
        moments: Mapping,
        max_history: int | None,
        features: StreamedFeatures,
    ):
        self.path = path
        self.blocks = ParquetBlocks(path, request.columns, request.row_filter)
        self._rating_range = rating_range
        self._columns = BlockColumns(self.blocks, rating_range)
        self.moments = Moments()
        if self._columns.has("timestamps"):
            self.moments = find_moments(
                self._columns.times, len(self._columns), **moments
            )
        self.survey = survey(self._columns, self.moments, given, features)
        self.timelines: UserTimelines | None = None
        if max_history is not None:
            self.timelines = read_timelines(
                self._columns,
                self._lookups,
                self.survey.user_counts.sum(axis=1),
                self.survey.block_counts.sum(axis=1),
                max_history,
            )

    @functools.cached_property
    def _lookups(self) -> tuple[IdLookup, IdLookup]:
        return (
            IdLookup("user_ids", self.survey.users),
            IdLookup("candidate_ids", self.survey.candidates),
        )

    @property
    def digest(self) -> str:
        """Differs where names, sizes, ids or their order do."""
        # Other machines have the folder elsewhere.
        return repr((self.blocks.names(), self.survey.digest))

    def reader(self, split: str) -> PartReader:
        """Returns what reads the rows of a part."""
        return PartReader(
            self._columns,
            self.moments,
            PARTS.index(split),
            self.survey.block_counts,
            *self._lookups,
            self._rating_range,
            self.timelines,
        )

    def of_users(
        self, is_chosen: np.ndarray, split: str
    ) -> tuple[Ratings, Interactions]:
        """Returns interactions of some users in a part, and those before it.

        The files are read once.

        Args:
            is_chosen: bool `(num_users,)`. Whose.
            split: str. The part.
        """
        part = PARTS.index(split)
        up_to = self.survey.block_counts[:, : part + 1]
        return interactions_of_users(
            self._columns,
            self.moments,
            self._lookups,
            is_chosen,
            np.flatnonzero(up_to.any(axis=1)),
            part,
        )
