"""Which softmax loss learns best, all else equal?

The recipe's model and optimizer with another objective, on validation: P1 and
P2 on MovieLens 100K, as the README of this folder defines them, and the
synthetic shapes of `bench_recipe.py`. Without trials, at 64 dimensions and a
budget of 300 steps, so that many settings can be compared; every
setting is listed that was tried. Differences are to the first row, paired by
user.

    python benchmarks/bench_losses.py --data-dir data --data p1 p2
    python benchmarks/bench_losses.py --data sparse "long tail"
    python benchmarks/bench_losses.py --csv npm.csv debian.csv

Files are as `dependencies.py` writes them.

Interactions of one user and one time stand in the order of the file, shuffled
in every epoch of training (`ShuffleTies`).
"""

import argparse
import json
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from bench_recipe import SHAPES, load, measure, paired_error
from movielens_folder import add_data_dir

import keras_dp_retrieval as kdr

NUM_STEPS = 300
MOVIELENS = ("p1", "p2")

# What is changed in `FullSoftmax`.
TOP_K = {
    f"SL@{k}, {sharpness:g}": {"top_k": k, "top_k_temperature": sharpness}
    for k, sharpness in ((20, 1.0), (20, 0.3), (20, 0.1), (5, 0.3))
}

# Candidates in each bucket of `BucketedSoftmax`.
BUCKETS = (64, 256)


def objectives(recipe):
    """Name to objective, for the recipe of a data set."""
    temperature, weight = recipe.temperature, recipe.rating_weight
    found = {"full softmax": kdr.FullSoftmax(temperature, rating_weight=weight)}
    for name, options in TOP_K.items():
        found[name] = kdr.FullSoftmax(
            temperature, rating_weight=weight, **options
        )
    if recipe.order == "recency":  # With one positive an example.
        for num_candidates in BUCKETS:
            found[f"buckets of {num_candidates}"] = kdr.BucketedSoftmax(
                temperature, candidates_per_bucket=num_candidates, seed=0
            )
    return found


def data_of(name, seed, data_dir):
    if name in SHAPES:
        *sizes, options = SHAPES[name]
        return kdr.RetrievalDataset.from_synthetic(
            *sizes, **options, validation_fraction=0.125
        )
    if name in MOVIELENS:
        return load(name, seed if name == "p1" else 42, data_dir)
    return kdr.RetrievalDataset.from_csv(name, validation_fraction=0.125)


def train(data, recipe, objective, seed):
    """A model with the objective, and its last loss."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = kdr.recipe.build_model(data, recipe, seed)
    model.objective = objective
    examples, callbacks = data.by_user(recipe.batch_size), []
    if recipe.order == "recency":
        examples = data.next_items(recipe.batch_size)
        callbacks = [kdr.ShuffleTies(examples)]
    num_steps = int(examples.cardinality())
    epochs = max(round(NUM_STEPS / num_steps), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate, num_steps * epochs
    )
    model.compile(
        keras.optimizers.AdamW(
            schedule, weight_decay=recipe.weight_decay, beta_2=0.99
        ),
        steps_per_execution=min(num_steps, 16),
    )
    history = model.fit(
        examples, epochs=epochs, verbose=0, callbacks=callbacks
    ).history
    return model, history["loss"][-1]


def run(name, seeds, data_dir, only, dimension):
    """Prints a table; returns what it holds."""
    runs, losses = {}, {}
    for seed in seeds:
        data = data_of(name, seed, data_dir)
        recipe = kdr.recipe.choose_recipe(data, embedding_dimension=dimension)
        for title, objective in objectives(recipe).items():
            if only and title not in only:
                continue
            start = time.process_time()
            model, loss = train(data, recipe, objective, seed)
            seconds = time.process_time() - start
            found = measure(lambda model=model: model, data, "validation")
            found["cpu_seconds"] = seconds
            runs.setdefault(title, []).append(found)
            losses.setdefault(title, []).append(loss)
            print(
                f"# {name} {seed} {title}: {found['ndcg_at_10']:.4f}, loss "
                f"{loss:.4f}",
                flush=True,
            )
    first = next(iter(runs))
    print(f"\n{name}, validation, seeds {', '.join(map(str, seeds))}")
    titles = "NDCG@10 | NDCG@20 | Recall@20 | loss | CPU s | difference"
    print(f"| | {titles} |\n|{' --- |' * 7}")
    for title, of_seeds in runs.items():
        cells = [
            f"{sum(found[key] for found in of_seeds) / len(of_seeds):.4f}"
            for key in ("ndcg_at_10", "ndcg_at_20", "recall_at_20")
        ]
        cells.append(f"{sum(losses[title]) / len(of_seeds):.3f}")
        seconds = sum(found["cpu_seconds"] for found in of_seeds)
        cells.append(f"{seconds / len(of_seeds):.0f}")
        gain, error = paired_error(of_seeds, runs[first])
        cells.append("" if title == first else f"{gain:+.4f} ± {error:.4f}")
        print(f"| {title} | {' | '.join(cells)} |", flush=True)
    return {
        title: [
            {key: value for key, value in found.items() if key != "by_user"}
            for found in of_seeds
        ]
        for title, of_seeds in runs.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser, required=False)
    names = [*MOVIELENS, *SHAPES]
    parser.add_argument("--data", nargs="+", choices=names)
    parser.add_argument("--csv", nargs="+", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--only", nargs="+", help="rows of the table")
    parser.add_argument("--dimension", type=int, default=64)
    args = parser.parse_args()
    chosen = args.data or ([] if args.csv else names)
    results = {
        name: run(name, args.seeds, args.data_dir, args.only, args.dimension)
        for name in [*chosen, *args.csv]
    }
    print(json.dumps({"benchmark": "losses", "results": results}))


if __name__ == "__main__":
    main()
