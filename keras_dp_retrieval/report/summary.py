"""The figures of a run record that its text and its figure both show."""

import os
import statistics

from keras_dp_retrieval.report.run_record import read_run


def baseline_rate(path: str | os.PathLike) -> float:
    """Examples per second of a recorded run on one device.

    The median over its epochs, without those that compiled where there are
    others.

    Raises:
        ValueError: If the run was not on one device, or knows no rate.
    """
    run = read_run(path)
    counts = sorted({record["num_devices"] for record in run["epochs"]})
    rate = typical(run, "examples_per_second_per_device")
    if counts != [1] or rate is None:
        raise ValueError(
            "`baseline` must be the record of a run on one device that "
            f"counted its examples. Received: baseline={os.fspath(path)!r}, "
            f"recorded on {counts or 'no'} devices."
        )
    return rate


def computing_seconds(record) -> float:
    """Training less compilation and input: dispatch and the devices' work."""
    return max(
        record["training_seconds"]
        - or_zero(record["compile_seconds"])
        - or_zero(record["input_wait_seconds"]),
        0.0,
    )


def compiling_seconds(record) -> float:
    """Compilation in training and in validation."""
    return or_zero(record["compile_seconds"]) + or_zero(
        record["validation_compile_seconds"]
    )


def validating_seconds(record) -> float:
    """Validation less its compilation."""
    return record["validation_seconds"] - or_zero(
        record["validation_compile_seconds"]
    )


def or_zero(value) -> float:
    """A value, or 0 where it is unknown."""
    return 0.0 if value is None else value


def steady_epochs(epochs) -> list[dict]:
    """The epochs that did not compile, or all if every one did."""
    return [r for r in epochs if not r["compile_seconds"]] or epochs


def which_epochs(epochs) -> str:
    """What a figure of `typical_items` is, in words."""
    steady = steady_epochs(epochs)
    if len(steady) == len(epochs):
        return "median over all epochs"
    return "median over the epochs that did not compile"


def typical(run, key) -> float | None:
    """Median of a figure over the epochs that did not compile."""
    return median_of_known(
        record[key] for record in steady_epochs(run["epochs"])
    )


def total(run, key) -> float | None:
    """Sum of a figure over the epochs of a run, None if none knows it."""
    values = [r[key] for r in run["epochs"] if r[key] is not None]
    return sum(values) if values else None


def median_of_known(values) -> float | None:
    """Median of the values that are not None, None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def typical_items(epochs, kind: str, name: str) -> dict:
    """`{name: {key: median over the steady epochs}}` for devices, processes."""
    found: dict = {}
    for record in steady_epochs(epochs):
        for item in record[kind]:
            found.setdefault(item[name], []).append(item)
    return {
        label: {
            key: median_of_known(item[key] for item in items)
            for key in items[0]
            if key != name
        }
        for label, items in found.items()
    }


def headline(run) -> str:
    """One line: devices, processes, model and versions of a run."""
    about, record = run["run"], run["epochs"][-1]
    processes = about.get("processes", 1)
    kinds = {device["name"].split(":")[0] for device in record["devices"]}
    text = counted(record["num_devices"], "device")
    if kinds:
        text += f" ({', '.join(sorted(kinds))})"
    if processes > 1:
        text += f", {processes} processes"
    versions = about.get("versions", {})
    shown = ", ".join(f"{name} {versions[name]}" for name in versions)
    return f"{text}; {about.get('model', 'a model')}; {shown}"


def counted(count, noun) -> str:
    """A count with its noun, such as `"2 devices"`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


# What the seconds of an epoch are made of: (title, seconds of a record).
EPOCH_PARTS = (
    ("computing", computing_seconds),
    ("compiling", compiling_seconds),
    ("input", lambda record: or_zero(record["input_wait_seconds"])),
    ("validation", validating_seconds),
    ("callbacks", lambda record: record["callbacks_seconds"]),
)
