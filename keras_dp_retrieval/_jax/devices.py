"""What JAX knows about processes and devices."""

import os

import jax
import numpy as np

_VIRTUAL_DEVICES = "--xla_force_host_platform_device_count"
# What XLA reads before it counts cores.
_THREADS = "PJRT_NPROC"


def jax_version() -> str:
    """The version of JAX."""
    return jax.__version__


def find_devices() -> list[str]:
    """Starts the devices, if nobody did, and returns their names."""
    reserve_threads()
    names = [name_of(device) for device in jax.devices()]
    _pool.settle()
    return names


def find_local_devices() -> list[str]:
    """The names of the devices of this process, started if need be."""
    find_devices()
    return [name_of(device) for device in jax.local_devices()]


# In XLA's thread pool, a virtual device can hold one thread that waits for its
# program to end and another that waits in a sum over all devices; and one that
# waits for a program of this device alone.
THREADS_A_DEVICE = 3


class _Pool:
    """The threads that all virtual devices of one CPU share.

    XLA starts as many as there are cores or devices, whichever is more. In a
    step over all devices each of them may hold two at a time, and only a third
    party gets the last device there: with fewer than two threads a device, all
    threads can end up waiting, and XLA ends the process after 40 s ("all
    reduce ... 3 of them arrived"). One program alone can do so, and with 4
    devices and 7 threads it does; with 8 it was never seen. The number is
    fixed when the devices start, from an environment variable.

    Attributes:
        size: int, or None as long as the devices have not started.
    """

    def __init__(self):
        self.size = None
        self._before = None
        self._is_reserved = False

    def reserve(self):
        """Asks for enough threads, if the devices have yet to start."""
        if self.size is not None:
            return
        if has_started():
            self.settle()
            return
        wanted = THREADS_A_DEVICE * _virtual_devices()
        if wanted <= _threads_to_start():
            return
        if not self._is_reserved:
            self._before = os.environ.get(_THREADS)
            self._is_reserved = True
        os.environ[_THREADS] = str(wanted)

    def settle(self):
        """Notes what the devices got, and puts the environment back.

        Programs that are started from here need not have as many threads.
        """
        if self.size is not None:
            return
        self.size = max(_threads_to_start(), len(_cpu_devices()))
        if self._is_reserved:
            if self._before is None:
                os.environ.pop(_THREADS, None)
            else:
                os.environ[_THREADS] = self._before


_pool = _Pool()


def reserve_threads() -> None:
    """Sees to it that virtual devices start with enough threads.

    Starts nothing, so that `jax.distributed.initialize` may come later.
    """
    _pool.reserve()


def threads_and_need(device_mesh) -> tuple[int, int]:
    """How many threads the mesh's virtual devices share, and need.

    The second number is 0 where they need none: on one device, or on devices
    that are not virtual.
    """
    _pool.settle()
    names = {name_of(device) for device in _cpu_devices()}
    used = sum(str(name) in names for name in device_mesh.devices.flatten())
    return _pool.size, 2 * used if used > 1 else 0


def has_started() -> bool:
    """Whether JAX has started its devices.

    Every public name that would tell starts them (jax 0.10).
    """
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def _threads_to_start() -> int:
    for name in (_THREADS, "NPROC"):  # In XLA's order.
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_devices() -> list:
    try:
        return jax.local_devices(backend="cpu")
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out.
        return []


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


def platform() -> str:
    """What JAX computes on by default, such as `"cpu"`."""
    return jax.default_backend()


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
    for index, shard in enumerate(arrays[0].addressable_shards):
        parts = [np.asarray(array.addressable_data(index)) for array in arrays]
        yield name_of(shard.device), np.stack(parts), shard.replica_id == 0


def rows_on_devices(shape, sharding, row_axis: int = 0):
    """Yields `(device name, rows, is_first_copy)` like `parts_on_devices`.

    Args:
        shape: Shape of the whole array, over all processes.
        sharding: Its `jax.sharding.Sharding`, or None for a NumPy array.
        row_axis: int. Which axis counts the rows.
    """
    if sharding is None:
        yield None, shape[row_axis], True
        return
    here = jax.process_index()
    seen = set()
    indices_of = sharding.devices_indices_map(tuple(shape))
    for device, indices in indices_of.items():
        start, stop, _ = indices[row_axis].indices(shape[row_axis])
        if device.process_index == here:
            first = (start, stop) not in seen
            yield name_of(device), stop - start, first
        seen.add((start, stop))
