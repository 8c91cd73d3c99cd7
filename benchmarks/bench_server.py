"""What does the server cost beside a bare top-k, under 1, 8 and 64 clients?

    apt-get install wrk
    python benchmarks/bench_server.py --data movielens million

`wrk` asks `POST /recommend` over loopback, one random known user a request,
k = 10, so many clients at a time, each with one request after the other. For
each number of clients, in turn within a round: the server with exact search,
the same server with FAISS flat, and, in this process while the servers are
idle, a bare top-k of as many queries at once: `jax.lax.top_k(c @ q.T)` the
faster way round, jitted, and the package's own. `share` is the server's time a
request over the bare time a query; 2 means that the server costs as much again.

The load tool shares the cores with the server, which is charged for it. On the
catalogue of MovieLens (1,682 candidates) the top-k is a fraction of what any
HTTP request costs: there, look at requests/s.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval.index import exact

# Users, candidates and dimension of each.
SIZES = {
    "movielens": (943, 1_682, 64),
    "million": (10_000, 1_000_000, 64),
}
K = 10

LUA = """
request = function()
  local body = '{"user_ids":[' .. math.random(1, %d) .. '],"k":%d}'
  return wrk.format("POST", "/recommend",
    {["Content-Type"] = "application/json"}, body)
end
"""


def save_model(name, path):
    """Random weights: how long a search takes does not depend on them."""
    num_users, num_candidates, dim = SIZES[name]
    keras.utils.set_random_seed(0)
    model = kdr.TwoTowerRetrieval(
        num_users + 1, num_candidates + 1, dim, objective="in_batch_softmax"
    )
    if name == "movielens":
        data = kdr.RetrievalDataset.from_synthetic(
            num_users, num_candidates, 80_000
        )
        model = kdr.TwoTowerRetrieval.for_dataset(
            data,
            dim,
            user_tower=kdr.IdHistoryTower(
                data.num_users, data.num_candidates, dim
            ),
            objective="full_softmax",
        )
    model.build()
    model.save(path)
    return np.asarray(model.candidate_vectors())


@contextlib.contextmanager
def server(path, search):
    """Yields the URL of a server of a model's file."""
    command = [sys.executable, "-m", "keras_dp_retrieval", "serve", str(path)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--search", search],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if found := re.match(r"Serving at (\S+) ", line):
                break
        else:
            raise SystemExit("The server did not start.")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield found[1]
    finally:
        process.terminate()
        process.wait(60)


def asked(url, clients, seconds, num_users):
    """Requests a second, and milliseconds of p50 and p99, by `wrk`."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(LUA % (num_users, K))
        script.flush()
        done = subprocess.run(
            [
                *("wrk", "-t", "1", "-c", str(clients)),
                *("-d", f"{seconds}s", "--timeout", "30s", "--latency"),
                *("-s", script.name, url),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    wrong = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    if wrong:
        raise SystemExit(f"{wrong[0]} of {clients} clients.")
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}

    def milliseconds(share):
        number, unit = re.search(
            rf"^ *{share}% +([\d.]+)(us|ms|s) *$", done.stdout, re.M
        ).groups()
        return float(number) * units[unit]

    return {
        "requests_per_second": float(
            re.search(r"Requests/sec: +([\d.]+)", done.stdout)[1]
        ),
        "p50": milliseconds(50),
        "p99": milliseconds(99),
    }


def bare_seconds(vectors, batch, least_seconds):
    """Seconds a query of a bare top-k and of ours, `batch` at a time."""
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(batch, vectors.shape[1])).astype("float32")
    on_device = jnp.asarray(queries), jnp.asarray(vectors)
    contenders = {
        "bare_q_c": jax.jit(lambda q, c: jax.lax.top_k(q @ c.T, K)),
        "bare_c_q": jax.jit(lambda q, c: jax.lax.top_k((c @ q.T).T, K)),
        "ours": lambda q, c: exact.top_k(q, c, K),
    }
    found = {}
    for name, function in contenders.items():
        jax.block_until_ready(function(*on_device))
        times, until = [], time.perf_counter() + least_seconds
        while time.perf_counter() < until or len(times) < 3:
            start = time.perf_counter()
            jax.block_until_ready(function(*on_device))
            times.append(time.perf_counter() - start)
        found[name] = statistics.mean(times) / batch
    return found


def measured(name, folder, options):
    path = pathlib.Path(folder) / f"{name}.keras"
    vectors = save_model(name, path)
    num_users = SIZES[name][0]
    rows = {clients: [] for clients in options.clients}
    with contextlib.ExitStack() as stack:
        urls = {
            search: stack.enter_context(server(path, search))
            for search in options.search
        }
        for _ in range(options.rounds):
            for clients in options.clients:
                one = {
                    search: asked(url, clients, options.seconds, num_users)
                    for search, url in urls.items()
                }
                bare = bare_seconds(vectors, clients, options.seconds / 5)
                fastest = min(bare["bare_q_c"], bare["bare_c_q"])
                for result in one.values():
                    a_request = 1 / result["requests_per_second"]
                    result["share"] = a_request / fastest
                    result["share_of_ours"] = a_request / bare["ours"]
                one["bare"] = {
                    "queries_per_second": 1 / fastest,
                    "ours_per_second": 1 / bare["ours"],
                }
                rows[clients].append(one)
    return {
        clients: {
            search: {
                key: round(
                    statistics.median(one[search][key] for one in rounds), 2
                )
                for key in rounds[0][search]
            }
            for search in rounds[0]
        }
        for clients, rounds in rows.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--search", nargs="+", default=["exact", "flat"])
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("`wrk` is not here: apt-get install wrk.")
    for name in options.data:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(name, folder, options)
        print(
            json.dumps(
                {
                    "data": name,
                    "size": SIZES[name],
                    "k": K,
                    "clients": found,
                    "cores": len(os.sched_getaffinity(0)),
                    "load": os.getloadavg()[0],
                    "machine": platform.machine(),
                    "jax": jax.__version__,
                }
            )
        )


if __name__ == "__main__":
    main()
