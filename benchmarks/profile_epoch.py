"""Where does the time of an epoch of fused steps go?

    taskset -c 0,1 python benchmarks/profile_epoch.py --data-dir data

The tutorial's recipe as in `bench_tutorial_recipe.py`, 80 fused steps an
epoch, beside the bare `lax.scan`: wall time of each part of Keras' loop around
an epoch. The program is waited for where it is called, so that no part holds
the time of another. All take turns: the fastest of `--rounds` rounds of
`--epochs` epochs, and ratios within a round.

Virtual CPU devices prove correctness and overhead, never speed-up.
"""

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import time

from movielens_folder import add_data_dir

# Methods of the model and of Keras' list of callbacks, and whose work it is.
OF_MODEL = {
    "reset_metrics": "both: the loss to 0",
    "_get_jax_state": "Keras: variables to arrays",
    "jax_state_sync": "Keras: arrays to variables",
    "get_metrics_result": "ours: the loss read",
}
OURS_AT_END = "ours: are weights finite, is the loss at chance"


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_data_dir(parser, required=False)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Parts:
    """Seconds by part; a part that calls another holds its time too."""

    def __init__(self):
        self.seconds = collections.Counter()

    def timed(self, function, part):
        def call(*arguments, **known):
            start = time.perf_counter()
            try:
                return function(*arguments, **known)
            finally:
                self.seconds[part] += time.perf_counter() - start

        return call

    def watch(self, owner, name, part):
        setattr(owner, name, self.timed(getattr(owner, name), part))

    def train_function(self, function):
        """The same function in parts: the data, the call, the program."""
        import jax

        read = self.timed(
            lambda batches: jax.block_until_ready(next(batches)),
            "both: a group read, and put on the devices",
        )
        run = self.timed(function, "the program: its call")
        wait = self.timed(jax.block_until_ready, "the program: 80 steps")
        return lambda state, batches: wait(run(state, iter([read(batches)])))


def measure(arguments):
    """Runs in the child, with as many devices as it has."""
    import bench_tutorial_recipe as bench
    import jax

    import keras_dp_retrieval as kdr
    from keras_dp_retrieval.metrics.chance import ChanceAlarm
    from keras_dp_retrieval.training.finite import NonFiniteGuard

    num_devices = jax.device_count()
    if num_devices > 1:
        kdr.data_parallel()
    recipe = bench.Recipe(arguments.data_dir)
    model = kdr.TwoTowerRetrieval(
        bench.NUM_USERS, bench.NUM_MOVIES, bench.DIM, objective="rating"
    )
    tables = (model.user_tower, model.candidate_tower), recipe.tables
    fit = bench.fitting(model, tables, recipe.data.train, 80)
    scan = bench.scan(recipe, num_devices)
    fit(5)
    scan(5)

    def milliseconds(call):
        start = time.perf_counter()
        call(arguments.epochs)
        return 1e3 * (time.perf_counter() - start) / arguments.epochs

    parts = Parts()
    for name, part in OF_MODEL.items():
        parts.watch(model, name, part)
    for callback in (ChanceAlarm, NonFiniteGuard):
        parts.watch(callback, "on_epoch_end", OURS_AT_END)
    function = model.train_function
    in_parts = parts.train_function(function)
    model.make_train_function = lambda force=False: None
    bare, whole, apart = [], [], []
    for _ in range(arguments.rounds):
        bare.append(milliseconds(scan))
        whole.append(milliseconds(fit))
        parts.seconds.clear()
        model.train_function = in_parts
        apart.append((milliseconds(fit), parts.seconds.most_common()))
        model.train_function = function
    show(num_devices, bare, whole, *min(apart), arguments.epochs)


def show(num_devices, bare, whole, sum_of_parts, parts, epochs):
    ratios = sorted(a / b for a, b in zip(whole, bare, strict=True))
    print(
        f"{num_devices} devices, ms an epoch\n"
        f"{min(bare):8.2f}  bare scan\n"
        f"{min(whole):8.2f}  fused steps, {ratios[len(ratios) // 2]:.2f} "
        f"({ratios[0]:.2f}-{ratios[-1]:.2f}) of it\n"
        f"{sum_of_parts:8.2f}  fused steps in parts:"
    )
    rest = sum_of_parts
    for part, seconds in parts:
        rest -= 1e3 * seconds / epochs
        print(f"{1e3 * seconds / epochs:12.2f}  {part}")
    print(f"{rest:12.2f}  Keras: the rest of its loop")


def main():
    arguments = parse()
    if arguments.child:
        return measure(arguments)
    checkout = pathlib.Path(__file__).resolve().parent.parent
    for num_devices in arguments.devices:
        flag = f"--xla_force_host_platform_device_count={num_devices}"
        subprocess.run(
            [sys.executable, __file__, "--child", *sys.argv[1:]],
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "TF_CPP_MIN_LOG_LEVEL": "3",
                "XLA_FLAGS": flag,
                "PYTHONPATH": str(checkout),
            },
            check=True,
        )


if __name__ == "__main__":
    main()
