"""Metrics and recommendations as lines of text."""

import numpy as np


def print_metrics(metrics: dict, data):
    mark = synthetic_mark(data)
    print(f"Test part, whole catalogue, seen movies left out{mark}:")
    for name, value in metrics.items():
        print(f"  {name:32} {value:.4f}")


def print_list(model, user, ids, scores, mark=""):
    print(f"Recommended for user {user}{mark}:")
    for candidate, score in zip(ids, scores, strict=True):
        if np.isfinite(score):
            title = model.candidate_titles.get(candidate, "")
            print(f"  {score:7.3f}  {candidate:>6}  {title}")


def synthetic_mark(data) -> str:
    return " (SYNTHETIC data)" if data.is_synthetic else ""
