"""ResumeTraining: a `fit` that was killed goes on as if nothing had been."""

import os
import time
import warnings
from collections.abc import Callable

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.callbacks import callback_states, plain_fit
from keras_dp_retrieval.callbacks.checkpoint_files import CheckpointFiles
from keras_dp_retrieval.callbacks.plain_fit import PlainFit
from keras_dp_retrieval.callbacks.resumed_fit import ResumedFit
from keras_dp_retrieval.callbacks.save_schedule import SaveSchedule
from keras_dp_retrieval.callbacks.saved_run import Run
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.warning_categories import ResumeWarning


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class ResumeTraining(keras.callbacks.Callback):
    """Saves a `fit` as it goes, and goes on with what was saved.

    Run the same program again after it was killed, at whatever moment: it ends
    with the weights that it would have had, bit for bit, and with the same
    `History`. A run that had ended trains nothing more, unless `epochs` grew.

    A checkpoint has the weights, the optimizer, its learning rate and step
    counter, seed generators, metric sums, the global random numbers of Python,
    NumPy and Keras, the position in the data, and what other callbacks
    remember: Keras' `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint`,
    `SwapEMAWeights` and `History`, those of this package, and all that have
    `get_state()` and `set_state(state)`. Others are named in a warning.

    The order of the data is known of arrays, and of the data sets of this
    package, in memory or streamed, which go on within an epoch without reading
    what comes before. Of anything else (`tf.data`, generators) as many batches
    are read and dropped; that is exact if every pass yields the same batches,
    and there is a warning.

    Files are written beside and then renamed, have checksums and no pickle; the
    newest whole one is used. One of another model, optimizer or data set is an
    error. SIGTERM saves between two steps and ends the program with code 143
    (of data whose length is not known, at the end of the epoch).

    The `fit` of a model that is not of this package is saved at the end of an
    epoch, and by SIGTERM between two steps; put the callback last there. Exact
    is what is trained on arrays, or on the `.train` of a data set of this
    package that is given as `data`, without `steps_per_epoch`. Of the other
    callbacks only `History` is kept; they see the steps again that come before
    the one at which SIGTERM ended an epoch, which train nothing. Where Keras
    does not know the length of the data, and on other backends than JAX,
    SIGTERM waits for the end of the epoch.

    Where several processes train, process 0 alone writes and reads, and sends
    what it read to the others: the folder need not be on a shared disk, but
    must be there again where process 0 starts again.

    Example:

    ```python
    model.fit(
        data.train,
        epochs=20,
        callbacks=[kdr.ResumeTraining("runs/first")],
    )
    ```

    Args:
        path: Folder of the checkpoints of this one `fit`; it is made.
        save_freq: `"epoch"` saves at the end of every epoch, an int after so
            many steps (batches), as in `ModelCheckpoint`. `"auto"`, whenever
            at least 10 seconds have passed since the last time, and 20 times
            as many as saving took: at most 5 % of the time of `fit`. The end
            of `fit` is always saved. With fused steps, steps are counted at
            the ends of their groups.
        keep: int. How many of the newest checkpoints are kept.
        data: Optional data set, only for models that are not of this package.
        clock: Optional callable without arguments that returns seconds;
            `time.monotonic` by default.

    Raises:
        ValueError: In `fit`, if the newest checkpoint is of another run.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        save_freq: str | int = "auto",
        *,
        keep: int = 2,
        data=None,
        clock: Callable[[], float] | None = None,
    ):
        super().__init__()
        self.path = _checks.path("path", path)
        if isinstance(save_freq, str):
            _checks.one_of("save_freq", save_freq, ("auto", "epoch"))
        else:
            save_freq = _checks.positive_int("save_freq", save_freq)
        self.save_freq = save_freq
        self.keep = _checks.positive_int("keep", keep)
        train = getattr(data, "train", None)
        if data is not None and source_of(train) is None:
            raise ValueError(
                "`data` must be a data set of this package. Received: "
                f"data={data!r:.80}."
            )
        self.data = data
        self.clock = clock
        # Whether the `fit` that begins has asked, and does all that is done.
        self._was_asked = False
        self._plain: PlainFit | None = None

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            "path": self.path,
            "save_freq": self.save_freq,
            "keep": self.keep,
            "data": None if self.data is None else serialize(self.data),
            "clock": None if self.clock is None else serialize(self.clock),
        }

    @classmethod
    def from_config(cls, config):
        restored = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("data", "clock")
            if config.get(name) is not None
        }
        return cls(**{**config, **restored})

    def resumed_fit(self, model, batches, callbacks, **options) -> ResumedFit:
        """Returns where the `fit` of a `PaddedModel` begins; it calls this.

        Args:
            model: `PaddedModel`, built.
            batches: `PaddedBatches` that it is trained on.
            callbacks: list of the other callbacks.
            **options: As in `ResumedFit`.
        """
        callback_states.warn_of_forgetful(callbacks)
        if not (batches.is_ours or batches.is_array):
            warnings.warn(
                "The order of these data in another process is not known. A "
                "run is resumed exactly if every pass over them yields the "
                "same batches. The data sets of this package, and arrays, "
                "are resumed in any order.",
                ResumeWarning,
                stacklevel=5,
            )
        self._was_asked = True
        run = self._run(model, batches.contents())
        return ResumedFit(run, batches, callbacks, **options)

    def _run(self, model, contents: dict) -> Run:
        return Run(
            model,
            CheckpointFiles(self.path, self.keep),
            lambda num_bytes: SaveSchedule(
                self.save_freq, self.clock or time.monotonic, num_bytes
            ),
            contents,
        )

    # The `fit` of other models: `plain_fit.py`.

    def on_train_begin(self, logs=None):
        if self._plain is not None:  # Of a `fit` that broke off.
            self._plain.leave()
            self._plain = None
        if self._was_asked:
            self._was_asked = False
            return
        plain_fit.warn_of_limits(self.model, self.data is not None)
        contents = {}
        if self.data is not None:
            rows, text = source_of(self.data.train).contents()
            contents = {"rows": rows, "contents": text}
        self._plain = PlainFit(
            self._run(self.model, contents),
            self.data,
            self.params["epochs"],
            self.params["steps"],
        )
        self._plain.begin()

    def on_epoch_begin(self, epoch, logs=None):
        if self._plain is not None:
            self._plain.begin_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self._plain is not None:
            self._plain.begin_step(batch)

    def on_epoch_end(self, epoch, logs=None):
        if self._plain is not None:
            steps = self.params.get("steps") or 0
            self._plain.end_epoch(epoch, steps, logs or {})

    def on_train_end(self, logs=None):
        if self._plain is not None:
            self._plain.end()
            self._plain = None
