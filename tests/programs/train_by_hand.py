"""The tutorial's pipeline, with a distribution that is set by hand.

Usage: train_by_hand.py WHEN EPOCHS [DEVICES]

WHEN is "before" or "after": whether the devices are listed before this
package is imported or after it. On a CPU of few cores this aborts where XLA's
virtual devices have too few threads; see `_jax/devices.py`.

    for i in $(seq 20); do python tests/programs/train_by_hand.py after 20; done
"""

import os
import sys

when, epochs, num_devices = [*sys.argv[1:], "4"][:3]
os.environ["KERAS_BACKEND"] = "jax"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count={num_devices} "
    # Enough for a busy machine; 40 s is what XLA waits by default.
    "--xla_cpu_collective_call_terminate_timeout_seconds=30"
)

import keras
import numpy as np


def set_distribution():
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(
            devices=devices, auto_shard_dataset=False
        )
    )


if when == "before":
    set_distribution()

import keras_dp_retrieval as kdr

if when == "after":
    set_distribution()

NUM_RATINGS = 80_000
rng = np.random.default_rng(0)
data = kdr.RetrievalDataset.from_interactions(
    rng.integers(1, 944, NUM_RATINGS),
    rng.integers(1, 1683, NUM_RATINGS),
    validation_fraction=0,
    test_fraction=0,
    batch_size=1000,
)
model = kdr.TwoTowerRetrieval.for_dataset(data, 64, objective="full_softmax")
model.compile(keras.optimizers.Adagrad(0.1))
history = model.fit(data.train, epochs=int(epochs), verbose=0).history
assert np.isfinite(history["loss"]).all()
print("trained", when, history["loss"][-1])
