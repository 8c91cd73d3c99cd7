"""From which moment on interactions are tested on: found without sorting.

The sorted time stamps of `splits.split_by_time` would not fit into memory.
Here the time that has so many before it is narrowed down by counting: how many
are in each of a million intervals, then in the intervals of one of those.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_dp_retrieval.data.streaming.parallel import results_in_order
from keras_dp_retrieval.data.timestamps import timestamp_column

_BITS = 20  # A million intervals.


@dataclasses.dataclass(frozen=True)
class Moments:
    """Where the parts begin; None where there is no such part.

    Args:
        validation: Optional int, a time stamp.
        test: Optional int, no earlier.
        has_dates: bool. Whether the time stamps are nanoseconds of dates.
    """

    validation: int | None = None
    test: int | None = None
    has_dates: bool = False

    def parts(self, times: np.ndarray) -> np.ndarray:
        """int8 `(n,)`: 0 for train, 1 for validation and 2 for test."""
        found = np.zeros(len(times), np.int8)
        if self.validation is not None:
            found[times >= self.validation] = 1
        if self.test is not None:
            found[times >= self.test] = 2
        return found

    def shown(self, moment: int | None) -> str | int | None:
        """A moment as people write it."""
        if moment is None or not self.has_dates:
            return moment
        return str(np.datetime64(moment, "ns"))


def find_moments(
    times: Callable,
    num_blocks: int,
    *,
    test_from,
    validation_from,
    test_fraction: float,
    validation_fraction: float,
) -> Moments:
    """Returns where the parts begin, as `split_by_time` cuts them.

    Args:
        times: Function from the number of a block to `(timestamps,
            has_dates)`.
        num_blocks: int.
        test_from: Optional time stamp. By default one that leaves the
            `test_fraction`.
        validation_from: Optional time stamp, likewise, of what is before the
            test part.
        test_fraction: float.
        validation_fraction: float.

    Raises:
        ValueError: If dates and numbers are mixed, or nothing is left before
            one of the moments.
    """
    search = _Search(times, num_blocks)
    given = {
        "test_from": search.given("test_from", test_from),
        "validation_from": search.given("validation_from", validation_from),
    }
    num_rows = search.num_rows
    if not num_rows:
        return Moments()
    test, num_rows = search.begin(
        given["test_from"], num_rows, test_fraction, "test"
    )
    validation, _ = search.begin(
        given["validation_from"], num_rows, validation_fraction, "validation"
    )
    if test is not None and validation is not None and validation > test:
        raise ValueError(
            "`validation_from` must not be later than the test part begins. "
            f"Received: validation_from={validation_from!r} and a test part "
            f"from {Moments(has_dates=search.has_dates).shown(test)} on."
        )
    return Moments(validation, test, search.has_dates)


class _Search:
    """Counts time stamps, one block at a time."""

    def __init__(self, times: Callable, num_blocks: int):
        self._times = times
        ends = [
            (len(found), kind, int(found.min()), int(found.max()))
            for found, kind in results_in_order(times, range(num_blocks))
            if len(found)
        ]
        if len({kind for _, kind, *_ in ends}) > 1:
            raise ValueError(
                "Timestamps must be dates in all files, or numbers in all. "
                "Received: both."
            )
        self.num_rows = sum(num for num, *_ in ends)
        self.has_dates = any(kind for _, kind, *_ in ends)
        self._low = min((low for *_, low, _ in ends), default=0)
        self._high = max((high for *_, high in ends), default=0)
        self._num_blocks = num_blocks
        self._histograms: dict = {}

    def given(self, name: str, moment) -> int | None:
        """Checks a moment that was given."""
        if moment is None:
            return None
        try:
            (found,), is_date = timestamp_column([moment])
        except ValueError as error:
            raise ValueError(f"`{name}` must be a time stamp. {error}") from (
                error
            )
        if is_date != self.has_dates:
            kinds = {True: "a date", False: "a number"}
            raise ValueError(
                f"`{name}` must be what the time stamps are. Received: "
                f"{kinds[is_date]}, {moment!r:.40}, where they are "
                f"{kinds[self.has_dates]} each."
            )
        return int(found)

    def begin(
        self, moment: int | None, num_rows: int, fraction: float, part: str
    ) -> tuple[int | None, int]:
        """When a part begins, and how many interactions are before that.

        Args:
            moment: Optional int, where it was given.
            num_rows: int. The part is cut off the first so many.
            fraction: float. Its share of them.
            part: str.
        """
        if moment is not None:
            before = self._num_before(moment)
        else:
            num_last = round(fraction * num_rows)
            if not num_last:
                return None, num_rows
            moment, before = self._at_place(num_rows - num_last)
        if not before:
            raise ValueError(
                "`split='by_time'` needs interactions before each part, to "
                f"learn from. Received: {num_rows:,} interactions, none of "
                f"which is older than the {part} part."
            )
        return moment, before

    def _num_before(self, moment: int) -> int:
        return sum(
            results_in_order(
                lambda block: int(
                    np.count_nonzero(self._times(block)[0] < moment)
                ),
                range(self._num_blocks),
            )
        )

    def _at_place(self, place: int) -> tuple[int, int]:
        """What stands at a place of all if sorted, and how many are before."""
        first = place
        low, high = self._low, self._high
        while low < high:
            shift = max((high - low).bit_length() - _BITS, 0)
            ends = np.cumsum(self._histogram(low, high, shift))
            interval = int(np.searchsorted(ends, place, side="right"))
            place -= int(ends[interval - 1]) if interval else 0
            low += interval << shift
            high = min(high, low + (1 << shift) - 1)
        return low, first - place

    def _histogram(self, low: int, high: int, shift: int) -> np.ndarray:
        """How many are in each interval of `2**shift` from `low` to `high`."""
        key = low, high, shift
        if key not in self._histograms:
            length = ((high - low) >> shift) + 1
            total = np.zeros(length, np.int64)

            def count(block):
                times, _ = self._times(block)
                times = times[(times >= low) & (times <= high)]
                # Without a sign, for times that are far apart.
                since = times.view(np.uint64) - np.uint64(low % 2**64)
                intervals = (since >> np.uint64(shift)).astype(np.int64)
                return np.bincount(intervals, minlength=length)

            for found in results_in_order(count, range(self._num_blocks)):
                total += found
            self._histograms[key] = total
        return self._histograms[key]
