"""Do features find new candidates, and cost the others nothing?

MovieLens 100K, features of movies (genres, year, words of the title):

- **cold**: 20 % of the movies are held out with all their ratings (another
  20 % for each seed), and each user's are to be found: ranked among the
  held-out movies alone, and among all movies that the user has not rated.
- **warm**: the validation part of a random split, all movies in training:
  `fit_recipe` with features, and without them, paired by user.

A tie is broken at random. NDCG@10 and Recall@20, means over users.

Usage: python benchmarks/bench_features.py --data-dir FOLDER [--seeds 0 1 2]

FOLDER holds the official `ml-100k` files.
"""

import argparse
import json
import os
import platform
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval.metrics import RankingTask

COLD_SHARE = 0.2


def movielens(folder, seed):
    return kdr.MovieLensRetrievalDataset(
        source="files", data_dir=folder, features=True, seed=seed
    )


def with_cold_items(folder, seed):
    """The data set whose test part is all ratings of some movies."""
    whole = movielens(folder, seed)
    raw = whole.raw_interactions()
    users, movies, ratings = raw.user_ids, raw.candidate_ids, raw.ratings
    every = np.unique(movies)
    drawn = np.random.default_rng(seed).choice(
        every, int(COLD_SHARE * len(every)), replace=False
    )
    is_cold = np.isin(movies, drawn)
    return kdr.RetrievalDataset(
        users[~is_cold],
        movies[~is_cold],
        ratings[~is_cold],
        test=(users[is_cold], movies[is_cold], ratings[is_cold]),
        validation_fraction=0,
        candidate_features=kdr.Features(whole.raw_features("candidate")),
        candidate_key="movie_id",
        seed=seed,
    ), drawn


def random_scores(data, seed):
    rng = np.random.default_rng(seed)
    return rng.random((data.num_users, data.num_candidates))


def popularity(data, seed):
    counts = data.candidate_counts("train").astype("float64")
    return np.repeat(counts[None], data.num_users, 0)


def content_knn(data, seed):
    """Cosine of TF-IDF vectors: a candidate's, and the sum of a history's."""
    features = data.candidate_features
    blocks = []
    for name, encoder in features.schema.encoders.items():
        column = features.columns[name]
        if encoder.is_number:  # In bins, as a category.
            column = 1 + np.searchsorted(encoder.boundaries, column)
            size = len(encoder.boundaries) + 2
        else:
            size = encoder.num_indices
        block = np.zeros((data.num_candidates, size))
        rows = np.arange(data.num_candidates)
        for indices in column.reshape(len(column), -1).T:
            block[rows, indices] = 1
        blocks.append(block[:, 1:])
    table = np.concatenate(blocks, axis=1)
    table[~features.is_known] = 0
    found_in = np.maximum(table.sum(axis=0), 1)
    table *= np.log(len(table) / found_in)
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    profiles = np.zeros((data.num_users, table.shape[1]))
    train = data.ratings("train")
    np.add.at(profiles, train.user_rows, table[train.candidate_rows])
    return profiles @ table.T


def ours(data, seed):
    model = kdr.fit_recipe(data, seed, tune=False)
    users = keras.ops.convert_to_numpy(
        model.user_vectors(np.arange(data.num_users, dtype="int32"))
    )
    return users @ keras.ops.convert_to_numpy(model.candidate_vectors()).T


METHODS = {
    "random": random_scores,
    "popularity": popularity,
    "content k-NN": content_knn,
    "fit_recipe": ours,
}


def ranked(data, scores, rows, seed):
    """NDCG@10 and Recall@20 of each user, of lists among these rows."""
    ties = np.random.default_rng(seed).random(data.num_candidates)
    test, seen = data.ratings("test"), data.seen
    figures = []
    for user in np.unique(test.user_rows):
        relevant = test.candidate_rows[test.user_rows == user]
        of_user = scores[user].astype("float64").copy()
        known = seen.candidate_rows[seen.indptr[user] : seen.indptr[user + 1]]
        of_user[known] = -np.inf
        order = rows[np.lexsort((ties[rows], -of_user[rows]))]
        hits = np.isin(order[:20], relevant)
        gains = 1 / np.log2(np.arange(2, 12))
        best = gains[: len(relevant)].sum()
        figures.append(
            (
                hits[:10] @ gains[: len(hits[:10])] / best,
                hits.sum() / len(relevant),
            )
        )
    return np.mean(figures, axis=0)


def cold(folder, seeds):
    for name, method in METHODS.items():
        among_cold, among_all, seconds = [], [], []
        for seed in seeds:
            data, drawn = with_cold_items(folder, seed)
            start = time.perf_counter()
            scores = method(data, seed)
            seconds.append(time.perf_counter() - start)
            rows = data.candidate_vocabulary.rows(np.sort(drawn))
            every = np.arange(1, data.num_candidates)
            among_cold.append(ranked(data, scores, rows, seed))
            among_all.append(ranked(data, scores, every, seed))
        yield {
            "question": "cold",
            "method": name,
            "ndcg_at_10_among_cold": figure([one[0] for one in among_cold]),
            "recall_at_20_among_cold": figure([one[1] for one in among_cold]),
            "ndcg_at_10_among_all": figure([one[0] for one in among_all]),
            "recall_at_20_among_all": figure([one[1] for one in among_all]),
            "seconds": round(float(np.median(seconds)), 1),
        }


def warm(folder, seeds):
    gains, figures = [], {True: [], False: []}
    for seed in seeds:
        data = movielens(folder, seed)
        task = RankingTask.prepare(data, "validation", (10,))
        of_users = {}
        for use in (True, False):
            model = kdr.fit_recipe(
                data,
                seed,
                tune=False,
                validation_in_train=False,
                use_features=use,
            )
            of_users[use] = task.ndcg_of_users(model, 10)
            figures[use].append(of_users[use].mean())
        gains.append(of_users[True] - of_users[False])
    gains = np.concatenate(gains)
    return {
        "question": "warm",
        "ndcg_at_10_with": figure(figures[True]),
        "ndcg_at_10_without": figure(figures[False]),
        "gain": round(float(gains.mean()), 4),
        "standard_error": round(float(gains.std() / len(gains) ** 0.5), 4),
    }


def figure(values):
    return [round(float(np.mean(values)), 4), *np.round(values, 4).tolist()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    about = {
        "keras": keras.__version__,
        "python": platform.python_version(),
        "seeds": args.seeds,
    }
    for line in cold(args.data_dir, args.seeds):
        print(json.dumps({**line, **about}), flush=True)
    print(json.dumps({**warm(args.data_dir, args.seeds), **about}))


if __name__ == "__main__":
    main()
