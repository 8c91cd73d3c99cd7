"""A `fit` that is stopped and goes on is the `fit` that was never stopped.

The runs are stopped by an exception here and go on with new objects;
`benchmarks/kill_matrix.py` kills processes.
"""

import keras
import pytest

import keras_dp_retrieval as kdr
from tests import resumed_runs as runs


@pytest.fixture
def anew(on_devices):
    """What a new process begins with."""

    def begin(devices=1):
        keras.distribution.set_distribution(None)
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        if devices > 1:
            on_devices(devices)

    return begin


def fit(anew, *callbacks, devices=1, data=None, **options):
    """A user's program; returns every bit of the model, and the history."""
    anew(devices)
    data = data or runs.in_memory(features=options.get("tower") == "features")
    model = runs.model_of(data, **options)
    history = model.fit(
        data.train,
        validation_data=data.validation,
        epochs=2,
        verbose=0,
        callbacks=list(callbacks),
    )
    return runs.digest_of(model), history.history


CASES = [
    ("rating", "features", 1, 1),
    ("full_softmax", "id", 4, 4),
    *(
        pytest.param(objective, tower, fused, devices, marks=pytest.mark.slow)
        for objective in runs.OBJECTIVES
        for tower in runs.TOWERS
        for fused in (1, 4)
        for devices in (1, 4)
    ),
]


@pytest.mark.parametrize(("objective", "tower", "fused", "devices"), CASES)
def test_a_stopped_run_ends_with_the_same_bits(
    anew, tmp_path, objective, tower, fused, devices
):
    options = {
        "objective": objective,
        "tower": tower,
        "fused": fused,
        "devices": devices,
    }
    expected = fit(anew, **options)
    for stop in [(0, 4), (1, 8)]:  # Within the first epoch, and the second.
        resume = kdr.ResumeTraining(tmp_path, save_freq=1)
        with pytest.raises(runs.Stopped):
            fit(anew, resume, runs.Stop(*stop), **options)
    resume = kdr.ResumeTraining(tmp_path, save_freq=1)
    assert fit(anew, resume, **options) == expected
