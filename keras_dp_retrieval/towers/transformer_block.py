"""TransformerBlock: causal self-attention and a gated network."""

import math

import keras
from keras import ops

# What a score is where attention is forbidden. Finite, as a row in which all
# is forbidden would be NaN.
_FORBIDDEN = -1e9


class TransformerBlock(keras.layers.Layer):
    """A transformer block: attention, then a SwiGLU network.

        x = x + sigmoid(x W_1) * attention(norm(x))
        x = x + sigmoid(x W_2) * network(norm(x))
        network(n) = (silu(n W_3) * (n W_4)) W_5

    Normalization in front of each part (Xiong et al. 2020), gates on what is
    added (LiGR: Borisyuk et al. 2025, arXiv 2502.03417), and SwiGLU (Shazeer
    2020, arXiv 2002.05202), as in eSASRec.

    Args:
        dim: int. Length of the vectors, a multiple of `num_heads`.
        num_heads: int.
        hidden_dim: int. Width of the network's hidden layer.
        dropout: float. Dropout rate of what the parts add.
        seed: Optional int. Seeds the initializers.
        seed_generator: `keras.random.SeedGenerator` of the dropout.
    """

    def __init__(
        self,
        dim,
        num_heads,
        hidden_dim,
        *,
        dropout,
        seed,
        seed_generator,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout = dropout
        self.seed_generator = seed_generator
        self._next_seed = seed
        self.attention_norm = self._norm(dim, "attention_norm")
        self.attention_gate = self._dense(dim, dim, "attention_gate")
        self.projections = self._dense(dim, 3 * dim, "projections")
        self.attention_output = self._dense(dim, dim, "attention_output")
        self.network_norm = self._norm(dim, "network_norm")
        self.network_gate = self._dense(dim, dim, "network_gate")
        self.hidden = self._dense(dim, 2 * hidden_dim, "hidden")
        self.network_output = self._dense(hidden_dim, dim, "network_output")
        self.built = True

    def _norm(self, dim, name):
        norm = keras.layers.LayerNormalization(
            name=name, dtype=self.dtype_policy
        )
        norm.build((None, dim))
        return norm

    def _dense(self, input_dim, units, name):
        initializer = keras.initializers.GlorotUniform(seed=self._next_seed)
        if self._next_seed is not None:
            self._next_seed = (self._next_seed + 1) % 2**32
        dense = keras.layers.Dense(
            units,
            use_bias=False,
            kernel_initializer=initializer,
            name=name,
            dtype=self.dtype_policy,
        )
        dense.build((None, input_dim))
        return dense

    def call(self, x, bias, allowed, training=False):
        """Returns vectors, `(batch, length, dim)`.

        Args:
            x: `(batch, length, dim)`.
            bias: float `(num_heads, length, length)`, added to the scores of
                query and key.
            allowed: bool `(batch, length, length)`: which keys a query may
                attend to.
            training: bool. Whether dropout is applied.
        """
        added = self._attention(self.attention_norm(x), bias, allowed)
        x = x + self._gated(self.attention_gate(x), added, training)
        gate, value = ops.split(self.hidden(self.network_norm(x)), 2, axis=-1)
        added = self.network_output(ops.silu(gate) * value)
        return x + self._gated(self.network_gate(x), added, training)

    def _attention(self, x, bias, allowed):
        batch, length, dim = ops.shape(x)
        head_dim = dim // self.num_heads
        queries, keys, values = (
            ops.reshape(part, (batch, length, self.num_heads, head_dim))
            for part in ops.split(self.projections(x), 3, axis=-1)
        )
        scores = ops.einsum("bqhd,bkhd->bhqk", queries, keys)
        scores = ops.cast(scores, "float32") / math.sqrt(head_dim) + bias
        allowed = ops.expand_dims(allowed, 1)
        scores = ops.where(allowed, scores, _FORBIDDEN)
        # Not `ops.softmax`, which warns of histories of one item.
        total = ops.logsumexp(scores, axis=-1, keepdims=True)
        weights = ops.exp(scores - total)
        # Where all is forbidden, nothing is added.
        weights = ops.cast(ops.where(allowed, weights, 0.0), values.dtype)
        mixed = ops.einsum("bhqk,bkhd->bqhd", weights, values)
        return self.attention_output(ops.reshape(mixed, (batch, length, dim)))

    def _gated(self, gate, added, training):
        added = ops.sigmoid(gate) * added
        if not training or not self.dropout:
            return added
        return keras.random.dropout(
            added, self.dropout, seed=self.seed_generator
        )
