"""A run that is saved: what is in its checkpoints, and how it gets there."""

import keras
import numpy as np

from keras_dp_retrieval import distribution
from keras_dp_retrieval._keras.trainer import reattach_weights
from keras_dp_retrieval.callbacks import (
    callback_states,
    run_identity,
    shared_checkpoint,
    training_state,
)
from keras_dp_retrieval.callbacks.checkpoint_files import (
    Checkpoint,
    CheckpointFiles,
)
from keras_dp_retrieval.callbacks.packed_state import pack, unpack
from keras_dp_retrieval.callbacks.save_schedule import SaveSchedule

# Of the files; to be raised when an older one cannot be read.
FORMAT = 1


class Run:
    """A run: its checkpoints, and where it stands.

    Args:
        model: `keras.Model`, built and compiled.
        files: `CheckpointFiles`.
        schedule: Function from the bytes of a save to a `SaveSchedule`.
        contents: dict. What it is trained on.
    """

    def __init__(self, model, files: CheckpointFiles, schedule, contents: dict):
        self.model = model
        self._files = files
        self._variables = training_state.variables_of(model)
        self._shapes = training_state.described(self._variables)
        num_bytes = sum(int(np.prod(shape)) * 4 for shape, _ in self._shapes)
        self.schedule: SaveSchedule = schedule(num_bytes)
        self._identity = run_identity.identity(model, contents)
        self.loaded = self._load()

    def _load(self) -> Checkpoint | None:
        loaded = shared_checkpoint.newest(self._files)
        if loaded is None:
            return None
        state = loaded.state
        if state.get("format") != FORMAT:
            raise ValueError(
                f"`ResumeTraining` reads checkpoints of format {FORMAT}. "
                f"Received: {loaded.path} of format {state.get('format')!r}. "
                "Go on with the version of this package that wrote it, or "
                "give another folder to begin anew."
            )
        run_identity.check(state["identity"], self._identity, loaded.path)
        if state["shapes"] != self._shapes:
            raise ValueError(
                "`ResumeTraining` goes on with a checkpoint of this model. "
                f"Received: {loaded.path}, whose variables have other shapes "
                "or types. Run what was run before, or give another folder to "
                "begin anew."
            )
        return loaded

    def __getitem__(self, name: str):
        """What was saved under a name."""
        assert self.loaded is not None
        return unpack(self.loaded.state[name], self.loaded.arrays)

    def restore(self, callbacks) -> None:
        """Sets model and callbacks to what they were."""
        assert self.loaded is not None
        training_state.set_values(self._variables, self.loaded.arrays)
        callback_states.set_states(callbacks, self["callbacks"])

    def forget(self) -> None:
        """Lets go of what was restored: a second copy of all variables."""
        self.loaded = None

    def wait(self) -> None:
        """Waits for the steps that are queued."""
        reattach_weights(self.model)
        keras.ops.convert_to_numpy(self.model.optimizer.iterations)

    def save(self, epoch: int, batch: int, callbacks, **more) -> None:
        """Writes a checkpoint; of several processes, the first one does.

        Args:
            epoch: int. Whole epochs that are done.
            batch: int. Steps of the next one that are done.
            callbacks: list. Those whose state is kept.
            **more: What else is saved.
        """
        if distribution.process_index():
            return
        self.wait()  # Steps that are queued are no cost of a save.
        self.schedule.begin_save()
        arrays = training_state.values(self._variables)
        more["callbacks"] = callback_states.states(callbacks)
        packed = {
            name: pack(value, arrays, "array_") for name, value in more.items()
        }
        state = {
            "format": FORMAT,
            "identity": self._identity,
            "shapes": self._shapes,
            "epoch": epoch,
            "batch": batch,
            **packed,
        }
        self._files.save(epoch, batch, state, arrays)
        self.schedule.end_save()
