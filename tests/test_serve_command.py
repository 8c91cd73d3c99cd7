"""`keras-dp-retrieval serve`: a process that is started, asked and ended."""

import concurrent.futures
import contextlib
import gc
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import weakref

import httpx
import pytest

from keras_dp_retrieval import cli
from keras_dp_retrieval.cli import entry, serve_command
from keras_dp_retrieval.serving import http_server
from tests.served import model_of
from tests.test_readme import README, write_shop

SECONDS = 120


@contextlib.contextmanager
def server(path, *options, port=0):
    """Starts a server; yields `(process, url)` when it is ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_dp_retrieval", "serve", str(path)),
            *("--port", str(port), "--max-users", "8", "--max-k", "10"),
            *("--max-history", "32", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},
    )
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"Serving at (\S+) ", line):
                break
        else:
            raise RuntimeError("".join(said))
        # Nobody reads it otherwise, and a full pipe stops who writes.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process, found[1]
    finally:
        process.kill()
        process.wait(SECONDS)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "model.keras"
    model_of("history").save(path)
    return path


def lists_of(url, **options):
    body = {"user_ids": [100, 101, 999], "k": 5}
    response = httpx.post(f"{url}/recommend", json=body, timeout=SECONDS)
    assert response.status_code == 200
    return response.json()["results"]


@pytest.mark.slow
def test_what_has_come_is_answered_before_the_end(path):
    body = json.dumps({"user_ids": [100] * 8, "k": 10, "explain": 10}).encode()
    request = (
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: "
        + str(len(body)).encode()
        + b"\r\n\r\n"
        + body
    )
    with server(path) as (process, url):
        address = httpx.URL(url)
        clients = [
            socket.create_connection((address.host, address.port), SECONDS)
            for _ in range(60)
        ]
        for client in clients:
            client.sendall(request)

        def come():
            text = httpx.get(f"{url}/metrics").text
            counted = re.findall(
                r'^kdr_(?:requests_in_flight|requests_total{path="/recommend"'
                r',status="200"}) (.*)$',
                text,
                re.M,
            )
            return sum(map(float, counted)) - 1  # The one that asks.

        while come() < len(clients):
            pass
        process.send_signal(signal.SIGTERM)
        for client in clients:
            with client, client.makefile("rb") as answer:
                content = answer.read()
            assert content.startswith(b"HTTP/1.1 200 "), content[:200]
            assert json.loads(content.split(b"\r\n\r\n", 1)[1])["results"]
        assert process.wait(SECONDS) == 0


@pytest.mark.slow
def test_a_killed_server_answers_the_same_when_it_is_started_again(path):
    with server(path) as (process, url):
        before = lists_of(url)
        port = httpx.URL(url).port
        process.kill()
        process.wait(SECONDS)
        with pytest.raises(httpx.TransportError):
            lists_of(url)
    with server(path, port=port) as (_, url):
        assert lists_of(url) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["watch", "signal"])
def test_a_model_is_replaced_under_load_without_an_error(tmp_path, how):
    path = tmp_path / "model.keras"
    model_of("history").save(path)
    options = ("--watch-seconds", "0.1") if how == "watch" else ()
    with server(path, *options) as (process, url):
        done = threading.Event()

        def ask(number):
            versions, statuses = [], set()
            with httpx.Client(timeout=SECONDS) as client:
                while not done.is_set():
                    answer = client.post(
                        f"{url}/recommend", json={"user_ids": [100 + number]}
                    )
                    statuses.add(answer.status_code)
                    versions.append(answer.json()["model_version"])
                    if len(set(versions)) == 2:
                        break
            return versions, statuses

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask, number) for number in range(4)]
            model_of("history", seed=1).save(path)
            if how == "signal":
                process.send_signal(signal.SIGHUP)
            concurrent.futures.wait(asking, SECONDS)
            done.set()
        for one in asking:
            versions, statuses = one.result()
            assert statuses == {200}
            assert len(set(versions)) == 2  # First the old, then the new.
            assert sorted(versions, key=versions.index) == versions


@pytest.mark.slow
def test_clients_that_do_not_finish_hold_up_nobody(path):
    with server(path, "--timeout-seconds", "5") as (_, url):
        address = httpx.URL(url)

        def begin(first_bytes):
            client = socket.create_connection((address.host, address.port))
            client.settimeout(SECONDS)
            client.sendall(first_bytes)
            return client

        slow = [begin(b"") for _ in range(20)]
        slow += [begin(b"POST /recommend HT") for _ in range(20)]
        slow += [
            begin(
                b"POST /recommend HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: 100\r\n\r\n{"
            )
            for _ in range(20)
        ]
        endless = begin(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for number in range(100):
                endless.sendall(b"X-%d: " % number + b"a" * 4000 + b"\r\n")
        assert lists_of(url)
        # All are closed in the end: nobody's connection is kept for ever.
        for client in [*slow, endless]:
            with client:
                content = b"x"
                with contextlib.suppress(ConnectionError):
                    while content:
                        content = client.recv(10_000)
        assert lists_of(url)


@pytest.mark.slow
def test_the_commands_of_the_readme_are_answered(tmp_path, monkeypatch):
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    train = "train --interactions shop.csv --candidates products.csv --epochs 1"
    done = subprocess.run(
        [sys.executable, "-m", "keras_dp_retrieval", *train.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section = README.read_text().split("**A server**")[1]
    section = section.split("    pip install")[0]
    section = section.replace("\\\n", " ")
    lines = [
        shlex.split(line) for line in re.findall(r"^    (\S.*)$", section, re.M)
    ]
    (command,) = (line[1:] for line in lines if line[0] != "curl")
    with server(pathlib.Path(command[1]), *command[2:]) as (_, url):
        asked = [line[1:] for line in lines if line[0] == "curl"]
        assert len(asked) == 6
        for where, *options in asked:
            where = where.replace("localhost:8000", url)
            if not options:
                answer = httpx.get(where)
            else:
                assert options[::2] == ["-H", "-d"]
                name, value = options[1].split(": ")
                answer = httpx.post(
                    where, content=options[3], headers={name: value}
                )
            assert answer.status_code == 200, (where, answer.text)
    assert command[0] == "serve"


@pytest.mark.slow
def test_a_thousand_malformed_requests_are_refused():
    pytest.importorskip("schemathesis")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.fuzz_server"),
            *("--requests", "1000", "--slow", "5"),
        ],
        cwd=README.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["requests"] >= 1000 and said["statuses"]["422"] > 100


def test_wrong_options_are_refused_before_the_model_is_read(capsys, tmp_path):
    for options, said in [
        (["--port", "70000"], "`--port` must be from 0 to 65535"),
        (["--max-k", "0"], "`--max-k` must be a whole number"),
        (["--timeout-seconds", "0"], "`--timeout-seconds` must be a finite"),
        (["--watch-seconds", "-1"], "`--watch-seconds` must be a finite"),
        (["--token-file", str(tmp_path / "none")], "--token-file"),
    ]:
        assert cli.main(["serve", "none.keras", *options]) == 1
        assert said in capsys.readouterr().err


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("sesame\n")
    assert serve_command._token(str(file)) == "sesame"
    assert serve_command._token(None) is None
    monkeypatch.setenv(serve_command.TOKEN_VARIABLE, "open")
    assert serve_command._token(None) == "open"
    for wrong in ("", "é", "a\nb"):
        file.write_text(wrong)
        with pytest.raises(ValueError, match="printable ASCII"):
            serve_command._token(str(file))


def test_only_this_machine_can_ask_unless_told_otherwise():
    args = entry._parse(["serve", "model.keras"])
    assert args.host == "127.0.0.1"
    assert serve_command._is_loopback(args.host)
    assert not serve_command._is_loopback("0.0.0.0")


def test_collections_pass_by_what_is_served():
    """They would stop all requests, and still find what is garbage."""

    class Node:
        pass

    kept, left = Node(), Node()
    left.itself = left
    is_left = weakref.ref(left)
    del left
    http_server.keep_out_of_collections()
    assert is_left() is None
    assert not any(one is kept for one in gc.get_objects())
