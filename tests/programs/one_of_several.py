"""Trains as one of several processes, and may fail in one of them.

Usage: one_of_several.py MODE HEARTBEAT_SECONDS STALLED_SECONDS FOLDER

The environment says which process this is. In process MODE[-1], at step 3 of
epoch 2, `kill` ends it for good, `stop` freezes it, `stuck` holds its main
thread, `raise` raises and `exit` leaves. `none` trains to the end.
"""

import os
import signal
import sys
import threading
import time

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

import keras_dp_retrieval as kdr

mode, heartbeat, stalled, folder = sys.argv[1:]
process = kdr.initialize_processes(
    heartbeat_timeout_seconds=int(heartbeat), stalled_seconds=float(stalled)
)
print(process, flush=True)


class Fails(keras.callbacks.Callback):
    """Fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.steps += 1
        if self.steps == 8 and mode[-1] == str(process.index):
            with open(os.path.join(folder, "failed"), "w") as note:
                note.write(f"{process.pid} {time.time()}")
            fail(mode[:-1])


def fail(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "stuck":
        threading.Event().wait()
    elif how == "exit":
        sys.exit(3)
    else:
        raise ArithmeticError("these data are bad")


kdr.data_parallel()
rng = np.random.default_rng(0)
x = rng.integers(1, 50, 101)
y = {"movie_id": rng.integers(1, 40, 101)}
model = kdr.TwoTowerRetrieval(50, 40, 8)
model.compile("sgd")
model.fit(x, y, batch_size=20, epochs=3, callbacks=[Fails()], verbose=2)
print("trained", float(model.evaluate(x, y, verbose=0)), flush=True)
