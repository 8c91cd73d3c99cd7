"""Everything public is what it says, and survives a round trip as JSON."""

import json
import warnings

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.training import row_rules


def small_data(**options):
    rng = np.random.default_rng(0)
    users, candidates = rng.integers(1, 9, 60), rng.integers(1, 7, 60)
    return kdr.RetrievalDataset.from_interactions(users, candidates, **options)


def featured_data():
    features = {"user_id": range(1, 9), "sign": list("abcdabcd")}
    return small_data(user_features=features)


EXAMPLES = {
    "BucketedSoftmax": lambda: kdr.BucketedSoftmax(num_buckets=3, seed=1),
    "CandidateIndex": lambda: kdr.CandidateIndex(4),
    "DistributionAwareCallback": lambda: kdr.DistributionAwareCallback(),
    "FeatureLookup": lambda: kdr.FeatureLookup.from_features(
        featured_data().user_features
    ),
    "FeatureTower": lambda: kdr.FeatureTower(
        featured_data().user_features, 4, hidden=(3,), seed=1
    ),
    "Features": lambda: kdr.Features(
        {"user_id": [1, 2], "zip": [3, None]}, kinds={"zip": "categorical"}
    ),
    "FullSoftmax": lambda: kdr.FullSoftmax(temperature=0.3),
    "HistoryTower": lambda: kdr.HistoryTower(7, 4, max_length=3),
    "Histories": lambda: kdr.Histories(5, 20, max_length=4),
    "IdHistoryTower": lambda: kdr.IdHistoryTower(9, 7, 4, seed=1),
    "InBatchSoftmax": lambda: kdr.InBatchSoftmax(hard_negatives=5),
    "MovieLensRetrievalDataset": lambda: kdr.MovieLensRetrievalDataset(
        "1m", source="synthetic", split="by_time"
    ),
    "Objective": lambda: kdr.Objective(),
    "PairwiseObjective": lambda: kdr.PairwiseObjective(
        keras.losses.MeanAbsoluteError()
    ),
    "RatingError": lambda: kdr.RatingError(),
    "RecencyTower": lambda: kdr.RecencyTower(7, 4, decays=(0, 0.5)),
    "Recipe": lambda: kdr.recipe.choose_recipe(small_data(), epochs=3),
    "ResumeTraining": lambda: kdr.ResumeTraining("runs/first", 100, keep=3),
    "RetrievalDataset": lambda: small_data(),
    "RetrievalHyperModel": lambda: kdr.RetrievalHyperModel(
        small_data(), embedding_dimension=(4, 8)
    ),
    "RetrievalMetrics": lambda: kdr.RetrievalMetrics(small_data(), ks=(3,)),
    "RowEmbedding": lambda: kdr.RowEmbedding(5, 3),
    "SequenceTower": lambda: kdr.SequenceTower(
        7, 4, num_blocks=1, max_length=5, hidden_dimension=3, seed=1
    ),
    "TwoTowerRetrieval": lambda: kdr.TwoTowerRetrieval(
        9, 7, 4, objective=kdr.FullSoftmax(temperature=0.3), k=3
    ),
}


def public_classes():
    public = {name: getattr(kdr, name) for name in kdr.__all__}
    return {
        name
        for name, thing in public.items()
        if isinstance(thing, type) and not issubclass(thing, Warning)
    }


def test_all_names_what_is_there():
    assert sorted(kdr.__all__) == kdr.__all__
    for name in kdr.__all__:
        assert getattr(kdr, name) is not None


# They belong to the data of one `fit`, and no config could bring those back.
WITHOUT_CONFIG = {"FaissIndex", "ShuffleTies"}


def test_every_public_class_has_an_example():
    assert public_classes() == set(EXAMPLES) | WITHOUT_CONFIG


def test_a_category_of_warnings_is_silenced_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", kdr.DataWarning)
        data = kdr.RetrievalDataset(
            [1, 1, 2, 2] * 3, [1, 2, 3, 4] * 3, validation_fraction=0
        )
        assert data.leakage.warnings  # They were not raised.
        with pytest.raises(kdr.TrainingWarning, match="updated densely"):
            row_rules.row_rule(keras.optimizers.Lion())
        warnings.simplefilter("ignore", kdr.RetrievalWarning)
        row_rules.row_rule(keras.optimizers.Lion())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_round_trip_through_json(name):
    example = EXAMPLES[name]()
    serialized = keras.saving.serialize_keras_object(example)
    assert serialized["registered_name"] == f"keras_dp_retrieval>{name}"
    text = json.dumps(serialized)
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(example)
    reserialized = keras.saving.serialize_keras_object(again)
    assert json.loads(json.dumps(reserialized)) == json.loads(text)


@pytest.mark.parametrize("name", sorted(public_classes()))
def test_every_public_class_is_documented(name):
    assert getattr(kdr, name).__doc__.strip()
