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


@pytest.mark.parametrize("num_rows", [1, 7, 100, 10_000])
def test_merged_gradient_equals_the_dense_one(num_rows):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, num_rows, 200)
    gradients = rng.normal(size=(200, 3)).astype("float32")
    expected = np.zeros((num_rows, 3), "float32")
    np.add.at(expected, ids, gradients)
    touched = jax.jit(row_sparse.merge, static_argnums=2)(
        ids, gradients, num_rows
    )
    np.testing.assert_allclose(dense(touched, num_rows), expected, atol=1e-5)


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
