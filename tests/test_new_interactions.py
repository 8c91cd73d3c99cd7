"""A new day's interactions: what was learned stays, and the rest grows."""

import itertools
import json
import warnings

import keras
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import keras_dp_retrieval as kdr
from keras_dp_retrieval.model import growth
from keras_dp_retrieval.towers import IdHistoryTower, RecencyTower

# As a day with ids that nobody has seen, in no order, and known ones.
USERS = [f"user {number}" for number in range(9)]
ITEMS = [f"item {number}" for number in range(12)]


def day(number, num_users=9, num_items=12, num=60, **options):
    """Interactions of one day; users and items of high numbers are new."""
    rng = np.random.default_rng(number)
    # Each user and each item is there, and pairs are repeated.
    users = np.append(
        rng.permutation(num_users), rng.integers(0, num_users, num)
    )
    items = np.append(
        rng.permutation(num_items), rng.integers(0, num_items, num)
    )
    length = max(num_users, num_items) + num
    return kdr.RetrievalDataset.from_interactions(
        np.array(USERS)[np.resize(users, length)],
        np.array(ITEMS)[np.resize(items, length)],
        timestamps=1000 * number + rng.permutation(length),
        **{
            "validation_fraction": 0.0,
            "batch_size": 16,
            "candidate_key": "item",
            **options,
        },
    )


def first_day(**options):
    return day(1, num_users=6, num_items=8, **options)


def compiled(data, optimizer=None, **options):
    keras.utils.set_random_seed(1)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, **{"objective": "full_softmax", **options}
    )
    model.compile(optimizer or keras.optimizers.Adagrad(0.1))
    model.build()
    model.optimizer.build(model.trainable_variables)
    return model


def trained(data, optimizer=None, **options):
    model = compiled(data, optimizer, **options)
    model.fit(data.train, verbose=0)
    return model


def grown_by_hand(model, data):
    """What `add_interactions` says, step by step; returns train batches."""
    train = data.ratings("train")
    users = data.user_vocabulary.raw_ids(train.user_rows)
    items = data.candidate_vocabulary.raw_ids(train.candidate_rows)
    new = {}
    for side in ("user", "candidate"):
        known = set(getattr(model, f"{side}_vocabulary").ids.tolist())
        ids = getattr(data, f"{side}_vocabulary").ids.tolist()
        new[side] = [one for one in ids if one not in known]
    before = [
        list(model.histories.padded([row])[0]) for row in range(model.num_users)
    ]
    model.add_users(new["user"])
    model.add_candidates(new["candidate"])
    user_rows = model.user_vocabulary.rows(users)
    item_rows = model.candidate_vocabulary.rows(items)
    before += [[] for _ in new["user"]]
    lists = [[row for row in one if row >= 0] for one in before]
    for place in np.argsort(train.timestamps, kind="stable"):
        lists[user_rows[place]].append(item_rows[place])
    states = model.absent_candidates.numpy().copy()
    states[item_rows] = 0
    model.absent_candidates.assign(states)
    histories = model.histories
    histories.num_interactions = sum(map(len, lists))
    histories.max_length = max(map(len, lists))
    values = {
        "starts": np.cumsum([0, *map(len, lists)]),
        "candidate_rows": np.array([*itertools.chain(*lists), 0]),
    }
    with growth.undone_on_error() as undo:
        for name, value in values.items():
            growth.resize(getattr(histories, name), value, undo)
    return user_rows, {"item": item_rows}


def histories_of(model):
    rows = model.histories.padded(np.arange(model.num_users))
    return [row[row >= 0].tolist() for row in rows]


def everything_in(model):
    """All that a model is, to be compared."""
    optimizer = getattr(model, "optimizer", None)
    slots = optimizer.variables if optimizer else []
    values = [np.array(one.numpy()) for one in [*model.weights, *slots]]
    sizes = [
        (layer.name, getattr(layer, name))
        for layer in (model, model.histories, model.user_tower)
        for name in (
            "num_users",
            "num_candidates",
            "num_interactions",
            "max_length",
        )
        if hasattr(layer, name)
    ]
    ids = [
        model.user_vocabulary.ids.tolist(),
        model.candidate_vocabulary.ids.tolist(),
    ]
    return (
        values,
        sizes,
        ids,
        dict(model.candidate_titles),
        json.dumps(model.trained_on),
    )


def assert_same(one, other):
    for first, second in zip(one[0], other[0], strict=True):
        np.testing.assert_array_equal(first, second)
    assert one[1:] == other[1:]


