"""What saving and loading a large model takes: seconds, bytes, memory.

    python benchmarks/bench_saving.py
    python benchmarks/bench_saving.py --users 1000000 --interactions 20000000

A trained `TwoTowerRetrieval` with Adagrad's slots, a table of users, ids and
the histories of all users: saved, loaded in a process of its own, asked for
recommendations, and compared. Beside it the time that `numpy.save` needs for
the same arrays on the same disk.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def timed(function, *arguments):
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began


def peak_gb() -> float:
    """The most memory the process has held so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def trained(num_users, num_candidates, dim, num_interactions):
    """A model after one step, which makes its optimizer's slots."""
    import keras

    import keras_dp_retrieval as kdr
    from keras_dp_retrieval.data.interactions import Interactions
    from keras_dp_retrieval.data.vocabulary import Vocabulary

    rng = np.random.default_rng(0)
    per_user = num_interactions // num_users
    histories = Interactions(
        np.arange(num_users + 1) * per_user,
        rng.integers(1, num_candidates, num_users * per_user, dtype="int32"),
    )
    model = kdr.TwoTowerRetrieval(
        num_users,
        num_candidates,
        dim,
        objective="in_batch_softmax",
        embedding_updates="row_sparse",
        histories=kdr.Histories.from_interactions(histories),
    )
    model.user_vocabulary = Vocabulary(np.arange(1, num_users))
    model.candidate_vocabulary = Vocabulary(np.arange(1, num_candidates))
    model.compile(keras.optimizers.Adagrad(0.1))
    rows = np.arange(1, 65)
    model.train_on_batch(rows, {"movie_id": rows})
    return model


def load(path) -> dict:
    """Loads and recommends; run in a process of its own."""
    import keras

    import keras_dp_retrieval  # Registers its classes.

    model, seconds = timed(keras.saving.load_model, path)
    ids, scores = model.recommend(np.arange(1, 9), k=10)
    return {
        "seconds": seconds,
        "peak_gb": peak_gb(),
        "ids": ids.tolist(),
        "scores": scores.tolist(),
        "version": keras_dp_retrieval.__version__,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=5_000_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--interactions", type=int, default=100_000_000)
    parser.add_argument("--folder", help="where to write; a temporary one")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(arguments.load)))
        return
    model, seconds = timed(
        trained,
        arguments.users,
        arguments.candidates,
        arguments.dim,
        arguments.interactions,
    )
    held = sum(
        int(np.prod(v.shape)) * 4
        for v in (*model.variables, *model.optimizer.variables)
    )
    before = peak_gb()
    print(f"made in {seconds:.1f} s; variables {held / 1e9:.2f} GB")
    ids, scores = model.recommend(np.arange(1, 9), k=10)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = pathlib.Path(folder) / "model.keras"
        _, saving = timed(model.save, path)
        print(
            f"saved in {saving:.1f} s, {path.stat().st_size / 1e9:.2f} GB, "
            f"peak memory {before:.2f} -> {peak_gb():.2f} GB"
        )
        plain = pathlib.Path(folder) / "plain.npy"
        array = np.asarray(model.user_tower.embeddings.value)
        _, writing = timed(np.save, plain, array)
        writing *= held / array.nbytes
        print(
            f"numpy.save of as many bytes: {writing:.1f} s; saving takes "
            f"{saving / writing:.1f} times as long"
        )
        plain.unlink()
        del model
        done = subprocess.run(
            [sys.executable, __file__, "--load", str(path)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["ids"] == ids.tolist()
    np.testing.assert_allclose(loaded["scores"], scores, rtol=1e-6)
    print(
        f"loaded in {loaded['seconds']:.1f} s, peak memory "
        f"{loaded['peak_gb']:.2f} GB; the same recommendations"
    )


if __name__ == "__main__":
    main()
