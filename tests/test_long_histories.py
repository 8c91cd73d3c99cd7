"""Histories of any length: summed in pieces, in bounded memory."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval._jax import list_sums
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.model.row_lists import parts_of
from keras_dp_retrieval.towers import history_sums
from keras_dp_retrieval.towers.history_lists import HistoryLists
from keras_dp_retrieval.towers.id_history import IdHistoryTower

NUM_USERS, NUM_CANDIDATES, DIM = 9, 60, 4

SLOW_DENSE = pytest.param("dense", marks=pytest.mark.slow)

# Around the borders of blocks and chunks; nobody, and one of almost all.
SIZES = [0, 31, 32, 33, 0, 1, 300, 64]


@pytest.fixture
def only_pieces(monkeypatch):
    """As if everything took too much room."""
    for name in ("MOST_COUNTS", "MOST_GATHERED"):
        monkeypatch.setattr(history_sums, name, 0)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(list_sums, "CHUNK", 128)


def interactions(seed=0):
    """Of the users 1 to 8; some rows are 0, which are no candidates."""
    rng = np.random.default_rng(seed)
    indptr = np.concatenate([[0, 0], np.cumsum(SIZES)])
    rows = rng.integers(0, NUM_CANDIDATES, indptr[-1]).astype("int32")
    return Interactions(indptr, rows)


def lists_of(form, users):
    """`(entries, padded)` of users, as a NumPy array at the end."""
    histories = kdr.Histories.from_interactions(interactions())
    padded = np.asarray(histories(users))
    lists = histories.unpadded(users)
    if form == "given":
        lists = HistoryLists.of_padded(jnp.asarray(padded))
    return list_sums.Entries(*lists), padded


def oracle(table, padded, kept=None):
    """Sums and numbers, one entry after the other."""
    sums, numbers = (
        np.zeros((len(padded), table.shape[1])),
        np.zeros(len(padded)),
    )
    for example, history in enumerate(padded):
        for index, row in enumerate(history):
            if row > 0 and (kept is None or kept[example, index]):
                sums[example] += table[row]
                numbers[example] += 1
    return sums, numbers


@pytest.mark.parametrize(
    ("rate", "form"),
    [
        (None, "stored"),
        (0.4, "given"),
        pytest.param(None, "given", marks=pytest.mark.slow),
        pytest.param(0.4, "stored", marks=pytest.mark.slow),
    ],
)
def test_pieces_are_the_plain_sum_and_so_is_their_gradient(
    form, rate, small_chunks
):
    users = np.array([7, 1, 2, 3, 4, 7, 6, 8, 5], "int32")
    entries, padded = lists_of(form, users)
    rng = np.random.default_rng(1)
    table = rng.normal(size=(NUM_CANDIDATES, DIM)).astype("float32")
    given = rng.normal(size=(len(users), DIM)).astype("float32")
    kept = None
    if rate:
        key = jnp.array([3, 5], "uint32")
        entries = entries._replace(key=key, rate=rate)
        kept = np.asarray(
            list_sums.is_kept(
                key, rate, np.arange(9)[:, None], np.arange(padded.shape[1])
            )
        )
        assert abs(kept.mean() - (1 - rate)) < 0.03
        assert (kept[0] != kept[5]).any()  # One user twice: drawn anew.

    @jax.jit
    def values_and_gradient(table, entries):
        (sums, numbers), pull = jax.vjp(
            lambda table: list_sums.list_sums(table, entries), table
        )
        return sums, numbers, pull((given, jnp.zeros_like(numbers)))[0]

    sums, numbers, gradient = values_and_gradient(table, entries)
    expected_sums, expected_numbers = oracle(table, padded, kept)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(numbers, expected_numbers)
    expected = np.zeros_like(table)
    for example, history in enumerate(padded):
        for index, row in enumerate(history):
            if row > 0 and (kept is None or kept[example, index]):
                expected[row] += given[example]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    # Row by row it is the same.
    rows, each = list_sums.looked_up(entries, given, NUM_CANDIDATES)
    by_row = np.zeros((NUM_CANDIDATES + 1, DIM))
    np.add.at(by_row, np.asarray(rows), np.asarray(each))
    np.testing.assert_allclose(by_row[:-1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(by_row[-1], 0)
    # A program of its own yields the same as a part of a larger one.
    np.testing.assert_allclose(
        list_sums.list_sums(table, entries)[0], sums, rtol=1e-5, atol=1e-6
    )


def model_of(updates="dense", item_dropout=0.0, num_candidates=NUM_CANDIDATES):
    keras.utils.set_random_seed(4)
    tower = kdr.IdHistoryTower(
        NUM_USERS,
        num_candidates,
        DIM,
        item_dropout=item_dropout,
        query_dropout=0.0,
        seed=2,
    )
    model = kdr.TwoTowerRetrieval(
        NUM_USERS,
        num_candidates,
        DIM,
        user_tower=tower,
        histories=kdr.Histories.from_interactions(interactions()),
        objective=kdr.InBatchSoftmax(),
        embedding_updates=updates,
    )
    model.compile(keras.optimizers.Adagrad(0.5))
    return model


def trained(**options):
    """The weights of the towers after an epoch, and the model."""
    model = model_of(**options)
    rng = np.random.default_rng(5)
    users = rng.integers(1, NUM_USERS, 48)
    items = rng.integers(1, NUM_CANDIDATES, 48)
    x = {"user_id": users, "length": rng.integers(0, 400, 48)}
    model.fit(x, {"movie_id": items}, batch_size=16, shuffle=False, verbose=0)
    return [np.asarray(v) for v in model.trainable_variables], model


def assert_same(some, others):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pieces_teach_what_padded_histories_teach(monkeypatch):
    padded, _ = trained()
    monkeypatch.setattr(history_sums, "MOST_COUNTS", 0)
    assert_same(trained()[0], padded)


# A table that is short beside the padded histories, and a long one.
@pytest.mark.parametrize(
    "num_candidates",
    [NUM_CANDIDATES, pytest.param(20_000, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_single_rows_are_updated_as_the_whole_table_is(
    num_candidates, only_pieces, recwarn
):
    options = {"item_dropout": 0.3, "num_candidates": num_candidates}
    dense, _ = trained(**options)
    sparse, _ = trained(updates="row_sparse", **options)
    assert_same(sparse, dense)
    assert not [w for w in recwarn if "densely" in str(w.message)]


@pytest.mark.slow
@pytest.mark.parametrize("updates", ["dense", "row_sparse"])
def test_devices_sum_their_own_histories(updates, only_pieces, on_devices):
    options = {"item_dropout": 0.3, "updates": updates}
    one, _ = trained(**options)
    on_devices(4)
    assert_same(trained(**options)[0], one)


@pytest.mark.slow
def test_a_tower_of_features_sums_in_pieces_too(monkeypatch):
    keras.utils.set_random_seed(0)
    features = kdr.RetrievalDataset.from_interactions(
        [1, 2, 3],
        [1, 2, 3],
        user_features={"user_id": [1, 2, 3], "kind": ["a", "b", "a"]},
        test_fraction=0,
        validation_fraction=0,
    ).user_features
    tower = kdr.FeatureTower(
        features,
        DIM,
        history=kdr.IdHistoryTower(
            NUM_USERS, NUM_CANDIDATES, DIM, item_dropout=0.0, seed=1
        ),
    )
    assert tower.takes_lists
    entries, padded = lists_of("stored", np.array([7, 1, 3]))
    lists = HistoryLists(*entries[:4])
    x = {"user_id": np.array([1, 2, 3]), "kind": np.array([1, 2, 0])}
    expected = tower({**x, "history": padded})
    monkeypatch.setattr(history_sums, "MOST_COUNTS", 0)
    got = tower({**x, "history": lists})
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


class OfMyOwn(IdHistoryTower):
    def call(self, inputs, training=False):
        rows, histories = inputs
        assert histories.shape[1:] == (300,)
        return super().call((rows, histories), training)


@pytest.mark.slow
def test_a_call_of_ones_own_is_given_padded_histories():
    histories = kdr.Histories.from_interactions(interactions())
    tower = OfMyOwn(NUM_USERS, NUM_CANDIDATES, DIM)
    model = kdr.TwoTowerRetrieval(
        NUM_USERS, NUM_CANDIDATES, DIM, user_tower=tower, histories=histories
    )
    assert model.encode_users([1, 2]).shape == (2, DIM)


@pytest.mark.parametrize(
    "max_length", [None, pytest.param(40, marks=pytest.mark.slow)]
)
def test_every_way_to_ask_for_users_gives_the_same_vectors(
    max_length, monkeypatch, only_pieces
):
    model = model_of()
    model.user_tower.max_length = max_length
    ids = np.arange(1, NUM_USERS)
    got = model.encode_users(ids)
    table = np.asarray(model.user_tower.items.embeddings)
    user_vectors = np.asarray(model.user_tower.ids.embeddings)
    histories = interactions().of(ids)
    expected = []
    for user, history in zip(ids, histories, strict=True):
        latest = history[-max_length:] if max_length else history
        latest = latest[latest > 0]
        total = table[latest].sum(axis=0) / np.sqrt(max(len(latest), 1))
        expected.append(user_vectors[user] + total)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    by_batch = model.predict(ids, batch_size=4, verbose=0)["user_embeddings"]
    np.testing.assert_allclose(by_batch, expected, rtol=1e-4, atol=1e-5)
    lists, scores = model.recommend(ids, k=3)
    monkeypatch.undo()
    again, same = model.recommend(ids, k=3)
    np.testing.assert_array_equal(lists, again)
    np.testing.assert_allclose(scores, same, rtol=1e-4)


@pytest.mark.slow
def test_metrics_in_fit_of_pieces_are_those_of_padded_histories(monkeypatch):
    data = kdr.RetrievalDataset.from_synthetic(
        40, 30, 600, batch_size=50, split="by_time"
    )
    shape = data.num_users, data.num_candidates, DIM
    tower = kdr.IdHistoryTower(*shape, seed=1)
    model = kdr.TwoTowerRetrieval.for_dataset(data, DIM, user_tower=tower)
    model.compile(keras.optimizers.Adagrad(0.5))
    padded = kdr.evaluate(model, data, "validation")
    monkeypatch.setattr(history_sums, "MOST_COUNTS", 0)
    monkeypatch.setattr(history_sums, "MOST_GATHERED", 0)
    assert kdr.evaluate(model, data, "validation") == pytest.approx(padded)
    metrics = kdr.RetrievalMetrics(data)
    logs = model.fit(data.train, callbacks=[metrics], verbose=0).history
    in_pieces = logs["val_ndcg_at_10"][-1]
    monkeypatch.undo()
    padded = kdr.evaluate(model, data, "validation")
    assert in_pieces == pytest.approx(padded["ndcg_at_10"])


@pytest.mark.slow
def test_pieces_are_exported_for_batches_of_any_size(only_pieces, tmp_path):
    import tensorflow as tf

    model = model_of()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    for users in (np.arange(1, 9, dtype="int32"), np.array([7], "int32")):
        found = served.serve(tf.constant(users))["user_embeddings"]
        expected = np.asarray(model.user_vectors(users))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_parts_of_users_take_no_more_room_than_they_may():
    lengths = np.array([3, 900, 20, 20, 3, 3, 3, 3, 3])
    parts = list(parts_of(lengths, size=4, room=64))
    covered = [i for part in parts for i in range(*part.indices(9))]
    assert covered == list(range(9))  # Each once, in order.
    sizes = [len(lengths[part]) for part in parts]
    assert sizes == [1, 1, 2, 4, 1]
    assert list(parts_of([], size=4, room=64)) == [slice(0, 4)]


# Memory, of programs that are compiled and never run


@pytest.fixture(scope="module")
def with_a_heavy_user():
    """A model of users with 5 interactions, and of one with 30,000."""
    num_users, num_candidates = 50, 500_000
    sizes = np.full(num_users - 1, 5)
    sizes[7] = 30_000
    indptr = np.concatenate([[0, 0], np.cumsum(sizes)])
    rng = np.random.default_rng(0)
    rows = rng.integers(1, num_candidates, indptr[-1])
    model = kdr.TwoTowerRetrieval(
        num_users,
        num_candidates,
        DIM,
        user_tower=kdr.IdHistoryTower(num_users, num_candidates, DIM),
        histories=kdr.Histories.from_interactions(Interactions(indptr, rows)),
        objective="in_batch_softmax",
    )
    model.compile("adagrad")
    model.build()
    model.optimizer.build(model.trainable_variables)
    return model


def shapes_of(variables):
    return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]


@pytest.mark.parametrize("updates", [SLOW_DENSE, "row_sparse"])
def test_a_step_with_a_heavy_user_takes_the_table_and_no_more(
    updates, with_a_heavy_user, compiler_options
):
    model, batch = with_a_heavy_user, 512
    model.embedding_updates = updates
    ids = jax.ShapeDtypeStruct((batch,), "int32")
    weights = jax.ShapeDtypeStruct((batch,), "float32")
    state = tuple(
        shapes_of(variables)
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )
    step = jax.jit(model.train_step, donate_argnums=0)
    program = step.lower(
        state, (ids, {"movie_id": ids, "rating": weights}, weights)
    ).compile(compiler_options)
    temporary = program.memory_analysis().temp_size_in_bytes
    table = 500_000 * DIM * 4
    gathered = batch * 30_000 * DIM * 4
    # A gradient of the table, and what is updated of it.
    assert temporary < 6 * table
    assert temporary < gathered / 5


def test_users_are_encoded_in_the_room_of_a_piece(
    with_a_heavy_user, compiler_options
):
    model, batch = with_a_heavy_user, 1024
    variables = [*model.trainable_variables, *model.non_trainable_variables]

    def encode(values, rows):
        mapping = zip(variables, values, strict=True)
        with keras.StatelessScope(list(mapping)):
            return encoding.user_vectors(model, rows)

    program = jax.jit(encode).lower(
        shapes_of(variables), jax.ShapeDtypeStruct((batch,), "int32")
    )
    memory = program.compile(compiler_options).memory_analysis()
    # Padded integers alone would take a hundred times as much.
    assert memory.temp_size_in_bytes < batch * 30_000 * 4 / 100
