"""FaissIndex: approximate search by FAISS, as exact as it must be."""

import numpy as np

from keras_dp_retrieval import _checks
from keras_dp_retrieval.index import search_index
from keras_dp_retrieval.index.candidate_index import CandidateIndex
from keras_dp_retrieval.index.faiss_catalogue import (
    FaissCatalogue,
    SearchCounts,
)
from keras_dp_retrieval.index.faiss_kinds import KINDS, faiss, settings_of
from keras_dp_retrieval.index.sorted_ids import as_ids


class FaissIndex:
    """Approximate search among candidates, with FAISS on the CPU.

    It takes the place of a `CandidateIndex` in `recommend(index=...)`, and
    needs the extra `index` (`pip install 'keras-dp-retrieval[index]'`).

    Filters hold inside of FAISS' search. Where few candidates are allowed, it
    looks at as many more as are not: 10 times as many where a tenth is. A
    query that gets fewer than it could is asked again, four times as wide; if
    that is not enough, or less than a sixteenth of the candidates are allowed,
    it is answered by exact search. `report()` says how often.

    Candidates can be added, replaced and removed while others search: new
    vectors are added to FAISS' index, old ones hidden. When more are hidden
    than not, FAISS' index is built anew. Updates must come from one thread.

    Example:

    ```python
    index = kdr.FaissIndex(model.build_index(), "hnsw")
    index.measure_recall(model.encode_users(some_users))
    ids, scores = model.recommend([1, 2, 3], index=index)
    print(index.report())  # {"recalls": {10: 0.998, 100: 0.991}, ...}
    ```

    Args:
        index: `CandidateIndex`. Its candidates as they are now.
        kind: str. `"hnsw"` is a graph of neighbours: quick to search, slow to
            build. `"ivf"` divides the candidates into lists and searches those
            nearest to the query. `"flat"` scores them all.
        num_lists: Optional int, of `"ivf"` (FAISS' `nlist`). By default about
            4 times the root of the number of candidates.
        num_probes: Optional int, of `"ivf"` (`nprobe`): lists to search. By
            default a sixteenth, and 16 at least.
        num_links: int, of `"hnsw"` (`M`): neighbours of a candidate.
        build_effort: int, of `"hnsw"` (`efConstruction`).
        search_effort: int, of `"hnsw"` (`efSearch`): candidates to follow at a
            time.
    """

    def __init__(
        self,
        index: CandidateIndex,
        kind: str = "hnsw",
        *,
        num_lists: int | None = None,
        num_probes: int | None = None,
        num_links: int = 32,
        build_effort: int = 200,
        search_effort: int = 128,
    ):
        faiss()  # Raises where there is none.
        _checks.instance("index", index, CandidateIndex)
        if not len(index):
            raise ValueError(
                "`index` must have candidates. Received: an empty index."
            )
        self.kind = _checks.one_of("kind", kind, KINDS)
        self.settings = settings_of(
            kind,
            len(index),
            num_lists=num_lists,
            num_probes=num_probes,
            num_links=num_links,
            build_effort=build_effort,
            search_effort=search_effort,
        )
        self.embedding_dimension = index.embedding_dimension
        self._exact = index.copy()
        self._recalls: dict[int, float] = {}
        self._counts = SearchCounts()
        self._catalogue = FaissCatalogue.built(
            self._exact.catalogue(), self.settings, self._counts
        )

    def search(
        self, query_vectors, k: int = 10, *, exclude=None, allowed_ids=None
    ):
        """The `k` best candidates for each query, or nearly.

        Arguments and results are those of `CandidateIndex.search`.
        """
        return search_index.search(
            self._catalogue,
            query_vectors,
            k,
            exclude=exclude,
            allowed_ids=allowed_ids,
        )

    def catalogue(self) -> FaissCatalogue:
        """The candidates at this moment, which no update changes."""
        return self._catalogue

    def ids(self) -> np.ndarray:
        """All ids in rising order, int64 or str, `(num_candidates,)`."""
        return self._exact.ids()

    def __len__(self) -> int:
        return len(self._exact)

    # Live updates

    def add(self, candidate_ids, vectors) -> None:
        """Adds candidates that are not in the index yet.

        Args:
            candidate_ids: Integers or strings, shape `(num_added,)`.
            vectors: Floats, shape `(num_added, dim)`.

        Raises:
            ValueError: As in `CandidateIndex.add`. The index stays as it was.
        """
        self._exact.add(candidate_ids, vectors)
        self._update(candidate_ids)

    def replace(self, candidate_ids, vectors) -> None:
        """Gives candidates that are in the index other vectors.

        Args:
            candidate_ids: Integers or strings, shape `(num_replaced,)`.
            vectors: Floats, shape `(num_replaced, dim)`.

        Raises:
            ValueError: As in `CandidateIndex.replace`.
        """
        self._exact.replace(candidate_ids, vectors)
        self._update(candidate_ids)

    def remove(self, candidate_ids) -> None:
        """Removes candidates that are in the index, but not the last.

        Args:
            candidate_ids: Integers or strings, shape `(num_removed,)`.

        Raises:
            ValueError: If an id is not in the index or comes twice, or none
                would be left.
        """
        if len(candidate_ids) >= len(self):
            raise ValueError(
                "`remove` must leave a candidate in the index. Received: "
                f"{len(candidate_ids)} of {len(self)} ids."
            )
        self._exact.remove(candidate_ids)
        self._update([])

    def _update(self, new_ids) -> None:
        """Has FAISS follow the exact index, whose `new_ids` have changed."""
        exact = self._exact.catalogue()
        new_rows = exact.ids.rows(as_ids("candidate_ids", new_ids))
        self._catalogue = self._catalogue.following(exact, new_rows)

    # What it costs in exactness

    def measure_recall(self, query_vectors, ks=(10, 100)) -> dict[int, float]:
        """Which share of the true best k it finds, for each of `ks`.

        It is also in `report()` from now on.

        Args:
            query_vectors: Floats, shape `(batch, dim)`, such as
                `model.encode_users(users)`.
            ks: Ints. Those beyond the number of candidates are left out.

        Returns:
            dict from k to a share of 1, the mean over the queries.
        """
        most = len(self)
        ks = [_checks.positive_int("ks", k) for k in ks]
        ks = [k for k in ks if k <= most]
        recalls = {}
        for k in ks:
            found, _ = search_index.search(
                self._catalogue.uncounted(), query_vectors, k
            )
            best, _ = self._exact.search(query_vectors, k)
            recalls[k] = float(
                np.mean(
                    [
                        np.isin(one, other).mean()
                        for one, other in zip(best, found, strict=True)
                    ]
                )
            )
        self._recalls = {**self._recalls, **recalls}
        return recalls

    def report(self) -> dict:
        """What the index is, how well it finds, and what its filters cost.

        Returns:
            dict: `"kind"`, `"num_candidates"`, `"settings"`, `"recalls"` (as
            measured last, a dict from k), and since it was made
            `"num_queries"`, `"num_widened"`, how many of them were searched
            wider than usual, and `"num_exact"`, how many were answered by
            exact search.
        """
        return {
            "kind": self.kind,
            "num_candidates": len(self),
            "settings": dict(self.settings.options),
            "recalls": dict(self._recalls),
            **self._counts.as_dict(),
        }
