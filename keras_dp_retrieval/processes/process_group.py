"""Starts several processes on this host, and sees to it that all end."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

from keras_dp_retrieval.processes.process_place import ADDRESSES, COUNT, INDEX

_VIRTUAL_DEVICES = "--xla_force_host_platform_device_count"


def free_port() -> int:
    """A port of this host's loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environments(
    count: int,
    port: int,
    devices_per_process: int | None = None,
    gpus_per_process: int | None = None,
) -> list[dict[str, str]]:
    """What each process is given, so that it knows which one it is.

    Args:
        count: int. How many processes.
        port: int. Where process 0 listens.
        devices_per_process: Optional int. Virtual devices of each.
        gpus_per_process: Optional int. GPUs of each, one behind the other.
    """
    shared = dict(os.environ)
    shared[ADDRESSES] = f"127.0.0.1:{port}"
    shared[COUNT] = str(count)
    # What they print is seen when it is printed.
    shared.setdefault("PYTHONUNBUFFERED", "1")
    if devices_per_process is not None:
        flags = shared.get("XLA_FLAGS", "").split()
        flags = [f for f in flags if not f.startswith(_VIRTUAL_DEVICES)]
        flags.append(f"{_VIRTUAL_DEVICES}={devices_per_process}")
        shared["XLA_FLAGS"] = " ".join(flags)
        shared["JAX_PLATFORMS"] = "cpu"  # Also where there is a GPU.
    every = [{**shared, INDEX: str(index)} for index in range(count)]
    if gpus_per_process is not None:
        for index, environment in enumerate(every):
            first = index * gpus_per_process
            ids = range(first, first + gpus_per_process)
            # What `jax.distributed.initialize` reads.
            environment["JAX_LOCAL_DEVICE_IDS"] = ",".join(map(str, ids))
    return every


class ProcessGroup:
    """Programs that run together: when one fails, the others are ended.

    Args:
        commands: One command for each process, a list of words.
        environments: One for each.
        grace_seconds: float. How long a process that was asked to end may
            take before it is killed.
        say: Callable that is given a line about the group itself.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environments: Sequence[dict[str, str]],
        grace_seconds: float = 10.0,
        say: Callable[[str], None] | None = None,
    ):
        self._commands = commands
        self._environments = environments
        self._grace_seconds = grace_seconds
        self._say = say or (lambda line: print(line, file=sys.stderr))
        self._processes: list[subprocess.Popen] = []
        self._changed = threading.Condition()
        self._ended: list[tuple[int, int]] = []  # In the order of their ends.
        self._signals: list[int] = []
        self._asked_at: list[threading.Timer] = []

    def run(self) -> int:
        """Starts all, and returns when all have ended.

        Returns:
            int. The exit code of the first process that failed, 128 + N for
            one that signal N ended; 0 where none failed; 128 + N if this
            program was asked to end by signal N.
        """
        handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            readers = self._start()
            failed = self._wait()
            for reader in readers:
                # A program that a process left behind may hold its output.
                reader.join(timeout=1.0)
        finally:
            for timer in self._asked_at:
                timer.cancel()
            self._send(signal.SIGKILL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._signals:
            return 128 + self._signals[0]
        return failed

    def _start(self) -> list[threading.Thread]:
        readers = []
        pairs = zip(self._commands, self._environments, strict=True)
        for index, (command, environment) in enumerate(pairs):
            process = subprocess.Popen(
                list(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # So that Ctrl-C reaches them once: from here.
                start_new_session=True,
            )
            self._processes.append(process)
            reader = threading.Thread(
                target=self._print, args=(index, process.stdout), daemon=True
            )
            reader.start()
            readers.append(reader)
            threading.Thread(
                target=self._await, args=(index, process), daemon=True
            ).start()
        return readers

    def _print(self, index: int, output) -> None:
        """Lines of several processes come whole, whoever wrote them."""
        with output:
            for line in output:
                text = f"[{index}] {line.decode(errors='replace').rstrip()}\n"
                sys.stdout.write(text)
                sys.stdout.flush()

    def _await(self, index: int, process) -> None:
        code = process.wait()
        with self._changed:
            self._ended.append((index, code))
            self._changed.notify()

    def _wait(self) -> int:
        """Returns the exit code of the first that failed, when all ended."""
        failed = seen = sent = 0
        while seen < len(self._processes):
            with self._changed:
                # A signal's handler runs between two of these.
                self._changed.wait(timeout=0.1)
                ended = self._ended[seen:]
            seen += len(ended)
            for index, code in ended:
                if code and not failed and not self._signals:
                    failed = code if code > 0 else 128 - code
                    self._report(index, code, len(self._processes) - seen)
                    self._ask(signal.SIGTERM)
            if len(self._signals) > sent:
                sent = len(self._signals)
                self._pass_on(self._signals[-1], sent)
        return failed

    def _report(self, index: int, code: int, left: int) -> None:
        how = f"failed with exit code {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        pid = self._processes[index].pid
        others = f"; the other {left} are ended" if left else ""
        self._say(f"Process {index} (pid {pid}) {how}{others}.")

    def _on_signal(self, number, frame) -> None:
        self._signals.append(number)

    def _pass_on(self, number: int, times: int) -> None:
        name = signal.Signals(number).name
        if times > 1:
            self._say(f"{name} again: the processes are killed.")
            self._send(signal.SIGKILL)
            return
        self._say(
            f"{name}: passed on to the processes, which have "
            f"{self._grace_seconds:g} s to end."
        )
        self._ask(number)

    def _ask(self, number: int) -> None:
        """Asks all to end, and kills who has not when the time is over."""
        self._send(number)
        timer = threading.Timer(self._grace_seconds, self._kill)
        timer.daemon = True
        timer.start()
        self._asked_at.append(timer)

    def _kill(self) -> None:
        running = [
            index
            for index, process in enumerate(self._processes)
            if process.poll() is None
        ]
        if running:
            self._say(
                f"Processes {running} have not ended within "
                f"{self._grace_seconds:g} s: they are killed."
            )
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                try:
                    # The programs that it started, too.
                    os.killpg(process.pid, number)
                except ProcessLookupError:  # It has just ended.
                    pass
