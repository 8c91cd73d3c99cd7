"""FAISS' indexes: how each kind is built, and searched more widely."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval import _checks

KINDS = ("flat", "ivf", "hnsw")

# FAISS advises so many vectors for each list.
_LEAST_A_LIST = 39

# Vectors that the lists are found from, for each list; FAISS takes no more.
_MOST_A_LIST = 256


def faiss():
    """The module `faiss`, an extra."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "Approximate search needs FAISS. Install it with `pip install "
            "'keras-dp-retrieval[index]'`."
        ) from error
    return faiss


@dataclasses.dataclass(frozen=True)
class FaissSettings:
    """How an index of FAISS is built and searched.

    Args:
        kind: One of `KINDS`.
        options: dict of the options of this kind, as in `FaissIndex`.
    """

    kind: str
    options: dict

    @property
    def is_approximate(self) -> bool:
        """Whether it may miss some of the best."""
        return self.kind != "flat"

    def build(self, vectors: np.ndarray):
        """Returns an index of vectors, float32 `(num_candidates, dim)`."""
        library, dim = faiss(), vectors.shape[1]
        product = library.METRIC_INNER_PRODUCT
        if self.kind == "flat":
            index = library.IndexFlat(dim, product)
        elif self.kind == "hnsw":
            index = library.IndexHNSWFlat(
                dim, self.options["num_links"], product
            )
            index.hnsw.efConstruction = self.options["build_effort"]
            index.hnsw.efSearch = self.options["search_effort"]
        else:
            num_lists = self.options["num_lists"]
            lists = library.IndexFlat(dim, product)
            index = library.IndexIVFFlat(lists, dim, num_lists, product)
            index.own_fields = True
            lists.this.disown()
            index.nprobe = self.options["num_probes"]
            some = np.random.default_rng(0).permutation(len(vectors))
            index.train(vectors[np.sort(some[: num_lists * _MOST_A_LIST])])
        index.add(vectors)
        return index

    def parameters(self, selector, width: int, factor: float):
        """FAISS' parameters of a search.

        Args:
            selector: Optional `faiss.IDSelector`.
            width: int. How many candidates are wanted.
            factor: float. How many times as widely as usual to search.
        """
        library = faiss()
        if self.kind == "flat":
            return library.SearchParameters(sel=selector)
        if self.kind == "hnsw":
            effort = math.ceil(self.options["search_effort"] * factor)
            return library.SearchParametersHNSW(
                sel=selector, efSearch=max(effort, width)
            )
        probes = math.ceil(self.options["num_probes"] * factor)
        probes = min(probes, self.options["num_lists"])
        return library.SearchParametersIVF(sel=selector, nprobe=probes)


def settings_of(
    kind: str,
    num_candidates: int,
    *,
    num_lists: int | None = None,
    num_probes: int | None = None,
    num_links: int = 32,
    build_effort: int = 200,
    search_effort: int = 128,
) -> FaissSettings:
    """The settings of a kind of index, whose defaults follow its size."""
    options: dict = {}
    if kind == "ivf":
        if num_lists is None:
            most = max(num_candidates // _LEAST_A_LIST, 1)
            num_lists = min(round(4 * num_candidates**0.5), most)
        if num_probes is None:
            num_probes = max(num_lists // 16, 16)
        options = {"num_lists": num_lists, "num_probes": num_probes}
    elif kind == "hnsw":
        options = {
            "num_links": num_links,
            "build_effort": build_effort,
            "search_effort": search_effort,
        }
    options = {
        name: _checks.positive_int(name, value)
        for name, value in options.items()
    }
    if options.get("num_lists", 0) > num_candidates:
        raise ValueError(
            "`num_lists` must be no more than there are candidates. "
            f"Received: {num_lists} for {num_candidates}."
        )
    return FaissSettings(kind, options)
