"""Draws run records: as a table for the terminal, and as a figure.

A run record is `run.jsonl`, one JSON object a line, as written by
`DistributionAwareCallback(log_dir=...)`. Its `kind` is `"run"` (a `fit`
begins), `"epoch"`, `"epoch_closed"` (what later callbacks added to the time of
that epoch) or `"stall"`. This file knows JSON alone, so a run can be looked at
long after, on another machine.
"""

import json
import os
import pathlib
import statistics

# What an epoch's seconds are made of: (title, how to get it from a record).
_PARTS = (
    ("computing", lambda r: _computing_seconds(r)),
    ("compiling", lambda r: _known(r["compile_seconds"]) + _validation(r)[0]),
    ("input", lambda r: _known(r["input_wait_seconds"])),
    ("validation", lambda r: _validation(r)[1]),
    ("callbacks", lambda r: r["callbacks_seconds"]),
)
# Okabe and Ito's colours: told apart with any colour vision.
_PART_COLORS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#999999")
# Lines and ticks beyond this are no longer told apart.
_MOST_LINES = 8
_MOST_BARS = 16
_MOST_ROWS = 12
# Lines closer than this lie on top of each other in the figure.
_ALIKE = 0.05
# An epoch that took so many times the others' median (the first, which
# compiles) is cut off in the figure, lest the others become invisible.
_CUT_OFF = 3.0

# What makes a step compile again, as the record has it, in words. The first
# step must, and one group of fused steps that is shorter is nobody's mistake.
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


