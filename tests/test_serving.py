"""The server's answers: those of `recommend`, whoever else asks."""

import asyncio
import dataclasses
import itertools
import logging

import numpy as np
import pytest

from keras_dp_retrieval.serving import guard, shapes
from keras_dp_retrieval.serving.batching import Batcher
from keras_dp_retrieval.serving.questions import Question
from keras_dp_retrieval.serving.request_limits import Limits
from keras_dp_retrieval.serving.retriever import Retriever
from tests.served import SMALL, Client, lists, model_of


@pytest.fixture(scope="module")
def model():
    return model_of("history")


@pytest.fixture(scope="module")
def client(model):
    client = Client(model, warm=True)
    yield client
    client.service.close()


def check_as_recommend(response, model, **asked):
    """The lists are those of `recommend`, without its padding."""
    ids, scores, info = model.recommend(
        **asked, unknown="popular", return_info=True
    )
    results = response.json()["results"]
    for n, (found, their_scores) in enumerate(lists(response)):
        there = np.isfinite(scores[n])
        assert found == ids[n][there].tolist()
        np.testing.assert_allclose(their_scores, scores[n][there], rtol=1e-5)
        assert results[n]["source"] == info["source"][n]
        assert results[n]["num_unknown"] == info["num_unknown"][n]
    assert len(results) == len(ids)


ASKED = [
    {"user_ids": [100, 103, 111], "k": 5},
    {"user_ids": [104], "k": 3, "exclude_seen": False},
    {"user_ids": [104, 999], "k": 4},
    {"user_ids": [999], "k": 4, "exclude": [[1001, 5]]},
    {"histories": [[1001, 1002], [1004], []], "k": 5},
    {"histories": [[1001, 77], [77]], "k": 2},
    {"user_ids": [999, 100], "histories": [[1001], [1002]], "k": 3},
    {"user_ids": [100], "exclude": [[1001, 1007, 1009]], "k": 5},
    {"user_ids": [100, 101], "allowed_ids": [1001, 1003, 1020, 5], "k": 5},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_answers_are_those_of_recommend(client, model, asked):
    check_as_recommend(client.post("/recommend", asked), model, **asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("ids", {"user_ids": [100, 999], "k": 5}),
        ("names", {"user_ids": ["id 100", "nobody"], "k": 5}),
        ("names", {"histories": [["id 1001", "?"]], "k": 5}),
        ("brought", {"histories": [[1001, 1002]], "k": 5}),
        ("brought", {"user_ids": [100], "histories": [[1001, 1002]], "k": 5}),
        ("features", {"user_ids": [100], "k": 5}),
        (
            "features",
            {
                "user_features": {
                    "country": ["SE", None],
                    "likes": ["a|d", "b|c"],
                },
                "k": 5,
            },
        ),
        (
            "features",
            {
                "histories": [[1001]],
                "user_features": {"country": ["GB"], "likes": [None]},
                "filters": {"kind": ["book", "song"], "year": [1995, None]},
                "k": 5,
            },
        ),
    ],
    ids=str,
)
def test_every_kind_of_model_is_served(kind, asked):
    model = model_of(kind)
    client = Client(model)
    check_as_recommend(client.post("/recommend", asked), model, **asked)
    client.service.close()


@pytest.mark.slow
def test_faiss_finds_the_same(model):
    pytest.importorskip("faiss")
    client = Client(model, search="flat")
    for asked in ASKED:
        check_as_recommend(client.post("/recommend", asked), model, **asked)
    client.service.close()


def test_requests_that_come_together_get_their_own_answers(client, model):
    asked = [
        {"user_ids": [100 + n % 12], "k": 1 + n % 5, "explain": n % 2}
        for n in range(20)
    ] + [{"histories": [[1000 + n]], "k": 2} for n in range(6)]
    batches = client.service.metrics.batch_users
    before = batches._sum.get(), sum(one.get() for one in batches._buckets)
    answers = client.all(
        [("POST", "/recommend", {"json": one}) for one in asked]
    )
    for one, answer in zip(asked, answers, strict=True):
        named = answer.json()["results"][0]["candidates"][0].get("because")
        assert (named is not None) == bool(one.pop("explain", 0))
        check_as_recommend(answer, model, **one)
    users = batches._sum.get() - before[0]
    assert users == 26
    assert sum(one.get() for one in batches._buckets) - before[1] < 26


