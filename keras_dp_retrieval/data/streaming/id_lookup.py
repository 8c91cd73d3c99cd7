"""From the raw ids of a block to rows of a table, at the speed of reading."""

import numpy as np

from keras_dp_retrieval.data.columns import id_column
from keras_dp_retrieval.data.encoded_ids import encode_ids
from keras_dp_retrieval.data.vocabulary import Vocabulary

# A table over all numbers up to the greatest id, as long as it is not much
# longer than the ids are many.
_LONGEST_TABLE = 8  # entries for each id


class IdLookup:
    """Rows of raw ids, by a vocabulary whose ids are sorted.

    Args:
        name: str. How errors call the column.
        vocabulary: `Vocabulary`.
    """

    def __init__(self, name: str, vocabulary: Vocabulary):
        self._name = name
        self._vocabulary = vocabulary
        self._table = None
        ids = vocabulary.ids
        if not len(ids) or ids.dtype.kind == "U":
            return
        low, high = int(ids.min()), int(ids.max())
        if low >= 0 and high < _LONGEST_TABLE * len(ids) + 2**16:
            self._table = np.zeros(high + 1, np.int32)
            self._table[ids] = vocabulary.rows(ids)

    def rows(self, column) -> np.ndarray:
        """Returns the int32 row of each raw id, `(n,)`, 0 for unknown ones.

        Args:
            column: `(n,)`, an array of numbers or texts of Arrow.
        """
        if not isinstance(column, np.ndarray) or column.dtype.kind == "U":
            encoded = encode_ids(self._name, column)
            return self._vocabulary.rows(encoded.ids)[encoded.codes]
        ids = id_column(self._name, column)
        if self._table is not None:
            if not len(ids):
                return np.zeros(0, np.int32)
            if ids.min() >= 0 and ids.max() < len(self._table):
                return np.take(self._table, ids)
        # In rising order one search begins where the last one ended: a tenth
        # of the time that it takes in any other.
        order = np.argsort(ids)
        rows = np.empty(len(ids), np.int32)
        rows[order] = self._vocabulary.rows(ids[order])
        return rows
