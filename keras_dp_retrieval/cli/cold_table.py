"""The cold part of an evaluation as a table."""

import math

from keras_dp_retrieval.metrics import GROUPS
from keras_dp_retrieval.report.text_table import text_table

# Which number of users the means of a group are over.
NUM_USERS = {
    "warm_users": "num_warm_users",
    "cold_users": "num_cold_users",
    "warm_candidates": "num_users_of_warm_candidates",
    "cold_candidates": "num_users_of_cold_candidates",
    "cold_among_cold": "num_users_of_cold_candidates",
}


def divided(metrics: dict) -> tuple[dict, dict]:
    """The result of `evaluate(cold=True)` as that without, and the rest."""
    count = list(metrics).index("num_users") + 1
    items = list(metrics.items())
    return dict(items[:count]), dict(items[count:])


def shown(metrics: dict) -> str:
    """A column for each group, a row for each metric.

    Args:
        metrics: dict. What `evaluate(cold=True)` adds.
    """
    if (
        not metrics["num_cold_users"]
        and not (metrics["num_users_of_cold_candidates"])
    ):
        return "All users and candidates of the test part are in training."
    first = f"{GROUPS[2]}_"
    names = [n.removeprefix(first) for n in metrics if n.startswith(first)]
    rows = [
        ["users", *(f"{metrics[NUM_USERS[group]]:.0f}" for group in GROUPS)]
    ]
    for name in names:
        values = [metrics.get(f"{group}_{name}", math.nan) for group in GROUPS]
        rows.append([name, *map(_shown, values)])
    headers = ["", *(group.replace("_", " ") for group in GROUPS)]
    table = text_table(headers, rows)
    return (
        "Warm is in training, cold is not; users are those who have some "
        "held out:\n" + "\n".join(f"  {one}" for one in table.splitlines())
    )


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
