"""How often candidates have been seen in training, and the sum of that.

The sum is two int32, as JAX has no int64 by default and 100 million
interactions are more than 2^31 after 22 epochs: `sum = low + high * 2^30`.
Counting it costs a batch; adding up the counts would cost a pass over all of
them at every step.
"""

import jax
import jax.numpy as jnp
import numpy as np

from keras_dp_retrieval._jax.replication import replicate

_BITS = 30


class BatchCounts:
    """The counts as they were before a batch, and with its positives.

    Counting waits until everything is read. XLA would otherwise keep the old
    counts beside the new ones: two copies of all counts a step.

    Args:
        counts: int32 `(num_candidates,)`.
        total: int32 `(2,)`, their sum.
        rows: int32, any shape; negative rows do not exist.
        weights: The same shape; 0 does not count.
    """

    def __init__(self, counts, total, rows, weights):
        self._counts, self._total = counts, total
        # To every device first: otherwise each would count into a table of its
        # own, and whole tables would be added up.
        rows, weights = replicate((rows.reshape(-1), weights.reshape(-1)))
        exists = (weights != 0) & (rows >= 0) & (rows < counts.shape[0])
        self._rows = jnp.where(exists, rows, counts.shape[0])
        self._least_read = []

    def before(self, rows):
        """The counts of some rows before the batch, float32."""
        read = jnp.take(self._counts, replicate(rows), axis=0)
        self._least_read.append(jnp.min(read, initial=0))
        return read.astype("float32")

    def sum_before(self):
        """The sum of all counts before the batch, float32."""
        low, high = self._total.astype("float32")
        return low + high * 2.0**_BITS

    def seen(self, rows):
        """Which rows have been counted, in this batch or before; bool."""
        rows = replicate(rows)
        in_batch = jnp.any(rows[..., None] == self._rows, axis=-1)
        return in_batch | (self.before(rows) > 0)

    def after(self, wait=False):
        """The counts with the batch, and their sum: `(counts, total)`.

        Args:
            wait: bool. Whether the old ones are needed no more, so that they
                can be changed in place under jit.
        """
        rows = self._rows
        if wait:
            for least in self._least_read:
                # No count is negative and no row that large, which the
                # compiler cannot know.
                bound = jnp.iinfo("int32").max - (least < 0).astype("int32")
                rows = jnp.minimum(rows, bound)
        number = jnp.sum(self._rows < self._counts.shape[0], dtype="int32")
        low = self._total[0] + number
        total = [low & (2**_BITS - 1), self._total[1] + (low >> _BITS)]
        counts = self._counts.at[rows].add(1, mode="drop")
        return counts, jnp.stack(total)


def sum_of(counts):
    """The sum of all counts, int32 `(2,)`: one pass over them."""
    number = int(np.asarray(counts).sum(dtype="int64"))
    parts = [number & (2**_BITS - 1), number >> _BITS]
    with jax.ensure_compile_time_eval():
        return jnp.array(parts, "int32")
