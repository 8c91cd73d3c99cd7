"""What `fit_recipe` would do with a data set, before anything is trained."""

import dataclasses
import math

import numpy as np

from keras_dp_retrieval.data.sequences import num_pieces
from keras_dp_retrieval.recipe import trial_sizes, trials
from keras_dp_retrieval.recipe.hyperparameters import Recipe
from keras_dp_retrieval.recipe.sequence_trial import (
    reason_against,
    sequence_recipe,
)
from keras_dp_retrieval.recipe.shape import choose_recipe
from keras_dp_retrieval.towers.recency import DECAYS

_FLOAT = 4  # Bytes.


@dataclasses.dataclass(frozen=True)
class RecipePlan:
    """The recipe that the shape of a data set gives, and its cost in steps.

    All of it is counted from sizes; nothing was trained. How long a step takes
    depends on the devices.

    Args:
        recipe: `Recipe`, before trials.
        num_examples: int. Of an epoch.
        steps_per_epoch: int.
        num_trials: `(least, most)` trainings; both 0 where too few users are
            held out to choose by.
        steps_of_trial: int. Of the first of them, and of one without features.
        steps_of_others: int. Of each of the others, which begin within the
            first.
        steps_of_sequence: int. Of the trial of a `SequenceTower`, one more; 0
            where there is none.
        num_steps_of_sequence: int. Of the training, if it is chosen.
        num_parameters: int. Those that are trained; the interaction histories
            come on top.
        flop_per_step: int. Floating-point operations of the logits of a step,
            forward and backward. The towers' come on top.
        dimension_of_trials: int. The length of their vectors.
    """

    recipe: Recipe
    num_examples: int
    steps_per_epoch: int
    num_trials: tuple[int, int]
    steps_of_trial: int
    steps_of_others: int
    steps_of_sequence: int
    num_steps_of_sequence: int
    num_parameters: int
    flop_per_step: int
    dimension_of_trials: int

    @property
    def num_steps(self) -> int:
        """Steps of the training, without trials."""
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def most_steps(self) -> int:
        """Steps of the training and of as many trials as there may be."""
        most = self.num_trials[1]
        if not most:
            return self.num_steps
        whole = 1 + int(self.recipe.use_features)
        of_trials = whole * self.steps_of_trial
        of_trials += (most - whole) * self.steps_of_others
        if not self.steps_of_sequence:
            return self.num_steps + of_trials
        # That without features, and the training, are of the tower chosen.
        of_trials += self.steps_of_sequence
        if whole > 1:
            longer = self.steps_of_sequence - self.steps_of_trial
            of_trials += max(longer, 0)
        return of_trials + max(self.num_steps, self.num_steps_of_sequence)

    @property
    def most_flop(self) -> int:
        """Floating-point operations of the logits of `most_steps`."""
        flop = self.num_steps * self.flop_per_step
        of_trials = (self.most_steps - self.num_steps) * self.flop_per_step
        dimension = self.recipe.embedding_dimension
        return flop + of_trials * self.dimension_of_trials // dimension

    def to_dict(self) -> dict:
        """Returns all of it as plain values, for JSON."""
        return {**dataclasses.asdict(self), "num_steps": self.num_steps}

    def __str__(self) -> str:
        recipe = self.recipe
        megabytes = self.num_parameters * _FLOAT / 1e6
        if self.num_trials[1]:
            tried = (
                f"{self.num_trials[0]} to {self.num_trials[1]} trainings "
                f"before, the first of {self.steps_of_trial:,} steps, others "
                f"of {self.steps_of_others:,} more than what they share"
            )
            if self.dimension_of_trials < recipe.embedding_dimension:
                tried += f", with {self.dimension_of_trials} dimensions"
            if self.steps_of_sequence:
                tried += (
                    f", and one of {self.steps_of_sequence:,} with a "
                    "SequenceTower"
                )
            tried += f"; they choose {_chosen(recipe, self.steps_of_sequence)}"
        else:
            tried = "none: too few users are held out to choose by"
        lines = {
            "learns": f"order={recipe.order!r}, {recipe.objective!r}, "
            f"embedding_dimension={recipe.embedding_dimension}",
            "begins with": f"temperature={recipe.temperature:g}, "
            f"learning_rate={recipe.learning_rate:g}, "
            f"weight_decay={recipe.weight_decay:g}",
            "an epoch": f"{self.num_examples:,} examples in "
            f"{self.steps_per_epoch:,} steps of {recipe.batch_size:,}",
            "training": f"{recipe.epochs} epochs, {self.num_steps:,} steps",
            "trials": tried,
            "parameters": f"{self.num_parameters:,}: {megabytes:,.1f} MB, and "
            f"{2 * megabytes:,.1f} MB of the optimizer",
            "logits": f"{_short(self.flop_per_step)}FLOP a step, "
            f"{_short(self.most_flop)}FLOP in all at most",
        }
        return "\n".join(
            [
                "`fit_recipe` (`train`) would do, by the shape of the data:",
                *(f"  {name:14}{value}" for name, value in lines.items()),
                "Counted, nothing was run; how long a step takes depends on "
                "the devices.",
            ]
        )


