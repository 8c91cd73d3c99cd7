"""Where does a transformer over the history retrieve better than its means?

`SequenceTower` beside `RecencyTower` and `IdHistoryTower`, on made-up data in
which order matters (`ordered_data.py`) and on P2 of MovieLens 100K (the README
of this folder); each user's last interaction but one, validation, is ranked
against the whole catalogue without what the user had before. The settings of
each tower are below, the same for all made-up data.

    python benchmarks/bench_sequence.py
    python benchmarks/bench_sequence.py --data p2 --data-dir data
    python benchmarks/bench_sequence.py --recipe

`--recipe` has `fit_recipe` choose between the two, by trials on validation,
and ranks each user's last interaction, test, once; beside it, the recipe with
the tower that it did not choose.

Ties: interactions of one user and one time stand in the order of the file for
validation, and are shuffled in every epoch of training (`ShuffleTies`). The
made-up data has none.

`the rule` knows which group comes next, but for noise, and ranks its candidates
by popularity; where the order within the group matters, too, it is no bound.
"""

import argparse
import json
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from bench_recipe import load, measure, paired_error
from movielens_folder import add_data_dir
from ordered_data import KINDS, ordered_data

import keras_dp_retrieval as kdr

DIMENSION = 64
TEMPERATURE = 0.13

# Learning rate, weight decay, batch size and steps.
SETTINGS = {
    "IdHistoryTower": (0.01, 0.5, 128, 600),
    "RecencyTower": (0.01, 1.0, 1024, 600),
    "SequenceTower": (0.005, 0.1, 6, 5000),
}
# The best on P2 of those that the README lists.
P2_SETTINGS = {**SETTINGS, "SequenceTower": (0.005, 0.1, 12, 1413)}

# Of a `SequenceTower`.
DROPOUT = {"item_dropout": 0.0, "query_dropout": 0.1, "dropout": 0.1}
P2_DROPOUT = {"item_dropout": 0.2, "query_dropout": 0.3, "dropout": 0.2}


