import time

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval._keras import adapters
from keras_dp_retrieval.training.batch_groups import pad_batch
from keras_dp_retrieval.training.padded_batches import PaddedBatches


def batches_of(x, y=None, **options):
    group = options.pop("steps_per_group", 1)
    data = {"x": x, "y": y, "batch_size": 4, **options}
    return PaddedBatches(data, steps_per_group=group)


def real_rows(batches):
    return np.concatenate([x[w != 0] for x, _, w in batches])


def test_padding_repeats_a_real_row_with_weight_zero():
    x, y, weights = pad_batch((np.array([7, 8]), {"id": np.array([1, 2])}), 5)
    np.testing.assert_array_equal(x, [7, 8, 7, 7, 7])
    np.testing.assert_array_equal(y["id"], [1, 2, 1, 1, 1])
    np.testing.assert_array_equal(weights, [1, 1, 0, 0, 0])


def test_weights_of_the_user_are_kept():
    x, y = np.arange(3), {"id": np.arange(3)}
    _, _, weights = pad_batch((x, y, np.array([2.0, 0.5, 0.0])), 4)
    np.testing.assert_array_equal(weights, [2, 0.5, 0, 0])


@pytest.mark.parametrize("num_devices", [1, 2, 8])
@pytest.mark.parametrize("num_rows", [1, 3, 8, 13])
def test_every_row_comes_once_in_equal_batches(
    on_devices, num_devices, num_rows
):
    on_devices(num_devices)
    batches = list(batches_of(np.arange(num_rows)).get_jax_iterator())
    np.testing.assert_array_equal(real_rows(batches), np.arange(num_rows))
    sizes = {len(x) for x, _, _ in batches}
    assert len(sizes) == 1
    assert sizes.pop() % num_devices == 0


def test_batches_asked_for_before_the_distribution_divide_too(on_devices):
    data = kdr.RetrievalDataset.from_synthetic(20, 30, 250, batch_size=33)
    early = data.validation  # Of 33 rows, for one device.
    on_devices(8)
    late = data.validation
    rows = []
    for dataset in (early, late):
        batches = list(PaddedBatches({"x": dataset}).get_jax_iterator())
        assert {len(x) for x, _, _ in batches} == {40}
        rows.append(real_rows(batches))
    np.testing.assert_array_equal(*rows)
    expected = data.ratings("validation").user_rows
    np.testing.assert_array_equal(rows[0], expected)


def test_real_rows_are_found_again_in_the_padded_output(on_devices):
    on_devices(8)
    adapter = batches_of(np.arange(9))
    outputs = np.concatenate([x for x, _, _ in adapter.get_jax_iterator()])
    np.testing.assert_array_equal(
        outputs[adapter.real_row_mask()], np.arange(9)
    )


def test_groups_stack_steps_behind_the_batch_axis():
    adapter = batches_of(np.arange(10), steps_per_group=2)
    groups = [x for x, _, _ in adapter.get_jax_iterator()]
    np.testing.assert_array_equal(groups[0], [[0, 4], [1, 5], [2, 6], [3, 7]])
    assert groups[1].shape == (4, 1)  # The last group of an epoch is short.


def tf_batches(num_rows, *, known_size=False):
    import tensorflow as tf

    ids = np.arange(num_rows, dtype="int32")
    rows = (ids, {"id": ids + 100}, (ids % 3).astype("float32"))
    dataset = tf.data.Dataset.from_tensor_slices(rows)
    return dataset.batch(4, drop_remainder=known_size)


