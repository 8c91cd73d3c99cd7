"""Do all processes train the same model on the same data?

Every process reads all batches and keeps its rows of each. With different data
they would train on a mixture, or wait for ever for a step that others do not
take. So they compare what they read before the first step.
"""

import itertools
import json

from keras_dp_retrieval import distribution

# How long a process waits for the others to begin the same call. Some may
# still be reading their data.
SECONDS = 600

_checks_made = itertools.count()


def check(identity: dict, call: str = "fit") -> None:
    """Raises, on every process, unless all have the same `identity`.

    Does nothing if there is only one process.

    Args:
        identity: dict. What to compare, JSON: names to plain values; None
            for what cannot be known.
        call: str. The method that all processes must have called.

    Raises:
        ValueError: If the processes' values differ.
        RuntimeError: If a process does not make the call within ten minutes.
    """
    count = distribution.process_count()
    if count == 1:
        return
    from keras_dp_retrieval._jax import processes

    client = processes.store()
    if client is None:
        return
    number, index = next(_checks_made), distribution.process_index()
    text = json.dumps({"call": call, **identity})
    folder = f"keras_dp_retrieval/agreement/{number}"
    notes = processes.gather(client, folder, index, count, text, SECONDS)
    if number and index == 0:
        # Processes in this check have read the notes of the one before.
        processes.remove(client, f"keras_dp_retrieval/agreement/{number - 1}/")
    missing = sorted(set(range(count)) - set(notes))
    if missing:
        raise RuntimeError(
            f"All {count} processes must call `{call}` together. Received: no "
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
    differing = [name for name in names if len(_known(identities, name)) > 1]
    if not differing:
        return
    if "call" in differing:  # All else differs with it.
        differing = ["call"]
    groups: dict[tuple, list[int]] = {}
    for process, seen in sorted(identities.items()):
        values = tuple(json.dumps(seen.get(name)) for name in differing)
        groups.setdefault(values, []).append(process)
    each = "; ".join(
        f"{_counted(members)}: "
        + ", ".join(
            f"{name} {identities[members[0]].get(name)}" for name in differing
        )
        for members in groups.values()
    )
    raise ValueError(
        "All processes must train on the same data, in the same batches: each "
        "reads all of it and trains on its rows of every batch; and they must "
        f"begin with the same model. Received: {each}.{_odd(groups)} Give "
        "every process the whole data set, with the same seed, and run the "
        "same program in all."
    )


def _known(identities, name) -> set[str]:
    return {
        json.dumps(seen[name])
        for seen in identities.values()
        if seen.get(name) is not None
    }


def _counted(members: list[int]) -> str:
    plural = "es" if len(members) > 1 else ""
    return f"process{plural} {', '.join(map(str, members))}"


def _odd(groups: dict[tuple, list[int]]) -> str:
    """Which processes differ from the most, if there are most."""
    sizes = sorted(map(len, groups.values()))
    if len(sizes) < 2 or sizes[-1] == sizes[-2]:
        return ""
    odd = sorted(
        process
        for members in groups.values()
        if len(members) < sizes[-1]
        for process in members
    )
    verb = "differs" if len(odd) == 1 else "differ"
    words = _counted(odd)
    return f" {words[0].upper()}{words[1:]} {verb} from the others."
