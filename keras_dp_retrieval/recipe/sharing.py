"""What the trainings of one `fit_recipe` share: a program, and its shapes."""

import dataclasses

import numpy as np

from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.towers import Histories
from keras_dp_retrieval.training.shared_steps import SharedSteps


@dataclasses.dataclass(frozen=True)
class Room:
    """What the interactions of a data set take up.

    The data of trials are those that the model is trained on, without some
    interactions. With arrays of the same lengths, the same compiled program
    trains on both.

    Attributes:
        num_interactions: int. Those that the model knows as seen.
        longest_history: int. The most that one user has seen.
        num_positives: int. The most positives of a user, repetitions counted.
    """

    num_interactions: int
    longest_history: int
    num_positives: int

    @classmethod
    def of(cls, data) -> "Room":
        """The room of the train part of a data set."""
        seen = data.seen
        positives = np.bincount(data.ratings("train").user_rows)
        return cls(
            num_interactions=len(seen.candidate_rows),
            longest_history=max(int(np.diff(seen.indptr).max(initial=0)), 1),
            num_positives=int(positives.max()),
        )

    def histories(self, data) -> Histories:
        """The histories of a smaller data set, with room for those."""
        histories = Histories(
            data.num_users, self.num_interactions, self.longest_history
        )
        histories.assign(data.seen)
        return histories


@dataclasses.dataclass(frozen=True)
class Shared:
    """What the trainings of one `fit_recipe` have in common.

    Attributes:
        steps: `SharedSteps`. A program is compiled once for all of them.
        room: `Room`. The shapes that make the trials' data fit that program.
    """

    steps: SharedSteps
    room: Room

    @classmethod
    def of(cls, data) -> "Shared":
        """For trainings on this data set, and on parts of it."""
        return cls(SharedSteps(), Room.of(data))

    def give(self, model, recipe: Recipe, schedule) -> None:
        """Has a compiled model share its steps with the others.

        Args:
            model: `TwoTowerRetrieval` of the recipe.
            recipe: `Recipe`.
            schedule: `CosineDecay` of its optimizer.
        """
        same = dataclasses.replace(
            recipe, temperature=1.0, popularity_weight=0.0, epochs=1
        )
        histories = model.histories
        self.steps.give(
            model,
            (same, histories.num_interactions, histories.max_length),
            [(model.objective, "temperature"), (schedule, "decay_steps")],
        )
