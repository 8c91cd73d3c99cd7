import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp_retrieval._jax import row_sparse


def dense(touched, num_rows):
    """The dense gradient that `touched` stands for."""
    table = np.zeros((num_rows, touched.gradients.shape[1]), "float32")
    for row, gradient in zip(touched.rows, touched.gradients, strict=True):
        if row < num_rows:
            table[row] += gradient
    return table


def test_repeated_ids_become_one_row_with_the_summed_gradient():
    gradients = jnp.array([[1.0, 2.0], [5.0, 0.0], [10.0, 20.0]])
    touched = row_sparse.merge(jnp.array([3, 0, 3]), gradients, num_rows=4)
    found = {
        int(row): gradient.tolist()
        for row, gradient in zip(touched.rows, touched.gradients, strict=True)
        if row < 4
    }
    assert found == {3: [11.0, 22.0], 0: [5.0, 0.0]}


def test_entries_without_a_row_lie_beyond_the_table_and_hold_zeros():
    touched = row_sparse.merge(jnp.array([2, 2, 2, 1]), jnp.ones((4, 2)), 5)
    rows = np.array(touched.rows)
    assert len(set(rows)) == 4
    assert sorted(rows[rows < 5]) == [1, 2]
    np.testing.assert_array_equal(touched.gradients[rows >= 5], 0.0)


def test_a_row_without_gradient_is_not_touched():
    gradients = jnp.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    touched = row_sparse.merge(jnp.array([0, 1, 1, 2]), gradients, 3)
    assert [row for row in touched.rows if row < 3] == [2]


def test_ids_beyond_the_table_touch_nothing_and_negative_ones_wrap():
    ids = jnp.array([5, -1, 4, 1])
    table = jnp.zeros((5, 2))
    expected = jax.grad(lambda t: jnp.nansum(jnp.take(t, ids, axis=0)))(table)
    touched = row_sparse.merge(ids, jnp.ones((4, 2)), 5)
    found = row_sparse.sgd(table, touched, learning_rate=-1.0)
    np.testing.assert_array_equal(found, expected)
    assert found[4].tolist() == [2.0, 2.0]


def by_numpy(ids, gradients, num_rows):
    """The dense gradient of a lookup: `{row: gradient}` where it is not 0."""
    ids = np.where(np.asarray(ids) < 0, np.asarray(ids) + num_rows, ids)
    exists = (ids >= 0) & (ids < num_rows)
    rows, places = np.unique(ids[exists], return_inverse=True)
    sums = np.zeros((len(rows), gradients.shape[1]), "float32")
    np.add.at(sums, places, np.asarray(gradients)[exists])
    return {
        int(row): total
        for row, total in zip(rows, sums, strict=True)
        if (total != 0).any()
    }


merge = jax.jit(row_sparse.merge, static_argnums=2)


def assert_merges_as_numpy_does(ids, gradients, num_rows):
    rows, sums = (np.array(a) for a in merge(ids, gradients, num_rows))
    assert rows.dtype == "int32" and len(set(rows)) == len(rows)
    assert (rows >= 0).all()
    np.testing.assert_array_equal(sums[rows >= num_rows], 0)
    found = dict(zip(rows.tolist(), sums, strict=True))
    found = {row: total for row, total in found.items() if row < num_rows}
    expected = by_numpy(ids, gradients, num_rows)
    assert found.keys() == expected.keys()
    for row in found:
        np.testing.assert_allclose(found[row], expected[row], atol=1e-4)


@pytest.mark.parametrize("num_rows", [1, 7, 3199, 4096, 4097, 2**31 - 300])
def test_merged_gradient_equals_the_dense_one(num_rows):
    rng = np.random.default_rng(0)
    drawn = {
        "repeats": rng.integers(0, num_rows, 256),
        "few": rng.integers(0, min(num_rows, 5), 256),
        "one": np.full(256, num_rows - 1),
        "a run": np.arange(256) % num_rows,
        "a stride": np.arange(256) * 4096 % num_rows,
        "the end": num_rows - 1 - np.arange(256) % num_rows,
        "not all in the table": rng.integers(-num_rows - 9, num_rows, 256)
        + rng.integers(0, 9, 256),
        "none in the table": np.full(256, num_rows),
    }
    gradients = rng.normal(size=(256, 3)).astype("float32")
    for ids in drawn.values():
        ids = np.clip(ids, -(2**31), 2**31 - 1).astype("int32")
        assert_merges_as_numpy_does(ids, gradients, num_rows)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_smallest_batches_merge(batch):
    for num_rows in (1, 31, 10**6):
        for ids in ([0] * batch, [num_rows - 1] * batch, range(batch)):
            ids = np.array(list(ids), "int32")
            gradients = np.ones((batch, 2), "float32")
            assert_merges_as_numpy_does(ids, gradients, num_rows)


def test_ids_whose_hashes_meet_are_told_apart():
    batch, num_rows, bits = 64, 2**22, 10
    every = jnp.arange(num_rows, dtype="int32")
    slots = np.array(row_sparse.hashed(every, jnp.uint32(0), bits))
    meeting = np.flatnonzero(slots == slots[12345])
    # Of these, some that meet in the second round as well.
    again = np.array(row_sparse.hashed(jnp.array(meeting), jnp.uint32(1), bits))
    most = np.bincount(again).argmax()
    twice = meeting[again == most]
    assert len(meeting) >= batch and len(twice) >= 4
    assert len(set(again)) > 2 ** (bits - 1)  # The second parts them.
    gradients = np.random.default_rng(0).normal(size=(batch, 2))
    for ids in (meeting[:batch], np.resize(twice, batch), meeting[-batch:]):
        assert_merges_as_numpy_does(
            ids.astype("int32"), gradients.astype("float32"), num_rows
        )


