"""Whether a trial is on all the devices that were asked for."""

import keras_tuner

from keras_dp_retrieval import distribution


def check(model, wanted: list[str]) -> int:
    """Returns the number of devices that a compiled model's variables are on.

    Args:
        model: A built and compiled model.
        wanted: Names of the devices that it has to be on.

    Raises:
        keras_tuner.errors.FatalRuntimeError: If it differs from the number of
            `wanted`, or from the number that a batch is divided over. The
            error ends the search.
    """
    from keras_dp_retrieval._jax import devices

    batches_for = distribution.num_devices()
    variables = [*model.variables, *model.optimizer.variables]
    counts = {devices.devices_of(v.value)[1] for v in variables}
    if counts | {batches_for} != {len(wanted)}:
        raise keras_tuner.errors.FatalRuntimeError(
            f"A trial must run on {len(wanted)} devices: {', '.join(wanted)}. "
            f"Received: a model with variables on {sorted(counts)} devices, "
            f"and batches for {batches_for}. KerasTuner clears the "
            "distribution before it builds a model; it must be set in "
            "`build`, before the model is made."
        )
    return batches_for
