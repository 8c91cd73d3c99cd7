"""NaN and infinity are found where they arise, not three steps later.

JAX computes on with them: a training that diverges ends like any other, a
search ranks NaN below every number, and the answer looks like an empty
catalogue.
"""

import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval import _checks
from keras_dp_retrieval.warning_categories import TrainingWarning

MODES = ("raise", "warn")

ADVICE = (
    "Usually the learning rate is too high: lower it, or clip the gradients "
    "(`clipnorm` of the optimizer), and train again from new weights or from "
    "an earlier save."
)


def all_finite(tensors) -> list[bool]:
    """Whether each of these float tensors is without NaN and infinity.

    One pass over each on its own device, without a copy.
    """
    if all(isinstance(tensor, np.ndarray) for tensor in tensors):
        return [bool(np.isfinite(tensor).all()) for tensor in tensors]
    if keras.backend.backend() == "jax":
        from keras_dp_retrieval._jax import finiteness

        return finiteness.all_finite(tensors)
    return [bool(ops.all(ops.isfinite(tensor))) for tensor in tensors]


def non_finite_weights(model) -> list[str]:
    """The paths of a model's weights that hold NaN or infinity."""
    floats = [v for v in model.weights if "float" in str(v.dtype)]
    finite = all_finite([variable.value for variable in floats])
    return [v.path for v, good in zip(floats, finite, strict=True) if not good]


def check_vectors(role: str, vectors, needed=None) -> None:
    """Raises a ValueError if a vector that is to be ranked is not finite.

    Args:
        role: `"user"` or `"candidate"`.
        vectors: `(batch, dim)` tensor.
        needed: Optional bool, `(batch,)`: the rows that matter.
    """
    if all_finite([vectors])[0]:
        return
    bad = ~np.isfinite(ops.convert_to_numpy(vectors)).all(axis=1)
    if needed is not None:
        bad &= np.asarray(needed)
    if bad.any():
        raise ValueError(
            f"The {role} vectors must be finite to be ranked. Received: NaN "
            f"or infinity in {bad.sum()} of {len(bad)}, so the weights are no "
            f"numbers any more. {ADVICE}"
        )


def warn_if_saved(model) -> None:
    """Warns that the weights that are about to be saved are of no use."""
    if bad := non_finite_weights(model):
        warnings.warn(
            f"Saving weights that are not finite: {_some(bad)}. {ADVICE}",
            TrainingWarning,
            stacklevel=5,  # Past `saving.save`, `save` and `reads`.
        )


class NonFiniteGuard(keras.callbacks.Callback):
    """Ends a `fit` whose loss, learning rate or weights are not finite.

    The learning rate is looked at before the first step, everything at the
    end of each epoch.

    Args:
        non_finite: `"raise"`, or `"warn"`: once, and training goes on.

    Raises:
        FloatingPointError: In `fit`.
    """

    def __init__(self, non_finite: str = "raise"):
        super().__init__()
        self.non_finite = _checks.one_of("non_finite", non_finite, MODES)
        self._told = False

    def on_train_begin(self, logs=None):
        self._told = False
        if not math.isfinite(self._rate()):
            self._tell(
                f"before the first step: {self._rate_in_words()}. Compile the "
                "model with a learning rate that is a number."
            )

    def on_epoch_end(self, epoch, logs=None):
        if self._told:
            return
        found = []
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            found.append(f"a loss of {float(loss)}")
        if not math.isfinite(self._rate()):
            found.append(self._rate_in_words())
        if bad := non_finite_weights(self.model):
            found.append(f"NaN or infinity in the weights {_some(bad)}")
        if found:
            self._tell(
                f"at the end of epoch {epoch + 1}: {', and '.join(found)}. "
                + ADVICE
            )

    def _rate(self) -> float:
        rate = getattr(self.model.optimizer, "learning_rate", 0.0)
        return float(ops.convert_to_numpy(ops.convert_to_tensor(rate)))

    def _rate_in_words(self) -> str:
        return f"a learning rate of {self._rate()}"

    def _tell(self, what: str):
        self._told = True
        text = f"Training must stay with finite numbers. Received, {what}"
        if self.non_finite == "warn":
            warnings.warn(text, TrainingWarning, stacklevel=2)
        else:
            raise FloatingPointError(
                f'{text} `fit(..., non_finite="warn")` goes on nevertheless.'
            )


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + more
