"""Keras' data adapters: any data that `fit` takes, as batches of NumPy arrays.

`fit` has no public hook between the data and the devices, and Keras refuses
batches that do not divide by the devices (keras#21167). A `DataAdapter` that
is given to `fit` as its data is handed through unchanged by
`get_data_adapter`: that is the way in. All of it goes when `fit` pads uneven
batches itself, or exports an adapter that may.

All names are of `keras/src/trainers/data_adapters/`.
"""

import inspect

from keras.src.trainers.data_adapters import (
    data_adapter_utils,
    get_data_adapter,
)
from keras.src.trainers.data_adapters.array_data_adapter import (
    ArrayDataAdapter,
)
from keras.src.trainers.data_adapters.array_slicing import (
    train_validation_split,
)
from keras.src.trainers.data_adapters.data_adapter import DataAdapter
from keras.src.trainers.data_adapters.py_dataset_adapter import (
    PyDatasetAdapter,
)
from keras.src.trainers.data_adapters.tf_dataset_adapter import (
    TFDatasetAdapter,
)

__all__ = [
    "ArrayDataAdapter",
    "DataAdapter",
    "PyDatasetAdapter",
    "TFDatasetAdapter",
    "first_of_py_dataset",
    "get_data_adapter",
    "keras_fuses_steps",
    "partial_batch_list",
    "single_steps",
    "step_axis",
    "torch_dataloader",
    # `fit(validation_split=)` divides arrays before any adapter sees them; ours
    # must divide them in the same way.
    "train_validation_split",
    "unstacked_batches",
]


def keras_fuses_steps() -> bool:
    """Whether Keras on JAX runs `steps_per_execution` steps as one program.

    One that does (keras#23527, after 3.15) asks its adapters for groups of
    batches. Goes, with our own fused step, when the lowest Keras we take does.
    """
    arguments = inspect.signature(DataAdapter.get_jax_iterator).parameters
    return "super_batch" in arguments


def partial_batch_list(batches):
    """A group with fewer steps than asked for, as a fusing Keras takes it.

    `PartialBatchList` (keras#23527) tells it to run the batches one by one.
    """
    return data_adapter_utils.PartialBatchList(batches)


def unstacked_batches(batch) -> list | None:
    """The batches of a `PartialBatchList`; None of a batch or stacked group.

    A Keras that fuses has one where a group has fewer steps than asked for,
    or batches of several shapes.
    """
    kind = getattr(data_adapter_utils, "PartialBatchList", ())
    return list(batch) if isinstance(batch, kind) else None


def step_axis() -> int:
    """Which axis of a group of fused steps counts the steps.

    Keras' groups are `(steps, batch, ...)`. Ours are `(batch, steps, ...)`,
    for a Keras that does not fuse and so divides the first axis among the
    devices.
    """
    return 0 if keras_fuses_steps() else 1


def single_steps(function):
    """A train function of a fusing Keras that takes single batches too.

    Where a model is compiled with `steps_per_execution` above 1, Keras takes
    the rows of a batch that is not stacked, as `train_on_batch` has it, for
    steps. Goes when Keras does not.

    Args:
        function: Keras' train function for `(x, y, sample_weight)`, where
            `sample_weight` is `(batch,)`, or `(steps, batch)` of a group.
    """

    def run(state, iterator):
        batch = next(iterator)
        if unstacked_batches(batch) is None and batch[2].ndim == 1:
            batch = partial_batch_list([batch])
        return function(state, iter([batch]))

    return run


def torch_dataloader(batches):
    """What Keras on PyTorch asks an adapter for, of an iterable of batches."""
    return data_adapter_utils.get_torch_dataloader(batches)


def first_of_py_dataset(adapter: PyDatasetAdapter):
    """Batch 0 of a `keras.utils.PyDataset`, without starting its workers.

    `_standardize_batch` makes lists to tuples and checks their length, as the
    adapter's own iterator does. Goes when an adapter can be asked for the
    shapes of its batches without beginning a pass.
    """
    return adapter._standardize_batch(adapter.py_dataset[0])
