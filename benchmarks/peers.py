"""The peers of our recipe: what else one would use to retrieve candidates.

Each peer is a function `fit(data, seed, **settings)` that learns from the
train part of a data set and returns `scores(user_rows)` -> `(batch,
num_candidates)` in NumPy. They are as short as they can be: the tables of
`bench_recipe.py` compare what is retrieved, not how quickly.
"""

import dataclasses
import itertools
from collections.abc import Callable

import keras
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

import keras_dp_retrieval as kdr

# EASE inverts a matrix of candidates x candidates: at 12,000, 0.6 GB and
# minutes on one core; at 20,000 five times that.
MOST_EASE_CANDIDATES = 12_000


class Unavailable(Exception):
    """This peer cannot run here; the message says why."""


def matrix(data) -> scipy.sparse.csr_matrix:
    """Interactions, 0 or 1: float32 `(num_users, num_candidates)`."""
    seen = data.seen
    found = scipy.sparse.csr_matrix(
        (np.ones(len(seen), "float32"), seen.candidate_rows, seen.indptr),
        shape=(data.num_users, data.num_candidates),
    )
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def dot_products(user_vectors, candidate_vectors) -> Callable:
    """`scores` of two tables of vectors."""
    return lambda rows: user_vectors[rows] @ candidate_vectors.T


def model_scores(model) -> Callable:
    """`scores` of a model of ours."""
    candidates = keras.ops.convert_to_numpy(model.candidate_vectors())
    never_listed = ~model.retrievable_mask()

    def scores(rows):
        rows = np.asarray(rows, "int32")
        users = keras.ops.convert_to_numpy(model.user_vectors(rows))
        found = users @ candidates.T
        found[:, never_listed] = -np.inf
        return found

    return scores


def popularity(data, seed):
    """The same for everyone: candidates by their number of users."""
    counts = np.asarray(matrix(data).sum(axis=0), "float32")
    return lambda rows: np.repeat(counts, len(rows), axis=0)


def item_knn(data, seed, *, neighbours, shrink):
    """Candidates similar to the user's items, by cosine.

    Sarwar et al., Item-based collaborative filtering recommendation
    algorithms, WWW 2001; the shrinkage of small overlaps as in Bell and
    Koren, Improved neighborhood-based collaborative filtering, 2007.
    """
    seen = matrix(data)
    overlaps = (seen.T @ seen).tocoo()
    norms = np.sqrt(np.asarray(seen.sum(axis=0)).ravel())
    keep = overlaps.row != overlaps.col
    rows, columns = overlaps.row[keep], overlaps.col[keep]
    similar = overlaps.data[keep] / (norms[rows] * norms[columns] + shrink)
    # Each candidate keeps its nearest: those of row r come first in it.
    order = np.lexsort((-similar, rows))
    starts = np.searchsorted(rows[order], np.arange(data.num_candidates))
    rank = np.arange(len(order)) - starts[rows[order]]
    order = order[rank < neighbours]
    nearest = scipy.sparse.csr_matrix(
        (similar[order], (columns[order], rows[order])), dtype="float32"
    )
    nearest.resize(data.num_candidates, data.num_candidates)
    return lambda users: (seen[users] @ nearest).toarray()


def ease(data, seed, *, l2):
    """Linear weights from candidate to candidate, in closed form.

    Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019.
    """
    if data.num_candidates > MOST_EASE_CANDIDATES:
        raise Unavailable(
            f"{data.num_candidates:,} candidates: their matrix is too large"
        )
    seen = matrix(data)
    gram = (seen.T @ seen).toarray()
    gram[np.diag_indices_from(gram)] += l2
    weights = np.linalg.inv(gram)
    weights /= -np.diag(weights)
    np.fill_diagonal(weights, 0.0)
    return lambda rows: seen[rows] @ weights


