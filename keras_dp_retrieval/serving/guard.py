"""Guard: lets requests in, one at a time with all that is asked of them.

Size and speed of the body, the token, how many are answered at a time, how
long that may take. Whatever goes wrong behind it leaves as a plain answer.
"""

import asyncio
import hmac
import time

from keras_dp_retrieval.serving import errors
from keras_dp_retrieval.serving.errors import RequestError

# Answered also when there is no room, and without a token.
PROBES = ("/healthz", "/readyz")
WITHOUT_TOKEN = (*PROBES, "/", "/docs", "/openapi.json")


class Guard:
    """ASGI middleware around the application.

    Args:
        app: ASGI application.
        service: `Service`, whose limits and metrics these are.
        token: Optional str. What requests have to bring as `Authorization:
            Bearer TOKEN`.
    """

    def __init__(self, app, service, token: str | None = None):
        self._app, self._limits = app, service.limits
        self._metrics = service.metrics
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._in_flight = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # A WebSocket: there are none.
            await send({"type": "websocket.close", "code": 1000})
            return
        answer = _Answer(send)
        started = time.perf_counter()
        try:
            await self._admit(scope, receive, answer)
        except RequestError as error:
            await answer.error(error.status, error.message, error.headers)
        except TimeoutError:
            await answer.error(504, "The answer took too long.")
        except ConnectionError:  # Who asked has gone.
            answer.status = 499
        except Exception as error:
            errors.log_failure(scope["path"], error)
            await answer.error(500, errors.FAILED)
        finally:
            # The route's own name, so that ids make no labels.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, answer.status).inc()
            self._metrics.request_seconds.labels(route).observe(
                time.perf_counter() - started
            )

    async def _admit(self, scope, receive, answer):
        path = scope["path"]
        headers = dict(scope["headers"])
        if self._expected is not None and path not in WITHOUT_TOKEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                raise RequestError(
                    401,
                    "A token is needed: `Authorization: Bearer TOKEN`.",
                    {"WWW-Authenticate": "Bearer"},
                )
        body = await self._body(headers, receive)
        if path in PROBES:
            await self._app(scope, _replay(body, receive), answer)
            return
        if self._in_flight >= self._limits.concurrency:
            raise RequestError(
                503,
                f"{self._limits.concurrency} requests are being answered. Ask "
                "again.",
                {"Retry-After": "1"},
            )
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._app(scope, _replay(body, receive), answer)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    async def _body(self, headers, receive) -> bytes:
        most = self._limits.body_bytes
        too_large = RequestError(
            413, f"A body has {most:,} bytes at most.", {"Connection": "close"}
        )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > most:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise RequestError(
                408,
                "The body did not come within "
                f"{self._limits.body_seconds:g} seconds.",
                {"Connection": "close"},
            ) from None


class _Answer:
    """Sends what the application answers, or an error in its place."""

    def __init__(self, send):
        self._send = send
        self.status = 0

    async def __call__(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def error(self, status, message, headers=None):
        if self.status:  # It has begun; the connection ends here.
            return
        content = errors.body(status, message)
        named = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            **(headers or {}),
        }
        await self(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.lower().encode(), value.encode())
                    for name, value in named.items()
                ],
            }
        )
        await self({"type": "http.response.body", "body": content})


def _replay(body: bytes, receive):
    """`receive` of an application, for a body that has been read."""
    given = False

    async def again():
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
