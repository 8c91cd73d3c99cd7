"""How far does data parallelism carry, on machines that nobody here has?

    python benchmarks/scaling_model.py                # the tables
    python benchmarks/scaling_model.py --check        # against processes here

Three things go into a prediction:

- what devices send each other, read off programs that are compiled for 2, 8,
  64 and 512 devices and never run (`collectives.py`);
- the time of a step on one device, in two parts: work that the devices divide
  (lookups, scores, gradients of the examples), and work that each of them does
  for the whole batch (a row-sparse update, so that every device holds the same
  tables; a dense update of whole tables). Measured here on one CPU device; for
  a card estimated from its published peaks, at half of them;
- the links: seconds = messages x latency + bytes over the slowest link of a
  ring, `(n - 1) / n` of a gathered result and twice that of a sum, with
  `2 log2(n)` messages for each (trees, as NCCL sends small ones).

Nothing is sent while something is computed (XLA overlaps some of it on GPUs),
so predictions err towards the slow side. **No GPU and no second machine has
run this.** `--check` compares the added time of 2 and 4 processes on loopback
with what the model says of it: overhead alone, since they share the cores of
one machine.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

os.environ["KERAS_BACKEND"] = "jax"

OBJECTIVES = ("rating", "in_batch_softmax", "full_softmax")
DEVICES_PER_HOST = 8
DEVICES = (1, 2, 8, 64, 512)

# Results whose collectives `--check` times, in bytes; and how many more there
# are in the longer of two programs.
SIZES = (2**8, 2**14, 2**18, 2**20, 2**23)
CHAIN = 16


@dataclasses.dataclass(frozen=True)
class Link:
    """What connects devices.

    Attributes:
        bytes_per_second: float. One way, between two devices of a host; of a
            network, of a whole host.
        seconds: float. Latency of one message.
    """

    bytes_per_second: float
    seconds: float


# Nominal rates, one way: NVLink 4 (18 links of 25 GB/s), PCIe 5 x16.
WITHIN_HOST = {"NVLink": Link(450e9, 3e-6), "PCIe": Link(64e9, 5e-6)}
BETWEEN_HOSTS = {
    "100 Gb/s": Link(12.5e9, 15e-6),
    "400 Gb/s": Link(50e9, 15e-6),
}


@dataclasses.dataclass(frozen=True)
class Card:
    """Peaks of a device, from its data sheet; half of each is assumed.

    Attributes:
        bytes_per_second: float. Of its memory.
        flops: float. Of a float32 matmul (TF32 where the card has it).
        launch_seconds: float. What a step takes however little it computes.
    """

    bytes_per_second: float
    flops: float
    launch_seconds: float

    def seconds(self, num_bytes: float, flops: float = 0.0) -> float:
        return 2 * (num_bytes / self.bytes_per_second + flops / self.flops)


H100 = Card(bytes_per_second=3.35e12, flops=495e12, launch_seconds=100e-6)


@dataclasses.dataclass(frozen=True)
class Step:
    """The seconds of a step on one device.

    Attributes:
        divided: float. Divided among devices.
        whole: float. Done by each device for the whole batch.
    """

    divided: float
    whole: float

    def on(self, num_devices: int) -> float:
        return self.divided / num_devices + self.whole


def exchange_seconds(collectives, num_devices, within, between=None) -> float:
    """What the collectives of one step take.

    Args:
        collectives: list of `(kind, num_bytes)`.
        num_devices: int, a multiple of `DEVICES_PER_HOST` where there are
            several hosts.
        within: The `Link` inside a host.
        between: The `Link` between hosts; needed beyond one host.
    """
    if num_devices == 1:
        return 0.0
    links = [within]
    if num_devices > DEVICES_PER_HOST:
        links.append(between)
    # A ring crosses each host's network once on its way in and once out.
    slowest = min(link.bytes_per_second for link in links)
    latency = max(link.seconds for link in links)
    share = (num_devices - 1) / num_devices
    total = 0.0
    for kind, num_bytes in collectives:
        times = 2 if kind == "all-reduce" else 1
        total += times * share * num_bytes / slowest
        total += 2 * math.log2(num_devices) * latency
    return total


def on_card(card, objective, batch_size, num_rows, dim) -> Step:
    """A step on a card, from the bytes and flops that it cannot avoid.

    A row-sparse table is read once by the lookup and once more, with its slot,
    by the update, which writes both: six rows an example and table, and the
    gradients are gathered and summed. A dense table (`full_softmax`) is read
    and written as a whole with its slot and gradient. A softmax multiplies
    three times (scores and both gradients) and passes its scores about four
    times through memory.
    """
    row = 4 * dim
    lookups = 2 * 3 * row * batch_size
    if objective == "rating":
        divided = card.seconds(lookups)
    else:
        columns = batch_size if objective == "in_batch_softmax" else num_rows
        scores = batch_size * columns
        divided = card.seconds(lookups + 4 * 4 * scores, 6 * scores * dim)
    if objective == "full_softmax":
        whole = card.seconds(2 * 6 * row * num_rows)
    else:
        whole = card.seconds(2 * 6 * row * batch_size)
    return Step(divided, whole + card.launch_seconds)


def efficiency(step, collectives, num_devices, within, between=None) -> float:
    """Speed-up over one device, divided by the number of devices."""
    seconds = step.on(num_devices)
    seconds += exchange_seconds(collectives, num_devices, within, between)
    return step.on(1) / seconds / num_devices


# Programs are compiled in processes of their own: the number of virtual
# devices is fixed when JAX starts.


def in_process(request: dict, num_devices: int) -> list:
    """What `answer(request)` returns in a process with so many devices."""
    flags = f"--xla_force_host_platform_device_count={num_devices}"
    done = subprocess.run(
        [sys.executable, __file__, "--answer", json.dumps(request)],
        env={**os.environ, "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def answer(request: dict) -> list:
    """Compiles programs and returns the collectives of each."""
    import collectives

    import keras_dp_retrieval as kdr

    models = {
        (objective, num_rows, dim): collectives.built_model(
            objective, num_rows, dim, updates(objective)
        )
        for objective, _, num_rows, dim in request["steps"]
    }
    kdr.data_parallel()
    programs = [
        collectives.training_step(models[objective, num_rows, dim], batch_size)
        for objective, batch_size, num_rows, dim in request["steps"]
    ]
    programs += [collectives.evaluation(*a) for a in request["evaluations"]]
    programs += [collectives.search(*a) for a in request["searches"]]
    return [
        [dataclasses.astuple(c) for c in collectives.in_program(program)]
        for program in programs
    ]


def updates(objective: str) -> str:
    """A full softmax has a gradient for every candidate."""
    return "dense" if objective == "full_softmax" else "row_sparse"


def measured_here(
    objective, batch_size, num_rows, dim, repeats=7, best=statistics.median
) -> Step:
    """A step on one CPU device, and the part of it that all devices repeat."""
    import collectives
    import jax
    import numpy as np

    model = collectives.built_model(
        objective, num_rows, dim, updates(objective)
    )
    rng = np.random.default_rng(0)

    def array(shape, dtype):
        values = rng.integers(num_rows, size=shape)
        return jax.device_put(values.astype(dtype))

    data = collectives.one_batch(batch_size, array)
    ids = array((batch_size,), "int32"), array((batch_size,), "int32")
    rows = [array((batch_size, dim), "float32") for _ in ids]
    step = jax.jit(model.train_step, donate_argnums=0)
    update = jax.jit(update_of(model), donate_argnums=0)
    state = jax.tree.map(jax.numpy.copy, collectives.state_of(model))
    whole, both = [], []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        _, state = jax.block_until_ready(step(state, data))
        stepped = time.perf_counter()
        state = jax.block_until_ready(update(state, ids, rows))
        both.append(stepped - began)
        whole.append(time.perf_counter() - stepped)
    seconds = best(both[1:])
    repeated = min(best(whole[1:]), seconds)
    return Step(seconds - repeated, repeated)


def update_of(model):
    """The part of a step that each device does for the whole batch.

    Returns a function `(state, ids, rows) -> state` that updates both tables,
    by the looked-up rows or densely.
    """
    from keras_dp_retrieval._jax import merged_lookups, row_sparse_step
    from keras_dp_retrieval.training import step_plan

    plan = step_plan.plan(model)

    def by_row(state, ids, rows):
        trainable, others, slots, metrics = state
        touched = {
            index: merged_lookups.merge_lookups(
                [ids[index]], [rows[index]], trainable[index]
            )
            for index in range(2)
        }
        trainable, slots = row_sparse_step._apply(
            plan.rule, model.trainable_variables, trainable, slots, {}, touched
        )
        return trainable, others, slots, metrics

    def densely(state, ids, rows):
        trainable, others, slots, metrics = state
        trainable, slots = model.optimizer.stateless_apply(
            slots, trainable, trainable
        )
        return trainable, others, slots, metrics

    return by_row if plan.tables else densely


# What is printed


def human(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


def print_bytes(steps, evaluations, searches, found):
    print("\nBytes of all collectives, by devices (result on one device)\n")
    print("| program | batch | rows | dim | 2 | 8 | 64 | 512 | number |")
    print("| --- " * 9 + "|")
    names = [
        *(("step, " + o.replace("_", " "), *more) for o, *more in steps),
        *(("evaluation", *more) for more in evaluations),
        *(("search", *more) for more in searches),
    ]
    for index, (name, batch_size, num_rows, dim) in enumerate(names):
        each = [found[n][index] for n in DEVICES[1:]]
        sizes = [human(sum(b for _, b in program)) for program in each]
        counts = sorted({len(program) for program in each})
        print(
            f"| {name} | {batch_size:,} | {num_rows:,} | {dim} | "
            f"{' | '.join(sizes)} | {', '.join(map(str, counts))} |"
        )


def print_efficiency(title, step_of, steps, found):
    print(f"\n{title}\n")
    heads = [
        ("8, NVLink", 8, "NVLink", None),
        ("8, PCIe", 8, "PCIe", None),
        ("64, 100 Gb/s", 64, "NVLink", "100 Gb/s"),
        ("64, 400 Gb/s", 64, "NVLink", "400 Gb/s"),
        ("512, 400 Gb/s", 512, "NVLink", "400 Gb/s"),
    ]
    print(
        "| objective | batch | rows | dim | one device | divided | "
        + " | ".join(head for head, *_ in heads)
        + " |"
    )
    print("| --- " * (6 + len(heads)) + "|")
    for index, (objective, batch_size, num_rows, dim) in enumerate(steps):
        step = step_of(objective, batch_size, num_rows, dim)
        cells = []
        for _, num_devices, within, between in heads:
            share = efficiency(
                step,
                found[num_devices][index],
                num_devices,
                WITHIN_HOST[within],
                BETWEEN_HOSTS.get(between),
            )
            cells.append(f"{share * num_devices:.1f}x ({share:.0%})")
        print(
            f"| {objective.replace('_', ' ')} | {batch_size:,} | {num_rows:,} "
            f"| {dim} | {step.on(1) * 1e3:.2f} ms | "
            f"{step.divided / step.on(1):.0%} | {' | '.join(cells)} |",
            flush=True,
        )


def check(num_rows=10_000, dim=64, repeats=15):
    """The added time of processes on loopback, predicted and measured."""
    print(
        "\nProcesses on loopback, which share the cores: what exchanging adds "
        "to a step\n"
    )
    print("| objective | batch | processes | predicted | measured | ratio |")
    print("| --- " * 6 + "|")
    for num_processes in (2, 4):
        results = processes(num_processes, num_rows, dim, repeats)
        for row in results["steps"]:
            predicted = loopback_seconds(row["collectives"], results["times"])
            print(
                f"| {row['objective'].replace('_', ' ')} | "
                f"{row['batch_size']:,} | {num_processes} | "
                f"{predicted * 1e3:.2f} ms | {row['added'] * 1e3:.2f} ms | "
                f"{predicted / row['added']:.2f} |",
                flush=True,
            )
        for kind, times in results["times"].items():
            said = [f"{human(n)}: {t * 1e3:.2f} ms" for n, t in times]
            print(f"  one {kind} of {num_processes}: {', '.join(said)}")


def loopback_seconds(collectives, times) -> float:
    """What the collectives of one step take, one after the other.

    Args:
        collectives: list of `(kind, num_bytes)`.
        times: dict from kinds to lists of `(num_bytes, seconds)` of one, by
            size; between two sizes, seconds are proportional.
    """
    import numpy as np

    total = 0.0
    for kind, num_bytes in collectives:
        sizes, seconds = zip(*times[kind], strict=True)
        total += float(np.interp(num_bytes, sizes, seconds))
    return total


def processes(num_processes, num_rows, dim, repeats) -> dict:
    """Runs `one_process` in so many; returns what the first one found."""
    import socket

    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    running = [
        subprocess.Popen(
            [
                *(sys.executable, __file__, "--process"),
                json.dumps([port, num_processes, i, num_rows, dim, repeats]),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(num_processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError("A process failed; its output is above.")
    return json.loads(outputs[0].splitlines()[-1])


def one_process(port, num_processes, index, num_rows, dim, repeats) -> dict:
    """Times the link and the steps, one process of several."""
    import keras

    keras.distribution.initialize(f"localhost:{port}", num_processes, index)
    import collectives
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import keras_dp_retrieval as kdr

    steps = [("rating", 1024), ("rating", 16_384)]
    steps += [("in_batch_softmax", 1024), ("full_softmax", 256)]
    # Alone, but at the same time: both processes have the cores they will have.
    alone = [
        measured_here(*step, num_rows, dim, repeats, best=min) for step in steps
    ]
    models = {
        objective: collectives.built_model(
            objective, num_rows, dim, updates(objective)
        )
        for objective in OBJECTIVES
    }
    kdr.data_parallel()
    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    divided = NamedSharding(mesh, P("batch"))
    everywhere = NamedSharding(mesh, P())

    def on_mesh(array, sharding):
        array = np.asarray(array)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    times = {
        kind: [
            (num_bytes, seconds_of_one(kind, num_bytes, mesh, on_mesh, repeats))
            for num_bytes in SIZES
        ]
        for kind in ("all-gather", "all-reduce")
    }
    found = []
    for (objective, batch_size), step in zip(steps, alone, strict=True):
        model = models[objective]
        program = collectives.training_step(model, batch_size)
        exchanged = collectives.in_program(program)
        data = collectives.one_batch(
            batch_size, lambda shape, dtype: np.ones(shape, dtype)
        )
        state = collectives.state_of(model)
        held = [jax.tree.map(lambda a: on_mesh(a, everywhere), state)]
        there = jax.tree.map(lambda a: on_mesh(a, divided), data)

        def one_step(program=program, held=held, there=there):
            _, held[0] = program(held[0], there)
            return held[0]

        together = seconds_of(one_step, repeats)
        found.append(
            {
                "objective": objective,
                "batch_size": batch_size,
                "collectives": [dataclasses.astuple(c) for c in exchanged],
                "added": together - step.on(num_processes),
            }
        )
    return {"times": times, "steps": found}


def seconds_of(function, repeats) -> float:
    """The least time until what a function returns is there.

    Of several, as processes that share cores take turns at random.
    """
    import jax

    times = []
    for _ in range(repeats + 2):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times[2:])


def seconds_of_one(kind, num_bytes, mesh, on_mesh, repeats) -> float:
    """What one collective takes inside a program: the slope of a chain.

    Starting a program takes longer than a small collective, and is no part of
    it: a step starts one, however much it exchanges.

    Args:
        kind: `"all-gather"` or `"all-reduce"`.
        num_bytes: int. The size of its result on one device.
        mesh: A mesh with the axis `"batch"`.
        on_mesh: Function of an array and a sharding.
        repeats: int.
    """
    import jax
    import numpy as np
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    count = mesh.shape["batch"]

    def one(part):
        if kind == "all-reduce":
            return jax.lax.psum(part, "batch") / count
        gathered = jax.lax.all_gather(part, "batch")
        # Which part comes next is not known before: none is left out.
        return gathered[(jax.lax.axis_index("batch") + 1) % count]

    def chain(length):
        def run(part):
            for _ in range(length):
                part = one(part)
            return part

        return jax.jit(
            jax.shard_map(
                run, mesh=mesh, in_specs=P("batch"), out_specs=P("batch")
            )
        )

    length = num_bytes // 4
    if kind == "all-reduce":
        length *= count  # Each device has one as large as the result.
    array = on_mesh(np.ones(length, "float32"), NamedSharding(mesh, P("batch")))
    short, long = chain(1), chain(1 + CHAIN)
    whole = seconds_of(lambda: long(array), repeats)
    return max(whole - seconds_of(lambda: short(array), repeats), 0.0) / CHAIN


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--process", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer:
        print(json.dumps(answer(json.loads(arguments.answer))))
        return
    if arguments.process:
        print(json.dumps(one_process(*json.loads(arguments.process))))
        return
    print(f"{platform.platform()}, {os.cpu_count()} cores")
    if arguments.check:
        check()
        return
    steps = [
        ("rating", 4096, 100_000, 64),
        ("rating", 4096, 1_000_000, 64),
        ("rating", 65_536, 100_000, 64),
        ("in_batch_softmax", 4096, 100_000, 64),
        ("in_batch_softmax", 16_384, 100_000, 64),
        ("in_batch_softmax", 16_384, 100_000, 256),
        ("full_softmax", 4096, 10_000, 64),
        ("full_softmax", 4096, 100_000, 64),
        ("full_softmax", 16_384, 100_000, 256),
    ]
    evaluations = [(1024, 1_000_000, 64)]
    searches = [(64, 2**20, 64), (1024, 2**20, 64)]
    request = {
        "steps": steps,
        "evaluations": evaluations,
        "searches": searches,
    }
    found = {n: in_process(request, n) for n in DEVICES[1:]}
    on_cpu = [i for i, (_, batch, *_) in enumerate(steps) if batch == 4096]
    print_bytes(steps, evaluations, searches, found)
    print_efficiency(
        "Speed-up (efficiency) predicted for H100 cards, 8 a host, at half of "
        "their peaks: an estimate that nobody has run",
        lambda *shape: on_card(H100, *shape),
        steps,
        found,
    )
    print_efficiency(
        "The same with the time of one device measured here, on a CPU, and "
        "its work divided as measured",
        measured_here,
        [steps[index] for index in on_cpu],
        {
            n: [programs[index] for index in on_cpu]
            for n, programs in found.items()
        },
    )


if __name__ == "__main__":
    main()
