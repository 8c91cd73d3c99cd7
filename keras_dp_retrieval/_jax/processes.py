"""Notes that processes leave for each other, beside the training itself.

They live in the key-value store of JAX's coordination service, which runs in
process 0 and which every process of a `jax.distributed` run is connected to.
Unlike a collective, reading it has a time limit, and it answers while the
devices wait for a process that is stuck; unlike files, it needs no shared
disk.
"""

import time


def store():
    """The store of this run, or None where there is none.

    JAX has no public name for it (jax 0.10).
    """
    try:
        from jax._src import distributed

        return distributed.global_state.client
    except (ImportError, AttributeError):
        return None


def post(client, key: str, text: str) -> None:
    """Writes a note, over the one that was there."""
    client.key_value_set(key, text, allow_overwrite=True)


def read_all(client, folder: str) -> dict[int, str]:
    """Returns what lies in `folder` now, by process number."""
    found = client.key_value_dir_get(folder)
    return {int(key.rsplit("/", 1)[1]): text for key, text in found}


def remove(client, key: str) -> None:
    """Forgets a note; the store lives as long as the run."""
    client.key_value_delete(key)


def read(client, key: str, seconds: float) -> str | None:
    """Returns a note as soon as it is there; None if it does not come."""
    try:
        return client.blocking_key_value_get(key, max(int(seconds * 1000), 1))
    except Exception:  # jaxlib raises its own kind of RuntimeError.
        return None


def wait_for(client, key: str, seconds: float) -> str | None:
    """As `read`, but raises at once where the store is gone.

    Raises:
        RuntimeError: Of jaxlib, if the store cannot be reached.
    """
    try:
        return client.blocking_key_value_get(key, max(int(seconds * 1000), 1))
    except Exception as error:
        if "DEADLINE_EXCEEDED" in str(error):  # It does not come.
            return None
        raise


def gather(
    client, folder: str, index: int, count: int, text: str, seconds: float
) -> dict[int, str]:
    """Every process's note, as far as they come within `seconds`.

    Args:
        client: What `store()` returned.
        folder: A key that is used for this exchange alone.
        index: The number of this process.
        count: How many processes take part.
        text: This process's note.
        seconds: How long to wait for the others, all together.
    """
    post(client, f"{folder}/{index}", text)
    deadline = time.monotonic() + seconds
    notes = {
        other: read(client, f"{folder}/{other}", deadline - time.monotonic())
        for other in range(count)
    }
    return {other: note for other, note in notes.items() if note is not None}
