"""Private parts of Keras' `EpochIterator`: the steps that `fit` counts.

Of `keras/src/trainers/epoch_iterator.py`. `fit` has no argument to begin
within an epoch: a data set that hands out the rest of one would have Keras
count its steps from 0 and warn that it ran out of data. All of this goes when
`fit` takes the step to begin with.
"""


def batches_read(epochs) -> int:
    """Batches of the pass that is going on, where it lasts several epochs.

    With `steps_per_epoch`, `fit` goes on with the pass of the epoch before; 0
    where the next epoch begins a pass of its own.
    """
    if epochs.steps_per_epoch is None or epochs._current_iterator is None:
        return 0
    return epochs._steps_seen


def begin_at(epochs, step: int, read: int) -> None:
    """Makes the next epoch count its steps from `step`, later ones from 0.

    The data are asked for the batches of the steps that are left alone.

    Args:
        epochs: The `EpochIterator` of a `fit`, before its first epoch.
        step: int. Steps of this epoch that are done.
        read: int. Batches of this pass that were read before this epoch.
    """

    def rest():
        del epochs._enumerate_iterator  # Of this object: the class has it.
        if epochs.steps_per_epoch is not None:
            epochs._current_iterator = iter(epochs._get_iterator())
            epochs._steps_seen = read
        for begin, end, iterator in epochs._enumerate_iterator():
            if begin >= step:
                yield begin, end, iterator

    epochs._enumerate_iterator = rest
