"""The objectives, against hand values, NumPy and each other."""

import dataclasses
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import ops

from keras_dp_retrieval import losses
from keras_dp_retrieval._jax import membership
from keras_dp_retrieval.losses import (
    BucketedSoftmax,
    FullSoftmax,
    InBatchSoftmax,
    Objective,
    PairwiseObjective,
    RatingError,
    ScoredBatch,
    known_columns,
)

ONE_POSITIVE = [FullSoftmax, InBatchSoftmax]


def make_batch(users, table, candidate_rows, **kwargs):
    """A batch over a plain table; every candidate is real by default."""
    table = jnp.asarray(table, "float32")
    given = {
        "weights": np.ones(len(users), "float32"),
        "candidate_counts": np.ones(len(table), "float32"),
    }
    known = kwargs.pop("known_positives", None)
    return ScoredBatch(
        user_vectors=jnp.asarray(users, "float32"),
        candidate_rows=jnp.asarray(candidate_rows, "int32"),
        lookup=lambda rows: jnp.take(table, rows, axis=0),
        all_candidate_vectors=lambda: table,
        known_positives=None if known is None else jnp.asarray(known, "int32"),
        **{k: jnp.asarray(v) for k, v in {**given, **kwargs}.items()},
    )


def random_case(seed=0, batch=6, num_candidates=11, dim=4, spread=1.0):
    rng = np.random.default_rng(seed)
    users = rng.normal(0, spread, (batch, dim))
    table = rng.normal(0, spread, (num_candidates, dim))
    rows = rng.integers(1, num_candidates, batch)
    counts = rng.integers(1, 50, num_candidates).astype("float32")
    known = rng.integers(-1, num_candidates, (batch, 3))
    return users, table, rows, counts, known


def runner(objective, with_gradients=True):
    """Compiles `run(users, table, rows, ...) -> losses, gradients`.

    The gradients are those of the summed losses, of the users and the table.
    """

    # Unoptimised code compiles in half the time, and the cases are tiny.
    @functools.partial(
        jax.jit, compiler_options={"xla_backend_optimization_level": 0}
    )
    def compute(users, table, arrays):
        def total(users, table):
            found = objective(make_batch(users, table, **arrays))
            return jnp.sum(found), found

        # Draws change the state of a generator, and would leak from here.
        variables = objective.non_trainable_variables
        mapping = [(variable, variable.value) for variable in variables]
        with keras.StatelessScope(state_mapping=mapping):
            if not with_gradients:
                return total(users, table)[1], None
            (_, found), of_both = jax.value_and_grad(
                total, argnums=(0, 1), has_aux=True
            )(users, table)
        return found, of_both

    def run(users, table, rows, **kwargs):
        kwargs.setdefault("known_positives", np.full((len(rows), 3), -1))
        kwargs.setdefault("candidate_counts", np.ones(len(table), "float32"))
        kwargs.setdefault("weights", np.ones(len(rows), "float32"))
        kwargs = {k: np.asarray(v) for k, v in kwargs.items()}
        users, table = np.float32(users), np.float32(table)
        return compute(users, table, {"candidate_rows": rows, **kwargs})

    run.compute = compute
    return run


def values(objective, *args, **kwargs):
    return runner(objective, with_gradients=False)(*args, **kwargs)[0]


def gradients(objective, *args, **kwargs):
    return runner(objective)(*args, **kwargs)[1]


def log_sum_exp(values):
    values = np.asarray(values, "float64")
    if not len(values):
        return -np.inf
    return values.max() + np.log(np.exp(values - values.max()).sum())


# --- Ratings ---------------------------------------------------------------


def test_rating_error_is_the_squared_error_of_the_dot_product():
    batch = make_batch(
        [[1.0, 2.0], [0.0, 1.0]],
        [[9.0, 9.0], [3.0, 1.0], [1.0, 0.5]],
        [1, 2],
        ratings=np.array([4.0, 1.0], "float32"),
    )
    # 1*3 + 2*1 = 5 against 4; 0.5 against 1.
    np.testing.assert_allclose(RatingError()(batch), [1.0, 0.25])


def test_pairwise_objective_is_the_wrapped_loss_per_example():
    users, table, rows, _, _ = random_case()
    ratings = np.linspace(-1, 1, len(rows)).astype("float32")
    batch = make_batch(users, table, rows, ratings=ratings)
    error = np.sum(users * table[rows], axis=1) - ratings
    for loss, expected in [
        (keras.losses.MeanSquaredError(), error**2),
        (keras.losses.MeanAbsoluteError(reduction="sum"), np.abs(error)),
    ]:
        found = PairwiseObjective(loss)(batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "objective", [RatingError(), PairwiseObjective("MeanSquaredError")]
)
def test_missing_ratings_are_named(objective):
    assert objective.needs_ratings
    with pytest.raises(ValueError, match=r"needs a rating .*full_softmax"):
        objective(make_batch([[1.0]], [[1.0], [1.0]], [1]))


