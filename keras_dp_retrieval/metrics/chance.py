"""Does a softmax loss show that the model learns at all?"""

import math
import warnings
from collections.abc import Callable

import keras

from keras_dp_retrieval.warning_categories import TrainingWarning

# In which being near chance is no news.
FIRST_EPOCHS = 2


def chance_level(num_competitors: int) -> float:
    """The softmax loss of guessing: ln(number of candidates that compete).

    Cross-entropy of the right candidate under equal scores. In the full
    softmax all real candidates compete, in the in-batch softmax as many as
    the global batch has.
    """
    return math.log(num_competitors)


def warn_if_at_chance(
    loss: float,
    num_competitors: int,
    epoch: int,
    *,
    tolerance: float = 0.01,
    first_epochs: int = FIRST_EPOCHS,
) -> bool:
    """Warns when a softmax loss has not left chance level after some epochs.

    Such a run looks healthy, its loss even falls in the fourth digit, and
    learns nothing: typically a mean over a large batch, whose gradients are
    small, together with `Adagrad`, whose accumulator starts at 0.1 and so
    divides them by 0.3.

    The text does not contain the loss, so Python's default filter shows it
    once and not in every epoch.

    Args:
        loss: float. Mean softmax loss per example of an epoch, in nats.
        num_competitors: int. Candidates among which the right one is found.
        epoch: int. Number of the epoch, from 0.
        tolerance: float. Relative distance from chance that counts as none.
        first_epochs: int. Epochs in which being near chance is no news.

    Returns:
        Whether it warned.
    """
    # One candidate is always found: a loss of ln 1 = 0 is as it should be.
    if epoch < first_epochs or num_competitors < 2:
        return False
    chance = chance_level(num_competitors)
    # A NaN loss is trouble of another kind, and compares as false.
    if not abs(loss - chance) <= tolerance * chance:
        return False
    warnings.warn(
        f"After {first_epochs} epochs the loss is still within "
        f"{tolerance:.0%} of ln({num_competitors}) = {chance:.4f}, the loss "
        "of guessing: the model is not learning. Raise the learning rate, or "
        "use `keras.optimizers.Adam`, or `Adagrad` with a smaller "
        "`initial_accumulator_value` such as 1e-6; with normalized vectors, "
        "lower the temperature (0.05 to 0.1).",
        TrainingWarning,
        stacklevel=2,
    )
    return True


class ChanceAlarm(keras.callbacks.Callback):
    """Calls `warn_if_at_chance` on the loss of epochs behind the first ones.

    Args:
        num_competitors: Function without arguments that returns an int, or
            None where the loss has no level of guessing.
    """

    def __init__(self, num_competitors: Callable[[], int | None]):
        super().__init__()
        self._num_competitors = num_competitors

    def on_epoch_end(self, epoch, logs=None):
        if epoch < FIRST_EPOCHS:
            return
        num_competitors = self._num_competitors()
        if num_competitors is not None and logs and "loss" in logs:
            warn_if_at_chance(logs["loss"], num_competitors, epoch)