def gf_cf(data, seed, *, rank, share):
    """Neighbours by normalised overlap, plus an ideal low-pass filter.

    Shen et al., How powerful is graph convolution for recommendation?, CIKM
    2021.
    """
    seen = matrix(data)
    by_user = np.maximum(np.asarray(seen.sum(axis=1)).ravel(), 1) ** -0.5
    by_candidate = np.maximum(np.asarray(seen.sum(axis=0)).ravel(), 1) ** -0.5
    scaled = scipy.sparse.diags(by_user) @ seen
    scaled = (scaled @ scipy.sparse.diags(by_candidate)).tocsr()
    start = np.random.default_rng(seed).normal(size=min(scaled.shape))
    _, _, basis = scipy.sparse.linalg.svds(scaled, k=rank, v0=start)
    left = (basis * by_candidate).T.astype("float32")
    right = (basis / by_candidate).astype("float32")
    overlaps = (scaled.T @ scaled).tocsr()

    def scores(rows):
        smooth = (seen[rows] @ left) @ right
        return (seen[rows] @ overlaps).toarray() + share * smooth

    return scores


def ials(data, seed, *, dim, l2, unobserved, sweeps=6):
    """Alternating least squares, regularised in proportion to the counts.

    Rendle et al., Revisiting the performance of iALS on item recommendation
    benchmarks, RecSys 2022: everything unobserved is a 0 of weight
    `unobserved`, and a row with n interactions is regularised by
    `l2 * (n + unobserved * columns)`.
    """
    each = ials_sweeps(data, seed, dim=dim, l2=l2, unobserved=unobserved)
    *_, scores = itertools.islice(each, sweeps)
    return scores


def ials_sweeps(data, seed, *, dim, l2, unobserved):
    """Yields the `scores` of `ials` after each sweep, for as long as asked."""
    seen = matrix(data)
    sides = seen, seen.T.tocsr()
    rng = np.random.default_rng(seed)
    candidates = rng.normal(0, 0.1 / dim**0.5, (data.num_candidates, dim))
    candidates = candidates.astype("float32")
    while True:
        users = _least_squares(sides[0], candidates, l2, unobserved)
        candidates = _least_squares(sides[1], users, l2, unobserved)
        yield dot_products(users, candidates)


def _least_squares(seen, others, l2, unobserved):
    dim = others.shape[1]
    everything = unobserved * others.T @ others
    found = np.zeros((seen.shape[0], dim), "float32")
    for row in np.flatnonzero(np.diff(seen.indptr)):
        own = others[seen.indices[seen.indptr[row] : seen.indptr[row + 1]]]
        system = everything + own.T @ own
        weight = l2 * (len(own) + unobserved * len(others))
        system[np.diag_indices(dim)] += weight
        found[row] = np.linalg.solve(system, own.sum(axis=0))
    return found


def implicit_als(data, seed, *, factors, regularization, alpha):
    """`AlternatingLeastSquares` of the package `implicit`."""
    return _implicit(
        data,
        seed,
        "als.AlternatingLeastSquares",
        factors=factors,
        regularization=regularization,
        alpha=alpha,
        iterations=15,
    )


def implicit_bpr(
    data, seed, *, factors, learning_rate, regularization, iterations
):
    """`BayesianPersonalizedRanking` of the package `implicit`."""
    return _implicit(
        data,
        seed,
        "bpr.BayesianPersonalizedRanking",
        factors=factors,
        learning_rate=learning_rate,
        regularization=regularization,
        iterations=iterations,
    )


def _implicit(data, seed, name, **settings):
    try:
        import implicit.cpu.als
        import implicit.cpu.bpr
    except ImportError as error:
        raise Unavailable(f"pip install implicit ({error})") from error
    module, name = name.split(".")
    make = getattr(getattr(implicit.cpu, module), name)
    # With more than one thread BPR's result depends on the race.
    model = make(**settings, random_state=seed, num_threads=1)
    model.fit(matrix(data), show_progress=False)
    return dot_products(model.user_factors, model.item_factors)


