"""A small model over `RowEmbedding` tables, trained densely or by rows."""

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval._jax import row_sparse_step
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.training import row_rules


@keras.saving.register_keras_serializable(package="tests")
class PairModel(keras.Model):
    """Rates pairs: `x` is `(batch, 3)`, a user and two candidates."""

    def __init__(self, num_users, num_candidates, by_row=True, **kwargs):
        super().__init__(**kwargs)
        self.num_users, self.num_candidates = num_users, num_candidates
        self.by_row = by_row
        self.users = RowEmbedding(num_users, 4, name="users")
        self.candidates = RowEmbedding(num_candidates, 4, name="candidates")
        self.scale = keras.layers.Dense(1, name="scale")

    @property
    def tables(self):
        return [self.users.embeddings, self.candidates.embeddings]

    def call(self, x):
        user = self.users(x[:, 0])
        # Two lookups into one table.
        candidates = self.candidates(x[:, 1]) + self.candidates(x[:, 2])
        return self.scale(ops.tanh(user * candidates))

    def train_step(self, state, data):
        if not self.by_row:
            return super().train_step(state, data)
        rule = row_rules.row_rule(self.optimizer)
        return row_sparse_step.train_step(self, state, data, self.tables, rule)

    def get_config(self):
        return {
            **super().get_config(),
            "num_users": self.num_users,
            "num_candidates": self.num_candidates,
            "by_row": self.by_row,
        }


def pairs(num_examples, num_users=20, num_candidates=30, seed=0):
    """Ids with many repeats, and targets: `((n, 3) int32, (n, 1) float32)`."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, num_users, num_examples)
    candidates = rng.integers(0, num_candidates, (2, num_examples))
    x = np.stack([users, *candidates], axis=1).astype("int32")
    return x, rng.normal(size=(num_examples, 1)).astype("float32")


def trained(optimizer, by_row, x, y, num_users=20, num_candidates=30, **fit):
    """A `PairModel` after one epoch over `x` and `y` in the order given."""
    keras.utils.set_random_seed(0)
    model = PairModel(num_users, num_candidates, by_row, name="pairs")
    model.compile(optimizer, loss="mse")
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0, **fit}
    model.history_of_fit = model.fit(x, y, **fit).history
    return model


def values(model):
    """All weights and optimizer slots, as a dict of arrays by path."""
    variables = [*model.variables, *model.optimizer.variables]
    return {_path(model, v): ops.convert_to_numpy(v.value) for v in variables}


def _path(model, variable):
    # The optimizer's name counts up from one to the next, and a loaded model
    # no longer names itself in its paths.
    path = variable.path.removeprefix(model.optimizer.name)
    return path.replace("pairs/", "").replace("pairs_", "")


def assert_equal(model, expected, atol=1e-6, rtol=0):
    found, expected = values(model), values(expected)
    assert len(found) == len(model.variables + model.optimizer.variables)
    assert found.keys() == expected.keys()
    for path in found:
        np.testing.assert_allclose(
            found[path], expected[path], rtol=rtol, atol=atol, err_msg=path
        )
