"""What a data set says of itself: its config, its fingerprint, its text."""

import hashlib
from collections.abc import Mapping

import numpy as np

from keras_dp_retrieval.data.divided import Divided
from keras_dp_retrieval.data.features import Features
from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.raw_data import RawData

# The options that decide what is trained on.
_OF_FINGERPRINT = (
    "split",
    "seed",
    "test_fraction",
    "validation_fraction",
    "validation_in_train",
)


def raw_data_config(raw: RawData) -> dict:
    """Interactions, titles and features as plain lists, for JSON."""
    return {
        **raw.interactions.as_lists(),
        "test": raw.test and list(raw.test.as_lists().values()),
        "validation": raw.validation
        and list(raw.validation.as_lists().values()),
        # Pairs, as JSON would make strings of whole-number keys.
        "candidate_titles": [
            [key.item() if isinstance(key, np.generic) else key, title]
            for key, title in raw.titles.items()
        ],
        **{
            name: None if table is None else Features(table).get_config()
            for name, table in (
                ("user_features", raw.user_features),
                ("candidate_features", raw.candidate_features),
            )
        },
    }


def fingerprint(train: Ratings, source: str, options: Mapping) -> dict:
    """See `RetrievalDataset.fingerprint`.

    Args:
        train: `Ratings` that are trained on.
        source: str. Where they are from.
        options: The options of the data set.
    """
    rows = hashlib.sha256()
    for column in (train.user_rows, train.candidate_rows):
        rows.update(column.astype("int32").tobytes())
    if train.weights is not None:
        rows.update(train.weights.tobytes())
    newest = None
    if train.timestamps is not None:
        newest = int(train.timestamps.max())
    return {
        "data": source,
        "train": rows.hexdigest(),
        "newest": newest,
        **{name: options[name] for name in _OF_FINGERPRINT},
    }


def in_short(kind: str, source: str, options: Mapping, is_synthetic) -> str:
    """Returns the `repr` of a data set, which reads no data."""
    synthetic = ", SYNTHETIC data" if is_synthetic else ""
    split = f"split={options['split']!r}"
    if options["split"] == "tutorial":
        split += " (validation and test are the same rows)"
    return (
        f"<{kind}: {source}, {split}, batch_size={options['batch_size']}, "
        f"seed={options['seed']}{synthetic}>"
    )


def sizes(divided: Divided, source: str, split: str, is_synthetic) -> str:
    """Returns a line on how much of what a data set holds."""
    of_parts = ", ".join(
        f"{len(divided.ratings(part)):,} {part}" for part in PARTS
    )
    return (
        f"{source}"
        f"{' (SYNTHETIC data)' if is_synthetic else ''}: "
        f"{divided.num_users - 1:,} users, {divided.num_candidates - 1:,} "
        f"candidates; split {split!r}: {of_parts}"
        f"{'; ' + divided.note if divided.note else ''}"
    )
