"""The record of a run: a file with one JSON object a line.

`DistributionAwareCallback(log_dir=...)` writes `run.jsonl`. A line's `kind` is
`"run"` (a `fit` begins), `"epoch"`, `"epoch_closed"` (what later callbacks
added to the time of that epoch) or `"stall"`. This file knows JSON alone, so
that a run can be looked at long after, on another machine.
"""

import json
import os
import pathlib

RUN_RECORD = "run.jsonl"


def append_line(folder: str, content: dict) -> None:
    """Adds one JSON object to the run record of a folder.

    The file is opened and closed again each time, so that a callback that is
    copied or dropped in the middle of a run loses nothing.
    """
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, RUN_RECORD)
    # NaN is no JSON, and no measurement of ours.
    line = json.dumps(content, allow_nan=False) + "\n"
    if _is_cut_off(path):
        line = "\n" + line
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def _is_cut_off(path: str) -> bool:
    """Whether the file's last line was left unfinished by a killed run."""
    if not os.path.exists(path) or not os.path.getsize(path):
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


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
        file = file / RUN_RECORD
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
