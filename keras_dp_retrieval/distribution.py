"""Find the devices, train on all of them, and divide rows between them."""

import math
import warnings
from collections.abc import Sequence

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data.row_padding import register_padded_size
from keras_dp_retrieval.warning_categories import TrainingWarning


def data_parallel(devices: Sequence[str] | None = None):
    """Trains every model made from now on data-parallel, on all devices.

    Each device holds the whole model and computes its share of every batch.
    The distribution becomes Keras' global one, so it must be set before a
    model is made, and once more after `keras.utils.clear_session()`.

    Args:
        devices: Optional list of device names, such as
            `["gpu:0", "gpu:1"]`. All devices of all processes by default.

    Returns:
        The `keras.distribution.DataParallel` that is now in effect.

    Raises:
        RuntimeError: If Keras does not run on JAX: the other backends accept
            a distribution and silently train on one device, or fail.
        ValueError: If a device in `devices` does not exist.
    """
    require_jax("`data_parallel()`")
    known = device_names()
    if devices is not None:
        devices = _checks.texts("devices", devices)
        missing = [name for name in devices if name not in known]
        if missing or not devices:
            raise ValueError(
                "`devices` must name devices of this machine. "
                f"Received: devices={devices}. There are: {known}."
            )
    # `auto_shard_dataset` would split tf.data by whole batches: processes then
    # hang or disagree when the rows do not divide. `TwoTowerRetrieval` takes
    # each process's rows out of every batch instead.
    distribution = keras.distribution.DataParallel(
        devices=devices, auto_shard_dataset=False
    )
    keras.distribution.set_distribution(distribution)
    return distribution


def device_names() -> list[str]:
    """The names of the devices of all processes, such as `"cpu:0"`."""
    from keras_dp_retrieval._jax.devices import find_devices

    return find_devices()


def local_device_names() -> list[str]:
    """The names of this process's own devices."""
    from keras_dp_retrieval._jax.devices import find_local_devices

    return find_local_devices()


def require_jax(what: str) -> None:
    """Raises a RuntimeError unless Keras runs on the JAX backend."""
    if keras.backend.backend() != "jax":
        raise RuntimeError(
            f"{what} needs Keras on the JAX backend. Received: backend="
            f"{keras.backend.backend()!r}. Set the environment variable "
            "KERAS_BACKEND=jax before Keras is imported."
        )


def reserve_threads() -> None:
    """Reserves enough threads for virtual devices that JAX may start later.

    With too few, XLA can deadlock in the middle of a step, and then ends the
    process. The number is fixed when JAX starts its devices, so this is called
    when the package is imported. It does not start them.
    """
    if keras.backend.backend() == "jax":
        from keras_dp_retrieval._jax import devices

        devices.reserve_threads()


def check_threads() -> None:
    """Warns once if virtual devices were started with too few threads."""
    distribution = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        return
    from keras_dp_retrieval._jax import devices

    threads, need = devices.threads_and_need(distribution.device_mesh)
    if threads >= need or _warned_of_threads:
        return
    _warned_of_threads.append(True)
    enough = need // 2 * devices.THREADS_A_DEVICE
    warnings.warn(
        f"XLA may stop in the middle of a step and abort this program: "
        f"{need // 2} virtual devices share {threads} threads and need "
        f"{need}. JAX started its devices before that was set. Import "
        "`keras_dp_retrieval` before anything lists the devices and after "
        "their number is set, or put "
        f'`os.environ["PJRT_NPROC"] = "{enough}"` at the top of the program.',
        TrainingWarning,
        stacklevel=2,
    )


_warned_of_threads: list[bool] = []


def num_devices() -> int:
    """How many devices a batch is divided over; 1 without a distribution."""
    distribution = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        return 1
    # The batch is split along the mesh's batch axis, the only one of a
    # `DataParallel`; a `ModelParallel` has others.
    mesh = distribution.device_mesh
    axis = mesh.axis_names.index(distribution.batch_dim_name)
    return int(mesh.shape[axis])


def mesh_size() -> int:
    """How many devices a model trains on, over all axes of the mesh."""
    distribution = keras.distribution.distribution()
    if distribution is None or keras.backend.backend() != "jax":
        return 1
    return int(distribution.device_mesh.devices.size)


def computes_on_cpu() -> bool:
    """Whether JAX computes on CPUs; of other backends nothing is known."""
    if keras.backend.backend() != "jax":
        return False
    from keras_dp_retrieval._jax import devices

    return devices.platform() == "cpu"


def process_index() -> int:
    """The number of this process, from 0."""
    if keras.backend.backend() != "jax":
        return 0  # Only the JAX backend runs several processes here.
    from keras_dp_retrieval._jax import devices

    return devices.process_index()


def process_count() -> int:
    """How many processes run this program together."""
    if keras.backend.backend() != "jax":
        return 1
    from keras_dp_retrieval._jax import devices

    return devices.process_count()


def round_up(num_rows: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `num_rows`."""
    return -(-num_rows // multiple) * multiple


def row_multiple() -> int:
    """What the rows of a batch must be a multiple of.

    The least common multiple of the numbers of devices and processes: every
    device gets the same number of rows, and so does every process, also if
    each of them trains on its own device alone.
    """
    return math.lcm(num_devices(), process_count())


# Pads the batches of the data sets as well, for models that are not ours.
register_padded_size(lambda num_rows: round_up(num_rows, row_multiple()))


def process_rows(num_rows: int) -> slice:
    """Returns the rows of a global batch that this process feeds.

    Args:
        num_rows: int. Rows of the batch over all processes, a multiple of
            `row_multiple()`.

    Raises:
        ValueError: If the rows do not divide by the number of processes.
    """
    count = process_count()
    _checks.positive_int("num_rows", num_rows)
    if num_rows % count:
        raise ValueError(
            "`num_rows` must be a multiple of the number of processes. "
            f"Received: num_rows={num_rows} with {count} processes. Use "
            f"{round_up(num_rows, count)}."
        )
    share = num_rows // count
    start = process_index() * share
    return slice(start, start + share)