def read_run(path: str | os.PathLike) -> dict:
    """Returns a run record as a dict of `run`, `epochs` and `stalls`.

    A `fit` that was continued in the same folder continues the record; one
    that began again from an earlier epoch replaces it from there.

    Args:
        path: The file, or the folder that holds a `run.jsonl`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no run record, with the line that is not.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "run.jsonl"
    if not file.exists():
        raise FileNotFoundError(
            f"There is no run record at {os.fspath(path)!r}. "
            "`DistributionAwareCallback(log_dir=...)` writes one."
        )
    run: dict = {"run": {}, "epochs": [], "stalls": []}
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except ValueError:
            content = None
            if line.startswith("{"):
                continue  # A run was killed while it wrote this line.
        try:
            _add_line(run, content.pop("kind"), content)
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(file)!r} is no run record: line {number} is "
                f"{line[:60]!r}."
            ) from error
    return run


def _add_line(run, kind, content):
    if kind == "run":
        run["run"] = content
        first = content["first_epoch"]
        run["epochs"] = [r for r in run["epochs"] if r["epoch"] < first]
    elif kind == "epoch":
        run["epochs"].append(content)
    elif kind == "epoch_closed":
        for record in run["epochs"]:
            if record["epoch"] == content["epoch"]:
                record.update(content)
    elif kind == "stall":
        run["stalls"].append(content)
    else:
        raise KeyError(kind)


def baseline_rate(path: str | os.PathLike) -> float:
    """Examples per second of a recorded run on one device.

    The median over its epochs, without those that compiled where there are
    others.

    Raises:
        ValueError: If the run was not on one device, or knows no rate.
    """
    run = read_run(path)
    counts = sorted({record["num_devices"] for record in run["epochs"]})
    rate = _typical(run, "examples_per_second_per_device")
    if counts != [1] or rate is None:
        raise ValueError(
            "`baseline` must be the record of a run on one device that "
            f"counted its examples. Received: baseline={os.fspath(path)!r}, "
            f"recorded on {counts or 'no'} devices."
        )
    return rate


def report(paths, figure_path=None) -> str:
    """Returns one recorded run, or two side by side, as text.

    Args:
        paths: List of one or two run records or folders, see `read_run`.
        figure_path: Optional file to draw the runs to.

    Raises:
        ValueError: If there are not one or two paths, or a file is no record.
        FileNotFoundError: If there is no such file.
    """
    paths = [os.fspath(path) for path in paths]
    if len(paths) not in (1, 2):
        raise ValueError(
            "A report is of one run or of two side by side. Received: "
            f"{len(paths)} paths."
        )
    runs = [read_run(path) for path in paths]
    if figure_path is not None:
        figure(runs, figure_path, names=paths)
    parts = [
        f"{path}\n{table(run)}" for path, run in zip(paths, runs, strict=True)
    ]
    if len(runs) == 2 and all(run["epochs"] for run in runs):
        parts.append(comparison(runs[0], runs[1], paths))
    return "\n\n\n".join(parts)


def table(run: dict) -> str:
    """Returns one run as text.

    Args:
        run: dict, as `read_run` returns it.
    """
    epochs = run["epochs"]
    if not epochs:
        return "No epoch has ended yet."
    parts = [
        _headline(run),
        _columns(*_throughput(epochs)),
        "Seconds of each epoch",
        _columns(*_times(epochs)),
        "Devices, " + _which_epochs(epochs),
        _columns(*_devices(epochs)),
    ]
    if len(epochs[-1]["processes"]) > 1:
        parts += [
            "Processes, " + _which_epochs(epochs),
            _columns(*_processes(epochs)),
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
        values = [
            _scaled(_typical(run, key), factor) for run in (first, second)
        ]
        rows.append([title, *map(_number, values), _ratio(*values)])
    values = [_total(run, "compile_seconds") for run in (first, second)]
    rows.append(
        ["compiling s, whole run", *map(_number, values), _ratio(*values)]
    )
    return _columns(["", *names, "ratio"], rows)


def figure(runs: list[dict], path=None, names=None):
    """Returns a matplotlib figure of one run, or of several side by side.

    Above, the throughput of each device over the epochs; in the middle, where
    each epoch's time went; below, how long after the others each device
    finished.

    Args:
        runs: List of dicts, as `read_run` returns them.
        path: Optional file to write the figure to.
        names: Optional titles of the runs.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If a run has no epoch.
    """
    if not runs or not all(run["epochs"] for run in runs):
        raise ValueError("There is nothing to draw: no epoch has ended yet.")
    drawing = new_figure(6.4 * len(runs), 9.0)
    axes = drawing.subplots(3, len(runs), sharey="row", squeeze=False)
    names = names or [_headline(run).split(";")[0] for run in runs]
    for column, (run, name) in enumerate(zip(runs, names, strict=True)):
        axes[0, column].set_title(name, pad=32)
        _draw_throughput(axes[0, column], run["epochs"])
        _draw_times(axes[1, column], run["epochs"])
        _draw_lags(axes[2, column], run["epochs"])
        for axis in axes[:, column] if column else []:
            axis.set_ylabel("")
    _cut_off(axes[1], runs)
    axes[0, 0].set_ylim(bottom=0)
    if path is not None:
        drawing.savefig(path, dpi=120)
    return drawing


def new_figure(width: float, height: float):
    """Returns an empty matplotlib figure; the size is in inches.

    Raises:
        ImportError: If matplotlib is not installed; names the command that
            installs it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib. Install it with: pip install "
            "'keras-dp-retrieval[plots]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def check_figure_path(name: str, path) -> None:
    """Raises a ValueError if matplotlib draws no file of this kind.

    Args:
        name: str. How the error calls the path.
        path: Path of the file.
    """
    kinds = new_figure(1, 1).canvas.get_supported_filetypes()
    kind = os.path.splitext(path)[1].removeprefix(".").lower()
    if kind not in kinds:
        raise ValueError(
            f"`{name}` must end in .png, .pdf, .svg or another kind of figure "
            f"that matplotlib writes. Received: {os.fspath(path)!r}."
        )


# Figures from records.


def _computing_seconds(record) -> float:
    """Training less compilation and input: dispatch and the devices' work."""
    return max(
        record["training_seconds"]
        - _known(record["compile_seconds"])
        - _known(record["input_wait_seconds"]),
        0.0,
    )


def _validation(record) -> tuple[float, float]:
    """Seconds of validation: compiling, and the rest."""
    compiling = record["validation_compile_seconds"]
    return compiling, record["validation_seconds"] - compiling


def _known(value) -> float:
    return 0.0 if value is None else value


def _steady(epochs) -> list[dict]:
    """The epochs that did not compile, or all if every one did."""
    return [r for r in epochs if not r["compile_seconds"]] or epochs


def _which_epochs(epochs) -> str:
    steady = _steady(epochs)
    if len(steady) == len(epochs):
        return "median over all epochs"
    return "median over the epochs that did not compile"


def _typical(run, key) -> float | None:
    return _median(record[key] for record in _steady(run["epochs"]))


def _total(run, key) -> float | None:
    values = [r[key] for r in run["epochs"] if r[key] is not None]
    return sum(values) if values else None


def _median(values) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _gathered(epochs, kind: str, name: str) -> dict:
    """`{name: {key: median over the steady epochs}}` for devices, processes."""
    found: dict = {}
    for record in _steady(epochs):
        for item in record[kind]:
            found.setdefault(item[name], []).append(item)
    return {
        label: {
            key: _median(item[key] for item in items)
            for key in items[0]
            if key != name
        }
        for label, items in found.items()
    }


