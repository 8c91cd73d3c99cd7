"""What the test part shares with what a model learns from."""

import dataclasses

import numpy as np

from keras_dp_retrieval.data.ratings import Ratings, pair_codes


@dataclasses.dataclass(frozen=True)
class LeakageReport:
    """What the test part has in common with what was learned from.

    Args:
        num_train: int. Interactions of the train part.
        num_test: int. Interactions of the test part.
        num_repeated: int. Test interactions whose user and candidate also are
            a pair of the train part.
        num_before_train_end: int or None. Test interactions older than the
            newest one of the train part; None without timestamps.
        num_unseen_users: int. Users of the test part without an interaction
            in the train part.
        num_unseen_candidates: int. Likewise, candidates.
        note: str. The note of the split.
    """

    num_train: int
    num_test: int
    num_repeated: int
    num_before_train_end: int | None
    num_unseen_users: int
    num_unseen_candidates: int
    note: str = ""

    @property
    def warnings(self) -> list[str]:
        """What makes the figures look better than they are, in sentences."""
        found = []
        if self.note:
            found.append(f"{self.note[0].upper()}{self.note[1:]}.")
        if self.num_repeated:
            found.append(
                f"{self.num_repeated:,} of {self.num_test:,} test "
                "interactions are also in the train part: a model that leaves "
                "out what was seen cannot find them, another was trained on "
                "them. `repeated='last'` keeps one of each pair."
            )
        if self.num_before_train_end:
            share = self.num_before_train_end / self.num_test
            found.append(
                f"{share:.0%} of the test interactions are older than the "
                "newest one learned from: the figures do not say how well the "
                "future is predicted. `split='by_time'` does."
            )
        return found

    def __str__(self) -> str:
        unknown = "no timestamps"
        before = self.num_before_train_end
        return "\n".join(
            [
                f"test interactions             {self.num_test:>12,}",
                f"  also in train               {self.num_repeated:>12,}",
                "  older than newest in train  "
                + (f"{unknown:>12}" if before is None else f"{before:>12,}"),
                f"users only in test            {self.num_unseen_users:>12,}",
                "candidates only in test       "
                f"{self.num_unseen_candidates:>12,}",
                *self.warnings,
            ]
        )


def leakage_report(
    train: Ratings, test: Ratings, note: str = ""
) -> LeakageReport:
    """Compares the test part with the train part."""
    before = None
    if train.timestamps is not None and test.timestamps is not None:
        newest = train.timestamps.max(initial=np.iinfo(np.int64).min)
        before = int(np.count_nonzero(test.timestamps < newest))
    return LeakageReport(
        num_train=len(train),
        num_test=len(test),
        num_repeated=_num_repeated(train, test),
        num_before_train_end=before,
        num_unseen_users=_num_new(train.user_rows, test.user_rows),
        num_unseen_candidates=_num_new(
            train.candidate_rows, test.candidate_rows
        ),
        note=note,
    )


def _num_repeated(train: Ratings, test: Ratings) -> int:
    """Entries of `test` whose pair is one of `train`."""
    # In one sort: equal pairs then stand together, those of train first. The
    # last bit says where a pair is from. Rows have 31 bits, so 63 are enough.
    pairs = np.concatenate([_codes(train, 0), _codes(test, 1)])
    pairs.sort()
    same_as_before = (pairs[1:] ^ pairs[:-1]) <= 1
    of_test = (pairs[1:] & 1).astype(bool)
    found = pairs[1:][same_as_before & of_test]
    in_train = found - 1
    return int(
        np.count_nonzero(pairs[np.searchsorted(pairs, in_train)] == in_train)
    )


def _codes(ratings: Ratings, last_bit: int) -> np.ndarray:
    candidates = ratings.candidate_rows.astype(np.int64) << 1
    return pair_codes(ratings.user_rows, candidates | last_bit)


def _num_new(known: np.ndarray, rows: np.ndarray) -> int:
    """Distinct rows that are not known."""
    is_new = np.zeros(max(known.max(initial=0), rows.max(initial=0)) + 1, bool)
    is_new[rows] = True
    is_new[known] = False
    return int(np.count_nonzero(is_new))
