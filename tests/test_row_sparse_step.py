import re
import warnings

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval._jax import row_sparse_step
from keras_dp_retrieval.towers.embedding import RowEmbedding
from keras_dp_retrieval.training import row_rules, step_plan
from tests.row_models import PairModel, assert_equal, pairs, trained, values


def adagrad():
    return keras.optimizers.Adagrad(0.1)


# --- RowEmbedding outside a row-sparse step ---------------------------------


def test_row_embedding_computes_what_embedding_computes():
    ours = RowEmbedding(10, 4)
    ids = np.array([[3, 1], [3, 9]])
    ours.build()
    theirs = keras.layers.Embedding(10, 4, weights=ours.get_weights())
    np.testing.assert_array_equal(ours(ids), theirs(ids))
    assert ours(np.array([2.0, 1.0])).shape == (2, 4)  # Floats are cast.


def test_row_embedding_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((2,), dtype="int32")
    model = keras.Model(inputs, RowEmbedding(10, 4)(inputs))
    ids = np.array([[3, 1], [3, 9]])
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.layers[-1]) is RowEmbedding
    np.testing.assert_array_equal(loaded(ids), model(ids))


# --- In fit -----------------------------------------------------------------


@pytest.mark.parametrize(
    "num_devices", [pytest.param(1, marks=pytest.mark.slow), 8]
)
def test_zero_weights_change_nothing_under_any_rule(num_devices, on_devices):
    on_devices(num_devices)
    x, y = pairs(64)
    x[:, 0] %= 10
    weights = np.ones(64, "float32")
    weights[8:16] = 0.0
    model = trained(
        keras.optimizers.AdamW(0.1), True, x, y, sample_weight=weights
    )
    before = values(model)
    x[:], weights[:] = x[::-1], 0.0
    x[:, 0] += 10  # Other rows, too.
    model.fit(x, y, sample_weight=weights, batch_size=16, verbose=0)
    after = values(model)
    tables = [k for k in before if "users" in k or "candidates" in k]
    assert len(tables) == 6  # Two tables, two slots each.
    for path in tables:
        np.testing.assert_array_equal(before[path], after[path])


def test_padding_of_weight_zero_gives_the_same_weights_as_no_padding():
    x, y = pairs(16)
    # The mean over the batch divides by all of its rows, padding or not.
    plain = trained(keras.optimizers.Adam(0.1), True, x, y / 2)
    filled = trained(
        keras.optimizers.Adam(0.1),
        True,
        np.concatenate([x, np.full_like(x, 19)]),
        np.concatenate([y, np.full_like(y, 7.0)]) / 2,
        sample_weight=np.repeat([2.0, 0.0], 16),
        batch_size=32,
    )
    assert_equal(filled, plain)


def test_several_executions_in_one_call_and_metrics():
    x, y = pairs(16 * 7)

    def run(by_row, steps_per_execution):
        keras.utils.set_random_seed(0)
        model = PairModel(20, 30, by_row, name="pairs")
        model.compile(
            adagrad(),
            loss="mse",
            metrics=["mae"],
            steps_per_execution=steps_per_execution,
        )
        history = model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        return model, history.history

    model, logs = run(by_row=True, steps_per_execution=4)
    dense, expected = run(by_row=False, steps_per_execution=1)
    assert_equal(model, dense)
    assert logs.keys() == expected.keys() == {"loss", "mae"}
    for name in logs:
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adagrad", "rmsprop", "adam"])
def test_saved_and_resumed_is_the_same_as_never_stopped(tmp_path, optimizer):
    x, y = pairs(96)
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    whole = trained(optimizer, True, x, y)
    trained(optimizer, True, x[:48], y[:48]).save(tmp_path / "m.keras")
    resumed = keras.saving.load_model(tmp_path / "m.keras")
    resumed.fit(x[48:], y[48:], **fit)
    assert_equal(resumed, whole, atol=0)


