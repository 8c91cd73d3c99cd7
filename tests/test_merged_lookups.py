"""All lookups of a step into a table become one gradient of its rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from keras_dp_retrieval._jax.list_sums import Entries
from keras_dp_retrieval._jax.merged_lookups import merge_lookups

DIM = 3
# Two lists, [2, 0, 2] and [5]: row 0 counts for nothing.
LISTS = Entries(
    rows=jnp.array([2, 0, 2, 5]),
    begin=jnp.array([0, 3]),
    sizes=jnp.array([3, 1]),
    columns=jnp.arange(3),
)


def random(*shape):
    values = np.random.default_rng(sum(shape)).normal(size=(*shape, DIM))
    return jnp.asarray(values, "float32")


def gradient_of(touched, num_rows):
    """`(num_rows, dim)`, of touched rows that stand there once."""
    rows, gradients = map(np.asarray, touched)
    assert rows.dtype == "int32" and len(set(rows.tolist())) == len(rows)
    beyond = rows >= num_rows
    np.testing.assert_array_equal(gradients[beyond], 0)
    assert (gradients[~beyond] != 0).any(axis=1).all()
    found = np.zeros((num_rows, DIM), "float32")
    found[rows[~beyond]] = gradients[~beyond]
    return found


def test_ids_of_all_shapes_are_merged():
    num_rows = 7
    ids = [jnp.array([3, 6, 3]), jnp.array([[3, 0], [1, 9]]), jnp.array(6)]
    gradients = [random(*one.shape) for one in ids]
    touched = merge_lookups(ids, gradients, jnp.zeros((num_rows, DIM)))
    assert touched.rows.shape == (8,)  # As many as ids, whatever the table.
    expected = np.zeros((10, DIM), "float32")
    for one, gradient in zip(ids, gradients, strict=True):
        np.add.at(expected, np.asarray(one), np.asarray(gradient))
    found = gradient_of(touched, num_rows)
    np.testing.assert_allclose(found, expected[:num_rows], rtol=1e-6)


def test_ids_that_no_float32_holds_stay_what_they_are():
    table = jax.ShapeDtypeStruct((2**30, DIM), "float32")
    ids, gradients = [jnp.array([2**24 + 1])], [jnp.ones((1, DIM))]
    touched = merge_lookups(ids, gradients, table)
    assert touched.rows.tolist() == [2**24 + 1]


def test_no_lookup_touches_no_row():
    touched = merge_lookups([], [], jnp.zeros((7, DIM), "bfloat16"))
    assert touched.rows.shape == (0,)
    assert touched.gradients.shape == (0, DIM)
    assert touched.gradients.dtype == "bfloat16"


# The lists are six entries, padded. Of a long table they are merged with the
# ids one by one, of a short one in an array of the table's length.
@pytest.mark.parametrize(("num_rows", "length"), [(100, 10), (20, 20)])
def test_lists_and_ids_are_merged(num_rows, length):
    ids = jnp.array([[5, 1], [1, 200]])
    of_lists, of_ids = random(2), random(2, 2)
    touched = merge_lookups(
        [LISTS, ids], [of_lists, of_ids], jnp.zeros((num_rows, DIM))
    )
    assert touched.rows.shape == (length,)
    expected = np.zeros((num_rows, DIM), "float32")
    expected[2] = 2 * of_lists[0]
    expected[5] = of_lists[1] + of_ids[0, 0]
    expected[1] = of_ids[0, 1] + of_ids[1, 0]
    found = gradient_of(touched, num_rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_several_lists_are_added_up_and_nan_comes_to_light():
    gradient = jnp.array([[1.0, 0, 0], [0, jnp.nan, 0]])
    touched = merge_lookups(
        [LISTS, LISTS], [gradient, jnp.ones((2, DIM))], jnp.zeros((8, DIM))
    )
    found = gradient_of(touched, 8)
    np.testing.assert_array_equal(found[2], [4, 2, 2])
    np.testing.assert_array_equal(found[5], [1, np.nan, 1])


def test_sums_of_a_table_of_bfloat16_are_made_in_float32():
    # bfloat16 has 8 bits: 256 + 1 is 256 there, and so is every sum after it.
    touched = merge_lookups(
        [LISTS, jnp.full(8, 2)],
        [jnp.full((2, DIM), 128, "bfloat16"), jnp.ones((8, DIM), "bfloat16")],
        jnp.zeros((6, DIM), "bfloat16"),
    )
    assert touched.gradients.dtype == "bfloat16"
    assert touched.gradients[2].tolist() == [264] * DIM
