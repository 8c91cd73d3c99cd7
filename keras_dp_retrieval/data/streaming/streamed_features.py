"""Features of a streamed data set: in memory, as the ids are."""

from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import arguments
from keras_dp_retrieval.data.features import EncodedFeatures, Features
from keras_dp_retrieval.data.features.feature_table import FeatureTable
from keras_dp_retrieval.data.streaming.survey import IDS
from keras_dp_retrieval.data.vocabulary import Vocabulary

SIDES = dict(zip(IDS, ("user", "candidate"), strict=True))


class StreamedFeatures:
    """Tables of features, which are read at once and encoded when asked for.

    Args:
        user_features: What `Features.of` takes, or None.
        candidate_features: Likewise.

    Attributes:
        tables: dict from `"user"` and `"candidate"` to a `FeatureTable`, or
            None without features.
    """

    def __init__(self, user_features=None, candidate_features=None):
        given = {"user": user_features, "candidate": candidate_features}
        self._given = {
            side: None if one is None else Features.of(one)
            for side, one in given.items()
        }
        self.tables: dict[str, FeatureTable | None] = {
            side: arguments.feature_table(side, one)
            for side, one in self._given.items()
        }

    def check_type(self, key: str, ids: np.ndarray) -> None:
        """Brings ids of features to the type of the interactions'.

        Args:
            key: str. `"user_ids"` or `"candidate_ids"`.
            ids: `(n,)`. Some of the interactions.

        Raises:
            ValueError: If they are of another type.
        """
        side = SIDES[key]
        table = self.tables[side]
        if table is not None:
            self.tables[side] = arguments.with_ids_like(side, table, ids)

    def vocabulary(
        self, key: str, ids: np.ndarray, given: Vocabulary | None
    ) -> Vocabulary:
        """Returns who has a row: whom the files have, and who has features.

        Args:
            key: str. `"user_ids"` or `"candidate_ids"`.
            ids: `(n,)`. All of the interactions.
            given: Optional `Vocabulary`: all there are.

        Raises:
            ValueError: If somebody with features is not among those given.
        """
        table = self.tables[SIDES[key]]
        if table is None:
            return given or Vocabulary(ids)
        if given is None:
            return Vocabulary.from_ids(ids, table.ids)
        others = table.ids[given.rows(table.ids) == 0]
        if len(others):
            raise ValueError(
                f"`{key}` must have every id with features. Received: "
                f"{len(others):,} others in `{SIDES[key]}_features`, such as "
                f"{_checks.shown(others[0])}. Add them, leave `{key}` out, or "
                "leave their rows out."
            )
        return given

    def encoded(
        self, side: str, vocabulary: Vocabulary, train_counts: np.ndarray
    ) -> EncodedFeatures | None:
        """Returns the encoded features of a side; None without any.

        Args:
            side: `"user"` or `"candidate"`.
            vocabulary: `Vocabulary`.
            train_counts: int `(num_rows,)`. Interactions in the train part:
                the encoders are fitted on the rows that have some.
        """
        table = self.tables[side]
        if table is None:
            return None
        return EncodedFeatures.of(table, vocabulary, train_counts > 0)

    def get_config(self) -> Mapping:
        """The arguments; files by their path, all else as lists."""
        return {
            f"{side}_features": None if one is None else one.get_config()
            for side, one in self._given.items()
        }

    @staticmethod
    def from_config(config: Mapping) -> dict:
        """Returns the arguments of a data set with `Features` of their own."""
        made = {
            name: Features.from_config(config[name])
            for name in ("user_features", "candidate_features")
            if config.get(name) is not None
        }
        return {**config, **made}

    def __str__(self) -> str:
        """Which columns there are, for a description; may be empty."""
        return ", ".join(
            f"features of {side}s: {', '.join(table.columns)}"
            for side, table in self.tables.items()
            if table is not None
        )