def test_a_batch_waits_for_those_of_the_last_one():
    sizes = []

    def ask(questions):
        sizes.append(len(questions))
        return questions

    # Each batch takes a thousand seconds by this clock, so that the next may
    # wait for longer than this test takes.
    clock = itertools.count(step=1000).__next__
    batcher = Batcher(ask, 8, patience_seconds=100, clock=clock)
    batcher._last_users, batcher._last_seconds = 4, 1000

    async def four():
        asking = [
            asyncio.create_task(batcher.ask(Question(user_ids=[n])))
            for n in range(4)
        ]
        return [(await one).user_ids for one in asking]

    for _ in range(5):
        assert asyncio.run(four()) == [[0], [1], [2], [3]]
    assert sizes == [4] * 5
    batcher.close()


def test_one_wrong_request_does_not_fail_those_beside_it():
    asked = []

    def ask(questions):
        asked.append(len(questions))
        users = [question.user_ids[0] for question in questions]
        if 13 in users:
            raise ValueError("no such user")
        return users

    clock = itertools.count(step=1000).__next__
    batcher = Batcher(ask, 8, patience_seconds=100, clock=clock)
    batcher._last_users, batcher._last_seconds = 4, 1000

    async def ask_all():
        asking = [batcher.ask(Question(user_ids=[n])) for n in (1, 13, 2, 3)]
        return await asyncio.gather(*asking, return_exceptions=True)

    one, error, two, three = asyncio.run(ask_all())
    assert (one, two, three) == (1, 2, 3)
    assert str(error) == "no such user"
    assert asked == [4, 1, 1, 1, 1]
    batcher.close()


def test_nothing_is_compiled_after_the_warm_up(client, model):
    client.service.metrics.compile_seconds.set(0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        number = int(rng.integers(1, 5))
        users = {"user_ids": rng.integers(95, 112, number).tolist()}
        if rng.random() < 0.6:
            lengths = rng.integers(0, 17, number)
            users["histories"] = [
                rng.integers(995, 1030, length).tolist() for length in lengths
            ]
        if rng.random() < 0.3:
            del users["user_ids"]
            users.setdefault("histories", [[]] * number)
        asked = {
            **users,
            "k": int(rng.integers(1, 6)),
            "explain": int(rng.integers(3)),
            "exclude": [rng.integers(1000, 1030, 9).tolist()] * number,
        }
        assert client.post("/recommend", asked).status_code == 200
        assert client.post("/encode", users).status_code == 200
    assert client.get("/candidates/1001").status_code == 200
    assert client.service.metrics.compile_seconds._value.get() == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "brought", "ids"])
def test_nothing_is_compiled_in_models_of_other_kinds(kind):
    client = Client(model_of(kind), warm=True)
    rng = np.random.default_rng(0)
    client.service.metrics.compile_seconds.set(0)
    for n in range(12):
        number = 1 + n % 4
        asked = {"user_ids": rng.integers(95, 112, number).tolist(), "k": 3}
        if kind != "ids" and n % 3:
            asked["histories"] = [[1001] * n] * number
        if kind == "features" and n % 2:
            asked["user_features"] = {
                "country": ["GB"] * number,
                "likes": ["|".join("abcd"[: n % 5])] * number,
            }
            asked["filters"] = {"kind": ["book", "song", "no"][: n % 3 + 1]}
        response = client.post("/recommend", asked)
        assert response.status_code == 200, response.text
    assert client.service.metrics.compile_seconds._value.get() == 0
    client.service.close()


def test_compilations_are_noticed(client):
    # What the tests above rest on: a shape that the warm-up has not met.
    before = client.service.metrics.compile_seconds._value.get()
    question = Question(user_ids=[100], k=3, exclude=[[1001] * 40])
    retriever = client.service.served.retriever
    widths = retriever._excluded_widths
    retriever._excluded_widths = [*widths, 128]
    asyncio.run(client.service.ask(question))
    retriever._excluded_widths = widths
    assert client.service.metrics.compile_seconds._value.get() > before


