"""Rows of strings as a table of aligned columns, and numbers for its cells."""

# A longer table shows its first and last rows.
MOST_ROWS = 12


def text_table(headers, rows, left: int = 0) -> str:
    """Rows of strings as aligned columns, under their headers.

    Args:
        headers: List of str.
        rows: Lists of str, as many as there are headers.
        left: int. Index of the column that is aligned to the left, the
            others to the right; -1 is the last.
    """
    lines = [headers, *rows]
    left %= len(headers)
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shorten(rows) -> list:
    """The first and last rows of a table, with dots for those between."""
    if len(rows) <= MOST_ROWS:
        return rows
    keep = MOST_ROWS // 2
    gap = ["..."] + [""] * (len(rows[0]) - 1)
    return [*rows[:keep], gap, *rows[-keep:]]


def show_number(value) -> str:
    """A number with three digits, or whole; a dash if it is unknown."""
    if value is None:
        return "-"
    if float(value).is_integer() and abs(value) < 1e4:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def show_fixed(value, decimals: int) -> str:
    """A number with so many decimals; a dash if it is unknown."""
    return "-" if value is None else f"{value:,.{decimals}f}"


def scaled(value, factor) -> float | None:
    """A figure in another unit; None stays None."""
    return None if value is None else value * factor


def show_ratio(first, second) -> str:
    """The second over the first; a dash if that is unknown."""
    return "-" if not first or second is None else f"{second / first:.2f}"
