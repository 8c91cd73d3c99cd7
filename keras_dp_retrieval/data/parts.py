"""Divides interactions into train, validation and test."""

from collections.abc import Callable

from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.raw_data import RawData, RawRatings
from keras_dp_retrieval.data.splits import make_split

PARTS = ("train", "validation", "test")


def divide(
    raw: RawData,
    to_rows: Callable[[RawRatings], Ratings],
    *,
    split: str,
    test_fraction: float,
    validation_fraction: float,
    validation_in_train: bool,
    seed: int,
) -> tuple[dict[str, Ratings], str]:
    """Returns the parts of a data set, and the note of the split.

    Parts that the raw data has already are taken as they are.

    Args:
        raw: `RawData`.
        to_rows: Function from `RawRatings` to `Ratings`.
        split: str, and the next two and the seed: see `make_split`.
        test_fraction: float.
        validation_fraction: float.
        validation_in_train: bool. Whether the validation part is appended to
            the train part, and empty itself.
        seed: int.

    Raises:
        ValueError: If the train part would be empty.
    """
    ratings = to_rows(raw.interactions)
    made = make_split(
        split,
        ratings,
        test_fraction=0 if raw.test else test_fraction,
        validation_fraction=0 if raw.validation else validation_fraction,
        seed=seed,
    )
    parts = {part: ratings.take(getattr(made, part)) for part in PARTS}
    if raw.validation:
        parts["validation"] = to_rows(raw.validation)
    if raw.test:
        parts["test"] = to_rows(raw.test)
    if validation_in_train:
        nothing = parts["validation"].take(slice(0))
        parts["train"] = parts["train"].concatenate(parts["validation"])
        parts["validation"] = nothing
    if not len(parts["train"]):
        raise ValueError(
            f"The train part must have interactions. Received: none of "
            f"{len(ratings)} with split={split!r}, test_fraction="
            f"{test_fraction:g}."
        )
    return parts, made.note


def hold_out(
    train: Ratings, *, split: str, validation_fraction: float, seed: int
) -> tuple[Ratings, Ratings]:
    """Returns a smaller train part, and a validation part taken out of it.

    Args:
        train: `Ratings`.
        split: str. What is held out follows it where it follows time, and is
            drawn at random otherwise.
        validation_fraction: float. A tenth if it is 0.
        seed: int.
    """
    made = make_split(
        split if split in ("by_time", "leave_last_out") else "random",
        train,
        test_fraction=0,
        validation_fraction=validation_fraction or 0.1,
        seed=seed,
    )
    return train.take(made.train), train.take(made.validation)