@pytest.mark.slow
def test_it_is_the_same_as_growing_by_hand():
    tuesday = day(2)

    def model_of():
        monday = first_day()
        tower = IdHistoryTower(
            monday.num_users,
            monday.num_candidates,
            4,
            item_dropout=0.0,
            query_dropout=0.0,
            seed=1,
        )
        return compiled(monday, user_tower=tower)

    model, by_hand = model_of(), model_of()
    data = model.add_interactions(tuesday)
    x, y = grown_by_hand(by_hand, tuesday)
    assert model.user_vocabulary.ids.tolist() == [*USERS[:6], *USERS[6:]]
    train = data.ratings("train")
    np.testing.assert_array_equal(train.user_rows, x)
    np.testing.assert_array_equal(train.candidate_rows, y["item"])
    assert histories_of(model) == histories_of(by_hand)
    for one in (model, by_hand):
        one.fit(x, y, batch_size=16, shuffle=False, epochs=2, verbose=0)
    for mine, other in zip(model.weights, by_hand.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), mine.path)
    for mine, other in zip(
        model.optimizer.variables, by_hand.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), mine.path)
    for mine, other in zip(
        model.recommend(USERS, k=12),
        by_hand.recommend(USERS, k=12),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, other)


def test_what_was_learned_stays_until_fit_goes_on():
    monday = first_day()
    model = trained(monday)
    before = model.encode_users(USERS[:6]), model.encode_candidates(ITEMS[:8])
    slots = [np.array(one.numpy()) for one in model.optimizer.variables]
    counts = model.candidate_counts.numpy()
    data = model.add_interactions(day(2))
    np.testing.assert_array_equal(model.encode_users(USERS[:6]), before[0])
    np.testing.assert_array_equal(model.encode_candidates(ITEMS[:8]), before[1])
    assert model.optimizer.iterations == slots[0]
    for slot, old in zip(model.optimizer.variables, slots, strict=True):
        if old.ndim:
            np.testing.assert_array_equal(slot.numpy()[: len(old)], old)
            # Where Adagrad begins.
            np.testing.assert_allclose(slot.numpy()[len(old) :], 0.1)
    np.testing.assert_array_equal(model.candidate_counts.numpy()[:9], counts)
    model.fit(data.train, epochs=2, verbose=0)
    new = np.bincount(data.ratings("train").candidate_rows, minlength=13)
    counts = np.pad(counts, (0, 4))
    np.testing.assert_array_equal(
        model.candidate_counts.numpy(), counts + 2 * new
    )


def test_lists_leave_out_what_was_seen_yesterday_and_today():
    monday, tuesday = first_day(num=10), day(2, num=10)
    model = compiled(monday)
    model.add_interactions(tuesday)
    ids, _ = model.recommend(USERS, k=12)
    can_be = set(model.retrievable_ids().tolist())
    for user, found in zip(USERS, ids, strict=True):
        seen = set()
        for data in (monday, tuesday):
            row = data.user_vocabulary.rows([user])[0]
            if row:
                items = data.seen.of([row])[0]
                seen |= set(data.candidate_vocabulary.raw_ids(items).tolist())
        assert seen
        recommended = set(found.tolist()) - {""}
        assert recommended == can_be - seen


def test_a_candidate_of_todays_test_part_alone_waits_until_it_is_trained():
    model = compiled(first_day())
    tuesday = kdr.RetrievalDataset.from_interactions(
        USERS[:2],
        ["fresh", ITEMS[0]],
        candidate_key="item",
        test=([USERS[0]], ["only in test"]),
        validation_fraction=0,
    )
    model.add_interactions(tuesday)
    assert "fresh" in model.retrievable_ids()
    assert "only in test" not in model.retrievable_ids()


@pytest.mark.slow
def test_eight_devices_go_on_as_one_does(on_devices):
    results = []
    for count in (1, 8):
        keras.utils.clear_session(free_memory=False)
        on_devices(count)
        model = compiled(first_day())
        data = model.add_interactions(day(2))
        loss = model.fit(data.train, verbose=0).history["loss"]
        results.append((loss, *model.recommend(USERS, k=12)))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5)
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_allclose(results[0][2], results[1][2], atol=1e-5)


def test_a_model_may_be_saved_between_the_days(tmp_path):
    model = compiled(first_day())
    model.add_interactions(day(2))
    model.save(tmp_path / "m.keras")
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    assert_same(everything_in(loaded), everything_in(model))
    wednesday = day(3, num=80)
    for one in (model, loaded):
        data = one.add_interactions(wednesday)
        one.fit(data.train, verbose=0)
    assert_same(everything_in(loaded), everything_in(model))
    assert [one["newest"] // 1000 for one in model.trained_on["earlier"]] == [
        1,
        2,
    ]


