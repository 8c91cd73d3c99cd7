"""Keras-native components for data-parallel two-tower retrieval."""

import os

# Data parallelism in Keras 3 exists on JAX alone. This only has a say where
# neither the user nor an earlier `import keras` has chosen.
os.environ.setdefault("KERAS_BACKEND", "jax")

from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.distribution import data_parallel

__all__ = [
    "__version__",
    "data_parallel",
]