# Text.


def _headline(run) -> str:
    about, record = run["run"], run["epochs"][-1]
    processes = about.get("processes", 1)
    kinds = {device["name"].split(":")[0] for device in record["devices"]}
    text = _counted(record["num_devices"], "device")
    if kinds:
        text += f" ({', '.join(sorted(kinds))})"
    if processes > 1:
        text += f", {processes} processes"
    versions = about.get("versions", {})
    shown = ", ".join(f"{name} {versions[name]}" for name in versions)
    return f"{text}; {about.get('model', 'a model')}; {shown}"


def _counted(count, noun) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _throughput(epochs):
    headers = ["epoch", "examples", "steps", "examples/s", "per device"]
    headers += ["step ms", "p95 ms"]
    efficiency = any(r["scaling_efficiency"] is not None for r in epochs)
    if efficiency:
        headers.append("efficiency")
    rows = []
    for r in epochs:
        row = [str(r["epoch"]), _number(r["examples"]), _number(r["steps"])]
        row += [
            _number(r["examples_per_second"]),
            _number(r["examples_per_second_per_device"]),
            _number(_scaled(r["step_seconds_median"], 1e3)),
            _number(_scaled(r["step_seconds_p95"], 1e3)),
        ]
        if efficiency:
            row.append(_number(r["scaling_efficiency"]))
        rows.append(row)
    return headers, _shortened(rows)


def _times(epochs):
    headers = ["epoch", "total", *(title for title, _ in _PARTS)]
    rows = [
        [
            str(r["epoch"]),
            _fixed(r["seconds"], 3),
            *(_fixed(seconds(r), 3) for _, seconds in _PARTS),
        ]
        for r in epochs
    ]
    return headers, _shortened(rows)


def _devices(epochs):
    headers = ["device", "process", "examples", "examples/s"]
    headers += ["finish lag ms", "memory MB"]
    rows = [
        [
            name,
            _number(d["process"]),
            _number(d["examples"]),
            _number(d["examples_per_second"]),
            _fixed(_scaled(d["finish_lag_seconds"], 1e3), 2),
            _number(_scaled(d["memory_bytes"], 1e-6)),
        ]
        for name, d in _gathered(epochs, "devices", "name").items()
    ]
    return headers, _shortened(rows)


def _processes(epochs):
    headers = ["process", "step ms", "p95 ms", "input s", "outside step s"]
    rows = [
        [
            str(index),
            _number(_scaled(p["step_seconds_median"], 1e3)),
            _number(_scaled(p["step_seconds_p95"], 1e3)),
            _fixed(p["input_wait_seconds"], 3),
            _fixed(p["outside_step_seconds"], 3),
        ]
        for index, p in _gathered(epochs, "processes", "process").items()
    ]
    return headers, rows


