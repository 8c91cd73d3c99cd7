"""A process that is about to end lets the others hear why."""

import time
from collections.abc import Iterable

from keras_dp_retrieval._jax import processes

# How long it waits until they have heard. They look once a second.
FAREWELL_SECONDS = 3.0


def say_farewell(
    client, folder: str, index: int, text: str, others: Iterable[int]
) -> None:
    """Posts a note, and waits for those of the others, who then know.

    Whoever goes on until the connection breaks has an error in `fit` that
    names nobody, and then waits at its end for those who are gone, for five
    minutes (jax 0.10). Process 0 ends last: JAX ends who is left without it.

    Args:
        client: What `processes.store()` returned.
        folder: Where each that ends posts its note.
        index: The number of this process.
        text: Its note.
        others: The numbers of those who are waited for, all together for
            `FAREWELL_SECONDS`.
    """
    try:
        processes.post(client, f"{folder}/{index}", text)
    except Exception:  # The store is gone, and process 0 with it.
        return
    deadline = time.monotonic() + FAREWELL_SECONDS
    for other in others:
        left = deadline - time.monotonic()
        if left > 0:
            processes.read(client, f"{folder}/{other}", left)
    if index == 0:
        time.sleep(0.3)  # They are on their last line.
