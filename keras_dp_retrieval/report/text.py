"""A run record as text for the terminal."""

from keras_dp_retrieval.report.summary import (
    EPOCH_PARTS,
    counted,
    headline,
    steady_epochs,
    total,
    typical,
    typical_items,
    which_epochs,
)
from keras_dp_retrieval.report.text_table import (
    scaled,
    shorten,
    show_fixed,
    show_number,
    show_ratio,
    text_table,
)

# Why a step was compiled again, as the record has it, in words. The first step
# must be compiled, and one shorter group of fused steps is expected.
_COMPILED_AGAIN = {
    "new shape": (
        ", because a batch came in a new shape. Pad every batch to one size"
    ),
    "same shape": (
        " for a batch of the same shape: the weights or the metrics were "
        "placed or typed otherwise than before. JAX does this once or twice "
        "under a `DataParallel` of one device"
    ),
    "not recorded": "",
}


def table(run: dict) -> str:
    """Returns one run as text.

    Args:
        run: dict, as `read_run` returns it.
    """
    epochs = run["epochs"]
    if not epochs:
        return "No epoch has ended yet."
    parts = [
        headline(run),
        text_table(*_throughput(epochs)),
        "Seconds of each epoch",
        text_table(*_times(epochs)),
        "Devices, " + which_epochs(epochs),
        text_table(*_devices(epochs)),
    ]
    if len(epochs[-1]["processes"]) > 1:
        parts += [
            "Processes, " + which_epochs(epochs),
            text_table(*_processes(epochs)),
        ]
    remarks = _remarks(run)
    if remarks:
        parts.append("\n".join(remarks))
    return "\n\n".join(parts)


def comparison(first: dict, second: dict, names=("first", "second")) -> str:
    """Returns two runs side by side as text, with the second over the first.

    Figures are medians over the epochs that did not compile, where there are
    any; compiling is the sum over the run.

    Args:
        first, second: dicts, as `read_run` returns them.
        names: What to call them.
    """
    rows = []
    for title, key, factor in (
        ("devices", "num_devices", 1),
        ("examples/s", "examples_per_second", 1),
        ("examples/s per device", "examples_per_second_per_device", 1),
        ("step, median ms", "step_seconds_median", 1e3),
        ("step, p95 ms", "step_seconds_p95", 1e3),
        ("epoch s", "seconds", 1),
        ("  training s", "training_seconds", 1),
        ("  of it input s", "input_wait_seconds", 1),
        ("  validation s", "validation_seconds", 1),
        ("  callbacks s", "callbacks_seconds", 1),
    ):
        values = [scaled(typical(run, key), factor) for run in (first, second)]
        rows.append([title, *map(show_number, values), show_ratio(*values)])
    values = [total(run, "compile_seconds") for run in (first, second)]
    rows.append(
        [
            "compiling s, whole run",
            *map(show_number, values),
            show_ratio(*values),
        ]
    )
    return text_table(["", *names, "ratio"], rows)


def _throughput(epochs):
    headers = ["epoch", "examples", "steps", "examples/s", "per device"]
    headers += ["step ms", "p95 ms"]
    efficiency = any(r["scaling_efficiency"] is not None for r in epochs)
    if efficiency:
        headers.append("efficiency")
    rows = []
    for r in epochs:
        row = [
            str(r["epoch"]),
            show_number(r["examples"]),
            show_number(r["steps"]),
        ]
        row += [
            show_number(r["examples_per_second"]),
            show_number(r["examples_per_second_per_device"]),
            show_number(scaled(r["step_seconds_median"], 1e3)),
            show_number(scaled(r["step_seconds_p95"], 1e3)),
        ]
        if efficiency:
            row.append(show_number(r["scaling_efficiency"]))
        rows.append(row)
    return headers, shorten(rows)


def _times(epochs):
    headers = ["epoch", "total", *(title for title, _ in EPOCH_PARTS)]
    rows = [
        [
            str(r["epoch"]),
            show_fixed(r["seconds"], 3),
            *(show_fixed(seconds(r), 3) for _, seconds in EPOCH_PARTS),
        ]
        for r in epochs
    ]
    return headers, shorten(rows)


def _devices(epochs):
    headers = ["device", "process", "examples", "examples/s"]
    headers += ["finish lag ms", "memory MB"]
    rows = [
        [
            name,
            show_number(d["process"]),
            show_number(d["examples"]),
            show_number(d["examples_per_second"]),
            show_fixed(scaled(d["finish_lag_seconds"], 1e3), 2),
            show_number(scaled(d["memory_bytes"], 1e-6)),
        ]
        for name, d in typical_items(epochs, "devices", "name").items()
    ]
    return headers, shorten(rows)


def _processes(epochs):
    headers = ["process", "step ms", "p95 ms", "input s", "outside step s"]
    rows = [
        [
            str(index),
            show_number(scaled(p["step_seconds_median"], 1e3)),
            show_number(scaled(p["step_seconds_p95"], 1e3)),
            show_fixed(p["input_wait_seconds"], 3),
            show_fixed(p["outside_step_seconds"], 3),
        ]
        for index, p in typical_items(epochs, "processes", "process").items()
    ]
    return headers, rows


def _remarks(run) -> list[str]:
    epochs = run["epochs"]
    remarks = []
    steady = steady_epochs(epochs)
    for what, key in (
        ("Device", "slowest_device"),
        ("Process", "slowest_process"),
    ):
        named = [r[key] for r in steady if r[key] is not None]
        for name in sorted(set(named), key=named.count, reverse=True)[:1]:
            remarks.append(
                f"{what} {name} is the slowest, in {named.count(name)} of "
                f"{counted(len(steady), 'epoch')}."
            )
    for reason, why in _COMPILED_AGAIN.items():
        again = [
            f"epoch {r['epoch']} step {step}"
            for r in epochs
            for step, cause in _compiled_steps(r)
            if cause == reason
        ]
        if again:
            remarks.append(
                "The training step was compiled again in "
                f"{', '.join(again[:5])}"
                f"{' and later' if len(again) > 5 else ''}{why}."
            )
    for r in epochs:
        if r["missing_processes"]:
            remarks.append(
                f"Processes {r['missing_processes']} did not report epoch "
                f"{r['epoch']}."
            )
    for stall in run["stalls"]:
        remarks.append(
            f"Process {stall['process']} stalled {stall['where']}, for "
            f"{stall['seconds']:.0f} s when process {stall['seen_by']} "
            "reported it."
        )
    reasons: dict = {}
    for r in epochs:
        for name, why in r["unknown"].items():
            found = reasons.setdefault(why, {})
            found.setdefault(name, []).append(r["epoch"])
    for why, names in reasons.items():
        where = sorted(set().union(*names.values()))
        shown = f"{', '.join(map(str, where[:5]))}{', ...' * (len(where) > 5)}"
        text = "" if len(where) == len(epochs) else f", epoch {shown}"
        remarks.append(f"Unknown{text}: {', '.join(names)} ({why}).")
    return remarks


def _compiled_steps(record) -> list[tuple]:
    """The steps of an epoch that compiled, each with the reason."""
    steps = record["compiled_steps"] or []
    causes = record.get("compile_reasons")
    if causes is None:  # An older record: only where it was no epoch's first.
        return [(step, "not recorded") for step in steps if step > 0]
    return list(zip(steps, causes, strict=True))
