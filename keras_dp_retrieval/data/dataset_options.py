"""How a data set is split and batched: the options that all of them have."""

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.splits import SPLITS

# All of them are arguments, attributes and config of every data set.
OPTIONS = (
    "split",
    "test_fraction",
    "validation_fraction",
    "batch_size",
    "seed",
    "candidate_key",
    "rating_key",
    "validation_in_train",
)


def checked_options(
    *,
    split,
    test_fraction,
    validation_fraction,
    batch_size,
    seed,
    candidate_key,
    rating_key,
    validation_in_train,
) -> dict:
    """Checks the options, which are arguments of `RetrievalDataset`.

    Returns:
        dict from the names in `OPTIONS` to values.

    Raises:
        ValueError: If one of them is not valid, or two do not go together.
    """
    split = _checks.one_of("split", split, SPLITS)
    fractions = (
        _checks.number_between(name, fraction, 0, 1, open_high=True)
        for name, fraction in (
            ("test_fraction", test_fraction),
            ("validation_fraction", validation_fraction),
        )
    )
    test_fraction, validation_fraction = fractions
    batch_size = _checks.positive_int("batch_size", batch_size)
    seed = _checks.non_negative_int("seed", seed)
    _checks.number_between("seed", seed, 0, 2**32 - 1)
    candidate_key = _checks.text("candidate_key", candidate_key)
    rating_key = _checks.text("rating_key", rating_key)
    if candidate_key == rating_key:
        raise ValueError(
            "`candidate_key` and `rating_key` must differ. Received: "
            f"{candidate_key!r} for both."
        )
    validation_in_train = bool(validation_in_train)
    if validation_in_train:
        check_validation_can_be_trained_on(split)
    return {
        "split": split,
        "test_fraction": test_fraction,
        "validation_fraction": validation_fraction,
        "batch_size": batch_size,
        "seed": seed,
        "candidate_key": candidate_key,
        "rating_key": rating_key,
        "validation_in_train": validation_in_train,
    }


def check_validation_can_be_trained_on(split: str) -> None:
    """Raises a ValueError if the test part would be trained on with it."""
    if split == "tutorial":
        raise ValueError(
            "With `split='tutorial'` validation and test are the same rows, so "
            "validation cannot be learned from, as `validation_in_train=True` "
            "would. Received: split='tutorial'. Use `split='random'`."
        )
