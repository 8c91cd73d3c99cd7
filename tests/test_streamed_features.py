"""Features beside interactions that are not in memory."""

import json

import keras
import numpy as np
import pandas as pd
import pytest

import keras_dp_retrieval as kdr
from tests.test_streamed_training import OPTIONS, write_interactions

USERS = {
    "user_id": np.arange(100),  # 90 and above are not in the files.
    "country": [f"c{n % 3}" for n in range(100)],
    "age": np.linspace(20, 60, 100),
}
ITEMS = {
    "item_id": 2 * np.arange(55),
    "group": [f"g{n % 4}" for n in range(55)],
    "tags": [[f"t{n % 3}", f"t{n % 5}"][: n % 3] for n in range(55)],
}
FEATURES = {"user_features": USERS, "candidate_features": ITEMS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_interactions(tmp_path_factory.mktemp("data") / "d")


def streamed(folder, **options):
    options = {**OPTIONS, **FEATURES, **options}
    return kdr.RetrievalDataset.from_parquet(folder, streaming=True, **options)


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def in_memory(folder, **options):
    options = {**OPTIONS, **FEATURES, "split": "by_time", **options}
    return kdr.RetrievalDataset.from_parquet(folder, **options)


def assert_same_features(one, other):
    for side in ("user", "candidate"):
        found, expected = (
            getattr(data, f"{side}_features") for data in (one, other)
        )
        assert found.schema.get_config() == expected.schema.get_config()
        np.testing.assert_array_equal(found.is_known, expected.is_known)
        for name, column in expected.columns.items():
            np.testing.assert_array_equal(found.columns[name], column)


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_streamed_data_has_the_features_of_data_in_memory(folder):
    data, expected = streamed(folder), in_memory(folder)
    ids = data.candidate_vocabulary.ids
    assert ids.tolist() == ITEMS["item_id"].tolist()
    np.testing.assert_array_equal(ids, expected.candidate_vocabulary.ids)
    np.testing.assert_array_equal(
        data.user_vocabulary.ids, expected.user_vocabulary.ids
    )
    assert_same_features(data, expected)
    assert "features of users: country, age" in data.description
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(data)))
    assert_same_features(
        keras.saving.deserialize_keras_object(config), expected
    )


def test_encoders_of_streamed_data_learn_from_the_train_part_alone(folder):
    held_out = kdr.RetrievalDataset.from_parquet(
        folder, streaming=True, **{**OPTIONS, "test_fraction": 0.9}
    )
    counts = held_out.user_counts("train")[1:]
    later = held_out.user_vocabulary.ids[counts == 0]
    assert len(later) > 3
    everybody = held_out.user_vocabulary.ids
    is_later = np.isin(everybody, later)
    data = streamed(
        folder,
        test_fraction=0.9,
        user_features={
            "user_id": everybody,
            "when": np.where(is_later, "later", "before"),
            "age": np.where(is_later, 1000.0, 20.0 + everybody % 2),
        },
    )
    encoders = data.user_features.schema.encoders
    assert encoders["when"].values == ["before"]
    assert 20 < encoders["age"].mean < 21
    # What only the later ones have is not known, of them all the same.
    rows = data.user_vocabulary.rows(later)
    assert (data.user_features.columns["when"][rows] == 0).all()
    assert data.user_features.is_known[rows].all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_a_fit_on_streamed_data_gives_the_towers_of_data_in_memory(
    folder, tmp_path
):
    """One batch has all rows, so that their order does not matter."""

    def trained(data):
        keras.utils.set_random_seed(3)
        towers = {
            f"{side}_tower": kdr.FeatureTower(
                getattr(data, f"{side}_features"), 4, id_dropout=0.0, seed=1
            )
            for side in ("user", "candidate")
        }
        model = kdr.TwoTowerRetrieval.for_dataset(
            data,
            4,
            objective="full_softmax",
            # Streamed data has none, which tell of other positives.
            histories=None,
            **towers,
        )
        model.compile(keras.optimizers.Adam(0.05))
        model.fit(data.train, epochs=3, verbose=0)
        return model

    options = {"batch_size": 2000}
    data = streamed(folder, **options)
    model, expected = trained(data), trained(in_memory(folder, **options))
    for one, other in zip(
        model.get_weights(), expected.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    found = kdr.evaluate(model, data, max_users=30)
    of_memory = kdr.evaluate(expected, in_memory(folder), max_users=30)
    assert found == pytest.approx(of_memory, abs=1e-4)
    # What comes after training is as ever.
    model.add_candidates([1001], features={"group": ["g1"], "tags": [["t2"]]})
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    questions = (
        {"user_ids": [5, 95]},
        {"user_features": {"country": ["c1"], "age": [33]}},
    )
    for question in questions:
        one, other = (m.recommend(**question, k=60) for m in (model, loaded))
        np.testing.assert_array_equal(one[0], other[0])
        # Cold candidates are retrieved, too.
        assert {100, 108, 1001} <= set(one[0][0].tolist())


@pytest.mark.filterwarnings("ignore:.*also in the train part")
@pytest.mark.slow
def test_streamed_data_makes_the_feature_towers_of_data_in_memory(folder):
    vectors = []
    for data in (streamed(folder), in_memory(folder)):
        keras.utils.set_random_seed(3)
        model = kdr.TwoTowerRetrieval.for_dataset(data, 4)
        assert isinstance(model.user_tower, kdr.FeatureTower)
        assert isinstance(model.candidate_tower, kdr.FeatureTower)
        assert 108 in model.retrievable_ids()  # It has features alone.
        vectors.append([model.encode_users([7, 95]), model.encode_candidates()])
    for one, other in zip(*vectors, strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_that_do_not_fit_a_stream_are_refused(folder):
    texts = {"item_id": ["0", "2"], "group": ["g0", "g1"]}
    with pytest.raises(ValueError, match=r"Make whole numbers of the column"):
        streamed(folder, candidate_features=texts)
    with pytest.raises(ValueError, match=r"`user_ids` must have every id with"):
        streamed(folder, user_ids=np.arange(90))
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.csv'"):
        streamed(folder, user_features="nowhere.csv")


def test_whole_numbers_of_a_csv_file_are_strings_where_the_others_are(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("item_id,group\n7,g1\n10,g0\n")
    data = kdr.RetrievalDataset.from_dataframe(
        pd.DataFrame({"user_id": [1, 2, 3], "item_id": ["7", "A1", "7"]}),
        candidate_features=path,
        validation_fraction=0,
        test_fraction=0,
    )
    assert data.candidate_vocabulary.ids.tolist() == ["10", "7", "A1"]
    row = data.candidate_vocabulary.rows(["7"])[0]
    assert data.candidate_features.is_known[row]
    # A table in memory says what its ids are.
    with pytest.raises(ValueError, match=r"Make strings of the column 'item_"):
        kdr.RetrievalDataset(
            [1, 2],
            ["7", "A1"],
            candidate_features={"item_id": [7, 10], "group": ["g1", "g0"]},
        )
