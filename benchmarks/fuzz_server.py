"""Does the server survive 10,000 malformed requests, by its own schema?

    pip install schemathesis
    python -m benchmarks.fuzz_server --requests 10000

Starts a server of a small model on loopback, and asks what `schemathesis` makes
of its OpenAPI document: requests that fit the schema, and ones that do not, in
every endpoint, with raw bytes, wrong types, huge numbers and other headers
among them. Afterwards the process must be the one that was started, answer a
good request as before, and have grown by no more than `--megabytes` since the
first thousand. Beside it, `--slow` clients send a byte now and then.

Prints a line of JSON: requests by status, memory before and after.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import httpx
import hypothesis
import schemathesis
from schemathesis import GenerationMode

from tests.served import model_of
from tests.test_serve_command import server

GOOD = {"user_ids": [100, 999], "k": 5}


def resident_megabytes(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1]) / 1024


def raw_bodies(seed):
    """Yields bodies that are no JSON, or nearly."""
    draw = random.Random(seed)
    good = json.dumps(GOOD).encode()
    while True:
        kind = draw.randrange(4)
        if kind == 0:
            yield draw.randbytes(draw.randrange(300))
        elif kind == 1:
            body = bytearray(good)
            for _ in range(draw.randrange(1, 4)):
                body[draw.randrange(len(body))] = draw.randrange(256)
            yield bytes(body)
        elif kind == 2:
            yield good[: draw.randrange(len(good))]
        else:
            yield b"[" * draw.randrange(1, 50_000)


class Fuzz:
    """Sends requests until there were enough, and counts the answers."""

    def __init__(self, url, most, pid):
        self.url, self.most, self.pid = url, most, pid
        self.statuses = collections.Counter()
        self.failures = []
        self.at_first = None
        self.client = httpx.Client(base_url=url, timeout=60)

    @property
    def number(self):
        return sum(self.statuses.values())

    def note(self, response, what):
        self.statuses[response.status_code] += 1
        if response.status_code >= 500:
            self.failures.append((response.status_code, str(what)[:300]))
        if "Traceback" in response.text:
            self.failures.append(("traceback", str(what)[:300]))
        if self.number == min(1000, self.most // 2):
            self.at_first = resident_megabytes(self.pid)

    def by_schema(self, most):
        schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        each = most // len(operations) // 2
        for operation in operations:
            for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
                self._cases(operation, mode, each)

    def _cases(self, operation, mode, most):
        try:
            cases = operation.as_strategy(generation_mode=mode)
        except Exception:  # Nothing of it can be wrong.
            return

        @hypothesis.settings(
            max_examples=most,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=cases)
        def send(case):
            with contextlib.suppress(
                # What no client can send.
                httpx.InvalidURL,
                UnicodeError,
                ValueError,
            ):
                self.note(case.call(base_url=self.url), case)

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):
            send()

    def raw(self, most):
        bodies = raw_bodies(0)
        for _ in range(most):
            body = next(bodies)
            path = random.choice(["/recommend", "/encode"])
            response = self.client.post(
                path, content=body, headers={"content-type": "application/json"}
            )
            self.note(response, body)


def slow_clients(url, number, done):
    """Clients that send a byte of a request now and then."""
    address = httpx.URL(url)
    request = (
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    )

    def connect():
        return socket.create_connection((address.host, address.port))

    clients = [[connect(), 0] for _ in range(number)]
    while not done.wait(0.5):
        for one in clients:
            client, at = one
            try:
                client.sendall(request[at : at + 1])
                one[1] += 1
            except OSError:  # The server has had enough of it.
                client.close()
                one[:] = connect(), 0
    for client, _ in clients:
        client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--kind", default="features")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model_of(options.kind).save(path)
        with server(path) as (process, url):
            before = httpx.post(f"{url}/recommend", json=GOOD).json()["results"]
            done = threading.Event()
            slow = threading.Thread(
                target=slow_clients, args=(url, options.slow, done)
            )
            slow.start()
            fuzz = Fuzz(url, options.requests, process.pid)
            fuzz.raw(options.requests // 5)
            fuzz.by_schema(options.requests)
            while fuzz.number < options.requests:
                fuzz.raw(options.requests - fuzz.number)
            done.set()
            slow.join()
            answer = httpx.post(f"{url}/recommend", json=GOOD, timeout=60)
            grown = resident_megabytes(process.pid) - fuzz.at_first
            same = answer.json()["results"] == before
            alive = process.poll() is None
    print(
        json.dumps(
            {
                "requests": fuzz.number,
                "statuses": dict(sorted(fuzz.statuses.items())),
                "failures": fuzz.failures[:5],
                "megabytes_at_first": round(fuzz.at_first, 1),
                "megabytes_grown_since": round(grown, 1),
                "answers_as_before": same,
                "same_process": alive,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )
    good = same and alive and not fuzz.failures and grown < options.megabytes
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
