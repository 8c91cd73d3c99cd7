import warnings

import keras
import numpy as np
import pytest
from keras import optimizers as ko

from keras_dp_retrieval.training import row_rules
from keras_dp_retrieval.warning_categories import TrainingWarning
from tests.row_models import assert_equal, pairs, trained, values

STEPS = 50
SCHEDULE = {"initial_learning_rate": 0.3, "decay_steps": 10, "decay_rate": 0.5}

EXACT = {
    "sgd": lambda: ko.SGD(0.3),
    "adagrad": lambda: ko.Adagrad(0.1, epsilon=0.01),
    "rmsprop": lambda: ko.RMSprop(0.01),
    "clipnorm": lambda: ko.Adagrad(0.1, clipnorm=0.02),
    "clipvalue": lambda: ko.RMSprop(0.01, clipvalue=0.003),
    "global_clipnorm": lambda: ko.SGD(0.3, global_clipnorm=0.05),
    "schedule": lambda: ko.SGD(ko.schedules.ExponentialDecay(**SCHEDULE)),
}
ON_EIGHT = ("sgd", "adagrad", "rmsprop", "global_clipnorm")


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [
        *((name, 1) for name in EXACT if name not in ON_EIGHT),
        *((name, 8) for name in ON_EIGHT),
        *(pytest.param(name, 1, marks=pytest.mark.slow) for name in ON_EIGHT),
    ],
)
def test_fifty_steps_by_row_equal_fifty_dense_steps(
    name, num_devices, on_devices
):
    on_devices(num_devices)
    x, y = pairs(16 * STEPS)
    by_row = trained(EXACT[name](), True, x, y)
    dense = trained(EXACT[name](), False, x, y)
    assert int(by_row.optimizer.iterations) == STEPS
    assert_equal(by_row, dense)
    np.testing.assert_allclose(
        by_row.history_of_fit["loss"], dense.history_of_fit["loss"], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_in_these_tests_is_strong_enough_to_matter(name):
    x, y = pairs(160)
    config = EXACT[name]().get_config()
    config[name] = None
    clipped = values(trained(EXACT[name](), True, x, y))
    free = values(trained(type(EXACT[name]()).from_config(config), True, x, y))
    assert any(np.abs(clipped[k] - free[k]).max() > 1e-3 for k in clipped)


# Every row of both tables in every batch of 16.
EVERY_ROW = {"num_users": 3, "num_candidates": 3}


def pairs_with_every_row(num_examples):
    x, y = pairs(num_examples, **EVERY_ROW)
    for row in range(3):
        x[row::16] = row
    return x, y


LAZY = {
    "lazy_adam": lambda: ko.Adam(0.01),
    "lazy_adamw": lambda: ko.AdamW(0.01, weight_decay=0.1),
    "decay": lambda: ko.Adagrad(0.1, weight_decay=0.1),
}


@pytest.mark.parametrize(
    ("name", "num_devices"),
    [("lazy_adam", 1), ("lazy_adamw", 8), ("decay", 1)],
)
def test_lazy_rules_equal_the_dense_ones_where_every_row_is_touched(
    name, num_devices, on_devices
):
    on_devices(num_devices)
    x, y = pairs_with_every_row(16 * STEPS)
    by_row = trained(LAZY[name](), True, x, y, **EVERY_ROW)
    dense = trained(LAZY[name](), False, x, y, **EVERY_ROW)
    assert_equal(by_row, dense)


@pytest.mark.parametrize("name", LAZY)
def test_lazy_rules_leave_rows_alone_that_no_step_touches(name):
    x, y = pairs(64)
    x[:, 0] = np.where(np.arange(64) < 16, 5, 7)  # User 5: first step only.
    once = values(trained(LAZY[name](), True, x[:16], y[:16]))
    later = values(trained(LAZY[name](), True, x, y))
    tables = [k for k in once if "users" in k]
    assert len(tables) > 1
    for path in tables:
        np.testing.assert_array_equal(once[path][5], later[path][5])
        assert not np.array_equal(once[path][7], later[path][7])


def test_excluded_tables_do_not_decay():
    def optimizer():
        made = ko.SGD(0.1, weight_decay=0.5)
        made.exclude_from_weight_decay(var_names=["embeddings"])
        return made

    x, y = pairs(160)
    plain = trained(ko.SGD(0.1), True, x, y, batch_size=160)
    excluded = trained(optimizer(), True, x, y, batch_size=160)
    for table, expected in zip(excluded.tables, plain.tables, strict=True):
        np.testing.assert_array_equal(table.numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("optimizer", "name", "exact"),
    [
        (ko.SGD(), "sgd", True),
        (ko.Adagrad(), "adagrad", True),
        (ko.RMSprop(), "rmsprop", True),
        (ko.Adam(), "lazy_adam", False),
        (ko.AdamW(), "lazy_adamw", False),
        (ko.Adagrad(weight_decay=0.1), "adagrad", False),
    ],
)
def test_a_rule_says_what_it_is(optimizer, name, exact):
    rule = row_rules.row_rule(optimizer)
    assert rule.get_config() == {"name": name, "exact": exact}
    assert row_rules.dense_reason(optimizer) is None


class MyAdagrad(ko.Adagrad):
    pass


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (ko.Adamax(), "optimizer Adamax"),
        (MyAdagrad(), "optimizer MyAdagrad"),
        (ko.LossScaleOptimizer(ko.SGD()), "optimizer LossScaleOptimizer"),
        (ko.SGD(momentum=0.9), r"SGD\(momentum=0.9\)"),
        (ko.RMSprop(momentum=0.9), r"RMSprop\(momentum=0.9\)"),
        (ko.RMSprop(centered=True), r"RMSprop\(centered=True\)"),
        (ko.Adam(amsgrad=True), r"Adam\(amsgrad=True\)"),
        (ko.SGD(use_ema=True), r"SGD\(use_ema=True\)"),
        (
            ko.SGD(gradient_accumulation_steps=2),
            r"SGD\(gradient_accumulation_steps=2\)",
        ),
        (ko.SGD(loss_scale_factor=2.0), r"SGD\(loss_scale_factor=2.0\)"),
    ],
)
def test_an_optimizer_without_a_rule_warns_once_and_is_dense(optimizer, reason):
    with pytest.warns(TrainingWarning, match=rf"updated densely: .*{reason}"):
        assert row_rules.row_rule(optimizer) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert row_rules.row_rule(optimizer) is None


def test_slots_are_those_of_the_variable():
    first, second = (keras.Variable(np.zeros((n, 2))) for n in (3, 5))
    optimizer = ko.Adam()
    optimizer.build([first, second])
    slots = row_rules.row_rule(optimizer).slots(second)
    assert [slot.shape for slot in slots] == [(5, 2), (5, 2)]
    assert ["momentum" in slots[0].path, "velocity" in slots[1].path] == [
        True
    ] * 2
