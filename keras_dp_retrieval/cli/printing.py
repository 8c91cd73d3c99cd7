"""Data, metrics and recommendations as lines of text."""

import json
import math

import numpy as np


def print_data(data):
    """What the data are, and what was done to read and split them."""
    print("Data: " + data.description.replace("; ", "\n      "))
    print_features(data, " " * 6)


def print_features(data, indent=""):
    """What is known of users and candidates, where there is a table."""
    for side in ("user", "candidate"):
        features = getattr(data, f"{side}_features")
        if features is not None:
            number = int(features.is_known.sum())
            size = sum(features.bytes_per_row.values())
            print(
                f"{indent}features of {number:,} {side}s: {features}; "
                f"{size:,} bytes each"
            )


def print_json(value: dict, output):
    """One line of JSON, which has no NaN: null stands for it."""
    print(json.dumps(_without_nan(value), allow_nan=False), file=output)


def _without_nan(value):
    if isinstance(value, dict):
        return {str(name): _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_metrics(metrics: dict, data):
    mark = synthetic_mark(data)
    print(f"Test part, whole catalogue, seen items left out{mark}:")
    for name, value in metrics.items():
        print(f"  {name:32} {value:.4f}")


def print_list(model, user, ids, scores, mark=""):
    """One list; what fills it up has no score.

    Args:
        model: `TwoTowerRetrieval`, for the titles.
        user: The user's id, or how to call them.
        ids: `(k,)`.
        scores: `(k,)`.
        mark: str. What else to say in the heading.
    """
    print(f"Recommended for {user}{mark}:")
    found = np.isfinite(scores)
    ids, scores = np.asarray(ids)[found].tolist(), scores[found]
    width = max([6, *(len(str(one)) for one in ids)])
    for one, score in zip(ids, scores, strict=True):
        title = model.candidate_titles.get(one, "")
        print(f"  {score:7.3f}  {one!s:>{width}}  {title}".rstrip())


def synthetic_mark(data) -> str:
    return " (SYNTHETIC data)" if data.is_synthetic else ""