def test_a_loss_that_averages_is_refused():
    class Averaging(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return ops.mean(y_true - y_pred)

    batch = make_batch([[1.0]], [[1.0]], [0], ratings=np.ones(1))
    with pytest.raises(ValueError, match=r"one value per example.*Averaging"):
        PairwiseObjective(Averaging())(batch)


# --- Full softmax ----------------------------------------------------------


def full_softmax_oracle(
    users, table, positives, counts, known, temperature, mask, power, logq
):
    """One example and one positive at a time, in float64."""
    share = (counts + 1.0) / (counts + 1.0).sum()
    result = []
    for user, own, liked in zip(users, positives, known, strict=True):
        own = [p for p in own if p >= 0]
        scores = table @ user / temperature - logq * np.log(share)
        total = 0.0
        for positive in own:
            out = {*own, *liked} if mask else set()
            if counts[0] == 0 and not (positives == 0).any():
                out.add(0)
            negatives = [
                scores[c]
                for c in range(len(table))
                if c not in out and c != positive
            ]
            total += log_sum_exp([scores[positive], *negatives])
            total -= scores[positive]
        result.append(total * max(len(own), 1) ** -power)
    return np.array(result)


def test_full_softmax_hand_value():
    # Scores 0, ln 2, ln 3 over temperature 1: p(2) = 3 / (1 + 2 + 3).
    table = np.log([[1.0], [2.0], [3.0]])
    args = [[1.0]], table, np.array([2])
    loss = values(FullSoftmax(temperature=1.0), *args)
    np.testing.assert_allclose(loss, [math.log(2)], rtol=1e-6)
    # Temperature 1/2 squares the odds: 9 / (1 + 4 + 9).
    loss = values(FullSoftmax(temperature=0.5), *args)
    np.testing.assert_allclose(loss, [math.log(14 / 9)], rtol=1e-6)


@pytest.mark.parametrize("mask, chunk_size", [(True, None), (False, 4)])
def test_full_softmax_equals_the_oracle(mask, chunk_size):
    objective = FullSoftmax(
        0.3,
        mask_known_positives=mask,
        positives_power=0.5,
        logq_power=0.4,
        chunk_size=chunk_size,
    )
    run = runner(objective, with_gradients=False)
    for seed in range(6):
        users, table, _, counts, known = random_case(seed)
        counts[0] = seed % 2
        rng = np.random.default_rng(seed)
        positives = np.full((len(users), 4), -1)
        for row in positives:
            length = rng.integers(0, 5)
            row[:length] = rng.choice(np.arange(1, 11), length, replace=False)
        found, _ = run(
            users,
            table,
            positives,
            candidate_counts=counts,
            known_positives=known,
        )
        expected = full_softmax_oracle(
            users, table, positives, counts, known, 0.3, mask, 0.5, 0.4
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_top_k_hand_value():
    # Scores 0, ln 2, ln 3 and 5 for a known positive, which is no negative.
    # The second best negative has 0: the factor of ln 3 is
    # sigmoid(ln 3 - 0) = 3/4, at half the temperature 9/10.
    table = np.array([[0.0], [math.log(2)], [math.log(3)], [5.0]])
    args = [[1.0]], table, np.array([2])
    kwargs = {"known_positives": [[3, -1, -1]]}
    for sharpness, factor in ((1.0, 3 / 4), (0.5, 9 / 10)):
        objective = FullSoftmax(1.0, top_k=2, top_k_temperature=sharpness)
        loss = values(objective, *args, **kwargs)
        np.testing.assert_allclose(loss, [factor * math.log(2)], rtol=1e-6)
    # With fewer negatives than `top_k`, all counts in full.
    loss = values(FullSoftmax(1.0, top_k=4), *args, **kwargs)
    np.testing.assert_allclose(loss, [math.log(2)], rtol=1e-6)
    # The k-th score is of dot products, whatever the temperature.
    loss = values(FullSoftmax(0.5, top_k=2), *args, **kwargs)
    np.testing.assert_allclose(loss, [0.75 * math.log(14 / 9)], rtol=1e-6)


def test_top_k_has_no_gradient_through_the_factors():
    users, table, rows, _, _ = random_case()
    _, of_table = gradients(FullSoftmax(1.0, top_k=1), users, table, rows)

    def by_hand(table):
        total = 0.0
        for user, row in zip(users, rows, strict=True):
            scores = jnp.asarray(table @ user)
            others = jnp.delete(scores, row)
            factor = jax.nn.sigmoid(scores[row] - others.max())
            loss = jax.nn.logsumexp(scores) - scores[row]
            total += jax.lax.stop_gradient(factor) * loss
        return total

    expected = jax.grad(by_hand)(jnp.float32(table))
    np.testing.assert_allclose(of_table, expected, rtol=1e-4, atol=1e-5)


def test_top_k_goes_with_all_logits_at_once():
    with pytest.raises(ValueError, match=r"without `chunk_size`.*Leave one"):
        FullSoftmax(top_k=10, chunk_size=100)


def test_row_of_several_positives_is_the_sum_of_single_ones():
    users, table, _, counts, _ = random_case(1, batch=3)
    own = np.array([[2, 5, 7]] * 3)
    users[:] = users[0]
    kwargs = {"candidate_counts": counts, "known_positives": own}
    alone = values(FullSoftmax(), users, table, own[0], **kwargs)
    for power in (0.0, 0.5, 1.0):
        weighted = FullSoftmax(positives_power=power)
        found = values(weighted, users, table, own, **kwargs)
        np.testing.assert_allclose(found, sum(alone) / 3**power, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}], ids=["all", "top k"])
@pytest.mark.parametrize("mask", [True, False])
def test_backends_without_jax_compute_the_same_full_softmax(
    options, mask, monkeypatch
):
    users, table, rows, counts, known = random_case(9)
    several = np.stack([rows, np.where(rows > 5, rows - 3, -1)], axis=1)
    several[0, 0] = 0  # It competes once it was chosen.
    known[1, 0] = 0
    kwargs = {"candidate_counts": counts, "known_positives": known}
    options = {"mask_known_positives": mask, "logq_power": 0.4, **options}
    objective = FullSoftmax(0.3, **options)
    expected = runner(objective)(users, table, several, **kwargs)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    found = runner(objective)(users, table, several, **kwargs)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match=r"`chunk_size` needs .*'torch'"):
        FullSoftmax(chunk_size=4)


