"""`initialize_processes`: makes this program one of several processes."""

import dataclasses
import os
import socket
import threading
from collections.abc import Sequence

from keras_dp_retrieval import _checks, distribution
from keras_dp_retrieval.processes import process_place
from keras_dp_retrieval.processes.words import say

# How long the others may take to come before that is said.
PATIENCE_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class JoinedProcess:
    """Which process this is, of how many, and what it computes with.

    Attributes:
        index: int, from 0.
        count: int.
        host: str. The name of this host.
        pid: int.
        local_devices: Names of this process's own devices.
        num_devices: int. Devices of all processes.
    """

    index: int
    count: int
    host: str
    pid: int
    local_devices: tuple[str, ...]
    num_devices: int

    def __str__(self):
        return (
            f"Process {self.index} of {self.count} (host {self.host}, pid "
            f"{self.pid}) has {', '.join(self.local_devices)}: "
            f"{len(self.local_devices)} of {self.num_devices} devices."
        )


_joined: list[tuple[tuple, JoinedProcess]] = []


def initialize_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    local_device_ids: Sequence[int] | None = None,
    heartbeat_timeout_seconds: int = 30,
    initialization_timeout: int = 300,
    stalled_seconds: float = 60.0,
    when_stalled: str = "report",
) -> JoinedProcess:
    """Makes this program one of several processes that train together.

    Every process runs the same program on the same data, and calls this
    first, before anything that starts JAX's devices; then `data_parallel()`
    takes the devices of all. It starts JAX's own runtime
    (`jax.distributed.initialize`), which finds out by itself what it is one
    of under Slurm (`srun`), Open MPI and on Cloud TPUs, and in Kubernetes if
    the package `kubernetes` is there. Else give the first three arguments,
    or set `KERAS_DISTRIBUTION_JOB_ADDRESSES`,
    `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`,
    as `keras-dp-retrieval launch` does. An argument goes before its variable,
    and a variable before what JAX finds.

    Processes that are lost are named on `stderr`, by host, process id and the
    last step that they were seen in:

    - One that ends by an exception tells the others at once, and they end too.
      So does one that `sys.exit` ends within `fit`, `evaluate` or `predict` of
      a `TwoTowerRetrieval`, with its exit code, where the others have not
      ended within 3 seconds.
    - One that was killed is missed by the next step on all devices (within
      seconds on CPUs), or else as one that is frozen:
    - One that is frozen or out of reach is named after a third of
      `heartbeat_timeout_seconds`; if it stays so, JAX ends all processes
      within that time (exit code 134).
    - If process 0 dies, JAX's coordination service dies with it, and JAX ends
      the others in the same moment: mostly after a line of ours, and else
      with its own ("the JAX distributed service detected fatal errors").
    - One that takes no step for `stalled_seconds`, while others wait for it
      in `fit`, `evaluate` or `predict` of a `TwoTowerRetrieval`, is named
      with the line of Python that it is in.

    Args:
        coordinator_address: Optional str, `"host:port"` of process 0, with a
            port that is free there; the same in all processes.
        num_processes: Optional int. 1 starts nothing.
        process_id: Optional int. The number of this process, from 0.
        local_device_ids: Optional list of int. The GPUs of this host that
            this process uses; or set `JAX_LOCAL_DEVICE_IDS=0,1`. By default
            all; but where JAX finds Slurm or Open MPI the one with the number
            of the task on its host, so that a task needs either one GPU each
            or this argument.
        heartbeat_timeout_seconds: int. How long a process may give no sign of
            life.
        initialization_timeout: int. Seconds that processes wait for all the
            others to start.
        stalled_seconds: float. How long a process may take no step while
            others wait for it.
        when_stalled: `"report"` names it and goes on; `"abort"` ends all
            processes then.

    Returns:
        `JoinedProcess`: `index`, `count`, `host`, `pid`, `local_devices`,
        `num_devices`; as text one line. A second call with the same arguments,
        or none, returns the same.

    Raises:
        ValueError: If an argument or a variable cannot be, or nothing says
            which process this is.
        RuntimeError: If Keras does not run on JAX, JAX has started its
            devices, or this process is one of a run already.
    """
    distribution.require_jax("`initialize_processes()`")
    place = process_place.find(coordinator_address, num_processes, process_id)
    ids = process_place.device_ids(local_device_ids)
    limits = (
        _checks.positive_int(
            "heartbeat_timeout_seconds", heartbeat_timeout_seconds
        ),
        _checks.positive_int("initialization_timeout", initialization_timeout),
    )
    stalled = _checks.number_between(
        "stalled_seconds", stalled_seconds, low=0.0, open_low=True
    )
    _checks.one_of("when_stalled", when_stalled, ("report", "abort"))
    if _joined:
        return _joined_before((*place, ids))
    if place[1] == 1:
        return _describe()
    _check_is_first()
    _join(place, ids, limits)
    process = _describe()
    _look_after(process, limits[0], stalled, when_stalled)
    _joined.append(((*place, ids), process))
    return process


