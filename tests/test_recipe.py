import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.recipe import choose_recipe, recipe_model, trials


def synthetic(**options):
    return kdr.RetrievalDataset.from_synthetic(
        150, 80, 6000, num_tastes=4, **options
    )


def popularity_ndcg(data):
    """NDCG@10 of recommending the most popular items to everyone."""

    class Popularity:
        def user_vectors(self, rows):
            return np.ones((len(rows), 1), "float32")

        def candidate_vectors(self):
            counts = data.candidate_counts("train")
            return counts.astype("float32")[:, None]

    return kdr.evaluate(Popularity(), data)["ndcg_at_10"]


def test_the_recipe_finds_tastes_that_popularity_does_not():
    data = synthetic()
    model = kdr.fit_recipe(data, tune=False, embedding_dimension=16)
    assert kdr.evaluate(model, data)["ndcg_at_10"] > 1.2 * popularity_ndcg(data)


@pytest.mark.slow
def test_where_the_test_is_later_the_order_counts():
    data = synthetic(split="leave_last_out")
    assert choose_recipe(data).order == "recency"
    assert choose_recipe(synthetic()).order == "ignored"
    model = kdr.fit_recipe(data, tune=False, epochs=1, embedding_dimension=8)
    assert isinstance(model.user_tower, kdr.RecencyTower)
    # A user whom nobody has seen.
    ids, _ = model.recommend(histories=[data.candidate_vocabulary.ids[:3]])
    assert ids.shape == (1, 10)


def test_it_takes_plain_ids_and_a_given_test_part():
    rng = np.random.default_rng(0)
    users = [f"user {u}" for u in rng.integers(0, 40, 800)]
    candidates = rng.integers(0, 30, 800) * 7
    data = kdr.RetrievalDataset.from_interactions(
        users, candidates, test=(users[:50], candidates[:50])
    )
    model = kdr.fit_recipe(data, epochs=2, embedding_dimension=8)
    ids, _ = model.recommend(["user 3"], k=4)
    assert set(ids[0]) <= set(candidates)


@pytest.mark.slow
def test_the_seed_decides():
    data = synthetic()
    vectors = [
        kdr.fit_recipe(
            data, seed=seed, tune=False, epochs=1, embedding_dimension=8
        ).encode_candidates()
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors[0] - vectors[2]).max() > 0.01


@pytest.mark.slow
def test_validation_is_learned_from_unless_it_is_asked_not_to_be():
    data = synthetic(validation_fraction=0.5)
    options = {"tune": False, "epochs": 1, "embedding_dimension": 8}
    known = [
        kdr.fit_recipe(data, validation_in_train=v, **options).histories
        for v in (True, False)
    ]
    train = len(data.ratings("train"))
    assert known[0].num_interactions == train + len(data.ratings("validation"))
    assert known[1].num_interactions == train


class Shape:
    """As much of a data set as a recipe is chosen by."""

    batch_size = 1000

    def __init__(self, num_users, num_candidates, split="random"):
        self.num_users, self.num_candidates = num_users, num_candidates
        self.split = split

    def ratings(self, split):
        return range(1_200_000)


def test_larger_catalogues_get_smaller_vectors():
    assert choose_recipe(Shape(901, 1701)).embedding_dimension == 256
    assert choose_recipe(Shape(30_001, 41_001)).embedding_dimension == 256
    assert choose_recipe(Shape(80_001, 130_001)).embedding_dimension == 128
    # Whose trials have all dimensions.
    with_features = Shape(30_001, 41_001)
    with_features.user_features = object()
    assert choose_recipe(with_features).embedding_dimension == 128


