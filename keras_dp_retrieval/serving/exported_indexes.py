"""Indexes of FAISS as files."""

import numpy as np

from keras_dp_retrieval.index.faiss_kinds import KINDS, faiss, settings_of


def write(exact, folder) -> dict:
    """Writes an index of each kind, and the ids of their positions.

    Args:
        exact: `CandidateIndex`.
        folder: Path.

    Returns:
        dict from a kind to its settings.
    """
    folder.mkdir()
    np.save(folder / "ids.npy", exact.ids())
    vectors, settings = exact.vectors(), {}
    for kind in KINDS:
        one = settings_of(kind, len(exact))
        faiss().write_index(one.build(vectors), str(folder / f"{kind}.faiss"))
        settings[kind] = one.options
    return settings
