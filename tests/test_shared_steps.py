"""Several trainings, one compiled program."""

import contextlib

import keras
import numpy as np
import pytest

import keras_dp_retrieval as kdr
from keras_dp_retrieval.recipe import training, trials
from keras_dp_retrieval.recipe.sharing import Room
from keras_dp_retrieval.training.shared_steps import SharedSteps
from tests.compilations import compiled_programs

OPTIONS = {"embedding_dimension": 8, "epochs": 3}


def synthetic(**options):
    return kdr.RetrievalDataset.from_synthetic(
        150, 80, 3000, num_tastes=4, **options
    )


@contextlib.contextmanager
def compiled_steps():
    """Counts the programs of fused steps that JAX compiles meanwhile."""
    with compiled_programs() as names:
        yield lambda: sum("run" in name for name in names)


def trained(data, temperature, shared=None, epochs=2):
    keras.utils.set_random_seed(0)
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, objective=kdr.FullSoftmax(temperature)
    )
    examples = data.by_user(32)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.1, epochs * int(examples.cardinality())
    )
    model.compile(keras.optimizers.Adagrad(schedule), steps_per_execution=5)
    if shared is not None:
        numbers = [(model.objective, "temperature"), (schedule, "decay_steps")]
        shared.give(model, "one", numbers)
    model.fit(examples, epochs=epochs, verbose=0)
    return model


def test_models_of_one_program_are_those_of_their_own_programs():
    data = synthetic()
    settings = [(0.1, 2), (0.3, 3)]
    shared = SharedSteps()
    with compiled_steps() as number:
        together = [trained(data, t, shared, epochs=e) for t, e in settings]
        assert number() == 1
    for model, (temperature, epochs) in zip(together, settings, strict=True):
        # With a constant of the other model they would differ by 0.01.
        alone = trained(data, temperature, epochs=epochs)
        assert model.objective.temperature == temperature
        # The chance level is known: positives are counted in the loss.
        assert model.multi_positive and alone.multi_positive
        for ours, theirs in zip(
            model.get_weights(), alone.get_weights(), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_what_is_not_alike_gets_a_program_of_its_own():
    shared = SharedSteps()
    with compiled_steps() as number:
        trained(synthetic(), 0.1, shared)
        # Another catalogue, under the same key: the shapes tell.
        other = kdr.RetrievalDataset.from_synthetic(150, 90, 3000)
        model = trained(other, 0.1, shared)
        assert number() == 2
    alone = trained(other, 0.1)
    np.testing.assert_allclose(
        model.candidate_vectors(), alone.candidate_vectors(), atol=1e-4
    )


@pytest.fixture
def trainings(monkeypatch):
    """The epochs of each `fit` of `fit_recipe`."""
    epochs, train = [], training.Training.fit

    def note(self, number, **kwargs):
        epochs.append(number)
        train(self, number, **kwargs)

    monkeypatch.setattr(training.Training, "fit", note)
    return epochs


@pytest.mark.slow
def test_a_recipe_compiles_its_steps_once(trainings, tmp_path):
    data = synthetic()
    with compiled_steps() as number:
        model = kdr.fit_recipe(data, **OPTIONS)
        assert number() == 1
    assert len(trainings) > trials.NUM_TRAININGS[0]  # And the model.
    # It is a model like any other: it knows what it was trained on alone, is
    # saved, and can be trained further.
    whole = data.with_validation_in_train()
    assert model.histories.num_interactions == len(whole.seen.candidate_rows)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.objective.temperature == model.objective.temperature
    np.testing.assert_array_equal(
        loaded.candidate_vectors(), model.candidate_vectors()
    )
    with compiled_steps() as number:
        model.fit(whole.by_user(64), verbose=0)
        assert number() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"objective": "in_batch_softmax"}, {"order": "recency"}]
)
def test_trials_of_every_kind_share_their_steps(trainings, options):
    data = synthetic(split="leave_last_out" if "order" in options else "random")
    with compiled_steps() as number:
        kdr.fit_recipe(data, **OPTIONS, **options)
        # A program of whole groups and one of what is left, for the trials
        # and for the model.
        assert number() <= 4
    assert len(trainings) > trials.NUM_TRAININGS[0]


def test_room_changes_nothing_that_a_model_reads():
    data = synthetic()
    room = Room.of(data.with_validation_in_train())
    roomy = room.histories(data)
    exact = kdr.Histories.from_interactions(data.seen)
    users = np.arange(data.num_users)
    longest = exact.max_length
    assert roomy.max_length > longest
    looked_up = np.asarray(roomy(users))
    np.testing.assert_array_equal(looked_up[:, :longest], exact(users))
    assert (looked_up[:, longest:] == -1).all()
    # Of the model's own data there is exactly room.
    whole = data.with_validation_in_train()
    ours = room.histories(whole)
    theirs = kdr.Histories.from_interactions(whole.seen)
    assert ours.max_length == theirs.max_length
    for one, other in zip(
        ours.get_weights(), theirs.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_examples_of_users_are_padded_to_a_given_number():
    data = synthetic()
    (_, short, *_), (_, long, *_) = (
        next(iter(data.by_user(200, num_positives=number)))
        for number in (None, 60)
    )
    short, long = (np.asarray(y["candidate_id"]) for y in (short, long))
    assert long.shape[1] == 60 > short.shape[1]
    assert (long[:, short.shape[1] :] == -1).all()
    assert {*map(tuple, long[:, : short.shape[1]])} == {*map(tuple, short)}
    with pytest.raises(ValueError, match="at least the most that a user has"):
        data.by_user(200, num_positives=3)
