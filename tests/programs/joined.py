"""Makes a program of the tests one of N processes."""

import os


def join(port, num_processes, process_id, devices_each):
    """Call it before anything else imports Keras; all are words of a command.

    Args:
        port: Where process 0 waits for the others on this machine.
        num_processes: How many there are; one needs no port.
        process_id: Which one this is, from 0.
        devices_each: How many virtual devices this process has.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "")
        + f" --xla_force_host_platform_device_count={devices_each}"
    )
    import keras

    if int(num_processes) > 1:
        keras.distribution.initialize(
            f"localhost:{port}", int(num_processes), int(process_id)
        )
