"""What a model knows of its data: the ids, and the split it was trained on."""

import numpy as np
from keras import ops

from keras_dp_retrieval import agreement, distribution
from keras_dp_retrieval.data.batch_sources import source_of
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.data.ratings import pair_codes
from keras_dp_retrieval.data.streaming.not_in_memory import (
    NotInMemory,
    needs_memory,
)
from keras_dp_retrieval.model import feature_parts
from keras_dp_retrieval.model.candidate_states import states_of
from keras_dp_retrieval.towers import history_tower
from keras_dp_retrieval.towers.histories import Histories

# In `model.trained_on`: the fingerprints of earlier data, oldest first.
EARLIER = "earlier"


def arguments_of(data, given) -> dict:
    """What `TwoTowerRetrieval.for_dataset` tells a model of its data.

    Args:
        data: A data set.
        given: dict. The arguments of the model that are given.

    Raises:
        ValueError: If `data` is no data set.
    """
    if not hasattr(data, "user_vocabulary"):
        raise ValueError(
            "`data` must be a `RetrievalDataset`, such as "
            "`RetrievalDataset.from_interactions(user_ids, candidate_ids)`. "
            f"Received: a {type(data).__name__}, {data!r:.80}."
        )
    _check_all_processes_have(data)
    known = {
        "candidate_key": data.candidate_key,
        "rating_key": data.rating_key,
    }
    if "histories" not in given:
        known["histories"] = _histories_of(data, given.get("user_tower"))
    return {**known, **feature_parts.known_features(data, given)}


def _check_all_processes_have(data) -> None:
    """Raises where other processes have other data.

    Before tables are made of its size: then only some of the processes notice,
    and the others wait for them.
    """
    if distribution.process_count() == 1:
        return
    vocabularies = data.user_vocabulary, data.candidate_vocabulary
    agreement.check(
        {
            "users": data.num_users,
            "candidates": data.num_candidates,
            "ids": digest([one.ids for one in vocabularies]),
            "train part": data.fingerprint["train"],
        },
        call="for_dataset",
    )


def _histories_of(data, user_tower) -> Histories | None:
    """The interaction histories of a train part.

    None if it is streamed: then they come with the examples, if at all.

    Args:
        data: A data set.
        user_tower: Optional layer, which may need them.
    """
    if not isinstance(data, NotInMemory):
        return Histories.from_interactions(data.seen)
    reader = history_tower(user_tower)
    if reader is not None and getattr(data, "max_history", None) is None:
        raise needs_memory(
            f"A {type(reader).__name__} whose model stores the histories",
            "With `max_history=50`, say, they come with the examples.",
        )
    return None


def make_known(model, data) -> None:
    """Gives a new model the ids of a data set, and which split it is of."""
    model.user_vocabulary = data.user_vocabulary
    model.candidate_vocabulary = data.candidate_vocabulary
    model.candidate_titles = dict(data.candidate_titles)
    model.trained_on = fingerprint_of(data)
    model.absent_candidates.assign(states_of(data))


def check_evaluation(model, data, split: str, allow_trained: bool) -> None:
    """Raises a ValueError where figures on this data would be wrong.

    Args:
        model: `TwoTowerRetrieval`.
        data: As in `keras_dp_retrieval.evaluate`.
        split: str. The part to be evaluated.
        allow_trained: bool. Whether interactions of the part may have been
            trained on.
    """
    check_key(model, data)
    for side in ("user", "candidate"):
        _check_ids(model, data, side)
    if allow_trained or split == "train":
        return
    num_trained, num_rows = _count_trained(model, data, split)
    if num_trained:
        raise ValueError(
            f"{num_trained:,} of the {num_rows:,} interactions of the "
            f"{split!r} part were trained on, so that the figures would be "
            f"too good. The model was trained on {describe(model.trained_on)}."
            f" Received: {describe(fingerprint_of(data))}. Evaluate on the "
            "split that it was trained on, or pass `allow_trained=True`."
        )


def all_fingerprints(model) -> list[dict]:
    """The fingerprints of all that a model was trained on, oldest first."""
    if model.trained_on is None:
        return []
    last = {k: v for k, v in model.trained_on.items() if k != EARLIER}
    return [*model.trained_on.get(EARLIER, []), last]


