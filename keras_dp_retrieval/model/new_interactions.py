"""New interactions for a model that has been trained: what it knows grows."""

import warnings

import numpy as np
from keras import ops

from keras_dp_retrieval import _checks, agreement, distribution
from keras_dp_retrieval.data.digests import digest
from keras_dp_retrieval.data.interactions import Interactions
from keras_dp_retrieval.data.split_dataset import SplitDataset
from keras_dp_retrieval.data.streaming.not_in_memory import refuse_streamed
from keras_dp_retrieval.model import (
    compiling,
    feature_rows,
    growth,
    known_data,
)
from keras_dp_retrieval.model.candidate_states import PRESENT
from keras_dp_retrieval.warning_categories import DataWarning, TrainingWarning


def add(model, data, keep_latest, learning_rate, seed):
    """What `TwoTowerRetrieval.add_interactions` says."""
    seed = _checks.seed("seed", seed)
    if keep_latest is not None:
        keep_latest = _checks.non_negative_int("keep_latest", keep_latest)
    if learning_rate is not None:
        learning_rate = _checks.number_between(
            "learning_rate", learning_rate, 0, open_low=True
        )
    _check_optimizer(getattr(model, "optimizer", None), learning_rate)
    _check_fits(model, data)
    users = _with_ids(model.user_vocabulary, data.user_vocabulary)
    candidates = _with_ids(
        model.candidate_vocabulary, data.candidate_vocabulary
    )
    earlier = _earlier(model, keep_latest)
    today = data.in_rows_of(users, candidates, earlier)
    _check_new(model, today)
    with growth.undone_on_error() as undo:
        _grow(model, data, users, candidates, seed, undo)
        if model.histories is not None:
            _replace_histories(model.histories, today.seen, undo)
        _mark_present(model, today.ratings("train").candidate_rows, undo)
    if learning_rate is not None:
        compiling.with_learning_rate(model, learning_rate)
    model.trained_on = {
        **today.fingerprint,
        known_data.EARLIER: known_data.all_fingerprints(model),
    }
    model.user_vocabulary = users
    model.candidate_vocabulary = candidates
    model.candidate_titles = {**model.candidate_titles, **data.candidate_titles}
    return today


def _check_optimizer(optimizer, learning_rate) -> None:
    """Refuses a rate for no optimizer; warns of one that has come to 0."""
    if learning_rate is not None:
        if optimizer is None:
            raise ValueError(
                "`learning_rate` is for a compiled model. Received: "
                f"learning_rate={learning_rate:g} and a model without an "
                "optimizer. Give the rate to the optimizer in `compile`."
            )
        return
    if optimizer is None or float(optimizer.learning_rate) > 0:
        return
    warnings.warn(
        "The optimizer's learning rate is 0, as at the end of a schedule, so "
        "that `fit` would learn nothing. Use `add_interactions(data, "
        "learning_rate=...)`.",
        TrainingWarning,
        stacklevel=5,
    )


def _check_fits(model, data) -> None:
    refuse_streamed("`add_interactions`", data)
    if not isinstance(data, SplitDataset):
        raise ValueError(
            "`data` must be a `RetrievalDataset`, such as "
            "`RetrievalDataset.from_csv(path)`. Received: "
            f"a {type(data).__name__}, {data!r:.80}."
        )
    for side in ("user", "candidate"):
        if getattr(model, f"{side}_vocabulary") is None:
            raise ValueError(
                "`add_interactions` needs a model that knows its ids. "
                f"Received: one without a `{side}_vocabulary`, whose ids are "
                "rows. Make it with `TwoTowerRetrieval.for_dataset(data)`, or "
                "use `add_users(number)` and `add_candidates(number)`."
            )
    known_data.check_key(model, data)
    has_ratings = data.ratings("train").ratings is not None
    if has_ratings and data.rating_key != model.rating_key:
        raise ValueError(
            "The model and the data must have the ratings under one "
            f"`rating_key`. Received: a model of {model.rating_key!r} and "
            f"data of {data.rating_key!r}. Make the data with "
            f"`rating_key={model.rating_key!r}`."
        )
    if model.objective.needs_ratings and not has_ratings:
        raise ValueError(
            f"The objective of the model, {model.objective.name!r}, needs "
            "ratings. Received: data without any. Make the data with "
            "`ratings=...` or `rating_column=...`."
        )


