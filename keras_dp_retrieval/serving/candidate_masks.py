"""Which candidates requests ask for, kept for those that ask again."""

import collections
import functools
import json

import keras
import numpy as np

from keras_dp_retrieval.model.popular import popular_rows
from keras_dp_retrieval.model.request_users import POPULAR
from keras_dp_retrieval.model.searches import Restrictions

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
        self._everything = self._made(None, None)

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
        mask = self._made(allowed_ids, filters)
        self._kept[key] = mask
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return mask

    def _made(self, allowed_ids, filters) -> CandidateMask:
        restrictions = Restrictions(
            self._model,
            num_users=0,
            exclude=None,
            allowed_ids=None if allowed_ids is None else list(allowed_ids),
            filters=None if filters is None else json.loads(filters),
            unknown=POPULAR,
        )
        is_everything = allowed_ids is None and filters is None
        return CandidateMask(
            self._model, restrictions.retrievable, is_everything
        )