@pytest.mark.parametrize(
    ("num_users", "num_candidates", "by_user", "by_interaction"),
    [
        (30_001, 41_001, "full_softmax", "full_softmax"),
        (80_001, 300_001, "full_softmax", "in_batch_softmax"),
        (10_001, 1_000_001, "full_softmax", "in_batch_softmax"),
        (400_001, 300_001, "in_batch_softmax", "in_batch_softmax"),
        # Up to here any number of users has had it.
        (10_000_001, 100_000, "full_softmax", "full_softmax"),
    ],
)
def test_the_full_softmax_is_taken_where_an_epoch_of_it_is_affordable(
    num_users, num_candidates, by_user, by_interaction
):
    sizes = num_users, num_candidates
    assert choose_recipe(Shape(*sizes)).objective == by_user
    in_time = Shape(*sizes, split="by_time")
    assert choose_recipe(in_time).objective == by_interaction
    # What is asked for comes first.
    in_batch = choose_recipe(Shape(*sizes), objective="in_batch_softmax")
    assert in_batch.objective == "in_batch_softmax"
    free = choose_recipe(in_time, order="ignored")
    assert free.objective == by_user


@pytest.fixture
def few_are_many(monkeypatch):
    """80 candidates are too many for all logits at once."""
    monkeypatch.setattr(recipe_model, "MAX_CANDIDATES_OF_FULL_SOFTMAX", 50)
    monkeypatch.setattr(recipe_model, "CHUNK_SIZE", 33)


def test_beyond_that_logits_come_in_chunks(few_are_many):
    data = synthetic()
    recipe = choose_recipe(data, embedding_dimension=4)
    whole = recipe_model.build_model(data, recipe)
    assert whole.objective.chunk_size == 33
    assert recipe_model.chunk_size(Shape(10, 50)) is None


@pytest.mark.slow
def test_chunks_train_the_same_model(request):
    data = synthetic()
    options = {"tune": False, "epochs": 3, "embedding_dimension": 8}
    plain = kdr.fit_recipe(data, **options).encode_candidates()
    request.getfixturevalue("few_are_many")
    chunked = kdr.fit_recipe(data, **options).encode_candidates()
    np.testing.assert_allclose(chunked, plain, atol=1e-4)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="no option 'learning_rat'"):
        kdr.fit_recipe(synthetic(), learning_rat=0.1)
    with pytest.raises(ValueError, match="`epochs` must be"):
        kdr.fit_recipe(synthetic(), epochs=0)


# What is asked for is done, or refused.


class Fits(keras.callbacks.Callback):
    """Notes how many steps an epoch has, and how many epochs there are."""

    def on_train_begin(self, logs=None):
        self.epochs, self.steps = self.params["epochs"], self.params["steps"]


@pytest.mark.slow
def test_in_batch_negatives_come_in_batches_of_the_size_that_was_asked_for():
    data = synthetic()
    options = {"objective": "in_batch_softmax", "embedding_dimension": 4}
    fits = Fits()
    kdr.fit_recipe(
        data, tune=False, batch_size=100, epochs=1, callbacks=[fits], **options
    )
    num_interactions = len(data.with_validation_in_train().ratings("train"))
    assert fits.steps == -(-num_interactions // 100)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, 60),  # 3 batches of users: 240 steps would take 80.
        ({"batch_size": 10}, 20),
        ({"batch_size": 3}, 13),  # 50 batches: 640 steps, not 20 epochs.
        ({"batch_size": 1}, 10),
        ({"objective": "in_batch_softmax"}, 60),
        ({"objective": "in_batch_softmax", "batch_size": 100}, 14),
        ({"objective": "in_batch_softmax", "batch_size": 10}, 10),
        ({"order": "recency", "batch_size": 100}, 12),
    ],
)
def test_epochs_follow_from_the_batches_that_are_made(options, epochs):
    rng = np.random.default_rng(0)
    data = kdr.RetrievalDataset.from_interactions(
        np.arange(9000) % 150, rng.integers(0, 80, 9000)
    )
    assert len(data.ratings("train")) == 6480
    assert choose_recipe(data, **options).epochs == epochs


@pytest.mark.parametrize(
    ("options", "data", "reason"),
    [
        ({"objective": "in_batch_softmax"}, {}, "objective='in_batch_softmax'"),
        ({}, {"split": "leave_last_out"}, "order='recency'"),
        ({}, {"ratings": None}, "data without ratings"),
    ],
)
def test_a_rating_weight_that_would_count_nowhere_is_refused(
    options, data, reason
):
    rng = np.random.default_rng(0)
    columns = {"ratings": rng.integers(1, 6, 400), **data}
    data = kdr.RetrievalDataset.from_interactions(
        rng.integers(0, 40, 400), rng.integers(0, 30, 400), **columns
    )
    with pytest.raises(ValueError, match=f"rating_weight=0.5 with {reason}"):
        kdr.fit_recipe(data, rating_weight=0.5, **options)
    assert choose_recipe(data, **options).rating_weight == 0
    assert choose_recipe(data, rating_weight=0, **options).rating_weight == 0


