"""Bodies of requests and responses about shadow traffic."""

from pydantic import BaseModel, Field, StrictFloat, StrictInt, StrictStr

from server.schemas import Body


class ShadowRequest(Body):
    """A second index to compare with."""

    index: StrictStr = Field(max_length=64, description="An index or an alias.")
    fraction: StrictFloat | StrictInt = Field(0.1, gt=0, le=1, description="Share of the queries that are compared.")
    k: StrictInt = Field(10, ge=1, le=100, description="How many hits of each are compared.")


class Latency(BaseModel):
    """Time of searches in milliseconds, without HTTP."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


class ShadowReport(BaseModel):
    """How the second index compares, over the last 10,000 queries that were compared."""

    index: str
    shadow: str
    fraction: float
    k: int
    queries: int = Field(description="Compared so far.")
    dropped: int = Field(description="Not compared since too many were waiting.")
    failed: int = Field(description="That the second index could not answer.")
    last_error: str | None
    mean_overlap: float | None = Field(
        description="Mean share of the first k hits that both have; null before the first query."
    )
    same_first: float | None = Field(description="Share of the queries with the same best hit.")
    latency: Latency | None
    shadow_latency: Latency | None
