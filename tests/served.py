"""Models to serve, and a client that asks an application in its process."""

import asyncio

import httpx
import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval.serving.app import create_app
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.serving.served_model import ServedModel
from keras_dp_retrieval.serving.service import Service

# Few shapes, so that tests compile little: batches of 1 and 4 users.
SMALL = Limits(k=5, users=4, history=16)

WORDS = "alien baker café delta echo fargo gravity heat".split()


def model_of(kind="history", seed=0):
    """A small model of twelve users and thirty candidates.

    Args:
        kind: str. `"history"` stores histories, `"ids"` knows ids alone,
            `"features"` has features and histories, `"names"` has strings
            for ids, and `"brought"` takes histories and stores none.
        seed: int. Seeds the weights.
    """
    keras.utils.set_random_seed(seed)
    data = _data(as_text=kind == "names", features=kind == "features")
    num = data.num_users, data.num_candidates
    towers = {
        "history": lambda: kdr.IdHistoryTower(*num, 8, stddev=1.0),
        "names": lambda: kdr.IdHistoryTower(*num, 8, stddev=1.0),
        "brought": lambda: kdr.RecencyTower(num[1], 8, max_length=20),
        "features": lambda: kdr.FeatureTower(
            data.user_features, 8, history=kdr.IdHistoryTower(*num, 8)
        ),
    }
    options = {"user_tower": towers[kind]()} if kind in towers else {}
    model = kdr.TwoTowerRetrieval.for_dataset(
        data, 8, objective="full_softmax", **options
    )
    model.build()
    for variable in model.trainable_variables:  # No two scores are equal.
        variable.assign(keras.random.normal(variable.shape))
    if kind == "brought":
        model.histories = None
    model.candidate_counts.assign(np.arange(model.num_candidates) % 7)
    ids = model.candidate_vocabulary.ids.tolist()
    model.candidate_titles = {
        one: f"{WORDS[n % 8].title()} {n // 8 + 1}" for n, one in enumerate(ids)
    }
    return model


def _data(as_text, features):
    pairs = [(u, (u * n) % 30) for u in range(12) for n in range(1, 9)]
    users, items = map(np.array, zip(*pairs, strict=True))
    users, items = users + 100, items + 1000
    if as_text:
        users, items = (
            np.char.add("id ", a.astype(str)) for a in (users, items)
        )
    tables = {}
    if features:
        known = np.unique(users)
        tables["user_features"] = {
            "user_id": known,
            "country": ["GB", "SE"] * 6,
            "likes": ["a|b", "b|c|d"] * 6,
        }
        tables["candidate_features"] = {
            "item_id": 1000 + np.arange(30),
            "kind": ["book", "film", "song"] * 10,
            "year": 1990 + np.arange(30),
        }
    return kdr.RetrievalDataset.from_interactions(
        user_ids=users,
        candidate_ids=items,
        test_fraction=0,
        validation_fraction=0,
        **tables,
    )


class Client:
    """Asks an application, in this process.

    Args:
        model: `TwoTowerRetrieval`, or a path of a file of one.
        limits: Optional `Limits`.
        token: Optional str.
        warm: bool. Whether to compile everything first.
        search: As in `ServedModel.of`.
    """

    def __init__(
        self, model, limits=SMALL, token=None, warm=False, search="exact"
    ):
        if isinstance(model, keras.Model):
            path, served = None, ServedModel.of(model, limits, "test", search)
        else:
            path, served = model, ServedModel.load(model, limits)
        self.service = Service(served, limits, path)
        if warm:
            self.service.warm_up()
        self.service.is_ready = True
        self.app = create_app(self.service, token)

    def get(self, path, **options):
        return self.all([("GET", path, options)])[0]

    def post(self, path, json=None, **options):
        return self.all([("POST", path, {"json": json, **options})])[0]

    def all(self, requests):
        """The answers to requests that come at one time."""

        async def ask():
            async with self.asynchronous() as client:
                return await asyncio.gather(
                    *(
                        client.request(method, path, **options)
                        for method, path, options in requests
                    )
                )

        return asyncio.run(ask())

    def asynchronous(self):
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test")


def lists(response):
    """`(ids, scores)` of each user."""
    assert response.status_code == 200, response.text
    return [
        (
            [one["id"] for one in result["candidates"]],
            [one["score"] for one in result["candidates"]],
        )
        for result in response.json()["results"]
    ]
