"""What a checkpoint belongs to: which model, compiled how, on which data."""

import json
import weakref

import keras

from keras_dp_retrieval import _checks

# Not part of what is computed: counters make the names, the class is named
# three times, and Keras notes shapes and objects in passing.
_LEFT_OUT = (
    "name",
    "module",
    "registered_name",
    "build_config",
    "shared_object_id",
)

# What an optimizer's config was when it was first trained with: learning rates
# change in training, and whoever trains on in the same process goes on with
# the same optimizer.
_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def identity(model, contents: dict) -> dict:
    """Returns what must be the same for a run to go on, as JSON.

    Args:
        model: `keras.Model`, compiled.
        contents: dict. What the run is trained on.
    """
    optimizer = model.optimizer
    if optimizer not in _compiled:
        _compiled[optimizer] = _plain(_config_of(model.get_compile_config))
    return {
        "model": _plain(_config_of(model.get_config)),
        "compile": _compiled[optimizer],
        "data": _plain(contents),
    }


def check(saved: dict, present: dict, path) -> None:
    """Raises a ValueError if a checkpoint is of another run.

    Args:
        saved: dict. `identity` of the run that wrote it.
        present: dict. That of this run.
        path: The checkpoint.
    """
    words = {
        "model": "of this model",
        "compile": "of a model that is compiled as this one",
        "data": "of a run on these data",
    }
    for part, shown in words.items():
        if saved[part] == present[part]:
            continue
        where, before, now = _first_difference(saved[part], present[part])
        raise ValueError(
            f"`ResumeTraining` goes on with a checkpoint {shown}. Received: "
            f"{path}, where {where or part} was {_checks.shown(before)} and is "
            f"{_checks.shown(now)}. Run what was run before, or give another "
            "folder to begin anew."
        )


def _config_of(method):
    try:
        return method()
    except NotImplementedError:  # A model of the user's own, without one.
        return None


def _plain(config):
    """As JSON has it, without what is not part of the computation."""
    text = json.dumps(
        keras.saving.serialize_keras_object(config),
        default=lambda other: type(other).__name__,
    )
    return _without_names(json.loads(text))


def _without_names(config):
    if isinstance(config, list):
        return [_without_names(one) for one in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _without_names(value)
        for key, value in config.items()
        if key not in _LEFT_OUT or len(config) == 1  # A dtype policy.
    }


def _first_difference(saved, present, where="") -> tuple:
    """Where two configs differ, and the values there."""
    if isinstance(saved, dict) and isinstance(present, dict):
        for key in {**saved, **present}:
            if saved.get(key) != present.get(key):
                inner = f"{where}.{key}" if where else str(key)
                return _first_difference(
                    saved.get(key), present.get(key), inner
                )
    return where, saved, present