def tutorial(data, seed):
    """The recipe of the Keras tutorial: squared error of the rating.

    keras.io, "Retrieval with data parallel training": two tables of 32
    columns, Adagrad, 50 epochs in batches of 1,000. Not tuned.
    """
    keras.utils.set_random_seed(seed)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 32, objective="rating")
    model.compile(optimizer=keras.optimizers.Adagrad(0.2))
    model.fit(data.train, epochs=50, verbose=0)
    return model_scores(model)


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer and its settings.

    Args:
        fit: As in the head of this file.
        grid: dict. Setting to the values that `--tune` tries, all with all.
        chosen: dict. Protocol to the settings that were best on validation.
        small_grid: dict. As `grid`, for synthetic data: there each
            data set has its own best, found again in every run.
    """

    fit: Callable
    grid: dict = dataclasses.field(default_factory=dict)
    chosen: dict = dataclasses.field(default_factory=dict)
    small_grid: dict = dataclasses.field(default_factory=dict)

    def settings(self, small: bool = False) -> list[dict]:
        """All settings of a grid."""
        grid = self.small_grid if small else self.grid
        values = itertools.product(*grid.values())
        return [dict(zip(grid, each, strict=True)) for each in values]


# `chosen` had the best NDCG@10 on validation of all settings that were tried
# with `bench_recipe.py --tune --seeds 42`. Test parts had no say. Not all
# corners of the grids were: values were added where the best stood at an edge.
PEERS = {
    "popularity": Peer(popularity),
    "tutorial": Peer(tutorial),
    "item-kNN": Peer(
        item_knn,
        {"neighbours": (50, 100, 200, 400), "shrink": (0, 20)},
        {
            "p1": {"neighbours": 200, "shrink": 20},
            "p2": {"neighbours": 400, "shrink": 0},
        },
        {"neighbours": (50, 200), "shrink": (0, 20)},
    ),
    "BPR (implicit)": Peer(
        implicit_bpr,
        {
            "factors": (64,),
            "learning_rate": (0.01, 0.02, 0.05),
            "regularization": (0.01, 0.05, 0.1, 0.2),
            "iterations": (100,),
        },
        {
            "p1": {
                "factors": 64,
                "learning_rate": 0.01,
                "regularization": 0.1,
                "iterations": 100,
            },
            "p2": {
                "factors": 64,
                "learning_rate": 0.02,
                "regularization": 0.05,
                "iterations": 100,
            },
        },
    ),
    "GF-CF": Peer(
        gf_cf,
        {"rank": (64, 128), "share": (0.1, 0.2, 0.4, 0.8)},
        {
            "p1": {"rank": 64, "share": 0.4},
            "p2": {"rank": 64, "share": 0.8},
        },
    ),
    "ALS (implicit)": Peer(
        implicit_als,
        {
            "factors": (64, 128),
            "regularization": (3.0, 10.0, 30.0, 60.0),
            "alpha": (1.0, 2.0, 5.0, 10.0),
        },
        {
            "p1": {"factors": 128, "regularization": 30.0, "alpha": 5.0},
            "p2": {"factors": 64, "regularization": 10.0, "alpha": 1.0},
        },
    ),
    "iALS": Peer(
        ials,
        {
            "dim": (64,),
            "l2": (0.0025, 0.005, 0.01, 0.02, 0.03),
            "unobserved": (0.1, 0.2, 0.4, 0.8, 1.6),
        },
        {
            "p1": {"dim": 64, "l2": 0.02, "unobserved": 0.2},
            "p2": {"dim": 64, "l2": 0.0025, "unobserved": 1.6},
        },
        {"dim": (64,), "l2": (0.003, 0.01, 0.02), "unobserved": (0.05, 0.2)},
    ),
    "EASE": Peer(
        ease,
        {"l2": (50.0, 100.0, 150.0, 250.0, 350.0, 500.0)},
        {"p1": {"l2": 250.0}, "p2": {"l2": 100.0}},
        {"l2": (10.0, 50.0, 250.0)},
    ),
}
