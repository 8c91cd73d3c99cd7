"""Runs a top-k search compiled, with the catalogue sharded over a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from keras_dp_retrieval._jax.replication import replicate


def run(search, arrays, options, mesh=None, axis=None):
    """Returns `search(*arrays, first_row, num_rows, **options)` of all rows.

    Args:
        search: Function of queries, candidates, excluded rows, allowed rows
            and scales, and a range of rows, that returns `(scores, rows)`.
        arrays: The first five; the last three may be None.
        options: dict of hashable options of `search`, `k` among them.
        mesh: Optional `jax.sharding.Mesh` to shard the candidates over.
        axis: Optional str. The axis of `mesh` to shard them on.

    Returns:
        `(scores, rows)`, each of shape `(batch, k)`, the same on all devices.
    """
    if mesh is not None:
        arrays = jax.tree.map(functools.partial(_onto, mesh, axis), arrays)
    return _compiled(search, arrays, tuple(sorted(options.items())), mesh, axis)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _compiled(search, arrays, options, mesh, axis):
    search = functools.partial(search, **dict(options))
    arrays = jax.lax.stop_gradient(arrays)
    # Accelerators multiply float32 in fewer bits unless told not to, and an
    # exact search is no use on inexact scores.
    with jax.default_matmul_precision("highest"):
        if mesh is None:
            return search(*arrays, 0, arrays[1].shape[0])
        return _sharded(search, arrays, dict(options)["k"], mesh, axis)


def _sharded(search, arrays, k, mesh, axis):
    """Each device's best of its share of the rows, then the best of those."""
    num_devices = mesh.shape[axis]
    num_candidates = arrays[1].shape[0]
    divides = num_candidates % num_devices == 0
    # Rows that divide evenly are sharded. Otherwise every device is given all
    # rows and searches its share: under `DataParallel` it has them all anyway.
    rows = P(axis) if divides else P()
    share = -(-num_candidates // num_devices)

    def best_of_share(queries, candidates, excluded, *per_candidate):
        first = jax.lax.axis_index(axis).astype(jnp.int32) * share
        if not divides:
            best = search(
                queries, candidates, excluded, *per_candidate, first, share
            )
        else:
            if excluded is not None:
                excluded = excluded - first
            scores, found = search(
                queries, candidates, excluded, *per_candidate, 0, share
            )
            best = scores, jnp.where(found >= 0, found + first, -1)
        # In the order of the devices, which is the order of the rows, so that
        # ties stay in order. `top_k` itself must not see a sharded axis: it
        # would be gathered whole (jax#19271).
        scores, found = jax.lax.all_gather(best, axis, axis=1, tiled=True)
        scores, columns = jax.lax.top_k(scores, k)
        return scores, jnp.take_along_axis(found, columns, axis=1)

    return jax.shard_map(
        best_of_share,
        mesh=mesh,
        in_specs=(P(), rows, P(), rows, rows),
        out_specs=P(),
        check_vma=False,  # The gathered result is equal everywhere.
    )(*arrays)


def _onto(mesh, axis, array):
    """`array` on the devices of `mesh`, where it is not there yet."""
    if isinstance(array, jax.core.Tracer) or (
        getattr(array.sharding, "mesh", None) == mesh
    ):
        return array
    return replicate(array, mesh)


def shard(array, mesh, axis):
    """`array` with its rows sharded over `axis`, padded with zeros at the end.

    Each device receives its rows alone, so no padded copy of all is made.
    """
    share = -(-len(array) // mesh.shape[axis])
    shape = (share * mesh.shape[axis], *array.shape[1:])

    def rows_of_device(index):
        part = array[index[0]]
        missing = share - len(part)
        return np.pad(part, [(0, missing)] + [(0, 0)] * (array.ndim - 1))

    sharding = NamedSharding(mesh, P(axis))
    return jax.make_array_from_callback(shape, sharding, rows_of_device)
