"""What the training steps of one epoch were, before it becomes a record."""

import dataclasses

from keras_dp_retrieval.callbacks.row_counter import RowCounter

NO_STEP_SEEN = (
    "not every step was seen: a step counts where `on_train_batch_begin` is "
    "called once before each call of the model's `train_function`, as `fit` "
    "does, and a loop of `train_on_batch` can do"
)
OF_STEPS = (
    "examples",
    "examples_per_second",
    "examples_per_second_per_device",
    "steps",
    "compile_seconds",
    "compiled_steps",
    "input_wait_seconds",
    "outside_step_seconds",
    "step_seconds_median",
    "step_seconds_p95",
    "finish_lag_seconds",
)


@dataclasses.dataclass
class EpochStats:
    """What one epoch's training steps were; times in seconds.

    None stands for what the backend does not let us see, and `unknown` says
    why a figure is not known although there is a value here.
    """

    steps: int | None = 0
    training_seconds: float = 0.0
    compile_seconds: float | None = 0.0
    compiled_steps: list = dataclasses.field(default_factory=list)
    compile_reasons: list = dataclasses.field(default_factory=list)
    input_wait_seconds: float | None = 0.0
    inside_step_seconds: float | None = 0.0
    waited_seconds: float = 0.0
    calls: int = 0
    windows: list = dataclasses.field(default_factory=list)
    device_names: list = dataclasses.field(default_factory=list)
    num_devices: int = 0
    lags: dict = dataclasses.field(default_factory=dict)
    rows: RowCounter = dataclasses.field(default_factory=RowCounter)
    # Steps that were announced and not made, or made and not announced.
    unseen: int = 0
    unknown: dict = dataclasses.field(default_factory=dict)

    def known(self, name: str, value):
        """The value of a figure, or None where `unknown` has its name."""
        return None if name in self.unknown else value

    def judge(self) -> None:
        """At the end of the epoch: what of it can be relied upon?"""
        if self.unseen or not self.calls:
            self.unknown.update(dict.fromkeys(OF_STEPS, NO_STEP_SEEN))
