"""The description of a data set in words."""

import dataclasses

_WIDTH = 32  # Of the names of figures.


def in_words(description) -> str:
    """Returns a `DatasetDescription` as lines of text."""
    sections = (
        _of_all(description),
        _of_spreads(description),
        _of_long_tail(description),
        _of_time(description),
        _of_parts(description),
        _of_test(description),
    )
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _line(name: str, value, more: str = "") -> str:
    return f"{name:{_WIDTH}}{value:>12}  {more}".rstrip()


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _of_all(description) -> list[str]:
    synthetic = " (SYNTHETIC data)" if description.is_synthetic else ""
    repeated = f"{description.num_repeated:,}"
    lines = [
        f"{description.source}{synthetic}",
        *(f"  {note}" for note in description.notes.split("; ") if note),
        "",
        _line("interactions", f"{description.num_interactions:,}"),
        _line("  of a pair that had one", repeated),
        _line("users", f"{description.num_users:,}"),
        _line("candidates", f"{description.num_candidates:,}"),
        _line("density", f"{description.density:.3%}", "of all pairs"),
    ]
    if description.ratings is None:
        return [*lines, _line("ratings", "none")]
    low, mean, high = description.ratings
    scale = f"{low:g} to {high:g}"
    return [*lines, _line("ratings", scale, f"{mean:.2f} on average")]


def _of_spreads(description) -> list[str]:
    names = ["least", "10%", "25%", "median", "75%", "90%", "99%", "most"]
    columns = [*names, "mean"]
    lines = [" " * 16 + "".join(f"{name:>9}" for name in columns)]
    for name, one in (
        ("user", description.of_users),
        ("candidate", description.of_candidates),
    ):
        shown = [*(f"{value:,}" for value in one.quantiles), f"{one.mean:,.1f}"]
        cells = "".join(f"{value:>9}" for value in shown)
        lines.append(f"{'a ' + name + ' has':16}{cells}")
    return lines


def _of_long_tail(description) -> list[str]:
    tail, number = description.long_tail, description.num_candidates
    half, once = f"{tail.num_for_half:,}", f"{tail.num_once:,}"
    return [
        _line(
            "top 1% of the candidates have",
            f"{tail.top_1_percent:.1%}",
            "of the interactions",
        ),
        _line("top 10% have", f"{tail.top_10_percent:.1%}"),
        _line(
            "candidates that have half", half, _share(tail.num_for_half, number)
        ),
        _line("candidates with just one", once, _share(tail.num_once, number)),
        _line(
            "Gini", f"{tail.gini:.2f}", "0: all have as many; 1: one has all"
        ),
    ]


def _of_time(description) -> list[str]:
    time = description.time
    if time is None:
        return [_line("timestamps", "none")]
    read_as = "" if time.unit is None else f" (read as {time.unit})"
    lines = [f"timestamps from {time.first} to {time.last}{read_as}"]
    if time.days is not None:
        lines.append(_line("days", f"{time.days:,.1f}"))
    of_all = f"{_share(time.num_tied, description.num_interactions)} of all"
    tied = f"{time.num_tied:,}"
    return [*lines, _line("share user and time with another", tied, of_all)]


def _of_parts(description) -> list[str]:
    lines = [
        f"{f'split {description.split!r}, seed {description.seed}':{_WIDTH}}"
        + "".join(f"{part:>12}" for part in description.parts)
    ]
    for field in dataclasses.fields(next(iter(description.parts.values()))):
        name = "  " + field.name.removeprefix("num_")
        sizes = [getattr(one, field.name) for one in description.parts.values()]
        lines.append(
            f"{name:{_WIDTH}}" + "".join(f"{size:>12,}" for size in sizes)
        )
    return lines


def _of_test(description) -> list[str]:
    cold, leakage = description.cold, description.leakage
    if cold is None:
        return []
    size = leakage.num_test

    def of_test(number):
        return f"{_share(number, size)} of the test interactions"

    before = leakage.num_before_train_end
    return [
        _line(
            "users only in test",
            f"{cold.num_users:,}",
            of_test(cold.num_user_interactions),
        ),
        _line(
            "candidates only in test",
            f"{cold.num_candidates:,}",
            of_test(cold.num_candidate_interactions),
        ),
        _line(
            "test interactions also in train",
            f"{leakage.num_repeated:,}",
            of_test(leakage.num_repeated),
        ),
        _line(
            "  older than the newest in train",
            "unknown" if before is None else f"{before:,}",
            "no timestamps" if before is None else of_test(before),
        ),
        *leakage.warnings,
    ]