def test_tables_and_nothing_else_still_count_their_steps():
    table = RowEmbedding(10, 4, name="table")
    model = RowModel([table], lambda ids: ops.sum(table(ids) ** 2, -1))
    model.fit(np.arange(10), np.ones(10), batch_size=5, verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_mixed_precision_keeps_tables_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        x, y = pairs(160)
        by_row = trained(adagrad(), True, x, y)
        dense = trained(adagrad(), False, x, y)
    finally:
        keras.config.set_dtype_policy("float32")
    assert by_row.tables[0].dtype == "float32"
    # Dense sums the bfloat16 gradients of repeats before it casts them.
    assert_equal(by_row, dense, atol=2e-3)


# --- Tables that are not read through lookups alone -------------------------


class RowModel(keras.Model):
    """`score(ids)` over `tables`, squared error, all tables by row."""

    def __init__(self, tables, score, by_row=True):
        super().__init__(name="row_model")
        self.layers_with_tables, self.score = tables, score
        self.by_row = by_row
        for table in tables:
            table.build()
        self.built = True
        self.compile(adagrad(), "mse")

    def call(self, ids):
        return self.score(ids)

    def train_step(self, state, data):
        if not self.by_row:
            return super().train_step(state, data)
        rule = row_rules.row_rule(self.optimizer)
        tables = [layer.embeddings for layer in self.layers_with_tables]
        return row_sparse_step.train_step(self, state, data, tables, rule)


def whole_table(table, other):
    def score(ids):
        everything = ops.matmul(table(ids), ops.transpose(table.embeddings))
        return ops.mean(everything, -1) + ops.sum(other(ids), -1)

    return score


def direct_take(table, other):
    return lambda ids: ops.sum(
        ops.take(table.embeddings, ids, axis=0) * other(ids), -1
    )


def under_remat(table, other):
    def score(ids):
        rows = jax.checkpoint(lambda: table(ids))()
        return ops.sum(rows * other(ids), -1)

    return score


def in_a_scan(table, other):
    def score(ids):
        def add(total, _):
            return total + table(ids) * other(ids), None

        total, _ = jax.lax.scan(add, ops.zeros((*ids.shape, 4)), None, 3)
        return ops.sum(total, -1)

    return score


def row_model(make_score, by_row, regularizer=None):
    keras.utils.set_random_seed(0)
    table = RowEmbedding(
        12, 4, name="table", embeddings_regularizer=regularizer
    )
    other = RowEmbedding(12, 4, name="other")
    return RowModel([table, other], make_score(table, other), by_row)


def plain(table, other):
    return lambda ids: ops.sum(table(ids) * other(ids), -1)


@pytest.mark.parametrize(
    ("make_score", "regularizer", "dense_tables"),
    [
        (plain, "l2", ["table"]),
        (whole_table, None, ["table"]),
        (direct_take, None, ["table"]),
        (under_remat, None, ["table"]),
        (in_a_scan, None, ["table", "other"]),
    ],
)
def test_a_table_read_in_another_way_gets_its_whole_gradient(
    make_score, regularizer, dense_tables
):
    ids = np.random.default_rng(0).integers(0, 12, 80)
    targets = np.ones(80, "float32")
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model = row_model(make_score, True, regularizer)
    paths = ", ".join(f"{name}/embeddings" for name in dense_tables)
    with pytest.warns(
        kdr.TrainingWarning, match=rf"Updated densely: {paths}\. "
    ):
        model.fit(ids, targets, **fit)
    dense = row_model(make_score, False, regularizer)
    dense.fit(ids, targets, **fit)
    assert_equal(model, dense)


def test_reading_a_table_without_a_gradient_is_no_reason_to_be_dense():
    def score(table, other):
        def call(ids):
            norm = ops.stop_gradient(ops.mean(table.embeddings**2))
            return ops.sum(table(ids) * other(ids), -1) + norm

        return call

    model = row_model(score, by_row=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ids = np.arange(12, dtype=np.int32)  # JAX 0.11 warns of 64 bits.
        model.fit(ids, np.ones(12), batch_size=4, verbose=0)


# --- What a dense step honours ----------------------------------------------


def two_towers(updates, optimizer, users=None, candidates=None, frozen=False):
    """A trained `TwoTowerRetrieval` that looks its candidates up by row."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    model = kdr.TwoTowerRetrieval(
        40,
        30,
        4,
        objective="in_batch_softmax",
        user_tower=RowEmbedding(40, 4, name="users", **(users or {})),
        candidate_tower=RowEmbedding(30, 4, name="items", **(candidates or {})),
        embedding_updates=updates,
        name="pairs",
    )
    model.user_tower.trainable = not frozen
    model.compile(optimizer)
    rng = np.random.default_rng(0)
    # Half of the users are in no batch.
    x, y = rng.integers(1, 20, 48), {"movie_id": rng.integers(1, 30, 48)}
    model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    return model


# Of the whole table, of every row, of every value, and a soft one.
CONSTRAINTS = {
    "of columns and of rows": [
        keras.constraints.MaxNorm(0.1),
        keras.constraints.UnitNorm(axis=1),
    ],
    "of values and soft": [
        keras.constraints.NonNeg(),
        keras.constraints.MinMaxNorm(0.05, 0.1, rate=0.5, axis=1),
    ],
}


@pytest.mark.parametrize(
    "updates", ["row_sparse", pytest.param("auto", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_hold_as_in_the_dense_step(name, updates, monkeypatch):
    monkeypatch.setattr(step_plan, "LARGE_TABLE", 1)
    towers = [{"embeddings_constraint": c} for c in CONSTRAINTS[name]]
    dense = two_towers("dense", adagrad(), *towers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # It need not be dense for that.
        found = two_towers(updates, adagrad(), *towers)
    assert_equal(found, dense, rtol=1e-5)


def excluded_from_decay():
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["embeddings"])
    return optimizer


HONOURED = {
    "ema": lambda: keras.optimizers.SGD(
        1.0, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.SGD(
        1.0, gradient_accumulation_steps=2
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0)
    ),
    "exclusion from decay": excluded_from_decay,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.filterwarnings("ignore:Embedding tables are updated densely")
def test_options_of_the_optimizer_are_honoured(name):
    by_row = two_towers("row_sparse", HONOURED[name]())
    dense = two_towers("dense", HONOURED[name]())
    assert_equal(by_row, dense, rtol=1e-5)


def test_a_frozen_table_stays_and_the_other_learns():
    by_row = two_towers("row_sparse", adagrad(), frozen=True)
    dense = two_towers("dense", adagrad(), frozen=True)
    assert_equal(by_row, dense, rtol=1e-5)


def test_auto_does_not_go_by_row_where_a_regularizer_reads_the_table(
    monkeypatch,
):
    monkeypatch.setattr(step_plan, "LARGE_TABLE", 1)
    towers = [{"embeddings_regularizer": "l2"}] * 2
    dense = two_towers("dense", adagrad(), *towers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Nobody asked for rows.
        found = two_towers("auto", adagrad(), *towers)
    assert_equal(found, dense, rtol=1e-5)


def test_values_in_place_of_gradients_are_not_clipped():
    def run(by_row):
        keras.utils.set_random_seed(0)
        x, y = pairs(32)
        model = PairModel(20, 30, by_row, name="pairs")
        model(x[:1])
        model.scale.kernel.overwrite_with_gradient = True
        model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1e-6), "mse")
        model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
        return model

    by_row, dense = run(True), run(False)
    assert np.abs(dense.scale.kernel).max() > 1e-6
    assert_equal(by_row, dense)


# --- The compiled program ---------------------------------------------------


def compiled_step(model, batch_size, compiler_options):
    """The text of the compiled step of a model that `fit` has built."""
    x, y = pairs(batch_size, model.num_users, model.num_candidates)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
        purge_model_variables=False,
    )
    out_shardings = None
    distribution = keras.distribution.distribution()
    if distribution is not None:
        out_shardings = (None, model._get_state_sharding_spec())
        sharding = jax.sharding.NamedSharding(
            distribution.device_mesh.backend_mesh,
            jax.sharding.PartitionSpec("batch"),
        )
        x, y = (jax.device_put(array, sharding) for array in (x, y))
    step = jax.jit(
        model.train_step, donate_argnums=0, out_shardings=out_shardings
    )
    return step.lower(state, (x, y)).compile(compiler_options).as_text()


def trained_with_rows(num_rows, optimizer, by_row=True):
    x, y = pairs(64, num_rows, num_rows)
    return trained(optimizer, by_row, x, y, num_rows, num_rows, batch_size=64)


def results(program, operation):
    """The result types of all `operation`s in the text of a program."""
    pattern = rf"= (.*?) {operation}(?:-start)?\("
    return re.findall(pattern, program)


def bytes_exchanged(program):
    total = 0
    for operation in (
        "all-reduce",
        "all-gather",
        "all-to-all",
        "reduce-scatter",
        "collective-permute",
    ):
        for result in results(program, operation):
            for width, shape in re.findall(r"[a-z](\d+)\[([\d,]*)\]", result):
                sizes = [int(size) for size in shape.split(",") if size]
                total += int(width) // 8 * int(np.prod(sizes))
    return total


@pytest.mark.parametrize(
    "optimizer",
    [
        "adagrad",
        pytest.param("adam", marks=pytest.mark.slow),
        pytest.param("rmsprop", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_bytes_exchanged_do_not_depend_on_the_table(
    optimizer, on_devices, compiler_options
):
    on_devices(8)

    def exchanged(num_rows):
        model = trained_with_rows(num_rows, optimizer)
        return bytes_exchanged(compiled_step(model, 64, compiler_options))

    few, many = exchanged(1_000), exchanged(50_000)
    # Ids and gradients of 64 rows of 4 for 3 lookups, of which two have one
    # gradient; and a few sums over the batch.
    expected = (2 * 4 + 3) * 64 * 4
    assert expected <= few == many < expected + 100


def test_bytes_exchanged_by_the_dense_step_do(on_devices, compiler_options):
    on_devices(8)
    model = trained_with_rows(1_000, "adagrad", by_row=False)
    program = compiled_step(model, 64, compiler_options)
    assert bytes_exchanged(program) > 2 * 1_000 * 4 * 4


TABLE = r"f32\[5000,4\]"


@pytest.mark.parametrize(
    ("optimizer", "operations"),
    [
        pytest.param("sgd", "scatter", marks=pytest.mark.slow),
        ("adagrad", "scatter"),
        pytest.param("adam", "scatter", marks=pytest.mark.slow),
        ("adamw", "scatter"),
        # The decay of the whole slot: a multiplication by a constant.
        ("rmsprop", "broadcast multiply scatter"),
    ],
)
def test_nothing_as_large_as_a_table_is_copied_or_made(
    optimizer, operations, compiler_options
):
    model = trained_with_rows(5_000, optimizer)
    program = compiled_step(model, 64, compiler_options)
    made = set(re.findall(rf"= {TABLE}\S* ([\w-]+)\(", program))
    # These give a name to what is there, and make nothing.
    made -= {"parameter", "get-tuple-element", "fusion", "call", "bitcast"}
    assert " ".join(sorted(made)) == operations


def test_the_dense_step_makes_a_gradient_as_large_as_the_table(
    compiler_options,
):
    model = trained_with_rows(5_000, "adagrad", by_row=False)
    program = compiled_step(model, 64, compiler_options)
    assert re.search(rf"= {TABLE}\S* (broadcast|multiply)\(", program)


# --- As a function ----------------------------------------------------------


def state_of(model):
    return tuple(
        [jnp.array(v.value) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def test_scanned_steps_equal_steps_one_by_one():
    x, y = pairs(64)
    model = trained(keras.optimizers.Adam(0.1), True, x, y)
    batches = (x.reshape(4, 16, 3), y.reshape(4, 16, 1))

    def step(state, data):
        logs, state = model.train_step(state, data)
        return state, logs

    scanned, logs = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(
        state_of(model), batches
    )
    one_step = jax.jit(model.train_step)
    state = state_of(model)
    for i in range(4):
        last, state = one_step(state, (batches[0][i], batches[1][i]))
    for found, expected in zip(
        jax.tree.leaves(scanned), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(logs["loss"][-1], last["loss"], rtol=1e-5)


def test_the_caller_may_update_the_metrics():
    x, y = pairs(16)
    model = trained(adagrad(), True, x, y)
    rule = row_rules.row_rule(model.optimizer)

    def update_metrics(metrics, loss, x, y, y_pred, sample_weight):
        logs = {"loss": loss, "x": x, "y_pred": y_pred, "w": sample_weight}
        return logs, metrics

    @jax.jit
    def step(state, data):
        return row_sparse_step.train_step(
            model,
            state,
            data,
            model.tables,
            rule,
            update_metrics=update_metrics,
        )

    weights = np.full(16, 2.0, "float32")
    logs, state = step(state_of(model), (x, y, weights))
    error = np.mean(2.0 * (logs["y_pred"] - y) ** 2)
    np.testing.assert_allclose(logs["loss"], error, rtol=1e-5)
    np.testing.assert_array_equal(logs["x"], x)
    np.testing.assert_array_equal(logs["w"], weights)
    assert len(state[3]) == len(model.metrics_variables)
