import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.training import step_plan

NUM_USERS, NUM_CANDIDATES = 30, 20
OBJECTIVES = ["rating", "full_softmax", "in_batch_softmax"]


def interactions(num_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(1, NUM_USERS, num_rows)
    y = {
        "movie_id": rng.integers(1, NUM_CANDIDATES, num_rows),
        "rating": rng.random(num_rows).astype("float32"),
    }
    return x, y


def compiled_model(steps_per_execution=1, **kwargs):
    keras.utils.set_random_seed(1)
    model = kdr.TwoTowerRetrieval(NUM_USERS, NUM_CANDIDATES, 8, **kwargs)
    model.compile(
        keras.optimizers.Adagrad(0.1), steps_per_execution=steps_per_execution
    )
    return model


def largest_difference(first, second):
    return max(
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(first, second, strict=True)
    )


# What it learns


def test_rating_loss_is_the_mean_squared_error_of_the_dot_product():
    x, y = interactions(10)
    model = compiled_model(objective="rating")
    loss = model.evaluate(x, y, verbose=0)
    users, candidates = (
        model.encode_users(x),
        model.encode_candidates(y["movie_id"]),
    )
    scores = (users * candidates).sum(axis=1)
    assert loss == pytest.approx(np.mean((scores - y["rating"]) ** 2), 1e-5)


def test_a_row_of_weight_zero_does_not_exist():
    x, y = interactions(12)
    y["rating"][8:] = 1e6
    weights = np.repeat([1.0, 0.0], [8, 4])
    kept = {key: column[:8] for key, column in y.items()}
    for objective in OBJECTIVES:
        whole = compiled_model(objective=objective)
        part = compiled_model(objective=objective)
        whole.fit(x, y, sample_weight=weights, batch_size=12, verbose=0)
        part.fit(x[:8], kept, batch_size=8, verbose=0)
        assert largest_difference(
            whole.get_weights(), part.get_weights()
        ) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", ["auto", *OBJECTIVES])
def test_every_objective_learns_who_likes_what(objective):
    # Even users like even candidates, odd users odd ones.
    rng = np.random.default_rng(0)
    x = rng.integers(1, NUM_USERS, 2000)
    candidates = 2 * rng.integers(1, NUM_CANDIDATES // 2, 2000) + x % 2
    ratings = np.ones(2000, "float32")
    if objective == "rating":  # It needs dislikes to learn from.
        x = np.concatenate([x, x])
        candidates = np.concatenate([candidates, candidates ^ 1])
        ratings = np.concatenate([ratings, ratings * 0])
    model = compiled_model(objective=objective)
    y = {"movie_id": candidates, "rating": ratings}
    model.fit(x, y, batch_size=100, epochs=30, verbose=0)
    users = np.arange(1, NUM_USERS)
    ids, _ = model.recommend(users, k=5)
    assert (ids % 2 == users[:, None] % 2).mean() > 0.95


def test_counts_of_candidates_are_kept_and_saved(tmp_path):
    x, y = interactions(50)
    model = compiled_model(objective="in_batch_softmax")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    expected = 2 * np.bincount(y["movie_id"], minlength=NUM_CANDIDATES)
    np.testing.assert_array_equal(model.candidate_counts, expected)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(reloaded.candidate_counts, expected)


def test_the_objective_of_somebody_else():
    x, y = interactions(40)
    model = compiled_model(objective=keras.losses.MeanAbsoluteError())
    loss = model.evaluate(x, y, verbose=0)
    vectors = model.encode_candidates(y["movie_id"])
    scores = (model.encode_users(x) * vectors).sum(axis=1)
    assert loss == pytest.approx(np.abs(scores - y["rating"]).mean(), 1e-5)


def test_a_run_at_the_level_of_guessing_is_called_out():
    x, y = interactions(100)

    def fit(learning_rate, epochs):
        model = compiled_model(objective="full_softmax")
        # Equal candidates: every score is the same, and so is the gradient.
        table = model.candidate_tower
        table.build()
        table.set_weights([np.ones((NUM_CANDIDATES, 8))])
        model.compile(keras.optimizers.SGD(learning_rate))
        model.fit(x, y, epochs=epochs, verbose=0)

    with pytest.warns(UserWarning, match=r"ln\(19\) .* is not learning"):
        fit(learning_rate=0.0, epochs=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(learning_rate=0.0, epochs=2)  # Too early to tell.


def uneven_data(most, seed=0):
    """User 0 has `most` of 1,500 items, eleven others ten each."""
    rng = np.random.default_rng(seed)
    sizes = [most] + [10] * 11
    users = np.repeat(np.arange(12), sizes)
    items = np.concatenate([rng.permutation(1500)[:size] for size in sizes])
    return kdr.RetrievalDataset.from_interactions(
        users,
        items,
        ratings=rng.integers(1, 6, len(users)),
        test_fraction=0,
        validation_fraction=0,
    )


def test_a_user_with_many_positives_is_one_example_like_any_other():
    data = uneven_data(1300)
    seen = data.seen
    (x, y), *rest = data.by_user(64).as_numpy_iterator()
    assert not rest and sorted(x) == list(range(1, 13))
    for user, rows in zip(x, y["candidate_id"], strict=True):
        assert sorted(rows[rows >= 0]) == sorted(seen.of([user])[0])


def test_the_loss_of_a_user_with_many_positives_is_that_of_the_formula():
    data = uneven_data(1300)
    objective = kdr.losses.FullSoftmax(0.5, rating_weight=0.0)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 8, objective=objective)
    model.compile("sgd")
    loss = model.evaluate(data.by_user(64), verbose=0)
    users = np.asarray(model.user_vectors(np.arange(data.num_users)))
    candidates = np.asarray(model.candidate_vectors())
    logits = users @ candidates.T / 0.5
    total = 0.0
    for user in range(1, 13):
        own = data.seen.of([user])[0]
        others = np.setdiff1d(np.arange(1, data.num_candidates), own)
        others = np.log(np.exp(logits[user, others]).sum())
        terms = np.logaddexp(0.0, others - logits[user, own])
        total += terms.sum() / np.sqrt(len(own))
    assert loss == pytest.approx(total / 12, rel=1e-5)


# What it answers


def test_call_returns_vectors_and_only_outside_training_candidates():
    model = compiled_model(objective="rating", k=4)
    outputs = model(np.array([1, 2, 3]))
    assert outputs["user_embeddings"].shape == (3, 8)
    assert outputs["predictions"].shape == (3, 4)
    assert set(model(np.array([1]), training=True)) == {"user_embeddings"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_score_is_the_dot_product_of_the_encoded_vectors(objective):
    x, y = interactions(40)
    model = compiled_model(objective=objective)
    model.fit(x, y, verbose=0)
    ids, scores = model.recommend([3, 4], k=5)
    every = model.encode_users([3, 4]) @ model.encode_candidates().T
    order = np.argsort(-every, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(ids, model.retrievable_ids()[order])
    np.testing.assert_allclose(
        scores, np.take_along_axis(every, order, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("objective", ["rating", "full_softmax"])
def test_popularity_adds_what_the_docstring_says(objective, tmp_path):
    x, y = interactions(200)
    model = compiled_model(objective=objective)
    model.fit(x, y, epochs=2, verbose=0)
    plain = model.encode_users(x[:5]) @ model.encode_candidates().T
    loss = model.evaluate(x, y, verbose=0)
    model.predict(x[:5], verbose=0)  # Compiles it without an offset.
    model.build_index()
    model.popularity_weight = 0.7
    assert model.candidate_index is None  # It had the old vectors.
    counts = np.bincount(y["movie_id"], minlength=NUM_CANDIDATES)
    offsets = 0.7 * np.log1p(counts / counts.mean())
    expected = plain + offsets[1:]
    users, candidates = model.encode_users(x[:5]), model.encode_candidates()
    np.testing.assert_allclose(users @ candidates.T, expected, rtol=1e-5)
    best = 1 + np.argsort(-expected, axis=1)[:, :10]
    np.testing.assert_array_equal(
        model.predict(x[:5], verbose=0)["predictions"], best
    )
    np.testing.assert_array_equal(
        model.recommend(x[:5], exclude_seen=False)[0], best
    )
    model.build_index()
    np.testing.assert_array_equal(
        model.recommend(x[:5], exclude_seen=False)[0], best
    )
    # What is learned does not know of it.
    assert model.evaluate(x, y, verbose=0) == loss
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.encode_candidates(), candidates)
    # Twice as many epochs are no more popularity.
    before = candidates[:, -1]
    model.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_allclose(
        model.encode_candidates()[:, -1], before, rtol=1e-5
    )


def test_a_new_candidate_has_no_popularity():
    x, y = interactions(200)
    model = compiled_model(popularity_weight=0.5)
    model.fit(x, y, verbose=0)
    model.add_candidates(2, np.ones((2, 8)))
    assert model.encode_candidates().shape == (NUM_CANDIDATES + 1, 9)
    np.testing.assert_array_equal(model.encode_candidates()[-2:, -1], [0, 0])
    with pytest.raises(ValueError, match="`popularity_weight` must be a fin"):
        model.popularity_weight = np.nan


def test_row_zero_is_recommended_only_where_it_was_trained():
    x, y = interactions(200)
    model = compiled_model(objective="rating")
    model.fit(x, y, verbose=0)
    ids, _ = model.recommend(np.arange(NUM_USERS), k=NUM_CANDIDATES)
    assert not (ids == 0).any()
    model.fit(x, {**y, "movie_id": y["movie_id"] - 1}, verbose=0)
    ids, _ = model.recommend(np.arange(NUM_USERS), k=NUM_CANDIDATES)
    assert (ids == 0).any(axis=1).all()


def test_more_than_the_catalogue_is_filled_up():
    model = compiled_model(objective="rating")
    ids, scores = model.recommend([1], k=NUM_CANDIDATES + 5)
    assert sorted(ids[0, : NUM_CANDIDATES - 1]) == list(
        range(1, NUM_CANDIDATES)
    )
    assert (ids[0, NUM_CANDIDATES - 1 :] == -1).all()
    assert np.isneginf(scores[0, NUM_CANDIDATES - 1 :]).all()


def test_own_towers_over_features():
    # A candidate tower that mixes an id with its (fixed) features.
    @keras.saving.register_keras_serializable(package="test_model")
    class FeatureTower(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.table = keras.layers.Embedding(NUM_CANDIDATES, 4)
            self.dense = keras.layers.Dense(8)

        def call(self, rows):
            feature = ops.cast(rows % 2, "float32")[..., None]
            return self.dense(
                ops.concatenate([self.table(rows), feature], axis=-1)
            )

    user_tower = keras.Sequential(
        [keras.layers.Embedding(NUM_USERS, 16), keras.layers.Dense(8)]
    )
    model = compiled_model(
        objective="full_softmax",
        user_tower=user_tower,
        candidate_tower=FeatureTower(),
    )
    x, y = interactions(300)
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model.recommend([1, 2], k=3)[0].shape == (2, 3)


# Saving


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reloaded_model_answers_and_trains_the_same(objective, tmp_path):
    x, y = interactions(60)
    model = compiled_model(objective=objective, k=3)
    model.fit(x, y, batch_size=10, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    reloaded = keras.saving.load_model(tmp_path / "m.keras")
    before, after = (m.recommend([1, 2, 3], k=4) for m in (model, reloaded))
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    losses = [
        m.fit(x, y, batch_size=10, shuffle=False, verbose=0).history["loss"]
        for m in (model, reloaded)
    ]
    assert losses[0] == losses[1]


# Any number of rows, on any number of devices


def run_everything(num_rows, objective="rating", **kwargs):
    x, y = interactions(num_rows)
    model = compiled_model(objective=objective, **kwargs)
    history = model.fit(
        x, y, batch_size=16, epochs=2, validation_data=(x, y), verbose=0
    ).history
    return {
        "loss": history["loss"],
        "val_loss": history["val_loss"],
        "evaluate": model.evaluate(x, y, batch_size=16, verbose=0),
        "weights": model.get_weights(),
        "predict": model.predict(x, batch_size=16, verbose=0)["predictions"],
        "recommend": model.recommend(x[:3], k=5)[0],
    }


@pytest.mark.parametrize(
    ("num_rows", "objective"),
    [
        (37, "rating"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product((1, 37), OBJECTIVES)
            if case != (37, "rating")
        ),
    ],
)
def test_any_number_of_devices_gives_what_one_gives(
    on_devices, num_rows, objective
):
    on_devices(1)
    expected = run_everything(num_rows, objective)
    assert expected["predict"].shape == (num_rows, 10)
    for num_devices in (2, 8):
        keras.utils.clear_session(free_memory=False)
        on_devices(num_devices)
        got = run_everything(num_rows, objective)
        for name in ("loss", "val_loss", "evaluate"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)
        assert largest_difference(got["weights"], expected["weights"]) < 1e-5
        for name in ("predict", "recommend"):
            np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.usefixtures("no_compilation_cache")
@pytest.mark.parametrize("num_devices", [1, 4])
def test_a_step_is_compiled_once(on_devices, num_devices):
    on_devices(num_devices)
    model = compiled_model(objective="rating")
    callback = kdr.DistributionAwareCallback()
    x, y = interactions(64)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[callback])
    compiled = [record["compiled_steps"] for record in callback.history]
    assert compiled == [[0], [], []]


@pytest.mark.parametrize(
    "num_devices", [pytest.param(1, marks=pytest.mark.slow), 4]
)
def test_fused_steps_give_what_single_steps_give(on_devices, num_devices):
    on_devices(num_devices)
    expected = run_everything(77)
    keras.utils.clear_session(free_memory=False)
    on_devices(num_devices)
    # Five batches in groups of two: the last group is short.
    got = run_everything(77, steps_per_execution=2)
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-6)
    assert largest_difference(got["weights"], expected["weights"]) < 1e-6


@pytest.mark.parametrize(
    "objective",
    ["rating", pytest.param("in_batch_softmax", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "num_devices", [pytest.param(1, marks=pytest.mark.slow), 4]
)
def test_row_sparse_updates_give_what_dense_ones_give(
    on_devices, num_devices, objective
):
    on_devices(num_devices)
    options = {"objective": objective, "steps_per_execution": 2}
    expected = run_everything(77, embedding_updates="dense", **options)
    keras.utils.clear_session(free_memory=False)
    on_devices(num_devices)
    got = run_everything(77, embedding_updates="row_sparse", **options)
    np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)
    assert largest_difference(got["weights"], expected["weights"]) < 1e-5


def test_large_tables_are_updated_row_by_row_where_it_is_the_same():
    def tables(num_users, optimizer, objective="rating", updates="auto"):
        model = kdr.TwoTowerRetrieval(
            num_users, 30, 2, objective=objective, embedding_updates=updates
        )
        model.compile(optimizer)
        model.build()
        return len(step_plan.plan(model).tables)

    assert tables(50_000, keras.optimizers.Adagrad(0.1)) == 2
    assert tables(50, keras.optimizers.Adagrad(0.1)) == 0
    assert tables(50_000, keras.optimizers.Adam()) == 0  # Would be lazy.
    assert tables(50, keras.optimizers.Adam(), updates="row_sparse") == 2
    # A full softmax reads the whole candidate table.
    assert tables(50_000, keras.optimizers.SGD(), "full_softmax") == 1


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [NUM_USERS]}, r"from 0 to 29 .* Received: 30"),
        ({"x": [-1]}, r"from 0 to 29 .* Received: -1"),
        ({"x": [2**32 + 5]}, r"Received: 4294967301"),
        ({"x": [1.5]}, "must be whole numbers"),
        ({"movie_id": [NUM_CANDIDATES]}, r"Candidate ids .* Received: 20"),
        ({"rating": [np.nan]}, "finite numbers .* Received: 1 of 1"),
        ({"rating": [np.inf]}, "such as inf"),
        ({"rating": [1e19]}, r"at most 1e\+15 .* such as 1e\+19"),
        ({"rating": None}, "needs ratings"),
    ],
)
def test_bad_rows_are_refused_and_the_weights_survive(change, message):
    x, y = interactions(5)
    model = compiled_model(objective="rating")
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    change = {
        key: value if value is None else np.array(value)
        for key, value in change.items()
    }
    row = {"movie_id": np.array([1]), "rating": np.array([0.5]), **change}
    user = row.pop("x", np.array([1]))
    row = {key: column for key, column in row.items() if column is not None}
    with pytest.raises(ValueError, match=message):
        model.fit(user, row, verbose=0)
    assert largest_difference(before, model.get_weights()) == 0
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_empty_data_is_refused_and_the_weights_survive(call):
    x, y = interactions(5)
    model = compiled_model(objective="rating")
    model.fit(x, y, verbose=0)
    nothing = (x[:0],) if call == "predict" else (x[:0], {"movie_id": x[:0]})
    with pytest.raises(ValueError, match="at least one row"):
        getattr(model, call)(*nothing, verbose=0)
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("num_users", [0, -1, 2.5, "7", True])
def test_bad_counts_are_refused(num_users):
    with pytest.raises(ValueError, match=r"`num_users` must be a whole"):
        kdr.TwoTowerRetrieval(num_users, 5)


@pytest.mark.parametrize(
    "count", [np.int32(5), np.int64(5), np.array(5), ops.convert_to_tensor(5)]
)
def test_counts_of_any_integer_type_will_do(count):
    assert kdr.TwoTowerRetrieval(count, count, count).num_users == 5


def test_unknown_user_is_named():
    with pytest.raises(ValueError, match=r"from 0 to 29 .* Received: 99"):
        compiled_model().recommend([1, 99])


def test_the_former_name_of_popularity_weight_works_with_a_warning():
    with pytest.warns(FutureWarning, match=r"`popularity_weight` now.*0\.3"):
        model = kdr.TwoTowerRetrieval(9, 7, 4, popularity_offset=0.5)
    assert model.popularity_weight == 0.5
    with pytest.warns(FutureWarning, match="`popularity_weight` now"):
        model.popularity_offset = 0.25
    with pytest.warns(FutureWarning, match="`popularity_weight` now"):
        assert model.popularity_offset == 0.25
    assert model.popularity_weight == 0.25
    with pytest.raises(ValueError, match=r"give one of them\. Received: pop"):
        kdr.TwoTowerRetrieval(
            9, 7, 4, popularity_weight=0.5, popularity_offset=0.5
        )
