"""`serve`: recommendations of a saved model over HTTP."""

import dataclasses
import ipaddress
import logging
import os
import sys

from keras_dp_retrieval import _checks
from keras_dp_retrieval.cli.data_arguments import check_exists

HELP = "answer requests over HTTP, with a page to look at"

EXAMPLES = {
    "model.keras": "on this machine, with a page to look at",
    "model.keras --watch-seconds 10": "new files of the model, too",
    "model.keras --host 0.0.0.0 --token-file token": "to others",
}

COMPILES = True

# What the token may come in, so that it is not seen in a list of processes.
TOKEN_VARIABLE = "KDR_SERVE_TOKEN"

# Options of `Limits`: name and what they are.
_LIMITS = {
    "max_k": ("k", int, "candidates of a list"),
    "max_users": ("users", int, "users of one request, and of one batch"),
    "max_history": ("history", int, "items of a history"),
    "max_body_bytes": ("body_bytes", int, "bytes of a request's body"),
    "max_concurrency": (
        "concurrency",
        int,
        "requests that are answered at a time",
    ),
    "max_connections": ("connections", int, "open connections"),
    "timeout_seconds": ("seconds", float, "seconds that an answer may take"),
}


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; by default this machine alone can ask",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="8000 by default; 0: a free one"
    )
    parser.add_argument(
        "--search",
        choices=("exact", "flat", "ivf", "hnsw"),
        default="exact",
        help="exact on the device, by default; or FAISS on the CPU (extra "
        "`index`), of which `ivf` and `hnsw` are approximate",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="file with a token that requests must bring (`Authorization: "
        f"Bearer TOKEN`); or set {TOKEN_VARIABLE}",
    )
    parser.add_argument(
        "--watch-seconds",
        type=float,
        metavar="S",
        help="look so often whether the model's file was replaced, and serve "
        "the new one; SIGHUP does so at once",
    )
    parser.add_argument(
        "--access-log",
        action="store_true",
        help="write a line for each request",
    )
    from keras_dp_retrieval.serving.request_limits import Limits

    defaults = Limits()
    limits = parser.add_argument_group("limits, beyond which is an error")
    for option, (name, kind, what) in _LIMITS.items():
        limits.add_argument(
            "--" + option.replace("_", "-"),
            type=kind,
            metavar="N",
            help=f"{what}; {getattr(defaults, name):,g} by default",
        )


def check(args) -> None:
    check_exists("--token-file", args.token_file)
    if not 0 <= args.port < 2**16:
        raise ValueError(
            f"`--port` must be from 0 to 65535. Received: {args.port}."
        )
    if args.watch_seconds is not None:
        _checks.number_between(
            "--watch-seconds", args.watch_seconds, 0, open_low=True
        )
    for option, (_, kind, _) in _LIMITS.items():
        value = getattr(args, option)
        flag = "--" + option.replace("_", "-")
        if value is not None and kind is int:
            _checks.positive_int(flag, value)
        elif value is not None:
            _checks.number_between(flag, value, 0, open_low=True)


def run(args) -> int:
    try:
        from keras_dp_retrieval.serving import http_server
        from keras_dp_retrieval.serving.service import Service
    except ImportError as error:
        raise ImportError(
            "`serve` needs FastAPI, uvicorn and prometheus_client. Install "
            f"them: pip install 'keras-dp-retrieval[serve]' ({error})."
        ) from error
    from keras_dp_retrieval.serving.request_limits import Limits
    from keras_dp_retrieval.serving.served_model import ServedModel

    given = {
        name: getattr(args, option)
        for option, (name, _, _) in _LIMITS.items()
        if getattr(args, option) is not None
    }
    limits = dataclasses.replace(Limits(), **given)
    token = _token(args.token_file)
    if token is None and not _is_loopback(args.host):
        print(
            f"Note: whoever reaches {args.host} can read histories of users. "
            "`--token-file` asks for a token."
        )
    logging.basicConfig(
        stream=sys.stderr, format="keras-dp-retrieval serve: %(message)s"
    )
    logging.getLogger("keras_dp_retrieval").setLevel(logging.INFO)
    served = ServedModel.load(args.model, limits, args.search)
    print(
        f"Loaded {args.model}: {served.num_users:,} users, "
        f"{served.num_candidates:,} candidates. Compiling."
    )
    http_server.run(
        Service(served, limits, args.model, args.search),
        host=args.host,
        port=args.port,
        token=token,
        watch_seconds=args.watch_seconds,
        access_log=args.access_log,
        on_ready=lambda url: print(
            f"Serving at {url} (the page), {url}/docs (the API). Ctrl-C ends "
            "it."
        ),
    )
    print("Stopped: all requests that had come were answered.")
    return 0


def _token(path: str | None) -> str | None:
    token = os.environ.get(TOKEN_VARIABLE)
    if path is not None:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    if token is None:
        return None
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(
            "The token must be printable ASCII text. Received: "
            f"{'nothing' if not token else 'other characters'} in "
            f"{path or TOKEN_VARIABLE}."
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
