"""JAX's own runtime of several processes: one joins it, and leaves it."""

import jax

from keras_dp_retrieval._jax import processes


def is_joined() -> bool:
    """Whether this process is one of a `jax.distributed` run."""
    return processes.store() is not None


def join(
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
    *,
    local_device_ids: list[int] | None,
    limits: tuple[int, int],
) -> None:
    """Calls `jax.distributed.initialize`; what is None, JAX looks for.

    Args:
        coordinator_address: As there; likewise the next three.
        limits: `heartbeat_timeout_seconds` and `initialization_timeout`.

    Raises:
        ValueError: If JAX finds nothing that says what is None.
    """
    # JAX catches SIGTERM, so as to ask programs to save before they are
    # preempted, and a program that does not ask goes on (jax 0.10,
    # `preemption_notifier.cc`): whoever ends it politely would wait, and then
    # kill it. Without that it ends, as Python programs do.
    if hasattr(jax.config, "jax_enable_preemption_service"):
        jax.config.update("jax_enable_preemption_service", False)
    heartbeat_timeout_seconds, initialization_timeout = limits
    given = (coordinator_address, num_processes, process_id)
    jax.distributed.initialize(
        *given,
        local_device_ids=local_device_ids,
        # Where all is said, JAX need not look: under Slurm it would hide all
        # devices but one (jax#16788), and in Kubernetes warn of a package.
        cluster_detection_method=None if None in given else "deactivate",
        heartbeat_timeout_seconds=heartbeat_timeout_seconds,
        initialization_timeout=initialization_timeout,
    )
