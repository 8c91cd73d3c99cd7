"""`launch`: tries several processes on this host."""

import sys

from keras_dp_retrieval import _checks
from keras_dp_retrieval.processes.process_group import (
    ProcessGroup,
    environments,
    free_port,
)

HELP = "run a command, or a program of yours, in several processes on this host"

EXAMPLES = {
    "--processes 2 --devices-per-process 2 -- train": "virtual devices",
    "--processes 2 -- python train.py": "a program of yours",
}


def add_arguments(parser):
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        metavar="N",
        help="how many processes train together; 2 by default",
    )
    parser.add_argument(
        "--devices-per-process",
        type=int,
        metavar="N",
        help="virtual devices of each, which prove results, not speed",
    )
    parser.add_argument(
        "--gpus-per-process",
        type=int,
        metavar="N",
        help="give each process N GPUs of its own; without it each takes all, "
        "which only the first gets",
    )
    parser.add_argument(
        "--port",
        type=int,
        help="of this host, where process 0 listens; a free one by default",
    )
    parser.add_argument(
        "--grace-seconds",
        type=float,
        default=10.0,
        help="how long a process that is asked to end may take before it is "
        "killed; 10 by default",
    )
    parser.add_argument(
        "program",
        nargs="+",
        metavar="-- COMMAND",
        help="`train` or another command of this program with its options, or "
        "any program that calls `kdr.initialize_processes()`, such as "
        "`python train.py`",
    )


def check(args) -> None:
    if args.virtual_devices is not None:
        raise ValueError(
            "`--virtual-devices` is for one process. Received: "
            f"--virtual-devices {args.virtual_devices}. Use "
            "`--devices-per-process`."
        )
    _checks.positive_int("--processes", args.processes)
    if args.gpus_per_process is not None:
        _checks.positive_int("--gpus-per-process", args.gpus_per_process)
        if args.devices_per_process is not None:
            raise ValueError(
                "`--gpus-per-process` does not go with "
                "`--devices-per-process`, which are of the CPU. Received both."
            )
    _checks.number_between(
        "--grace-seconds", args.grace_seconds, low=0.0, open_low=True
    )
    if args.port is not None and not 0 < args.port < 2**16:
        raise ValueError(
            f"`--port` must be from 1 to 65535. Received: {args.port}."
        )
    if args.program[0] == "launch":
        raise ValueError(
            "`launch` runs another command. Received: `launch -- launch`."
        )


def run(args) -> int:
    command = _command(args.program)
    group = ProcessGroup(
        [command] * args.processes,
        environments(
            args.processes,
            args.port or free_port(),
            args.devices_per_process,
            args.gpus_per_process,
        ),
        args.grace_seconds,
        say=_say,
    )
    try:
        return group.run()
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(
            "`launch` must be given a command of this program, or a program "
            f"that can be run. Received: {args.program[0]!r} "
            f"({error.strerror}). Use, for example, `launch --processes 2 -- "
            "train`, or `-- python train.py`."
        ) from error


def _say(line: str) -> None:
    print(f"keras-dp-retrieval launch: {line}", file=sys.stderr, flush=True)


def _command(program: list[str]) -> list[str]:
    """The words to run: a command of this program needs Python before it."""
    # Here, as the list of commands has this one in it.
    from keras_dp_retrieval.cli import entry

    if program[0] in entry.COMMANDS:
        return [sys.executable, "-m", "keras_dp_retrieval", *program]
    return program
