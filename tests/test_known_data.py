"""A model knows its data, and which interactions it was trained on."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli


def data_of(**options):
    return kdr.RetrievalDataset.from_synthetic(
        20, 30, 250, **{"seed": 1, **options}
    )


def model_of(data, **kwargs):
    return kdr.TwoTowerRetrieval.for_dataset(data, 4, **kwargs)


@pytest.fixture(scope="module")
def data():
    return data_of()


def test_the_file_says_what_it_was_trained_on(tmp_path, data):
    model = model_of(data)
    assert model.trained_on["split"] == "random"
    assert model.trained_on["seed"] == 1
    assert model.trained_on == data.fingerprint
    model.save(tmp_path / "m.keras")
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    assert loaded.trained_on == data.fingerprint
    assert kdr.TwoTowerRetrieval(5, 7, 4).trained_on is None


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"test_fraction": 0.5}, {"split": "leave_last_out"}]
)
def test_a_part_that_was_trained_on_is_refused(data, other):
    model, other = model_of(data), data_of(**other)
    # The interactions of `other`'s test part that are not held out here.
    held_out = {
        pair
        for part in ("validation", "test")
        for pair in zip(
            data.ratings(part).user_rows,
            data.ratings(part).candidate_rows,
            strict=True,
        )
    }
    test = other.ratings("test")
    trained = sum(
        pair not in held_out
        for pair in zip(test.user_rows, test.candidate_rows, strict=True)
    )
    assert trained
    with pytest.raises(
        ValueError,
        match=rf"{trained} of the {len(test)} .*trained on .*seed=1, .*"
        rf"Received: .*seed={other.seed}, .*allow_trained=True",
    ):
        kdr.evaluate(model, other)
    assert kdr.evaluate(model, other, allow_trained=True)["num_users"]


def test_the_right_parts_are_evaluated(data):
    model = model_of(data)
    for split in ("test", "validation", "train"):
        assert kdr.evaluate(model, data, split)["num_users"]
    refit = model_of(data.with_validation_in_train())
    assert refit.trained_on["validation_in_train"]
    assert kdr.evaluate(refit, data)["num_users"]
    with pytest.raises(ValueError, match=r"'validation' part .*in train"):
        kdr.evaluate(refit, data, "validation")


def test_repeated_interactions_of_one_split_are_no_error():
    rng = np.random.default_rng(0)
    users, candidates = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    with pytest.warns(UserWarning, match="also in the train part"):
        data = kdr.RetrievalDataset.from_interactions(users, candidates)
    assert data.leakage.num_repeated
    assert kdr.evaluate(model_of(data), data)["num_users"] >= 1
    refit = model_of(data.with_validation_in_train())
    assert kdr.evaluate(refit, data)["num_users"] >= 1


def test_a_model_that_knows_nothing_is_evaluated(data):
    model = kdr.TwoTowerRetrieval(
        data.num_users,
        data.num_candidates,
        4,
        candidate_key=data.candidate_key,
    )
    assert kdr.evaluate(model, data)["num_users"]


@pytest.mark.parametrize("side", ["user", "candidate"])
def test_data_of_another_size_or_with_other_ids_are_refused(data, side):
    sizes = {"num_users": 20, "num_candidates": 30, "num_ratings": 250}
    smaller = {**sizes, f"num_{side}s": 17, "num_ratings": 150}
    model = model_of(kdr.RetrievalDataset.from_synthetic(**smaller))
    size = getattr(model, f"num_{side}s")
    with pytest.raises(ValueError, match=rf"each of the .* model of {size}"):
        kdr.evaluate(model, data)
    model = model_of(data)
    train = data.ratings("train")
    ids = {
        name: getattr(data, f"{name}_vocabulary").raw_ids(
            getattr(train, f"{name}_rows")
        )
        for name in ("user", "candidate")
    }
    ids[side] = ids[side] + 1000
    other = kdr.RetrievalDataset.from_interactions(
        ids["user"], ids["candidate"]
    )
    with pytest.raises(ValueError, match=f"the same {side}s.*which differ"):
        kdr.evaluate(model, other)


# The key of the candidates


def test_fit_says_which_key_the_batches_have_and_which_it_wants():
    model = kdr.TwoTowerRetrieval(5, 7, 4)
    model.compile("sgd")
    users, y = np.array([1, 2]), {"item": np.array([3, 4])}
    with pytest.raises(
        ValueError, match=r"key 'movie_id'.*\['item'\].*candidate_key='item'"
    ):
        model.fit(users, y)
    kdr.TwoTowerRetrieval(5, 7, 4, candidate_key="item").check_batch(users, y)


def test_data_of_another_key_are_not_evaluated():
    data = data_of(candidate_key="item")
    model = kdr.TwoTowerRetrieval(data.num_users, data.num_candidates, 4)
    with pytest.raises(
        ValueError,
        match=r"a model of 'movie_id' and data of 'item'.*for_dataset",
    ):
        kdr.evaluate(model, data)
    model = model_of(data)
    assert model.candidate_key == "item"
    assert kdr.evaluate(model, data)["num_users"]


# The command line


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    data = kdr.MovieLensRetrievalDataset(
        "100k", source="synthetic", split="tutorial", seed=7
    )
    model_of(data).save(path)
    return path, kdr.evaluate(keras.saving.load_model(path), data)


def test_the_command_evaluates_the_split_that_was_held_out(saved, capsys):
    path, expected = saved
    assert cli.main(["evaluate", str(path)]) == 0
    said = capsys.readouterr().out
    assert "split 'tutorial'" in said
    assert f"{expected['ndcg_at_10']:.4f}" in said


def test_the_command_refuses_another_split(saved, capsys):
    path, _ = saved
    assert cli.main(["evaluate", str(path), "--split", "random"]) == 1
    said = capsys.readouterr().err
    assert "were trained on" in said and "--allow-trained" in said
    again = ["evaluate", str(path), "--split", "random", "--allow-trained"]
    assert cli.main(again) == 0