def test_a_rating_weighs_the_term_of_its_positive():
    users, table, rows, _, _ = random_case()
    ratings = np.array([5, 3, 1, 4, 4, 1], "float32")  # 3 on average.
    weighted = FullSoftmax(rating_weight=0.25)
    np.testing.assert_allclose(
        values(weighted, users, table, rows, ratings=ratings),
        values(FullSoftmax(), users, table, rows) * (1 + 0.25 * (ratings - 3)),
        rtol=1e-5,
    )
    # Without ratings, all weigh the same.
    np.testing.assert_allclose(
        values(weighted, users, table, rows),
        values(FullSoftmax(), users, table, rows),
        rtol=1e-6,
    )
    # Alone, a rating is its own mean.
    alone = users[:1], table, rows[:1]
    np.testing.assert_allclose(
        values(weighted, *alone, ratings=ratings[:1]),
        values(FullSoftmax(), *alone),
        rtol=1e-6,
    )
    # The first user has two positives, the second one and padding.
    several, of_each = np.array([[1, 2], [3, -1]]), np.float32([[5, 1], [3, 9]])
    options = {"positives_power": 0.0, "mask_known_positives": False}
    found = values(
        FullSoftmax(rating_weight=0.25, **options),
        users[:2],
        table,
        several,
        ratings=of_each,
    )
    each = values(
        FullSoftmax(**options), users[[0, 0, 1]], table, np.array([1, 2, 3])
    )
    expected = [1.5 * each[0] + 0.5 * each[1], each[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_known_positives_have_no_share_in_the_full_softmax():
    users, table, rows, _, known = random_case(2)
    _, of_table = gradients(
        FullSoftmax(), users[:1], table, rows[:1], known_positives=known[:1]
    )
    others = [c for c in known[0] if c >= 0 and c != rows[0]]
    assert others
    np.testing.assert_array_equal(of_table[np.array(others)], 0.0)
    assert np.all(np.any(of_table != 0, axis=1).sum() > 3)


def test_row_zero_competes_once_it_was_chosen():
    users, table, rows, _, _ = random_case(3)
    run = runner(FullSoftmax())
    counts = np.ones(11, "float32")
    counts[0] = 0.0
    chosen = rows.copy()
    chosen[0] = 0
    for rows_now, counts_now, competes in [
        (rows, counts, False),
        (rows, np.ones(11, "float32"), True),
        (chosen, counts, True),
    ]:
        _, (_, of_table) = run(
            users, table, rows_now, candidate_counts=counts_now
        )
        assert bool(np.any(of_table[0] != 0)) == competes
    # Not where padding has it.
    for weight, first in [(1.0, 0), (0.0, 1)]:
        weights = np.ones(6, "float32")
        weights[0] = weight
        loss = values(
            FullSoftmax(1.0),
            users,
            table,
            chosen,
            candidate_counts=counts,
            weights=weights,
        )
        for row in (0, 1):
            scores = users[row] @ table.T
            expected = log_sum_exp(scores[first:]) - scores[chosen[row]]
            if row or weight:
                np.testing.assert_allclose(loss[row], expected, rtol=1e-5)
    # Any other candidate competes from the start.
    counts[:] = 0.0
    _, (_, of_table) = run(users, table, rows, candidate_counts=counts)
    assert np.all(np.any(of_table[1:] != 0, axis=1))


@pytest.mark.parametrize("mask", [True, False])
def test_chunked_equals_whole_with_gradients(mask):
    users, table, _, counts, known = random_case(4)  # 11 candidates
    positives = np.array(
        [[1, 2, 3], [10, 0, -1], [5, -1, -1], [7, 8, 9], [4, 6, 2], [0, 1, 10]]
    )
    kwargs = {
        "candidate_counts": counts,
        "known_positives": known,
        "weights": np.array([1, 1, 0, 1, 1, 0.5], "float32"),
    }
    whole = FullSoftmax(mask_known_positives=mask, logq_power=0.2)
    expected = runner(whole)(users, table, positives, **kwargs)
    for chunk_size in [1, 4, 100] if mask else [10]:
        config = {**whole.get_config(), "chunk_size": chunk_size}
        chunked = FullSoftmax.from_config(config)
        found = runner(chunked)(users, table, positives, **kwargs)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(
                one, other, atol=2e-5, rtol=1e-5
            ),
            found,
            expected,
        )


@pytest.mark.usefixtures("no_compilation_cache")
def test_memory_of_the_chunked_softmax_follows_the_chunk(compiler_options):
    batch, num_candidates, dim, chunk_size = 64, 40_000, 8, 1_000
    users = np.ones((batch, dim), "float32")
    table = np.ones((num_candidates, dim), "float32")

    def extra_bytes(objective):
        def total(users, table):
            batch_of_rows = make_batch(users, table, np.arange(batch))
            return jnp.sum(objective(batch_of_rows))

        step = jax.jit(jax.grad(total, argnums=(0, 1)))
        compiled = step.lower(users, table).compile(compiler_options)
        return compiled.memory_analysis().temp_size_in_bytes

    table_bytes = num_candidates * dim * 4
    logits_bytes = batch * num_candidates * 4
    chunk_bytes = batch * chunk_size * 4
    assert extra_bytes(FullSoftmax()) > logits_bytes
    found = extra_bytes(FullSoftmax(chunk_size=chunk_size))
    # The docstring's bound: vectors and gradient, and a few chunks of logits.
    assert found < 2 * table_bytes + 6 * chunk_bytes < logits_bytes


# --- In-batch softmax ------------------------------------------------------


def in_batch_oracle(
    users, table, rows, counts, weights, known, temperature, logq, drawn=()
):
    """One example at a time, in float64."""
    share = (counts + 1.0) / (counts + 1.0).sum()
    real = [j for j in range(len(rows)) if weights[j] > 0]
    expected_count = (len(real) - 1) * share + len(drawn) / len(table)
    result = np.zeros(len(rows))
    for i in real:
        scores = table @ users[i] / temperature
        if logq:
            scores_of_negatives = scores - np.log(expected_count)
        else:
            scores_of_negatives = scores
        columns = [rows[j] for j in real if j != i] + list(drawn)
        out = {rows[i], *known[i]}
        negatives = [scores_of_negatives[c] for c in columns if c not in out]
        result[i] = log_sum_exp([scores[rows[i]], *negatives])
        result[i] -= scores[rows[i]]
    return result


def test_in_batch_softmax_hand_value():
    table = np.log([[1.0], [2.0], [3.0]])
    loss = values(
        InBatchSoftmax(1.0, logq="off"), np.ones((3, 1)), table, np.arange(3)
    )
    expected = np.log([6 / 1, 6 / 2, 6 / 3])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_logq_hand_value():
    # Candidate 1 makes up (5 + 1) / 8 of all positives, and one negative is
    # drawn: it stands for 1 / (6 / 8) candidates like it.
    table = np.log([[2.0], [3.0]])
    counts = np.array([1.0, 5.0], "float32")
    args = np.ones((2, 1)), table, np.arange(2)
    loss = values(InBatchSoftmax(1.0), *args, candidate_counts=counts)[0]
    expected = math.log((2 + 3 / (6 / 8)) / 2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # The standard correction divides the positive by its count as well.
    standard = InBatchSoftmax(1.0, logq="standard")
    loss = values(standard, *args, candidate_counts=counts)[0]
    expected = math.log((2 / (2 / 8) + 3 / (6 / 8)) / (2 / (2 / 8)))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("logq", ["corrected", "off"])
def test_in_batch_softmax_equals_the_oracle(logq):
    run = runner(InBatchSoftmax(0.3, logq=logq), with_gradients=False)
    weights = np.array([1, 1, 0, 1, 0.5, 1, 1, 0, 1], "float32")
    for seed in range(6):
        users, table, rows, counts, known = random_case(seed, batch=9)
        found, _ = run(
            users,
            table,
            rows,
            candidate_counts=counts,
            weights=weights,
            known_positives=known,
        )
        corrected = logq == "corrected"
        expected = in_batch_oracle(
            users, table, rows, counts, weights, known, 0.3, corrected
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_size", [6, 1])
def test_uniform_negatives_join_with_their_own_share(batch_size):
    users, table, rows, counts, known = random_case(5)
    users, rows, known = (one[:batch_size] for one in (users, rows, known))
    objective = InBatchSoftmax(0.3, num_uniform_negatives=5, seed=7)
    found = values(
        objective,
        users,
        table,
        rows,
        candidate_counts=counts,
        known_positives=known,
    )
    batch = make_batch(users, table, rows, candidate_counts=counts)
    drawn, is_real = objective._draw(batch)  # As just drawn, and the next.
    assert np.all(is_real)
    assert np.any(drawn != objective._draw(batch)[0])
    weights = np.ones(len(rows))
    expected = in_batch_oracle(
        users, table, rows, counts, weights, known, 0.3, True, np.array(drawn)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_seed_says_which_negatives_are_drawn():
    users, table, rows, _, _ = random_case(5, num_candidates=500)
    batch = make_batch(users, table, rows)

    def drawn(seed):
        objective = InBatchSoftmax(num_uniform_negatives=20, seed=seed)
        return np.asarray(objective._draw(batch)[0])

    np.testing.assert_array_equal(drawn(1), drawn(1))
    assert (drawn(1) != drawn(2)).any()


def test_every_row_is_drawn():
    users, table, rows, _, _ = random_case(5)
    batch = make_batch(users, table, rows)
    objective = InBatchSoftmax(num_uniform_negatives=500, seed=0)
    drawn = np.unique(objective._draw(batch)[0])
    np.testing.assert_array_equal(drawn, np.arange(11))


@pytest.mark.parametrize(
    "objective",
    [
        RatingError(),
        PairwiseObjective(keras.losses.Huber()),
        InBatchSoftmax(),
        BucketedSoftmax(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_what_an_objective_cannot_learn_from_is_named(objective):
    users, table, rows, _, _ = random_case(5)
    name = type(objective).__name__
    several = np.stack([rows, rows], axis=1)
    ratings = np.ones(several.shape, "float32")
    batch = make_batch(users, table, several, ratings=ratings)
    with pytest.raises(ValueError, match=f"`{name}` takes one candidate"):
        objective(batch)
    if objective.needs_ratings:
        with pytest.raises(ValueError, match=f"`{name}` needs a rating for"):
            objective(make_batch(users, table, rows))


def test_accidental_hit_is_no_negative():
    # Examples 0 and 2 chose the same candidate.
    users, table, _, _, _ = random_case(6, batch=3)
    rows = np.array([4, 2, 4])
    scores = users @ table.T
    loss = values(InBatchSoftmax(1.0, logq="off"), users, table, rows)
    expected = np.log1p(np.exp(scores[0, 2] - scores[0, 4]))
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)
    counted = InBatchSoftmax(1.0, logq="off", mask_accidental_hits=False)
    loss = values(counted, users, table, rows)
    expected = np.log(2 + np.exp(scores[0, 2] - scores[0, 4]))
    np.testing.assert_allclose(loss[0], expected, rtol=1e-5)


def test_hard_negatives_are_the_largest_corrected_logits():
    users, table, _, counts, _ = random_case(7, batch=8)
    rows = np.arange(1, 9)
    args, kwargs = (users, table, rows), {"candidate_counts": counts}
    found = values(InBatchSoftmax(0.5, hard_negatives=2), *args, **kwargs)
    share = (counts + 1) / (counts + 1).sum()
    for i in range(8):
        scores = table @ users[i] / 0.5
        corrected = (scores - np.log(7 * share))[np.delete(rows, i)]
        kept = np.sort(corrected)[-2:]
        expected = log_sum_exp([scores[rows[i]], *kept]) - scores[rows[i]]
        np.testing.assert_allclose(found[i], expected, rtol=1e-4)
    every = values(InBatchSoftmax(0.5, hard_negatives=100), *args, **kwargs)
    expected = values(InBatchSoftmax(0.5), *args, **kwargs)
    np.testing.assert_allclose(every, expected, rtol=1e-5)


def test_columns_in_lists_equals_plain_comparison():
    rng = np.random.default_rng(0)
    lists = rng.integers(-1, 9, (7, 4)).astype("int32")
    columns = rng.integers(0, 12, 20).astype("int32")
    expected = (lists[:, :, None] == columns).any(axis=1)
    found = known_columns.columns_in(jnp.asarray(lists), jnp.asarray(columns))
    np.testing.assert_array_equal(found, expected)


def test_corrected_sum_is_unbiased():
    # The expectation over every possible pair of negatives, weighted by how
    # likely it is to be drawn, must be the full sum over the catalogue.
    rng = np.random.default_rng(0)
    counts = np.array([4.0, 1.0, 9.0, 2.0, 6.0]) * 1e6
    share = (counts + 1) / (counts + 1).sum()
    table, user = rng.normal(size=(5, 3)), rng.normal(size=3)
    scores = table @ user
    mean = dict.fromkeys(["corrected", "off"], 0.0)
    for logq in mean:
        run = runner(InBatchSoftmax(1.0, logq=logq), with_gradients=False)
        for pair in itertools.product(range(5), repeat=2):
            found, _ = run(
                [user] * 3, table, np.array([3, *pair]), candidate_counts=counts
            )
            estimate = math.exp(found[0] + scores[3])
            mean[logq] += share[list(pair)].prod() * estimate
    full = np.exp(scores).sum()
    np.testing.assert_allclose(mean["corrected"], full, rtol=1e-5)
    assert abs(mean["off"] - full) > 0.1 * full


def test_mixed_corrected_sum_is_unbiased():
    # As above, with one negative of the batch and one drawn uniformly.
    rng = np.random.default_rng(1)
    counts = np.array([4.0, 1.0, 9.0, 2.0]) * 1e6
    share = (counts + 1) / (counts + 1).sum()
    table, user = rng.normal(size=(4, 3)), rng.normal(size=3)
    scores, mean = table @ user, 0.0
    objective = InBatchSoftmax(1.0, num_uniform_negatives=1)
    for drawn in range(4):
        objective._draw = lambda batch, row=drawn: (jnp.array([row]), True)
        run = runner(objective, with_gradients=False)
        for first in range(4):
            found, _ = run(
                [user] * 2, table, np.array([2, first]), candidate_counts=counts
            )
            mean += share[first] / 4 * math.exp(found[0] + scores[2])
    np.testing.assert_allclose(mean, np.exp(scores).sum(), rtol=1e-5)


def test_logq_finds_the_optimum_of_the_full_softmax():
    # One user, free scores: the full softmax's optimum is log p(candidate).
    chosen = np.array([0.05, 0.15, 0.3, 0.5])
    table = jnp.eye(4)
    rng = np.random.default_rng(0)
    batches = rng.choice(4, (1500, 64), p=chosen)

    def learned(**options):
        objective = InBatchSoftmax(1.0, **options)

        @jax.jit
        def train(scores, batches):
            def step(carry, rows):
                def total(scores):
                    users = jnp.broadcast_to(scores, (64, 4))
                    batch = make_batch(
                        users, table, rows, candidate_counts=chosen * 1e6
                    )
                    return jnp.mean(objective(batch))

                scores, mean, index = carry
                scores -= 0.5 * jax.grad(total)(scores)
                mean += jnp.where(index >= 500, scores / 1000, 0.0)
                return (scores, mean, index + 1), None

            start = (scores, jnp.zeros(4), 0)
            return jax.lax.scan(step, start, batches)[0][1]

        return np.asarray(jax.nn.softmax(train(jnp.zeros(4), batches)))

    np.testing.assert_allclose(learned(), chosen, atol=0.02)
    # Without the correction popularity is lost: what is left is how much more
    # often this user chooses a candidate than all users do, here not at all.
    uncorrected = learned(logq="off", mask_accidental_hits=False)
    np.testing.assert_allclose(uncorrected, 0.25, atol=0.02)


# --- Bucketed softmax -------------------------------------------------------


def of_everything(objective=BucketedSoftmax, **options):
    """An objective whose every bucket has all examples and candidates."""
    options = {
        "examples_per_bucket": 99,
        "candidates_per_bucket": 99,
        **options,
    }
    return objective(seed=0, num_buckets=2, **options)


def test_bucketed_softmax_hand_value():
    # Scores 0, ln 2, ln 3 over temperature 1: p(2) = 3 / (1 + 2 + 3).
    table = np.log([[1.0], [2.0], [3.0]])
    args = [[1.0]], table, np.array([2])
    loss = values(of_everything(temperature=1.0), *args)
    np.testing.assert_allclose(loss, [math.log(2)], rtol=1e-6)
    # With the farthest candidate alone, in one direction or the other: that
    # is the positive itself, which is no negative, or candidate 0.
    loss = values(
        BucketedSoftmax(1.0, num_buckets=9, candidates_per_bucket=1, seed=0),
        *args,
    )
    np.testing.assert_allclose(loss, [math.log(4 / 3)], rtol=1e-6)


@pytest.mark.parametrize("mask", [True, False])
def test_buckets_of_everything_are_the_full_softmax(mask):
    users, table, rows, counts, known = random_case(3)
    counts[np.setdiff1d(np.arange(11), rows)[:2]] = 0  # Training has not them.
    kwargs = {"candidate_counts": counts, "known_positives": known}
    options = {"temperature": 0.5, "mask_known_positives": mask}
    expected = runner(FullSoftmax(**options))(users, table, rows, **kwargs)
    found = runner(of_everything(**options))(users, table, rows, **kwargs)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        found,
        expected,
    )


@pytest.mark.slow
def test_bucketed_softmax_is_the_largest_loss_of_an_examples_buckets():
    users, table, rows, _, known = random_case(4, batch=9, num_candidates=40)
    objective = BucketedSoftmax(
        0.5, num_buckets=4, examples_per_bucket=3, candidates_per_bucket=7
    )
    batch = make_batch(users, table, rows, known_positives=known)
    state = np.array(objective.seed_generator.state)
    examples, columns = (
        np.asarray(part)
        for part in objective._buckets(
            batch, jnp.float32(users), jnp.float32(table), batch.weights > 0
        )
    )
    objective.seed_generator.state.assign(state)
    expected = np.zeros(9)
    for bucket, candidates in zip(examples, columns, strict=True):
        for example in bucket:
            scores = table @ users[example] / 0.5
            out = {rows[example], *known[example]}
            negatives = [scores[c] for c in candidates if c not in out]
            own = scores[rows[example]]
            loss = log_sum_exp([own, *negatives]) - own
            expected[example] = max(expected[example], loss)
    found = objective(batch)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert 0 < (expected == 0).sum() < 9  # Some are in no bucket.


def test_candidates_of_a_bucket_are_hard_negatives():
    users, table, rows, _, _ = random_case(5, batch=64, num_candidates=500)
    objective = BucketedSoftmax(candidates_per_bucket=25, seed=1)
    examples, columns = objective._buckets(
        make_batch(users, table, rows),
        jnp.float32(users),
        jnp.float32(table),
        np.ones(64, bool),
    )
    assert np.unique(examples).size > 55  # Most are in a bucket.
    scores = users @ table.T
    in_buckets = [
        scores[np.ix_(*pair)].mean()
        for pair in zip(np.asarray(examples), np.asarray(columns), strict=True)
    ]
    assert np.mean(in_buckets) > scores.mean() + scores.std()


def test_the_seed_says_what_is_in_the_buckets():
    users, table, rows, _, _ = random_case(5, batch=64, num_candidates=500)

    def columns(seed):
        objective = BucketedSoftmax(candidates_per_bucket=25, seed=seed)
        batch = make_batch(users, table, rows)
        arrays = jnp.float32(users), jnp.float32(table), np.ones(64, bool)
        return np.asarray(objective._buckets(batch, *arrays)[1])

    np.testing.assert_array_equal(columns(1), columns(1))
    assert (columns(1) != columns(2)).any()


def test_padding_does_not_choose_what_is_in_the_buckets():
    users, table, rows, _, _ = random_case(5, batch=64, num_candidates=500)
    exists = np.arange(64) < 40

    def buckets(of_padding):
        vectors = np.where(exists[:, None], users, of_padding)
        objective = BucketedSoftmax(candidates_per_bucket=25, seed=1)
        batch = make_batch(vectors, table, rows)
        arrays = jnp.float32(vectors), jnp.float32(table), exists
        return [np.asarray(part) for part in objective._buckets(batch, *arrays)]

    examples, columns = buckets(0.0)
    assert examples.shape == (16, 16)  # Twice the square root of 64.
    assert columns.shape == (16, 25)
    assert examples.max() < 40
    for found, expected in zip(buckets(9.0), (examples, columns), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [InBatchSoftmax, BucketedSoftmax])
def test_several_positives_per_row_are_refused(kind):
    message = rf"{kind.__name__}.*one candidate.*\(1, 2\).*FullSoft"
    with pytest.raises(ValueError, match=message):
        kind()(make_batch([[1.0]], [[1.0], [2.0]], [[0, 1]]))


# --- Known positives without padding -----------------------------------------


def lists_of(histories, numbers, lengths=None):
    starts = np.cumsum([0, *map(len, histories)])
    # One more, as a history without interactions needs something to read.
    rows = np.concatenate([*histories, [0]])
    as_rows = functools.partial(jnp.asarray, dtype="int32")
    return membership.Lists(
        as_rows(starts),
        as_rows(rows),
        as_rows(numbers),
        None if lengths is None else as_rows(lengths),
    )


def uneven_case(seed=0, batch=16):
    """Histories from nothing to longer than the rest together, repeats too."""
    rng = np.random.default_rng(seed)
    sizes = [0, 3, 0, 200, 7, 1]
    histories = [rng.integers(1, 30, size) for size in sizes]
    numbers = rng.integers(0, len(sizes), batch)
    lengths = rng.integers(0, 12, batch)
    columns = rng.integers(0, 30, 40)
    return histories, numbers, lengths, columns


@pytest.mark.parametrize("chunk", [8, 16_384])
@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_lists_are_looked_up_as_one_would_by_hand(
    monkeypatch, on_devices, chunk, by_length, num_devices
):
    on_devices(num_devices)
    monkeypatch.setattr(membership, "CHUNK", chunk)
    histories, numbers, lengths, columns = uneven_case()
    lists = lists_of(histories, numbers, lengths if by_length else None)
    seen = [
        set(histories[n][:length] if by_length else histories[n])
        for n, length in zip(numbers, lengths, strict=True)
    ]
    found = jax.jit(membership.among)(lists, jnp.asarray(columns, "int32"))
    expected = [[c in row for c in columns] for row in seen]
    np.testing.assert_array_equal(found, expected)
    for first, size in [(0, 30), (4, 10)]:
        found = jax.jit(membership.within, static_argnums=2)(lists, first, size)
        expected = [
            [c in row for c in range(first, first + size)] for row in seen
        ]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "objective",
    [
        FullSoftmax(),
        FullSoftmax(chunk_size=7),
        BucketedSoftmax(candidates_per_bucket=9, seed=3),
        InBatchSoftmax(num_uniform_negatives=5, seed=3),
    ],
    ids=["full", "chunked", "buckets", "in batch"],
)
def test_known_lists_give_what_padded_lists_give(objective):
    histories, numbers, lengths, _ = uneven_case(1)
    users, table, rows, counts, _ = random_case(5, batch=16, num_candidates=30)
    lists = lists_of(histories, numbers, lengths)
    padded = np.full((16, 12), -1)
    for row, number, length in zip(padded, numbers, lengths, strict=True):
        kept = histories[number][:length]
        row[: len(kept)] = kept

    @jax.jit
    def run(users, table, known):
        variables = objective.non_trainable_variables
        mapping = [(variable, variable.value) for variable in variables]

        def total(users, table):
            batch = make_batch(users, table, rows, candidate_counts=counts)
            batch = dataclasses.replace(batch, **known)
            with keras.StatelessScope(state_mapping=mapping):
                found = objective(batch)
            return jnp.sum(found), found

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
            users, table
        )

    users, table = jnp.float32(users), jnp.float32(table)
    expected = run(users, table, {"known_positives": jnp.asarray(padded)})
    found = run(users, table, {"known_lists": lists})
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


@pytest.mark.usefixtures("no_compilation_cache")
@pytest.mark.slow
def test_one_long_history_costs_nobody_else_anything(compiler_options):
    # Memory stands for time: both follow the padding, if there is any.
    def extra_bytes(objective, longest):
        lists = lists_of([np.arange(3), np.arange(longest)], np.zeros(64, int))
        users, table, rows, _, _ = random_case(2, batch=64, num_candidates=900)

        def total(users, table, lists):
            batch = make_batch(users, table, rows)
            return jnp.sum(
                objective(dataclasses.replace(batch, known_lists=lists))
            )

        step = jax.jit(jax.grad(total, argnums=(0, 1)))
        lowered = step.lower(jnp.float32(users), jnp.float32(table), lists)
        compiled = lowered.compile(compiler_options)
        return compiled.memory_analysis().temp_size_in_bytes

    for objective in (FullSoftmax(), InBatchSoftmax()):
        assert extra_bytes(objective, 100_000) <= 1.01 * extra_bytes(
            objective, 3
        )


# --- Padding, extremes, devices --------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [*ONE_POSITIVE, functools.partial(FullSoftmax, top_k=3), of_everything],
    ids=["full", "in batch", "top k", "buckets"],
)
def test_padded_rows_change_nothing(objective):
    users, table, rows, counts, known = random_case(8)
    table[rows[2]] += 3.0  # The padding's candidate would be a strong negative.
    padding = np.array([2, 2, 2])

    def padded(array):
        return np.concatenate([array, array[padding]])

    kwargs = {"candidate_counts": counts, "known_positives": known}
    more = {
        "candidate_counts": counts,
        "known_positives": padded(known),
        "weights": np.array([1] * 6 + [0] * 3, "float32"),
    }
    run = runner(objective())
    expected = run(users, table, rows, **kwargs)
    found = run(padded(users), table, padded(rows), **more)
    np.testing.assert_allclose(found[0][:6], expected[0], atol=1e-5)
    np.testing.assert_array_equal(found[0][6:], 0.0)
    (of_users, of_table), (of_padded_users, of_same_table) = (
        expected[1],
        found[1],
    )
    np.testing.assert_allclose(of_padded_users[:6], of_users, atol=1e-4)
    np.testing.assert_array_equal(of_padded_users[6:], 0.0)
    np.testing.assert_allclose(of_same_table, of_table, atol=1e-4)


EXTREMES: list[dict] = [
    {"keep": 1},
    {"weights": np.zeros(6, "float32")},
    {"known": np.tile(np.arange(11), (6, 1))},
    {"counts": np.zeros(11, "float32")},
    {"spread": 1e4},
    {"spread": 0.0},
]


@pytest.mark.parametrize(
    "objective",
    [
        FullSoftmax(1e-3),
        FullSoftmax(1e-3, mask_known_positives=False),
        FullSoftmax(1e-3, chunk_size=3),
        FullSoftmax(1e-3, top_k=4, top_k_temperature=1e-3),
        FullSoftmax(learn_temperature=True),
        BucketedSoftmax(1e-3, num_buckets=3, candidates_per_bucket=4),
        InBatchSoftmax(1e-3),
        InBatchSoftmax(1e-3, logq="standard"),
        InBatchSoftmax(1e-3, hard_negatives=2, num_uniform_negatives=3),
    ],
    ids=lambda objective: objective.name,
)
def test_losses_and_gradients_are_finite_at_extremes(objective):
    run = runner(objective)
    for extreme in EXTREMES:
        spread, keep = extreme.get("spread", 1.0), extreme.get("keep", 6)
        users, table, rows, counts, _ = random_case(9, spread=spread)
        kwargs = {
            "candidate_counts": extreme.get("counts", counts),
            "known_positives": extreme.get("known", np.full((6, 11), -1)),
            "weights": extreme.get("weights", np.ones(6, "float32")),
        }
        if keep < 6:
            kwargs["known_positives"] = kwargs["known_positives"][:keep]
            kwargs["weights"] = kwargs["weights"][:keep]
        found = run(users[:keep], table, rows[:keep], **kwargs)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))
        assert np.all(np.asarray(found[0]) >= 0)


