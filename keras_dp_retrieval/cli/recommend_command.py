"""`recommend`: the best candidates for users, by a saved model."""

from collections.abc import Iterator

import numpy as np

from keras_dp_retrieval.cli import inputs, list_files, printing
from keras_dp_retrieval.cli.data_arguments import check_exists

HELP = "use a saved model"

# Users and candidates at a time, whose lists are in the memory.
_MOST_USERS = 2**14
_MOST_CANDIDATES = 2**20


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    parser.add_argument("user_ids", nargs="*", help="ids of known users")
    parser.add_argument(
        "--history",
        nargs="+",
        metavar="ID",
        help="instead, what somebody new had, oldest first: ids of candidates",
    )
    parser.add_argument(
        "--users",
        metavar="FILE",
        help="instead, a file of users: one id a line, or a CSV or Parquet "
        "file with a column of them; each gets one list",
    )
    parser.add_argument(
        "--user-column",
        metavar="NAME",
        help="which column that is; found by its name (user_id, userId, ...)",
    )
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument(
        "--output",
        dest="lists",
        metavar="FILE",
        help="write the lists to a .parquet, .csv or .jsonl file: user_id, "
        "rank, candidate_id, title, score",
    )


def check(args) -> None:
    asked = {
        "user ids": args.user_ids,
        "`--history`": args.history,
        "`--users`": args.users,
    }
    given = [name for name, value in asked.items() if value]
    if len(given) != 1:
        raise ValueError(
            "Ask for user ids, `--history` or `--users`. Received: "
            f"{' and '.join(given) or 'none of them'}."
        )
    if args.user_column is not None and args.users is None:
        raise ValueError(
            "`--user-column` must come with `--users FILE`. Received: "
            f"--user-column {args.user_column} alone."
        )
    check_exists("--users", args.users)


def run(args) -> int:
    model = inputs.load_model(args.model)
    lists = _lists(model, args)
    if args.lists is None:
        _print(model, lists)
    else:
        num_users, num_rows = list_files.write(args.lists, model, lists)
        print(
            f"Wrote {args.lists}: {num_rows:,} candidates for {num_users:,} "
            f"{'user' if num_users == 1 else 'users'}."
        )
    return 0


def _lists(model, args) -> Iterator[tuple]:
    """Yields `(users, candidate ids, scores)`, some users at a time.

    Users are ids `(batch,)`, or None for somebody new.
    """
    if args.history:
        vocabulary = model.candidate_vocabulary
        history = _as_ids(args.history, vocabulary, "candidate")
        yield (None, *model.recommend(histories=[history], k=args.k))
        return
    given = args.user_ids
    if args.users:
        given = inputs.read_users(args.users, args.user_column)
    users = _as_ids(given, model.user_vocabulary, "user")
    if args.users:
        users = _each_once(users)
    _check_known(users, model)
    size = min(max(_MOST_CANDIDATES // args.k, 1), _MOST_USERS)
    for start in range(0, len(users), size):
        part = users[start : start + size]
        yield (part, *model.recommend(part, k=args.k))


def _as_ids(given, vocabulary, role: str) -> np.ndarray:
    """Ids as the model has them: whole numbers or strings."""
    given = np.asarray(given)
    if vocabulary is not None and vocabulary.ids.dtype.kind == "U":
        return given.astype(str)
    if given.dtype.kind == "i":
        return given
    return np.array([_whole_number(text, role) for text in given.tolist()])


def _whole_number(text: str, role: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"This model's {role} ids are whole numbers. Received: {text!r}."
        ) from None


def _each_once(users: np.ndarray) -> np.ndarray:
    """The users in their order; says how many were repeated."""
    _, first = np.unique(users, return_index=True)
    num_repeated = len(users) - len(first)
    if num_repeated:
        print(f"Note: {num_repeated:,} repeated ids get no list of their own.")
    return users[np.sort(first)]


def _check_known(users: np.ndarray, model):
    """Raises one error that names the unknown, before any list is made."""
    vocabulary = model.user_vocabulary
    if vocabulary is None:
        return  # Then ids are rows, and the model checks those.
    unknown = users[vocabulary.rows(users) == 0]
    if len(unknown):
        named = ", ".join(map(repr, unknown[:10].tolist()))
        more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
        raise ValueError(
            "Users must be known to the model. Received "
            f"{len(unknown):,} of {len(users):,} that are not: {named}{more}. "
            f"It knows {len(vocabulary.ids):,} users, such as "
            f"{vocabulary.ids[0].item()!r}. Ask for somebody new with "
            "`--history`, the candidates they had."
        )


def _print(model, lists):
    for users, ids, scores in lists:
        names = ["this history"] if users is None else users.tolist()
        for name, of_user, their_scores in zip(names, ids, scores, strict=True):
            who = name if users is None else f"user {name}"
            printing.print_list(model, who, of_user, their_scores)
