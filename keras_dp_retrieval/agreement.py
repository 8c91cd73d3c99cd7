"""Do all processes train on the same data?

Every process reads all batches and keeps its rows of each. With different data
they would train on a mixture, or wait for ever for a step that others do not
take. So they compare what they read before the first step.
"""

import itertools
import json

from keras_dp_retrieval import distribution

# How long a process waits for the others to begin the same `fit`. Some may
# still be reading their data.
SECONDS = 600

_fits = itertools.count()


def check(identity: dict) -> None:
    """Raises, on every process, unless all have the same `identity`.

    Does nothing if there is only one process.

    Args:
        identity: dict. What to compare, JSON: names to plain values; None
            for what cannot be known.

    Raises:
        ValueError: If the processes' values differ.
        RuntimeError: If a process does not call `fit` within ten minutes.
    """
    count = distribution.process_count()
    if count == 1:
        return
    from keras_dp_retrieval._jax import processes

    client = processes.store()
    if client is None:
        return
    number, index = next(_fits), distribution.process_index()
    text = json.dumps(identity)
    folder = f"keras_dp_retrieval/fit/{number}"
    notes = processes.gather(client, folder, index, count, text, SECONDS)
    if number and index == 0:
        # Processes in this `fit` have read the notes of the one before.
        processes.remove(client, f"keras_dp_retrieval/fit/{number - 1}/")
    missing = sorted(set(range(count)) - set(notes))
    if missing:
        raise RuntimeError(
            f"All {count} processes must call `fit` together. Received: no "
            f"call from process {', '.join(map(str, missing))} within "
            f"{SECONDS} seconds."
        )
    compare({process: json.loads(note) for process, note in notes.items()})


def compare(identities: dict[int, dict]) -> None:
    """Raises a ValueError unless all processes' identities are equal.

    Args:
        identities: `{process: {name: value}}`. None is an unknown value, and
            equals any.
    """
    names = {name: None for seen in identities.values() for name in seen}
    differing = [
        name
        for name in names
        if len(
            {
                json.dumps(seen[name])
                for seen in identities.values()
                if seen.get(name) is not None
            }
        )
        > 1
    ]
    if not differing:
        return
    each = "; ".join(
        f"process {process}: "
        + ", ".join(f"{name} {seen.get(name)}" for name in differing)
        for process, seen in sorted(identities.items())
    )
    raise ValueError(
        "All processes must train on the same data, in the same batches: each "
        "reads all of it and trains on its rows of every batch. Received: "
        f"{each}. Give every process the whole data set, with the same seed."
    )
