"""What is trained on, in few words, by which processes and runs compare it."""

from keras_dp_retrieval._keras.adapters import ArrayDataAdapter, DataAdapter
from keras_dp_retrieval.data.batch_sources import BatchSource
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.training.batch_groups import rows_in

# The arguments of `fit` that hold data.
ARRAYS = ("x", "y", "sample_weight")


def of_next_pass(
    data: dict, adapter: DataAdapter, source: BatchSource | None
) -> dict:
    """What the next pass yields, as far as it is known.

    Of arrays and of the data sets of this package that is everything; of other
    streams the number and the size of the batches.

    Args:
        data: dict. The arguments of `fit` that concern the data.
        adapter: Keras' own adapter of them.
        source: Optional `BatchSource` of the data set.
    """
    rows = contents = None
    if isinstance(adapter, ArrayDataAdapter):
        arrays = [data.get(name) for name in ARRAYS]
        rows = rows_in(arrays[0])
        contents = digest(*arrays)
    elif source is not None:
        rows, contents = source.identity()
    batches = data.get("steps_per_epoch") or adapter.num_batches
    size = adapter.batch_size
    return {
        "rows": rows,
        "steps": None if batches is None else int(batches),
        "batch size": size and int(size),
        "contents": contents,
    }


def of_all_passes(
    data: dict, adapter: DataAdapter, source: BatchSource | None
) -> dict:
    """The same of all passes, whichever is the next."""
    known = of_next_pass(data, adapter, source)
    if source is not None:
        known["rows"], known["contents"] = source.contents()
        # With padding, which is up to the devices.
        del known["batch size"]
    elif isinstance(adapter, ArrayDataAdapter):
        known["shuffle"] = data.get("shuffle")
    return known
