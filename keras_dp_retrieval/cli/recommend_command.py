"""`recommend`: the best candidates for users, by a saved model."""

from keras_dp_retrieval.cli import inputs, printing

HELP = "use a saved model"


def add_arguments(parser):
    parser.add_argument("model", help="a file that `train` saved")
    parser.add_argument("user_ids", nargs="+", help="ids of known users")
    parser.add_argument("-k", type=int, default=10)


def run(args) -> int:
    model = inputs.load_model(args.model)
    vocabulary = model.user_vocabulary
    users = args.user_ids
    if vocabulary is None or vocabulary.ids.dtype.kind in "iu":
        users = [_whole_number(user) for user in users]
    ids, scores = model.recommend(users, k=args.k)
    for user, user_ids, user_scores in zip(users, ids, scores, strict=True):
        printing.print_list(model, user, user_ids, user_scores)
    return 0


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"This model's user ids are whole numbers. Received: {text!r}."
        ) from None