@pytest.mark.slow
def test_the_last_is_left_out_by_the_order_of_the_rows_too():
    # Everyone goes through the items in turn, from an index of their own.
    users = np.repeat(np.arange(60), 8)
    items = (users * 7 + np.tile(np.arange(8), 60)) % 20
    data = kdr.RetrievalDataset.from_interactions(
        users, items, split="leave_last_out"
    )
    model = kdr.fit_recipe(data, epochs=20, embedding_dimension=16)
    assert kdr.evaluate(model, data, ks=(1,))["recall_at_1"] > 0.8
    shuffled = kdr.RetrievalDataset.from_interactions(users, items)
    with pytest.raises(ValueError, match=r"needs timestamps.*split='random'"):
        shuffled.next_items()


def test_nothing_to_predict_is_said_in_our_words():
    data = kdr.RetrievalDataset.from_interactions(
        np.arange(9), np.arange(9) % 4, split="leave_last_out"
    )
    message = "9 interactions in the train part, each of another user"
    with pytest.raises(ValueError, match=rf"{message}.*`order='ignored'`"):
        kdr.fit_recipe(data)
    with pytest.raises(ValueError, match=message):
        data.next_items()
    options = {"order": "ignored", "epochs": 1, "embedding_dimension": 4}
    assert kdr.fit_recipe(data, **options).recommend([3], k=1)[0].shape


# Trials.


@pytest.mark.parametrize(("gain", "keeps"), [(0.01, True), (0.1, False)])
def test_features_are_used_unless_it_is_better_without(
    monkeypatch, gain, keeps
):
    without = np.array([0.5, 0.6, 0.7, 0.6])

    class Task:
        def ndcg_of_users(self, model, k):
            return without

    with_them = without - gain - np.array([0.02, -0.02, 0.02, -0.02])
    found = trials.compare(with_them, None, Task(), "features")
    assert found.keeps == keeps
    # By hand: the differences scatter by 0.02, over the root of four users.
    assert found.gain == pytest.approx(gain)
    assert found.error == pytest.approx(0.01)
    assert ("with features" in str(found)) == keeps


@pytest.mark.slow
def test_the_recipe_takes_features_that_there_are(monkeypatch):
    kinds = {"item_id": range(1, 81), "kind": ["a", "b"] * 40}
    plain = synthetic()
    ratings = plain._loaded.interactions
    data = kdr.RetrievalDataset(
        ratings.user_ids, ratings.candidate_ids, candidate_features=kinds
    )
    options = {"epochs": 1, "embedding_dimension": 4}
    said = []
    prepared = []
    prepare = trials.prepare
    monkeypatch.setattr(
        trials, "prepare", lambda data: prepared.append(1) or prepare(data)
    )
    monkeypatch.setattr(trials.Comparison, "keeps", False)
    choice = trials.Choice(0.14, 0.0, ndcg=0.5), np.zeros(1)
    monkeypatch.setattr(trials, "choose", lambda *_, **__: choice)
    for tune in (False, True):  # In the trial it is better without.
        model = kdr.fit_recipe(data, tune=tune, **options)
        said.append(isinstance(model.candidate_tower, kdr.FeatureTower))
    assert said == [True, False]
    assert len(prepared) == 1
    with pytest.raises(ValueError, match="needs data with features"):
        kdr.fit_recipe(plain, use_features=True)


