"""Interactions in three parts, and what they tell of users and candidates."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.leakage import LeakageReport, leakage_report
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.raw_data import RawData
from keras_dp_retrieval.data.vocabulary import Vocabulary


def vocabulary_of(raw: RawData, column: str) -> Vocabulary:
    """Returns the rows of all ids, those of a given test part included.

    Args:
        raw: `RawData`.
        column: str. `"users"` or `"candidates"`.
    """
    parts = (raw.interactions, raw.validation, raw.test)
    ids = [getattr(part, column) for part in parts if part is not None]
    features = (
        raw.user_features if column == "users" else raw.candidate_features
    )
    if features is not None:
        ids.append(features.ids)
    return Vocabulary.from_ids(*ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Divided:
    """Train, validation and test interactions, by row.

    Args:
        parts: dict from `"train"`, `"validation"` and `"test"` to `Ratings`.
        num_users: int. Rows of the user table.
        num_candidates: int. Rows of the candidate table.
        note: str. What the split has to say.
        validation_is_test: bool. Whether both are the same rows.
        earlier: Optional `Interactions` that a model was trained on before:
            they come before the train part.
    """

    parts: Mapping[str, Ratings]
    num_users: int
    num_candidates: int
    note: str = ""
    validation_is_test: bool = False
    earlier: Interactions | None = None

    def ratings(self, split: str) -> Ratings:
        """Returns the interactions of a part."""
        return self.parts[_checks.one_of("split", split, PARTS)]

    @functools.cached_property
    def leakage(self) -> LeakageReport:
        """What the test part shares with the train part."""
        return leakage_report(
            self.parts["train"], self.parts["test"], self.note
        )

    @functools.cached_property
    def seen(self) -> Interactions:
        """The interaction histories in the train part, and before it."""
        return self._histories(self.parts["train"])

    def seen_before(self, split: str) -> Interactions:
        """The interaction histories before a part, by user.

        For the test part that is train and validation, or train where both
        are the same rows; for the validation part it is train, and before the
        train part there is nothing. What is `earlier` comes before all parts.
        """
        train = self.ratings("train")
        if _checks.one_of("split", split, PARTS) == "train":
            return self._histories(train.take(slice(0)))
        if split == "validation" or self.validation_is_test:
            return self.seen
        return self._histories(train.concatenate(self.ratings("validation")))

    def _histories(self, ratings: Ratings) -> Interactions:
        found = Interactions.from_ratings(ratings, self.num_users)
        if self.earlier is None:
            return found
        return self.earlier.followed_by(found)

    def candidate_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_candidates,)` int64: interactions of each row.

        Those of the train part have what is `earlier` in them.
        """
        rows = self.ratings(split).candidate_rows
        counts = np.bincount(rows, minlength=self.num_candidates)
        if split == "train" and self.earlier is not None:
            counts += self.earlier.candidate_counts(self.num_candidates)
        return counts

    def user_counts(self, split: str = "train") -> np.ndarray:
        """Returns `(num_users,)` int64: likewise of each user."""
        rows = self.ratings(split).user_rows
        counts = np.bincount(rows, minlength=self.num_users)
        if split == "train" and self.earlier is not None:
            earlier = np.diff(self.earlier.indptr)
            counts[: len(earlier)] += earlier
        return counts