@pytest.mark.parametrize("kept", [0, 2, 1000])
def test_what_is_old_can_be_dropped(kept):
    monday, tuesday = first_day(), day(2)
    whole, model = compiled(monday), compiled(monday)
    old = histories_of(whole)
    whole.add_interactions(tuesday)
    data = model.add_interactions(tuesday, keep_latest=kept)
    old += [[] for _ in range(model.num_users - len(old))]
    for mine, everything, before in zip(
        histories_of(model), histories_of(whole), old, strict=True
    ):
        today = everything[len(before) :]
        assert mine == before[len(before) - min(kept, len(before)) :] + today
    np.testing.assert_array_equal(
        data.seen.candidate_rows, np.concatenate(histories_of(model))
    )


@pytest.mark.parametrize("kept", [None, 1, 1000])
def test_a_limit_on_the_length_of_histories_stays(kept):
    monday = first_day()
    limited = kdr.Histories.from_interactions(monday.seen, max_length=2)
    model = compiled(monday, histories=limited)
    model.add_interactions(day(2), keep_latest=kept)
    assert max(map(len, histories_of(model))) > 2
    assert model.histories.max_length == 2


@pytest.mark.parametrize("split", ["leave_last_out", "by_time", "random"])
def test_parts_are_those_of_todays_split_and_histories_come_before(split):
    monday, tuesday = first_day(split=split), day(2, split=split)
    model = compiled(monday)
    old = histories_of(model)
    data = model.add_interactions(tuesday)
    for part in ("train", "test"):
        mine, theirs = data.ratings(part), tuesday.ratings(part)
        for side in ("user", "candidate"):
            np.testing.assert_array_equal(
                getattr(data, f"{side}_vocabulary").raw_ids(
                    getattr(mine, f"{side}_rows")
                ),
                getattr(tuesday, f"{side}_vocabulary").raw_ids(
                    getattr(theirs, f"{side}_rows")
                ),
            )
        np.testing.assert_array_equal(mine.timestamps, theirs.timestamps)
    old += [[] for _ in range(model.num_users - len(old))]
    before_train = data.seen_before("train").of(np.arange(model.num_users))
    assert [one.tolist() for one in before_train] == old
    seen = data.seen.of(np.arange(model.num_users))
    assert [one.tolist() for one in seen] == histories_of(model)
    train = data.ratings("train")
    for user in range(1, model.num_users):
        mine = np.flatnonzero(train.user_rows == user)
        mine = mine[np.argsort(train.timestamps[mine], kind="stable")]
        today = train.candidate_rows[mine].tolist()
        assert histories_of(model)[user] == old[user] + today


def test_what_came_next_follows_what_came_before():
    """Each example: the whole history until then, and the next item of it."""
    monday = first_day(split="leave_last_out")
    model = compiled(monday, user_tower=RecencyTower(monday.num_candidates, 4))
    old = [len(one) for one in histories_of(model)]
    data = model.add_interactions(day(2, split="leave_last_out"))
    found = set()
    examples = data.next_items(8)
    for x, y, *_ in examples.as_numpy_iterator():
        rows = np.asarray(model.histories(x["user_id"], x["length"]))
        for user, length, row, item in zip(
            x["user_id"], x["length"], rows, y["item"], strict=True
        ):
            whole = histories_of(model)[user]
            assert row[row >= 0].tolist() == whole[:length]
            assert item == whole[length]
            found.add((user, length))
    old += [0] * (model.num_users - len(old))
    expected = {
        (user, place)
        for user, items in enumerate(histories_of(model))
        for place in range(max(old[user], 1), len(items))
    }
    assert found == expected
    ties = kdr.ShuffleTies(examples)
    ties.set_model(model)
    ties.on_train_begin()
    ties.on_epoch_begin(0)
    ties.on_train_end()
    assert histories_of(model) == [
        one.tolist() for one in data.seen.of(range(10))
    ]


def test_ties_are_shuffled_among_the_new_ones_alone():
    def of_one_time(number, items):
        return kdr.RetrievalDataset.from_interactions(
            ["ann"] * len(items),
            items,
            timestamps=[number] * len(items),
            split="random",
            test_fraction=0,
            validation_fraction=0,
        )

    model = kdr.TwoTowerRetrieval.for_dataset(of_one_time(1, list("abcdef")), 4)
    data = model.add_interactions(of_one_time(2, list("uvwxyz")))
    before = histories_of(model)[1]
    timeline = kdr.ShuffleTies(data.next_items())._timeline
    orders = set()
    for epoch in range(5):
        timeline.shuffle_ties(epoch)
        rows = timeline.candidate_rows.tolist()
        assert rows[:6] == before[:6]
        assert sorted(rows[6:]) == sorted(before[6:])
        orders.add(tuple(rows))
    assert len(orders) > 1