@pytest.mark.slow
def test_features_are_tried_where_all_else_is_given(monkeypatch, capsys):
    plain = synthetic()
    ratings = plain._loaded.interactions
    kinds = {"item_id": range(1, 81), "kind": ["a", "b"] * 40}
    data = kdr.RetrievalDataset(
        ratings.user_ids, ratings.candidate_ids, candidate_features=kinds
    )
    monkeypatch.setattr(trials.Comparison, "keeps", False)
    given = {"temperature": 0.2, "popularity_weight": 0.05}
    options = {"epochs": 1, "embedding_dimension": 4, "verbose": 2, **given}
    model = kdr.fit_recipe(data, **options)
    assert not isinstance(model.candidate_tower, kdr.FeatureTower)
    assert model.objective.temperature == 0.2
    assert model.popularity_weight == 0.05
    said = capsys.readouterr().out
    assert said.count("Chosen: ") == said.count("Chosen: without features") == 1


@pytest.fixture
def tried(monkeypatch):
    """What `fit_recipe` has tried: pairs of the data and temperatures."""
    calls = []

    def choose(train, data, first, **options):
        calls.append((data, first, options))
        return trials.Choice(first / 2, 0.25, ndcg=0.5), None

    monkeypatch.setattr(trials, "prepare", lambda data: data)
    monkeypatch.setattr(trials, "choose", choose)
    return calls


def pairs(ratings):
    return {*zip(ratings.user_rows, ratings.candidate_rows, strict=True)}


def test_what_was_chosen_is_what_is_trained(tried):
    data = synthetic()
    model = kdr.fit_recipe(data, epochs=1, embedding_dimension=8)
    (seen, first, _), *others = tried
    assert not others and seen is data  # Its own validation part.
    whole = data.with_validation_in_train()
    assert first == choose_recipe(whole).temperature
    assert model.objective.temperature == first / 2
    assert model.popularity_weight == 0.25
    given = {"temperature": 0.2, "popularity_weight": 0.1}
    model = kdr.fit_recipe(data, epochs=1, embedding_dimension=8, **given)
    assert len(tried) == 1  # There was nothing left to try.
    assert model.objective.temperature == 0.2
    assert model.popularity_weight == 0.1
    kdr.fit_recipe(data, epochs=1, embedding_dimension=8, temperature=0.2)
    assert not tried[1][2]["temperatures"] and tried[1][2]["weights"]


@pytest.mark.parametrize("split", ["random", "leave_last_out"])
def test_a_validation_part_that_is_not_learned_from_is_left_alone(tried, split):
    data = synthetic(split=split)
    options = {"epochs": 1, "embedding_dimension": 8}
    kdr.fit_recipe(data, validation_in_train=False, **options)
    ((seen, _, _),) = tried
    parts = [pairs(seen.ratings(p)) for p in ("train", "validation")]
    assert parts[0] | parts[1] == pairs(data.ratings("train"))
    assert not parts[0] & parts[1]
    assert pairs(seen.ratings("test")) == pairs(data.ratings("test"))
    if split == "leave_last_out":  # So is what is held out for the trials.
        users, counts = np.unique(
            seen.ratings("validation").user_rows, return_counts=True
        )
        assert counts.max() == 1 and len(users) > 140


def test_trials_are_told_of_when_there_is_something_to_see(capsys):
    data = synthetic()
    options = {"epochs": 1, "embedding_dimension": 8, "temperature": 0.2}
    kdr.fit_recipe(data, **options)
    assert "Trial" not in capsys.readouterr().out
    kdr.fit_recipe(data, verbose=2, **options)
    said = capsys.readouterr().out
    assert said.count("Trial: temperature 0.2, popularity weight") == 1
    assert said.count("Chosen: temperature 0.2, popularity weight") == 1


def test_few_users_are_no_reason_to_change_the_recipe(tried):
    data = kdr.RetrievalDataset.from_synthetic(60, 40, 900)
    model = kdr.fit_recipe(data, epochs=1, embedding_dimension=8)
    assert not tried
    whole = data.with_validation_in_train()
    assert model.objective.temperature == choose_recipe(whole).temperature
    assert model.popularity_weight == 0


class Trial:
    """A model that knows its temperature."""

    popularity_weight = 0.01

    def __init__(self, temperature):
        self.temperature = temperature


