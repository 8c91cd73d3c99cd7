"""SequenceTower: a causal transformer over the history."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.towers.sequence import distance_buckets

# What of one user came last need not be what came last of all.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:\d+% of the test interactions are older:UserWarning"
)

HISTORIES = np.array([[1, 2, 3, -1], [4, -1, -1, -1], [5, 0, 2, 6]])
USERS = np.zeros(3, int)


def tower_of(num_candidates=9, dim=4, seed=0, **options):
    """A tower whose weights are all random, those that begin as zeros, too."""
    options = {"num_blocks": 1, "max_length": 6, **options}
    tower = kdr.SequenceTower(num_candidates, dim, seed=seed, **options)
    rng = np.random.default_rng(seed)
    for weight in tower.trainable_weights:
        noise = rng.normal(0, 0.5, weight.shape)
        weight.assign(ops.convert_to_numpy(weight) + noise)
    return tower


def data_of(num_users=20, num_candidates=30, num_ratings=260, **options):
    options = {"split": "leave_last_out", "batch_size": 20, **options}
    return kdr.RetrievalDataset.from_synthetic(
        num_users, num_candidates, num_ratings, **options
    )


def model_of(data, tower=None, dim=4, **options):
    if tower is None:
        tower = kdr.SequenceTower(
            data.num_candidates, dim, num_blocks=1, max_length=6, seed=1
        )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, dim, user_tower=tower, objective="full_softmax", **options
    )
    model.compile(keras.optimizers.Adagrad(0.01))
    return model


# Against NumPy


def normalized(x, layer):
    gamma, beta = (ops.convert_to_numpy(w) for w in layer.weights)
    x = x - x.mean()
    return x / np.sqrt((x**2).mean() + layer.epsilon) * gamma + beta


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def oracle(tower, history):
    """The vector of one user, one position and one head after the other."""
    value = ops.convert_to_numpy
    buckets = distance_buckets(tower.max_length)
    table, dim = value(tower.items.embeddings), tower.embedding_dimension
    history = [row for row in history if row >= 0]
    x = [table[row] if row > 0 else np.zeros(dim) for row in history]
    for block, biases in zip(tower.blocks, tower.distance_biases, strict=True):
        w = {
            layer.name: value(layer.kernel)
            for layer in block._flatten_layers(include_self=False)
            if hasattr(layer, "kernel")
        }
        biases = value(biases)
        parts = [
            np.split(
                normalized(one, block.attention_norm) @ w["projections"], 3
            )
            for one in x
        ]
        after = []
        for i, own in enumerate(x):
            keys = [j for j in range(i + 1) if history[j] > 0]
            mixed = np.zeros(dim)
            for head in range(tower.num_heads):
                size = dim // tower.num_heads
                part = slice(head * size, (head + 1) * size)
                scores = np.array(
                    [
                        parts[i][0][part] @ parts[j][1][part] / np.sqrt(size)
                        + biases[buckets[i - j], head]
                        for j in keys
                    ]
                )
                shares = np.exp(scores) / np.exp(scores).sum()
                for share, j in zip(shares, keys, strict=True):
                    mixed[part] += share * parts[j][2][part]
            gate = sigmoid(own @ w["attention_gate"])
            own = own + gate * (mixed @ w["attention_output"])
            hidden = normalized(own, block.network_norm) @ w["hidden"]
            first, second = np.split(hidden, 2)
            network = (first * sigmoid(first) * second) @ w["network_output"]
            after.append(own + sigmoid(own @ w["network_gate"]) * network)
        x = after
    return normalized(x[-1], tower.norm)


def test_it_is_the_formula():
    tower = tower_of(num_blocks=2, num_heads=2, hidden_dimension=3)
    got = tower((USERS, HISTORIES))
    expected = [oracle(tower, history) for history in HISTORIES]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_attention_hand_value():
    # One head of one dimension; queries and keys of 0, so that the bias of
    # the distance alone decides: weights 3/4 and 1/4.
    from keras_dp_retrieval.towers.transformer_block import TransformerBlock

    block = TransformerBlock(1, 1, 1, dropout=0.0, seed=0, seed_generator=None)
    block.projections.kernel.assign([[0.0, 0.0, 1.0]])
    block.attention_output.kernel.assign([[1.0]])
    bias = np.log([[[1.0, 1.0], [1.0, 3.0]]]).astype("float32")
    got = block._attention(
        np.array([[[4.0], [8.0]]], "float32"), bias, np.tri(2, dtype=bool)[None]
    )
    np.testing.assert_allclose(got, [[[4.0], [4 / 4 + 8 * 3 / 4]]], rtol=1e-6)


def test_near_distances_have_a_bias_each_and_far_ones_share():
    np.testing.assert_array_equal(distance_buckets(17), np.arange(17))
    found = distance_buckets(129)
    assert (np.diff(found) >= 0).all()
    # Four to a doubling: 16, 32, 64 and 128 are the first of their kind.
    np.testing.assert_array_equal(found[[16, 32, 64, 128]], [16, 20, 24, 28])
    np.testing.assert_array_equal(np.unique(found), np.arange(29))


# What a history is


def test_a_later_item_does_not_change_what_came_before():
    tower = tower_of()
    positions = np.arange(4)[None]
    one = tower((USERS[:1], np.array([[1, 2, 3, 4]])), positions=positions)
    other = tower((USERS[:1], np.array([[1, 2, 3, 7]])), positions=positions)
    np.testing.assert_array_equal(one[:, :3], other[:, :3])
    assert np.abs(one[:, 3] - other[:, 3]).max() > 1e-3
    # And an earlier one does.
    other = tower((USERS[:1], np.array([[7, 2, 3, 4]])), positions=positions)
    assert (np.abs(one - other).max(axis=2) > 1e-3).all()


@pytest.mark.slow
def test_padding_changes_nothing():
    tower = tower_of()
    short = tower((USERS[:1], np.array([[1, 2, 3, -1]])))
    long = tower((USERS[:1], np.array([[1, 2, 3, -1, -1, -1]])))
    np.testing.assert_allclose(short, long, rtol=1e-5)


def test_how_long_ago_counts_and_not_how_long_the_history_is():
    tower = tower_of(num_candidates=9)
    # Unknown items are not attended to, so that these have one content.
    early = tower((USERS[:1], np.array([[1, 2, -1, -1]])))
    late = tower((USERS[:1], np.array([[0, 0, 1, 2]])))
    np.testing.assert_allclose(early, late, rtol=1e-5)


def test_order_matters():
    tower = tower_of()
    one = tower((USERS[:1], np.array([[1, 2, 3, 4]])))
    other = tower((USERS[:1], np.array([[2, 1, 3, 4]])))
    assert np.abs(one - other).max() > 1e-3


def test_without_a_known_item_the_vector_is_zero():
    tower = tower_of()
    nothing = np.array([[-1] * 4, [0, -1, -1, -1], [0] * 4])
    np.testing.assert_array_equal(tower((USERS, nothing)), 0)


@pytest.mark.slow
def test_the_latest_are_kept():
    tower = tower_of(max_length=2)
    long = tower((USERS[:1], np.array([[1, 2, 3, 4]])))
    np.testing.assert_array_equal(long, tower((USERS[:1], np.array([[3, 4]]))))


@pytest.mark.parametrize("kind", ["dropout", "item_dropout", "query_dropout"])
def test_dropouts_are_of_training_alone_and_seeded(kind):
    none = {"dropout": 0.0, "item_dropout": 0.0, "query_dropout": 0.0}
    tower, again = (tower_of(**{**none, kind: 0.5}) for _ in range(2))
    inputs = (USERS, HISTORIES)
    np.testing.assert_array_equal(tower(inputs), tower(inputs))
    wild = [np.asarray(tower(inputs, training=True)) for _ in range(2)]
    assert np.abs(wild[0] - wild[1]).max() > 0
    np.testing.assert_array_equal(again(inputs, training=True), wild[0])
    calm = tower_of(**none)
    np.testing.assert_array_equal(calm(inputs, training=True), calm(inputs))


def test_errors_say_what_would_work():
    with pytest.raises(ValueError, match=r"multiple of `num_heads`.*1 head"):
        kdr.SequenceTower(5, 6, num_heads=4)
    for name in ("num_blocks", "num_heads", "max_length", "hidden_dimension"):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            kdr.SequenceTower(5, 6, **{name: 0})
    with pytest.raises(ValueError, match="`dropout` must"):
        kdr.SequenceTower(5, 6, dropout=1.0)


@pytest.mark.slow
def test_half_precision_is_near():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = tower_of()
        got = half((USERS, HISTORIES))
        assert keras.backend.standardize_dtype(got.dtype) == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    expected = tower_of()((USERS, HISTORIES))
    np.testing.assert_allclose(
        ops.cast(got, "float32"), expected, atol=0.1, rtol=0.05
    )


# In a model


@pytest.mark.slow
def test_one_pass_has_the_vectors_of_all_prefixes():
    data = data_of()
    model = model_of(data, tower_of(data.num_candidates, max_length=100))
    for x, _, *_ in data.by_sequence(8, 100).as_numpy_iterator():
        together = encoding.user_vectors(model, x)
        for column in range(x["length"].shape[1]):
            alone = {**x, "length": x["length"][:, column]}
            real = alone["length"] > 0
            np.testing.assert_allclose(
                together[real, column],
                np.asarray(encoding.user_vectors(model, alone))[real],
                rtol=1e-3,
                atol=1e-5,
            )


@pytest.mark.slow
def test_towers_that_look_at_one_time_make_a_vector_for_each():
    data = data_of()
    model = model_of(data, kdr.RecencyTower(data.num_candidates, 4))
    (x, _, *_), *_ = data.by_sequence(8, 100).as_numpy_iterator()
    together = encoding.user_vectors(model, x)
    alone = encoding.user_vectors(model, {**x, "length": x["length"][:, 2]})
    np.testing.assert_allclose(together[:, 2], alone, rtol=1e-5)


def test_the_loss_is_the_mean_over_targets():
    data = data_of()
    model = model_of(data, tower_of(data.num_candidates, max_length=100))
    together = data.by_sequence(10**6, 100)
    one_by_one = data.next_items(10**6)
    found = [
        model.evaluate(one, verbose=0, return_dict=True)["loss"]
        for one in (together, one_by_one)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_lengths_too_far_apart_and_targets_that_do_not_fit_are_errors():
    data = data_of()
    model = model_of(data)
    with pytest.raises(ValueError, match=r"here 6.*by_sequence\(max_length=6"):
        model.fit(data.by_sequence(8, 9), verbose=0)
    x = {"user_id": np.ones(4, int), "length": np.ones((4, 3), int)}
    y = {"candidate_id": np.ones((4, 2), int)}
    with pytest.raises(ValueError, match="a target for each"):
        model.fit(x, y, batch_size=4, verbose=0)


@pytest.mark.slow
def test_it_learns_which_item_follows_which():
    # A cycle of 12 candidates: whoever had c has c + 1 next, seen before or
    # not. The mean of a history knows nothing of that.
    users = np.repeat(np.arange(1, 41), 6)
    candidates = (users + np.tile(np.arange(6), 40)) % 12 + 1
    data = kdr.RetrievalDataset.from_interactions(
        users,
        candidates,
        timestamps=np.tile(np.arange(6), 40),
        split="leave_last_out",
    )
    tower = kdr.SequenceTower(
        data.num_candidates, 8, num_blocks=1, max_length=6, seed=1
    )
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, user_tower=tower, objective="full_softmax"
    )
    model.compile(keras.optimizers.Adam(0.02), steps_per_execution=5)
    history = model.fit(data.by_sequence(8, 6), epochs=15, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    found = kdr.evaluate(model, data, "validation", ks=(1,))
    assert found["hit_rate_at_1"] > 0.9
    ids, _ = model.recommend(histories=[[3, 4, 5], [9, 10, 11]], k=1)
    np.testing.assert_array_equal(ids[:, 0], [6, 12])


@pytest.mark.slow
def test_saved_and_grown_it_recommends_the_same(tmp_path):
    data = data_of()
    model = model_of(data, tower_of(data.num_candidates))
    model.fit(data.by_sequence(8, 6), verbose=0)
    users = data.user_vocabulary.ids
    histories = [data.candidate_vocabulary.ids[:3]]
    ids, scores = model.recommend(users, k=5)
    fresh = model.recommend(histories=histories, k=5)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.recommend(users, k=5)[0], ids)
    np.testing.assert_allclose(
        loaded.recommend(histories=histories, k=5)[1], fresh[1], rtol=1e-6
    )
    loaded.add_users([10**6])
    loaded.add_candidates([10**6, 10**6 + 1])
    assert loaded.user_tower.num_candidates == data.num_candidates + 2
    assert loaded.user_tower.items.input_dim == data.num_candidates + 2
    np.testing.assert_allclose(
        loaded.recommend(users, k=5)[1], scores, rtol=1e-6
    )
    loaded.recommend(histories=[[10**6]], k=3)
    loaded.fit(data.by_sequence(8, 6), verbose=0)


@pytest.mark.slow
def test_rows_alone_are_updated_as_the_whole_table_is():
    def trained(updates):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        data = data_of()
        model = model_of(data, embedding_updates=updates)
        model.fit(data.by_sequence(8, 6), epochs=2, verbose=0)
        return [ops.convert_to_numpy(w) for w in model.trainable_weights]

    for dense, by_row in zip(
        trained("dense"), trained("row_sparse"), strict=True
    ):
        np.testing.assert_allclose(by_row, dense, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_four_devices_are_one(on_devices):
    def trained(num_devices):
        keras.utils.clear_session(free_memory=False)
        on_devices(num_devices)
        keras.utils.set_random_seed(3)
        data = data_of()
        model = model_of(data)
        examples = data.by_sequence(8, 6)
        source_of(examples).start_at_epoch(0)
        history = model.fit(examples, epochs=2, verbose=0).history
        return history["loss"], model.recommend(data.user_vocabulary.ids, k=5)

    (loss, (ids, scores)), (losses, (ids_of_4, scores_of_4)) = (
        trained(1),
        trained(4),
    )
    np.testing.assert_allclose(losses, loss, rtol=1e-5)
    np.testing.assert_array_equal(ids_of_4, ids)
    np.testing.assert_allclose(scores_of_4, scores, rtol=1e-4)


@pytest.mark.slow
def test_it_is_a_history_of_a_feature_tower(tmp_path):
    users = np.repeat(np.arange(1, 21), 8)
    data = kdr.RetrievalDataset.from_interactions(
        users,
        (users + np.tile(np.arange(8) * 3, 20)) % 25 + 1,
        timestamps=np.arange(160),
        split="leave_last_out",
        user_features={"user_id": range(1, 21), "sign": list("abcd") * 5},
    )
    tower = kdr.FeatureTower(
        data.user_features, 4, history=tower_of(data.num_candidates)
    )
    model = model_of(data, tower)
    model.fit(data.by_sequence(8, 6), verbose=0)
    model.fit(data.next_items(8), verbose=0)
    ids, _ = model.recommend(data.user_vocabulary.ids, k=3)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    again, _ = loaded.recommend(data.user_vocabulary.ids, k=3)
    np.testing.assert_array_equal(again, ids)


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_same_bits(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    def fit(*callbacks):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        data = data_of()
        model, examples = model_of(data), data.by_sequence(8, 6)
        shuffle = kdr.ShuffleTies(examples)
        model.fit(
            examples, epochs=4, verbose=0, callbacks=[shuffle, *callbacks]
        )
        return [ops.convert_to_numpy(w) for w in model.weights]

    expected = fit()
    resume = kdr.ResumeTraining(tmp_path, "epoch")
    with pytest.raises(KeyboardInterrupt):
        fit(resume, Stop())
    for got, weight in zip(fit(resume), expected, strict=True):
        np.testing.assert_array_equal(got, weight)