def test_no_negatives_no_loss():
    users, table, rows, _, _ = random_case(10)
    everything = np.tile(np.arange(11), (6, 1))
    no_positives = np.full((6, 2), -1)
    for objective in (FullSoftmax(), FullSoftmax(chunk_size=5)):
        run = runner(objective)
        found, _ = run(users, table, rows, known_positives=everything)
        np.testing.assert_array_equal(found, np.zeros(6))
        np.testing.assert_array_equal(
            run(users, table, no_positives)[0], np.zeros(6)
        )
    found = values(InBatchSoftmax(), users[:1], table, rows[:1])
    np.testing.assert_array_equal(found, [0.0])


def test_half_precision_vectors_are_scored_in_float32():
    users, table, rows, _, _ = random_case(11)
    batch = make_batch(users, table, rows)
    batch.user_vectors = batch.user_vectors.astype("bfloat16")
    for objective in (FullSoftmax(), InBatchSoftmax()):
        assert jax.eval_shape(lambda o=objective: o(batch)).dtype == "float32"


@pytest.mark.parametrize(
    "objective",
    [
        FullSoftmax(),
        FullSoftmax(chunk_size=4),
        FullSoftmax(top_k=3),
        BucketedSoftmax(candidates_per_bucket=5, seed=2),
        InBatchSoftmax(num_uniform_negatives=6, seed=1),
        InBatchSoftmax(hard_negatives=3),
    ],
    ids=["full", "chunked", "top k", "buckets", "mixed", "hard"],
)
def test_eight_devices_equal_one(objective):
    users, table, rows, counts, known = random_case(12, batch=16)
    run = runner(objective)
    weights = np.array([1] * 13 + [0] * 3, "float32")
    names = {"weights": weights, "known_positives": known}
    expected = run(users, table, rows, candidate_counts=counts, **names)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
    assert mesh.size == 8

    def put(array, *axes):
        spec = jax.sharding.PartitionSpec(*axes)
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

    found = run.compute(
        put(np.float32(users), "batch"),
        put(np.float32(table)),
        {
            "candidate_rows": put(rows, "batch"),
            "candidate_counts": put(counts),
            **{name: put(array, "batch") for name, array in names.items()},
        },
    )
    assert len(found[0].sharding.device_set) == 8
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(
            one, other, rtol=1e-5, atol=1e-5
        ),
        found,
        expected,
    )