class Recorded(kdr.FullSoftmax):
    """Keeps the lists of candidates that are no negatives."""

    def call(self, batch):
        self.lists.append(batch.known_lists)
        return keras.ops.zeros_like(batch.weights)


def test_yesterdays_positives_are_no_negatives_of_a_user():
    """As examples of one interaction have it, so do those of one user."""
    objective = Recorded()
    object.__setattr__(objective, "lists", [])
    model = compiled(first_day(num=10), objective=objective)

    def step(data):
        x, y = next(data.by_user(64).as_numpy_iterator())
        vectors = {"user_embeddings": model.user_vectors(x)}
        model.compute_loss(x, {"item": y["item"]}, vectors)
        return objective.lists.pop()

    assert step(first_day(num=10)) is None  # The batch has them all.
    data = model.add_interactions(day(2, num=3))
    lists = step(data)
    np.testing.assert_array_equal(lists.starts, data.seen.indptr)
    np.testing.assert_array_equal(lists.rows[:-1], data.seen.candidate_rows)


def test_what_was_trained_on_is_refused_on_every_day():
    monday, tuesday = first_day(), day(2)
    model = compiled(monday)
    data = model.add_interactions(tuesday)
    # Held out on its day.
    assert kdr.evaluate(model, data)["num_users"]
    again = day(2, seed=7)
    users, items = model.user_vocabulary, model.candidate_vocabulary
    for other in (first_day(seed=7), again.in_rows_of(users, items)):
        with pytest.raises(ValueError, match=r"1 data sets before.*allow_tr"):
            kdr.evaluate(model, other)


def test_figures_of_today_leave_out_what_was_seen_yesterday():
    model = compiled(first_day(num=10))
    data = model.add_interactions(day(2, num=10))
    seen = data.seen_before("test").of(np.arange(model.num_users))
    test = data.ratings("test")
    repeated = [
        item in seen[user]
        for user, item in zip(test.user_rows, test.candidate_rows, strict=True)
    ]
    assert any(repeated) and not all(repeated)
    can_be = model.retrievable_mask()
    # Held-out pairs that were seen cannot be found, nor can candidates that
    # nobody has trained; all others are, in a list as long as the catalogue.
    recall = kdr.evaluate(model, data, ks=(12,))["recall_at_12"]
    pairs = {
        (user, item): item not in seen[user] and can_be[item]
        for user, item in zip(
            test.user_rows.tolist(), test.candidate_rows.tolist(), strict=True
        )
    }
    found = {}
    for (user, _), is_new in pairs.items():
        found.setdefault(user, []).append(is_new)
    expected = np.mean([np.mean(one) for one in found.values()])
    assert recall == pytest.approx(expected)


def test_a_schedule_that_has_ended_is_said_and_can_be_replaced():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 3)
    model = trained(first_day(), keras.optimizers.Adam(schedule))
    with pytest.warns(UserWarning, match="rate is 0, as at the end of a sch"):
        model.add_interactions(day(2))
    before = [np.array(one.numpy()) for one in model.optimizer.variables]
    data = model.add_interactions(day(3), learning_rate=0.05)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    slots = [
        one.numpy()
        for one in model.optimizer.variables
        if one is not model.optimizer.learning_rate
    ]
    for slot, old in zip(slots, before, strict=True):
        np.testing.assert_array_equal(slot, old)
    old = model.encode_users(USERS)
    model.fit(data.train, verbose=0)
    assert (model.encode_users(USERS) != old).any()
    with pytest.raises(ValueError, match="for a compiled model"):
        kdr.TwoTowerRetrieval.for_dataset(first_day(), 4).add_interactions(
            day(2), learning_rate=0.1
        )


def test_titles_of_today_replace_those_of_yesterday():
    model = compiled(first_day(candidate_titles={"item 1": "A", "item 2": "B"}))
    model.add_interactions(
        day(2, candidate_titles={"item 2": "C", "item 9": "D"})
    )
    assert model.candidate_titles == {
        "item 1": "A",
        "item 2": "C",
        "item 9": "D",
    }


def test_the_index_is_dropped():
    model = compiled(first_day())
    model.build_index()
    model.add_interactions(day(2))
    assert model.candidate_index is None


