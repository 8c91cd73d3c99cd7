"""Whether all processes begin a `fit` with the same model, before a step."""

import hashlib
import json

import keras

from keras_dp_retrieval import agreement, distribution
from keras_dp_retrieval.data.digests import digest

# Counters make the names, and Keras notes shapes and objects in passing: a
# process may have made another model before, such as one to draw.
_LEFT_OUT = ("name", "build_config", "shared_object_id")


def check_seed() -> None:
    """Raises, on every process, where they were given different seeds.

    Before a model is built: then JAX notices that weights differ in some of
    the processes, and the others wait for them.
    """
    if distribution.process_count() == 1:
        return
    from keras_dp_retrieval._keras.process_seeds import seed_in_use

    agreement.check({"random seed": seed_in_use()})


def identity(model, settings: dict) -> dict:
    """What processes must have in common but for the data, as JSON.

    Args:
        model: `PaddedModel`, compiled and built.
        settings: dict. Arguments of `fit`.
    """
    optimizer = keras.saving.serialize_keras_object(model.optimizer)
    return {
        "optimizer": json.dumps(_plain(optimizer["config"]), default=str)[:400],
        "steps per execution": int(model.steps_per_execution),
        "model's arguments": _digest_of_config(model),
        "weights": _digest_of_weights(model),
        **settings,
    }


def _digest_of_config(model) -> str | None:
    try:
        config = json.dumps(_plain(model.get_config()), default=repr)
    except NotImplementedError:  # A model of the user's without one.
        return None
    return hashlib.blake2b(config.encode(), digest_size=8).hexdigest()


def _plain(config):
    if isinstance(config, dict):
        return {
            name: _plain(value)
            for name, value in sorted(config.items())
            if name not in _LEFT_OUT
        }
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    return config


def _digest_of_weights(model) -> str | None:
    """Of this process's own copies, which no other is asked for."""
    from keras_dp_retrieval._jax.replication import own_copy

    every = [*model.variables, *model.optimizer.variables]
    return digest([own_copy(variable.value) for variable in every])
