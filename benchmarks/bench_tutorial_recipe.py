"""How fast is the tutorial's recipe: plain, ours, ours fused, bare JAX?

    taskset -c 0,1 python benchmarks/bench_tutorial_recipe.py --data-dir data

MovieLens 100K in the tutorial's split and order, batch 1000, dim 32,
Adagrad(0.2), squared error of the dot product. The contenders:

    plain        the recipe in plain Keras (tests/plain_keras.py), `fit`
    single       TwoTowerRetrieval, `fit`, step by step
    fused-N      the same with `compile(steps_per_execution=N)`
    fused-N-tf   the same, fed by the plain recipe's own tf.data pipeline
    fused-N-new  the same, fed by a data set that is reshuffled every epoch
    scan         one `lax.scan` a epoch over arrays that are on the device

A number of devices has a process of its own. In it all contenders start from
the same weights and must have the same loss curve (those of one order), then
each round times some epochs of every contender in turn, so that a busy machine
slows all of them; ratios are within a round. `--data-dir` (or KDR_DATA_DIR)
holds `tfds` with MovieLens 100K; without it the ratings are synthetic.

Virtual CPU devices prove correctness and overhead, never speed-up.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

from movielens_folder import add_data_dir, prepared

NUM_USERS, NUM_MOVIES, DIM, LEARNING_RATE = 944, 1683, 32, 0.2


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_data_dir(parser, required=False)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[80, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=10, help="of one fit")
    parser.add_argument("--callback", action="store_true", help="measure waits")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# In the child: one number of devices.


class Recipe:
    """The data and the first weights that all contenders share."""

    def __init__(self, data_dir):
        import numpy as np

        import keras_dp_retrieval as kdr

        known = {"split": "tutorial"}
        if data_dir:
            known["data_dir"] = prepared(data_dir)
        else:
            known["source"] = "synthetic"
        self.data = kdr.MovieLensRetrievalDataset("100k", **known)
        self.dealt_anew = kdr.RetrievalDataset(
            *columns(self.data.ratings("train")),
            test_fraction=0,
            validation_fraction=0,
            candidate_key="movie_id",
        )
        self.data_dir = data_dir
        rng = np.random.default_rng(0)
        self.tables = [
            rng.uniform(-0.05, 0.05, (rows, DIM)).astype("float32")
            for rows in (NUM_USERS, NUM_MOVIES)
        ]

    def plain_pipeline(self):
        """The tutorial's batches as tf.data, cached as it does."""
        from tests.plain_keras import tutorial_pipeline

        if self.data_dir:
            return tutorial_pipeline(prepared(self.data_dir))[0]
        import tensorflow as tf

        users, movies, ratings = columns(self.data.ratings("train"))
        rows = (users, {"movie_id": movies, "rating": (ratings - 1) / 4})
        return tf.data.Dataset.from_tensor_slices(rows).batch(1000).cache()


def columns(ratings):
    return ratings.user_rows, ratings.candidate_rows, ratings.ratings


def fitting(model, tables, data, steps, callbacks=()):
    """`f(epochs) -> losses` of a Keras model that begins with `tables`."""
    import keras

    towers, weights = tables
    model.compile(
        optimizer=keras.optimizers.Adagrad(LEARNING_RATE),
        steps_per_execution=steps,
    )
    model.build((None,))
    for tower, table in zip(towers, weights, strict=True):
        tower.set_weights([table])

    def fit(epochs):
        found = model.fit(
            data, epochs=epochs, verbose=0, callbacks=list(callbacks)
        )
        return found.history["loss"]

    return fit


def plain(recipe):
    from tests.plain_keras import PlainTwoTower

    model = PlainTwoTower(NUM_USERS, NUM_MOVIES, DIM)
    tables = (model.users, model.movies), recipe.tables
    return fitting(model, tables, recipe.plain_pipeline(), 1)


def ours(recipe, steps, data, callbacks=()):
    import keras_dp_retrieval as kdr

    model = kdr.TwoTowerRetrieval(
        NUM_USERS, NUM_MOVIES, DIM, objective="rating"
    )
    tables = (model.user_tower, model.candidate_tower), recipe.tables
    return fitting(model, tables, data, steps, callbacks)


def scan(recipe, num_devices):
    """The recipe in bare JAX: an epoch is one program."""
    import jax
    import numpy as np
    from jax import numpy as jnp

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ("batch",))
    everywhere = jax.NamedSharding(mesh, jax.P())
    divided = jax.NamedSharding(mesh, jax.P(None, "batch"))
    users, movies, ratings = columns(recipe.data.ratings("train"))
    batches = jax.device_put(
        [np.reshape(c, (80, 1000)) for c in (users, movies, (ratings - 1) / 4)],
        divided,
    )
    slots = [np.full_like(table, 0.1) for table in recipe.tables]
    # Copies: these arrays will be donated, and NumPy would still own them.
    state = jax.device_put(
        [jnp.array(a) for a in (*recipe.tables, *slots)], everywhere
    )

    def loss(tables, users, movies, ratings):
        vectors = [jnp.take(tables[0], users, axis=0)]
        vectors += [jnp.take(tables[1], movies, axis=0)]
        return jnp.mean((jnp.sum(vectors[0] * vectors[1], -1) - ratings) ** 2)

    def step(state, batch):
        tables, slots = state[:2], state[2:]
        value, gradients = jax.value_and_grad(loss)(tables, *batch)
        pairs = list(zip(slots, gradients, strict=True))
        slots = [slot + gradient**2 for slot, gradient in pairs]
        tables = [
            table - LEARNING_RATE * gradient / jnp.sqrt(slot + 1e-7)
            for table, slot, gradient in zip(
                tables, slots, gradients, strict=True
            )
        ]
        return [*tables, *slots], value

    def epoch(state, batches):
        state, losses = jax.lax.scan(step, state, batches)
        return state, jnp.mean(losses)

    epoch = jax.jit(
        epoch, donate_argnums=0, out_shardings=([everywhere] * 4, everywhere)
    )

    def fit(epochs):
        nonlocal state
        losses = []
        for _ in range(epochs):
            state, value = epoch(state, batches)
            losses.append(float(value))
        return losses

    return fit