def train(name, data, seed, max_length, settings, dropout):
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    rate, decay, batch_size, num_steps = settings
    shape = data.num_candidates, DIMENSION
    if name == "IdHistoryTower":
        tower = kdr.IdHistoryTower(data.num_users, *shape, seed=seed)
        examples = data.by_user(batch_size)
    elif name == "RecencyTower":
        tower = kdr.RecencyTower(*shape, max_length=max_length, seed=seed)
        examples = data.next_items(batch_size)
    else:
        tower = kdr.SequenceTower(
            *shape, max_length=max_length, seed=seed, **dropout
        )
        examples = data.by_sequence(batch_size, max_length)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data,
        DIMENSION,
        user_tower=tower,
        objective=kdr.FullSoftmax(TEMPERATURE),
        initial_stddev=0.1,
    )
    steps = int(examples.cardinality())
    epochs = max(round(num_steps / steps), 1)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps * epochs)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=decay, beta_2=0.99),
        steps_per_execution=min(steps, 16),
    )
    callbacks = []
    if name != "IdHistoryTower":
        callbacks.append(kdr.ShuffleTies(examples))
    model.fit(examples, epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def scores_of_rule(data, groups, group_size):
    """`scores(users)` of who knows the group of what is held out."""
    counts = np.bincount(
        data.ratings("train").candidate_rows, minlength=data.num_candidates
    )
    ids = np.asarray(data.candidate_vocabulary.ids)
    group_of_row = np.append(-1, (ids - 1) // group_size)
    user_ids = np.append(1, np.asarray(data.user_vocabulary.ids))

    def scores(users):
        next_groups = groups[user_ids[users] - 1, -2]
        is_in = group_of_row == next_groups[:, None]
        return counts + 1e6 * is_in

    return scores


def table(title, runs):
    """Prints the table of one data set."""
    print(f"\n{title}, validation")
    print("| | NDCG@10 | HR@10 | CPU s | over RecencyTower |")
    print("| --- | --- | --- | --- | --- |")
    for name, of_seeds in runs.items():
        cells = [
            f"{np.mean([found[key] for found in of_seeds]):.4f}"
            for key in ("ndcg_at_10", "hit_rate_at_10")
        ]
        seconds = np.mean([found["cpu_seconds"] for found in of_seeds])
        cells.append(f"{seconds:.0f}")
        others = runs.get("RecencyTower")
        if others and name in SETTINGS and name != "RecencyTower":
            gain, error = paired_error(of_seeds, others)
            cells.append(f"{gain:+.4f} ± {error:.4f}")
        else:
            cells.append("")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def run(name, args):
    options, groups = {"validation_fraction": 0.1}, None
    if name == "p2":
        data, max_length = load("p2", 42, args.data_dir), 100
        settings, dropout = P2_SETTINGS, P2_DROPOUT
    else:
        data, groups, _ = ordered_data(
            name, args.data_seed, num_users=args.users, **options
        )
        max_length, settings, dropout = 40, SETTINGS, DROPOUT
    runs = {}
    for tower in args.towers:
        for seed in args.seeds:
            start = time.process_time()
            model = train(
                tower, data, seed, max_length, settings[tower], dropout
            )
            seconds = time.process_time() - start
            found = measure(lambda model=model: model, data, "validation")
            found["cpu_seconds"] = seconds
            runs.setdefault(tower, []).append(found)
            print(f"# {name} {tower} {seed}: {found['ndcg_at_10']:.4f}")
    if groups is not None:
        scores = scores_of_rule(data, groups, group_size=50)
        found = measure(lambda: scores, data, "validation")
        runs["the rule"] = [{**found, "cpu_seconds": 0.0}]
    table(f"{name}: {data.description}", runs)
    return without_users(runs)


def run_recipe(name, args):
    """What `fit_recipe` chooses, and what either tower is worth on test."""
    if name == "p2":
        data = load("p2", 42, args.data_dir)
    else:
        options = {"num_users": args.users, "validation_fraction": 0.1}
        data, _, _ = ordered_data(name, args.data_seed, **options)
    runs = {}

    def fit(title, **overrides):
        of_seeds = runs.setdefault(title, [])
        for seed in args.seeds:
            start = time.process_time()
            model = kdr.fit_recipe(data, seed, **overrides)
            seconds = time.process_time() - start
            whole = data.with_validation_in_train()
            found = measure(lambda model=model: model, whole, "test")
            found["tower"] = type(model.user_tower).__name__
            print(f"# {name} {title} {seed}: {found['ndcg_at_10']:.4f}")
            of_seeds.append({**found, "cpu_seconds": seconds})
        return of_seeds[-1]["tower"]

    chosen = fit("fit_recipe", verbose=2)
    other = "recency" if chosen == "SequenceTower" else "sequence"
    fit(f"order={other!r}", order=other)
    print(f"\n{name}: {chosen}; test")
    print("| | NDCG@10 | HR@10 | CPU s |\n| --- | --- | --- | --- |")
    for title, of_seeds in runs.items():
        cells = [
            f"{np.mean([found[key] for found in of_seeds]):.4f}"
            for key in ("ndcg_at_10", "hit_rate_at_10", "cpu_seconds")
        ]
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
    gain, error = paired_error(*runs.values())
    print(f"{gain:+.4f} ± {error:.4f}", flush=True)
    return without_users(runs)


def without_users(runs):
    """The same for JSON."""
    return {
        name: [
            {key: value for key, value in found.items() if key != "by_user"}
            for found in of_seeds
        ]
        for name, of_seeds in runs.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser, required=False)
    names = [*KINDS, "p2"]
    parser.add_argument("--data", nargs="+", choices=names, default=KINDS)
    parser.add_argument("--data-seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--towers", nargs="+", choices=SETTINGS, default=list(SETTINGS)
    )
    parser.add_argument("--recipe", action="store_true")
    args = parser.parse_args()
    one = run_recipe if args.recipe else run
    results = {name: one(name, args) for name in args.data}
    print(json.dumps({"benchmark": "sequence", "results": results}))


if __name__ == "__main__":
    main()
