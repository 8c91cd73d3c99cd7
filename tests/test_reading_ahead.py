"""Off the CPU Keras takes a batch from the data before the last is trained on.

Steps, positions and reports must be those of what was trained, not of what was
read. There is no such device here, so Keras is told that there is one.
"""

import keras
import pytest
from keras.src.backend.jax.trainer import JAXEpochIterator

import keras_dp_retrieval as kdr
from tests import resumed_runs as runs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*also in the train part:UserWarning"
)


def read_ahead(monkeypatch):
    """Has Keras read as on a GPU; returns how many batches it has taken."""
    taken = []

    def get_iterator(self):
        def counted():
            for batch in self.data_adapter.get_jax_iterator():
                taken.append(batch)
                yield batch

        return self._one_batch_ahead_iterator(counted())

    monkeypatch.setattr(JAXEpochIterator, "_get_iterator", get_iterator)
    return taken


def fit(*callbacks, fused=1, arrays=False):
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    data = runs.in_memory()
    model = runs.model_of(data, "rating", fused=fused)
    x, y, options = data.train, None, {}
    if arrays:
        x, y = runs.as_arrays(data)
        options = {"batch_size": 10}
    fitted = model.fit(
        x, y, epochs=2, verbose=0, callbacks=list(callbacks), **options
    )
    return runs.digest_of(model), fitted.history


CASES = [(1, False), (1, True), (4, False)]


@pytest.mark.parametrize(("fused", "arrays"), CASES)
def test_what_is_read_ahead_is_trained_on_once(monkeypatch, fused, arrays):
    expected = fit(fused=fused, arrays=arrays)
    taken = read_ahead(monkeypatch)
    assert fit(fused=fused, arrays=arrays) == expected
    assert taken


@pytest.mark.parametrize(("fused", "arrays"), CASES)
def test_a_run_goes_on_after_the_last_step_that_was_trained(
    monkeypatch, tmp_path, fused, arrays
):
    expected = fit(fused=fused, arrays=arrays)
    taken = read_ahead(monkeypatch)
    with pytest.raises(runs.Stopped):
        fit(
            kdr.ResumeTraining(tmp_path, 1),
            runs.Stop(1, 4),
            fused=fused,
            arrays=arrays,
        )
    of_first = len(taken)
    resume = kdr.ResumeTraining(tmp_path)
    again = fit(resume, fused=fused, arrays=arrays)
    assert again == expected
    assert of_first and len(taken) > of_first


def test_the_report_counts_what_was_trained(monkeypatch):
    counted = kdr.DistributionAwareCallback()
    fit(counted)
    read_ahead(monkeypatch)
    ahead = kdr.DistributionAwareCallback()
    fit(ahead)
    num_examples = len(runs.in_memory().ratings("train"))
    for one, other in zip(counted.history, ahead.history, strict=True):
        assert one["examples"] == other["examples"] == num_examples
        assert one["steps"] == other["steps"] == -(-num_examples // 10)
