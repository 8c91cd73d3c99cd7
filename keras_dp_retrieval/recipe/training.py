"""Training: a model of a recipe, trained whole or in parts."""

import keras
import numpy as np

from keras_dp_retrieval._keras.seeds import set_random_seed
from keras_dp_retrieval.callbacks import ShuffleTies
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.recipe_model import build_model


class Training:
    """A model and the examples that it is trained on.

    Args:
        data: `RetrievalDataset`.
        recipe: `Recipe`. Its learning rate ends with its epochs.
        seed: int.
        shared: Optional `Shared`, what the trainings of a recipe share.
    """

    def __init__(self, data, recipe: Recipe, seed: int, shared=None):
        set_random_seed(seed)
        self.recipe, self._shared = recipe, shared
        by_time = recipe.predicts_next_item
        room = None if shared is None or by_time else shared.room
        self.model = build_model(data, recipe, seed, room=room)
        self.examples = examples(data, recipe, room)
        self.num_steps = self.examples.num_batches
        self._schedule = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate, self.num_steps * recipe.epochs
        )
        self.model.compile(
            optimizer=keras.optimizers.AdamW(
                self._schedule, weight_decay=recipe.weight_decay, beta_2=0.99
            ),
            # Fused steps; larger groups gain little.
            steps_per_execution=min(self.num_steps, 16),
        )
        self.model.build()
        self.model.optimizer.build(self.model.trainable_variables)

    def fit(self, epochs: int, *, verbose=0, callbacks=None) -> None:
        """Trains for so many more epochs."""
        if self._shared is not None:
            self._shared.give(self.model, self.recipe, self._schedule)
        callbacks = list(callbacks or [])
        if self.recipe.predicts_next_item:
            callbacks.insert(0, ShuffleTies(self.examples))
        self.model.fit(
            self.examples, epochs=epochs, verbose=verbose, callbacks=callbacks
        )
        if self._shared is not None:
            self._shared.steps.take(self.model)

    def state(self) -> list[np.ndarray]:
        """A copy of all that training changes."""
        # Copies: the next step donates the device's buffers.
        return [
            np.array(keras.ops.convert_to_numpy(variable))
            for variable in self._variables()
        ]

    def restore(self, state: list[np.ndarray]) -> None:
        """Goes back to a `state`."""
        for variable, value in zip(self._variables(), state, strict=True):
            variable.assign(value)

    def _variables(self) -> list:
        """The histories are left out, which stay as they are."""
        histories = self.model.histories
        fixed = set() if histories is None else set(map(id, histories.weights))
        variables = [*self.model.variables, *self.model.optimizer.variables]
        return [one for one in variables if id(one) not in fixed]


class Branches:
    """Trainings that begin with the same epochs, and end with their own.

    The first of them is trained from the start, and the others go on from
    where it was after `shared_epochs`, with another temperature. So
    several cost little more than one.

    Args:
        training: `Training` of the first.
        shared_epochs: int. Of those of its recipe.
    """

    def __init__(self, training: Training, shared_epochs: int):
        self._training = training
        self._shared_epochs = shared_epochs
        self._own_epochs = training.recipe.epochs - shared_epochs
        self._fork: list[np.ndarray] | None = None

    def train(self, temperature: float, callbacks=lambda name: []) -> None:
        """Trains the model with a temperature.

        Args:
            temperature: float.
            callbacks: From a name to callbacks for the `fit` of that name.
        """
        training = self._training
        training.model.objective.temperature = temperature
        if self._fork is not None:
            training.restore(self._fork)
            training.examples.start_at_epoch(self._shared_epochs)
        elif self._shared_epochs:
            training.fit(
                self._shared_epochs, callbacks=callbacks("shared-epochs")
            )
        if self._fork is None:
            self._fork = training.state()
        training.fit(
            self._own_epochs,
            callbacks=callbacks(f"temperature-{temperature:g}"),
        )


def examples(data, recipe: Recipe, room=None):
    """What a model of a recipe is trained on: a `BatchSource`."""
    if recipe.order == "recency":
        return data.source_of_next_items(recipe.batch_size)
    if recipe.order == "sequence":
        return data.source_by_sequence(recipe.batch_size, recipe.max_length)
    if recipe.objective == "full_softmax":
        return data.source_by_user(
            recipe.batch_size, room and room.num_positives
        )
    return source_of(data.by_interaction(recipe.batch_size))
