"""What do features cost a step, memory, and reading them?

- **step**: MovieLens 100K, the towers, objective, optimizer and batches of
  `fit_recipe`, with the features of movies and users over without. Epochs of
  one and of the other in turn; the ratio is that of neighbours.
- **memory**: bytes that the model keeps for each candidate and each user, by
  column of features.
- **encode**: a table of synthetic rows with ten columns of all kinds, from
  Arrow to what a model takes.

Prints a line of JSON for each; ratios and seconds are `[median, first quartile,
third quartile]`, wall-clock and CPU time. The bars: a step at most
1.5 times that of no features, and a million rows of ten columns in less than
10 s.

Usage: taskset -c 0,1 python benchmarks/bench_feature_step.py --data-dir data
"""

import argparse
import json
import os
import platform
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pyarrow as pa
from movielens_folder import add_data_dir, ml_100k

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.features import FeatureSchema
from keras_dp_retrieval.recipe import build_model, choose_recipe


def compiled(data, use_features):
    """The model of `fit_recipe`, and an epoch of its batches."""
    keras.utils.set_random_seed(0)
    recipe = choose_recipe(data, use_features=use_features)
    model = build_model(data, recipe)
    examples = data.by_user(recipe.batch_size)
    steps = int(examples.cardinality())
    schedule = keras.optimizers.schedules.CosineDecay(0.01, steps * 1000)
    model.compile(
        optimizer=keras.optimizers.AdamW(
            schedule, weight_decay=recipe.weight_decay, beta_2=0.99
        ),
        steps_per_execution=min(steps, 16),
    )
    return model, examples, recipe


def seconds_of_epoch(model, examples):
    """Wall-clock and CPU time."""
    start = time.perf_counter(), time.process_time()
    model.fit(examples, verbose=0)
    keras.ops.convert_to_numpy(model.optimizer.iterations)  # Waits for it.
    return time.perf_counter() - start[0], time.process_time() - start[1]


def step(data, repeats):
    pair = [compiled(data, use) for use in (True, False)]
    for model, examples, _ in pair * 2:  # Compiles, and warms up.
        seconds_of_epoch(model, examples)
    seconds = np.array(
        [
            [seconds_of_epoch(model, examples) for model, examples, _ in pair]
            for _ in range(repeats)
        ]
    )
    steps = int(pair[0][1].cardinality())
    recipe = pair[0][2]
    cpu, seconds = seconds[:, :, 1], seconds[:, :, 0]
    return {
        "question": "step",
        "ratio": quartiles(seconds[:, 0] / seconds[:, 1]),
        "cpu_ratio": quartiles(cpu[:, 0] / cpu[:, 1]),
        "step_ms_with": quartiles(1e3 * seconds[:, 0] / steps),
        "step_ms_without": quartiles(1e3 * seconds[:, 1] / steps),
        "batch_size": recipe.batch_size,
        "embedding_dimension": recipe.embedding_dimension,
        "steps_an_epoch": steps,
        "repeats": repeats,
    }


def memory(data):
    line = {"question": "memory"}
    for side in ("user", "candidate"):
        features = getattr(data, f"{side}_features")
        line[f"bytes_a_{side}"] = features.bytes_per_row
    return line


def synthetic_table(num_rows):
    """Ten columns: two of each kind."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(5000)])
    labels = np.array([f"label{n}" for n in range(40)])

    def joined(texts, between, length):
        drawn = texts[rng.integers(0, len(texts), (length, num_rows))]
        return pa.array(
            [between.join(row) for row in drawn.T.tolist()], pa.string()
        )

    def codes(most):
        drawn = rng.integers(0, most, num_rows)
        return pa.DictionaryArray.from_arrays(
            drawn.astype("int32"), [f"value {n}" for n in range(most)]
        ).cast(pa.string())

    days = rng.integers(0, 20_000, (2, num_rows)).astype("datetime64[D]")
    return pa.table(
        {
            "item_id": np.arange(num_rows),
            "few": codes(20),
            "many": codes(10_000),
            "price": rng.normal(9, 2, num_rows),
            "stock": rng.integers(0, 900, num_rows),
            "labels": joined(labels, "|", 3),
            "tags": joined(words[:900], "|", 4),
            "title": joined(words, " ", 5),
            "text": joined(words, " ", 12),
            "since": days[0],
            "until": days[1],
        }
    )


def encode(num_rows, repeats):
    table = kdr.Features(synthetic_table(num_rows))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        read = table.read("candidate")
        schema = FeatureSchema.fit(read)
        encoded = schema.encode(read.columns)
        seconds.append(
            (time.perf_counter() - start[0], time.process_time() - start[1])
        )
    wall, cpu = zip(*seconds, strict=True)
    return {
        "question": "encode",
        "rows": num_rows,
        "columns": len(encoded),
        "seconds": quartiles(wall),
        "cpu_seconds": quartiles(cpu),
        "bytes_a_row": {
            name: column.nbytes // num_rows for name, column in encoded.items()
        },
    }


def quartiles(values):
    """The median, and the first and third quartile."""
    return [round(float(q), 3) for q in np.quantile(values, [0.5, 0.25, 0.75])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    about = {
        "devices": len(keras.distribution.list_devices()),
        "keras": keras.__version__,
        "python": platform.python_version(),
    }
    data = kdr.MovieLensRetrievalDataset(
        source="files", data_dir=ml_100k(args.data_dir), features=True
    ).with_validation_in_train()
    lines = (
        lambda: step(data, args.repeats),
        lambda: memory(data),
        lambda: encode(args.rows, 3),
    )
    for line in lines:
        print(json.dumps({**line(), **about}), flush=True)


if __name__ == "__main__":
    main()