def test_shapes_are_few_and_hold_everything():
    assert shapes.batch_sizes(64) == [1, 4, 8, 16, 32, 64]
    assert shapes.batch_sizes(20) == [1, 4, 8, 16, 20]
    assert shapes.batch_sizes(2) == [1, 2] and shapes.batch_sizes(1) == [1]
    assert shapes.widths(1024) == [32, 256, 1024]
    assert shapes.widths(20) == [32]
    assert shapes.excluded_widths(2000) == [256, 2048]
    assert shapes.list_lengths(100) == [16, 100]
    for number in range(1, 101):
        assert shapes.smallest(shapes.batch_sizes(100), number) >= number


def test_vectors_are_those_of_encode_users(client, model):
    response = client.post("/encode", {"user_ids": [100, 999, 105]})
    results = response.json()["results"]
    assert results[1] == {"source": "popular", "num_unknown": 1, "vector": None}
    np.testing.assert_allclose(
        [results[0]["vector"], results[2]["vector"]],
        model.encode_users([100, 105]),
        rtol=1e-5,
        atol=1e-6,
    )


def test_reasons_are_the_items_that_are_most_alike(client, model):
    history = [1003, 1008, 1015, 1020]
    asked = {"histories": [history], "k": 3, "explain": 2}
    (result,) = client.post("/recommend", asked).json()["results"]
    vectors = model.encode_candidates(history)
    for one in result["candidates"]:
        mine = model.encode_candidates([one["id"]])[0]
        cosines = vectors @ mine
        cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(mine)
        best = np.argsort(-cosines)[:2]
        assert [r["id"] for r in one["because"]] == [history[n] for n in best]
        np.testing.assert_allclose(
            [r["likeness"] for r in one["because"]], cosines[best], rtol=1e-5
        )
        assert (
            one["because"][0]["title"]
            == model.candidate_titles[history[best[0]]]
        )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Ask for `user_ids`"),
        ({"user_ids": []}, "user_ids: List should have at least 1"),
        ({"user_ids": ["ann"]}, "whole numbers"),
        ({"user_ids": [True]}, "user_ids"),
        ({"user_ids": [1.5]}, "user_ids"),
        ({"user_ids": [2**63]}, "user_ids"),
        ({"user_ids": [100], "k": 0}, "k: Input should be greater"),
        ({"user_ids": [100], "k": 6}, "K: 5 at most, not 6"),
        ({"user_ids": [100], "k": "3"}, "k: Input should be a valid integer"),
        ({"user_ids": [100] * 5}, "Users: 4 at most, not 5"),
        ({"histories": [[1001] * 17]}, "16 at most, not 17"),
        ({"histories": [["a"]]}, "whole numbers"),
        ({"histories": [1001]}, "histories.0"),
        ({"user_ids": [100], "exclude": []}, "one length"),
        ({"user_ids": [100], "histories": [[], []]}, "one length"),
        ({"user_ids": [100], "spam": 1}, "spam: Extra inputs"),
        ({"user_features": {"age": [3]}}, "takes no `user_features`"),
        ({"user_ids": [100], "filters": {"a": 1}}, "for `filters`"),
        ({"user_features": {}}, "Ask for `user_ids`"),
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
    ],
    ids=str,
)
def test_a_malformed_request_is_told_what_is_wrong(client, body, said):
    response = client.post("/recommend", body)
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "invalid" and said in error["message"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"k": 1e999}', b"\xff", b"nan"]
)
def test_a_body_that_is_no_json_is_refused(client, content):
    response = client.post(
        "/recommend",
        content=content,
        headers={"content-type": "application/json"},
    )
    assert response.status_code in (400, 422)
    assert set(response.json()["error"]) == {"code", "message"}


def limited(model, **limits):
    return Client(model, dataclasses.replace(SMALL, **limits))


