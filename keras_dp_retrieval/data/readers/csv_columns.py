"""One column of a CSV file, built up from one piece after the other."""

import numpy as np
import pyarrow
import pyarrow.compute as pc

_WHOLE_AS_FLOAT = 2.0**53  # Beyond, a float is not every whole number.


class _Column:
    """A column whose pieces come as numbers, or as text if they are none.

    Args:
        name: str. The column's name in the file.

    Attributes:
        type: The type of Arrow that the next piece should be read as.
    """

    type = pyarrow.string()

    def __init__(self, name: str):
        self._name = name
        self._numbers: list = []
        self._texts: list = []
        self._num_before_texts = 0

    def add(self, column) -> None:
        """Adds a piece: a column of Arrow, of `type` or of strings."""
        raise NotImplementedError

    def finish(self):
        """Returns the whole column, as `RawRatings` takes it."""
        raise NotImplementedError

    def _add_text(self, column) -> None:
        if not self._texts:
            self._num_before_texts = sum(map(len, self._numbers))
        self._texts.append(column)

    def _refuse_missing(self) -> None:
        """Raises a ValueError if a text is empty."""
        first = self._num_before_texts
        found, where = 0, 0
        for column in self._texts:
            lengths = pc.binary_length(column)
            if len(column) and pc.min(lengths).as_py() == 0:
                empty = np.flatnonzero(lengths.to_numpy() == 0)
                where = where if found else first + int(empty[0])
                found += len(empty)
            first += len(column)
        if found:
            raise ValueError(
                f"The column {self._name!r} must not have missing values. "
                f"Received {found}, the first in row {where}."
            )


class _Ids(_Column):
    """Ids: whole numbers if all are written as such, else strings."""

    def add(self, column) -> None:
        if not self._texts:
            numbers = whole_numbers(column)
            if numbers is not None:
                self._numbers.append(numbers)
                return
            # What Python writes is what they were written as.
            self._texts = [
                pyarrow.chunked_array([one]).cast(pyarrow.string())
                for one in self._numbers
            ]
            self._numbers = []
        self._texts.append(column)

    def finish(self):
        if not self._texts:
            return np.concatenate([*self._numbers, np.zeros(0, np.int64)])
        self._refuse_missing()
        chunks = [chunk for one in self._texts for chunk in one.chunks]
        return pyarrow.chunked_array(chunks)


class _Ratings(_Column):
    """Ratings or weights: numbers, or an error that names one that is none."""

    type = pyarrow.float64()

    def add(self, column) -> None:
        if column.type != pyarrow.string():
            self._numbers.append(_as_small(column.to_numpy()))
            return
        self._add_text(column)
        self.type = pyarrow.string()

    def finish(self):
        self._refuse_missing()
        row = self._num_before_texts
        for column in self._texts:
            # Python reads a little more than Arrow, such as `+1`.
            numbers = np.empty(len(column))
            for index, text in enumerate(column.to_pylist()):
                try:
                    numbers[index] = float(text)
                except ValueError:
                    raise ValueError(
                        f"The column {self._name!r} must hold numbers. "
                        f"Received: {text!r:.40} in row {row + index}."
                    ) from None
            row += len(column)
            self._numbers.append(_as_small(numbers))
        return np.concatenate([*self._numbers, np.zeros(0, np.float32)])


def _as_small(numbers: np.ndarray) -> np.ndarray:
    """As float32, unless that would hide which number is too large."""
    with np.errstate(over="ignore"):
        small = numbers.astype(np.float32)
    return small if np.isfinite(small).all() else numbers


class _Timestamps(_Column):
    """Timestamps: whole numbers, numbers that are whole, or dates."""

    type = pyarrow.int64()

    def add(self, column) -> None:
        if column.type == pyarrow.int64():
            self._numbers.append(column.to_numpy())
            return
        if self.type == pyarrow.int64():
            try:  # Another column may have been what Arrow did not take.
                self._numbers.append(column.cast(pyarrow.int64()).to_numpy())
                return
            except pyarrow.ArrowException:
                self.type = pyarrow.string()
        self._add_text(column)

    def finish(self):
        if not self._texts:
            return np.concatenate([*self._numbers, np.zeros(0, np.int64)])
        self._refuse_missing()
        chunks = [chunk for one in self._texts for chunk in one.chunks]
        earlier = [
            pyarrow.array(one).cast(pyarrow.string()) for one in self._numbers
        ]
        texts = pyarrow.chunked_array([*earlier, *chunks])
        try:
            numbers = texts.cast(pyarrow.float64()).to_numpy()
        except pyarrow.ArrowException:
            return texts  # Dates, or what is none will be said.
        if np.abs(numbers).max() < _WHOLE_AS_FLOAT:
            return numbers
        return np.array([_exact(text) for text in texts.to_pylist()], object)


def _exact(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


class _Texts(_Column):
    """Texts as they are, those that are empty included."""

    def add(self, column) -> None:
        self._texts.append(column)

    def finish(self):
        chunks = [chunk for one in self._texts for chunk in one.chunks]
        return pyarrow.chunked_array(chunks, pyarrow.string())


BUILDERS = {
    "user_ids": _Ids,
    "candidate_ids": _Ids,
    "ratings": _Ratings,
    "timestamps": _Timestamps,
    "weights": _Ratings,
    "titles": _Texts,
}


def whole_numbers(column) -> np.ndarray | None:
    """Texts as `(n,)` int64, or None unless each is written as Python does."""
    try:
        numbers = column.cast(pyarrow.int64()).to_numpy()
    except pyarrow.ArrowException:
        return None
    if not len(numbers):
        return numbers
    texts = column.combine_chunks()
    if isinstance(texts, pyarrow.ChunkedArray):  # Of no or of many bytes.
        texts = pyarrow.concat_arrays(texts.chunks)
    if numbers.min() < 0 or not _all_digits(texts):
        same = pc.equal(pyarrow.array(numbers).cast(pyarrow.string()), texts)
        return numbers if pc.all(same).as_py() else None
    # Zeros in front are all that is left, and they make a text longer.
    num_digits = len(numbers)
    power = 10
    while power <= numbers.max():
        num_digits += int(np.count_nonzero(numbers >= power))
        power *= 10
    num_characters = pc.sum(pc.binary_length(texts)).as_py()
    return numbers if num_characters == num_digits else None


def _all_digits(texts) -> bool:
    _, offsets, characters = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)
    used = np.frombuffer(characters, np.uint8)[
        ends[texts.offset] : ends[texts.offset + len(texts)]
    ]
    return bool(used.min() >= ord("0") and used.max() <= ord("9"))
