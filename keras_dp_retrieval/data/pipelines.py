"""Ratings in, batches of one fixed size out: the tf.data pipelines."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data import batch_sources
from keras_dp_retrieval.data._tensorflow import import_tensorflow
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.row_padding import pad_rows


@dataclasses.dataclass(frozen=True)
class BatchFormat:
    """What a batch looks like.

    Args:
        batch_size: int. Real examples in each batch but the last.
        num_rows: int. Rows of each batch, real ones and padding.
        candidate_key: str. Key of the candidate rows in the labels.
        rating_key: str. Key of the ratings in the labels.
        rating_range: The ratings that become 0 and 1.
    """

    batch_size: int
    num_rows: int
    candidate_key: str
    rating_key: str
    rating_range: tuple[float, float]


class EpochShuffle:
    """Which pass over the train part is next, and the order of each.

    Args:
        num_examples: int.
        seed: int.

    Attributes:
        position: `Position` of the next pass.
    """

    def __init__(self, num_examples: int, seed: int):
        self.num_examples = num_examples
        self.seed = seed
        self.position = batch_sources.Position()
        self._last_made = (-1, np.zeros(0, np.int32))

    def next_order(self) -> np.ndarray:
        """Returns the order of the next pass."""
        return self.order(self.position.epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Returns `(num_examples,)` int32, a function of seed and epoch."""
        if self._last_made[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            order = np.arange(self.num_examples, dtype=np.int32)
            rng.shuffle(order)
            self._last_made = (epoch, order)
        return self._last_made[1]


class Batches:
    """Cuts columns into batches of one size.

    Args:
        ratings: `Ratings`, at least one.
        form: `BatchFormat`.
    """

    def __init__(self, ratings: Ratings, form: BatchFormat):
        self._form = form
        self._num_examples = len(ratings)
        self.batch_size = form.batch_size
        self.num_batches = -(-len(ratings) // form.batch_size)
        self._columns = [ratings.user_rows, ratings.candidate_rows]
        if ratings.ratings is not None:
            low, high = form.rating_range
            scaled = (ratings.ratings - low) / np.float32(high - low)
            self._columns.append(scaled)
        self._has_ratings = ratings.ratings is not None
        self._weights = ratings.weights
        self._in_last = (len(ratings) - 1) % form.batch_size + 1
        self._is_padded = self._in_last < form.num_rows

    def columns(self, order, start: int, stop: int) -> list[np.ndarray]:
        """Returns batches `start` to `stop`, each `(stop - start, rows)`.

        If any batch of the pass needs padding, or the examples have weights,
        those are the last column; see `pad_rows`.

        Args:
            order: `(n,)` int. Indices of the examples, in the order of the
                pass.
            start: int. The first batch.
            stop: int. The batch after the last.
        """
        size = self._form.batch_size
        if not self._is_padded:
            indices = order[start * size : stop * size].reshape(-1, size)
            given = [] if self._weights is None else [self._weights]
            return [column[indices] for column in self._columns + given]
        batches = np.arange(start, stop)
        sizes = np.where(batches == self.num_batches - 1, self._in_last, size)
        # Behind the last example stands any other: it is padded over.
        indices = np.resize(
            order[start * size : stop * size], (len(sizes), size)
        )
        # The indices are padded, so that the columns are looked up once.
        indices, weights = pad_rows(
            indices,
            sizes,
            self._form.num_rows,
            None if self._weights is None else self._weights[indices],
        )
        return [*(column[indices] for column in self._columns), weights]

    def contents(self, *more) -> tuple[int, str | None]:
        """How many examples, and a text that differs for other ones."""
        # Not how many rows are padding: that is up to the devices.
        form = dataclasses.replace(self._form, num_rows=0)
        names = np.array(repr((dataclasses.astuple(form), more)))
        return self._num_examples, digest(names, self._columns, self._weights)

    def example(self, *columns):
        """Returns `(x, y)` or `(x, y, sample_weight)` as Keras takes them."""
        users, candidates, *rest = columns
        labels = {self._form.candidate_key: candidates}
        if self._has_ratings:
            labels[self._form.rating_key] = rest.pop(0)
        return (users, labels, *rest)

    def dtypes(self) -> list[np.dtype]:
        """Of each column."""
        none = np.zeros(1, np.int32)
        return [column.dtype for column in self.columns(none, 0, 0)]


class _FixedSource(batch_sources.BatchSource):
    """Of `fixed_batches`: every epoch is the same."""

    def __init__(self, batches: Batches, columns: list[np.ndarray]):
        self._batches = batches
        self._columns = columns
        self.position = batch_sources.Position()

    @property
    def num_batches(self):
        return self._batches.num_batches

    def contents(self):
        return self._batches.contents()

    def first_batch(self):
        return self._batches.example(
            *(column[self.position.batch] for column in self._columns)
        )

    def start_at(self, epoch: int, batch: int = 0) -> None:
        super().start_at(epoch, batch)
        self.position.epoch = 0  # All passes are the same.

    def numpy_groups(self, steps: int):
        for start in range(self.position.batch, self.num_batches, steps):
            group = slice(start, start + steps)
            if group.stop >= self.num_batches:
                self.position.batch = 0
            yield self._batches.example(
                *(column[group] for column in self._columns)
            )


def fixed_batches(ratings: Ratings, form: BatchFormat):
    """Returns a `tf.data.Dataset` of the ratings in their own order.

    It is registered with its `BatchSource`.
    """
    tf = import_tensorflow()
    batches = Batches(ratings, form)
    order = np.arange(len(ratings), dtype=np.int32)
    columns = batches.columns(order, 0, batches.num_batches)
    dataset = tf.data.Dataset.from_tensor_slices(batches.example(*columns))
    batch_sources.register(dataset, _FixedSource(batches, columns))
    return dataset


# So many examples are looked up by one call of NumPy: at one call a batch, the
# calls would cost more than the work.
_EXAMPLES_A_CALL = 2**18


def shuffled_batches(ratings: Ratings, form: BatchFormat, epochs: EpochShuffle):
    """Returns a `tf.data.Dataset` that shuffles the rows in every pass.

    A pass counts when its last batch is handed over. So the look at one batch
    by which Keras builds a model, or a pass that was broken off, does not
    change the order of the passes to come. For the same reason nothing is
    prefetched: looking up 80 batches of 1000 takes 3 ms.

    It is registered with its `BatchSource`.
    """
    tf = import_tensorflow()
    batches = Batches(ratings, form)
    last = batches.num_batches - 1
    calls = np.arange(0, last, max(_EXAMPLES_A_CALL // form.batch_size, 1))
    # The last batch has a call of its own: when it is looked up, it is handed
    # over.
    starts = np.append(calls, last)
    stops = np.append(starts[1:], last + 1)

    def begin():
        epochs.position.check_whole()
        return np.full(len(starts), epochs.position.epoch), starts, stops

    def look_up(epoch, start, stop):
        if stop > last:
            epochs.position.end_pass(int(epoch))
        return batches.columns(epochs.order(int(epoch)), start, stop)

    def several(*epoch_start_stop):
        columns = tf.numpy_function(look_up, epoch_start_stop, batches.dtypes())
        for column in columns:
            column.set_shape([None, form.num_rows])
        return batches.example(*columns)

    def one_pass(_):
        columns = tf.numpy_function(begin, [], [tf.int64] * 3)
        for column in columns:
            column.set_shape([len(starts)])
        return tuple(columns)

    # `unbatch` is a third of the cost of `flat_map`, which makes a new
    # pipeline for each of its elements.
    dataset = tf.data.Dataset.range(1).map(one_pass).unbatch()
    dataset = dataset.map(several).unbatch()
    options = tf.data.Options()
    # TensorFlow may otherwise make batches in advance after all.
    options.experimental_optimization.inject_prefetch = False
    dataset = dataset.with_options(options)
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(batches.num_batches)
    )
    batch_sources.register(dataset, _ShuffledSource(batches, epochs))
    return dataset


class _ShuffledSource(batch_sources.BatchSource):
    """Of `shuffled_batches`."""

    def __init__(self, batches: Batches, epochs: EpochShuffle):
        self._batches = batches
        self._epochs = epochs
        self.position = epochs.position

    @property
    def num_batches(self):
        return self._batches.num_batches

    def contents(self):
        return self._batches.contents(self._epochs.seed)

    def first_batch(self):
        first = self.position.batch
        order = self._epochs.next_order()
        columns = self._batches.columns(order, first, first + 1)
        return self._batches.example(*(column[0] for column in columns))

    def numpy_groups(self, steps: int):
        epoch, begin = self.position.epoch, self.position.batch
        order = self._epochs.order(epoch)
        num_batches = self._batches.num_batches
        a_call = (
            max(_EXAMPLES_A_CALL // self._batches.batch_size // steps, 1)
            * steps
        )
        for first in range(begin, num_batches, a_call):
            stop = min(first + a_call, num_batches)
            columns = self._batches.columns(order, first, stop)
            for start in range(0, stop - first, steps):
                group = slice(start, start + steps)
                if first + group.stop >= num_batches:
                    self.position.end_pass(epoch)
                yield self._batches.example(
                    *(column[group] for column in columns)
                )
