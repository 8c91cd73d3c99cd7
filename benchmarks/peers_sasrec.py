"""How good is SASRec, a sequential peer, under protocol P2?

SASRec (Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018)
as RecTools implements it, on MovieLens 100K with the last interaction of each
user held out: see the README of this folder for the protocol. RecTools wants
PyTorch and an older NumPy, so this file runs in an environment of its own and
imports nothing of ours:

    python -m venv sasrec && sasrec/bin/pip install torch "rectools[torch]"
    sasrec/bin/python benchmarks/peers_sasrec.py --data-dir data
    sasrec/bin/python benchmarks/peers_sasrec.py --data-dir data --part test

`--part validation` trains every setting of `GRID` without the last two
interactions of each user and scores the last but one, every few epochs.
`--part test` trains `CHOSEN`, and nothing else, without the last interaction
and scores that.

`--data-dir` may also be a folder that `ordered_data.py` has written: the same,
on made-up data in which order matters.
"""

import argparse
import json
import logging
import os
import platform
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning
import rectools
import torch
from movielens_folder import add_data_dir, ml_100k
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

K = 10

# Around the defaults of RecTools and of the paper. `temperature` is for
# cosines instead of dot products, as our own towers use them.
GRID = {
    "base": {},
    "cosine": {"temperature": 0.1},
    "lr.001": {"lr": 1e-3},
    "dim128": {"n_factors": 128},
    "one_block": {"n_blocks": 1},
    "dropout.5": {"dropout_rate": 0.5},
    "window50": {"session_max_len": 50},
    "cosine_drop.1": {"temperature": 0.1, "dropout_rate": 0.1},
    "drop.1_batch8": {
        "temperature": 0.1,
        "dropout_rate": 0.1,
        "batch_size": 8,
    },
    "drop.1_lr.001": {"temperature": 0.1, "dropout_rate": 0.1, "lr": 1e-3},
}
COMMON = {
    "n_factors": 64,
    "n_blocks": 2,
    "n_heads": 2,
    "dropout_rate": 0.3,
    "session_max_len": 100,
    "loss": "softmax",
    "lr": 3e-3,
    "batch_size": 32,
}

# What `--part test` trains, for how many epochs: the best NDCG@10 on validation
# of all of `GRID`, up to 25 epochs.
CHOSEN = ("cosine", 25)


def read_in_order(data_dir):
    """All interactions, by user and time; those of one time by file row."""
    table = pd.read_csv(
        ml_100k(data_dir) / "u.data",
        sep="\t",
        names=["user_id", "item_id", "weight", "datetime"],
    )
    table = table.sort_values(["user_id", "datetime"], kind="stable")
    table["weight"] = 1.0  # Every rating is an interaction.
    # RecTools sorts by time again: now no two of a user's are of one time.
    number = table.groupby("user_id").cumcount()
    table["datetime"] = pd.Timestamp("2000-01-01") + pd.to_timedelta(
        number, "s"
    )
    return table.reset_index(drop=True)


def hold_out(table, part):
    """Returns `(known, targets)`: the targets as a Series by user."""
    from_end = table.groupby("user_id").cumcount(ascending=False)
    index = {"test": 0, "validation": 1}[part]
    targets = table[from_end == index].set_index("user_id")["item_id"]
    return table[from_end > index], targets


class WithoutPadding(TransformerLightningModule):
    """RecTools' softmax loss, without the work for padding.

    The same number: RecTools computes the logits of padded positions and then
    gives them no weight. On a CPU that takes two to three times as long.
    """

    def get_batch_logits(self, batch):
        model = self.torch_model
        items = model.item_model.get_all_embeddings()
        sessions = model.encode_sessions(batch, items)[batch["y"] != 0]
        return model.similarity_module(sessions, items) / self.logits_t

    @classmethod
    def _calc_softmax_loss(cls, logits, y, w):
        return torch.nn.functional.cross_entropy(logits, y[y != 0])


def make_model(setting):
    options = {**COMMON, **setting}
    temperature = options.pop("temperature", None)
    if temperature is not None:
        options["similarity_module_kwargs"] = {"distance": "cosine"}
        options["lightning_module_kwargs"] = {"logits_t": temperature}
    return SASRecModel(
        **options, deterministic=True, lightning_module_type=WithoutPadding
    )


def score(model, dataset, targets):
    """HR@10 and NDCG@10 over the full catalogue, without known items."""
    lists = model.recommend(
        users=targets.index.to_numpy(), dataset=dataset, k=K, filter_viewed=True
    )
    hits = lists[lists["item_id"] == lists["user_id"].map(targets)]
    # One target a user: the ideal list has it first, with a gain of 1.
    gains = 1 / np.log2(hits["rank"].to_numpy() + 1)
    return {
        "hit_rate_at_10": len(hits) / len(targets),
        "ndcg_at_10": float(gains.sum() / len(targets)),
    }


def learning_curve(setting, table, part, epochs, every, seed):
    """Trains one model and yields its figures every few epochs."""
    known, targets = hold_out(table, part)
    dataset = Dataset.construct(known)
    pytorch_lightning.seed_everything(seed)
    model = make_model(setting)
    seconds, done = 0.0, 0
    while done < epochs:
        step = min(every, epochs - done)
        start = time.process_time()
        model.fit_partial(dataset, min_epochs=step, max_epochs=step)
        seconds += time.process_time() - start
        done += step
        found = score(model, dataset, targets)
        yield {"epochs": done, "cpu_seconds": round(seconds, 1), **found}


def report(name, found):
    print(
        f"{name:16s} {found['epochs']:6d} {found['hit_rate_at_10']:8.4f} "
        f"{found['ndcg_at_10']:8.4f} {found['cpu_seconds']:8.1f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data_dir(parser)
    parser.add_argument(
        "--part", choices=["validation", "test"], default="validation"
    )
    parser.add_argument("--settings", nargs="+", choices=GRID, default=None)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    table = read_in_order(args.data_dir)
    print("setting          epochs    HR@10  NDCG@10    CPU s")
    results = {}
    if args.part == "test":
        name, epochs = CHOSEN
        # Scored once, at the end.
        curve = learning_curve(
            GRID[name], table, "test", epochs, epochs, args.seed
        )
        results[name] = list(curve)
        report(name, results[name][0])
    else:
        for name in args.settings or GRID:
            results[name] = []
            for found in learning_curve(
                GRID[name],
                table,
                "validation",
                args.epochs,
                args.every,
                args.seed,
            ):
                results[name].append(found)
                report(name, found)
    print(
        json.dumps(
            {
                "benchmark": "sasrec",
                "part": args.part,
                "common": COMMON,
                "settings": {name: GRID[name] for name in results},
                "results": results,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
                f"{args.threads} used",
                "python": platform.python_version(),
                "torch": torch.__version__,
                "rectools": rectools.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
