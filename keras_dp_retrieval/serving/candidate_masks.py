"""Which candidates requests ask for, kept for those that ask again."""

import collections
import functools
import json

import keras
import numpy as np

from keras_dp_retrieval.model import id_rows
from keras_dp_retrieval.model.candidate_filters import fulfilled
from keras_dp_retrieval.model.candidate_states import retrievable_rows
from keras_dp_retrieval.model.popular import popular_rows
from keras_dp_retrieval.model.request_users import POPULAR

# Masks that are kept: a byte for each candidate, here and on the device.
MOST_KEPT = 32


class CandidateMask:
    """The candidates that may be in a list.

    Args:
        model: `TwoTowerRetrieval`.
        allowed: bool `(num_candidates,)`.
        is_everything: bool. Whether that is all that can be recommended.
    """

    def __init__(self, model, allowed: np.ndarray, is_everything=False):
        self._model, self.allowed = model, allowed
        self.is_everything = is_everything

    @functools.cached_property
    def on_device(self):
        return keras.ops.convert_to_tensor(self.allowed)

    @functools.cached_property
    def popular(self):
        """A function as `popular_rows` returns."""
        return popular_rows(self._model, self.allowed)


class CandidateMasks:
    """The masks of a model, the latest of which are kept.

    Args:
        model: `TwoTowerRetrieval`, which must not change from now on.
    """

    def __init__(self, model):
        self._model = model
        self._kept: collections.OrderedDict = collections.OrderedDict()
        self._everything = CandidateMask(
            model, model.retrievable_mask(), is_everything=True
        )

    def get(self, allowed_ids, filters) -> CandidateMask:
        """The mask of a request.

        Args:
            allowed_ids: Optional tuple of ids. Unknown ones count for nothing.
            filters: Optional str. Filters as in `recommend`, as JSON.

        Raises:
            ValueError: If the model has no such features.
        """
        if allowed_ids is None and filters is None:
            return self._everything
        key = allowed_ids, filters
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        mask = CandidateMask(self._model, self._allowed(allowed_ids, filters))
        self._kept[key] = mask
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return mask

    def _allowed(self, allowed_ids, filters) -> np.ndarray:
        rows = retrievable_rows(self._model)
        if allowed_ids is not None:
            known = id_rows.known_candidate_rows(self._model, list(allowed_ids))
            rows = np.intersect1d(rows, known)
        allowed = np.zeros(self._model.num_candidates, bool)
        allowed[rows] = True
        if filters is not None:
            allowed &= fulfilled(self._model, json.loads(filters), POPULAR)
        return allowed
