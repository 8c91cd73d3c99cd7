"""What a streamed data set says of itself."""

import hashlib
from typing import Any

from keras_dp_retrieval.data.parts import PARTS
from keras_dp_retrieval.data.streaming.streamed_features import (
    StreamedFeatures,
)
from keras_dp_retrieval.data.streaming.streamed_files import StreamedFiles


def num_interactions(data: Any) -> str:
    """How many there are, in words."""
    return f"{_num_rows(data):,} interactions"


def _num_rows(data: Any) -> int:
    return sum(map(data.num_rows, PARTS))


def description(
    data: Any, files: StreamedFiles, features: StreamedFeatures
) -> str:
    """What `StreamedDataset.description` says."""
    parts = ", ".join(f"{data.num_rows(part):,} {part}" for part in PARTS)
    begins = ", ".join(
        f"{part} from {moment} on"
        for part, moment in data.moments.items()
        if moment is not None
    )
    sizes = (
        f"{num_interactions(data)}, streamed: {data.num_users - 1:,} users, "
        f"{data.num_candidates - 1:,} candidates; split 'by_time': {parts}"
    )
    histories = ""
    if data.max_history is not None:
        histories = f"with histories of at most {data.max_history}"
    notes = (
        begins,
        histories,
        str(features),
        files.blocks.note,
        files.blocks.filter_note(_num_rows(data)),
    )
    return "; ".join(filter(None, (sizes, *notes)))


def fingerprint(data: Any, files: StreamedFiles) -> dict:
    """What `StreamedDataset.fingerprint` says."""
    return {
        "data": num_interactions(data),
        "train": hashlib.sha256(files.digest.encode()).hexdigest(),
        "split": data.split,
        "seed": data.seed,
        "test_fraction": data.test_fraction,
        "validation_fraction": data.validation_fraction,
        "validation_in_train": False,
        "moments": data.moments,
    }
