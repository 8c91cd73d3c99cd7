"""Whether the recipe reads histories by means or by a transformer."""

import pathlib

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from benchmarks.ordered_data import ordered_data
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.sequences import Pieces, num_pieces
from keras_dp_retrieval.data.timeline import Timeline
from keras_dp_retrieval.recipe import choose_recipe, plan, training
from keras_dp_retrieval.recipe.sequence_trial import (
    TowerDecision,
    reason_against,
    share_of_tied,
)
from keras_dp_retrieval.recipe.trials import Choice
from tests import resumed_runs as runs
from tests.test_multi_process import finish, free_port, start

pytestmark = pytest.mark.filterwarnings("ignore:.*older than the newest")


def data_of(num_users=130, length=10, times=None, **options):
    """Users with so many interactions each, all of the same times."""
    if times is None:
        times = np.arange(length)
    users = np.repeat(np.arange(num_users), length)
    return kdr.RetrievalDataset.from_interactions(
        users,
        (users * 7 + np.tile(np.arange(length) * 3, num_users)) % 40,
        timestamps=np.tile(times, num_users),
        **{"split": "leave_last_out", **options},
    )


def reason(data, given=(), **overrides):
    whole = data.with_validation_in_train()
    return reason_against(whole, choose_recipe(whole, **overrides), given)


def test_share_of_tied_by_hand():
    # User 1 has 3 at time 5, in any order of the rows; user 2 one, and one
    # at time 6; user 3 two of one time.
    ratings = Ratings(
        np.array([1, 2, 1, 3, 1, 2, 3, 1]),
        np.arange(8),
        timestamps=np.array([5, 5, 5, 7, 4, 6, 7, 5]),
    )
    assert share_of_tied(ratings) == 5 / 8
    assert share_of_tied(Ratings(np.ones(4, int), np.arange(4))) == 0
    nothing = np.zeros(0, int)
    assert share_of_tied(Ratings(nothing, nothing, timestamps=nothing)) == 0


def test_it_is_tried_where_order_is_known_and_histories_are_long():
    assert reason(data_of()) is None
    assert reason(data_of(split="by_time")) is None
    # Without timestamps, rows are in order.
    users = np.repeat(np.arange(30), 10)
    untimed = kdr.RetrievalDataset.from_interactions(
        users, np.tile(np.arange(10), 30), split="leave_last_out"
    )
    assert reason(untimed) is None
    assert "order='ignored'" in reason(data_of(split="random"))
    # One of the ten is held out for the test.
    assert reason(data_of(length=9)) is None
    assert "half of the histories have 7 interactions" in reason(
        data_of(length=8)
    )
    few, most = np.arange(11), np.arange(11)
    few[1:5], most[1:7] = 1, 1
    assert reason(data_of(length=11, times=few)) is None
    found = reason(data_of(length=11, times=most))
    assert "60% of the interactions have the time of another" in found


@pytest.mark.parametrize("name", ["order", "batch_size", "epochs"])
def test_settings_of_one_tower_are_kept_to_it(name):
    assert f"`{name}` is given" in reason(data_of(), {name})
    assert reason(data_of(), {"temperature", "embedding_dimension"}) is None


def test_features_of_users_are_in_its_way():
    features = {"user_id": range(130), "age": range(130)}
    data = data_of(user_features=features)
    assert "features of users" in reason(data)
    assert reason(data, use_features=False) is None
    with pytest.raises(ValueError, match=r"user_features.*use_features=False"):
        kdr.fit_recipe(data, order="sequence")


def test_a_length_that_would_count_nowhere_is_refused():
    with pytest.raises(ValueError, match="max_length=5 with order='ignored'"):
        kdr.fit_recipe(data_of(split="random"), max_length=5)
    assert choose_recipe(data_of(), max_length=5).max_length == 5


def decided(gains):
    users = np.array([0.2, 0.3, 0.4, 0.1])
    recency = Choice(0.13, 0.0, 0.25), users
    sequence = Choice(0.13, 0.1, 0.35), users + gains
    return TowerDecision.of(recency, sequence)


