"""The search behind the server: exact, or by FAISS."""

import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.index import CandidateIndex, FaissIndex
from keras_dp_retrieval.index.exact import top_k
from keras_dp_retrieval.index.faiss_kinds import KINDS
from keras_dp_retrieval.model import id_rows

EXACT = "exact"
SEARCHES = (EXACT, *KINDS)


def search_of(model, candidate_vectors, kind: str):
    """Returns a search of a kind in `SEARCHES`."""
    if kind == EXACT:
        return ExactSearch(candidate_vectors)
    return FaissSearch(model, kind)


class ExactSearch:
    """Exact search on the device, of one shape for each of its arguments.

    Args:
        candidate_vectors: `(num_candidates, dim)`.
    """

    def __init__(self, candidate_vectors):
        self._candidates = candidate_vectors

    def __call__(self, vectors, k: int, excluded_rows, mask):
        """Returns table rows and scores, `(batch, k)`, padded with -1.

        Args:
            vectors: `(batch, dim)`.
            k: int.
            excluded_rows: int32 `(batch, width)`, padded with -1.
            mask: `CandidateMask`.
        """
        scores, rows = top_k(
            vectors,
            self._candidates,
            k,
            excluded_rows=excluded_rows,
            allowed=mask.on_device,
        )
        return np.asarray(rows), np.asarray(scores)


class FaissSearch:
    """Search by `FaissIndex` on the CPU, which knows rows of its own.

    Where it falls back to exact search, new shapes are compiled.

    Args:
        model: `TwoTowerRetrieval`.
        kind: str. As in `FaissIndex`.
    """

    def __init__(self, model, kind: str):
        index = model.candidate_index
        if not isinstance(index, CandidateIndex):
            index = CandidateIndex.from_vectors(
                model.retrievable_ids(), model.encode_candidates()
            )
        self._catalogue = FaissIndex(index, kind).catalogue()
        ids = self._catalogue.ids.array
        self._table_rows = id_rows.candidate_rows(model, ids)
        self._rows = np.full(model.num_candidates, PADDING, "int32")
        self._rows[self._table_rows] = np.arange(len(ids))

    def __call__(self, vectors, k: int, excluded_rows, mask):
        """As `ExactSearch`."""
        excluded = np.where(
            excluded_rows >= 0, self._rows[excluded_rows], PADDING
        )
        allowed = None
        if not mask.is_everything:
            allowed = mask.allowed[self._table_rows]
        scores, rows = self._catalogue.best_rows(
            np.asarray(vectors), k, excluded, allowed
        )
        return np.where(rows >= 0, self._table_rows[rows], PADDING), scores
