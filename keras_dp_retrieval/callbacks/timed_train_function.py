"""Stands in for a model's train function, so that its calls are measured."""

import keras


class TimedTrainFunction:
    """Has the recorder call the model's train function.

    It measures a call only after `recorder.armed` was set for it, by a hook
    that `fit` calls before each step. Called without, the `fit` it was made
    for is over (or broke off) and it takes itself out of the model.
    """

    def __init__(self, model, inner, recorder):
        self._model = model
        self.inner = self.__wrapped__ = inner
        self._recorder = recorder

    def __call__(self, *arguments):
        recorder = self._recorder
        if not recorder.armed:
            recorder.note_unseen()
            self.remove()
            return self.inner(*arguments)
        try:
            return recorder.call(self.inner, *arguments)
        except StopIteration:
            raise  # How an epoch of unknown length ends.
        except BaseException:
            recorder.abandon()
            self.remove()
            raise

    def remove(self):
        """Puts the model's own train function back."""
        if self._model.train_function is self:
            self._model.train_function = self.inner

    def is_in_use(self) -> bool:
        """Whether the model calls this, directly or through another one."""
        function = self._model.train_function
        while isinstance(function, TimedTrainFunction):
            if function is self:
                return True
            function = function.inner
        return False


def runs_groups(model) -> bool:
    """Whether a call of the train function may make several steps."""
    return getattr(model, "steps_per_execution", 1) > 1


def make_train_function(model):
    """As `fit` did; a loop of `train_on_batch` has not done it yet.

    A step before there is a train function could not be seen. It is made
    where nothing of the model has to be known for it that is not.
    """
    if getattr(model, "train_function", None) is not None:
        return
    optimizer = getattr(model, "optimizer", None)
    if not getattr(model, "compiled", False) or optimizer is None:
        return  # A model with a `fit` of its own.
    if keras.distribution.distribution() is None or (
        model.built and optimizer.built
    ):
        model.make_train_function()