def test_the_transformer_must_be_better_by_two_standard_errors():
    # By hand: they scatter by 0.02, over the root of four users.
    noise = np.array([0.02, -0.02, 0.02, -0.02])
    clear, chance = decided(0.021 + noise), decided(0.019 + noise)
    assert clear.error == pytest.approx(0.01)
    assert clear.gain == pytest.approx(0.021)
    assert clear.takes_sequence and not chance.takes_sequence
    assert str(clear).startswith("SequenceTower, not RecencyTower: NDCG@10")
    assert str(chance).startswith("RecencyTower, not SequenceTower: NDCG@10")
    assert "0.2500 with a RecencyTower and 0.3500 with a Seq" in str(chance)
    assert "difference are 0.0200" in str(chance)


@pytest.mark.parametrize("max_length", [1, 4, 7, 100])
def test_pieces_are_counted_without_making_them(max_length):
    rng = np.random.default_rng(max_length)
    users = rng.integers(0, 12, 150) ** 2 % 20
    ratings = Ratings(users, np.zeros(150, int), timestamps=np.arange(150))
    pieces = Pieces(Timeline(ratings, 20, 0), max_length)
    assert num_pieces(np.bincount(users), max_length) == len(pieces)


def test_the_trial_is_planned_as_it_is_made():
    data = data_of(validation_fraction=0.1)
    planned = plan.plan_recipe(data)
    recipe = choose_recipe(data.with_validation_in_train(), order="sequence")
    whole, of_trial = (
        training.examples(part, recipe).num_batches
        for part in (data.with_validation_in_train(), data)
    )
    assert planned.num_steps_of_sequence == whole * recipe.epochs
    assert planned.steps_of_sequence == of_trial * round(recipe.epochs / 3)
    assert "with a SequenceTower; they choose temperature" in str(planned)
    steps = planned.num_steps + planned.steps_of_sequence
    assert planned.most_steps > steps
    tied = plan.plan_recipe(data_of(times=np.arange(10) // 4))
    assert tied.steps_of_sequence == 0
    assert "SequenceTower" not in str(tied)


# Trained


def in_order(kind, **options):
    """Few groups, so that few steps learn which follows which."""
    return ordered_data(
        kind,
        0,
        num_users=300,
        num_groups=6,
        group_size=8,
        length=20,
        validation_fraction=0.1,
        **options,
    )[0]


@pytest.mark.slow
def test_where_what_comes_next_depends_on_two_items_it_is_a_transformer(
    capsys, tmp_path
):
    data = in_order("bigrams")
    model = kdr.fit_recipe(data, verbose=2)
    said = capsys.readouterr().out
    assert said.count("Trial: SequenceTower, temperature 0.13") == 1
    assert "Chosen: SequenceTower, not RecencyTower: NDCG@10 is" in said
    assert isinstance(model.user_tower, kdr.SequenceTower)
    means = kdr.fit_recipe(data, order="recency")
    assert isinstance(means.user_tower, kdr.RecencyTower)
    figures = [kdr.evaluate(m, data)["ndcg_at_10"] for m in (model, means)]
    assert figures[0] > 1.02 * figures[1]
    # It is a model like any other.
    ids, scores = model.recommend(histories=[[1, 9, 17], [9, 1]], k=5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.recommend(histories=[[1, 9, 17], [9, 1]], k=5)
    np.testing.assert_array_equal(again[0], ids)
    np.testing.assert_allclose(again[1], scores, rtol=1e-5)
    today = kdr.RetrievalDataset.from_interactions(
        [1, 1000], [5, 1000], timestamps=[50, 51], split="by_time"
    )
    loaded.add_interactions(today, learning_rate=0.001)
    known = loaded.recommend([1000], k=5, exclude_seen=False)[0]
    new = loaded.recommend(histories=[[1000]], k=5, exclude_seen=False)[0]
    np.testing.assert_array_equal(known, new)


@pytest.mark.slow
def test_where_order_says_nothing_it_stays_with_means(capsys):
    data = in_order("tastes")
    model = kdr.fit_recipe(data, verbose=2)
    said = capsys.readouterr().out
    assert "Chosen: RecencyTower, not SequenceTower: NDCG@10 is" in said
    assert isinstance(model.user_tower, kdr.RecencyTower)
    # The trial left no trace in it.
    tied = kdr.fit_recipe(data, order="recency")
    for one, other in zip(model.weights, tied.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def small():
    return ordered_data(
        "bigrams", 0, num_users=120, num_groups=4, group_size=8, length=14
    )[0]


GIVEN = {"temperature": 0.13, "popularity_weight": 0.0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:After 2 epochs the loss is still")
def test_a_stopped_trial_of_a_transformer_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(TowerDecision, "takes_sequence", True)

    def recipe(*callbacks, resume=None):
        keras.utils.clear_session(free_memory=False)
        model = kdr.fit_recipe(
            small(),
            embedding_dimension=8,
            query_dropout=0.0,
            resume=resume,
            callbacks=callbacks,
            **GIVEN,
        )
        assert isinstance(model.user_tower, kdr.SequenceTower)
        return runs.digest_of(model)

    expected = recipe()
    fits = []

    def break_off(self, *arguments, callbacks, **options):
        fits.append(options["epochs"])
        if len(fits) == 3:  # The shared and own epochs of means before.
            callbacks = [*callbacks, runs.Stop(3, 0)]
        return fit_of(self, *arguments, callbacks=callbacks, **options)

    fit_of = kdr.TwoTowerRetrieval.fit
    with monkeypatch.context() as patch:
        patch.setattr(kdr.TwoTowerRetrieval, "fit", break_off)
        with pytest.raises(runs.Stopped):
            recipe(resume=tmp_path)
    assert len(fits) == 3
    with pytest.raises(runs.Stopped):
        recipe(runs.Stop(5, 1), resume=tmp_path)
    assert (tmp_path / "trials" / "sequence").exists()
    assert recipe(resume=tmp_path) == expected


@pytest.mark.slow
def test_two_processes_choose_as_one_does(tmp_path):
    program = pathlib.Path(__file__).parent / "programs" / "recipe_tiny.py"
    paths = [tmp_path / f"{name}.npz" for name in ("alone", "one", "two")]
    port = free_port()
    finish([start(paths[0], program=program)])
    finish(
        [
            start(
                path,
                program=program,
                port=port,
                num_processes=2,
                process_id=number,
            )
            for number, path in enumerate(paths[1:])
        ]
    )
    alone, one, two = (np.load(path) for path in paths)
    assert alone["tower"] == one["tower"] == two["tower"] == "SequenceTower"
    np.testing.assert_array_equal(one["ids"], two["ids"])
    np.testing.assert_array_equal(one["scores"], two["scores"])
    np.testing.assert_allclose(alone["scores"], one["scores"], atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"objective": "in_batch_softmax"}, {"embedding_dimension": 5}],
)
def test_a_transformer_can_be_asked_for(options):
    model = kdr.fit_recipe(
        small(), order="sequence", epochs=1, max_length=6, **options
    )
    assert isinstance(model.user_tower, kdr.SequenceTower)
    assert model.user_tower.max_length == 6
    assert model.recommend(histories=[[1, 9]], k=3)[0].shape == (1, 3)


@pytest.mark.slow
def test_all_else_given_the_tower_is_still_chosen(capsys):
    kdr.fit_recipe(small(), verbose=2, embedding_dimension=4, **GIVEN)
    said = capsys.readouterr().out
    assert said.count("Trial: ") == 2
    assert said.count("Chosen: ") == said.count("not SequenceTower") == 1 or (
        said.count("Chosen: SequenceTower") == 1
    )
    options = {"epochs": 1, "embedding_dimension": 4, "verbose": 2}
    kdr.fit_recipe(small(), **options)
    said = capsys.readouterr().out
    assert "SequenceTower is not tried: `epochs` is given" in said
    kdr.fit_recipe(small(), **options, **GIVEN)
    assert "Trial" not in capsys.readouterr().out
