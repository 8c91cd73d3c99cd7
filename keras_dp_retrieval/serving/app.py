"""The application: one endpoint a function.

FastAPI, because requests and answers are checked by the same types that its
OpenAPI document is made of, and because it is what most people who serve
models with Python know; uvicorn runs it in one process, which holds the
devices.
"""

import dataclasses
import functools
import json
import pathlib
import time
from typing import Annotated, Any

from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.serving import errors, request_checks
from keras_dp_retrieval.serving import request_models as models
from keras_dp_retrieval.serving.errors import RequestError
from keras_dp_retrieval.serving.guard import Guard
from keras_dp_retrieval.serving.service import Service
from keras_dp_retrieval.towers import history_tower

# Items of a history that are listed.
MOST_OF_HISTORY = 200
MOST_FOUND = 1000


def create_app(service: Service, token: str | None = None):
    """Returns the ASGI application.

    Args:
        service: `Service`.
        token: Optional str. What requests have to bring as `Authorization:
            Bearer TOKEN`; the page asks for it.
    """
    import fastapi
    from fastapi import Query, Response
    from fastapi.responses import HTMLResponse

    app = fastapi.FastAPI(
        title="keras_dp_retrieval",
        version=__version__,
        description="Recommendations of a two-tower model.",
        # FastAPI's pages load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    errors.add_handlers(app)
    failures: dict[int | str, dict[str, Any]] = {
        status: {"model": models.Error}
        for status in (400, 401, 408, 413, 422, 500, 503, 504)
    }
    limits = service.limits

    def ready():
        if not service.is_ready:
            raise RequestError(
                503, "The model is not ready yet.", {"Retry-After": "1"}
            )

    @app.post(
        "/recommend",
        response_model=models.RecommendResponse,
        responses=failures,
    )
    async def recommend(request: models.RecommendRequest):
        """The best candidates for each user."""
        started = time.perf_counter()
        ready()
        question = request.question(limits)
        request_checks.check(question, limits, service.served.model)
        answers, served = await service.ask(question)
        results = [_list_of(answer, served) for answer in answers]
        return _json(
            {
                "results": results,
                "model_version": served.version,
                "seconds": time.perf_counter() - started,
            }
        )

    @app.post(
        "/encode", response_model=models.EncodeResponse, responses=failures
    )
    async def encode(request: models.AskedUsers):
        """The vectors of users, to search other stores with."""
        ready()
        question = request.question(limits)
        request_checks.check(question, limits, service.served.model)
        answers, served = await service.ask(question)
        results = [
            {
                "source": answer.source,
                "num_unknown": answer.num_unknown,
                "vector": None
                if answer.vector is None
                else answer.vector.tolist(),
            }
            for answer in answers
        ]
        return _json({"results": results, "model_version": served.version})

    @app.get(
        "/candidates",
        response_model=models.FoundCandidates,
        responses=failures,
    )
    def find_candidates(
        search: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 10,
    ):
        """Candidates whose titles have all words, the best first."""
        served = service.served
        found = served.titles.find(search, limit)
        return {"candidates": [_titled(one, served) for one in found]}

    @app.get(
        "/candidates/{candidate_id:path}",
        response_model=models.Candidate,
        responses={**failures, 404: {"model": models.Error}},
    )
    def candidate(candidate_id: Annotated[str, fastapi.Path(max_length=256)]):
        """What is known of one candidate."""
        served = service.served
        known = served.candidate_id(candidate_id)
        found = None if known is None else served.describe_candidate(known)
        if found is None:
            raise RequestError(404, "The model knows no such candidate.")
        return found

    @app.get("/users", response_model=models.FoundUsers, responses=failures)
    def find_users(
        search: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 10,
    ):
        """Users whose ids begin so."""
        return {"users": service.served.users.find(search, limit)}

    @app.get(
        "/users/{user_id:path}",
        response_model=models.HistoryOfUser,
        responses={**failures, 404: {"model": models.Error}},
    )
    def user(user_id: Annotated[str, fastapi.Path(max_length=256)]):
        """What a user has seen, as far as the model knows."""
        served = service.served
        known = served.user_id(user_id)
        found = (
            None if known is None else served.history(known, MOST_OF_HISTORY)
        )
        if found is None:
            raise RequestError(404, "The model knows no such user.")
        ids, num_items = found
        return {
            "id": known,
            "history": [_titled(one, served) for one in ids],
            "num_items": num_items,
        }

    @app.get("/healthz", response_model=models.Health)
    async def healthz():
        """Whether the process answers at all."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        response_model=models.Readiness,
        responses={503: {"model": models.Error}},
    )
    async def readyz():
        """Whether requests are answered now; and what is served."""
        if service.is_draining:
            raise RequestError(503, "The server is stopping.")
        ready()
        served = service.served
        return {
            "status": "ready",
            "model_version": served.version,
            "num_users": served.num_users,
            "num_candidates": served.num_candidates,
            "takes_histories": history_tower(served.model.user_tower)
            is not None,
            "user_ids": served.kind_of_user_ids,
            "filters": served.filterable(),
            "limits": dataclasses.asdict(limits),
        }

    @app.get("/metrics")
    def metrics():
        """For Prometheus."""
        from keras_dp_retrieval.serving.request_metrics import CONTENT_TYPE

        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page():
        return HTMLResponse(_page("page.html"), headers=_PAGE_HEADERS)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    def docs():
        return HTMLResponse(_page("docs.html"), headers=_PAGE_HEADERS)

    return Guard(app, service, token)


# The pages have their scripts in them, and nothing from elsewhere.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@functools.cache
def _page(name: str) -> str:
    return pathlib.Path(__file__).with_name(name).read_text("utf-8")


def _json(content):
    from fastapi import Response

    return Response(json.dumps(content), media_type="application/json")


def _titled(candidate_id, served) -> dict:
    return {"id": candidate_id, "title": served.title(candidate_id)}


def _list_of(answer, served) -> dict:
    candidates = [
        {**_titled(one, served), "score": score}
        for one, score in zip(answer.ids, answer.scores, strict=True)
    ]
    for one, near in zip(candidates, answer.because, strict=False):
        one["because"] = [
            {**_titled(item, served), "likeness": likeness}
            for item, likeness in near
        ]
    return {
        "source": answer.source,
        "num_unknown": answer.num_unknown,
        "candidates": candidates,
    }