def plan_recipe(data) -> RecipePlan:
    """Returns what `fit_recipe(data)` would do.

    Args:
        data: `RetrievalDataset`.
    """
    whole, for_trials = trial_sizes.divided_for_fit(data)
    recipe = choose_recipe(whole)
    num_examples = _num_examples(whole, recipe)
    of_trials = for_trials()
    is_tried = trial_sizes.has_trials(of_trials, recipe)
    trial_steps = math.ceil(
        _num_examples(of_trials, recipe) / recipe.batch_size
    )
    trial = trial_sizes.trial_recipe(of_trials, recipe)
    own_epochs = trial.epochs - trial_sizes.shared_epochs(trial.epochs)
    of_sequence = (0, 0)
    if is_tried and not reason_against(whole, recipe, {}):
        of_sequence = _steps_of_sequence(whole, of_trials, recipe)
    return RecipePlan(
        recipe=recipe,
        num_examples=num_examples,
        steps_per_epoch=math.ceil(num_examples / recipe.batch_size),
        num_trials=_num_trials(recipe) if is_tried else (0, 0),
        steps_of_trial=trial_steps * trial.epochs,
        steps_of_others=trial_steps * own_epochs,
        steps_of_sequence=of_sequence[0],
        num_steps_of_sequence=of_sequence[1],
        num_parameters=_num_parameters(data, recipe),
        flop_per_step=trial_sizes.flop_per_step(data, recipe),
        dimension_of_trials=trial.embedding_dimension,
    )


def _num_examples(data, recipe: Recipe) -> int:
    """Examples of an epoch, without making them."""
    users = data.ratings("train").user_rows
    if recipe.order == "recency":
        return len(users) - trial_sizes.num_distinct(users)
    if recipe.order == "sequence":
        return num_pieces(np.bincount(users), recipe.max_length)
    if recipe.objective == "full_softmax":
        return trial_sizes.num_distinct(users)
    return len(users)


def _steps_of_sequence(whole, of_trials, recipe: Recipe) -> tuple[int, int]:
    """Steps of the trial of a `SequenceTower`, and of the training of one."""
    other = sequence_recipe(whole, recipe, {})

    def steps(data, epochs):
        examples = _num_examples(data, other)
        return epochs * math.ceil(examples / other.batch_size)

    epochs = trial_sizes.trial_recipe(of_trials, other).epochs
    return steps(of_trials, epochs), steps(whole, other.epochs)


def _num_parameters(data, recipe: Recipe) -> int:
    """Those of `build_model`, which would take their memory."""
    dimension = recipe.embedding_dimension
    if recipe.order == "recency":
        rows = 2 * data.num_candidates + len(DECAYS) * dimension
    else:
        rows = data.num_users + 2 * data.num_candidates
    return rows * dimension


def _num_trials(recipe: Recipe) -> tuple[int, int]:
    least, most = trials.NUM_TRAININGS
    without_features = int(recipe.use_features)
    return least + without_features, most + without_features


def _chosen(recipe: Recipe, tries_sequence) -> str:
    chosen = ["temperature", "popularity weight"]
    chosen += ["tower"] * bool(tries_sequence)
    chosen += ["whether to use features"] * recipe.use_features
    return f"{', '.join(chosen[:-1])} and {chosen[-1]}"


def _short(number: float) -> str:
    """A number with a prefix of the metric system: `1.2 G`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {prefix}"
        number /= 1000
    return f"{number:,.0f} E"