def _remarks(run) -> list[str]:
    epochs = run["epochs"]
    remarks = []
    steady = _steady(epochs)
    for what, key in (
        ("Device", "slowest_device"),
        ("Process", "slowest_process"),
    ):
        named = [r[key] for r in steady if r[key] is not None]
        for name in sorted(set(named), key=named.count, reverse=True)[:1]:
            remarks.append(
                f"{what} {name} is the slowest, in {named.count(name)} of "
                f"{_counted(len(steady), 'epoch')}."
            )
    for reason, why in _COMPILED_AGAIN.items():
        again = [
            f"epoch {r['epoch']} step {step}"
            for r in epochs
            for step, told in _compiled_steps(r)
            if told == reason
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
    told = record.get("compile_reasons")
    if told is None:  # An older record: only where it was no epoch's first.
        return [(step, "not recorded") for step in steps if step > 0]
    return list(zip(steps, told, strict=True))


def _columns(headers, rows) -> str:
    """Rows of strings as columns, the first to the left, others right."""
    lines = [headers, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _shortened(rows) -> list:
    if len(rows) <= _MOST_ROWS:
        return rows
    keep = _MOST_ROWS // 2
    gap = ["..."] + [""] * (len(rows[0]) - 1)
    return [*rows[:keep], gap, *rows[-keep:]]


def _number(value) -> str:
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e4:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _fixed(value, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _scaled(value, factor) -> float | None:
    return None if value is None else value * factor


def _ratio(first, second) -> str:
    return "-" if not first or second is None else f"{second / first:.2f}"


# Drawing.


def _draw_throughput(axis, epochs):
    x = [record["epoch"] for record in epochs]
    lines: dict = {}
    for record in epochs:
        for device in record["devices"]:
            rate = device["examples_per_second"]
            lines.setdefault(device["name"], {})[record["epoch"]] = rate
    known = {
        name: [rates.get(epoch) for epoch in x]
        for name, rates in lines.items()
        if None not in rates.values()
    }
    if known and (len(known) > _MOST_LINES or _all_alike(known)):
        first = next(iter(known.values()))
        if _all_alike(known):
            label = "each of " * (len(known) > 1)
            label += _counted(len(known), "device")
        else:
            label = f"median of {len(known)} devices"
            columns = list(zip(*known.values(), strict=True))
            low, high = map(min, columns), map(max, columns)
            axis.fill_between(x, list(low), list(high), alpha=0.2, lw=0)
            first = [statistics.median(column) for column in columns]
        known = {label: first}
    if not known:
        rates = [record["examples_per_second_per_device"] for record in epochs]
        known = {"mean per device": rates}
    for name, rates in known.items():
        axis.plot(x, _as_floats(rates), marker="o", ms=4, label=name)
    axis.set_xlabel("epoch")
    axis.set_ylabel("examples/s per device")
    _finish(axis, x)
    _legend_above(axis)


def _all_alike(lines: dict) -> bool:
    """Whether the lines lie on top of each other."""
    for values in zip(*lines.values(), strict=True):
        if None in values or max(values) > (1 + _ALIKE) * min(values):
            return False
    return True


def _as_floats(values):
    return [float("nan") if value is None else value for value in values]


def _draw_times(axis, epochs):
    x = [record["epoch"] for record in epochs]
    bottom = [0.0] * len(epochs)
    for (title, seconds), color in zip(_PARTS, _PART_COLORS, strict=True):
        heights = [seconds(record) for record in epochs]
        axis.bar(x, heights, bottom=bottom, label=title, color=color, width=0.8)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    axis.set_xlabel("epoch")
    axis.set_ylabel("seconds of an epoch")
    _finish(axis, x)
    _legend_above(axis)


def _legend_above(axis):
    """Inside the axes it would hide lines and bars."""
    axis.legend(
        fontsize="small", ncols=5, loc="lower left", frameon=False,
        bbox_to_anchor=(-0.02, 0.99), columnspacing=1.2, handlelength=1.2,
    )  # fmt: skip


def _cut_off(axes, runs):
    """Keeps one long epoch from hiding all others; writes its length."""
    records = [record for run in runs for record in run["epochs"]]
    compiling = dict(_PARTS)["compiling"]
    usual = max(record["seconds"] - compiling(record) for record in records)
    longest = max(record["seconds"] for record in records)
    if longest <= _CUT_OFF * usual:
        return
    top = 1.25 * usual
    for axis, run in zip(axes, runs, strict=True):
        axis.set_ylim(0, top)
        for record in run["epochs"]:
            if record["seconds"] > top:
                axis.annotate(
                    f"{record['seconds']:.3g} s",
                    (record["epoch"], 0.97 * top),
                    ha="center",
                    va="top",
                    rotation=90,
                    color="white",
                    weight="bold",
                )


def _draw_lags(axis, epochs):
    lags = {
        name: device["finish_lag_seconds"]
        for name, device in _gathered(epochs, "devices", "name").items()
    }
    known = {name: lag * 1e3 for name, lag in lags.items() if lag is not None}
    axis.set_ylabel("finish lag, ms")
    if not known:
        axis.text(
            0.5, 0.5, "finish lag: needs several devices in a process",
            ha="center", va="center", transform=axis.transAxes,
        )  # fmt: skip
        axis.set_xticks([])
        return
    axis.bar(range(len(known)), list(known.values()), color=_PART_COLORS[0])
    step = -(-len(known) // _MOST_BARS)
    ticks = range(0, len(known), step)
    axis.set_xticks(ticks, list(known)[::step], rotation=45, ha="right")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    median = _median(
        record["step_seconds_median"] for record in _steady(epochs)
    )
    if median:
        # Against the step's own time, or noise of microseconds looks big.
        axis.axhline(
            median * 1e3, color="#D55E00", ls="--", lw=1, label="one step"
        )
        axis.legend(fontsize="small")


def _finish(axis, epochs):
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    if len(epochs) == 1:
        axis.set_xlim(epochs[0] - 1, epochs[0] + 1)
