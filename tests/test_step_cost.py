"""A step's cost follows the batch: nothing as long as a table is made in it.

Steps are compiled for tables of ten million rows and more and never run, so
that no such table has to be there.
"""

import math
import re

import jax
import keras
import pytest

import keras_dp_retrieval as kdr

BATCH, DIM, BUILT_ROWS = 256, 64, 20_011

OBJECTIVES = {
    "rating": lambda: "rating",
    "in_batch_softmax": lambda: "in_batch_softmax",
    "uniform negatives": lambda: kdr.InBatchSoftmax(num_uniform_negatives=32),
    "standard logQ": lambda: kdr.InBatchSoftmax(logq="standard"),
}


def model_of(num_rows, objective, optimizer="adagrad", dim=DIM, **compile):
    """A compiled model that says its tables are of `num_rows` rows."""
    model = kdr.TwoTowerRetrieval(
        BUILT_ROWS, BUILT_ROWS, dim, objective=OBJECTIVES[objective]()
    )
    model.compile(optimizer, **compile)
    model.build()
    model.optimizer.build(model.trainable_variables)
    for variable in [*model.variables, *model.optimizer.variables]:
        if variable.shape[:1] == (BUILT_ROWS,):
            variable._shape = (num_rows, *variable.shape[1:])
    return model


def compiled(model, options, steps=1):
    """The program of one step, or of several as `fit` fuses them."""

    def abstract(variable):
        sharding = variable.value.sharding
        return jax.ShapeDtypeStruct(
            variable.shape, variable.dtype, sharding=sharding
        )

    def column(dtype):
        layout = keras.distribution.distribution()
        if layout is not None:
            layout = layout.get_data_layout((BATCH,)).backend_layout
        if steps > 1:
            return jax.ShapeDtypeStruct((steps, BATCH), dtype)
        return jax.ShapeDtypeStruct((BATCH,), dtype, sharding=layout)

    state = tuple(
        [abstract(variable) for variable in group]
        for group in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )
    ids = column("int32")
    y = {"movie_id": ids, "rating": column("float32")}
    data = (ids, y, column("float32"))

    def step(state, data):
        logs, state = model.train_step(state, data)
        return state, logs

    def run(state, data):
        return (
            jax.lax.scan(step, state, data) if steps > 1 else step(state, data)
        )

    kept = jax.tree.map(lambda one: one.sharding, state)
    lowered = jax.jit(run, donate_argnums=0, out_shardings=(kept, None)).lower(
        state, data
    )
    return lowered.compile(options)


def made(program, num_rows):
    """Which operations make arrays of `num_rows` rows or more.

    What is inside of a fusion is computed value by value as it is asked for,
    so of a fusion its last operation counts.
    """
    found = set()
    is_inner = False
    for line in program.as_text().splitlines():
        if line and not line[0].isspace():
            # Fusions call these; only what they give back is in memory.
            is_inner = "computation" in line.split("(")[0]
        match = re.match(
            r"\s+(ROOT )?\S+ = \w+\[([\d,]+)\]\S* ([\w-]+)\(", line
        )
        if match is None or (is_inner and not match[1]):
            continue
        if math.prod(map(int, match[2].split(","))) >= num_rows:
            found.add(match[3])
    # These give a name to what is there, and make nothing. A fusion is counted
    # by its last operation.
    return found - {
        "parameter",
        "get-tuple-element",
        "fusion",
        "call",
        "bitcast",
    }


@pytest.mark.parametrize(
    "objective",
    [pytest.param("rating", marks=pytest.mark.slow), "in_batch_softmax"],
)
def test_nothing_of_a_tables_length_is_made_in_a_step(
    objective, compiler_options
):
    # Three fused steps: each scans over, and updates in place, the state.
    model = model_of(10_000_000, objective)
    program = compiled(model, compiler_options, steps=3)
    assert made(program, 10_000_000) == {"scatter"}
    # The state is updated in place, and a batch's scratch is all there is
    # beside it: less than a tenth of the counts of the candidates.
    memory = program.memory_analysis()
    tables = 4 * 10_000_000 * DIM * 4
    assert memory.alias_size_in_bytes > tables
    assert memory.temp_size_in_bytes < 4_000_000


@pytest.mark.slow
@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_of_a_tables_length_is_made_by_any_rule(
    objective, optimizer, num_devices, compiler_options, on_devices
):
    on_devices(num_devices)
    temporary = []
    for num_rows in (10_000_000, 20_000_000):
        model = model_of(num_rows, objective, optimizer)
        model.embedding_updates = "row_sparse"
        program = compiled(model, compiler_options)
        assert made(program, num_rows) == {"scatter"}
        temporary.append(program.memory_analysis().temp_size_in_bytes)
    assert temporary[0] == temporary[1]


@pytest.mark.slow
def test_a_hundred_million_rows_cost_what_ten_million_cost(compiler_options):
    costs = []
    for num_rows in (10_000_000, 100_000_000):
        model = model_of(num_rows, "in_batch_softmax", dim=4)
        program = compiled(model, compiler_options)
        assert made(program, num_rows) == {"scatter"}
        costs.append(program.memory_analysis().temp_size_in_bytes)
    assert costs[0] == costs[1]


def test_a_step_that_adds_up_all_counts_would_be_found_out(compiler_options):
    def step(counts, rows):
        return counts.at[rows].add(1), counts[rows] / counts.sum()

    counts = jax.ShapeDtypeStruct((10_000_000,), "int32")
    rows = jax.ShapeDtypeStruct((BATCH,), "int32")
    lowered = jax.jit(step, donate_argnums=0).lower(counts, rows)
    assert "copy" in made(lowered.compile(compiler_options), 10_000_000)
