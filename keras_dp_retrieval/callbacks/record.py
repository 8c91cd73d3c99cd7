"""One epoch's record: plain numbers, names and None, ready for JSON."""

import statistics

from keras_dp_retrieval import distribution
from keras_dp_retrieval.callbacks.epoch_stats import NO_STEP_SEEN
from keras_dp_retrieval.callbacks.other_backends import OF_ROWS

# A device is called slow only if it finishes later than the others by this
# share of a step, and by several times what the others differ among
# themselves: virtual devices on one CPU always differ a little.
SLOW_SHARE = 0.1
SLOW_TIMES_OTHERS = 3.0


def process_note(process: int, stats, memory: dict) -> dict:
    """What one process knows about an epoch.

    Args:
        process: int. Its number.
        stats: A finished `EpochStats`.
        memory: dict. Bytes in use by device name.
    """
    known = stats.known
    median, p95 = step_seconds(stats.windows)
    outside = None
    if stats.inside_step_seconds is not None and not stats.unknown:
        outside = max(
            stats.training_seconds
            - stats.compile_seconds
            - stats.inside_step_seconds
            - stats.waited_seconds,
            0.0,
        )
    return {
        "process": process,
        "examples": known("examples", _whole(stats.rows.total)),
        "training_seconds": stats.training_seconds,
        "compile_seconds": known("compile_seconds", stats.compile_seconds),
        "input_wait_seconds": known(
            "input_wait_seconds", stats.input_wait_seconds
        ),
        "outside_step_seconds": outside,
        "step_seconds_median": known("step_seconds_median", median),
        "step_seconds_p95": known("step_seconds_p95", p95),
        "devices": [
            _device(name, stats, memory) for name in stats.device_names
        ],
    }


def _device(name, stats, memory) -> dict:
    rows = stats.rows.by_device
    # Batches that were put on no device, or on another one than the step
    # runs on, are the one device's that there is.
    examples = (
        sum(rows.values()) if len(stats.device_names) == 1 else rows[name]
    )
    lags = stats.lags.get(name)
    return {
        "name": name,
        "examples": stats.known("examples", _whole(examples)),
        "finish_lag_seconds": stats.known(
            "finish_lag_seconds", statistics.fmean(lags) if lags else None
        ),
        "memory_bytes": memory.get(name),
    }


def epoch_record(epoch: int, stats, notes: list[dict], unknown: dict) -> dict:
    """Joins the processes' notes into the record of one epoch.

    The epoch's own times are those of the process that keeps the record, so
    that they add up; rates divide by the slowest process's time.

    Args:
        epoch: int, from 0.
        stats: This process's `EpochStats`.
        notes: The notes of all processes that answered, this one's first.
        unknown: dict. Why a figure is None, by its name. `"examples"` in it
            makes those None, and the rates.
    """
    own = notes[0]
    counts = [note["examples"] for note in notes]
    examples = None if None in counts else sum(counts)
    if "examples" in unknown:
        examples = None
    seconds = max(_running_seconds(note) for note in notes)
    num_devices = stats.num_devices or 1
    rate = _rate(examples, seconds)
    record = {
        "epoch": epoch,
        "examples": examples,
        "steps": stats.known("steps", stats.steps),
        "num_devices": num_devices,
        "examples_per_second": rate,
        "examples_per_second_per_device": _over(rate, num_devices),
        "scaling_efficiency": None,
        "step_seconds_median": own["step_seconds_median"],
        "step_seconds_p95": own["step_seconds_p95"],
        "training_seconds": own["training_seconds"],
        "compile_seconds": own["compile_seconds"],
        "compiled_steps": stats.known("compiled_steps", stats.compiled_steps),
        "compile_reasons": stats.known("compiled_steps", stats.compile_reasons),
        "input_wait_seconds": own["input_wait_seconds"],
        "devices": _joined_devices(notes),
        "processes": [_process(note) for note in _in_order(notes)],
        "unknown": unknown,
    }
    calls = max(stats.calls or 0, 1)
    record["slowest_device"] = slowest_device(
        record["devices"], seconds / calls
    )
    record["slowest_process"] = slowest_process(notes)
    return record


