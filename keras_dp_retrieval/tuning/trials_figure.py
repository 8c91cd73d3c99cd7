"""The trials of a search as a figure."""

import statistics

from keras_dp_retrieval.report import new_figure


def draw(result, path=None):
    """Returns the figure of a `SearchResult`; writes it to `path`."""
    names = _numeric_names(result)
    figure = new_figure(5 * (1 + len(names)), 4.2)
    axes = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    _draw_curves(axes[0], result)
    for axis, name in zip(axes[1:], names, strict=True):
        _draw_scores(axis, result, name)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def _numeric_names(result) -> list[str]:
    """The hyperparameters that are numbers and differ between trials."""
    names = dict.fromkeys(n for t in result.completed for n in t.chosen)
    return [
        name
        for name in names
        if len(values := {t.chosen.get(name) for t in result.completed}) > 1
        and all(isinstance(value, int | float) for value in values)
    ]


def _draw_curves(axis, result):
    best = result.completed[0] if result.completed else None
    for trial in result.trials:
        if not trial.curve:
            continue
        is_best = trial is best
        axis.plot(
            range(1, len(trial.curve) + 1),
            trial.curve,
            color="#D55E00" if is_best else "#999999",
            lw=2 if is_best else 1,
            zorder=3 if is_best else 2,
            marker="o" if len(trial.curve) == 1 else None,
            ms=3,
            label=f"trial {trial.trial_id}, the best" if is_best else None,
        )
        if trial.status == "STOPPED EARLY":
            axis.plot(
                len(trial.curve), trial.curve[-1], "x", color="black", ms=5
            )
    axis.plot([], [], "x", color="black", ms=5, label="stopped early")
    axis.set_xlabel("epoch")
    axis.set_ylabel(result.objective)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def _draw_scores(axis, result, name):
    trials = [t for t in result.completed if name in t.chosen]
    x = [t.chosen[name] for t in trials]
    y = [t.score for t in trials]
    axis.scatter(x[1:], y[1:], color="#0072B2")
    axis.scatter(x[:1], y[:1], color="#D55E00", marker="*", s=120)
    for trial, value, score in zip(trials, x, y, strict=True):
        axis.annotate(
            trial.trial_id,
            (value, score),
            textcoords="offset points",
            xytext=(4, 4),
            fontsize="x-small",
        )
    if min(x) > 0 and max(x) > 4 * min(x):
        axis.set_xscale("log", base=2 if isinstance(x[0], int) else 10)
        if isinstance(x[0], int):
            axis.set_xticks(sorted(set(x)), [str(v) for v in sorted(set(x))])
    axis.axhline(
        statistics.median(y), color="#999999", lw=1, ls="--", label="median"
    )
    axis.legend(loc="lower right", fontsize=8)
    axis.set_xlabel(name)
    axis.set_ylabel(f"best {result.objective}")
    axis.grid(alpha=0.3)
