"""Peers that learn from features: LightFM, and RecTools' DSSM.

Both want environments of their own, so this file imports nothing of ours and
is given arrays; `bench_features.py` runs it:

    python -m venv lightfm && lightfm/bin/pip install lightfm-next scipy
    python -m venv dssm && dssm/bin/pip install torch "rectools[torch]"
    lightfm/bin/python benchmarks/peers_hybrid.py lightfm IN.npz OUT.npz

`IN.npz` has `num_users`, `num_candidates`; `train`, int `(n, 2)`, rows of users
and candidates; `user_features` and `candidate_features`, 0 or 1, a row a user
or candidate; `asked`, int `(a,)`, the users to be scored; and `histories`, 0 or
1, `(h, a, num_candidates)`, what each has had, `h` times anew. `are_new` says
whether that is not in `train`. `OUT.npz` has `scores`, `(h, a,
num_candidates)`.
"""

import argparse
import json
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.sparse


def with_ids(features, use_ids: bool) -> scipy.sparse.csr_matrix:
    """Features, beside a column for each row; rows sum to 1 as LightFM does."""
    blocks = [scipy.sparse.csr_matrix(features, dtype="float32")]
    if use_ids:
        blocks.append(scipy.sparse.identity(len(features), dtype="float32"))
    stacked = scipy.sparse.hstack(blocks).tocsr()
    sums = np.maximum(np.asarray(stacked.sum(axis=1)).ravel(), 1)
    return (scipy.sparse.diags(1 / sums) @ stacked).tocsr().astype("float32")


def lightfm(
    arrays,
    seed,
    *,
    dim=64,
    learning_rate=0.05,
    alpha=0.0,
    epochs=30,
    ids=("user", "candidate"),
):
    """WARP loss, Adagrad. Kula, Metadata embeddings for user and item
    cold-start recommendations, 2015.

    A user's new interactions are trained on as all others: there is no other
    way to give them.
    """
    from lightfm import LightFM

    shape = int(arrays["num_users"]), int(arrays["num_candidates"])
    users = with_ids(arrays["user_features"], "user" in ids)
    candidates = with_ids(arrays["candidate_features"], "candidate" in ids)
    for histories in arrays["histories"]:
        pairs = arrays["train"]
        if arrays["are_new"]:
            asked, rows = np.nonzero(histories)
            new = np.stack([arrays["asked"][asked], rows], axis=1)
            pairs = np.concatenate([pairs, new])
        matrix = scipy.sparse.coo_matrix(
            (np.ones(len(pairs), "float32"), pairs.T.copy()), shape=shape
        )
        model = LightFM(
            no_components=dim,
            loss="warp",
            learning_rate=learning_rate,
            item_alpha=alpha,
            user_alpha=alpha,
            random_state=seed,
        )
        model.fit(
            matrix,
            user_features=users,
            item_features=candidates,
            epochs=epochs,
            num_threads=1,
        )
        _, of_users = model.get_user_representations(users)
        biases, of_candidates = model.get_item_representations(candidates)
        yield of_users[arrays["asked"]] @ of_candidates.T + biases


def dssm(
    arrays, seed, *, dim=128, lr=0.01, margin=0.4, epochs=200, use_ids=False
):
    """Two networks of features and history, triplet loss, as RecTools has it.

    Huang et al., Learning deep structured semantic models for web search using
    clickthrough data, CIKM 2013. Networks, optimizer and loss are RecTools';
    an epoch has, as its data set has, one of each user's candidates and any
    other, drawn here without sparse rows, which is quicker.
    """
    import torch
    from rectools.models.nn.dssm import DSSM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    num_users, num_candidates = (
        int(arrays[name]) for name in ("num_users", "num_candidates")
    )
    seen = np.zeros((num_users, num_candidates), "float32")
    seen[tuple(arrays["train"].T)] = 1
    candidates = arrays["candidate_features"].astype("float32")
    if use_ids:
        ids = np.eye(num_candidates, dtype="float32")
        candidates = np.concatenate([candidates, ids], axis=1)
    candidates = torch.from_numpy(candidates)
    users = torch.from_numpy(arrays["user_features"].astype("float32"))
    # Candidates that training has not are no negatives.
    hot = np.flatnonzero(seen.any(axis=0))
    trained = np.flatnonzero(seen.any(axis=1))
    had = {user: np.flatnonzero(seen[user]) for user in trained}
    known = torch.from_numpy(seen[:, hot])
    model = DSSM(
        dim,
        dim,
        users.shape[1],
        candidates.shape[1],
        len(hot),
        lr=lr,
        triplet_loss_margin=margin,
    )
    optimizer = model.configure_optimizers()
    for _ in range(epochs):
        rows = rng.permutation(trained)
        for start in range(0, len(rows), 128):
            batch = rows[start : start + 128]
            found = model(
                candidates[[rng.choice(had[user]) for user in batch]],
                candidates[rng.choice(hot, len(batch))],
                users[batch],
                known[batch],
            )
            loss = torch.nn.functional.triplet_margin_loss(
                *found, margin=margin
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        of_candidates = model.item_net(candidates)
        for histories in arrays["histories"]:
            asked = model.user_net(
                users[arrays["asked"]],
                torch.from_numpy(histories[:, hot].astype("float32")),
            )
            yield -torch.cdist(asked, of_candidates).numpy()


PEERS = {"lightfm": lightfm, "dssm": dssm}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--setting", type=json.loads, default={})
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    with np.load(args.input) as file:
        arrays = dict(file)
    scores = PEERS[args.peer](arrays, args.seed, **args.setting)
    np.savez(args.output, scores=np.asarray(list(scores), "float32"))


if __name__ == "__main__":
    main()
