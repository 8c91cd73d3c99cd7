"""The full softmax, at once or chunk by chunk in bounded memory."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_dp_retrieval._jax import membership


def whole_parts(
    users,
    candidates,
    offset,
    positives,
    excluded,
    lists,
    masked_logit,
    top_k=None,
):
    """Like `softmax_parts`, but computes all logits at once.

    With `top_k`, a third result has the k-th largest logit of the negatives,
    `(batch,)`, without a gradient.
    """
    logits = users @ candidates.T + offset
    chosen = jnp.take_along_axis(logits, jnp.maximum(positives, 0), axis=1)
    is_excluded = _is_excluded(excluded, lists, 0, candidates.shape[0])
    logits = jnp.where(is_excluded, masked_logit, logits)
    parts = jax.nn.logsumexp(logits, axis=1), chosen
    if top_k is None:
        return parts
    best, _ = lax.top_k(lax.stop_gradient(logits), top_k)
    return *parts, best[:, -1]


def _is_excluded(excluded, lists, first, size):
    """Mask of the excluded columns from `first` on, `(batch, size)`."""
    is_excluded = membership.padded_within(excluded, first, size)
    if lists is not None:
        is_excluded |= membership.within(lists, first, size)
    return is_excluded


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def softmax_parts(
    users,
    candidates,
    offset,
    positives,
    excluded,
    lists,
    masked_logit,
    chunk_size,
):
    """Returns the negatives' log-sum-exp and the positives' logits.

    The logits `users @ candidates.T + offset` are computed `chunk_size`
    columns at a time, and recomputed in the backward pass: apart from its
    inputs and the gradients of `users` and `candidates`, it holds only a few
    arrays of `(batch, chunk_size)`.

    Args:
        users: `(batch, dim)` float32, already divided by the temperature.
        candidates: `(num_candidates, dim)` float32.
        offset: `(num_candidates,)` float32, added to every row of logits. It
            is a constant: its gradient is zero.
        positives: `(batch, positives)` int32, padded with -1. The logit of
            padding is 0.
        excluded: `(batch, excluded)` int32, padded with -1: candidates that
            are not negatives of this example.
        lists: Optional `membership.Lists` of more such candidates.
        masked_logit: float, the logit of an excluded candidate.
        chunk_size: int, at most `num_candidates`.

    Returns:
        Tuple of float32 tensors, `(batch,)` and `(batch, positives)`.
    """
    inputs = users, candidates, offset, positives, excluded, lists
    return _forward(*inputs, masked_logit, chunk_size)[0]


def _num_chunks(num_candidates, chunk_size):
    return -(-num_candidates // chunk_size)


def _rows_in(rows, first, start, chunk_size):
    """Column of each row in the chunk at `start`; `chunk_size` if elsewhere."""
    here = (rows >= first) & (rows < start + chunk_size)
    return jnp.where(here, rows - start, chunk_size)


def _chunk(
    index, users, candidates, offset, excluded, lists, masked_logit, size
):
    """Returns a chunk's vectors, logits, masked logits and first columns."""
    # The last chunk starts early enough to end with the table, which saves a
    # padded copy of the table; columns of the chunk before are masked.
    first = index * size
    start = jnp.minimum(first, candidates.shape[0] - size)
    vectors = lax.dynamic_slice_in_dim(candidates, start, size)
    logits = users @ vectors.T + lax.dynamic_slice_in_dim(offset, start, size)
    repeated = start + jnp.arange(size) < first
    is_excluded = repeated | _is_excluded(excluded, lists, start, size)
    masked = jnp.where(is_excluded, masked_logit, logits)
    return vectors, logits, masked, first, start


def _forward(
    users, candidates, offset, positives, excluded, lists, masked_logit, size
):
    inputs = users, candidates, offset, excluded, lists, masked_logit, size

    def step(index, carry):
        largest, total, positive_logits = carry
        _, logits, masked, first, start = _chunk(index, *inputs)
        new_largest = jnp.maximum(largest, masked.max(axis=1))
        total = total * jnp.exp(largest - new_largest)
        total += jnp.exp(masked - new_largest[:, None]).sum(axis=1)
        columns = _rows_in(positives, first, start, size)
        found = jnp.take_along_axis(
            logits, jnp.minimum(columns, size - 1), axis=1
        )
        positive_logits = jnp.where(columns < size, found, positive_logits)
        return new_largest, total, positive_logits

    batch = users.shape[0]
    carry = (
        jnp.full(batch, masked_logit, users.dtype),
        jnp.zeros(batch, users.dtype),
        jnp.zeros(positives.shape, users.dtype),
    )
    num_chunks = _num_chunks(candidates.shape[0], size)
    largest, total, positive_logits = lax.fori_loop(0, num_chunks, step, carry)
    sums = largest + jnp.log(total)
    residuals = (
        users,
        candidates,
        offset,
        positives,
        excluded,
        lists,
        masked_logit,
        sums,
    )
    return (sums, positive_logits), residuals


def _backward(size, residuals, gradients):
    users, candidates, offset, positives, *others, sums = residuals
    excluded, lists, masked_logit = others
    inputs = users, candidates, offset, excluded, lists, masked_logit, size
    of_sums, of_positives = gradients

    def step(index, carry):
        of_users, of_candidates = carry
        vectors, _, masked, first, start = _chunk(index, *inputs)
        of_logits = of_sums[:, None] * jnp.exp(masked - sums[:, None])
        columns = _rows_in(positives, first, start, size)
        of_logits = jax.vmap(
            lambda row, at, values: row.at[at].add(values, mode="drop")
        )(of_logits, columns, of_positives)
        of_users += of_logits @ vectors
        so_far = lax.dynamic_slice_in_dim(of_candidates, start, size)
        of_candidates = lax.dynamic_update_slice_in_dim(
            of_candidates, so_far + of_logits.T @ users, start, axis=0
        )
        return of_users, of_candidates

    num_chunks = _num_chunks(candidates.shape[0], size)
    carry = (jnp.zeros_like(users), jnp.zeros_like(candidates))
    of_users, of_candidates = lax.fori_loop(0, num_chunks, step, carry)
    return of_users, of_candidates, jnp.zeros_like(offset), *[None] * 4


softmax_parts.defvjp(_forward, _backward)
