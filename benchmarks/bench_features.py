"""Do features find new movies and new users, and cost the others nothing?

MovieLens 100K; features of movies (genres, year, words of the title) and of
users (age, gender, occupation, region). NDCG@10 and Recall@20, means over
users:

- **cold items**: 20 % of the movies are held out with all their ratings, and
  each user's are to be found: ranked among the held-out movies alone, and among
  all movies that the user has not rated.
- **cold users**: 20 % of the users are held out with all their ratings. Their
  first 0, 1, 3 and 10 are given, and what they rated after the first 10 is to
  be found, among all movies but the first 10.
- **warm**: the random split P1, all users and movies in training: `fit_recipe`
  with features, and without them, paired by user.

Another draw for each seed. A tie is broken at random.

Usage:
    python benchmarks/bench_features.py --data-dir data \\
        --lightfm-python lightfm/bin/python --dssm-python dssm/bin/python

`peers_hybrid.py` says how to make the environments of the two peers, which are
left out otherwise. `--tune` holds the movies and users out of the train part of
the first draw, and has all settings of the peers: what is in `CHOSEN` was the
best there.
"""

import argparse
import itertools
import json
import os
import platform
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import peers_features as peers
from movielens_folder import add_data_dir, ml_100k
from peers_features import Asked

import keras_dp_retrieval as kdr
from keras_dp_retrieval.metrics import RankingTask

COLD_SHARE = 0.2
GIVEN = (0, 1, 3, 10)
FIRST = GIVEN[-1]

LIGHTFM_OF_ITEMS = {
    "alpha": (1e-5, 1e-4),
    "ids": (("user", "candidate"), ("user",), ()),
}
LIGHTFM_OF_USERS = {
    "alpha": (1e-5, 1e-4),
    "epochs": (10, 30),
    "ids": (("user", "candidate"), ("candidate",)),
}
DSSM = {
    "lr": (0.01, 0.001),
    "margin": (0.4,),
    "epochs": (200,),
    "use_ids": (False, True),
}
ITEM_KNN = {"neighbours": (200, 2000), "shrink": (0, 20, 50, 100, 200, 400)}

# name -> (fit, all settings)
OF_ITEMS = {
    "random": (peers.random_scores, {}),
    "popularity": (peers.popularity, {}),
    "content k-NN": (peers.content_knn, {}),
    "LightFM": (peers.hybrid("lightfm"), LIGHTFM_OF_ITEMS),
    "DSSM": (peers.hybrid("dssm"), DSSM),
}
OF_USERS = {
    **OF_ITEMS,
    "LightFM": (peers.hybrid("lightfm"), LIGHTFM_OF_USERS),
    "popularity by features": (
        peers.popularity_by_features,
        {"shrink": (1000, 3000, 10_000, 30_000)},
    ),
    "item-kNN": (peers.item_knn, ITEM_KNN),
    "EASE": (peers.ease, {"l2": (250.0, 1000.0, 4000.0, 8000.0, 16_000.0)}),
}
# The best of `--tune --seeds 0`: of movies by NDCG@10 among the cold ones, and
# among all if that is another; of users by NDCG@10 with features alone, and
# given ten interactions if that is another (of DSSM the latter alone, of
# item-kNN also by Recall@20).
CHOSEN = {
    "cold_items": {
        "LightFM": [
            {"alpha": 1e-4, "ids": ["user", "candidate"]},
            {"alpha": 1e-5, "ids": ["user"]},
        ],
        "DSSM": [
            {"lr": 0.001, "use_ids": True},
            {"lr": 0.001, "use_ids": False},
        ],
    },
    "cold_users": {
        "LightFM": [{"alpha": 1e-4}, {"alpha": 1e-4, "epochs": 10}],
        "DSSM": [{"lr": 0.001, "use_ids": True}],
        "popularity by features": [{"shrink": 10_000}],
        "item-kNN": [
            {"neighbours": 2000, "shrink": 400},
            {"neighbours": 2000, "shrink": 20},
        ],
        "EASE": [{"l2": 16_000.0}],
    },
}


def movielens(folder, seed, **options):
    return kdr.MovieLensRetrievalDataset(
        source="files",
        data_dir=ml_100k(folder),
        features=True,
        seed=seed,
        **options,
    )


