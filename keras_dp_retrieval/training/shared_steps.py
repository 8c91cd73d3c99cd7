"""Shared steps: models that are alike are trained by one compiled program.

A program has the numbers of a model as constants: its temperature, the length
of its learning rate's schedule. Trials train models that differ in nothing
else, and compiling takes as long as hundreds of steps of a small model. Here
the numbers that differ are arguments of the program.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What a model shares; see `shared_train_function` for each."""

    numbers: list
    programs: dict
    key: object


class SharedSteps:
    """Compiled training steps that several models share.

    Example:

    ```python
    shared = SharedSteps()
    for temperature in (0.1, 0.2):
        model = build(temperature)
        shared.give(model, "trial", [(model.objective, "temperature")])
        model.fit(...)  # The second compiles nothing.
    ```
    """

    def __init__(self):
        self._programs = {}

    def give(self, model, key, numbers) -> None:
        """Has a compiled model share the steps of a `fit`, if they are fused.

        Args:
            model: `PaddedModel`, compiled.
            key: Hashable. Models with the same key are alike but for the
                values of their variables and for `numbers`.
            numbers: list of `(owner, name)`, attributes of the model's parts.
        """
        model.forget_compiled()
        model.shared_steps = Sharing(list(numbers), self._programs, key)

    @staticmethod
    def take(model) -> None:
        """Has a model compile steps of its own from now on."""
        model.forget_compiled()
        model.shared_steps = None
