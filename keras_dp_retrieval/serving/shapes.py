"""The few shapes that requests are padded to, as each one is compiled."""

from keras_dp_retrieval.data.padding import next_power_of_two

# From one width to the next. Padding is then up to as many times the work, of
# which there is little; a factor of 2 would compile three times as often.
STEP = 8
NARROWEST = 32

# Lists up to here are searched for as such; longer ones as the longest.
SHORT_LIST = 16

# Labels or words of one feature of a user.
FEATURE_WIDTHS = (8, 64, 512)


def batch_sizes(most: int) -> list[int]:
    """Sizes of batches: 1, 4, 8, 16, ..., `most`.

    A search takes about as long as it has users, so there are more of them.
    """
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(max(2 * sizes[-1], 4), most))
    return sizes


def widths(most: int) -> list[int]:
    """Widths of padded histories: 32, 256, ..., a power of two for `most`."""
    return _sizes(NARROWEST, next_power_of_two(most))


def excluded_widths(most: int) -> list[int]:
    """Widths of padded lists to leave out: a short one, and for `most`."""
    # A search takes longer to compile than a tower, and its time hardly
    # depends on how many are left out.
    sizes = widths(most)
    return sizes if len(sizes) < 3 else [sizes[1], sizes[-1]]


def list_lengths(most: int) -> list[int]:
    """Lengths of the lists that are searched for."""
    return [SHORT_LIST, most] if most > SHORT_LIST else [most]


def smallest(sizes, number: int) -> int:
    """The smallest of rising sizes that is not less than a number."""
    return next(size for size in sizes if size >= number)


def _sizes(first: int, last: int) -> list[int]:
    sizes = []
    while first < last:
        sizes.append(first)
        first *= STEP
    return [*sizes, last]