@pytest.mark.parametrize("known_size", [False, True])
def test_stacked_by_tensorflow_the_groups_are_those_of_single_batches(
    on_devices, known_size
):
    on_devices(8)
    dataset = tf_batches(42, known_size=known_size)
    one_by_one = batches_of(dataset, batch_size=None)
    single = list(one_by_one.get_jax_iterator())
    adapter = batches_of(dataset, batch_size=None, steps_per_group=3)
    for _ in range(2):
        groups = list(adapter.get_jax_iterator())
        stacked = [g[2].shape for g in groups]
        assert stacked == [(8, 3)] * 3 + [(8, 1 if known_size else 2)]
        steps = [(g, i) for g in groups for i in range(g[2].shape[1])]
        for (x, y, w), (group, i) in zip(single, steps, strict=True):
            np.testing.assert_array_equal(group[0][:, i], x)
            np.testing.assert_array_equal(group[1]["id"][:, i], y["id"])
            np.testing.assert_array_equal(group[2][:, i], w)
        assert adapter.real_rows == one_by_one.real_rows


def test_only_real_rows_are_checked(on_devices):
    on_devices(8)
    checked = []
    adapter = PaddedBatches(
        {"x": tf_batches(10)},
        check=lambda x, y: checked.append((x, y["id"])),
        steps_per_group=2,
    )
    list(adapter.get_jax_iterator())
    x, ids = map(np.concatenate, zip(*checked, strict=True))
    np.testing.assert_array_equal(x, np.arange(10))
    np.testing.assert_array_equal(ids, np.arange(10) + 100)


def test_a_keras_that_fuses_gets_its_steps_first():
    adapter = batches_of(np.arange(8))
    ((x, _, _),) = adapter.get_jax_iterator(super_batch=2)
    np.testing.assert_array_equal(x, [[0, 1, 2, 3], [4, 5, 6, 7]])


@pytest.mark.parametrize("steps_per_group", [1, 3])
def test_a_keras_that_fuses_gets_its_steps_after_a_look(steps_per_group):
    # It asks for as many groups as it has counted, and would stop early.
    adapter = PaddedBatches(
        {"x": np.arange(16), "batch_size": 4, "shuffle": False},
        steps_per_group=steps_per_group,
    )
    adapter.first_batch()
    first, second = adapter.get_jax_iterator(super_batch=2)
    np.testing.assert_array_equal(first[0], np.arange(8).reshape(2, 4))
    np.testing.assert_array_equal(second[0], np.arange(8, 16).reshape(2, 4))


def test_a_look_at_the_first_batch_loses_nothing():
    def generate():
        for start in (0, 4, 8):
            yield (np.arange(start, start + 4),)

    adapter = PaddedBatches({"x": generate()})
    first, _, _ = adapter.first_batch()
    np.testing.assert_array_equal(first, [0, 1, 2, 3])
    seen = real_rows(adapter.get_jax_iterator())
    np.testing.assert_array_equal(seen, np.arange(12))


