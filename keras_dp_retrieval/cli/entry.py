"""Which command was asked for, and how its errors are shown."""

import argparse
import atexit
import contextlib
import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence

import keras

from keras_dp_retrieval import compiled_programs, distribution, processes
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.cli import (
    data_arguments,
    devices_command,
    evaluate_command,
    export_command,
    inspect_command,
    launch_command,
    options,
    recommend_command,
    report_command,
    serve_command,
    train_command,
    tune_command,
)
from keras_dp_retrieval.data._tensorflow import start_quietly
from keras_dp_retrieval.processes.endings import failed

DESCRIPTION = "Train and use two-tower retrieval models, data-parallel."

# Each is a module with `HELP`, `add_arguments(parser)` and `run(args)`; and
# where there is need of them `check(args)` for options that have to go
# together, `EXAMPLES` (the words after its name, each with what it does),
# `TOGETHER` if several processes may run it as one, and `COMPILES` if it runs
# a model.
COMMANDS = {
    "inspect": inspect_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "tune": tune_command,
    "recommend": recommend_command,
    "export": export_command,
    "serve": serve_command,
    "report": report_command,
    "devices": devices_command,
    "launch": launch_command,
}

# The exit status of a process that Ctrl-C has ended: 128 + SIGINT.
INTERRUPTED = 130
# Likewise of SIGPIPE.
NO_READER = 141

_EXPECTED = (
    ValueError,
    OSError,
    RuntimeError,
    FloatingPointError,
    ImportError,  # A package that is an extra: it names the command.
    MemoryError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status.

    0 where all went well, 1 where it could not be done and 2 where the command
    was not understood, with one line on `stderr` that says why; 130 where it
    was interrupted, with one that says what is left; 141, and nothing said,
    where nobody reads the output any more.

    Args:
        argv: Optional sequence of str. By default those of the process, which
            then does nothing else.
    """
    if argv is None:
        _keep_out_of_collections()
    args = _parse(argv)
    warnings.showwarning = _print_warning
    start_quietly()
    if hasattr(sys.stdout, "reconfigure"):
        # Also in a file, what is done is seen when it is done.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        args.check(args)
        options.check(args)
        _split_cpu(args.virtual_devices)
        _join_others(args)
        _check_virtual_devices(args.virtual_devices)
        if args.compiles:
            _keep_compiled()
        if not getattr(args, "json", False):
            return args.run(args)
        # What a script reads is alone on `stdout`.
        args.json_output = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            return args.run(args)
    except KeyboardInterrupt as interruption:
        _print_error(f"interrupted. {interruption}")
        failed(interruption, INTERRUPTED)
        return INTERRUPTED
    except BrokenPipeError as error:
        # `head` has enough. Python's own flush at the end would fail again.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        failed(error, NO_READER)
        return NO_READER
    except _EXPECTED as error:
        # The messages say what would work; a traceback would bury them.
        _print_error(str(error) or type(error).__name__)
        failed(error)
        return 1


def _keep_out_of_collections():
    """Has garbage collections pass by what stays until the process ends.

    That is all that was imported, and at the end everything: Python looks
    through it all several times before it exits, which took 1.8 s.
    """
    gc.freeze()
    atexit.register(gc.freeze)


def _keep_compiled():
    """A second start of a command does not compile again."""
    if keras.backend.backend() != "jax":
        return
    # A folder that cannot be written to costs the time, not the command.
    with contextlib.suppress(OSError):
        compiled_programs.compilation_cache(compiled_programs.folder_of_user())


def _join_others(args):
    """Makes this process one of several, where it is; number 0 prints."""
    if args.run is launch_command.run:  # It starts them.
        return
    if not (args.distributed or processes.is_one_of_several()):
        return
    if not args.together:
        raise ValueError(
            f"`{args.command}` must run in one process. Received: one of "
            "several. Start it alone; `train` and `evaluate` run in several."
        )
    process = processes.initialize_processes()
    print(process)
    if process.index == 0:
        return
    # Process 0 saves what there is, which it could not do while it waits for
    # this one in a step; then it ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout = open(os.devnull, "w")


def _print_error(message: str):
    one_line = " ".join(data_arguments.in_flags(message).split())
    print(f"keras-dp-retrieval: {one_line}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        """Says it in one line; argparse would put all options before it."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parse(argv) -> argparse.Namespace:
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    # Before Python 3.12, an argument that may be absent is taken for absent
    # where an option comes before it.
    if rest and not any(word.startswith("-") for word in rest):
        if getattr(args, "user_ids", None) is not None:
            args.user_ids += rest
            return args
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def _parser() -> _Parser:
    parser = _Parser(prog="keras-dp-retrieval", description=DESCRIPTION)
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    _offer_completion(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
            epilog=_examples(name, getattr(module, "EXAMPLES", {})),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        check = getattr(module, "check", lambda _: None)
        command.set_defaults(
            run=module.run,
            check=check,
            command=name,
            together=getattr(module, "TOGETHER", False),
            compiles=getattr(module, "COMPILES", False),
        )
        module.add_arguments(command)
        _add_shared_arguments(command)
    return parser


def _add_shared_arguments(command):
    """Options of every command, after its own."""
    group = command.add_argument_group("devices and processes")
    group.add_argument(
        "--virtual-devices",
        type=int,
        metavar="N",
        help="split the CPU into N devices; proves results, not speed",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes, which Slurm (`srun`), Open MPI "
        "or Kubernetes have started; those of `launch` know it",
    )


def _examples(name: str, examples: dict[str, str]) -> str | None:
    if not examples:
        return None
    lines = [
        f"  # {what}\n  keras-dp-retrieval {name} {words}".rstrip()
        for words, what in examples.items()
    ]
    return "\n".join(["examples:", *lines])


def _offer_completion(parser):
    """`--print-completion SHELL`, where shtab is installed."""
    with contextlib.suppress(ImportError):
        import shtab

        shtab.add_argument_to(
            parser,
            ["--print-completion"],
            help="print a script that completes options in a shell",
        )


def _print_warning(message, *_):
    print(f"Note: {data_arguments.in_flags(str(message))}")


def _split_cpu(count: int | None):
    """Splits the CPU, which JAX does when it is first asked for devices."""
    if count is None:
        return
    name = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if not flag.startswith(name)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{name}={count}"])


def _check_virtual_devices(count: int | None):
    if count is None:
        return
    names = distribution.local_device_names()
    found = sum(name.startswith("cpu:") for name in names)
    if found != count:
        raise RuntimeError(
            "`--virtual-devices` must be set before JAX looks for devices. "
            f"Received: {count}, but JAX already has {found}. Start a new "
            "process."
        )
