"""Raw ids, each distinct one kept once, and a code for every entry."""

import concurrent.futures
import dataclasses
from typing import Any

import numpy as np

from keras_dp_retrieval.data import arrow_texts, columns

# A table of all numbers between the least and the greatest id is quicker than
# hashing, as long as it is not much longer than the column.
_LONGEST_TABLE = 8  # entries of the table for each of the column


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedIds:
    """A column of raw ids, each distinct one kept once.

    Args:
        ids: `(num_distinct,)` int64 or string, sorted. Each occurs.
        codes: `(n,)` int32. Index into `ids` of each entry of the column.
    """

    ids: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, indices) -> "EncodedIds":
        """Returns the entries at these indices, in this order."""
        codes = self.codes[indices]
        occurs = np.zeros(len(self.ids), bool)
        occurs[codes] = True
        ranks = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
        return EncodedIds(self.ids[occurs], ranks[codes])

    def decoded(self) -> np.ndarray:
        """Returns the raw ids, `(n,)`."""
        return self.ids[self.codes] if len(self.ids) else self.ids


def encode_both(named: dict[str, Any]) -> list[EncodedIds]:
    """Encodes two columns of ids, each on a core of its own."""
    with concurrent.futures.ThreadPoolExecutor() as threads:
        futures = [threads.submit(encode_ids, *one) for one in named.items()]
        return [future.result() for future in futures]


def encode_ids(
    name: str, values, max_length: int = columns.MAX_ID_LENGTH
) -> EncodedIds:
    """Returns a column of raw ids with each distinct one once.

    Args:
        name: str. How error messages call the column.
        values: `(n,)`, as for `columns.id_column`, or `EncodedIds`.
        max_length: int. Of a string, in characters.

    Raises:
        ValueError: As `columns.id_column` does.
    """
    if isinstance(values, EncodedIds):
        return values
    arrow = arrow_texts.of_library(name, values)
    if arrow is None:
        values = columns.as_array(name, values)
        arrow = arrow_texts.of_array(values)
    if arrow is not None:
        return _encode_texts(name, arrow, max_length)
    ids = columns.id_column(name, values, max_length)
    if ids.dtype.kind == "i":
        return _encode_numbers(ids)
    distinct, codes = np.unique(ids, return_inverse=True)
    return EncodedIds(distinct, codes.astype(np.int32))


def _encode_texts(name: str, column, max_length: int) -> EncodedIds:
    import pyarrow
    import pyarrow.compute as pc

    if not len(column):
        return EncodedIds(np.zeros(0, "U1"), np.zeros(0, np.int32))
    if pyarrow.types.is_dictionary(column.type):
        texts, codes = _of_dictionary(column)
    else:
        encoded = column.dictionary_encode()
        texts, codes = encoded.chunk(0).dictionary, _all_chunks(encoded)
    _check_texts(name, texts, codes, max_length)
    order = pc.array_sort_indices(texts)
    ids = texts.take(order).to_numpy(zero_copy_only=False).astype(str)
    return EncodedIds(ids, _ranks(order.to_numpy())[codes])


def _of_dictionary(column):
    """The texts of a column that is a dictionary already, and its codes.

    Whoever made it may have listed a text twice, or one that does not occur.
    """
    import pyarrow

    column = column.unify_dictionaries()
    listed = column.chunk(0).dictionary
    if pyarrow.types.is_string_view(listed.type):
        listed = listed.cast(pyarrow.large_string())
    distinct = listed.dictionary_encode()
    codes = distinct.indices.to_numpy()[_all_chunks(column)]
    occurs = np.zeros(len(distinct.dictionary), bool)
    occurs[codes] = True
    texts = distinct.dictionary.filter(pyarrow.array(occurs))
    return texts, (np.cumsum(occurs, dtype=np.int32) - np.int32(1))[codes]


def _all_chunks(encoded) -> np.ndarray:
    return np.concatenate(
        [chunk.indices.to_numpy() for chunk in encoded.chunks]
    )


def _ranks(order: np.ndarray) -> np.ndarray:
    """Where each entry stands once the column is in this order."""
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return ranks


def _check_texts(name: str, texts, codes: np.ndarray, max_length: int) -> None:
    import pyarrow.compute as pc

    lengths = pc.utf8_length(texts).to_numpy()
    too_long = np.flatnonzero(lengths > max_length)
    with_nul = np.flatnonzero(pc.ends_with(texts, "\0").to_numpy(False))
    bad = np.union1d(too_long, with_nul)
    if len(bad):
        row = int(np.isin(codes, bad).argmax())
        columns.check_text(name, row, texts[codes[row]].as_py(), max_length)


def _encode_numbers(ids: np.ndarray) -> EncodedIds:
    if not len(ids):
        return EncodedIds(ids, np.zeros(0, np.int32))
    low, high = int(ids.min()), int(ids.max())
    longest = _LONGEST_TABLE * len(ids) + 2**16
    if high - low < longest:
        if 0 <= low and high < longest:
            low = 0  # The ids are indices as they are.
        indices = ids - low if low else ids
        occurs = np.zeros(high - low + 1, bool)
        occurs[indices] = True
        ranks = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
        return EncodedIds(np.flatnonzero(occurs) + low, ranks[indices])
    import pyarrow

    encoded = pyarrow.array(ids).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    order = np.argsort(distinct)
    return EncodedIds(
        distinct[order], _ranks(order)[encoded.indices.to_numpy()]
    )
