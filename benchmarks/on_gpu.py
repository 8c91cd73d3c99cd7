"""What does all this cost on a GPU? One command, under eight minutes.

    python benchmarks/on_gpu.py > on_gpu.jsonl

Needs JAX, Keras and NumPy alone. Sections, each a line of JSON as soon as it
is done, so that a run that is cut short has told what it knows:

    matmul      the card's rate, float32 and bfloat16: what others are shares of
    tutorial    the tutorial's recipe: plain Keras, ours, ours fused, bare scan
    callback    DistributionAwareCallback's share of `fit`, fits in turn
    row_sparse  steps that update single rows beside dense ones, by table size
    in_batch    in-batch softmax by batch size, as a share of the matmul rate
    full        full softmax whole and in chunks: time and memory of a step
    top_k       exact top-k beside matmul and maximum, and FAISS on the GPU
    evaluation  exact metrics of a catalogue, users a second

`--size full` is for a card, `small` for a CPU, where a test runs it; the
default is what is there. Seconds of the first call, which compiles, are told
apart. No section begins after `--minutes`. One device only: several GPUs in
one host would need another program, and have not been run.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from jax import numpy as jnp
from keras import ops

import keras_dp_retrieval as kdr

try:  # As a program, and as a module of the tests.
    import bench_full_softmax
    import bench_topk
except ImportError:
    from benchmarks import bench_full_softmax, bench_topk


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything; the first are those of a card."""

    matmul: int = 8192
    examples: int = 80_000
    rounds: int = 5
    epochs: int = 5
    table_rows: tuple = (100_000, 1_000_000, 10_000_000, 40_000_000)
    row_steps: int = 40
    in_batch: tuple = (8192, 16_384, 32_768, 65_536)
    full: tuple = (100_000, 1_000_000)
    top_k: tuple = ((1_000_000, 64), (1_000_000, 128), (10_000_000, 64))
    queries: tuple = (1, 64, 1024)
    evaluated: tuple = (20_000, 1_000_000)


SMALL = Sizes(
    matmul=256,
    examples=4000,
    rounds=2,
    epochs=1,
    table_rows=(1000,),
    row_steps=4,
    in_batch=(256,),
    full=(1000,),
    top_k=((2000, 16),),
    queries=(1, 4),
    evaluated=(50, 500),
)


def seconds_of(call, rounds: int) -> dict:
    """`{"first": ..., "median": ..., "lowest": ..., "highest": ...}`."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return {"first": times[0], **spread(times[1:])}


def spread(values) -> dict:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
    }


def in_turn(calls: dict, rounds: int) -> dict:
    """Seconds of each call in each round, the first of which compiles."""
    times: dict = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def told(times: dict, over: str) -> dict:
    """Of `in_turn`: first and later seconds, and `over` as a ratio to each."""
    return {
        name: {
            "first": values[0],
            **spread(values[1:]),
            f"{over}_over_it": spread(
                [
                    a / b
                    for a, b in zip(times[over][1:], values[1:], strict=True)
                ]
            ),
        }
        for name, values in times.items()
    }


def rate_of_matmul(dtype: str, size: int, rounds: int) -> float:
    """Floating-point operations a second, the best of several."""
    one = jnp.ones((size, size), dtype)
    # Chained, so that what a call costs beside its products is not counted.
    product = jax.jit(lambda a: jax.lax.fori_loop(0, 8, lambda _, b: a @ b, a))
    found = seconds_of(lambda: product(one), rounds)
    return 8 * 2 * size**3 / found["lowest"]


def matmul(sizes):
    for dtype in ("float32", "bfloat16"):
        rate = rate_of_matmul(dtype, sizes.matmul, sizes.rounds)
        yield {
            "dtype": dtype,
            "size": sizes.matmul,
            "tflop_per_second": rate / 1e12,
        }


# Training


NUM_USERS, NUM_MOVIES, DIM, BATCH_SIZE = 944, 1683, 32, 1000


class PlainTwoTower(keras.Model):
    """The tutorial's two tables and squared error, in plain Keras."""

    def __init__(self):
        super().__init__()
        self.users = keras.layers.Embedding(NUM_USERS, DIM)
        self.movies = keras.layers.Embedding(NUM_MOVIES, DIM)

    def build(self, input_shape):
        self.users.build(input_shape)
        self.movies.build(input_shape)

    def call(self, user_ids):
        return self.users(user_ids)

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        scores = ops.sum(y_pred * self.movies(y["movie_id"]), axis=-1)
        return ops.mean(ops.square(scores - y["rating"]))