def test_a_large_body_is_refused_however_it_comes(model):
    client = limited(model, body_bytes=100)

    async def pieces():
        for _ in range(50):
            yield b" " * 10

    for content in (b" " * 101, pieces()):
        response = client.post("/recommend", content=content)
        assert response.status_code == 413
        assert "100 bytes at most" in response.json()["error"]["message"]


def test_a_body_that_does_not_come_is_not_waited_for(model):
    client = limited(model, body_seconds=0.02)

    async def never():
        yield b"{"
        await asyncio.Event().wait()

    response = client.post("/recommend", content=never())
    assert response.status_code == 408
    assert response.headers["connection"] == "close"


def blocked(client, monkeypatch):
    """Lets nothing be answered until the event that is returned is set."""
    release = asyncio.Event()
    ask = client.service.ask

    async def wait(question):
        await release.wait()
        return await ask(question)

    monkeypatch.setattr(client.service, "ask", wait)
    return release


def test_an_answer_that_takes_too_long_is_given_up(model, monkeypatch):
    client = limited(model, seconds=0.02)
    blocked(client, monkeypatch)
    response = client.post("/recommend", {"user_ids": [100]})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "too_slow"


def test_beyond_the_concurrency_requests_are_told_to_come_back(
    model, monkeypatch
):
    client = limited(model, concurrency=1)
    release = blocked(client, monkeypatch)

    async def ask():
        async with client.asynchronous() as http:
            first = asyncio.create_task(
                http.post("/recommend", json={"user_ids": [100]})
            )
            in_flight = client.service.metrics.in_flight._value
            while not (in_flight.get() or first.done()):
                await asyncio.sleep(0)
            second = await http.post("/recommend", json={"user_ids": [100]})
            healthy = await http.get("/healthz")
            release.set()
            return await first, second, healthy

    first, second, healthy = asyncio.run(ask())
    assert first.status_code == 200 and healthy.status_code == 200
    assert second.status_code == 503
    assert second.headers["retry-after"] == "1"


def test_a_failure_inside_tells_nothing(model, monkeypatch, caplog):
    client = Client(model)
    retriever = client.service.served.retriever

    def fail(questions):
        raise KeyError("a secret of the inside")

    monkeypatch.setattr(retriever, "answers", fail)
    with caplog.at_level(logging.ERROR):
        response = client.post("/recommend", {"user_ids": [100]})
    assert response.status_code == 500
    assert response.json() == {
        "error": {
            "code": "internal",
            "message": "Something went wrong in the server.",
        }
    }
    assert "a secret of the inside" in caplog.text  # The log has it.
    monkeypatch.undo()
    response = client.post("/recommend", {"user_ids": [100]})
    assert response.status_code == 200  # The thread lives on.


def test_a_token_is_asked_for_where_there_is_one(model):
    client = Client(model, token="sesame")
    asked = {"user_ids": [100]}
    for headers in (
        {},
        {"Authorization": "Bearer open"},
        {"Authorization": "é"},
    ):
        refused = client.post(
            "/recommend",
            asked,
            headers={k: v.encode() for k, v in headers.items()},
        )
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    for path in ("/users/100", "/candidates", "/metrics", "/nowhere"):
        assert client.get(path).status_code == 401
    for path in guard.WITHOUT_TOKEN:
        assert client.get(path).status_code == 200
    given = {"Authorization": "Bearer sesame"}
    assert client.post("/recommend", asked, headers=given).status_code == 200


def test_nothing_is_ready_before_it_is_compiled(model):
    client = Client(model)
    client.service.is_ready = False
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.post("/recommend", {"user_ids": [1]}).status_code == 503
    client.service.is_ready = True
    ready = client.get("/readyz").json()
    assert ready["user_ids"] == "numbers" and ready["filters"] == {}
    assert ready["status"] == "ready" and ready["limits"]["users"] == 4
    assert (ready["num_users"], ready["num_candidates"]) == (12, 27)
    client.service.is_draining = True
    assert client.get("/readyz").status_code == 503