class SlowBatches(keras.utils.PyDataset):
    """Twelve batches of four rows; batch i is all about candidate i + 1."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(0.003)  # So that workers are at work when they are stopped.
        return np.full(4, 1), {"movie_id": np.full(4, index + 1)}


FORKS = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("workers", "use_multiprocessing", "steps_per_execution"),
    [
        (1, False, 1),
        (2, False, 5),
        pytest.param(2, True, 1, marks=FORKS),
        pytest.param(1, False, 5, marks=pytest.mark.slow),
        pytest.param(2, False, 1, marks=pytest.mark.slow),
        pytest.param(2, True, 5, marks=[FORKS, pytest.mark.slow]),
    ],
)
def test_workers_hand_out_every_batch_once_in_every_epoch(
    workers, use_multiprocessing, steps_per_execution
):
    model = kdr.TwoTowerRetrieval(3, 13, 2)
    model.compile("sgd", steps_per_execution=steps_per_execution)
    data = SlowBatches(workers=workers, use_multiprocessing=use_multiprocessing)
    counts = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: counts.append(
            keras.ops.convert_to_numpy(model.candidate_counts.value)[1:]
        )
    )
    model.fit(data, epochs=3, verbose=0, callbacks=[count])
    for epoch, seen in enumerate(counts):
        np.testing.assert_array_equal(seen, np.full(12, 4 * (epoch + 1)))


def test_a_look_at_the_first_batch_starts_no_workers():
    adapter = PaddedBatches({"x": SlowBatches(workers=2)})
    first, _, _ = adapter.first_batch()
    assert first.shape == (4,)
    adapter.on_epoch_begin()
    seen = [y["movie_id"][0] for _, y, _ in adapter.get_jax_iterator()]
    assert seen == list(range(1, 13))


def test_numbers_come_with_the_types_that_jax_computes_with():
    # JAX warns of a shape that is asked for with 64 bits; ids are checked
    # before they lose them.
    data = {"x": np.arange(4), "y": np.arange(4.0)}
    adapter = PaddedBatches(data)
    x, y, _ = adapter.first_batch()
    assert (x.dtype, y.dtype) == (np.int32, np.float32)
    with pytest.raises(ValueError, match="4294967297"):
        kdr.TwoTowerRetrieval(5, 5, 2).predict([2**32 + 1], verbose=0)


def test_empty_data_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        list(batches_of(np.arange(0)).get_jax_iterator())


def test_growing_batches_cannot_be_grouped():
    class Growing(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            return (np.arange(4 + 4 * index),)

    adapter = PaddedBatches({"x": Growing()}, steps_per_group=2)
    with pytest.raises(ValueError, match="no batch may be larger"):
        list(adapter.get_jax_iterator())


def test_processes_divide_each_batch(monkeypatch):
    from keras_dp_retrieval import distribution

    monkeypatch.setattr(distribution, "process_count", lambda: 2)
    seen = []
    for process in (0, 1):
        monkeypatch.setattr(distribution, "process_index", lambda p=process: p)
        adapter = batches_of(np.arange(8))
        seen.append(real_rows(adapter.get_jax_iterator()))
    np.testing.assert_array_equal(seen[0], [0, 1, 4, 5])
    np.testing.assert_array_equal(seen[1], [2, 3, 6, 7])


def test_a_batch_size_of_nothing_is_refused():
    model = kdr.TwoTowerRetrieval(5, 7, 4)
    model.compile("adagrad")
    for batch_size in (0, -3):
        with pytest.raises(ValueError, match="`batch_size` must be a whole"):
            model.fit(
                np.ones(4, int),
                {"movie_id": np.ones(4, int)},
                batch_size=batch_size,
            )


def test_a_batch_larger_than_the_data_is_not_filled_up_to_its_size():
    data = kdr.RetrievalDataset.from_synthetic(
        20, 30, 250, batch_size=2**31 - 1
    )
    for part in ("train", "validation", "test"):
        (batch,) = list(getattr(data, part))
        assert len(batch[0]) <= len(data.ratings("train"))


@pytest.fixture
def fusing(monkeypatch):
    """What a Keras that fuses has, and another has not."""
    if not adapters.keras_fuses_steps():
        monkeypatch.setattr(
            adapters.data_adapter_utils,
            "PartialBatchList",
            type("PartialBatchList", (list,), {}),
            raising=False,
        )


def test_a_keras_that_fuses_gets_groups_and_a_short_one_unstacked(fusing):
    x, y = np.arange(18), np.ones(18)
    batches = batches_of(x, y, shuffle=False)
    full, short = batches.get_jax_iterator(super_batch=3)
    assert [rows.shape for rows in full] == [(3, 4)] * 3
    assert adapters.unstacked_batches(full) is None
    fourth, fifth = adapters.unstacked_batches(short)
    read = [*full[0], fourth[0], fifth[0][:2]]
    np.testing.assert_array_equal(np.concatenate(read), x)
    np.testing.assert_array_equal(fourth[2], np.ones(4))
    np.testing.assert_array_equal(fifth[2], [1, 1, 0, 0])
    assert batches.real_row_mask().sum() == 18


def test_one_batch_is_one_step_to_a_keras_that_fuses(fusing):
    function = adapters.single_steps(lambda state, iterator: next(iterator))
    batch = np.arange(4), np.ones(4), np.ones(4)
    (only,) = adapters.unstacked_batches(function(None, iter([batch])))
    assert only is batch
    group = np.ones((3, 4)), np.ones((3, 4)), np.ones((3, 4))
    assert function(None, iter([group])) is group
