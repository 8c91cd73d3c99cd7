"""What does DistributionAwareCallback cost in `fit`?

Trains the same model with and without the callback, in pairs that alternate
in order, and prints the ratio of each pair's epoch times. Two fits alike
differ by more than the callback costs, so there are many short pairs, and the
median comes with the interval in which it lies in 95 of 100 repetitions
(bootstrap over the pairs). Virtual CPU devices prove that the cost is small,
and say nothing about speed-up.

    python benchmarks/bench_callback_overhead.py --model tutorial --devices 1
"""

import argparse
import json
import os
import platform
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument(
    "--model",
    choices=["plain", "tutorial", "fused"],
    default="tutorial",
    help="plain: the tutorial's in plain Keras, with dense gradients; "
    "tutorial: ours, a step at a time; fused: ours, 16 steps at a time",
)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--pairs", type=int, default=200)
parser.add_argument("--epochs", type=int, default=3, help="of one timed fit")
parser.add_argument("--dim", type=int, default=32)
parser.add_argument("--log-dir", default=None, help="also write the files")
parser.add_argument(
    "--nothing",
    action="store_true",
    help="a callback that does nothing instead: what the method itself errs",
)
arguments = parser.parse_args()

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={arguments.devices}"
)
os.environ.setdefault("NPROC", str(max(2 * arguments.devices, 2)))

import jax
import keras
import numpy as np

import keras_dp_retrieval as kdr

BATCH_SIZE = 1000


class DotProduct(keras.Model):
    """The tutorial's two towers with a dense gradient, in plain Keras."""

    def __init__(self, data):
        super().__init__()
        self.users = keras.layers.Embedding(data.num_users, arguments.dim)
        self.movies = keras.layers.Embedding(data.num_candidates, arguments.dim)

    def call(self, inputs):
        users, movies = self.users(inputs[:, 0]), self.movies(inputs[:, 1])
        return keras.ops.sum(users * movies, axis=-1, keepdims=True)


def compiled_model_and_inputs():
    """The model, and what `fit` takes: `(model, dict)`."""
    data = kdr.MovieLensRetrievalDataset("100k", source="synthetic")
    if arguments.model == "plain":
        ratings = data.ratings("train")
        pairs = np.stack([ratings.user_rows, ratings.candidate_rows], axis=1)
        stars = np.asarray(ratings.ratings, "float32")[:, None]
        model = DotProduct(data)
        model.compile(keras.optimizers.Adagrad(0.2), "mse")
        return model, {"x": pairs, "y": stars, "batch_size": BATCH_SIZE}
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, arguments.dim, objective="rating"
    )
    model.compile(
        keras.optimizers.Adagrad(0.2),
        steps_per_execution=16 if arguments.model == "fused" else 1,
    )
    return model, {"x": data.train}


def seconds_of_fit(model, inputs, callbacks):
    """Seconds of an epoch of one `fit`."""
    started = time.perf_counter()
    model.fit(**inputs, epochs=arguments.epochs, verbose=0, callbacks=callbacks)
    jax.block_until_ready([v.value for v in model.variables])
    return (time.perf_counter() - started) / arguments.epochs


def interval_of_median(values, confidence=0.95, repetitions=4000):
    """The interval of the median, by bootstrap."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(values, (repetitions, len(values)))
    edges = (1 - confidence) / 2, (1 + confidence) / 2
    return np.quantile(np.median(drawn, axis=1), edges).tolist()


def main():
    if arguments.devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(0)
    model, inputs = compiled_model_and_inputs()

    def with_callback():
        callback = kdr.DistributionAwareCallback(arguments.log_dir)
        if arguments.nothing:
            callback = keras.callbacks.Callback()
        return seconds_of_fit(model, inputs, [callback])

    def without():
        return seconds_of_fit(model, inputs, [])

    with_callback(), without()  # Compiles, and warms up what is cached.
    pairs = []
    for number in range(arguments.pairs):
        # The first of a pair must not always be the same one.
        if number % 2:
            measured, plain = with_callback(), without()
        else:
            plain, measured = without(), with_callback()
        pairs.append((measured, plain))
    pairs = np.array(pairs)
    ratios = pairs[:, 0] / pairs[:, 1]
    result = {
        "question": "epoch time with the callback / without",
        "ratio_median": float(np.median(ratios)),
        "ratio_median_95": interval_of_median(ratios),
        "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "epoch_ms_with": 1e3 * float(np.median(pairs[:, 0])),
        "epoch_ms_without": 1e3 * float(np.median(pairs[:, 1])),
        **vars(arguments),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(result))
    print(f"{'':12}{'ms an epoch, median':>22}")
    print(f"{'without':12}{result['epoch_ms_without']:22.1f}")
    print(f"{'with':12}{result['epoch_ms_with']:22.1f}")
    low, high = result["ratio_median_95"]
    first, third = result["ratio_quartiles"]
    print(
        f"median ratio {result['ratio_median']:.4f} "
        f"({low:.4f} to {high:.4f}); quartiles {first:.4f} to {third:.4f}, "
        f"{len(pairs)} pairs"
    )


if __name__ == "__main__":
    main()
