"""A data set from a file of any kind: what is not said follows from the file.

The methods of `RetrievalDataset` read what they are asked to; the command line
asks for as little as it can. So here columns are found by their names, the
split and the scale of the ratings by what the columns hold, and the
description of the data set says what was chosen.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.raw_data import RawRatings
from keras_dp_retrieval.data.readers import tables
from keras_dp_retrieval.data.readers.column_names import AUTO
from keras_dp_retrieval.data.readers.file_kinds import is_parquet
from keras_dp_retrieval.data.readers.text_conditions import typed_conditions
from keras_dp_retrieval.data.readers.title_files import read_titles

# What to call a column by that is not to be read.
NONE = "none"

# What `RetrievalDataset` takes ratings to be, unless it is given.
USUAL_RANGE = (1.0, 5.0)


@dataclasses.dataclass(frozen=True)
class FileReading:
    """How a file of interactions is read.

    The fingerprint of the data set has it, and so does the file of a model
    that is trained on it: so that the same rows can be read again.

    Args:
        user_column: str, or `"auto"` to have it found. Likewise the others.
        candidate_column: str.
        rating_column: str; `"none"` leaves ratings out. Likewise the next.
        timestamp_column: str.
        weight_column: str.
        conditions: `(name, operator, value)` of each condition that rows must
            meet; see `text_conditions.parse_conditions`.
        repeated: str. As in `RetrievalDataset.from_csv`.
        rating_range: Optional `(lowest, highest)`. By default 1 to 5, or from
            the lowest rating to the highest if one of them lies beyond.
    """

    user_column: str = AUTO
    candidate_column: str = AUTO
    rating_column: str = AUTO
    timestamp_column: str = AUTO
    weight_column: str = NONE
    conditions: tuple = ()
    repeated: str = "keep"
    rating_range: tuple[float, float] | None = None

    @classmethod
    def of(cls, given: Mapping, *, otherwise: Mapping) -> "FileReading":
        """Returns what was given; of what is None, what `otherwise` has."""
        names = [field.name for field in dataclasses.fields(cls)]
        chosen = {
            name: given[name]
            if given.get(name) is not None
            else otherwise[name]
            for name in names
            if given.get(name) is not None or name in otherwise
        }
        for name in ("conditions", "rating_range"):  # JSON has lists.
            if chosen.get(name) is not None:
                chosen[name] = tuple(
                    tuple(one) if isinstance(one, list) else one
                    for one in chosen[name]
                )
        return cls(**chosen)

    def as_json(self) -> dict:
        """Returns what `of` takes, of lists and plain values."""
        values = dataclasses.asdict(self)
        values["conditions"] = [list(one) for one in self.conditions]
        if self.rating_range is not None:
            values["rating_range"] = list(self.rating_range)
        return values

    def request(self, path) -> tables.Request:
        """Returns the same as the readers take it."""
        optional = (
            self.rating_column,
            self.timestamp_column,
            self.weight_column,
        )
        return tables.Request.of(
            self.user_column,
            self.candidate_column,
            *(None if name == NONE else name for name in optional),
            filters=typed_conditions(path, self.conditions) or None,
            repeated=self.repeated,
        )


def dataset_from_file(
    path,
    reading: FileReading,
    *,
    candidates=None,
    title_column: str = AUTO,
    split: str | None = None,
    **options,
) -> RetrievalDataset:
    """Makes a data set from a CSV or Parquet file, or a folder of the latter.

    Args:
        path: Path of the file or folder.
        reading: `FileReading`.
        candidates: Optional path of a CSV or Parquet file with titles; see
            `title_files.read_titles`.
        title_column: str.
        split: Optional str. By default `"by_time"` where there are timestamps
            of different times, else `"random"`.
        **options: As in `RetrievalDataset`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is damaged, has other columns, or something in
            them does not fit.
    """
    request = reading.request(path)
    read = tables.from_parquet if is_parquet(path) else tables.from_csv
    raw, *notes = read(path, request)
    raw, rating_range, note = _with_scale(raw, reading.rating_range)
    notes.append(note)
    if candidates is not None:
        options["candidate_titles"], note = read_titles(
            candidates,
            raw.candidates.ids,
            candidate_column=reading.candidate_column,
            title_column=title_column,
        )
        notes.append(note)
    if split is None:
        split, note = _usual_split(raw.timestamps)
        notes.append(note)
    options.update(split=split, rating_range=rating_range)
    return RetrievalDataset._of_file(
        raw,
        {"name": _name(path), **reading.as_json()},
        "; ".join(filter(None, notes)),
        options,
    )


def _name(path) -> str:
    """What the file is called; which folder it is in is nobody's business."""
    return pathlib.Path(os.path.abspath(path)).name


def _with_scale(raw: RawRatings, rating_range):
    """Returns interactions, the range of their ratings, and a note on it."""
    if raw.ratings is None or rating_range is not None:
        return raw, rating_range or USUAL_RANGE, ""
    low, high = float(raw.ratings.min()), float(raw.ratings.max())
    if low == high:
        without = RawRatings(
            raw.users,
            raw.candidates,
            None,
            raw.times(),
            raw.weights,
            raw.name,
        )
        return without, USUAL_RANGE, f"ratings left out, as all are {low:g}"
    if USUAL_RANGE[0] <= low and high <= USUAL_RANGE[1]:
        return raw, USUAL_RANGE, ""
    return raw, (low, high), f"ratings from {low:g} to {high:g}"


def _usual_split(timestamps: np.ndarray | None) -> tuple[str, str]:
    """Returns the split of such interactions, and why it is that."""
    if timestamps is None:
        return "random", "split at random, as there are no timestamps"
    if timestamps.min() == timestamps.max():
        return "random", "split at random, as all timestamps are the same"
    return "by_time", "split by time, as there are timestamps"