def _joined_before(arguments: tuple) -> JoinedProcess:
    known, process = _joined[0]
    differs = any(
        new is not None and new != old
        for new, old in zip(arguments, known, strict=True)
    )
    if differs:
        raise RuntimeError(
            "`initialize_processes()` can be called with one set of arguments "
            f"only. Received: {arguments} after {known} (address, number of "
            "processes, process, devices). Start a new process."
        )
    return process


def _check_is_first() -> None:
    from keras_dp_retrieval._jax import devices, runtime

    if runtime.is_joined():
        raise RuntimeError(
            "`initialize_processes()` must be what starts the processes. "
            "Received: a program that called `jax.distributed.initialize` or "
            "`keras.distribution.initialize` before. Leave that call out."
        )
    if devices.has_started():
        raise RuntimeError(
            "`initialize_processes()` must be called before anything that "
            "starts JAX's devices: `data_parallel()`, a layer's weights, "
            "`jax.devices()`. Received: a program in which they have started. "
            "Call it right after the imports."
        )


def _join(place, ids, limits) -> None:
    from keras_dp_retrieval._jax import runtime

    address, _, process_id = place
    stop = threading.Event()
    waiting = threading.Thread(
        target=_say_who_is_missing,
        args=(stop, address, process_id, limits[1]),
        daemon=True,
    )
    waiting.start()
    try:
        runtime.join(*place, local_device_ids=ids, limits=limits)
    except ValueError as error:
        raise ValueError(
            "`initialize_processes()` must know the address of process 0, "
            "how many processes there are, and which one this is. Received: "
            f"coordinator_address={address!r}, num_processes={place[1]}, "
            f"process_id={process_id}, and JAX finds no more ({error}). Start "
            "the program with `keras-dp-retrieval launch` or `srun`, give the "
            f"three arguments, or set {process_place.ADDRESSES}, "
            f"{process_place.COUNT} and {process_place.INDEX}. For one "
            "process leave the call out, or pass num_processes=1."
        ) from None
    finally:
        stop.set()


def _say_who_is_missing(stop, address, process_id, limit: float) -> None:
    """JAX ends the process when the time is over, and names nobody."""
    at = address or "the coordinator that JAX found"
    remedy = (
        "Has every process started, with another process_id each, and can all "
        f"reach {at}?"
    )
    waited = 0.0
    for wait in (min(PATIENCE_SECONDS, 0.5 * limit), 0.9 * limit):
        if stop.wait(wait - waited):
            return
        waited = wait
        say(
            f"Process {'?' if process_id is None else process_id} (host "
            f"{socket.gethostname()}) has waited {waited:.0f} s for all "
            f"processes to meet at {at}, of {limit:g} s. {remedy}"
        )


def _describe() -> JoinedProcess:
    names = distribution.device_names()
    return JoinedProcess(
        distribution.process_index(),
        distribution.process_count(),
        socket.gethostname(),
        os.getpid(),
        tuple(distribution.local_device_names()),
        len(names),
    )


def _look_after(process, limit, stalled_seconds, when_stalled) -> None:
    from keras_dp_retrieval._jax import processes
    from keras_dp_retrieval._keras.process_seeds import agree_on_seed
    from keras_dp_retrieval.processes.endings import look_after
    from keras_dp_retrieval.processes.watch import Watch

    agree_on_seed()
    watch = Watch(
        processes.store(),
        process.index,
        process.count,
        limit,
        stalled_seconds,
        when_stalled,
    )
    watch.start()
    look_after(watch)
