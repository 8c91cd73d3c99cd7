"""A small search, which may kill itself; or one of several workers.

Usage: search_tiny.py DIRECTORY [TRIAL EPOCH STEP]

With TRIAL, EPOCH and STEP (counted from 0) the process is killed there.
"""

import os
import signal
import sys

directory, *where = sys.argv[1:]
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
)

import keras

import keras_dp_retrieval as kdr
from keras_dp_retrieval import tuning

trials_begun = 0


class Kill(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        global trials_begun
        trials_begun += 1

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if [trials_begun - 1, self.epoch, batch] == [int(w) for w in where]:
            os.kill(os.getpid(), signal.SIGKILL)


data = kdr.RetrievalDataset.from_synthetic(40, 60, 1200, batch_size=200)
result = tuning.search(
    data,
    max_trials=3,
    epochs=4,
    embedding_dimension=(4, 8),
    directory=directory,
    callbacks=[Kill()] if where else [],
)
print("completed:", *(t.trial_id for t in result.completed))
