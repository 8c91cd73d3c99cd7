"""Made-up interactions in which order matters, more than recency says.

Candidates are in groups, a group's are unlike popular, and nobody has one
twice. What differs is which group comes next:

- `bigrams`: a table says it, drawn at random, for each pair of the groups of
  the latest two. Neither alone says anything.
- `sessions`: a user stays with one group for 3 to 8 interactions and goes
  through its candidates in their order, one to three at a time; then comes
  another group. One in five interactions is of any group.
- `periods`: a user has 2 to 5 interests and takes turns, interest 1, 2, 3, 1,
  2, 3: how long ago the next one was last had differs between users.
- `tastes`: a user has 3 groups, and which one comes next is chance. Here order
  does not matter.

In `NOISE` of the interactions, the group is drawn at random.

    python benchmarks/ordered_data.py bigrams made-up/bigrams

writes them as a `u.data` like MovieLens', for `peers_sasrec.py`.
"""

import argparse
import pathlib

import numpy as np

import keras_dp_retrieval as kdr

KINDS = ("bigrams", "sessions", "periods", "tastes")
NOISE = 0.1


def ordered_data(
    kind,
    seed,
    *,
    num_users=2_000,
    num_groups=20,
    group_size=50,
    length=40,
    **options,
):
    """A `RetrievalDataset`, and the group that each user was to have.

    Args:
        kind: str. One of `KINDS`.
        seed: int. Of all that is drawn.
        num_users: int.
        num_groups: int.
        group_size: int. Candidates of a group.
        length: int. Interactions of a user.
        **options: Of `RetrievalDataset`.

    Returns:
        `(data, groups, candidates)`, by user: the groups that the rule gave,
        before noise, and the candidates, int `(num_users, length)`. Candidate
        `c`, from 1 on, is of group `(c - 1) // group_size`.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    table = rng.integers(num_groups, size=(num_groups, num_groups))
    popularity = (1.0 + np.arange(group_size)) ** -0.7
    popularity = np.array(
        [rng.permutation(popularity) for _ in range(num_groups)]
    )
    groups = np.empty((num_users, length), int)
    candidates = np.empty((num_users, length), int)
    for user in range(num_users):
        left = popularity.copy()
        rule = _rule(kind, rng, table)
        place = np.full(num_groups, -1)  # The latest of each group.
        for index in range(length):
            group, in_order = rule(
                index, candidates[user, :index] // group_size
            )
            groups[user, index] = group
            noise = 0.2 if kind == "sessions" else NOISE
            if rng.random() < noise:
                group, in_order = rng.integers(num_groups), False
            if not left[group].any():
                group = rng.choice(np.flatnonzero(left.any(axis=1)))
            item = _item(rng, left[group], place[group], in_order)
            if in_order:
                place[group] = item
            left[group, item] = 0.0
            candidates[user, index] = group * group_size + item
    users = np.repeat(np.arange(1, num_users + 1), length)
    data = kdr.RetrievalDataset.from_interactions(
        users,
        candidates.reshape(-1) + 1,
        # All users at the same times, so that no test is before a training.
        timestamps=np.tile(np.arange(length), num_users),
        split="leave_last_out",
        **options,
    )
    return data, groups, candidates + 1


def _item(rng, weights, latest, in_order):
    """The next candidate within a group."""
    if in_order and latest >= 0:
        ahead = latest + rng.integers(1, 4)
        if ahead < len(weights) and weights[ahead]:
            return ahead
    return rng.choice(len(weights), p=weights / weights.sum())


def _rule(kind, rng, table):
    """A function of index and groups so far, to group and whether in order."""
    num_groups = len(table)
    interests = rng.permutation(num_groups)
    if kind == "tastes":
        return lambda index, had: (interests[rng.integers(3)], False)
    if kind == "periods":
        period = rng.integers(2, 6)
        return lambda index, had: (interests[index % period], False)
    if kind == "bigrams":

        def by_table(index, had):
            if index < 2:
                return rng.integers(num_groups), False
            return table[had[-1], had[-2]], False

        return by_table
    session = {"left": 0, "group": 0}

    def by_session(index, had):
        if not session["left"]:
            session["left"] = rng.integers(3, 9)
            session["group"] = rng.integers(num_groups)
        session["left"] -= 1
        return session["group"], True

    return by_session


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=2_000)
    args = parser.parse_args()
    _, _, candidates = ordered_data(args.kind, args.seed, num_users=args.users)
    users, times = np.indices(candidates.shape)
    columns = users + 1, candidates, np.ones_like(users), times
    args.folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(
        args.folder / "u.data",
        np.stack([column.reshape(-1) for column in columns], axis=1),
        fmt="%d",
        delimiter="\t",
    )


if __name__ == "__main__":
    main()
