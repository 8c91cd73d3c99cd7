"""Which process this is, of how many: what the user says of it."""

import os

from keras_dp_retrieval import _checks

# Keras' own names, so that `keras.distribution.initialize()` reads them too.
ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
INDEX = "KERAS_DISTRIBUTION_PROCESS_ID"


def find(
    address: str | None, count: int | None, index: int | None
) -> tuple[str | None, int | None, int | None]:
    """Which process this is, as far as arguments and variables say.

    Args:
        address: As `coordinator_address` of `initialize_processes`.
        count: As `num_processes` there.
        index: As `process_id` there.

    Returns:
        The same; None is left to JAX to find.

    Raises:
        ValueError: If one of them cannot be; names where it comes from.
    """
    count = _from_environment("num_processes", count, COUNT)
    index = _from_environment("process_id", index, INDEX)
    if address is None:
        # Keras lets it name all processes; the first is the one.
        address = os.environ.get(ADDRESSES, "").split(",")[0]
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    _check_place(address, count, index)
    return address, count, index


def is_one_of_several() -> bool:
    """Whether the environment says that this is one of several processes.

    Looks at the variables that the user or `launch` set, not at what Slurm
    and the like set in every program that they run.
    """
    return bool(os.environ.get(INDEX)) and os.environ.get(COUNT) != "1"


def _from_environment(name: str, value, variable: str) -> int | None:
    said = f"{name}={value!r}"
    if value is None:
        text = os.environ.get(variable)
        if not text:
            return None
        said = f"{variable}={text!r} in the environment"
        value = int(text) if text.strip().isdigit() else text
    least = 1 if name == "num_processes" else 0
    check = _checks.positive_int if least else _checks.non_negative_int
    try:
        return check(name, value)
    except ValueError:
        raise ValueError(
            f"`{name}` must be a whole number of {least} or more. Received: "
            f"{said}."
        ) from None


def _check_place(address, count, index) -> None:
    if address is not None:
        _checks.text("coordinator_address", address)
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ValueError(
                "`coordinator_address` must be the host and a port of process "
                f"0. Received: coordinator_address={address!r}. Use, for "
                "example, 'host-a:12345'."
            )
    if count is not None and index is not None and index >= count:
        raise ValueError(
            "`process_id` must be below `num_processes`: processes are "
            f"numbered from 0. Received: process_id={index} with "
            f"num_processes={count}."
        )


def device_ids(given) -> list[int] | None:
    """The GPUs of this process as a list, if any were named."""
    if given is None:
        return None
    ids = list(given) if _checks.is_listed(given) else None
    if isinstance(given, range):
        ids = list(given)
    if not ids:
        raise ValueError(
            "`local_device_ids` must be a list of the numbers of this "
            f"process's GPUs. Received: local_device_ids={given!r}. Use [0] "
            "for the first of the host, or leave it out for all."
        )
    return [_checks.non_negative_int("local_device_ids", one) for one in ids]