# --- Temperature, configuration, saving ------------------------------------


def test_learned_temperature_starts_there_and_learns():
    users, table, rows, _, _ = random_case(13)
    fixed, learned = FullSoftmax(0.5), FullSoftmax(0.5, learn_temperature=True)
    np.testing.assert_allclose(
        values(learned, users, table, rows),
        values(fixed, users, table, rows),
        rtol=1e-6,
    )
    batch = make_batch(users, table, rows)
    (weight,) = learned.trainable_variables

    @jax.jit
    def total(value):
        with keras.StatelessScope(state_mapping=[(weight, value)]):
            return jnp.sum(learned(batch))

    step = 1e-2
    slope = (total(jnp.array(step)) - total(jnp.array(-step))) / (2 * step)
    found = jax.grad(total)(jnp.array(0.0))
    np.testing.assert_allclose(found, slope, rtol=1e-2)


def test_learned_temperature_stays_in_its_limits_and_comes_back():
    objective = FullSoftmax(0.5, learn_temperature=True)
    weight = objective.log_temperature_ratio
    for value, limit in [(-100.0, 0.01), (100.0, 10.0)]:
        weight.assign(value)
        found = objective.current_temperature()
        np.testing.assert_allclose(found, limit, rtol=1e-5)

        def temperature(value):
            with keras.StatelessScope(state_mapping=[(weight, value)]):
                return objective.current_temperature()

        assert jax.grad(temperature)(jnp.array(value)) > 0


