"""What is in a data set as a matplotlib figure."""

import numpy as np

from keras_dp_retrieval.report.figure import PART_COLORS, new_figure

_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROUND = [digit * 10**power for power in range(10) for digit in (1, 2, 5)]


def draw_data(described: dict, path=None):
    """Returns a matplotlib figure of a data set.

    From the left: the share of all interactions that the most popular
    candidates have, how many interactions users have, and when they were.

    Args:
        described: dict, as `to_dict()` of a data set's `describe()` returns
            it, also read back from JSON.
        path: Optional file to write the figure to.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(13.5, 4.4)
    synthetic = " (SYNTHETIC data)" * described["is_synthetic"]
    figure.suptitle(
        f"{described['source']}{synthetic}: {described['num_users']:,} users, "
        f"{described['num_candidates']:,} candidates"
    )
    tail, users, time = figure.subplots(1, 3)
    _draw_tail(tail, described["long_tail"])
    _draw_users(users, described["of_users"])
    _draw_time(time, described["time"], described["split"])
    for axis in (tail, users, time):
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _draw_tail(axis, tail: dict):
    candidates, interactions = tail["curve"]
    axis.fill_between(candidates, interactions, alpha=0.15, lw=0)
    axis.plot(candidates, interactions, color=PART_COLORS[0], lw=2)
    axis.plot([0, 1], [0, 1], color="#999999", ls="--", lw=1)
    axis.text(
        0.6, 0.54, "all alike", color="#777777", rotation=34, fontsize="small",
        ha="center", va="center",
    )  # fmt: skip
    for share, name in ((0.01, "top_1_percent"), (0.1, "top_10_percent")):
        axis.plot(share, tail[name], "o", color=PART_COLORS[1], ms=5)
        axis.annotate(
            f"top {share:.0%}: {tail[name]:.0%}",
            (share, tail[name]),
            (8, -4),
            textcoords="offset points",
            va="top",
            bbox={"color": "white", "alpha": 0.6, "pad": 1},
        )
    _as_percent(axis)
    axis.set_title(f"Long tail (Gini {tail['gini']:.2f})")
    axis.set_xlabel("candidates, most popular first")
    axis.set_ylabel("share of the interactions")


def _as_percent(axis):
    labels = [f"{tick:.0%}" for tick in _TICKS]
    axis.set_xticks(_TICKS, labels)
    axis.set_yticks(_TICKS, labels)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)


def _draw_users(axis, spread: dict):
    edges, counts = spread["histogram"]
    axis.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=PART_COLORS[0],
        edgecolor="white",
        lw=0.5,
    )
    median = spread["quantiles"][3]
    axis.axvline(median, color=PART_COLORS[1], ls="--", lw=1.5)
    axis.annotate(
        f"median {median:,}",
        (median, 1.0),
        (5, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        color=PART_COLORS[1],
    )
    axis.set_xscale("log")
    axis.set_xlim(edges[0], edges[-1])
    ticks = [one for one in _ROUND if edges[0] <= one <= edges[-1]]
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.margins(y=0.12)
    axis.set_title("Interactions a user")
    axis.set_xlabel("interactions, in bins that grow")
    axis.set_ylabel("users")


def _draw_time(axis, time: dict | None, split: str):
    axis.set_title(f"Activity, split {split!r}")
    if time is None:
        axis.text(
            0.5, 0.5, "no timestamps", ha="center", va="center",
            transform=axis.transAxes,
        )  # fmt: skip
        axis.axis("off")
        return
    edges = _as_numbers(axis, time)
    bottom = np.zeros(len(edges) - 1)
    for (part, counts), color in zip(
        time["counts"].items(), PART_COLORS, strict=False
    ):
        if not sum(counts):
            continue
        axis.bar(
            edges[:-1], counts, width=np.diff(edges), bottom=bottom,
            align="edge", label=part, color=color,
        )  # fmt: skip
        bottom += counts
    axis.set_xlabel("time")
    axis.set_ylabel(f"interactions in each of {len(bottom)} spans")
    axis.set_ylim(0, 1.18 * bottom.max())  # Room for the legend.
    axis.legend(fontsize="small", frameon=False, ncols=3, loc="upper left")


def _as_numbers(axis, time: dict) -> np.ndarray:
    """The bounds of the spans as the axis has them; dates get its ticks."""
    if time["unit"] is None:
        return np.array(time["edges"], "float64")
    from matplotlib import dates

    locator = dates.AutoDateLocator(minticks=3, maxticks=6)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    return dates.date2num(np.array(time["edges"], "datetime64[s]"))
