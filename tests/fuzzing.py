"""What the fuzz tests share: odd values, and what counts as a good end."""

import contextlib
import datetime
import decimal
import faulthandler
import pathlib
import resource
import sys
import traceback
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_dp_retrieval

PACKAGE = str(pathlib.Path(keras_dp_retrieval.__file__).parent)

# A case that takes longer hangs: the process prints its stack and ends.
SECONDS_A_CASE = 120

# What a case may take beyond what the process has: more is a MemoryError.
BYTES_A_CASE = 6 * 2**30

# What an error of ours may be. A KeyError, an IndexError or an AttributeError
# is a slip, even where it is raised in this package.
OUR_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ImportError)


def amounts(quick: int, whole: int):
    """Gives a test the argument `examples`: few, and all of them if slow."""
    return pytest.mark.parametrize(
        "examples",
        [
            pytest.param(quick, id=f"{quick}"),
            pytest.param(whole, id=f"{whole}", marks=pytest.mark.slow),
        ],
    )


def fuzz(examples: int, **strategies):
    """Runs the decorated case at once, with so many drawn arguments."""

    def run(case):
        def guarded(**arguments):
            faulthandler.dump_traceback_later(
                SECONDS_A_CASE, exit=True, file=sys.__stderr__
            )
            try:
                with warnings.catch_warnings(), _bounded_memory():
                    warnings.simplefilter("ignore")
                    case(**arguments)
            finally:
                faulthandler.cancel_dump_traceback_later()

        return settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(guarded))()

    return run


@contextlib.contextmanager
def _bounded_memory():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + BYTES_A_CASE
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def ends_well(call, *args, **kwargs):
    """Returns `(result, None)`, or `(None, error)` if the error is ours.

    Ours is what this package raises itself, with a message. Any other error
    fails the test that runs this.
    """
    try:
        return call(*args, **kwargs), None
    except OUR_ERRORS as error:
        frames = traceback.extract_tb(error.__traceback__)
        last = frames[-1]
        if not last.filename.startswith(PACKAGE) or not str(error):
            raise
        # The line raises: it is no call of another library's C code.
        if "raise" not in (last.line or "") and "check" not in last.name:
            raise
        return None, error


class Opaque:
    """A value of a type that nobody has heard of."""

    def __repr__(self):
        return "<opaque>"


def damages(whole: bytes):
    """Copies of a file's bytes: cut short, or with one byte changed."""

    def flipped(index, change):
        damaged = bytearray(whole)
        damaged[index] ^= change
        return bytes(damaged)

    indices = st.integers(0, len(whole) - 1)
    return st.one_of(
        st.builds(flipped, indices, st.integers(1, 255)),
        indices.map(lambda index: whole[:index]),
    )


def scalars():
    """Single values: some valid somewhere, most of them nowhere."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 12),
        # No sizes that some machine has the memory for.
        st.sampled_from([2**31, 2**63 - 1, 2**63, 10**18, -(2**70)]),
        st.floats(width=64),
        st.sampled_from([0.0, 0.5, 1.0, 2.5, -1.0, 1e19, 1e39, 1e308]),
        st.text("ab7 .-\0é", max_size=4),
        st.sampled_from(["", "nan", "7", "007", "a\0", "random", "x" * 70_000]),
        st.binary(max_size=3),
        st.sampled_from(
            [
                np.int32(3),
                np.int64(-1),
                np.uint64(2**64 - 1),
                np.float32(0.5),
                np.float64("nan"),
                np.str_("b"),
                np.datetime64("2020-01-01"),
                np.datetime64("NaT"),
                datetime.datetime(2020, 1, 1),
                datetime.date(9999, 12, 31),
                decimal.Decimal("1.5"),
                1 + 2j,
            ]
        ),
        st.builds(Opaque),
    )


def columns():
    """Lists, arrays and other things that could be meant as a column."""
    dtypes = [
        *("int8", "int64", "uint64", "float16", "float64", "bool"),
        *("U2", "S2", "complex64", "datetime64[ns]", "datetime64[D]", "O"),
    ]
    arrays = st.builds(
        lambda dtype, shape: (
            np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        ),
        st.sampled_from(dtypes),
        st.sampled_from([(), (0,), (1,), (4,), (8,), (2, 2), (8, 1), (0, 3)]),
    )
    return st.one_of(
        scalars(),
        st.lists(scalars(), max_size=4),
        st.lists(scalars(), min_size=8, max_size=8),
        st.lists(st.lists(scalars(), max_size=3), max_size=3),
        st.dictionaries(st.text("ab", max_size=2), scalars(), max_size=2),
        st.builds(lambda: (number for number in range(8))),
        st.builds(set),
        st.builds(lambda: np.ma.masked_array(range(8), [0, 1] * 4)),
        arrays,
    )


def changed(valid: dict, values, most: int = 2):
    """`valid`, with up to `most` of its values replaced by drawn ones."""
    if not valid:
        return st.just({})
    return st.dictionaries(
        st.sampled_from(sorted(valid)), values, max_size=most
    ).map(lambda drawn: {**valid, **drawn})
