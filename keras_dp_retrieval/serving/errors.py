"""Errors as answers: a status, a word and a sentence, and nothing else."""

import json
import logging

_log = logging.getLogger(__name__)

CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_too_slow",
    413: "body_too_large",
    422: "invalid",
    500: "internal",
    503: "unavailable",
    504: "too_slow",
}

FAILED = "Something went wrong in the server."

# How many of what is wrong with a request are named.
_MOST_NAMED = 5


class RequestError(Exception):
    """Ends a request with a status and a message for who asked."""

    def __init__(self, status: int, message: str, headers: dict | None = None):
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = headers or {}


def body(status: int, message: str) -> bytes:
    """The JSON of an answer that is an error."""
    code = CODES.get(status, "error")
    return json.dumps({"error": {"code": code, "message": message}}).encode()


def what_is_wrong(errors) -> str:
    """A sentence of pydantic's errors, without what was received."""
    if [(*one["loc"],) for one in errors] == [("body",)]:
        return (
            "The body must be a JSON object, with the header `Content-Type: "
            "application/json`."
        )
    named = [
        f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}"[:200]
        for one in errors[:_MOST_NAMED]
    ]
    more = len(errors) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "") + "."


def add_handlers(app) -> None:
    """Makes a FastAPI application answer errors in this form."""
    from fastapi import Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    def answer(status, message, headers=None):
        return Response(
            body(status, message),
            status,
            headers=headers,
            media_type="application/json",
        )

    @app.exception_handler(RequestError)
    async def of_request(_, error):
        return answer(error.status, error.message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_, error):
        return answer(422, what_is_wrong(error.errors()))

    @app.exception_handler(HTTPException)
    async def of_framework(_, error):
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ValueError)
    async def of_library(_, error):
        # The library's messages are for who asked: the rule, and what it got.
        return answer(422, " ".join(str(error).split())[:500])

    @app.exception_handler(Exception)
    async def of_a_failure(*_):
        return answer(500, FAILED)  # The guard writes it to the log.


def log_failure(path: str, error: BaseException) -> None:
    """Writes what went wrong to the log, which alone has the traceback."""
    _log.error("A request to %s failed.", path, exc_info=error)
