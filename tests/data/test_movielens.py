"""MovieLens from its sources, to batches."""

import json
import shutil

import keras
import numpy as np
import pytest

from keras_dp_retrieval.data.movielens import MovieLensRetrievalDataset
from keras_dp_retrieval.data.movielens_files import read_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "10m"}, "'100k', '1m', '20m', '25m', 'latest-small'"),
        ({"source": "web"}, "'tfds', 'files', 'synthetic'"),
        ({"split": "half"}, "'random', 'tutorial', 'by_time', 'leave_last"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of 1"),
        ({"seed": -1}, "`seed` must be"),
        ({"seed": 2**32}, "`seed` must be"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be"),
        ({"source": "files"}, "needs `data_dir="),
        ({"source": "synthetic", "data_dir": "/"}, "reads nothing"),
        ({"data_dir": __file__}, "must be a folder"),
        ({"version": "1m", "split": "tutorial"}, "Received: 1,000,209"),
        (
            {"split": "tutorial", "validation_in_train": True},
            "validation cannot be learned from",
        ),
    ],
)
def test_bad_arguments_are_refused_before_any_data_is_touched(
    arguments, message
):
    with pytest.raises(ValueError, match=message):
        MovieLensRetrievalDataset(**arguments)


@pytest.mark.parametrize("source", ["tfds", "files"])
def test_a_missing_folder_is_refused_at_once(tmp_path, source):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*source='synth"):
        MovieLensRetrievalDataset(source=source, data_dir=tmp_path / "nowhere")


def test_config_rebuilds_it_without_reading_anything():
    data = MovieLensRetrievalDataset(
        "25m", split="by_time", batch_size=64, validation_fraction=0.125
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(data)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is MovieLensRetrievalDataset
    assert again.get_config() == data.get_config()
    assert "MovieLens 25m (tfds)" in repr(again)


def test_synthetic_data_have_the_shape_of_movielens_and_say_what_they_are():
    data = MovieLensRetrievalDataset(source="synthetic")
    assert (data.num_users, data.num_candidates) == (944, 1683)
    assert sum(len(data.ratings(part)) for part in PARTS) == 100_000
    assert data.is_synthetic
    assert "SYNTHETIC" in repr(data)
    assert "SYNTHETIC" in data.description
    assert data.candidate_titles[17] == "Synthetic movie 17"


PARTS = ("train", "validation", "test")


def test_tutorial_split_has_one_order_for_all_epochs():
    data = MovieLensRetrievalDataset(source="synthetic", split="tutorial")
    assert data.validation is data.test
    assert "same rows" in repr(data)
    first, second = (
        np.concatenate([x for x, _ in data.train.as_numpy_iterator()])
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, data.ratings("train").user_rows)
    with pytest.raises(ValueError, match="same rows"):
        data.with_validation_in_train()
    # What is held out is held out for both.
    assert len(data.seen_before("test")) == 80_000


@pytest.mark.realdata
def test_all_sources_have_the_same_ratings(data_dir):
    def sorted_rows(data):
        raw = data._loaded.interactions
        columns = (raw.user_ids, raw.candidate_ids, raw.timestamps)
        order = np.lexsort(columns)
        return np.stack([*columns, raw.ratings.astype(int)])[:, order]

    files = MovieLensRetrievalDataset(
        source="files", data_dir=data_dir / "ml-100k"
    )
    tfds = MovieLensRetrievalDataset(data_dir=data_dir / "tfds")
    np.testing.assert_array_equal(sorted_rows(files), sorted_rows(tfds))
    assert files.candidate_titles == tfds.candidate_titles
    assert files.candidate_titles[1] == "Toy Story (1995)"
    assert files.candidate_titles[542].startswith("Pocahontas")
    assert "Cérémonie, La (1995)" in files.candidate_titles.values()


@pytest.mark.realdata
def test_tfds_order_is_the_one_tfds_gives(data_dir):
    import tensorflow_datasets as tfds

    loaded = tfds.load(
        "movielens/100k-ratings",
        split="train",
        data_dir=str(data_dir / "tfds"),
    ).take(1000)
    expected = [
        (int(row["user_id"]), int(row["movie_id"]), int(row["timestamp"]))
        for row in loaded.as_numpy_iterator()
    ]
    raw = MovieLensRetrievalDataset(data_dir=data_dir)._loaded.interactions
    columns = (raw.user_ids, raw.candidate_ids, raw.timestamps)
    ours = np.stack(columns, axis=1)[:1000]
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.realdata
def test_tutorial_batches_are_those_of_its_pipeline(data_dir):
    # The tutorial's first batch, by an independent pipeline.
    import tensorflow as tf

    data = MovieLensRetrievalDataset(data_dir=data_dir, split="tutorial")
    raw = data._loaded.interactions
    tf.random.set_seed(None)
    rows = tf.data.Dataset.from_tensor_slices(
        (raw.user_ids, raw.candidate_ids, raw.ratings)
    )
    shuffled = rows.shuffle(100_000, seed=42, reshuffle_each_iteration=False)
    ours = data.train.as_numpy_iterator()
    for users, movies, stars in shuffled.batch(1000).take(3):
        x, y = next(ours)
        np.testing.assert_array_equal(x, users)
        np.testing.assert_array_equal(y["movie_id"], movies)
        np.testing.assert_array_equal(y["rating"], (stars - 1.0) / 4.0)


@pytest.mark.realdata
def test_row_is_the_id_in_movielens_100k(data_dir):
    data = MovieLensRetrievalDataset(source="files", data_dir=data_dir)
    assert (data.num_users, data.num_candidates) == (944, 1683)
    ids = np.arange(1, 1683)
    np.testing.assert_array_equal(data.candidate_vocabulary.rows(ids), ids)


@pytest.mark.realdata
def test_first_protocol_follows_the_order_of_the_file(data_dir):
    raw = read_files("100k", data_dir).ratings
    order = np.random.RandomState(42).permutation(100_000)
    data = MovieLensRetrievalDataset(
        source="files", data_dir=data_dir, validation_fraction=0.125
    )
    for part, indices in {
        "train": order[:70_000],
        "validation": order[70_000:80_000],
        "test": order[80_000:],
    }.items():
        ratings = data.ratings(part)
        np.testing.assert_array_equal(ratings.user_rows, raw.user_ids[indices])
        np.testing.assert_array_equal(
            ratings.candidate_rows, raw.candidate_ids[indices]
        )
    refit = data.with_validation_in_train()
    np.testing.assert_array_equal(
        refit.ratings("train").user_rows, raw.user_ids[order[:80_000]]
    )
    np.testing.assert_array_equal(
        refit.ratings("test").user_rows, data.ratings("test").user_rows
    )
    assert refit.validation is None


@pytest.mark.realdata
def test_a_damaged_prepared_copy_is_an_error(data_dir, tmp_path):
    shutil.copytree(data_dir / "tfds", tmp_path / "tfds")
    (records,) = tmp_path.glob("tfds/movielens/100k-ratings/*/*.tfrecord*")
    records.write_bytes(records.read_bytes()[:1_000_000])
    data = MovieLensRetrievalDataset(data_dir=tmp_path / "tfds")
    with pytest.raises(RuntimeError, match="prepare it again"):
        _ = data.num_users