def unknown_on_jax(notes) -> dict:
    """Why figures are not known on JAX, by their names."""
    unknown = {}
    devices = [device for note in notes for device in note["devices"]]
    if any(device["memory_bytes"] is None for device in devices):
        unknown["memory_bytes"] = "the platform does not tell (CPUs do not)"
    if any(note["examples"] is None for note in notes):
        unknown.update(dict.fromkeys(OF_ROWS, NO_STEP_SEEN))
    silent = distribution.process_count() - len(notes)
    if silent:
        why = (
            f"{silent} of {distribution.process_count()} processes did not "
            "tell theirs: every process must be given the callback"
        )
        unknown.update(dict.fromkeys(OF_ROWS, why))
    return unknown


def _running_seconds(note) -> float:
    """Training without compilation."""
    return note["training_seconds"] - (note["compile_seconds"] or 0.0)


def _joined_devices(notes) -> list[dict]:
    devices = []
    for note in _in_order(notes):
        seconds = _running_seconds(note)
        for device in note["devices"]:
            rate = _rate(device["examples"], seconds)
            devices.append(
                {
                    **device,
                    "process": note["process"],
                    "examples_per_second": rate,
                }
            )
    return devices


def _process(note) -> dict:
    return {key: note[key] for key in note if key != "devices"}


def _in_order(notes):
    return sorted(notes, key=lambda note: note["process"])


def slowest_device(devices: list[dict], step_seconds: float) -> str | None:
    """The device that finishes clearly after the others, if one does."""
    lags = {
        device["name"]: device["finish_lag_seconds"]
        for device in devices
        if device["finish_lag_seconds"] is not None
    }
    if len(lags) < 2:
        return None
    name = max(lags, key=lambda name: lags[name])
    others = statistics.median(lags[key] for key in lags if key != name)
    if lags[name] <= max(SLOW_SHARE * step_seconds, SLOW_TIMES_OTHERS * others):
        return None
    return name


def slowest_process(notes: list[dict]) -> int | None:
    """The process that keeps the others waiting, if one clearly does.

    Processes that train together take the same time for a step: each waits
    for the last. What tells them apart is the time each spends outside the
    step, on its input and its callbacks, before it joins the others.
    """
    outside = {
        note["process"]: note["outside_step_seconds"]
        for note in notes
        if note["outside_step_seconds"] is not None
    }
    if len(outside) < 2:
        return None
    slowest = max(outside, key=lambda process: outside[process])
    others = max(outside[key] for key in outside if key != slowest)
    seconds = max(_running_seconds(note) for note in notes)
    if outside[slowest] - others <= SLOW_SHARE * seconds:
        return None
    return slowest


def step_seconds(windows) -> tuple[float | None, float | None]:
    """Median and 95th percentile of the time of a step, in seconds.

    A window's steps all count with the window's mean, so a single slow step
    among fast ones shows by its share of the window.

    Args:
        windows: List of `(steps, seconds)`.
    """
    total = sum(steps for steps, _ in windows)
    if not total:
        return None, None
    ordered = sorted((seconds / steps, steps) for steps, seconds in windows)
    return _quantile(ordered, 0.5 * total), _quantile(ordered, 0.95 * total)


def _quantile(ordered, wanted: float) -> float:
    """The least value that `wanted` of the counted values do not exceed."""
    passed = 0
    for value, count in ordered[:-1]:
        passed += count
        if passed >= wanted:
            return value
    return ordered[-1][0]


def _rate(count, seconds) -> float | None:
    return None if count is None or seconds <= 0 else count / seconds


def _over(value, divisor) -> float | None:
    return None if value is None else value / divisor


def _whole(value) -> int | None:
    return None if value is None else int(value)
