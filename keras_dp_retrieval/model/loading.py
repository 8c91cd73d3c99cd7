"""Loading: the model in a `.keras` file, or what is wrong with it."""

import dataclasses
import json
import os
import pathlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_dp_retrieval.data.vocabulary import Vocabulary
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.model.file_checks import check_file, read_arrays
from keras_dp_retrieval.model.saving import (
    INDEX_CONFIG,
    seed_states,
    without_format,
)


def load(cls, filepath, custom_objects, compile, safe_mode):
    """What `TwoTowerRetrieval.load` says; `cls` is that class or a child."""
    check_file(filepath)
    try:
        with warnings.catch_warnings():
            # Keras goes on without the optimizer's state.
            warnings.filterwarnings("error", "Skipping variable loading")
            model = keras.saving.load_model(
                filepath, custom_objects, compile, safe_mode
            )
        if isinstance(model, cls):
            _check_values(model)
    except Exception as error:  # Keras raises many kinds.
        raise ValueError(
            f"The model in {os.fspath(filepath)!r} could not be loaded: {error}"
        ) from error
    if not isinstance(model, cls):
        raise ValueError(
            f"{os.fspath(filepath)!r} must hold a {cls.__name__}. "
            f"Received: a {type(model).__name__}. Load it with "
            "`keras.saving.load_model`."
        )
    return model


def arguments_of(config: dict) -> dict:
    """The arguments of a model whose config this is, of any format."""
    config = without_format(config)
    names = (
        "objective",
        "user_tower",
        "candidate_tower",
        "histories",
        "user_features",
        "candidate_features",
    )
    with warnings.catch_warnings():
        # That a tower without a `build` is not built by it: the model builds
        # its towers.
        warnings.filterwarnings("ignore", r"`build\(\)` was called on layer")
        layers = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in names
            if config.get(name) is not None
        }
    return {**config, **layers}


@dataclasses.dataclass(frozen=True)
class Assets:
    """What a file holds beside the config and the weights of a model.

    Attributes:
        user_vocabulary: Optional `Vocabulary`.
        candidate_vocabulary: Optional `Vocabulary`.
        candidate_titles: dict.
        trained_on: Optional dict, from format 3 on.
        candidate_index: Optional `CandidateIndex`.
    """

    user_vocabulary: Vocabulary | None
    candidate_vocabulary: Vocabulary | None
    candidate_titles: dict
    trained_on: dict | None
    candidate_index: CandidateIndex | None


def read_assets(model, folder) -> Assets:
    """Reads what `saving.write_assets` wrote; sets the model's seeds.

    Raises:
        ValueError: If the assets are damaged, or do not fit the model.
    """
    folder = pathlib.Path(folder)
    ids = read_arrays(folder / "ids.npz")
    vocabularies = {
        f"{side}_vocabulary": _vocabulary(side, ids.get(f"{side}_ids"), rows)
        for side, rows in (
            ("user", model.num_users),
            ("candidate", model.num_candidates),
        )
    }
    titles = dict(_read_json(folder / "titles.json"))
    seeds = read_arrays(folder / "seeds.npz").values()
    path = folder / "trained_on.json"
    assets = Assets(
        **vocabularies,
        candidate_titles=titles,
        trained_on=_read_json(path) if path.exists() else None,
        candidate_index=_index(folder / "index.npz"),
    )
    for state, value in zip(seed_states(model), seeds, strict=True):
        state.assign(value)
    return assets


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _check_values(model):
    """Raises a ValueError for values that no training gives."""
    optimizer = getattr(model, "optimizer", None)
    slots = [] if optimizer is None else optimizer.variables
    for variable in [*model.weights, *slots]:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        values = ops.convert_to_numpy(ops.cast(variable.value, "float32"))
        num_bad = int(np.sum(~np.isfinite(values)))
        if num_bad:
            raise ValueError(
                "Weights must be finite. Received: NaN or infinity in "
                f"{num_bad:,} of the {values.size:,} numbers of "
                f"{variable.path!r}."
            )
    if (ops.convert_to_numpy(model.candidate_counts) < 0).any():
        raise ValueError(
            "`candidate_counts` must be 0 or more. Received: negative ones."
        )
    if model.histories is not None:
        model.histories.check_rows(model.num_candidates)
    if model.candidate_index is not None and not (
        np.isfinite(model.candidate_index.vectors()).all()
    ):
        raise ValueError(
            "The vectors of the candidate index must be finite. Received: NaN "
            "or infinity."
        )


def _index(path) -> CandidateIndex | None:
    if not path.exists():
        return None
    saved = read_arrays(path)
    index = CandidateIndex.from_config(json.loads(str(saved.pop(INDEX_CONFIG))))
    index.load_own_variables(saved)
    return index


def _vocabulary(side, ids, num_rows) -> Vocabulary | None:
    if ids is None:
        return None
    vocabulary = Vocabulary(ids)
    if vocabulary.num_rows > num_rows:
        raise ValueError(
            f"The ids of the {side}s do not fit the model: there are "
            f"{len(ids)} for {num_rows} rows."
        )
    return vocabulary
