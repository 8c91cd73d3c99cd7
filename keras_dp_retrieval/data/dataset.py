"""RetrievalDataset: the user's own interactions as train and test batches."""

from collections.abc import Mapping

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import (
    arguments,
    batched,
    descriptions,
    splits,
    synthetic,
)
from keras_dp_retrieval.data.features import Features
from keras_dp_retrieval.data.raw_data import RawData, RawRatings
from keras_dp_retrieval.data.readers import tables
from keras_dp_retrieval.data.split_dataset import SplitDataset
from keras_dp_retrieval.data.streaming import stream_files
from keras_dp_retrieval.data.streaming.streamed_arguments import (
    without_unstreamed,
)
from keras_dp_retrieval.data.streaming.streamed_dataset import StreamedDataset


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class RetrievalDataset(SplitDataset):
    """Train, validation and test batches from your own interactions.

    Ids can be whole numbers or strings. The tables of a model have one row
    for each of them; row 0 is for ids that are not known. An id that occurs
    in the test part alone has a row too.

    `.train`, `.validation` and `.test` are `tf.data.Dataset`s of `(x, y)`:
    user rows `(batch,)` int32, and `{"candidate_id": candidate rows (batch,)
    int32, "rating": (batch,) float32}` with the ratings stretched to 0 to 1;
    without ratings, `"rating"` is absent. All batches have the same number of
    rows, a multiple of the number of devices when you ask for the part. Where
    the interactions do not fill a batch, the rest is padding: valid rows are
    repeated, and a third entry, `sample_weight`, is 0 for them and 1 for the
    others, or the weights of the interactions. A part without interactions is
    None.

    The train part is shuffled in every epoch, in an order that depends on
    the seed and the number of the epoch alone. Validation and test keep
    their order.

    Repeated interactions are kept. `leakage` says what the test part shares
    with the train part; a warning says so where it distorts the figures.

    The config holds all interactions as plain lists, so that it can be saved
    as JSON. That is meant for small data.

    Example:

        data = RetrievalDataset.from_interactions(
            user_ids=["ann", "ann", "bob"], candidate_ids=[7, 9, 7]
        )
        model.fit(data.train, validation_data=data.validation)

    Args:
        user_ids: `(n,)` whole numbers or strings: a list, an array or
            tensor, or a column of a data frame. None may be missing; strings
            have at most 256 characters.
        candidate_ids: `(n,)`, likewise.
        ratings: Optional `(n,)` floats inside `rating_range`, kept as float32.
        timestamps: Optional `(n,)` whole numbers, or dates from 1678 to 2261:
            of NumPy or pandas, `datetime`, or ISO strings. Those without a
            time zone count as UTC. Only their order is used.
        weights: Optional `(n,)` floats greater than 0: what each interaction
            weighs in the loss. Batches have them as `sample_weight`; metrics
            over the full catalogue, `by_user` and `next_items` count every
            interaction once.
        split: str. `"random"`, `"by_time"` or `"leave_last_out"`; see
            `keras_dp_retrieval.data.splits`.
        test: Optional `(user_ids, candidate_ids)`, and if you like `ratings`,
            `timestamps` and `weights` after them: the test part. `split` then
            only takes the validation part out of the interactions.
        validation: Likewise, the validation part. It must have ratings,
            timestamps and weights if the interactions do.
        test_fraction: float. Test share of all interactions.
        validation_fraction: float. Validation share of the rest; 0 for no
            validation part.
        batch_size: int. Interactions in a batch, over all devices.
        seed: int. Of the split and of the order of the epochs.
        candidate_titles: Optional dict, raw candidate id to title, or a
            Series of pandas with the ids as its index.
        candidate_key: str. Name of the candidates in `y`.
        rating_key: str. Name of the ratings in `y`.
        rating_range: `(lowest, highest)`, the ratings that become 0 and 1 in
            `y`.
        user_features: Optional table of features of the users: a data frame,
            an Arrow table, a dict of columns, the path of a CSV or Parquet
            file, or `Features`, which has more to say. A user with features
            and no interactions is known, too.
        candidate_features: Likewise of the candidates.
        is_synthetic: bool. Whether the interactions are synthetic, so that
            whoever prints figures can say so.
        validation_in_train: bool. Whether the validation part is learned
            from, to refit a model whose settings have been chosen.
    """

    def __init__(
        self,
        user_ids,
        candidate_ids,
        ratings=None,
        timestamps=None,
        *,
        weights=None,
        split: str = "random",
        test=None,
        validation=None,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.1,
        batch_size: int = 1000,
        seed: int = 42,
        candidate_titles: Mapping | None = None,
        candidate_key: str = "candidate_id",
        rating_key: str = "rating",
        rating_range: tuple[float, float] = arguments.RATING_RANGE,
        user_features=None,
        candidate_features=None,
        is_synthetic: bool = False,
        validation_in_train: bool = False,
    ):
        has_timestamps = timestamps is not None
        held_out = test is not None or validation is not None
        splits.check_split(split, has_timestamps, held_out)
        self._set_options(
            split=split,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            batch_size=batch_size,
            seed=seed,
            candidate_key=candidate_key,
            rating_key=rating_key,
            validation_in_train=validation_in_train,
        )
        self.rating_range = arguments.rating_range(rating_range)
        self.is_synthetic = bool(is_synthetic)
        self._raw_data = arguments.raw_data(
            RawRatings(user_ids, candidate_ids, ratings, timestamps, weights),
            validation=validation,
            test=test,
            titles=candidate_titles,
            rating_range=self.rating_range,
            user_features=user_features,
            candidate_features=candidate_features,
        )
        _ = self._divided  # Whatever is wrong with the split shows up here.

    def _read(self) -> RawData:
        return self._raw_data

    def _shown(self) -> str:
        of_file = f" of {self._origin['name']}" if self._origin else ""
        return f"{len(self._raw_data.interactions):,} interactions{of_file}"

    # Where it comes from and goes to.

    @classmethod
    def from_interactions(
        cls, user_ids, candidate_ids, ratings=None, timestamps=None, **options
    ) -> "RetrievalDataset":
        """Makes a data set from columns; `options` as in the class."""
        return RetrievalDataset(
            user_ids, candidate_ids, ratings, timestamps, **options
        )

    @classmethod
    def from_dataframe(
        cls,
        frame,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        **options,
    ) -> "RetrievalDataset":
        """Makes a data set from a pandas data frame, or one like it.

        Args:
            frame: A data frame of pandas or polars, an Arrow table, or a dict
                of columns.
            user_column: str. With `"auto"`, the column `user_id`, or the one
                that is called `userId`, `user`, `customer_id` or the like.
                `description` says which it is.
            candidate_column: str. Likewise: `candidate_id`, or `item_id`,
                `movieId`, `product` or the like.
            rating_column: Optional str. With `"auto"`, one that is called
                `rating`, `stars` or the like, if there is one.
            timestamp_column: Optional str, likewise.
            weight_column: Optional str, likewise. See `weights`.
            filters: Optional dict, such as `{"event": "purchase"}` or
                `{"event": ["purchase", "cart"]}`, or list of `(column,
                operator, value)` as for `pandas.read_parquet`: only rows that
                meet all conditions are read. Rows are counted after that in
                messages.
            repeated: str. What becomes of a pair of user and candidate that
                comes several times: `"keep"` all; only the `"first"` or the
                `"last"` in time, and of those of one time, or without
                timestamps, in the order they came in; or `"sum"`, the last
                with the sum of their weights.
            **options: As in the class.

        Raises:
            ValueError: If there are other columns, several that can be meant,
                or something in them does not fit.
        """
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_frame(frame, request), options)

    @classmethod
    def from_parquet(
        cls,
        path,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        streaming: bool = False,
        **options,
    ) -> "RetrievalDataset | StreamedDataset":
        """Makes a data set from a Parquet file, or a folder of them.

        Arguments as in `from_dataframe`. Folders that are named as
        `event=purchase` are a column, too.

        Args:
            streaming: bool. If True, the interactions are read as they are
                needed and need not fit into memory. See `StreamedDataset`,
                which has more options: `test_from`, `validation_from`,
                `shuffle_window`, `user_ids`, `candidate_ids` and
                `max_history`, which has the histories of the users come with
                the examples. It is split by time. Features are in memory.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, has other columns, or something in
                them does not fit.
        """
        if _checks.flag("streaming", streaming):
            options = {"repeated": repeated, **options}
            return StreamedDataset(
                path,
                user_column=user_column,
                candidate_column=candidate_column,
                rating_column=rating_column,
                timestamp_column=timestamp_column,
                weight_column=weight_column,
                filters=filters,
                **without_unstreamed(options),
            )
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_parquet(path, request), options)

    @staticmethod
    def from_stream(source, folder, **options) -> StreamedDataset:
        """Makes a streamed data set of any source of columns.

        The source is read once and written to `folder`, as Parquet: what can
        only be read from its beginning cannot be shuffled, shared among
        processes or resumed. From there it is read as `from_parquet(folder,
        streaming=True)` reads it, also the next time.

        Args:
            source: A `tf.data.Dataset`, `keras.utils.PyDataset`, data set of
                Grain, or any iterable, of dicts of columns: batches of rows
                that are not split yet, such as `{"user_id": (batch,),
                "candidate_id": (batch,), "timestamp": (batch,)}`.
            folder: Path that is not there yet. All columns are written there;
                nothing is if the source fails. Where several processes train,
                one of them writes it before the others read it.
            **options: As in `from_parquet(..., streaming=True)`.
        """
        options = without_unstreamed(options)
        return StreamedDataset(
            stream_files.write_stream(source, folder), **options
        )

    @classmethod
    def from_csv(
        cls,
        path,
        *,
        user_column: str = "auto",
        candidate_column: str = "auto",
        rating_column: str | None = None,
        timestamp_column: str | None = None,
        weight_column: str | None = None,
        filters=None,
        repeated: str = "keep",
        **options,
    ) -> "RetrievalDataset":
        """Makes a data set from a CSV file whose first line names columns.

        Arguments as in `from_dataframe`. Columns are separated by commas,
        semicolons or tabs; the file is UTF-8, as it is or packed with gzip.
        Ids are strings unless all of them are written as whole numbers;
        timestamps are numbers or ISO dates.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, has other columns, or something in
                them does not fit.
        """
        request = tables.Request.of(
            user_column,
            candidate_column,
            rating_column,
            timestamp_column,
            weight_column,
            filters=filters,
            repeated=repeated,
        )
        return cls._from_table(tables.from_csv(path, request), options)

    @staticmethod
    def from_batches(
        train,
        validation=None,
        test=None,
        *,
        user_key: str = "user_id",
        candidate_key: str = "candidate_id",
        num_candidates: int | None = None,
        candidates=None,
    ) -> batched.BatchedInteractions:
        """Returns what full-catalogue metrics need of your own batches.

        For a model and a pipeline of your own, whose ids are the rows of the
        model's tables: pass the result to `keras_dp_retrieval.evaluate` or
        `RetrievalMetrics`, and your batches to `fit`, as ever. The seen items
        of a user, those of the earlier parts, are left out of the lists. Rows
        of sample weight 0 count nowhere. Each part is read once, here.

        Args:
            train: `(x, y)`, or batches of it: a `tf.data.Dataset`, a
                `keras.utils.PyDataset` or any iterable that ends. `x` are user
                ids `(batch,)`, or a dict with them under `user_key`; `y` are
                candidate ids `(batch,)`, or a dict with them under
                `candidate_key`.
            validation: Optional, likewise.
            test: Optional, likewise.
            user_key: str.
            candidate_key: str.
            num_candidates: Optional int. Rows of the candidate table; by
                default the greatest id and one.
            candidates: Optional ints, `(n,)`: the ids of the catalogue. By
                default those that occur in the batches: others, such as id 0
                of a table whose ids begin with 1, are not recommended.

        Returns:
            An object with `ratings(split)`, `seen_before(split)`,
            `candidate_counts(split)`, `user_counts(split)`, `num_candidates`,
            `num_users` and `real_candidates`. It makes no batches.

        Raises:
            ValueError: If there is anything else in the batches, such as
                strings: look them up first, as for the model.
        """
        parts = {"train": train, "validation": validation, "test": test}
        return batched.BatchedInteractions(
            batched.read_parts(parts, user_key, candidate_key),
            num_candidates,
            candidates,
        )

    @classmethod
    def from_synthetic(
        cls,
        num_users: int,
        num_candidates: int,
        num_ratings: int,
        *,
        num_tastes: int = 12,
        popularity_exponent: float = 0.9,
        data_seed: int = 42,
        **options,
    ) -> "RetrievalDataset":
        """Makes a synthetic data set of any shape, with known structure.

        Args:
            num_users: int. Likewise the next four, as in
                `keras_dp_retrieval.data.synthetic.synthetic_ratings`.
            data_seed: int. Of the interactions; `seed` is that of the split.
            **options: As in the class.
        """
        generated = synthetic.synthetic_ratings(
            num_users,
            num_candidates,
            num_ratings,
            num_tastes=num_tastes,
            popularity_exponent=popularity_exponent,
            seed=data_seed,
        )
        known = {"candidate_titles": generated.titles, "is_synthetic": True}
        return cls._from_raw(generated.ratings, {**known, **options})

    @classmethod
    def _from_table(cls, read: tuple[RawRatings, str], options: Mapping):
        raw, note = read
        # Here it still has the name of the file, for the error.
        raw.check_range(
            *arguments.rating_range(
                options.get("rating_range", arguments.RATING_RANGE)
            )
        )
        made = cls._from_raw(raw, options)
        made._source_note = note
        return made

    @classmethod
    def _of_file(cls, raw: RawRatings, origin: Mapping, note: str, options):
        """A data set from a file, for `file_dataset`, which chose the rest."""
        made = cls._from_table((raw, note), options)
        made._origin = origin
        return made

    @classmethod
    def _from_raw(cls, raw: RawRatings, options: Mapping):
        return RetrievalDataset(
            raw.users,
            raw.candidates,
            raw.ratings,
            raw.times(),
            weights=raw.weights,
            **options,
        )

    def get_config(self) -> dict:
        return {
            **descriptions.raw_data_config(self._raw_data),
            **self._options(),
            "rating_range": list(self.rating_range),
            "is_synthetic": self.is_synthetic,
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "RetrievalDataset":
        config = dict(config)
        for name in ("user_features", "candidate_features"):
            if config.get(name) is not None:
                config[name] = Features.from_config(config[name])
        return cls(**config)
