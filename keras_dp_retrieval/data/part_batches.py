"""The parts of a data set as batches: interactions, users, what came next."""

import warnings
from collections.abc import Mapping

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import examples, pipelines, sequences
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.ratings import Ratings
from keras_dp_retrieval.data.row_padding import padded_size
from keras_dp_retrieval.data.timeline import Timeline
from keras_dp_retrieval.warning_categories import DataWarning


class PartBatches:
    """Pipelines of `tf.data` for the parts of a data set.

    Args:
        parts: dict from `"train"`, `"validation"` and `"test"` to `Ratings`.
        num_users: int. Rows of the user table.
        split: str. How they were divided. The train part is shuffled in every
            epoch unless it is `"tutorial"`.
        batch_size: int. Real examples in a batch.
        candidate_key: str. Key of the candidate rows in `y`.
        rating_key: str. Key of the ratings in `y`.
        rating_range: The ratings that become 0 and 1.
        seed: int. Of the order of the epochs.
        earlier: Optional `Interactions` that come before the train part.
    """

    def __init__(
        self,
        parts: Mapping[str, Ratings],
        num_users: int,
        *,
        split: str,
        batch_size: int,
        candidate_key: str,
        rating_key: str,
        rating_range: tuple[float, float],
        seed: int,
        earlier: Interactions | None = None,
    ):
        self._parts = parts
        self._train = parts["train"]
        self._num_users = num_users
        self._earlier = earlier
        self._keys = candidate_key, rating_key
        self._rating_range = rating_range
        self._seed = seed
        self._split = split
        # A batch larger than every part would be padding for the most part.
        longest = max(len(ratings) for ratings in parts.values())
        self._batch_size = min(batch_size, longest)
        self._epochs = pipelines.EpochShuffle(len(self._train), seed)
        self._made: dict = {}

    def start_at(self, epoch: int, batch: int = 0) -> None:
        """Makes the next pass over the train part begin there."""
        num_batches = -(-len(self._train) // self._batch_size)
        self._epochs.position.start_at(epoch, batch, num_batches)

    def of(self, part: str):
        """Returns a part as a `tf.data.Dataset`; None if it is empty.

        It is the same one in every call, until batches are padded to another
        number of rows (see `row_padding.padded_size`).
        """
        form = self._format(self._batch_size)
        if self._made.get(part, (None,))[0] != form:
            self._made[part] = (form, self._make(part, form))
        return self._made[part][1]

    def _make(self, part: str, form: pipelines.BatchFormat):
        ratings = self._parts[part]
        if not len(ratings):
            return None
        if part != "train" or self._split == "tutorial":
            return pipelines.fixed_batches(ratings, form)
        return pipelines.shuffled_batches(ratings, form, self._epochs)

    def by_interaction(self, batch_size: int | None):
        """See `RetrievalDataset.by_interaction`."""
        form = self._format(self._batch_size)
        if batch_size is not None:
            size = _checks.positive_int("batch_size", batch_size)
            form = self._format(size)
        epochs = pipelines.EpochShuffle(len(self._train), self._seed)
        return pipelines.shuffled_batches(self._train, form, epochs)

    def by_user(self, batch_size: int, num_positives: int | None = None):
        """The source of `RetrievalDataset.by_user`."""
        batch_size = _checks.positive_int("batch_size", batch_size)
        self._warn_of_weights("by_user")
        positives = examples.ByUser(
            self._train, self._num_users, self._rating_range
        )
        if num_positives is not None:
            positives.pad_to(num_positives)
        return examples.BatchesLookedUp(
            positives.look_up,
            lambda x, *y: (x, dict(zip(self._keys, y, strict=False))),
            pipelines.EpochShuffle(len(positives.user_rows), self._seed),
            batch_size,
        )

    def next_items(self, batch_size: int):
        """The source of `RetrievalDataset.next_items`."""
        batch_size = _checks.positive_int("batch_size", batch_size)
        timeline = self._timeline()
        self._warn_of_weights("next_items")
        return examples.next_items(
            timeline,
            self._next_item_example,
            self._seed,
            batch_size,
        )

    def by_sequence(self, batch_size: int, max_length: int):
        """See `RetrievalDataset.by_sequence`."""
        batch_size = _checks.positive_int("batch_size", batch_size)
        max_length = _checks.positive_int("max_length", max_length)
        timeline = self._timeline()
        self._warn_of_weights("by_sequence")
        return sequences.by_sequence(
            timeline,
            self._next_item_example,
            self._seed,
            batch_size,
            max_length,
        )

    def _next_item_example(self, users, lengths, candidates):
        x = {"user_id": users, "length": lengths}
        return x, {self._keys[0]: candidates}

    def _timeline(self) -> Timeline:
        if self._train.timestamps is None and self._split != "leave_last_out":
            raise ValueError(
                "What came next needs timestamps. Received: interactions "
                f"without any, and split={self._split!r}. Make the data set "
                "with `timestamps=...`; `split='leave_last_out'` also takes "
                "the order in which the interactions come in."
            )
        return Timeline(self._train, self._num_users, self._seed, self._earlier)

    def _warn_of_weights(self, method: str) -> None:
        if self._train.weights is not None:
            warnings.warn(
                f"`{method}` counts every interaction once: its batches have "
                "no `weights`. Those of `train` and `by_interaction` do.",
                DataWarning,
                stacklevel=4,
            )

    def _format(self, batch_size: int) -> pipelines.BatchFormat:
        return pipelines.BatchFormat(
            batch_size,
            padded_size(batch_size),
            *self._keys,
            self._rating_range,
        )
