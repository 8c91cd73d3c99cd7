"""What the server takes at most, of requests and of time."""

import dataclasses

from keras_dp_retrieval import _checks


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most of everything that a request can ask for or hold up.

    Args:
        k: int. Candidates of one list.
        users: int. Users of one request, and of one batch on the device.
        history: int. Items of one history, and of one list to leave out.
        allowed: int. Entries of `allowed_ids`.
        body_bytes: int. Bytes of a request's body.
        concurrency: int. Requests that are answered at a time; others are
            told to come back (503).
        connections: int. Open connections, idle ones included.
        seconds: float. From the last byte of a request to the answer.
        body_seconds: float. From a request's first byte to its last.
    """

    k: int = 100
    users: int = 64
    history: int = 1024
    allowed: int = 10_000
    body_bytes: int = 2**20
    concurrency: int = 256
    connections: int = 1024
    seconds: float = 10.0
    body_seconds: float = 10.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                _checks.positive_int(field.name, value)
            else:
                _checks.number_between(field.name, value, 0, open_low=True)
