"""What JAX knows about processes and devices."""

import jax


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
