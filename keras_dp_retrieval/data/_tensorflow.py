"""The door to TensorFlow, which here only feeds data."""


def import_tensorflow():
    """Returns the tensorflow module, kept away from the GPUs.

    Imported where it is used, as it takes seconds.
    """
    import tensorflow as tf

    # Otherwise TensorFlow takes the memory that JAX trains in.
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        pass  # TensorFlow is already running: its devices are settled.
    return tf
