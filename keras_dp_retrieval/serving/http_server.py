"""Runs the application until it is told to stop."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import threading

import uvicorn

from keras_dp_retrieval.serving.app import create_app
from keras_dp_retrieval.serving.connections import ImpatientProtocol

# Requests that are being answered when the server is told to stop have so
# long.
DRAIN_SECONDS = 30

_log = logging.getLogger(__name__)


def run(
    service,
    *,
    host: str,
    port: int,
    token: str | None = None,
    watch_seconds: float | None = None,
    access_log: bool = False,
    on_ready=None,
) -> None:
    """Serves until SIGTERM or SIGINT, then answers what it has begun.

    SIGHUP loads the model's file again.

    Args:
        service: `Service`.
        host: str. The address to listen on.
        port: int. 0 takes a free one.
        token: As in `create_app`.
        watch_seconds: Optional float. How often to look whether the model's
            file is another one.
        access_log: bool. Whether to write a line for each request.
        on_ready: Optional function of the URL, called when requests are
            answered.

    Raises:
        ValueError: If the address cannot be listened on.
    """
    listening = _listen(host, port)
    config = uvicorn.Config(
        create_app(service, token),
        http=ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_level="warning" if not access_log else "info",
        access_log=access_log,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=service.limits.connections,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config, service, watch_seconds, on_ready)
    try:
        server.run(sockets=[listening])
    finally:
        service.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise ValueError(
            "`--host` and `--port` must be an address that can be listened "
            f"on. Received: {host} and {port} ({error.strerror}). `--port 0` "
            "takes a free one."
        ) from error


def keep_out_of_collections():
    """Has garbage collections pass by all that there is now.

    The objects of JAX, Keras and the model are half a million, and looking
    through them stops all requests for some 0.2 s, every few seconds.
    """
    gc.unfreeze()  # What a model left that is no longer served.
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    def __init__(self, config, service, watch_seconds, on_ready):
        super().__init__(config)
        self._service, self._watch_seconds = service, watch_seconds
        self._on_ready = on_ready
        self._stopped = threading.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets)
        address = self.servers[0].sockets[0].getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{host}:{address[1]}"
        # In the background, so that /healthz and /readyz answer.
        threading.Thread(
            target=self._make_ready, args=(url,), daemon=True
        ).start()

    def _make_ready(self, url):
        try:
            self._service.warm_up()
        except Exception:
            _log.exception("The model cannot be served.")
            self.should_exit = True
            return
        keep_out_of_collections()
        if self._on_ready is not None:
            self._on_ready(url)
        if self._watch_seconds is not None:
            while not self._stopped.wait(self._watch_seconds):
                if self._service.reload_if_changed():
                    keep_out_of_collections()

    async def shutdown(self, sockets=None):
        self._stopped.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self):
        """As uvicorn does, but a stop that was asked for is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _stop(self, number):
        self._service.is_draining = True
        self.handle_exit(number, None)

    def _reload(self):
        if self._service.is_ready:
            threading.Thread(target=self._reload_model, daemon=True).start()

    def _reload_model(self):
        if self._service.reload():
            keep_out_of_collections()
