"""What does ResumeTraining cost in `fit`?

Trains the same model with and without the callback, in pairs that alternate in
order, and prints the ratio of each pair's times. The first save of a fit, and
the last one, which is always made, are part of the time: a fit should be long
enough for one between them. A million rows are 1 GB, whose first save is due
after 206 s, as nothing is known of the disk before it. Virtual CPU devices
prove that the cost is small, and say nothing about speed-up.

    python benchmarks/bench_resume.py --rows 20000 --seconds 30
    python benchmarks/bench_resume.py --rows 1000000 --seconds 300 --pairs 3
    python benchmarks/bench_resume.py --rows 20000 --save-freq epoch
"""

import argparse
import json
import os
import platform
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--rows", type=int, default=20_000, help="of each table")
parser.add_argument("--dim", type=int, default=64)
parser.add_argument("--devices", type=int, default=1)
parser.add_argument("--seconds", type=float, default=30, help="of a fit")
parser.add_argument("--pairs", type=int, default=7)
parser.add_argument("--save-freq", default="auto")
parser.add_argument("--folder", help="of the checkpoints; by default in /tmp")
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
from keras_dp_retrieval.callbacks.checkpoint_files import CheckpointFiles

BATCH_SIZE = 1024
STEPS = 100


class Saves:
    """Counts what is written, and how long that takes."""

    def __init__(self):
        self.seconds: list[float] = []
        self.num_bytes = 0
        plain = CheckpointFiles.save

        def save(files, *args):
            began = time.perf_counter()
            plain(files, *args)
            self.seconds.append(time.perf_counter() - began)
            newest = max(files.folder.glob("*.npz"))
            self.num_bytes = newest.stat().st_size

        CheckpointFiles.save = save


def main():
    if arguments.devices > 1:
        kdr.data_parallel()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    size = BATCH_SIZE * STEPS
    users = rng.integers(1, arguments.rows, size)
    candidates = rng.integers(1, arguments.rows, size)
    model = kdr.TwoTowerRetrieval(
        arguments.rows,
        arguments.rows,
        arguments.dim,
        objective="in_batch_softmax",
        embedding_updates="row_sparse",
    )
    model.compile(keras.optimizers.Adagrad(0.1), steps_per_execution=10)
    saves = Saves()

    def seconds_of_fit(epochs, callbacks):
        began = time.perf_counter()
        model.fit(
            users,
            {"movie_id": candidates},
            batch_size=BATCH_SIZE,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
        )
        jax.block_until_ready([v.value for v in model.variables])
        return time.perf_counter() - began

    def with_callback(epochs):
        freq = arguments.save_freq
        freq = int(freq) if freq.isdigit() else freq
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            return seconds_of_fit(epochs, [kdr.ResumeTraining(folder, freq)])

    with_callback(2), seconds_of_fit(2, [])  # Compiles.
    epochs = max(int(arguments.seconds * 3 / seconds_of_fit(3, [])), 1)
    saves.seconds.clear()
    pairs = []
    for number in range(arguments.pairs):
        # The first of a pair must not always be the same one.
        if number % 2:
            saved, plain = with_callback(epochs), seconds_of_fit(epochs, [])
        else:
            plain, saved = seconds_of_fit(epochs, []), with_callback(epochs)
        pairs.append((saved, plain))
    ratios = np.array([saved / plain for saved, plain in pairs])
    result = {
        "question": "time of fit with ResumeTraining / without",
        "ratio_median": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "seconds_with": float(np.median([saved for saved, _ in pairs])),
        "seconds_without": float(np.median([plain for _, plain in pairs])),
        "saves_a_fit": len(saves.seconds) / arguments.pairs,
        "seconds_a_save": float(np.median(saves.seconds)),
        "megabytes_a_save": saves.num_bytes / 1e6,
        "epochs": epochs,
        **vars(arguments),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(result))
    low, high = result["ratio_range"]
    print(
        f"{result['ratio_median']:.3f} ({low:.3f} to {high:.3f}) times as "
        f"long; {result['saves_a_fit']:.1f} saves a fit of "
        f"{result['megabytes_a_save']:.0f} MB, "
        f"{result['seconds_a_save']:.2f} s each"
    )


if __name__ == "__main__":
    main()
