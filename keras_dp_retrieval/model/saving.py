"""Saving: one `.keras` file that holds all that a model needs.

| member of the file | what it holds |
| --- | --- |
| `config.json` | the arguments of the model, its optimizer's, and the format |
| `model.weights.h5` | towers, slots, counts of candidates, histories |
| `assets/ids.npz` | the ids of the rows 1 to n of users and candidates |
| `assets/titles.json` | the titles of candidates, as pairs |
| `assets/trained_on.json` | which data, and how they were split |
| `assets/seeds.npz` | where random numbers stand (dropout, drawn negatives) |
| `assets/index.npz` | the candidate index, where one was built |

Nothing in it is pickled: a file from a stranger cannot run code.
"""

import json
import os
import pathlib

import numpy as np
from keras import ops

from keras_dp_retrieval.model.whole_files import (
    on_process_zero,
    renamed_when_whole,
)
from keras_dp_retrieval.training.finite import warn_if_saved

# The number of the layout above. It rises when an older version of this
# package could not read the file any more. Format 1 had no
# `popularity_offset`; up to format 2 an index was in the weights, too, and the
# inputs and weights of the towers were missing; up to format 3 so were
# the candidates that training does not have; up to
# format 4 `popularity_weight` was called `popularity_offset`; up to format 5
# there were no features.
FORMAT_VERSION = 6

# The array in `assets/index.npz` that holds the index's arguments.
INDEX_CONFIG = "config"


def save(model, write, filepath, overwrite, zipped, **kwargs) -> None:
    """What `TwoTowerRetrieval.save` says.

    Args:
        model: `TwoTowerRetrieval`.
        write: Keras' own `save` of the model.
        filepath, overwrite, zipped, **kwargs: As in the method.
    """
    if os.fspath(filepath).endswith((".h5", ".hdf5")):
        raise ValueError(
            "Models of this package are saved as `.keras` files, as HDF5 "
            "alone cannot hold their ids. Received: filepath="
            f"{os.fspath(filepath)!r}. Use a name that ends in `.keras`, "
            "or `save_weights` with one that ends in `.weights.h5`."
        )
    _build_all(model)
    warn_if_saved(model)
    with on_process_zero(filepath) as writes:
        if not writes:
            return
        if not _is_local_keras_file(filepath, zipped):
            write(filepath, overwrite, zipped, **kwargs)
        elif overwrite or _may_replace(filepath):
            with renamed_when_whole(filepath) as temporary:
                write(temporary, zipped=zipped, **kwargs)


def write_assets(model, folder) -> None:
    """Writes what is neither config nor weight."""
    folder = pathlib.Path(folder)
    vocabularies = {
        "user_ids": model.user_vocabulary,
        "candidate_ids": model.candidate_vocabulary,
    }
    ids = {key: v.ids for key, v in vocabularies.items() if v is not None}
    np.savez(folder / "ids.npz", **ids)
    titles = [[_plain(k), v] for k, v in model.candidate_titles.items()]
    _write_json(folder / "titles.json", titles)
    _write_json(folder / "trained_on.json", model.trained_on)
    seeds = [ops.convert_to_numpy(state) for state in seed_states(model)]
    np.savez(folder / "seeds.npz", *seeds)
    if model.candidate_index is not None:
        index: dict = {
            INDEX_CONFIG: json.dumps(model.candidate_index.get_config())
        }
        model.candidate_index.save_own_variables(index)
        np.savez(folder / "index.npz", **index)


def seed_states(model) -> list:
    """The variables of a model that are not among its weights.

    Keras leaves the states of seeds out, so that training with dropout would
    not go on as if it had never stopped.
    """
    others = {id(one) for one in [*model.weights, *model.derived_variables]}
    return [
        variable
        for variable in model.non_trainable_variables
        if id(variable) not in others
    ]


def without_format(config: dict) -> dict:
    """Returns a model's config as that of the present format, without it.

    Raises:
        ValueError: If the format is newer than this version of the package.
    """
    config = dict(config)
    version = config.pop("format_version", FORMAT_VERSION)
    if version not in range(1, FORMAT_VERSION + 1):
        raise ValueError(
            f"The model has the format {version!r}. This version of "
            f"keras-dp-retrieval reads formats up to {FORMAT_VERSION}: "
            "install the version that saved it, or a newer one."
        )
    if "popularity_offset" in config:  # Its name in formats 2 to 4.
        config["popularity_weight"] = config.pop("popularity_offset")
    return config


def _build_all(model):
    # Keras saves only what is built, and builds an optimizer on loading.
    model.build()
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)


def _is_local_keras_file(filepath, zipped) -> bool:
    path = os.fspath(filepath)
    return path.endswith(".keras") and "://" not in path and zipped is not False


def _may_replace(filepath) -> bool:
    if not os.path.exists(filepath):
        return True
    question = f"{os.fspath(filepath)} already exists. Overwrite it? [y/n] "
    return input(question).strip().lower() in ("y", "yes")


def _write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def _plain(key):
    return key.item() if isinstance(key, np.generic) else key
