"""What does DistributionAwareCallback cost in `fit`?

Trains the same model with and without the callback, in pairs that alternate
in order, and prints the ratio of each pair's epoch times. Virtual CPU devices
prove that the cost is small, and say nothing about speed-up.

    python benchmarks/bench_callback_overhead.py --devices 1 --pairs 15
"""

import argparse
import json
import os
import platform
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--pairs", type=int, default=15)
parser.add_argument("--epochs", type=int, default=3, help="of one timed fit")
parser.add_argument("--rows", type=int, default=80_000)
parser.add_argument("--batch-size", type=int, default=1000)
parser.add_argument("--weights", action="store_true", help="sample weights")
parser.add_argument("--log-dir", default=None, help="also write the files")
arguments = parser.parse_args()

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={arguments.devices}"
)

import jax
import keras
import numpy as np

from keras_dp_retrieval.callbacks import (
    DistributionAwareCallback,
)

NUM_USERS, NUM_MOVIES = 944, 1683  # MovieLens 100K


class DotProduct(keras.Model):
    """The tutorial's two towers with a dense gradient, in plain Keras."""

    def __init__(self):
        super().__init__()
        self.users = keras.layers.Embedding(NUM_USERS, 32)
        self.movies = keras.layers.Embedding(NUM_MOVIES, 32)

    def call(self, inputs):
        users, movies = self.users(inputs[:, 0]), self.movies(inputs[:, 1])
        return keras.ops.sum(users * movies, axis=-1, keepdims=True)


def made_up_ratings():
    rng = np.random.default_rng(0)
    users = rng.integers(1, NUM_USERS, arguments.rows)
    movies = rng.integers(1, NUM_MOVIES, arguments.rows)
    x = np.stack([users, movies], axis=1).astype("int32")
    y = rng.random((arguments.rows, 1)).astype("float32")
    weights = np.ones(arguments.rows, "float32")
    return x, y, weights if arguments.weights else None


def seconds_of_fit(model, data, callbacks):
    x, y, weights = data
    started = time.perf_counter()
    model.fit(
        x,
        y,
        sample_weight=weights,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        verbose=0,
        callbacks=callbacks,
    )
    jax.block_until_ready([v.value for v in model.variables])
    return (time.perf_counter() - started) / arguments.epochs


def main():
    if arguments.devices > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    keras.utils.set_random_seed(0)
    model, data = DotProduct(), made_up_ratings()
    model.compile(keras.optimizers.Adagrad(0.1), "mse")

    def with_callback():
        callback = DistributionAwareCallback(arguments.log_dir)
        return seconds_of_fit(model, data, [callback])

    def without():
        return seconds_of_fit(model, data, [])

    with_callback(), without()  # Compiles, and warms up what is cached.
    pairs = []
    for number in range(arguments.pairs):
        # The first of a pair must not always be the same one.
        if number % 2:
            measured, plain = with_callback(), without()
        else:
            plain, measured = without(), with_callback()
        pairs.append((measured, plain))
    ratios = sorted(measured / plain for measured, plain in pairs)
    quarter = len(ratios) // 4
    result = {
        "question": "epoch time with the callback / without",
        "ratio_median": statistics.median(ratios),
        "ratio_quartiles": [ratios[quarter], ratios[-1 - quarter]],
        "ratio_of_fastest": min(m for m, _ in pairs) / min(p for _, p in pairs),
        "epoch_ms_with": 1e3 * statistics.median(m for m, _ in pairs),
        "epoch_ms_without": 1e3 * statistics.median(p for _, p in pairs),
        **vars(arguments),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(result))
    print(f"{'':12}{'ms an epoch, median':>22}")
    print(f"{'without':12}{result['epoch_ms_without']:22.1f}")
    print(f"{'with':12}{result['epoch_ms_with']:22.1f}")
    low, high = result["ratio_quartiles"]
    print(
        f"ratio of pairs {result['ratio_median']:.4f} "
        f"(quartiles {low:.4f} to {high:.4f}, {len(pairs)} pairs); "
        f"of the fastest {result['ratio_of_fastest']:.4f}"
    )


if __name__ == "__main__":
    main()
