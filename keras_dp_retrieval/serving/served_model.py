"""The model that is served, and what is made of it once."""

import dataclasses
import os
import time

import numpy as np

from keras_dp_retrieval.model import id_rows
from keras_dp_retrieval.model.two_tower import TwoTowerRetrieval
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.serving.retriever import Retriever
from keras_dp_retrieval.serving.row_searches import EXACT
from keras_dp_retrieval.serving.title_search import TitleSearch, UserSearch

# Kinds of features that filters can name, and how many values are listed.
FILTERABLE = ("categorical", "multi_label", "numeric", "date")
MOST_VALUES = 200


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model with its searches, which do not change.

    Attributes:
        model: `TwoTowerRetrieval`.
        retriever: `Retriever`.
        titles: `TitleSearch`.
        users: `UserSearch`.
        counts: int `(num_candidates,)`. How often training had each.
        version: str. What tells it from others: of which file, and when.
        loaded_at: float. Seconds since the epoch.
    """

    model: TwoTowerRetrieval
    retriever: Retriever
    titles: TitleSearch
    users: UserSearch
    counts: np.ndarray
    version: str
    loaded_at: float

    @classmethod
    def of(
        cls, model, limits: Limits, version: str = "", search: str = EXACT
    ) -> "ServedModel":
        """What is served of a model in memory."""
        return cls(
            model,
            Retriever(model, limits, search),
            TitleSearch(model),
            UserSearch(model),
            np.asarray(model.candidate_counts),
            version,
            time.time(),
        )

    @classmethod
    def load(cls, path, limits: Limits, search: str = EXACT) -> "ServedModel":
        """The same of a file; errors as of `TwoTowerRetrieval.load`."""
        version = file_version(path)
        model = TwoTowerRetrieval.load(path, compile=False)
        return cls.of(model, limits, version, search)

    def title(self, candidate_id) -> str | None:
        return self.model.candidate_titles.get(candidate_id)

    def user_id(self, text: str):
        """The id of the model's kind that a text is; None for no id."""
        return _as_kind(text, self.model.user_vocabulary)

    def candidate_id(self, text: str):
        return _as_kind(text, self.model.candidate_vocabulary)

    @property
    def num_users(self) -> int:
        """Known users: the row of unknown ones is none of them."""
        return _num_ids(self.model.user_vocabulary, self.model.num_users)

    @property
    def num_candidates(self) -> int:
        """Known candidates, likewise."""
        vocabulary = self.model.candidate_vocabulary
        return _num_ids(vocabulary, self.model.num_candidates)

    @property
    def kind_of_user_ids(self) -> str:
        """`"numbers"` or `"strings"`."""
        return (
            "strings" if _has_texts(self.model.user_vocabulary) else "numbers"
        )

    def filterable(self) -> dict[str, dict]:
        """Features of candidates that filters can name, and their values."""
        lookup = self.model.candidate_features
        if lookup is None:
            return {}
        return {
            name: {
                "kind": encoder.kind,
                "values": encoder.values[:MOST_VALUES]
                if encoder.kind in ("categorical", "multi_label")
                else None,
            }
            for name, encoder in lookup.schema.encoders.items()
            if encoder.kind in FILTERABLE
        }

    def history(self, user_id, most: int) -> tuple[list, int] | None:
        """The latest items of a user, latest first, and how many there are.

        None for a user that the model does not know.
        """
        rows, is_known = id_rows.known_user_rows(self.model, [user_id])
        if not is_known[0]:
            return None
        histories = self.model.histories
        if histories is None:
            return [], 0
        seen = histories.padded(rows)[0]
        seen = seen[seen >= 0][::-1]
        ids = id_rows.candidate_ids(self.model, seen[:most])
        return ids.tolist(), len(seen)

    def describe_candidate(self, candidate_id) -> dict | None:
        """What is known of a candidate; None if it is not known."""
        model = self.model
        rows = id_rows.known_candidate_rows(model, [candidate_id])
        if not len(rows):
            return None
        row = int(rows[0])
        return {
            "id": candidate_id,
            "title": self.title(candidate_id),
            "training_count": int(self.counts[row]),
            "retrievable": bool(
                self.retriever.masks.get(None, None).allowed[row]
            ),
        }


def file_version(path) -> str:
    """Tells a file from one that replaced it."""
    status = os.stat(path)
    name = os.path.basename(os.fspath(path))
    return f"{name}-{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"


def _num_ids(vocabulary, num_rows: int) -> int:
    return num_rows if vocabulary is None else len(vocabulary.ids)


def _has_texts(vocabulary) -> bool:
    return vocabulary is not None and vocabulary.ids.dtype.kind == "U"


def _as_kind(text: str, vocabulary):
    if _has_texts(vocabulary):
        return text if text and not text.endswith("\0") else None
    try:
        number = int(text)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None
