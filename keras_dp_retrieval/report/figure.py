"""A run record as a matplotlib figure, and what every figure here needs."""

import os
import statistics

from keras_dp_retrieval.report.summary import (
    EPOCH_PARTS,
    counted,
    headline,
    median_of_known,
    steady_epochs,
    typical_items,
)

# Okabe and Ito's palette, for all kinds of colour vision.
PART_COLORS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#999999")
# More lines and ticks than this cannot be distinguished.
_MOST_LINES = 8
_MOST_BARS = 16
# Lines closer than this lie on top of each other in the figure.
_ALIKE = 0.05
# An epoch that took so many times as long as the others (the first, which
# compiles) is cut off in the figure, so that the others stay visible.
_CUT_OFF = 3.0


def draw(runs: list[dict], path=None, names=None):
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
    figure = new_figure(6.4 * len(runs), 9.0)
    axes = figure.subplots(3, len(runs), sharey="row", squeeze=False)
    names = names or [headline(run).split(";")[0] for run in runs]
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
        figure.savefig(path, dpi=120)
    return figure


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
            label += counted(len(known), "device")
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
    for (title, seconds), color in zip(EPOCH_PARTS, PART_COLORS, strict=True):
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
    compiling = dict(EPOCH_PARTS)["compiling"]
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
        for name, device in typical_items(epochs, "devices", "name").items()
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
    axis.bar(range(len(known)), list(known.values()), color=PART_COLORS[0])
    step = -(-len(known) // _MOST_BARS)
    ticks = range(0, len(known), step)
    axis.set_xticks(ticks, list(known)[::step], rotation=45, ha="right")
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    median = median_of_known(
        record["step_seconds_median"] for record in steady_epochs(epochs)
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
