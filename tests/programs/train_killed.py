"""A program that is killed, and started again: `Job.train`.

Used by `tests/test_resume.py` and `benchmarks/kill_matrix.py`, which fork it
from a process that has imported everything.
"""

import dataclasses
import json
import os
import pathlib
import signal
import stat
import sys

# Towers whose batches of streamed data come with histories.
WITH_HISTORIES = ("id_history", "recency", "sequence")


@dataclasses.dataclass
class Job:
    """One start of the program.

    Args:
        folder: str. Has the streamed data, and the checkpoints of the run.
        output: str. The file that the result is written to.
        objective: str, and the next ones: see `tests/resumed_runs.py`.
        tower: str.
        fused: int.
        data: `"memory"`, `"streamed"` or `"arrays"`.
        devices: int. Of this process.
        processes: int.
        process: int.
        port: int.
        resume: bool. Whether it saves and goes on.
        kill_at: Where this start ends: `("step", n)`, before the n-th step
            that it makes; `("write", n)`, when half of the n-th checkpoint is
            written; `("rename", n)`, before it has its name; `("prune", n)`,
            before the old ones are removed; `("terminate", n)`, told to end
            before the n-th step.
        save_freq: As in `ResumeTraining`.
    """

    folder: str
    output: str
    objective: str = "full_softmax"
    tower: str = "id"
    fused: int = 1
    data: str = "memory"
    devices: int = 1
    processes: int = 1
    process: int = 0
    port: int = 0
    resume: bool = True
    kill_at: tuple | None = None
    save_freq: str | int = 2


def train(job: Job) -> None:
    """Trains, and writes every bit of the model and the history."""
    log = open(f"{job.output}.log", "a")
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log.fileno(), stream.fileno())
    os.environ["XLA_FLAGS"] = (
        f"--xla_force_host_platform_device_count={job.devices} "
        "--xla_backend_optimization_level=0"
    )
    import jax
    import keras

    if job.processes > 1:
        keras.distribution.initialize(
            f"localhost:{job.port}", job.processes, job.process
        )
    import keras_dp_retrieval as kdr
    from tests import resumed_runs as runs

    keras.utils.set_random_seed(0)
    kdr.data_parallel()
    data = dataset(job)
    model = runs.model_of(data, job.objective, job.tower, job.fused)
    callbacks: list = [
        keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    ]
    if job.resume:
        folder = pathlib.Path(job.folder, "checkpoints")
        callbacks.append(kdr.ResumeTraining(folder, save_freq=job.save_freq))
    if job.kill_at:
        callbacks.append(killer(*job.kill_at))
    options = {"validation_data": data.validation}
    x, y = data.train, None
    if job.data == "arrays":
        x, y = runs.as_arrays(data)
        options = {"batch_size": 10}
    try:
        history = model.fit(
            x, y, epochs=3, verbose=0, callbacks=callbacks, **options
        ).history
    except SystemExit:
        if job.processes > 1:  # Python does so at its exit; a fork has none.
            jax.distributed.shutdown()
        raise
    result = json.dumps([runs.digest_of(model), history])
    pathlib.Path(job.output).write_text(result)


def dataset(job: Job):
    """The data set of a job."""
    import keras_dp_retrieval as kdr
    from tests import resumed_runs as runs

    features = job.tower == "features"
    if job.data != "streamed":
        return runs.in_memory(features)
    return kdr.RetrievalDataset.from_parquet(
        pathlib.Path(job.folder, "data"),
        streaming=True,
        rating_column="rating",
        timestamp_column="timestamp",
        batch_size=10,
        max_history=5 if job.tower in WITH_HISTORIES else None,
        **(runs.FEATURES if features else {}),
    )


def killer(kind: str, number: int):
    """A callback that kills this process."""
    import keras

    from keras_dp_retrieval.callbacks import checkpoint_files

    state = {"left": number}

    def count():
        state["left"] -= 1
        if not state["left"]:
            is_asked = kind == "terminate"
            number = signal.SIGTERM if is_asked else signal.SIGKILL
            os.kill(os.getpid(), number)

    class Killer(keras.callbacks.Callback):
        def get_state(self):
            return {}

        def on_train_batch_begin(self, batch, logs=None):
            if kind in ("step", "terminate"):
                count()

    class WatchedOs:
        """`os`, for the module that writes checkpoints."""

        def __getattr__(self, name):
            return getattr(os, name)

        def fsync(self, file):
            found = os.fstat(file)
            if kind == "write" and stat.S_ISREG(found.st_mode):
                if state["left"] == 1:
                    os.ftruncate(file, found.st_size // 2)
                count()
            return os.fsync(file)

        def replace(self, *paths):
            if kind == "rename":
                count()
            os.replace(*paths)
            if kind == "prune":
                count()

    checkpoint_files.os = WatchedOs()
    return Killer()
