"""Recorded runs: read, summarized as text, drawn as a figure."""

import os

from keras_dp_retrieval.report.data_figure import draw_data
from keras_dp_retrieval.report.figure import (
    check_figure_path,
    draw,
    new_figure,
)
from keras_dp_retrieval.report.run_record import append_line, read_run
from keras_dp_retrieval.report.summary import baseline_rate
from keras_dp_retrieval.report.text import comparison, table
from keras_dp_retrieval.report.text_table import text_table

__all__ = [
    "append_line",
    "baseline_rate",
    "check_figure_path",
    "comparison",
    "draw",
    "draw_data",
    "new_figure",
    "read_run",
    "report",
    "table",
    "text_table",
]


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
        draw(runs, figure_path, names=paths)
    parts = [
        f"{path}\n{table(run)}" for path, run in zip(paths, runs, strict=True)
    ]
    if len(runs) == 2 and all(run["epochs"] for run in runs):
        parts.append(comparison(runs[0], runs[1], paths))
    return "\n\n\n".join(parts)
