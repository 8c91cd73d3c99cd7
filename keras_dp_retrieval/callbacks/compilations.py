"""Which steps were compiled, and for what: a new shape, or nothing new."""

import keras

# Why a step was compiled.
FIRST, NEW_SHAPE = "first step", "new shape"
SHORT_GROUP, SAME_SHAPE = "other number of fused steps", "same shape"


class Compilations:
    """The shapes that the steps of a `fit` were compiled for.

    Args:
        on_recompile: Called with `(step, seconds, shapes before, shapes)`
            when batches of another shape had a step compiled.
    """

    def __init__(self, on_recompile):
        self._on_recompile = on_recompile
        # Shapes of a batch -> numbers of steps in a group of such batches.
        self._known: dict = {}

    def note(self, compilations, epoch, batches, fetched, step_axis) -> float:
        """Adds what one call of the train function compiled to an epoch.

        Args:
            compilations: List of `(index of the batch, seconds)`, not empty.
            epoch: `EpochStats` up to this call.
            batches: The batches of the call, one for each step or group.
            fetched: int. How many of them were fetched: one group, unstacked
                by now, was one.
            step_axis: Optional int. Where a batch is a group of steps, the
                axis that counts them.

        Returns:
            float, the seconds of all.
        """
        known = self._known
        if fetched == 1 and len(batches) > 1:
            # An unstacked group: its first batch in a new shape, if any is.
            new = [_shapes(batch, None)[0] not in known for batch in batches]
            spent = sum(seconds for _, seconds in compilations)
            compilations = [(new.index(max(new)), spent)]
        for index, seconds in compilations:
            step = epoch.steps + index
            epoch.compile_seconds += seconds
            epoch.compiled_steps.append(step)
            shapes, steps = _shapes(batches[index], step_axis)
            reason = _compile_reason(known, shapes, steps)
            epoch.compile_reasons.append(reason)
            if reason == NEW_SHAPE:
                self._on_recompile(step, seconds, known, shapes)
            known.setdefault(shapes, set()).add(steps)
        return sum(seconds for _, seconds in compilations)


def _shapes(batch, step_axis: int | None) -> tuple[tuple, int]:
    """The shapes of a step's batch, and how many steps come as one.

    The last group of an epoch may be shorter: that is nobody's mistake.
    """
    shapes = [
        tuple(leaf.shape)
        for leaf in keras.tree.flatten(batch)
        if hasattr(leaf, "shape")
    ]
    if step_axis is None or not shapes or min(map(len, shapes)) < 2:
        return tuple(shapes), 1
    of_steps = tuple(
        (*shape[:step_axis], *shape[step_axis + 1 :]) for shape in shapes
    )
    return of_steps, shapes[0][step_axis]


def _compile_reason(known: dict, shapes: tuple, steps: int) -> str:
    """Why a batch was compiled for; `known` are those compiled for before."""
    if not known:
        return FIRST
    if shapes not in known:
        return NEW_SHAPE
    # Otherwise it is the state that differs. Keras makes variables that JAX
    # may move; from a step on one device they come back bound to it, and the
    # metrics are reset in each epoch.
    return SHORT_GROUP if steps not in known[shapes] else SAME_SHAPE