def made_up(sizes):
    rng = np.random.default_rng(0)
    users = rng.integers(1, NUM_USERS, sizes.examples).astype("int32")
    movies = rng.integers(1, NUM_MOVIES, sizes.examples).astype("int32")
    ratings = rng.random(sizes.examples).astype("float32")
    return users, {"movie_id": movies, "rating": ratings}


def fitting(model, data, sizes, steps=1, callbacks=()):
    model.compile(keras.optimizers.Adagrad(0.2), steps_per_execution=steps)

    def fit():
        model.fit(
            *data,
            batch_size=BATCH_SIZE,
            epochs=sizes.epochs,
            verbose=0,
            callbacks=list(callbacks),
        )

    return fit


def ours(**options):
    return kdr.TwoTowerRetrieval(
        NUM_USERS, NUM_MOVIES, DIM, objective="rating", **options
    )


def bare_scan(data, sizes):
    """The recipe in JAX alone: an epoch is one program."""
    users, targets = data
    batches = [
        jnp.reshape(jnp.asarray(column), (-1, BATCH_SIZE))
        for column in (users, targets["movie_id"], targets["rating"])
    ]
    rng = np.random.default_rng(0)
    tables = [
        jnp.asarray(rng.uniform(-0.05, 0.05, (rows, DIM)), "float32")
        for rows in (NUM_USERS, NUM_MOVIES)
    ]
    state = [tables, [jnp.full_like(table, 0.1) for table in tables]]

    def loss(tables, batch):
        users, movies, ratings = batch
        scores = (tables[0][users] * tables[1][movies]).sum(axis=-1)
        return ((scores - ratings) ** 2).mean()

    def step(state, batch):
        tables, slots = state
        value, gradients = jax.value_and_grad(loss)(tables, batch)
        slots = [s + g**2 for s, g in zip(slots, gradients, strict=True)]
        tables = [
            t - 0.2 * g * jax.lax.rsqrt(s + 1e-7)
            for t, s, g in zip(tables, slots, gradients, strict=True)
        ]
        return [tables, slots], value

    epoch = jax.jit(
        lambda state: jax.lax.scan(step, state, batches), donate_argnums=0
    )

    def fit():
        nonlocal state
        for _ in range(sizes.epochs):
            state, losses = epoch(state)
        jax.block_until_ready(losses)

    return fit


def tutorial(sizes):
    data = made_up(sizes)
    steps = sizes.examples // BATCH_SIZE
    calls = {
        "plain": fitting(PlainTwoTower(), data, sizes),
        "single": fitting(ours(), data, sizes),
        f"fused-{steps}": fitting(ours(), data, sizes, steps),
        "scan": bare_scan(data, sizes),
    }
    times = in_turn(calls, sizes.rounds)
    yield {"epochs": sizes.epochs, "seconds": told(times, "plain")}


def callback(sizes):
    data = made_up(sizes)
    calls = {
        "without": fitting(ours(), data, sizes),
        "with": fitting(
            ours(), data, sizes, callbacks=[kdr.DistributionAwareCallback()]
        ),
    }
    yield {"seconds": told(in_turn(calls, 4 * sizes.rounds), "with")}


def row_sparse(sizes):
    for num_rows in sizes.table_rows:
        milliseconds = {
            updates: milliseconds_a_step(updates, num_rows, sizes.row_steps)
            for updates in ("row_sparse", "dense")
        }
        ratio = milliseconds["dense"] / milliseconds["row_sparse"]
        yield {
            "rows": num_rows,
            "milliseconds_a_step": milliseconds,
            "dense_over_row_sparse": ratio,
        }


def milliseconds_a_step(updates: str, num_rows: int, num_steps: int):
    """Of two tables x 64, batch 4096; what any `fit` costs is taken off."""
    batch_size, few = 4096, 2
    rng = np.random.default_rng(0)
    number = num_steps * batch_size
    users, movies = rng.integers(1, num_rows, (2, number)).astype("int32")
    ratings = rng.random(number).astype("float32")
    keras.utils.clear_session()
    model = kdr.TwoTowerRetrieval(
        num_rows, num_rows, 64, objective="rating", embedding_updates=updates
    )
    model.compile(keras.optimizers.Adagrad(0.1))

    def seconds(steps):
        rows = slice(steps * batch_size)
        targets = {"movie_id": movies[rows], "rating": ratings[rows]}
        start = time.perf_counter()
        model.fit(users[rows], targets, batch_size=batch_size, verbose=0)
        return time.perf_counter() - start

    seconds(few)  # Compiles.
    more = seconds(num_steps) - seconds(few)
    return 1e3 * more / (num_steps - few)


