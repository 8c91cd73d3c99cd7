"""Do N devices give what one gives, for any number of rows?

Trains, evaluates and predicts with each number of rows on 1, 2, 4 and 8
virtual devices and prints the largest difference to one device. Virtual
devices share one CPU: they prove that results agree, never a speed-up.

    python benchmarks/parity.py
"""

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import keras
import numpy as np

import keras_dp_retrieval as kdr

ROWS = (1, 3, 101, 1000)
DEVICES = (1, 2, 4, 8)
OBJECTIVES = ("rating", "full_softmax", "in_batch_softmax")


def run(num_devices, num_rows, objective):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    kdr.data_parallel(keras.distribution.list_devices()[:num_devices])
    rng = np.random.default_rng(0)
    x = rng.integers(1, 50, num_rows)
    y = {
        "movie_id": rng.integers(1, 40, num_rows),
        "rating": rng.random(num_rows).astype("float32"),
    }
    model = kdr.TwoTowerRetrieval(50, 40, 16, objective=objective)
    model.compile(keras.optimizers.Adagrad(0.1))
    history = model.fit(
        x, y, batch_size=64, epochs=3, validation_data=(x, y), verbose=0
    ).history
    ids, _ = model.recommend(np.arange(50), k=10)
    return {
        "loss": np.array(history["loss"] + history["val_loss"]),
        "weights": np.concatenate([w.ravel() for w in model.get_weights()]),
        "ids": np.concatenate(
            [ids, model.predict(x, verbose=0)["predictions"]]
        ),
    }


def main():
    print("objective         rows  devices  loss     weights  other ids")
    for objective in OBJECTIVES:
        for num_rows in ROWS:
            alone = run(1, num_rows, objective)
            for num_devices in DEVICES[1:]:
                got = run(num_devices, num_rows, objective)
                loss, weights = (
                    np.abs(got[name] - alone[name]).max()
                    for name in ("loss", "weights")
                )
                other = int((got["ids"] != alone["ids"]).sum())
                print(
                    f"{objective:17} {num_rows:4}  {num_devices:7}  "
                    f"{loss:.1e}  {weights:.1e}  {other}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
