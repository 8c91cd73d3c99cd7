"""What do quality and speed look like beside peers? The README's picture.

    taskset -c 0,1 python benchmarks/bench_cost_table.py --data p1 \\
        --methods all | tail -1 > benchmarks/results/cost_table.json
    taskset -c 0,1 python benchmarks/bench_tutorial_recipe.py \\
        | tail -1 > benchmarks/results/tutorial_recipe.json
    python benchmarks/draw_first_screen.py

Draws what the two have measured, kept in `results/`, and nothing else.
"""

import argparse
import json
import pathlib

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).resolve().parent
OURS, THEIRS = "#0072B2", "#767676"
# Where a name stands beside its point: points to the right, and up.
BESIDE = {
    "fit_recipe": (8, 3),
    "iALS": (-9, 4),
    "EASE": (-9, -4),
    "ALS (implicit)": (9, -8),
}
AT_TRAINING = ("EASE",)  # Not at the point of choosing settings and training.
STEPS = {
    "plain": "plain Keras",
    "single": "here, step by step",
    "fused-80": "here, steps fused",
    "scan": "the steps alone\n(lax.scan)",
}


def draw_quality(axis, results):
    """NDCG@10 by the seconds until there is a model."""
    for found in results:
        if "left_out" in found:
            continue
        name, quality = found["method"], found["ndcg_at_10"]
        color = OURS if name == "fit_recipe" else THEIRS
        seconds, training = found["seconds"], found["seconds_of_training"]
        if training is not None and seconds > 2 * training:
            axis.plot([training, seconds], [quality] * 2, color=color, lw=1)
            axis.plot(training, quality, "o", mfc="white", color=color, ms=5)
        axis.plot(seconds, quality, "o", color=color, ms=8)
        x, y = BESIDE.get(name, (9, -4))
        axis.annotate(
            name,
            (training if name in AT_TRAINING else seconds, quality),
            (x, y),
            textcoords="offset points",
            ha="left" if x > 0 else "right",
            color=color,
            weight="bold" if name == "fit_recipe" else "normal",
        )
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.set_xlim(low, high * 4)  # Room for names.
    axis.xaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
    axis.set_xlabel(
        "seconds: choosing settings and training, compilation included\n"
        "(hollow: one training with the settings chosen)"
    )
    axis.set_ylabel("NDCG@10, whole catalogue")
    axis.set_title("MovieLens 100K, random split, test part", loc="left")


def draw_speed(axis, found):
    """Milliseconds an epoch of the Keras tutorial's recipe."""
    epochs = found["seconds_an_epoch"]
    names = [name for name in STEPS if name in epochs]
    for place, name in enumerate(names):
        milliseconds = 1000 * middle(epochs[name])
        color = OURS if STEPS[name].startswith("here") else THEIRS
        axis.barh(place, milliseconds, 0.6, color=color)
        axis.annotate(
            f"{milliseconds:.0f}",
            (milliseconds, place),
            (4, -4),
            textcoords="offset points",
        )
    axis.set_yticks(range(len(names)), [STEPS[name] for name in names])
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("ms an epoch of 80 steps, one device")
    axis.set_title("The Keras tutorial's recipe", loc="left")


def middle(times):
    """The median of the rounds."""
    return sorted(times)[len(times) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=pathlib.Path, default=HERE / "results"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=HERE / "first_screen.png"
    )
    args = parser.parse_args()
    cost, recipe = (
        json.loads((args.results / name).read_text())
        for name in ("cost_table.json", "tutorial_recipe.json")
    )
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    quality, speed = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_quality(quality, cost["results"])
    draw_speed(speed, recipe["results"][0])
    for axis in (quality, speed):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    load = cost["load_average_before"]
    figure.supxlabel(
        f"{cost['machine']}, no accelerator, "
        + ("idle" if load < 2 else f"busy (load average {load:.0f})"),
        fontsize="small",
        color=THEIRS,
    )
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
