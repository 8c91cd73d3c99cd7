"""The ranges of hyperparameters that a search samples from."""

from collections.abc import Sequence

from keras_dp_retrieval import _checks, losses


def listed(name: str, value) -> list:
    """A value, or several to choose from, as a list of at least one."""
    values = list(value) if isinstance(value, Sequence) else [value]
    if not values:
        raise ValueError(
            f"`{name}` must have a value to choose. Received: none."
        )
    return values


def positive_ints(name: str, value) -> list[int]:
    """Checked whole numbers above 0."""
    return [_checks.positive_int(name, one) for one in listed(name, value)]


def optional_positive_ints(name: str, value) -> list[int] | None:
    """Checked whole numbers above 0; None stays None."""
    return None if value is None else positive_ints(name, value)


def non_negative_ints(name: str, value) -> list[int] | None:
    """Checked whole numbers from 0 on; None stays None."""
    return _checked(name, value, _checks.non_negative_int)


def positive_numbers(name: str, value) -> list[float] | None:
    """Checked numbers above 0; None stays None."""
    return _checked(name, value, _checks.number_between, 0, open_low=True)


def shares(name: str, value) -> list[float] | None:
    """Checked numbers from 0 to 1; None stays None."""
    return _checked(name, value, _checks.number_between, 0, 1)


def _checked(name: str, value, check, *limits, **options) -> list | None:
    if value is None:
        return None
    return [check(name, one, *limits, **options) for one in listed(name, value)]


def objectives(given, data, temperature) -> str | list[str]:
    """Checked names of objectives: one name, or a list to choose from.

    Args:
        given: str or strs. `"auto"` is the default for the data.
        data: `RetrievalDataset`.
        temperature: Of the search; only a softmax objective has one.
    """
    given = [given] if isinstance(given, str) else given
    names = [
        losses.default_name(data.num_candidates)
        if isinstance(name, str) and name == "auto"
        else name
        for name in listed("model_objective", given)
    ]
    for name in names:
        _checks.one_of("model_objective", name, losses.OBJECTIVES)
        if temperature is not None and not hasattr(
            losses.get(name), "temperature"
        ):
            raise ValueError(
                "`temperature` belongs to the softmax objectives. Received: "
                f"temperature={temperature} with model_objective={name!r}."
            )
    return names[0] if len(names) == 1 else names


def sample(hp, name: str, values: list[float], sampling: str = "log") -> float:
    """Declares a number to KerasTuner and returns this trial's value.

    Args:
        hp: `keras_tuner.HyperParameters` of the trial.
        name: str.
        values: floats. One is fixed, two are the ends of a range, more are to
            choose from.
        sampling: str. How a range is sampled: `"log"` or `"linear"`.
    """
    if len(values) == 1:
        return hp.Fixed(name, values[0])
    if len(values) > 2:
        return hp.Choice(name, values)
    low, high = values
    return hp.Float(name, low, high, sampling=sampling)