def test_what_is_older_than_the_newest_is_said():
    model = compiled(day(2))
    monday = day(1, num_users=6, num_items=8)
    num = len(monday.ratings("train"))
    with pytest.warns(UserWarning, match=f"{num} of the {num} new .* older"):
        model.add_interactions(monday)
    # The newest of all days counts, not that of the last.
    late = day(1, num_users=6, num_items=8, num=90)
    num = len(late.ratings("train"))
    with pytest.warns(UserWarning, match=f"{num} of the {num} new .* older"):
        model.add_interactions(late)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.add_interactions(day(3))
    assert not [
        one for one in said if "new interactions are older" in str(one.message)
    ]


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({}, lambda: first_day(), "54 that it was trained on before"),
        ({}, lambda: day(2, candidate_key="movie"), "'item' and data of 'mov"),
        ({"objective": "rating"}, lambda: day(2), "needs ratings. Received"),
        ({}, lambda: [1, 2], "`data` must be a `RetrievalDataset`"),
        (
            {},
            lambda: kdr.RetrievalDataset.from_interactions(
                [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], candidate_key="item"
            ),
            "known ids are strings. Received: whole",
        ),
        (
            {"candidate_tower": "features"},
            lambda: day(2),
            "can grow a `RowEmbedding` alone",
        ),
        (
            {"candidate_tower": "constant"},
            lambda: day(2),
            "must have a finite vector",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    options, data, message
):
    monday = first_day()
    kinds = {"features": True, "constant": False}
    if "candidate_tower" in options:
        options = {
            "candidate_tower": FeatureTable(
                monday.num_candidates, kinds[options["candidate_tower"]]
            )
        }
    if options.get("objective") == "rating":
        model = kdr.TwoTowerRetrieval.for_dataset(monday, 4, **options)
        model.build()
    else:
        model = compiled(monday, **options)
    before = everything_in(model)
    with pytest.raises(ValueError, match=message):
        model.add_interactions(data())
    assert_same(everything_in(model), before)
    if model.compiled:
        model.fit(monday.train, verbose=0)


class FeatureTable(keras.layers.Layer):
    """A candidate's own vector, and what its features add to it."""

    def __init__(self, num_candidates, is_weight):
        super().__init__()
        self.table = kdr.RowEmbedding(num_candidates, 4)
        features = np.eye(num_candidates, 4, dtype="float32")
        self.features = keras.ops.convert_to_tensor(features)
        if is_weight:
            self.features = self.add_weight(
                shape=features.shape, trainable=False, name="features"
            )

    def call(self, rows):
        return self.table(rows) + keras.ops.take(self.features, rows, axis=0)


def test_fit_refuses_batches_that_hold_the_rows_of_other_ids():
    """Those of today's own data set, not of what was returned."""
    model, tuesday = compiled(first_day()), day(2)
    data = model.add_interactions(tuesday)
    before = model.get_weights()
    for batches in (
        tuesday.train,
        tuesday.by_user(),
        tuesday.next_items(),
        tuesday.by_interaction(),
    ):
        with pytest.raises(ValueError, match="12, which are others or in ano"):
            model.fit(batches)
    with pytest.raises(ValueError, match="must hold rows of the cand"):
        model.fit(x=data.train, validation_data=tuesday.test)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_streamed_data_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table(
        {
            "user_id": USERS[:5],
            "candidate_id": ITEMS[:5],
            "timestamp": range(5),
        }
    )
    parquet.write_table(table, path)
    streamed = kdr.RetrievalDataset.from_parquet(
        path,
        streaming=True,
        timestamp_column="timestamp",
        split="by_time",
        candidate_key="item",
    )
    with pytest.raises(ValueError, match="`add_interactions` needs all inter"):
        compiled(first_day()).add_interactions(streamed)


def test_a_model_whose_ids_are_rows_is_refused():
    model = kdr.TwoTowerRetrieval(5, 5, 4, candidate_key="item")
    with pytest.raises(ValueError, match="without a `user_vocabulary`, whose"):
        model.add_interactions(first_day())


def test_both_sides_grow_even_where_they_become_equally_long():
    """Eight users become ten, as many as there are candidates."""
    monday = day(1, num_users=6, num_items=8)
    model = compiled(
        monday,
        user_tower=IdHistoryTower(monday.num_users, monday.num_candidates, 4),
    )
    model.add_interactions(day(2, num_users=8, num_items=10))
    assert model.user_tower.ids.input_dim == model.num_users == 9
    assert model.user_tower.items.input_dim == model.num_candidates == 11


def test_a_model_without_histories_takes_new_interactions_too():
    model = compiled(first_day(), histories=None)
    data = model.add_interactions(day(2))
    assert model.histories is None
    assert np.isfinite(model.fit(data.train, verbose=0).history["loss"]).all()
    assert model.user_vocabulary.rows(USERS).all()
