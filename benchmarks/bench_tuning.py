"""Which devices does a trial see, and does memory grow with every trial?

    python benchmarks/bench_tuning.py --devices 4 --trials 30

The same search twice, each in its own process: `tuning.search`, and plain
KerasTuner with a function that builds a model of the same shape, where
`DataParallel` was set once before the search, as its users do. After each
trial: on how many devices the model's variables were, and the memory that is
resident. Growth is from the trial in which memory settles (the fifth) to the
last; the slope is fitted by least squares from there on. Virtual devices share
one CPU: they prove that a trial is on all of them, and say nothing about speed.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

SETTLED = 5  # Trials until every program and cache has been there.


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def resident_megabytes():
    import psutil

    return psutil.Process().memory_info().rss / 2**20


def make_data():
    import keras_dp_retrieval as kdr

    return kdr.RetrievalDataset.from_synthetic(
        943, 1682, 100_000, candidate_key="movie_id"
    )


def watcher(notes):
    """A callback that notes devices and memory when a trial ends."""
    import keras

    class Watch(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            first = self.model.trainable_variables[0].value
            notes.append(
                {
                    "devices": len(first.sharding.device_set),
                    "megabytes": resident_megabytes(),
                }
            )

        def __deepcopy__(self, memo):
            return Watch()

    return Watch()


def search_ours(arguments, folder, notes):
    from keras_dp_retrieval import tuning

    tuning.search(
        make_data(),
        max_trials=arguments.trials,
        epochs=arguments.epochs,
        patience=None,
        median_stopping=False,
        directory=folder,
        callbacks=[watcher(notes)],
        verbose=0,
    )


def search_plain(arguments, folder, notes):
    import keras
    import keras_tuner

    from tests.plain_keras import PlainTwoTower

    data = make_data()
    keras.distribution.set_distribution(keras.distribution.DataParallel())

    def build(hp):
        model = PlainTwoTower(
            data.num_users,
            data.num_candidates,
            hp.Choice("embedding_dimension", [16, 32, 64, 128]),
        )
        rate = hp.Float("learning_rate", 1e-3, 1.0, sampling="log")
        model.compile(optimizer=keras.optimizers.Adagrad(rate))
        return model

    tuner = keras_tuner.RandomSearch(
        build,
        objective="val_loss",
        max_trials=arguments.trials,
        seed=1,
        directory=folder,
    )
    tuner.search(
        data.train,
        validation_data=data.validation,
        epochs=arguments.epochs,
        callbacks=[watcher(notes)],
        verbose=0,
    )


CONTENDERS = {"ours": search_ours, "plain KerasTuner": search_plain}


def child(arguments):
    notes = []
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        CONTENDERS[arguments.child](arguments, folder, notes)
    seconds = time.perf_counter() - begin
    print(json.dumps({"notes": notes, "seconds": seconds}))


def run(name, arguments):
    flag = f"--xla_force_host_platform_device_count={arguments.devices}"
    checkout = pathlib.Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [
            *(sys.executable, __file__, "--child", name),
            *("--trials", str(arguments.trials)),
            *("--epochs", str(arguments.epochs)),
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "XLA_FLAGS": flag,
            "NPROC": str(2 * arguments.devices),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.fspath(checkout),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def show(name, result):
    import numpy as np

    memory = np.array([note["megabytes"] for note in result["notes"]])
    devices = sorted({note["devices"] for note in result["notes"]})
    settled = memory[SETTLED - 1 :]
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    curve = ", ".join(f"{value:.0f}" for value in memory[:: SETTLED - 1])
    print(
        f"{name}: {len(memory)} trials in {result['seconds']:.0f} s, on "
        f"{devices} devices; resident {memory[SETTLED - 1]:.0f} -> "
        f"{memory[-1]:.0f} MB ({memory[-1] / memory[SETTLED - 1] - 1:+.1%}), "
        f"{slope:+.1f} MB a trial; every fourth trial: {curve}"
    )


def main():
    arguments = parse()
    if arguments.child:
        child(arguments)
        return
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    for name in CONTENDERS:
        show(name, run(name, arguments))


if __name__ == "__main__":
    main()
