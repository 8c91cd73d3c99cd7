"""Why a candidate is recommended: which items of the history it is like."""

import numpy as np

from keras_dp_retrieval.model import id_rows

# The latest items of a history that are compared.
MOST_ITEMS = 512


class Likeness:
    """How alike candidates are: the cosine of their vectors.

    Args:
        model: `TwoTowerRetrieval`.
        candidate_vectors: `(num_candidates, dim)`, as the model returns them.
    """

    def __init__(self, model, candidate_vectors):
        self._model = model
        # On CPUs no copy.
        self._vectors = np.asarray(candidate_vectors)
        # The last coordinate of those with a bias says how popular they are.
        self._dim = self._vectors.shape[1] - bool(model.popularity_weight)

    def nearest(self, rows, history_rows, number: int) -> list[list[tuple]]:
        """For each candidate the items of a history that are most like it.

        Args:
            rows: int `(k,)`. Table rows of candidates.
            history_rows: int `(length,)`, padded with -1.
            number: int. Items to name.

        Returns:
            For each candidate a list of `(candidate id, cosine)`, the most
            alike first.
        """
        history_rows = history_rows[history_rows >= 0][-MOST_ITEMS:]
        history_rows = np.unique(history_rows)
        if not len(history_rows):
            return [[] for _ in rows]
        # In this thread alone: a product would wait for BLAS' other threads,
        # whose cores the searches of the next batch have.
        cosines = np.einsum(
            "kd,hd->kh", self._units(rows), self._units(history_rows)
        )
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :number]
        ids = id_rows.candidate_ids(self._model, history_rows)[nearest]
        found = np.take_along_axis(cosines, nearest, axis=1)
        return [
            list(zip(of_one.tolist(), likeness.tolist(), strict=True))
            for of_one, likeness in zip(ids, found, strict=True)
        ]

    def _units(self, rows) -> np.ndarray:
        vectors = self._vectors[rows, : self._dim].astype("float32")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(lengths, 1e-12)