def test_titles_are_found_by_words_whatever_their_case(client, model):
    def titles(query):
        found = client.get("/candidates", params={"search": query}).json()
        return [one["title"] for one in found["candidates"]]

    assert sorted(titles("ALIEN")) == [f"Alien {n}" for n in (1, 2, 3, 4)]
    assert titles("2 cafe") == ["Café 2"]
    assert titles("nothing such") == []
    counts = np.asarray(model.candidate_counts)
    ids = client.get("/candidates").json()["candidates"]
    rows = model.candidate_vocabulary.rows([one["id"] for one in ids])
    assert (np.diff(counts[rows]) <= 0).all()  # What is popular comes first.


def test_candidates_and_users_are_described(client, model):
    row = model.candidate_vocabulary.rows([1003])[0]
    assert client.get("/candidates/1003").json() == {
        "id": 1003,
        "title": model.candidate_titles[1003],
        "training_count": int(np.asarray(model.candidate_counts)[row]),
        "retrievable": True,
    }
    for path in ("candidates/5", "candidates/x", "candidates/9" + "9" * 30):
        assert client.get("/" + path).status_code == 404
    user = client.get("/users/103").json()
    seen = model.histories.padded(model.user_vocabulary.rows([103]))[0]
    seen = model.candidate_vocabulary.raw_ids(seen[seen >= 0])[::-1]
    assert [one["id"] for one in user["history"]] == seen.tolist()
    assert client.get("/users/999").status_code == 404
    found = client.get("/users", params={"search": "10"}).json()["users"]
    assert found == [*range(100, 110)]


def test_what_happens_is_counted(model):
    client = Client(model)
    client.post("/recommend", {"user_ids": [100, 999]})
    client.post("/recommend", {"user_ids": []})
    client.get("/candidates/1003")
    client.get("/made/up")
    counted = client.get("/metrics").text
    for line in (
        'kdr_requests_total{path="/recommend",status="200"} 1.0',
        'kdr_requests_total{path="/recommend",status="422"} 1.0',
        'path="/candidates/{candidate_id:path}",status="200"} 1.0',
        'kdr_requests_total{path="other",status="404"} 1.0',
        'kdr_answers_total{source="popular"} 1.0',
        "kdr_unknown_ids_total 1.0",
        "kdr_batch_users_sum 2.0",
    ):
        assert line in counted
    assert "made" not in counted.replace("made_", "")


def test_a_new_file_is_served_when_it_is_ready(model, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    model.save(path)
    client = Client(path)
    other = model_of("history", seed=1)
    asked = {"user_ids": [100, 105], "k": 5}
    meanwhile = []
    warm_up = Retriever.warm_up

    def ask_and_warm_up(self):
        meanwhile.append(client.post("/recommend", asked))
        warm_up(self)

    monkeypatch.setattr(Retriever, "warm_up", ask_and_warm_up)
    before = client.post("/recommend", asked)
    other.save(path)
    assert client.service.reload_if_changed()
    after = client.post("/recommend", asked)
    check_as_recommend(before, model, **asked)
    check_as_recommend(meanwhile[0], model, **asked)
    check_as_recommend(after, other, **asked)
    versions = [
        one.json()["model_version"] for one in (before, *meanwhile, after)
    ]
    assert versions[0] == versions[1] != versions[2]
    assert not client.service.reload_if_changed()  # It is served already.


def test_a_broken_file_leaves_the_model_as_it_is(model, tmp_path, caplog):
    path = tmp_path / "model.keras"
    model.save(path)
    client = Client(path)
    assert not client.service.reload_if_changed()  # The same file.
    path.write_bytes(b"no model")
    assert not client.service.reload()
    assert "The model stays as it is" in caplog.text
    assert client.post("/recommend", {"user_ids": [100]}).status_code == 200
    failed = 'kdr_reloads_total{outcome="failed"} 1.0'
    assert failed in client.get("/metrics").text
    path.unlink()
    assert not client.service.reload_if_changed()


def test_limits_are_checked():
    with pytest.raises(ValueError, match="`k` must be a whole number"):
        Limits(k=0)
    with pytest.raises(ValueError, match="`seconds` must be a finite"):
        Limits(seconds=0)