CONFIGURED = [
    RatingError(),
    FullSoftmax(
        np.float32(0.5),
        learn_temperature=True,
        normalize=False,
        mask_known_positives=False,
        positives_power=1.0,
        logq_power=-0.1,
        chunk_size=np.int64(7),
        name="mine",
    ),
    FullSoftmax(top_k=np.int64(5), top_k_temperature=0.3, name="top"),
    BucketedSoftmax(
        0.5,
        mask_known_positives=False,
        num_buckets=3,
        examples_per_bucket=np.int64(4),
        candidates_per_bucket=5,
        seed=6,
    ),
    InBatchSoftmax(
        0.5,
        learn_temperature=True,
        normalize=False,
        logq="standard",
        mask_accidental_hits=False,
        mask_known_positives=False,
        hard_negatives=3,
        num_uniform_negatives=5,
        seed=11,
    ),
    PairwiseObjective(keras.losses.Huber(delta=0.3)),
]


@pytest.mark.parametrize("objective", CONFIGURED, ids=lambda o: o.name)
def test_config_survives_json(objective):
    config = keras.saving.serialize_keras_object(objective)
    through_json = json.loads(json.dumps(config))
    again = losses.get(through_json)
    assert type(again) is type(objective)
    assert json.dumps(again.get_config()) == json.dumps(objective.get_config())
    assert again.normalize == objective.normalize


