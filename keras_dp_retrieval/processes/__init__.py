"""Several processes that train one model, on one host or many."""

from keras_dp_retrieval.processes.joining import (
    JoinedProcess,
    initialize_processes,
)
from keras_dp_retrieval.processes.process_place import is_one_of_several

__all__ = ["JoinedProcess", "initialize_processes", "is_one_of_several"]
