"""Rank users on the devices of this process; sum over all processes."""

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def local_mesh(device_mesh=None) -> Mesh:
    """This process's devices of a `keras.distribution.DeviceMesh`, on one axis.

    Without a mesh: the one device JAX computes on by default.
    """
    if device_mesh is None:
        return Mesh(np.array(jax.local_devices()[:1]), ("users",))
    devices = device_mesh.backend_mesh.devices.flatten()
    local = [d for d in devices if d.process_index == jax.process_index()]
    return Mesh(np.array(local), ("users",))


def local_copy(array):
    """This process's copy of an array that may lie on several processes.

    A program of this process alone cannot read a global array, not even one
    of which every device holds a copy.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return array
    if array.is_fully_replicated:
        return array.addressable_data(0)
    return multihost_utils.process_allgather(array, tiled=True)


def shard_rows(array, mesh: Mesh):
    """Shards the rows of `array` over the devices of the mesh."""
    return jax.device_put(array, NamedSharding(mesh, P("users")))


@functools.lru_cache(maxsize=32)
def compiled_ranker(rank, mesh: Mesh, k: int, chunk_size: int):
    """Compiles `rank` so that each device ranks its own users.

    `shard_map`, not a sharding constraint: the partitioner is free to gather
    the operand of a `top_k` that is sharded by rows, and each device needs
    nothing from the others here.

    Args:
        rank: Callable of `(user_vectors, candidate_vectors, excluded_rows,
            allowed, k, chunk_size)` that returns arrays with one row a user.
            A module-level function: it is the key under which the compiled
            program is found again in the next evaluation.
        mesh: The devices.
        k: int. Length of the lists.
        chunk_size: int. Candidates scored at a time.
    """

    def rank_share(*arrays):
        # Accelerators multiply float32 in fewer bits unless told not to, and
        # then another device count may give other ids.
        with jax.default_matmul_precision("highest"):
            return rank(*arrays, k=k, chunk_size=chunk_size)

    return jax.jit(
        jax.shard_map(
            rank_share,
            mesh=mesh,
            in_specs=(P("users"), P(), P("users"), P()),
            out_specs=P("users"),
            check_vma=False,  # No device reads another's users.
        )
    )


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """Adds up the arrays of all processes; every process gets the sum.

    Args:
        array: float64, the same shape in every process.
    """
    if jax.process_count() == 1:
        return array
    # JAX computes in 32 bits: float64 is sent as pairs of 32-bit words.
    words = np.ascontiguousarray(array).view(np.uint32)
    gathered = np.asarray(multihost_utils.process_allgather(words))
    return np.ascontiguousarray(gathered).view(np.float64).sum(axis=0)


def any_over_processes(array: np.ndarray) -> np.ndarray:
    """True where any process has True; every process gets the answer."""
    if jax.process_count() == 1:
        return array
    gathered = np.asarray(multihost_utils.process_allgather(array))
    return np.logical_or.reduce(gathered, axis=0)