class Holder(keras.Model):
    """Something that saves an objective as a model does."""

    def __init__(self, objective, **kwargs):
        super().__init__(**kwargs)
        self.objective = objective
        self.built = True

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("learn", [True, False])
def test_saved_temperature_and_draws_go_on_where_they_were(tmp_path, learn):
    users, table, rows, _, _ = random_case(14)
    batch = make_batch(users, table, rows)
    options = {"num_uniform_negatives": 4, "learn_temperature": learn}
    before = Holder(InBatchSoftmax(0.5, seed=1, **options))
    before.objective._draw(batch)
    if learn:
        before.objective.log_temperature_ratio.assign(0.7)
    before.save_weights(tmp_path / "some.weights.h5")
    expected = [before.objective._draw(batch)[0] for _ in range(2)]
    after = Holder(InBatchSoftmax(0.5, seed=2, **options))
    after.load_weights(tmp_path / "some.weights.h5")
    found = [after.objective._draw(batch)[0] for _ in range(2)]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        after.objective.current_temperature(),
        before.objective.current_temperature(),
    )


def test_weights_go_between_objectives_that_draw_and_those_that_do_not(
    tmp_path,
):
    path = tmp_path / "some.weights.h5"
    with_draws = Holder(InBatchSoftmax(seed=1, num_uniform_negatives=4))
    without = Holder(InBatchSoftmax())
    state = np.array(with_draws.objective.seed_generator.state)
    for one, other in [(with_draws, without), (without, with_draws)]:
        one.save_weights(path)
        other.load_weights(path)
    np.testing.assert_array_equal(
        with_draws.objective.seed_generator.state, state
    )