def _with_ids(known, given):
    """The vocabulary of a model with the ids that are new to it."""
    return known.extended(given.ids[known.rows(given.ids) == 0])


def _earlier(model, keep_latest) -> Interactions | None:
    """The histories of a model, those that stay."""
    if model.histories is None:
        return None
    starts = ops.convert_to_numpy(model.histories.starts)
    rows = ops.convert_to_numpy(model.histories.candidate_rows)
    earlier = Interactions(starts, rows[: starts[-1]])
    return earlier if keep_latest is None else earlier.latest(keep_latest)


def _check_new(model, today) -> None:
    """Refuses what was added before; warns of what is older."""
    if distribution.process_count() > 1:
        vocabularies = today.user_vocabulary, today.candidate_vocabulary
        agreement.check(
            {
                "new interactions": today.fingerprint["train"],
                "ids": digest([one.ids for one in vocabularies]),
            },
            call="add_interactions",
        )
    fingerprints = known_data.all_fingerprints(model)
    if today.fingerprint["train"] in {one["train"] for one in fingerprints}:
        raise ValueError(
            "Interactions must be new to the model. Received: "
            f"{len(today.ratings('train')):,} that it was trained on before. "
            "To train on them again, call `fit` with the batches of the data "
            "set that they were added with."
        )
    known = [one.get("newest") for one in fingerprints]
    newest = [time for time in known if time is not None]
    times = today.ratings("train").timestamps
    if not newest or times is None:
        return
    num_older = int(np.sum(times < max(newest)))
    if num_older:
        warnings.warn(
            f"{num_older:,} of the {len(times):,} new interactions are older "
            "than the newest that the model was trained on. They come after "
            "it in the histories all the same: add interactions in the order "
            "of time, all with numbers or all with dates as timestamps.",
            DataWarning,
            stacklevel=5,
        )


def _grow(model, data, users, candidates, seed, undo) -> None:
    num_new = {
        "user": users.num_rows - model.user_vocabulary.num_rows,
        "candidate": candidates.num_rows - model.candidate_vocabulary.num_rows,
    }
    num_new = {side: number for side, number in num_new.items() if number}
    vocabularies = {"user": users, "candidate": candidates}
    features = {
        side: feature_rows.of_data(
            model, side, data, vocabularies[side].ids[-number:]
        )
        for side, number in num_new.items()
    }
    if num_new:
        growth.grow(model, num_new, seed, undo, features=features)


def _replace_histories(histories, seen, undo) -> None:
    """Gives a layer of histories other, longer ones."""
    starts = ops.convert_to_numpy(histories.starts)
    longest = int(np.diff(starts).max(initial=0))
    is_whole = histories.max_length >= longest
    new = type(histories).from_interactions(
        seen,
        # Those that were looked up whole still are.
        max_length=None if is_whole else histories.max_length,
    )
    starts = ops.convert_to_numpy(new.starts)
    missing = histories.num_users + 1 - len(starts)
    growth.resize(histories.starts, np.pad(starts, (0, missing), "edge"), undo)
    rows = ops.convert_to_numpy(new.candidate_rows)
    growth.resize(histories.candidate_rows, rows, undo)
    for name in ("num_interactions", "max_length"):
        undo.callback(setattr, histories, name, getattr(histories, name))
        setattr(histories, name, getattr(new, name))


def _mark_present(model, candidate_rows, undo) -> None:
    """Notes that these candidates are in training."""
    states = np.array(ops.convert_to_numpy(model.absent_candidates))
    states[candidate_rows] = PRESENT
    growth.resize(model.absent_candidates, states, undo)