def chosen(monkeypatch, ndcg, *, noise=(0.0,), **options):
    """`(choice, the temperatures that were trained)`.

    `ndcg(temperature, offset)` of all users, and `noise` what the first
    training has more for each of them.
    """

    class Task:
        def ndcg_of_users(self, model, k):
            assert k == 10
            found = ndcg(model.temperature, model.popularity_weight)
            of_first = model.temperature == 0.14
            return found + of_first * np.array(noise)

    trained = []

    def train(temperature):
        trained.append(temperature)
        return Trial(temperature)

    return trials.choose(train, Task(), 0.14, **options)[0], trained


@pytest.mark.parametrize(
    ("best", "path"),
    [
        (0.14, [0.14, 0.1, 0.196]),
        (0.071, [0.14, 0.1, 0.0714, 0.051]),
        (0.2, [0.14, 0.1, 0.196, 0.2744]),
    ],
)
def test_temperatures_are_climbed_until_it_gets_worse(monkeypatch, best, path):
    choice, trained = chosen(
        monkeypatch, lambda t, o: 0.3 - 0.1 * abs(np.log(t / best)) - o
    )
    assert trained == path
    assert choice.temperature == min(path, key=lambda t: abs(t - best))
    assert choice.popularity_weight == 0


def test_offsets_are_climbed_on_each_trained_model(monkeypatch):
    choice, trained = chosen(
        monkeypatch,
        lambda t, o: 0.6 - abs(o / t - 0.41) - (t != 0.14) * 0.1,
    )
    assert trained == [0.14, 0.1, 0.196]
    assert choice.popularity_weight == pytest.approx(0.4 * 0.14)
    choice, trained = chosen(
        monkeypatch, lambda t, o: 0.3 + t + o, temperatures=False, weights=False
    )
    assert trained == [0.14] and choice.popularity_weight == 0.01


def test_what_chance_would_do_changes_nothing(monkeypatch):
    def better_below(temperature, offset):
        return 0.2 + 0.004 * (temperature < 0.14) - offset

    # The standard errors are 0.05 / sqrt(900) and 0.05 / sqrt(400).
    many, few = (
        chosen(monkeypatch, better_below, noise=[0.05, -0.05] * half)[0]
        for half in (450, 200)
    )
    assert (many.temperature, few.temperature) == (0.1, 0.14)


def test_why_the_best_was_not_chosen_is_said(monkeypatch):
    def better_below(temperature, offset):
        return 0.2 + 0.004 * (temperature < 0.14) - offset

    said = []
    for half in (450, 200):
        chosen(
            monkeypatch,
            better_below,
            noise=[0.05, -0.05] * half,
            explain=lambda decision: said.append(str(decision)),
        )
    clear, chance = said
    first = "temperature 0.14, popularity weight 0"
    best = "temperature 0.1, popularity weight 0"
    assert clear.startswith(f"{best}, better than {first} by 0.0040, more than")
    assert chance.startswith(f"{first}, although {best} did better: by 0.0040")
    assert "2 standard errors" in chance and "(0.0050)" in chance
    chosen(
        monkeypatch,
        lambda temperature, offset: 0.2 - abs(temperature - 0.14) - offset,
        explain=lambda decision: said.append(str(decision)),
    )
    assert said[-1] == f"{first}, which nothing else did better than"


@pytest.mark.slow
def test_popularity_is_chosen_where_it_is_all_there_is():
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 101)
    candidates = rng.choice(100, 12_000, p=share / share.sum())
    pairs = np.unique(
        np.stack([rng.integers(0, 400, 12_000), candidates]), axis=1
    )
    data = kdr.RetrievalDataset.from_interactions(*pairs)
    options = {"epochs": 6, "embedding_dimension": 8}
    tuned = kdr.fit_recipe(data, **options)
    plain = kdr.fit_recipe(data, tune=False, **options)
    assert tuned.popularity_weight > 0
    figures = [kdr.evaluate(m, data)["ndcg_at_10"] for m in (tuned, plain)]
    assert figures[0] > 1.02 * figures[1]


def test_the_former_name_of_popularity_weight_is_an_override_too():
    options = {"epochs": 1, "embedding_dimension": 4, "tune": False}
    with pytest.warns(FutureWarning, match="`popularity_weight` now") as caught:
        model = kdr.fit_recipe(synthetic(), popularity_offset=0.5, **options)
    assert model.popularity_weight == 0.5
    assert any(warning.filename == __file__ for warning in caught)
