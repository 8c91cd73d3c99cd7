"""What JAX knows about processes and devices."""

import os

import jax
import numpy as np

_VIRTUAL_DEVICES = "--xla_force_host_platform_device_count"


def jax_version() -> str:
    """The version of JAX."""
    return jax.__version__


def find_devices() -> list[str]:
    """Starts the devices, if nobody did, and returns their names.

    In a sum over virtual devices of one CPU each of them holds a thread until
    all have come. XLA starts as many threads as there are cores or devices,
    whichever is more: where other work holds one of them the last device
    never comes, and XLA ends the process after 40 s. So there are started
    twice as many as devices; XLA reads NPROC in place of the number of cores.
    """
    wanted = 2 * _virtual_devices()
    before = os.environ.get("NPROC")
    if wanted > int(before or os.cpu_count() or 1):
        os.environ["NPROC"] = str(wanted)
    names = [name_of(device) for device in jax.devices()]
    if before is None:
        os.environ.pop("NPROC", None)
    else:
        os.environ["NPROC"] = before
    return names


def _virtual_devices() -> int:
    count = max(getattr(jax.config, "jax_num_cpu_devices", 1), 1)
    for flag in os.environ.get("XLA_FLAGS", "").split():
        name, _, value = flag.partition("=")
        if name == _VIRTUAL_DEVICES and value.isdigit():
            count = max(count, int(value))
    return count


def process_index() -> int:
    """The number of this process, from 0."""
    return jax.process_index()


def process_count() -> int:
    """How many processes run this program together."""
    return jax.process_count()


def local_device_count(device_mesh) -> int:
    """How many devices of a `keras.distribution.DeviceMesh` this process has.

    A device is known to Keras by its name, such as `"cpu:0"`.
    """
    here = {f"{d.platform}:{d.id}" for d in jax.local_devices()}
    here |= {f"{d.platform}:{d.id}" for d in jax.local_devices(backend="cpu")}
    return sum(str(name) in here for name in device_mesh.devices.flatten())


def wait_for(tree) -> None:
    """Returns when every array in `tree` has been computed.

    JAX returns from a call before the device is done.
    """
    jax.block_until_ready(tree)


def name_of(device) -> str:
    """The name Keras knows a device by, such as `"cpu:0"`."""
    return f"{device.platform}:{device.id}"


def devices_of(array) -> tuple[list[str], int]:
    """Returns the names of this process's devices that hold `array`.

    The second value is how many devices hold it, over all processes.
    """
    here = jax.process_index()
    everywhere = sorted(array.sharding.device_set, key=lambda d: d.id)
    local = [name_of(d) for d in everywhere if d.process_index == here]
    return local, len(everywhere)


def memory_in_use() -> dict[str, int | None]:
    """Bytes in use on each device of this process; None: it does not say."""
    stats = {name_of(d): d.memory_stats() for d in jax.local_devices()}
    return {
        name: (said or {}).get("bytes_in_use") for name, said in stats.items()
    }


def leaf_to_wait_for(tree):
    """The first array of `tree` whose buffer is still there, or None.

    All outputs of a compiled step are ready at the same moment, so any one
    tells when the step is done.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            return leaf
    return None


def wait_in_turn(array, first: int, clock) -> list[tuple[str, float]]:
    """Waits for every device's part of `array`, one after the other.

    Args:
        array: A `jax.Array`.
        first: int. Where to begin; the devices follow in order, round the
            end. Only parts on this process's devices are waited for.
        clock: Callable without arguments that returns seconds.

    Returns:
        A list of `(device name, seconds)` in the order of waiting. The first
        device's seconds contain the wait for the computation that all share;
        every later device's are what it needed beyond those before it.
    """
    shards = array.addressable_shards
    start = first % len(shards)
    waits = []
    before = clock()
    for shard in shards[start:] + shards[:start]:
        shard.data.block_until_ready()
        now = clock()
        waits.append((name_of(shard.device), now - before))
        before = now
    return waits


def parts_on_devices(arrays):
    """Yields `(device name, parts, is_first_copy)` for this process's parts.

    Over all processes, every row of an array is in exactly one part that is a
    first copy. Arrays that are on no device come as one part with the name
    None.

    Args:
        arrays: Arrays of one shape that are laid out alike.

    Yields:
        `parts` is a NumPy array, `(number of arrays, ...)`.
    """
    if not isinstance(arrays[0], jax.Array):
        yield None, np.stack(arrays), True
        return
    for place, shard in enumerate(arrays[0].addressable_shards):
        parts = [np.asarray(array.addressable_data(place)) for array in arrays]
        yield name_of(shard.device), np.stack(parts), shard.replica_id == 0


def rows_on_devices(shape, sharding):
    """Yields `(device name, rows, is_first_copy)` like `parts_on_devices`.

    Args:
        shape: Shape of the whole array, over all processes.
        sharding: Its `jax.sharding.Sharding`, or None for a NumPy array.
    """
    if sharding is None:
        yield None, shape[0], True
        return
    here = jax.process_index()
    seen = set()
    places = sharding.devices_indices_map(tuple(shape))
    for device, indices in places.items():
        start, stop, _ = indices[0].indices(shape[0])
        if device.process_index == here:
            first = (start, stop) not in seen
            yield name_of(device), stop - start, first
        seen.add((start, stop))
