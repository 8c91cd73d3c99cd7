"""What is exported answers as the model does."""

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr


def id_tower(data):
    return None


def id_history_tower(data):
    return kdr.IdHistoryTower(data.num_users, data.num_candidates, 4)


def recency_tower(data):
    return kdr.RecencyTower(data.num_candidates, 4)


@pytest.mark.parametrize(
    "tower",
    [
        id_tower,
        pytest.param(id_history_tower, marks=pytest.mark.slow),
        pytest.param(recency_tower, marks=pytest.mark.slow),
    ],
)
def test_a_loaded_model_is_exported_and_serves_what_it_answers(tmp_path, tower):
    import tensorflow as tf

    data = kdr.RetrievalDataset.from_synthetic(20, 30, 250)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 4, user_tower=tower(data), k=5, popularity_weight=0.5
    )
    model.candidate_counts.assign(data.candidate_counts())
    model.save(tmp_path / "m.keras")
    loaded = kdr.TwoTowerRetrieval.load(tmp_path / "m.keras")
    loaded.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    for users in (np.arange(3, dtype="int32"), np.array([7], "int32")):
        expected = model(users)
        answer = served.serve(tf.constant(users))
        assert sorted(answer) == sorted(expected)
        np.testing.assert_array_equal(
            answer["predictions"], expected["predictions"]
        )
        np.testing.assert_allclose(
            answer["user_embeddings"],
            keras.ops.convert_to_numpy(expected["user_embeddings"]),
            atol=1e-6,
        )


def test_a_short_catalogue_is_filled_up_as_in_the_model(tmp_path):
    import tensorflow as tf

    model = kdr.TwoTowerRetrieval(5, 4, 3, k=6)
    model.build()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    users = np.arange(5, dtype="int32")
    predictions = served.serve(tf.constant(users))["predictions"].numpy()
    np.testing.assert_array_equal(predictions, model(users)["predictions"])
    assert (predictions[:, 3:] == -1).all()