def is_continued(model) -> bool:
    """Whether a model was given interactions after it had been made."""
    return EARLIER in (model.trained_on or {})


def fingerprint_of(data) -> dict | None:
    """What a data set says of its interactions and their split, if it can."""
    return getattr(data, "fingerprint", None)


def describe(fingerprint: dict | None) -> str:
    """A fingerprint in words."""
    if fingerprint is None:
        return "data that do not say how they were split"
    more = ", validation in train" * fingerprint["validation_in_train"]
    if fingerprint.get(EARLIER):
        more += f", and {len(fingerprint[EARLIER])} data sets before"
    return (
        f"{fingerprint['data']}, split={fingerprint['split']!r}, "
        f"seed={fingerprint['seed']}, "
        f"test_fraction={fingerprint['test_fraction']:g}, "
        f"validation_fraction={fingerprint['validation_fraction']:g}{more}"
    )


def check_key(model, data) -> None:
    """Raises a ValueError if the candidates have another name in the data."""
    key = getattr(data, "candidate_key", None)
    if key in (None, model.candidate_key):
        return
    raise ValueError(
        "The model and the data must have the candidates under one "
        f"`candidate_key`. Received: a model of {model.candidate_key!r} and "
        f"data of {key!r}. Make the data with "
        f"`candidate_key={model.candidate_key!r}`, or the model with "
        "`TwoTowerRetrieval.for_dataset(data)`."
    )


def _check_ids(model, data, side):
    size, ids = f"num_{side}s", f"{side}_vocabulary"
    here, there = getattr(model, size), getattr(data, size, None)
    if there is not None and here < there:
        raise ValueError(
            f"The model must have a row for each of the {there} {side}s of "
            f"the data (`{size}`). Received: a model of {here}. Evaluate on "
            "the data that it was made for."
        )
    known, given = getattr(model, ids), getattr(data, ids, None)
    if known is None or given is None:
        return
    if _has_rows_of(known, given.ids):
        return
    raise ValueError(
        f"The rows of the model and of the data must stand for the same "
        f"{side}s. Received: {len(known.ids)} ids in the model and "
        f"{len(given.ids)} in the data, which differ. Evaluate on the data "
        "that the model was made for, or that `add_interactions` returned."
    )


def _has_rows_of(vocabulary, ids) -> bool:
    """Whether ids 1 to n of a model are these, maybe with others after them."""
    # New ids are added to a model's at the end.
    return np.array_equal(vocabulary.ids[: len(ids)], ids)


def check_batches(model, batches) -> None:
    """Raises a ValueError if batches of a data set hold rows of other ids.

    Args:
        model: `TwoTowerRetrieval`.
        batches: What `fit` is given. Others than those of a data set of this
            package do not say whose rows they hold.
    """
    source = source_of(batches)
    if source is None or source.row_ids is None:
        return
    for side, ids in source.row_ids.items():
        known = getattr(model, f"{side}_vocabulary")
        if known is None or _has_rows_of(known, ids):
            continue
        raise ValueError(
            f"The batches must hold rows of the {side}s of the model. "
            f"Received: a model of {len(known.ids):,} ids, and batches of a "
            f"data set of {len(ids):,}, which are others or in another order. "
            "Train on the batches of the data set that the model was made "
            "for, or of the one that `model.add_interactions(data)` returns."
        )


def _count_trained(model, data, split) -> tuple[int, int]:
    """How many of a part's interactions were trained on, and of how many.

    Those that the data's own earlier parts repeat are left out of the lists,
    and so do not count.
    """
    if model.trained_on is None or model.histories is None:
        return 0, 0
    part = data.ratings(split)
    pairs = pair_codes(part.user_rows, part.candidate_rows)
    seen = data.seen_before(split)
    known = _pairs(
        ops.convert_to_numpy(model.histories.starts),
        ops.convert_to_numpy(model.histories.candidate_rows),
    )
    repeated = np.isin(pairs, _pairs(seen.indptr, seen.candidate_rows))
    return int(np.sum(np.isin(pairs, known) & ~repeated)), len(pairs)


def _pairs(starts, candidate_rows) -> np.ndarray:
    """The `pair_codes` of histories."""
    lengths = np.diff(starts)
    users = np.repeat(np.arange(len(lengths)), lengths)
    return pair_codes(users, candidate_rows[: len(users)])