def contenders(arguments, recipe):
    """`{name: f(epochs) -> losses}`, and the names with another order."""
    callbacks = []
    if arguments.callback:
        import keras_dp_retrieval as kdr

        callbacks = [kdr.DistributionAwareCallback()]
    most = max(arguments.steps)
    calls = {
        "plain": plain(recipe),
        "single": ours(recipe, 1, recipe.data.train),
    }
    for steps in arguments.steps:
        calls[f"fused-{steps}"] = ours(
            recipe, steps, recipe.data.train, callbacks
        )
    calls[f"fused-{most}-tf"] = ours(recipe, most, recipe.plain_pipeline())
    calls[f"fused-{most}-new"] = ours(recipe, most, recipe.dealt_anew.train)
    calls["scan"] = scan(recipe, arguments.devices[0])
    return calls, callbacks


def measure(arguments):
    """Runs in the child; prints one JSON line."""
    import keras

    import keras_dp_retrieval as kdr

    if arguments.devices[0] > 1:
        kdr.data_parallel()
    recipe = Recipe(arguments.data_dir)
    calls, callbacks = contenders(arguments, recipe)
    curves = {name: call(5) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(arguments.rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call(arguments.epochs)
            seconds = time.perf_counter() - start
            times[name].append(seconds / arguments.epochs)
    apart = {
        name: max(
            abs(a - b) for a, b in zip(curve, curves["plain"], strict=True)
        )
        for name, curve in curves.items()
        if not name.endswith("-new")
    }
    for callback in callbacks:
        print(callback.report(), file=sys.stderr)
    found = {
        "devices": arguments.devices[0],
        "synthetic": recipe.data.is_synthetic,
        "seconds_an_epoch": times,
        "loss_apart_from_plain": apart,
        "keras": keras.__version__,
    }
    print(json.dumps(found))


# In the parent.


def child(arguments, num_devices):
    """What one process finds out about one number of devices."""
    checkout = pathlib.Path(__file__).resolve().parent.parent
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": flag,
        "PYTHONPATH": os.pathsep.join(
            [str(checkout), os.environ.get("PYTHONPATH", "")]
        ),
    }
    options = [
        "--rounds",
        str(arguments.rounds),
        "--epochs",
        str(arguments.epochs),
        "--steps",
        *map(str, arguments.steps),
        "--devices",
        str(num_devices),
    ]
    if arguments.data_dir:
        options += ["--data-dir", str(arguments.data_dir)]
    if arguments.callback:
        options += ["--callback"]
    command = [sys.executable, __file__, "--child", *options]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def ratio(times, over, under):
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    return {
        "of": over,
        "to": under,
        "median": round(statistics.median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
    }


def ratios(times):
    ours = [name for name in times if name not in ("plain", "scan")]
    return [
        *(ratio(times, "plain", name) for name in ours),
        *(ratio(times, name, "scan") for name in [*ours, "plain"]),
    ]


def show(found, rows):
    made_up = ", SYNTHETIC ratings" if found["synthetic"] else ""
    print(f"{found['devices']} devices{made_up}")
    for name, seconds in found["seconds_an_epoch"].items():
        apart = found["loss_apart_from_plain"].get(name)
        middle = statistics.median(seconds)
        print(
            f"{name:>14} {1e3 * middle:8.1f} ms an epoch "
            f"({1e3 * min(seconds):.1f}-{1e3 * max(seconds):.1f}), "
            f"{80_000 / middle:12,.0f} examples/s"
            + ("" if apart is None else f", losses within {apart:.0e}")
        )
    for row in rows:
        print(
            f"{row['of']:>14} / {row['to']:<14} {row['median']:7.2f} "
            f"({row['lowest']}-{row['highest']})"
        )


def main():
    arguments = parse()
    if arguments.child:
        return measure(arguments)
    if not arguments.data_dir:
        print("No --data-dir: the ratings are SYNTHETIC, of the same shape.")
    results = []
    for num_devices in arguments.devices:
        found = child(arguments, num_devices)
        rows = ratios(found["seconds_an_epoch"])
        show(found, rows)
        worst = max(found["loss_apart_from_plain"].values())
        if worst > 1e-4:
            raise SystemExit(f"The loss curves differ by {worst:.1e}.")
        results.append({**found, "ratios": rows})
    about = {
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps({"results": results, **about}))


if __name__ == "__main__":
    main()
