"""What does DistributionAwareCallback say of six runs on MovieLens 100K?

    python benchmarks/show_callback.py --data-dir data --output shown

Trains the tutorial's recipe on 1, 2 and 8 virtual devices, in 2 processes, with
a device that lags and with an input pipeline that is slow, and writes each
run's record, report and figure into a folder of its own. Virtual devices and
processes share one CPU: their rates say nothing about speed-up.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import time

from movielens_folder import add_data_dir, prepared

# Name: devices of each process, processes.
RUNS = {
    "1 device": (1, 1),
    "2 devices": (2, 1),
    "8 devices": (8, 1),
    "2 processes": (1, 2),
    "a device lags": (4, 1),
    "slow input": (2, 1),
}
LATE_DEVICE, LATE_SECONDS = 2, 0.01
WAIT_SECONDS = 0.02


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_data_dir(parser)
    parser.add_argument("--output", default="shown")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--child", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def lagging(model):
    """Makes one device late after the gradients have been summed."""
    import jax
    import numpy as np

    import keras_dp_retrieval as kdr

    mesh = jax.sharding.Mesh(
        kdr.data_parallel().device_mesh.backend_mesh.devices, "batch"
    )

    def sleep(loss, updated, index):
        if index == LATE_DEVICE:
            time.sleep(LATE_SECONDS)
        return np.asarray(loss)

    def late(loss, updated):
        shape = jax.ShapeDtypeStruct(loss.shape, loss.dtype)
        index = jax.lax.axis_index("batch")
        return jax.pure_callback(sleep, shape, loss, updated, index)

    everywhere = jax.sharding.PartitionSpec()
    delayed = jax.shard_map(
        late,
        mesh=mesh,
        in_specs=everywhere,
        out_specs=everywhere,
        check_vma=False,
    )
    train_step = model.train_step

    def late_train_step(state, data):
        logs, state = train_step(state, data)
        # Only when the variables have been updated, and so after the sum.
        late_loss = delayed(logs["loss"], state[0][0][0, 0])
        return {**logs, "loss": late_loss}, state

    model.train_step = late_train_step


def child(arguments):
    import keras

    import keras_dp_retrieval as kdr

    if arguments.address:
        keras.distribution.initialize(
            arguments.address, RUNS[arguments.child][1], arguments.process
        )
    keras.utils.set_random_seed(42)
    kdr.data_parallel()
    data = kdr.MovieLensRetrievalDataset(
        "100k", data_dir=prepared(arguments.data_dir), split="tutorial"
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, 32, objective="rating")
    model.compile(keras.optimizers.Adagrad(0.2))
    if arguments.child == "a device lags":
        lagging(model)
    train = data.train
    if arguments.child == "slow input":

        def wait(*batch):
            import tensorflow as tf

            def sleep(users):
                time.sleep(WAIT_SECONDS)
                return users

            users, *rest = batch
            slow = tf.numpy_function(sleep, [users], users.dtype)
            slow.set_shape(users.shape)
            return (slow, *rest)

        train = train.map(wait)
    folder = pathlib.Path(arguments.output) / arguments.child.replace(" ", "_")
    callback = kdr.DistributionAwareCallback(log_dir=folder)
    model.fit(
        train,
        validation_data=data.test,
        validation_freq=3,
        epochs=arguments.epochs,
        verbose=0,
        callbacks=[callback],
    )
    if not arguments.process:
        callback.report()
        callback.plot(folder / "run.png")


def start(name, arguments):
    devices, processes = RUNS[name]
    flag = f"--xla_force_host_platform_device_count={devices}"
    address = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = ["--address", f"127.0.0.1:{free.getsockname()[1]}"]
    return [
        subprocess.Popen(
            [
                *(sys.executable, __file__, "--child", name),
                *("--data-dir", str(arguments.data_dir)),
                *("--output", arguments.output),
                *("--epochs", str(arguments.epochs)),
                *address,
                *("--process", str(process)),
            ],
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "XLA_FLAGS": flag,
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            stderr=subprocess.DEVNULL,
        )
        for process in range(processes)
    ]


def main():
    arguments = parse()
    if arguments.child:
        child(arguments)
        return
    for name in RUNS:
        print(f"\n== {name}", flush=True)
        codes = [process.wait() for process in start(name, arguments)]
        if any(codes):
            raise SystemExit(f"{name!r} failed with {codes}.")


if __name__ == "__main__":
    main()