class Rows:
    """Interactions that are divided by what is drawn of them.

    Args:
        ids: dict of arrays: `users`, `movies`, `ratings`, `times`.
    """

    def __init__(self, ids):
        self.ids = ids

    @classmethod
    def read(cls, whole):
        raw = whole.raw_interactions()
        return cls(
            {
                "users": np.asarray(raw.user_ids),
                "movies": np.asarray(raw.candidate_ids),
                "ratings": np.asarray(raw.ratings),
                "times": np.asarray(raw.timestamps),
            }
        )

    def where(self, chosen):
        return Rows({name: one[chosen] for name, one in self.ids.items()})

    def without(self, column, seed):
        """Divides by whose `column` is drawn: `(others, drawn)`."""
        every = np.unique(self.ids[column])
        drawn = np.random.default_rng(seed).choice(
            every, int(COLD_SHARE * len(every)), replace=False
        )
        is_drawn = np.isin(self.ids[column], drawn)
        return self.where(~is_drawn), self.where(is_drawn)

    def first_of_users(self):
        """Divides into the first ten of each user, and the others."""
        users, times = self.ids["users"], self.ids["times"]
        order = np.lexsort((times, users))
        starts = np.searchsorted(users[order], users[order])
        is_first = np.zeros(len(users), bool)
        is_first[order] = np.arange(len(users)) - starts < FIRST
        return self.where(is_first), self.where(~is_first)

    @property
    def triple(self):
        return self.ids["users"], self.ids["movies"], self.ids["ratings"]


def divided(folder, column, seed, tune):
    """The data set of a draw: some movies, or some users, held out."""
    whole = movielens(folder, seed)
    train, held_out = Rows.read(whole).without(column, seed)
    if tune:
        train, held_out = train.without(column, seed + 1000)
    validation = None
    if column == "users":
        validation, held_out = held_out.first_of_users()
        validation = validation.triple
    return kdr.RetrievalDataset(
        *train.triple,
        validation=validation,
        test=held_out.triple,
        validation_fraction=0,
        user_features=kdr.Features(whole.raw_features("user")),
        candidate_features=kdr.Features(whole.raw_features("candidate")),
        candidate_key="movie_id",
        seed=seed,
    )


def figures(data, users, scores, names, seed):
    """What `evaluate` finds of scores, ties broken at random.

    A user's vector is that user's row of scores, as ranks, a candidate's that
    of the unit matrix.
    """
    # Other numbers than those of `random_scores`.
    ties = np.random.default_rng([seed, 1]).random(scores.shape)
    order = np.lexsort((ties, scores))
    ranks = np.empty(scores.shape, "float32")
    np.put_along_axis(
        ranks, order, np.arange(scores.shape[1], dtype="float32")[None], 1
    )
    table = np.zeros((data.num_users, data.num_candidates), "float32")
    table[users] = ranks
    unit = np.eye(data.num_candidates, dtype="float32")
    found = kdr.evaluate(
        None, data, vectors=lambda _: (table.__getitem__, unit), cold=True
    )
    return [found[name] for name in names]


ITEM_FIGURES = (
    "cold_among_cold_ndcg_at_10",
    "cold_among_cold_recall_at_20",
    "cold_candidates_ndcg_at_10",
    "cold_candidates_recall_at_20",
)
USER_FIGURES = ("cold_users_ndcg_at_10", "cold_users_recall_at_20")


def asked_of(data, question):
    """Who is asked about, by what is given: `{number: Asked}`."""
    users = np.unique(data.ratings("test").user_rows)
    if question == "cold_items":
        return {"all": Asked(users, data.seen.of(users))}
    first = data.ratings("validation")
    histories = {user: [] for user in users.tolist()}
    # In the order of time.
    for user, row in zip(first.user_rows, first.candidate_rows, strict=True):
        histories[int(user)].append(row)
    return {
        number: Asked(
            users, [np.array(histories[u][:number], int) for u in users], True
        )
        for number in GIVEN
    }


@peers.each
def ours(data, seed, **options):
    """`fit_recipe`, asked as `recommend` is."""
    model = kdr.fit_recipe(
        data, seed, tune=False, validation_in_train=False, **options
    )

    def ask(asked):
        given = {"user_ids": data.user_vocabulary.ids[asked.rows - 1]}
        if asked.are_new:
            given = {"histories": raw_histories(data, asked)}
            if model.user_features is not None:
                table = data.raw_features("user")
                rows = rows_of_table(table.ids, data, asked)
                given["user_features"] = {
                    name: one.take(rows) for name, one in table.columns.items()
                }
        ids, found = model.recommend(
            k=data.num_candidates, exclude_seen=False, **given
        )
        scores = np.full((len(ids), data.num_candidates), -np.inf)
        rows = data.candidate_vocabulary.rows(ids.ravel()).reshape(ids.shape)
        np.put_along_axis(scores, rows, np.where(rows > 0, found, -np.inf), 1)
        return scores

    return ask


