"""Search for candidates by their titles, and for users by their ids."""

import bisect
import unicodedata

import numpy as np

# Beyond so many, users are found by whole ids alone.
MOST_LISTED_USERS = 1_000_000

# Titles that are looked at before the best are chosen.
_MOST_FOUND = 1000

_END = "\n"


class TitleSearch:
    """Finds candidates whose titles have all words of a query.

    Case and accents do not matter. Titles that begin with the query come
    first, then those with a word that does; equal ones by how often training
    had them. A candidate without a title has its id for one.

    Args:
        model: `TwoTowerRetrieval`.
    """

    def __init__(self, model):
        ids = model.retrievable_ids()
        titles = model.candidate_titles
        texts = [_folded(titles.get(one) or str(one)) for one in ids.tolist()]
        counts = np.asarray(model.candidate_counts)
        rows = np.flatnonzero(model.retrievable_mask())
        # The most popular first, so that they are found first.
        order = np.argsort(-counts[rows], kind="stable")
        self._ids = ids[order].tolist()
        texts = [texts[place] for place in order]
        self._text = _END + _END.join(texts) + _END
        lengths = np.array([len(text) + 1 for text in texts], "int64")
        self._starts = [0, *np.cumsum(lengths).tolist()]

    def find(self, query: str, most: int) -> list:
        """Returns up to `most` candidate ids, best first."""
        words = _folded(query).split()
        if not words:
            return self._ids[:most]
        rarest = max(words, key=len)
        found: dict[int, int] = {}  # Places, and their ranks.
        at = self._text.find(rarest)
        while at >= 0 and len(found) < _MOST_FOUND:
            place = bisect.bisect_right(self._starts, at) - 1
            end = self._starts[place + 1]
            title = self._text[self._starts[place] + 1 : end]
            if all(word in title for word in words):
                found[place] = _rank(title, words)
            at = self._text.find(rarest, end)
        best = sorted(found, key=lambda place: (found[place], place))
        return [self._ids[place] for place in best[:most]]


class UserSearch:
    """Finds users by the beginning of their ids.

    Args:
        model: `TwoTowerRetrieval`.
    """

    def __init__(self, model):
        vocabulary = model.user_vocabulary
        if vocabulary is None:
            ids = range(model.num_users)
        elif len(vocabulary.ids) > MOST_LISTED_USERS:
            ids = ()
        else:
            ids = vocabulary.ids.tolist()
        self._by_text = sorted((str(one), one) for one in ids)

    def find(self, prefix: str, most: int) -> list:
        """Returns up to `most` user ids, in the order of their texts."""
        first = bisect.bisect_left(self._by_text, (prefix,))
        found = self._by_text[first : first + most]
        return [one for text, one in found if text.startswith(prefix)]


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(
        " " if one.isspace() else one
        for one in decomposed
        if not unicodedata.combining(one)
    )


def _rank(title: str, words: list[str]) -> int:
    if title.startswith(" ".join(words)):
        return 0
    starts = {word[: len(one)] for word in title.split() for one in words}
    return 1 if all(word in starts for word in words) else 2
