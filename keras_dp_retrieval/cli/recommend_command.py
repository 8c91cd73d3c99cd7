"""`recommend`: the best candidates for users, by a saved model."""

from collections.abc import Iterator

import numpy as np

from keras_dp_retrieval.cli import inputs, list_files, printing
from keras_dp_retrieval.cli.data_arguments import add_json, check_exists
from keras_dp_retrieval.model import id_rows

HELP = "recommend by a saved model"

EXAMPLES = {
    "model.keras ann bob -k 5": "two users",
    "model.keras --history tea jam": "somebody new, by what they had",
    "model.keras --users users.csv --output lists.parquet": "many users",
}

COMPILES = True

# Users and candidates at a time, whose lists are in the memory.
_MOST_USERS = 2**14
_MOST_CANDIDATES = 2**20


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    parser.add_argument(
        "user_ids",
        nargs="*",
        help="ids of users; one of whom the model knows nothing gets what is "
        "popular",
    )
    parser.add_argument(
        "--history",
        nargs="+",
        metavar="ID",
        help="instead, what somebody new had, oldest first: ids of candidates; "
        "unknown ones are skipped",
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
    parser.add_argument(
        "-k", type=int, default=10, help="how many each gets; 10 by default"
    )
    parser.add_argument(
        "--output",
        dest="lists",
        metavar="FILE",
        help="write the lists to a .parquet, .csv or .jsonl file: user_id, "
        "rank, candidate_id, title, score, source",
    )
    add_json(parser)


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
    if args.json and args.lists is not None:
        raise ValueError(
            "`--json` prints the lists, and `--output` writes them. Received "
            "both. Leave one out."
        )
    check_exists("--users", args.users)


def run(args) -> int:
    model = inputs.load_model(args.model)
    lists = _lists(model, args)
    if args.json:
        _print_json(model, lists, args.json_output)
    elif args.lists is None:
        _print(model, lists)
    else:
        num_users, num_rows = list_files.write(args.lists, model, lists)
        print(
            f"Wrote {args.lists}: {num_rows:,} candidates for {num_users:,} "
            f"{'user' if num_users == 1 else 'users'}."
        )
    return 0


def _lists(model, args) -> Iterator[tuple]:
    """Yields `(users, candidate ids, scores, sources)`, some at a time.

    Users are ids `(batch,)`, or None for somebody new.
    """
    if args.history:
        vocabulary = model.candidate_vocabulary
        history = _as_ids(args.history, vocabulary, "candidate")
        found = _recommended(model, args.k, histories=[history])
        _say_skipped(history, model)
        yield (None, *found)
        return
    given = args.user_ids
    if args.users:
        given = inputs.read_users(args.users, args.user_column)
    users = _as_ids(given, model.user_vocabulary, "user")
    if args.users:
        users = _each_once(users)
    _say_unknown(users, model)
    size = min(max(_MOST_CANDIDATES // args.k, 1), _MOST_USERS)
    for start in range(0, len(users), size):
        part = users[start : start + size]
        yield (part, *_recommended(model, args.k, part))


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


def _recommended(model, k, users=None, histories=None) -> tuple:
    """`(candidate ids, scores, sources)` of users or of a history."""
    ids, scores, info = model.recommend(
        users, k=k, histories=histories, unknown="popular", return_info=True
    )
    return ids, scores, info["source"]


def _say_unknown(users: np.ndarray, model):
    """Says in a line who gets what is popular, before any list is made."""
    _, is_known = id_rows.known_user_rows(model, users)
    unknown = users[~is_known]
    if len(unknown):
        print(
            f"Note: {len(unknown):,} of {len(users):,} users are not known to "
            f"the model and get what is popular: {_named(unknown)}."
        )


def _say_skipped(history: np.ndarray, model):
    """Says in a line what of a history counts for nothing."""
    is_known = id_rows.known_candidates(model, history)
    unknown = history[~is_known]
    if len(unknown):
        instead = "" if is_known.any() else "; the list is what is popular"
        print(
            f"Note: {len(unknown):,} of {len(history):,} ids of the history "
            "are not known to the model, and skipped: "
            f"{_named(unknown)}{instead}."
        )


def _named(ids: np.ndarray) -> str:
    """The first ten of ids, and how many more."""
    more = f" and {len(ids) - 10:,} more" if len(ids) > 10 else ""
    return ", ".join(map(repr, ids[:10].tolist())) + more


def _print(model, lists):
    for users, ids, scores, _ in lists:
        names = ["this history"] if users is None else users.tolist()
        for name, of_user, their_scores in zip(names, ids, scores, strict=True):
            who = name if users is None else f"user {name}"
            printing.print_list(model, who, of_user, their_scores)


def _print_json(model, lists, output):
    """A line for each user, or for the history, whose `user_id` is null."""
    for users, ids, scores, sources in lists:
        names = [None] * len(ids) if users is None else users.tolist()
        for name, of_user, their_scores, source in zip(
            names, ids, scores, sources, strict=True
        ):
            found = np.isfinite(their_scores)
            candidates = [
                {
                    "candidate_id": one,
                    "title": model.candidate_titles.get(one),
                    "score": score,
                }
                for one, score in zip(
                    of_user[found].tolist(),
                    their_scores[found].tolist(),
                    strict=True,
                )
            ]
            line = {"user_id": name, "source": str(source)}
            printing.print_json({**line, "candidates": candidates}, output)
