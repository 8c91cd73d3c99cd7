"""What meets every shape once, so that all programs are compiled."""

import json
from collections.abc import Iterator

import numpy as np

from keras_dp_retrieval.data.padding import PADDING
from keras_dp_retrieval.model import encoding
from keras_dp_retrieval.serving import shapes
from keras_dp_retrieval.serving.questions import Question
from keras_dp_retrieval.towers import history_tower


def usual_questions(model, sizes, lengths, widths) -> Iterator[Question]:
    """Yields questions that meet every shape of a search.

    Args:
        model: `TwoTowerRetrieval`.
        sizes: Users of a batch.
        lengths: Candidates of a list.
        widths: Widths of lists that are left out.
    """
    user = _one_id(model.user_vocabulary)
    item = _one_id(model.candidate_vocabulary)
    for size in sizes:
        for width in widths:
            left_out = [item * width] * size
            for k in lengths:
                yield Question(
                    user_ids=user * size,
                    exclude=left_out,
                    k=k,
                    exclude_seen=False,
                )
        if history_tower(model.user_tower) is None:
            continue
        # Some by their ids, and some by their histories.
        unknown = user[0] + "?" if isinstance(user[0], str) else -(2**62)
        yield Question(
            user_ids=[*user * (size - 1), unknown],
            histories=[item] * size,
            vectors=True,
        )


def usual_inputs(model, sizes, history_widths) -> Iterator:
    """Yields inputs that meet every shape of the user tower.

    Args:
        model: `TwoTowerRetrieval`.
        sizes: Users of a batch.
        history_widths: Widths of histories.
    """
    reads_histories = history_tower(model.user_tower) is not None
    for size in sizes:
        rows = np.zeros(size, "int32")
        if not encoding.needs_histories(model):
            yield rows
        histories: list = [None]
        if reads_histories:
            histories = [
                np.full((size, width), PADDING, "int32")
                for width in history_widths
            ]
        for history in histories:
            given = {} if history is None else {"history": history}
            if model.user_features is not None:
                for columns in _feature_columns(model, size):
                    yield {"user_id": rows, **columns, **given}
            elif encoding.needs_histories(model):
                yield {"user_id": rows, **given}
            if reads_histories and model.user_features is None:
                yield history


def usual_filters(model) -> Iterator[str]:
    """Yields filters, as JSON, that meet every kind of condition."""
    if model.candidate_features is None:
        return
    for name, encoder in model.candidate_features.schema.encoders.items():
        conditions: list = []
        if encoder.kind == "numeric":
            conditions = [[0, 1]]
        elif encoder.kind == "date":
            conditions = [["2000-01-01", "2001-01-01"]]
        elif encoder.kind in ("categorical", "multi_label"):
            value = encoder.values[:1]
            conditions = [{"any": value, "all": value, "none": value}, value]
        for condition in conditions:
            yield json.dumps({name: condition})


def _feature_columns(model, size) -> Iterator[dict]:
    schema = model.user_features.schema
    unknown = schema.unknown(size)
    pooled = [name for name, one in unknown.items() if one.ndim == 2]
    for width in shapes.FEATURE_WIDTHS if pooled else (1,):
        wider = {
            name: np.zeros((size, width), unknown[name].dtype)
            for name in pooled
        }
        yield {**unknown, **wider}


def _one_id(vocabulary) -> list:
    """A list of one known id."""
    if vocabulary is None or not len(vocabulary.ids):
        return [1]
    return vocabulary.ids[:1].tolist()
