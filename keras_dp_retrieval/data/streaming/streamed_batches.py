"""The batches of one part of a streamed data set, as `tf.data` and as NumPy."""

import contextlib
import dataclasses
from collections.abc import Iterator

import keras

from keras_dp_retrieval.data import batch_sources
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.pipelines import BatchFormat
from keras_dp_retrieval.data.streaming.batch_rows import BatchRows
from keras_dp_retrieval.data.streaming.row_order import EpochOrder
from keras_dp_retrieval.data.streaming.window_reader import PartReader, Windows

# So many examples are put together at a time: at one batch a time, the calls
# of NumPy would cost more than the work.
_EXAMPLES_A_CALL = 2**18


class StreamedBatches(batch_sources.BatchSource):
    """One part of a streamed data set.

    Args:
        reader: `PartReader`.
        form: `BatchFormat`.
        window: int. Rows that are shuffled together.
        seed: Optional int. None keeps the order of the files.
        position: `Position`, which passes move on.
        digest: str. Differs where the files do.
    """

    def __init__(
        self,
        reader: PartReader,
        form: BatchFormat,
        *,
        window: int,
        seed: int | None,
        position: batch_sources.Position,
        digest: str,
    ):
        self._reader = reader
        self._form = form
        self._window = window
        self._seed = seed
        self.position = position
        self._digest = digest
        self._num_rows = int(reader.counts.sum())
        self._num_batches = -(-self._num_rows // form.batch_size)
        in_last = (self._num_rows - 1) % form.batch_size + 1
        self._is_padded = in_last < form.num_rows
        self._begun: tuple[int, Windows] | None = None

    @property
    def num_batches(self) -> int:
        return self._num_batches

    def contents(self) -> tuple[int, str | None]:
        timelines = self._reader.timelines
        # Not how many rows are padding: that is up to the devices.
        form = dataclasses.replace(self._form, num_rows=0)
        parts = (
            self._digest,
            dataclasses.astuple(form),
            self._seed,
            self._window,
            timelines and timelines.max_history,
        )
        return self._num_rows, repr(parts)

    def first_batch(self) -> tuple:
        windows, position = self._windows(), self.position
        rows = BatchRows(windows, self._own(0, 1), position.batch, ahead=False)
        # The next pass begins with what is read already.
        self._begun = position.epoch, windows
        columns, real = rows.take(position.batch, position.batch + 1)
        return self._some(self._example(columns, real), 0)

    def numpy_groups(self, steps: int) -> Iterator[tuple]:
        return self.process_groups(steps, 0, 1)

    def process_groups(
        self, steps: int, index: int, count: int
    ) -> Iterator[tuple]:
        position = self.position
        epoch, first = position.epoch, position.batch
        with contextlib.closing(self._windows()) as windows:
            rows = BatchRows(windows, self._own(index, count), first)
            windows.keep(rows.shards())
            a_call = max(_EXAMPLES_A_CALL // self._form.batch_size, 1)
            a_call = max(a_call // steps, 1) * steps
            for start in range(first, self.num_batches, a_call):
                stop = min(start + a_call, self.num_batches)
                example = self._example(*rows.take(start, stop))
                for begin in range(0, stop - start, steps):
                    group = slice(begin, begin + steps)
                    if start + group.stop >= self.num_batches:
                        # What is handed over last ends the pass.
                        position.end_pass(epoch)
                    yield self._some(example, group)

    def _windows(self) -> Windows:
        """What is read of the epoch already, or all of it anew."""
        begun, self._begun = self._begun, None
        epoch = self.position.epoch
        if begun is not None:
            if begun[0] == epoch:
                return begun[1]
            begun[1].close()
        order = EpochOrder(
            self._reader.counts,
            self._form.batch_size,
            self._window,
            None if self._seed is None else (self._seed, epoch),
        )
        return Windows(self._reader, order)

    def _own(self, index: int, count: int) -> slice:
        share = self._form.num_rows // count
        return slice(index * share, (index + 1) * share)

    def _example(self, columns, real) -> tuple:
        """`(x, y)` or `(x, y, sample_weight)` as `pipelines.Batches` has it.

        Where there are histories, `x` is `(user_rows, ranks)`: many of them at
        a time would take much memory.
        """
        by_key = dict(zip(self._reader.keys, columns, strict=True))
        labels = {self._form.candidate_key: by_key["candidate_ids"]}
        if "ratings" in by_key:
            labels[self._form.rating_key] = by_key["ratings"]
        users = by_key["user_ids"]
        if "ranks" in by_key:
            users = users, by_key["ranks"]
        example = users, labels
        weights = by_key.get("weights")
        if self._is_padded:
            mask = real.astype("float32")
            return (*example, mask if weights is None else weights * mask)
        return example if weights is None else (*example, weights)

    def _some(self, example: tuple, steps) -> tuple:
        """Some steps of what `_example` returned, with their histories."""
        x, *others = keras.tree.map_structure(lambda rows: rows[steps], example)
        timelines = self._reader.timelines
        if timelines is not None:
            x = {"user_id": x[0], "history": timelines.before(*x)}
        return (x, *others)

    def as_dataset(self):
        """Returns a `tf.data.Dataset` of the batches, registered with this."""
        tf = import_tensorflow()

        def batches():
            self.position.check_whole()
            for group in self.numpy_groups(1):
                yield keras.tree.map_structure(lambda rows: rows[0], group)

        num_rows = self._form.num_rows
        x = rows = tf.TensorSpec((num_rows,), tf.int32)
        timelines = self._reader.timelines
        if timelines is not None:
            shape = num_rows, timelines.max_history
            x = {"user_id": rows, "history": tf.TensorSpec(shape, tf.int32)}
        floats = tf.TensorSpec((num_rows,), tf.float32)
        labels = {self._form.candidate_key: rows}
        if "ratings" in self._reader.keys:
            labels[self._form.rating_key] = floats
        has_weights = self._is_padded or "weights" in self._reader.keys
        signature = (x, labels, floats) if has_weights else (x, labels)
        dataset = tf.data.Dataset.from_generator(
            batches, output_signature=signature
        )
        options = tf.data.Options()
        # TensorFlow may otherwise make batches in advance, which would move
        # the position on.
        options.experimental_optimization.inject_prefetch = False
        dataset = dataset.with_options(options)
        dataset = dataset.apply(
            tf.data.experimental.assert_cardinality(self.num_batches)
        )
        batch_sources.register(dataset, self)
        return dataset