def in_batch(sizes, dim=128):
    """Loss and gradients of a batch's vectors; three products of it."""
    objective = kdr.InBatchSoftmax()
    for dtype in ("float32", "bfloat16"):
        rate = rate_of_matmul(dtype, sizes.matmul, sizes.rounds)
        for size in sizes.in_batch:
            rng = np.random.default_rng(0)
            users, candidates = (
                jnp.asarray(rng.normal(size=(size, dim)), dtype)
                for _ in range(2)
            )
            rows = jnp.arange(1, size + 1, dtype="int32")

            def loss(users, candidates, rows=rows, size=size):
                batch = kdr.losses.ScoredBatch(
                    user_vectors=users,
                    candidate_rows=rows,
                    weights=jnp.ones(size),
                    lookup=lambda rows: jnp.take(candidates, rows - 1, axis=0),
                    all_candidate_vectors=lambda: candidates,
                    candidate_counts=jnp.ones(size + 1),
                )
                return jnp.mean(objective(batch))

            step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
            found = seconds_of(
                lambda step=step, u=users, c=candidates: step(u, c),
                sizes.rounds,
            )
            flop = 3 * 2 * size**2 * dim
            yield {
                "dtype": dtype,
                "batch_size": size,
                "dim": dim,
                "seconds": found,
                "share_of_matmul": flop / found["median"] / rate,
            }


def full(sizes):
    options = argparse.Namespace(
        batch=512, positives=32, dim=64, repeats=sizes.rounds
    )
    for number in sizes.full:
        for way, chunk_size in (("whole", None), ("chunked", 16_384)):
            objective = kdr.FullSoftmax(chunk_size=chunk_size)
            found = bench_full_softmax.measure(objective, number, options)
            yield {"candidates": number, "way": way, **found}


# Searching


def top_k(sizes):
    for number, dim in sizes.top_k:
        rng = np.random.default_rng(0)
        candidates = rng.standard_normal((number, dim), dtype="float32")
        index = faiss_on_gpu(candidates)
        for num_queries in sizes.queries:
            queries = rng.standard_normal((num_queries, dim), dtype="float32")
            for k in (10, 100):
                calls = bench_topk.contenders(queries, candidates, k, index)
                seconds = bench_topk.timed(
                    calls, sizes.rounds, time.perf_counter
                )
                yield {
                    "candidates": number,
                    "dim": dim,
                    "queries": num_queries,
                    "k": k,
                    **bench_topk.summary(seconds),
                }


def faiss_on_gpu(candidates):
    """FAISS' exact index on the card, if such a FAISS is installed."""
    try:
        import faiss

        resources = faiss.StandardGpuResources()
        index = faiss.GpuIndexFlatIP(resources, candidates.shape[1])
    except (ImportError, AttributeError):
        return None
    index.add(candidates)
    return index


def evaluation(sizes):
    num_users, num_candidates = sizes.evaluated
    rng = np.random.default_rng(0)
    number = 5 * num_users
    pairs = rng.integers(0, num_users * num_candidates, number)
    pairs = rng.permutation(np.unique(pairs))
    users = 1 + pairs // num_candidates
    candidates = 1 + pairs % num_candidates
    data = kdr.RetrievalDataset(
        users,
        candidates,
        test_fraction=0.4,
        validation_fraction=0,
        candidate_key="movie_id",
    )
    model = kdr.TwoTowerRetrieval.for_dataset(data, embedding_dimension=64)
    model.build()
    found = seconds_of(
        lambda: kdr.evaluate(model, data)["num_users"], min(sizes.rounds, 2)
    )
    yield {
        "users": num_users,
        "candidates": data.num_candidates - 1,
        "seconds": found,
    }


SECTIONS = (
    *(matmul, tutorial, callback, row_sparse),
    *(in_batch, full, top_k, evaluation),
)


def about() -> dict:
    device = jax.devices()[0]
    return {
        "device": f"{device.platform} {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "keras_dp_retrieval": kdr.__version__,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=["full", "small"])
    parser.add_argument("--minutes", type=float, default=7)
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=[one.__name__ for one in SECTIONS],
        default=[one.__name__ for one in SECTIONS],
    )
    args = parser.parse_args(argv)
    size = args.size or ("small" if jax.default_backend() == "cpu" else "full")
    sizes = SMALL if size == "small" else Sizes()
    end = time.perf_counter() + 60 * args.minutes
    print(json.dumps({"size": size, **about()}), flush=True)
    for section in SECTIONS:
        if section.__name__ not in args.sections:
            continue
        results = section(sizes)
        while True:
            line = {"section": section.__name__}
            if time.perf_counter() > end:
                print(json.dumps({**line, "left_out": "no time"}), flush=True)
                break
            try:
                found = next(results)
            except StopIteration:
                break
            except Exception as error:  # The next section may well run.
                print(json.dumps({**line, "error": repr(error)}), flush=True)
                break
            print(json.dumps({**line, **found}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
