"""What requests may say, and what answers say: the schema of the API."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from keras_dp_retrieval.serving.questions import Question
from keras_dp_retrieval.serving.request_limits import Limits

USUAL_K = 10

_LARGEST = 2**63 - 1

Id = (
    Annotated[int, Field(strict=True, ge=-_LARGEST, le=_LARGEST)]
    | Annotated[
        str,
        # Strings of NumPy lose a NUL at the end.
        Field(strict=True, min_length=1, max_length=256, pattern=r"[^\x00]$"),
    ]
)
_Number = Annotated[
    float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)
]
_Text = Annotated[str, Field(max_length=2000)]
_Whole = Annotated[int, Field(strict=True, ge=-_LARGEST, le=_LARGEST)]
Value = _Whole | _Number | _Text | list[_Whole | _Text] | None

_Scalar = Annotated[bool, Field(strict=True)] | _Whole | _Number | _Text | None
_Scalars = Annotated[list[_Scalar], Field(max_length=1000)]
Condition = _Scalar | _Scalars | dict[_Text, _Scalar | _Scalars]

_Users = Annotated[list[Id], Field(min_length=1)]


class AskedUsers(BaseModel):
    """About whom: by ids, by histories, by features, or by some of these."""

    model_config = ConfigDict(extra="forbid")

    user_ids: _Users | None = Field(
        None, description="Ids of users.", examples=[[1, 2]]
    )
    histories: Annotated[list[list[Id]], Field(min_length=1)] | None = Field(
        None,
        description="For each user, ids of candidates, oldest first. With "
        "`user_ids`, for those whom the model does not know.",
    )
    user_features: dict[_Text, list[Value]] | None = Field(
        None,
        description="Columns of features, a value for each user.",
    )

    def question(self, limits: Limits) -> Question:
        """What is asked, where these are the limits."""
        return Question(
            user_ids=self.user_ids,
            histories=self.histories,
            user_features=self.user_features,
            k=1,
            vectors=True,
        )


class RecommendRequest(AskedUsers):
    """The best candidates for users, in one answer for each."""

    k: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None,
        description="Candidates of a list. By default 10, or the server's "
        "limit where that is less.",
    )
    exclude_seen: bool = Field(
        True, description="Whether to leave out what users have seen."
    )
    exclude: list[list[Id]] | None = Field(
        None, description="For each user, ids of candidates to leave out."
    )
    allowed_ids: list[Id] | None = Field(
        None, description="Ids of candidates: no others are in the lists."
    )
    filters: Annotated[dict[_Text, Condition], Field(max_length=32)] | None = (
        Field(
            None,
            description="From features of candidates to conditions: a value, a "
            'list of which one suffices, `{"any": [], "all": [], "none": []}`; '
            'of numbers and dates two bounds, or `{"min": 1, "max": 2}`.',
            examples=[{"genres": "Comedy", "year": [1990, None]}],
        )
    )
    explain: int = Field(
        0,
        ge=0,
        le=10,
        strict=True,
        description="Items of the history to name for each candidate, by the "
        "likeness of their vectors.",
    )

    def question(self, limits: Limits) -> Question:
        allowed = self.allowed_ids
        return Question(
            user_ids=self.user_ids,
            histories=self.histories,
            user_features=self.user_features,
            exclude=self.exclude,
            k=self.k or min(USUAL_K, limits.k),
            exclude_seen=self.exclude_seen,
            allowed_ids=None if allowed is None else tuple(allowed),
            # As text, which can be compared and kept.
            filters=None
            if self.filters is None
            else json.dumps(self.filters, sort_keys=True),
            explain=self.explain,
        )


class Reason(BaseModel):
    id: int | str
    title: str | None
    likeness: float = Field(description="Cosine of the vectors.")


class Recommended(BaseModel):
    id: int | str
    title: str | None
    score: float
    because: list[Reason] | None = None


class ListOfUser(BaseModel):
    source: str = Field(
        description='What the answer comes from: "model" (the id), "history", '
        '"features", or "popular" for a user of whom nothing is known.'
    )
    num_unknown: int = Field(
        description="Ids, of the user and of the history, that the model does "
        "not know."
    )
    candidates: list[Recommended] = Field(description="Best first.")


class RecommendResponse(BaseModel):
    results: list[ListOfUser]
    model_version: str
    seconds: float = Field(description="What the answer took in the server.")


class VectorOfUser(BaseModel):
    source: str
    num_unknown: int
    vector: list[float] | None


class EncodeResponse(BaseModel):
    results: list[VectorOfUser]
    model_version: str


class Candidate(BaseModel):
    id: int | str
    title: str | None
    training_count: int = Field(
        description="How often training had it as a positive."
    )
    retrievable: bool


class Titled(BaseModel):
    id: int | str
    title: str | None


class FoundCandidates(BaseModel):
    candidates: list[Titled]


class FoundUsers(BaseModel):
    users: list[int | str]


class HistoryOfUser(BaseModel):
    id: int | str
    history: list[Titled] = Field(description="Latest first.")
    num_items: int = Field(description="All of them, also those not listed.")


class Health(BaseModel):
    status: str


class Filterable(BaseModel):
    kind: str
    values: list[str] | None = Field(
        None, description="Of labels, those that are known; not all, if many."
    )


class Readiness(BaseModel):
    status: str
    model_version: str
    num_users: int
    num_candidates: int
    takes_histories: bool
    user_ids: Literal["numbers", "strings"]
    filters: dict[str, Filterable] = Field(
        description="Features of candidates that `filters` can name."
    )
    limits: dict[str, Any]


class ErrorText(BaseModel):
    code: str
    message: str


class Error(BaseModel):
    error: ErrorText
