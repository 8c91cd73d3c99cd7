"""MovieLensRetrievalDataset: MovieLens, from where you have it."""

from collections.abc import Mapping

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval.data import (
    movielens_files,
    movielens_tfds,
    splits,
    synthetic,
)
from keras_dp_retrieval.data.dataset import RetrievalDataset
from keras_dp_retrieval.data.movielens_versions import (
    SOURCES,
    VERSIONS,
    check_data_dir,
)
from keras_dp_retrieval.data.raw_data import RawData


@keras.saving.register_keras_serializable(package="keras_dp_retrieval")
class MovieLensRetrievalDataset(RetrievalDataset):
    """MovieLens as train, validation and test batches for `fit`.

    A `RetrievalDataset` in every other respect. Arguments are checked at
    once; the ratings are read when they are first asked for. In MovieLens
    100K, and wherever the ids are 1 to n without a gap, a row is the id.

    Example:

        data = MovieLensRetrievalDataset("100k")
        model.fit(data.train, validation_data=data.validation)

    Args:
        version: str. `"100k"`, `"1m"`, `"20m"`, `"25m"` or `"latest-small"`.
        source: str. `"tfds"`: TensorFlow Datasets, which downloads what is
            missing. `"files"`: the archive that GroupLens publishes, as a
            `.zip` or unpacked. `"synthetic"`: synthetic ratings of the same
            shape, for use without network; metrics on them say nothing about
            MovieLens.
        data_dir: Path. For `"tfds"` the folder of its prepared data, by default
            that of TFDS. For `"files"` the unpacked folder, the archive, or the
            folder that holds one of them.
        features: bool. Whether to read what MovieLens tells of movies
            (`genres`, `year` and words of the `title`) and, in 100k and 1m, of
            users (`age`, `gender`, `occupation` and the `region` of their zip
            code).
        split: str. `"random"`: 20 % test, and 10 % of the rest validation.
            `"tutorial"`: the shuffle and the 80,000/20,000 of the Keras
            tutorial, in which validation and test are the same 20,000 rows
            and all epochs have one order. `"by_time"`: one cut in time for
            all users, never looks ahead. `"leave_last_out"`: of each user.
        batch_size: int. Interactions in a batch, over all devices.
        seed: int. Of the split, of the order of the epochs, and of synthetic
            ratings.
        test_fraction: float. Test share of all ratings.
        validation_fraction: float. Validation share of the rest.
        candidate_key: str. Name of the movies in `y`.
        rating_key: str. Name of the ratings in `y`.
        validation_in_train: bool. Whether the validation part is learned
            from.

    Raises:
        FileNotFoundError: If `data_dir` does not exist, or when the ratings
            are read and a file is missing.
        RuntimeError: When the ratings are read, if TFDS has to download them
            and cannot. It never falls back to other data.
        ValueError: When the ratings are read, if the files are damaged or of
            another version.
    """

    def __init__(
        self,
        version: str = "100k",
        *,
        source: str = "tfds",
        data_dir=None,
        features: bool = False,
        split: str = "random",
        batch_size: int = 1000,
        seed: int = 42,
        test_fraction: float = 0.2,
        validation_fraction: float = 0.1,
        candidate_key: str = "movie_id",
        rating_key: str = "rating",
        validation_in_train: bool = False,
    ):
        self.version = _checks.one_of("version", version, VERSIONS)
        self.source = _checks.one_of("source", source, SOURCES)
        self.features = _checks.flag("features", features)
        if self.features and source == "synthetic":
            raise ValueError(
                "`features=True` needs MovieLens itself. Received: "
                "source='synthetic', which makes up ratings alone."
            )
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
        known = VERSIONS[version]
        if split == "tutorial":
            splits.check_tutorial_size(known.num_ratings)
        self.data_dir = (
            None if data_dir is None else _checks.path("data_dir", data_dir)
        )
        self.rating_range = known.rating_range
        self.is_synthetic = source == "synthetic"
        check_data_dir(source, self.data_dir)

    def _read(self) -> RawData:
        if self.source == "synthetic":
            made_up = self._make_up()
            return RawData(made_up.ratings, titles=made_up.titles)
        readers = {
            "tfds": movielens_tfds.read_tfds,
            "files": movielens_files.read_files,
        }
        read = readers[self.source](self.version, self.data_dir, self.features)
        read.ratings.check_range(*self.rating_range)
        return RawData(
            read.ratings,
            titles=read.titles,
            user_features=read.user_features,
            candidate_features=read.candidate_features,
        )

    def _make_up(self) -> synthetic.SyntheticRatings:
        known = VERSIONS[self.version]
        return synthetic.synthetic_ratings(
            known.num_users,
            known.num_movies,
            known.num_ratings,
            rating_range=known.rating_range,
            seed=self.seed,
        )

    def get_config(self) -> dict:
        return {
            "version": self.version,
            "source": self.source,
            "data_dir": self.data_dir,
            "features": self.features,
            **self._options(),
        }

    @classmethod
    def from_config(cls, config: Mapping) -> "MovieLensRetrievalDataset":
        return cls(**config)

    @property
    def fingerprint(self) -> dict:
        """As in `RetrievalDataset`, with `"version"` and `"source"`."""
        source = {"version": self.version, "source": self.source}
        return {**super().fingerprint, **source}

    def _shown(self) -> str:
        return f"MovieLens {self.version} ({self.source})"