def test_ids_that_meet_in_every_round_end_the_loop_all_the_same(monkeypatch):
    # The worst there is: one id a round.
    monkeypatch.setattr(
        row_sparse, "hashed", lambda ids, *_: jnp.zeros_like(ids)
    )
    ids = jnp.array([5, 9000, 5, 70, 9000, 812, 10**6, 1], "int32")
    found = row_sparse.representatives(ids, 10**6)
    # Of each id the last example; the id beyond the table has none.
    assert found.tolist() == [2, 4, 2, 3, 4, 5, 8, 7]


def test_what_is_merged_does_not_depend_on_the_size_of_the_table():
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 50, 256).astype("int32")
    gradients = rng.normal(size=(256, 3)).astype("float32")
    small, large = (merge(ids, gradients, n) for n in (50, 10**8))
    np.testing.assert_array_equal(small.gradients, large.gradients)
    is_row = np.array(small.rows) < 50
    np.testing.assert_array_equal(is_row, np.array(large.rows) < 10**8)
    np.testing.assert_array_equal(small.rows[is_row], large.rows[is_row])


def test_nan_gradients_come_to_light_in_their_row_alone():
    gradients = np.ones((6, 2), "float32")
    gradients[3, 1] = np.nan
    ids = np.array([10**6, 5, 10**6, 7, 5, 7], "int32")
    rows, sums = merge(ids, gradients, 10**7)
    found = dict(zip(np.array(rows).tolist(), np.array(sums), strict=True))
    np.testing.assert_array_equal(found[7], [2, np.nan])
    np.testing.assert_array_equal(found[5], [2, 2])
    np.testing.assert_array_equal(found[10**6], [2, 2])


def test_of_an_int64_id_all_bits_count():
    with jax.enable_x64(True):
        ids = jnp.array([2**32 + 5, 5, -1, -(2**32), 10**6 - 1], "int64")
        touched = row_sparse.merge(ids, jnp.ones((5, 2)), 10**6)
    rows = np.array(touched.rows)
    assert sorted(rows[rows < 10**6]) == [5, 10**6 - 1]


@pytest.mark.slow
@pytest.mark.parametrize("num_rows", [5, 8191, 10**6, 2**31 - 600])
@pytest.mark.parametrize("batch", [1, 17, 500])
def test_random_draws_merge_as_numpy_merges(batch, num_rows):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        spread = int(2 ** rng.uniform(0, 31)) % num_rows + 1
        ids = rng.integers(0, spread, batch) * int(rng.choice([1, 64, 4096]))
        ids = ids % num_rows - rng.choice([0, num_rows, num_rows + 1], batch)
        gradients = rng.integers(-2, 3, (batch, 2)).astype("float32")
        assert_merges_as_numpy_does(ids.astype("int32"), gradients, num_rows)


def test_no_lookups_touch_nothing():
    touched = row_sparse.merge(jnp.zeros((0,), "int32"), jnp.zeros((0, 2)), 3)
    table = jnp.ones((3, 2))
    np.testing.assert_array_equal(
        row_sparse.sgd(table, touched, learning_rate=1.0), table
    )


def one_row_touched(gradient=2.0):
    return row_sparse.merge(jnp.array([1]), jnp.array([[gradient]]), 3)


def test_adagrad_by_hand():
    table, accumulator = row_sparse.adagrad(
        jnp.zeros((3, 1)),
        jnp.full((3, 1), 5.0),
        one_row_touched(),
        learning_rate=0.3,
        epsilon=0.0,
    )
    np.testing.assert_allclose(accumulator[:, 0], [5.0, 9.0, 5.0])
    np.testing.assert_allclose(table[:, 0], [0.0, -0.2, 0.0], rtol=1e-6)


def test_rmsprop_lets_the_velocity_of_untouched_rows_decay():
    table, velocity = row_sparse.rmsprop(
        jnp.zeros((3, 1)),
        jnp.full((3, 1), 4.0),
        one_row_touched(),
        learning_rate=0.5,
        rho=0.75,
        epsilon=0.0,
    )
    np.testing.assert_allclose(velocity[:, 0], [3.0, 4.0, 3.0])
    np.testing.assert_allclose(table[:, 0], [0.0, -0.5, 0.0])


def test_lazy_adam_leaves_moments_of_untouched_rows():
    table, momentum, velocity = row_sparse.lazy_adam(
        jnp.zeros((3, 1)),
        jnp.full((3, 1), 1.0),
        jnp.full((3, 1), 4.0),
        one_row_touched(),
        step_size=0.1,
        beta_1=0.5,
        beta_2=0.75,
        epsilon=0.0,
    )
    np.testing.assert_allclose(momentum[:, 0], [1.0, 1.5, 1.0])
    np.testing.assert_allclose(velocity[:, 0], [4.0, 4.0, 4.0])
    np.testing.assert_allclose(table[:, 0], [0.0, -0.075, 0.0], rtol=1e-6)


def test_decay_shrinks_touched_rows_only():
    table = row_sparse.decay(jnp.ones((3, 1)), one_row_touched(), 0.25)
    np.testing.assert_allclose(table[:, 0], [1.0, 0.75, 1.0])