def raw_histories(data, asked):
    ids = data.candidate_vocabulary.ids
    return [ids[one - 1].tolist() for one in asked.histories]


def rows_of_table(table_ids, data, asked):
    """Where the users asked about stand in a table of features."""
    ids = data.user_vocabulary.ids[asked.rows - 1]
    order = np.argsort(table_ids)
    return order[np.searchsorted(np.asarray(table_ids)[order], ids)]


def settings_of(name, all_settings, question, tune):
    if not tune:
        return CHOSEN[question].get(name, [{}])
    values = itertools.product(*all_settings.values())
    return [dict(zip(all_settings, one, strict=True)) for one in values]


def cold(question, args):
    """Yields a line of figures for each method, setting and what is given."""
    methods = {"cold_items": OF_ITEMS, "cold_users": OF_USERS}[question]
    methods = {"fit_recipe": (ours, {}), **methods}
    column, names = {
        "cold_items": ("movies", ITEM_FIGURES),
        "cold_users": ("users", USER_FIGURES),
    }[question]
    drawn = {
        seed: divided(args.data_dir, column, seed, args.tune)
        for seed in args.seeds
    }
    for name, (fit, all_settings) in methods.items():
        if args.methods and name not in args.methods:
            continue
        for setting in settings_of(name, all_settings, question, args.tune):
            yield from of_setting(
                question, name, fit, setting, drawn, names, args
            )


def of_setting(question, name, fit, setting, drawn, names, args):
    pythons = {"LightFM": args.lightfm_python, "DSSM": args.dssm_python}
    options = {"python": pythons[name]} if name in pythons else {}
    found, seconds = {}, 0.0
    for seed, data in drawn.items():
        start = time.perf_counter()
        try:
            asked = asked_of(data, question)
            scores = fit(data, seed, [*asked.values()], **setting, **options)
        except peers.Unavailable as error:
            yield {"question": question, "method": name, "left_out": str(error)}
            return
        seconds += time.perf_counter() - start
        for (given, one), of_users in zip(asked.items(), scores, strict=True):
            found.setdefault(given, []).append(
                figures(data, one.rows, np.asarray(of_users), names, seed)
            )
    for given, of_seeds in found.items():
        line = {"question": question, "method": name, "given": given}
        for index, figure in enumerate(names):
            line[figure] = summary([one[index] for one in of_seeds])
        yield {
            **line,
            "setting": setting,
            "seconds": round(seconds / len(drawn), 1),
        }


def warm(args):
    """P1: the test part, the validation part in training."""
    gains, of_seeds = [], {True: [], False: []}
    for seed in args.seeds:
        data = movielens(args.data_dir, seed)
        part = "validation" if args.tune else "test"
        task = RankingTask.prepare(data, part, (10,))
        of_users = {}
        for use in (True, False):
            model = kdr.fit_recipe(
                data,
                seed,
                tune=False,
                validation_in_train=not args.tune,
                use_features=use,
            )
            of_users[use] = task.ndcg_of_users(model, 10)
            of_seeds[use].append(of_users[use].mean())
        gains.append(of_users[True] - of_users[False])
    gains = np.concatenate(gains)
    yield {
        "question": "warm",
        "ndcg_at_10_with": summary(of_seeds[True]),
        "ndcg_at_10_without": summary(of_seeds[False]),
        "gain": round(float(gains.mean()), 4),
        "standard_error": round(float(gains.std() / len(gains) ** 0.5), 4),
    }


def summary(values):
    """The mean of the draws, its standard error, and the draws."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if values[1:] else 0
    return {
        "mean": round(float(np.mean(values)), 4),
        "standard_error": round(float(error), 4),
        "draws": np.round(values, 4).tolist(),
    }


QUESTIONS = ("cold_items", "cold_users", "warm")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--questions", nargs="+", choices=QUESTIONS, default=QUESTIONS
    )
    parser.add_argument("--methods", nargs="+", help="by default all")
    parser.add_argument("--lightfm-python")
    parser.add_argument("--dssm-python")
    parser.add_argument(
        "--tune",
        action="store_true",
        help="hold out of the train part, and try all settings of the peers; "
        "with --seeds 0",
    )
    args = parser.parse_args()
    about = {
        "keras": keras.__version__,
        "python": platform.python_version(),
        "seeds": args.seeds,
        "part": "validation" if args.tune else "test",
    }
    for question in args.questions:
        lines = warm(args) if question == "warm" else cold(question, args)
        for line in lines:
            print(json.dumps({**line, **about}), flush=True)


if __name__ == "__main__":
    main()