@pytest.mark.parametrize(
    "name, kind",
    [
        ("rating", RatingError),
        ("full_softmax", FullSoftmax),
        ("in_batch_softmax", InBatchSoftmax),
        ("bucketed_softmax", BucketedSoftmax),
    ],
)
def test_get_knows_names(name, kind):
    assert type(losses.get(name)) is kind


def test_get_takes_objects_and_losses():
    objective = FullSoftmax()
    assert losses.get(objective) is objective
    wrapped = losses.get(keras.losses.Huber())
    assert isinstance(wrapped, PairwiseObjective)
    config = keras.saving.serialize_keras_object(keras.losses.Huber())
    assert isinstance(losses.get(config), PairwiseObjective)


@pytest.mark.parametrize("wrong", [None, "softmax", 3, {}, FullSoftmax])
def test_get_names_what_works(wrong):
    with pytest.raises(ValueError, match=r"'rating', 'full_softmax', .*Loss"):
        losses.get(wrong)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("temperature", lambda: FullSoftmax(0)),
        ("temperature", lambda: FullSoftmax(float("nan"))),
        ("temperature", lambda: FullSoftmax(100.0, learn_temperature=True)),
        ("positives_power", lambda: FullSoftmax(positives_power=2)),
        ("chunk_size", lambda: FullSoftmax(chunk_size=0)),
        ("top_k", lambda: FullSoftmax(top_k=0)),
        (
            "top_k_temperature",
            lambda: FullSoftmax(top_k=1, top_k_temperature=0),
        ),
        ("seed", lambda: BucketedSoftmax(seed=-1)),
        ("seed", lambda: InBatchSoftmax(seed=-1)),
        ("num_buckets", lambda: BucketedSoftmax(num_buckets=0)),
        (
            "examples_per_bucket",
            lambda: BucketedSoftmax(examples_per_bucket=-1),
        ),
        (
            "candidates_per_bucket",
            lambda: BucketedSoftmax(candidates_per_bucket=0),
        ),
        ("logq", lambda: InBatchSoftmax(logq="on")),
        (
            "mask_accidental_hits",
            lambda: InBatchSoftmax(mask_accidental_hits=2),
        ),
        ("normalize", lambda: FullSoftmax(normalize="yes")),
        ("mask_known_positives", lambda: FullSoftmax(mask_known_positives=2)),
        ("learn_temperature", lambda: FullSoftmax(learn_temperature="yes")),
        ("rating_weight", lambda: FullSoftmax(rating_weight="1")),
        ("logq_power", lambda: FullSoftmax(logq_power=float("nan"))),
        ("hard_negatives", lambda: InBatchSoftmax(hard_negatives=0)),
        (
            "num_uniform_negatives",
            lambda: InBatchSoftmax(num_uniform_negatives=-1),
        ),
        ("loss", lambda: PairwiseObjective(keras.losses.mean_squared_error)),
    ],
)
def test_arguments_are_checked_at_the_door(name, make):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        make()


def test_equal_scores_give_the_log_of_the_competitors():
    rng = np.random.default_rng(0)
    rows = rng.permutation(np.arange(200))[:64]
    args = np.zeros((64, 2)), np.zeros((200, 2)), rows
    for objective in [
        FullSoftmax(),
        InBatchSoftmax(),
        InBatchSoftmax(logq="off"),
        InBatchSoftmax(logq="off", num_uniform_negatives=5000),
        InBatchSoftmax(logq="off", hard_negatives=10),
    ]:
        found = float(np.mean(values(objective, *args)))
        level = math.log(objective.num_competitors(64, 200))
        assert abs(found - level) < 0.01 * level
    for number, options in [
        (64, {}),
        (5064, {"num_uniform_negatives": 5000}),
        (11, {"hard_negatives": 10}),
    ]:
        objective = InBatchSoftmax(logq="off", **options)
        assert objective.num_competitors(64, 200) == number
    for objective in [
        RatingError(),
        FullSoftmax(top_k=3),
        InBatchSoftmax(logq="standard"),
        InBatchSoftmax(hard_negatives=3),
    ]:
        assert objective.num_competitors(64, 200) is None


OF_EVERY_SOFTMAX = {
    "temperature": 0.15,
    "learn_temperature": False,
    "normalize": True,
    "mask_known_positives": True,
}


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (
            FullSoftmax,
            {
                "positives_power": 0.5,
                "rating_weight": 0.0,
                "logq_power": 0.0,
                "chunk_size": None,
                "top_k": None,
                "top_k_temperature": 1.0,
            },
        ),
        (
            InBatchSoftmax,
            {
                "logq": "corrected",
                "mask_accidental_hits": True,
                "hard_negatives": None,
                "num_uniform_negatives": 0,
                "seed": None,
            },
        ),
        (
            losses.BucketedSoftmax,
            {
                "num_buckets": None,
                "examples_per_bucket": None,
                "candidates_per_bucket": 256,
                "seed": None,
            },
        ),
    ],
)
def test_what_is_not_said_is_what_the_docstrings_say(kind, own):
    config = kind().get_config()
    for given in ("name", "trainable", "dtype"):
        del config[given]
    assert config == {**OF_EVERY_SOFTMAX, **own}
    assert {name: getattr(kind(), name) for name in config} == config


def test_the_full_softmax_is_the_default_up_to_100_000_candidates():
    assert losses.default_name(100_000) == "full_softmax"
    assert losses.default_name(100_001) == "in_batch_softmax"


def test_an_objective_of_ones_own_must_have_a_call():
    class Empty(Objective):
        pass

    with pytest.raises(NotImplementedError, match="Empty"):
        Empty()(make_batch([[1.0]], [[1.0]], [0]))
