"""What the service can be told, by environment variables `RETRIEVER__NAME` or by flags, read once."""

import ipaddress
import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Limits(BaseModel):
    """How much one request may ask for and how much work the service takes on at once."""

    connections: int = Field(
        default=2000, ge=1, le=1_000_000, description="Connections at the same time; a further one is closed."
    )
    header_seconds: float = Field(
        default=10.0, gt=0, description="Time for the head of a request to arrive; then the connection is closed."
    )
    body_bytes: int = Field(
        default=2 * 1024 * 1024, ge=1024, description="Largest request body; beyond it the answer is 413."
    )
    body_seconds: float = Field(
        default=10.0, gt=0, description="Time for a request body to arrive; beyond it the answer is 408."
    )
    bulk_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=1024,
        description="Largest body of many documents; one line may be as large as a body.",
    )
    bulk_lines: int = Field(default=100_000, ge=1, le=10_000_000, description="Most lines of such a body.")
    bulk_seconds: float = Field(default=600.0, gt=0, description="Time for such a body to arrive.")
    threads: int = Field(
        default=min(8, os.cpu_count() or 1),
        ge=1,
        le=256,
        description="Requests that are worked on at the same time.",
    )
    queue: int = Field(
        default=64,
        ge=0,
        le=100_000,
        description="Requests that may wait for a thread; beyond it the answer is 429.",
    )
    queue_seconds: float = Field(
        default=10.0, gt=0, description="Longest wait for a thread or a model; beyond it the answer is 429."
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        le=4_194_304,
        description="Padded tokens of one batch of a model; None takes 4096 on a CPU, more on a GPU.",
    )
    batch_wait_ms: float = Field(
        default=1.0, ge=0, le=1000, description="Longest time that a batch waits for other requests' texts."
    )
    batch_queue: int = Field(
        default=512,
        ge=1,
        le=100_000,
        description="Requests that may wait for one model; beyond it the answer is 429.",
    )
    batch_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Longest time that a batch of a model is waited for; beyond it the answer is 504 and the service "
        "is not ready.",
    )
    rerank_depth: int = Field(default=200, ge=1, le=1000, description="Most documents that a search may have reranked.")
    deadline_ms: float = Field(
        default=10_000.0,
        gt=0,
        description="Deadline of a search that names none: stages whose model takes longer are left out, and 504 is "
        "the answer when nothing else is left.",
    )


class Settings(BaseSettings):
    """All settings of the service; the environment gives them, flags override it."""

    model_config = SettingsConfigDict(env_prefix="RETRIEVER__", env_nested_delimiter="__", extra="ignore", frozen=True)

    index: Path = Field(description="Folder of an index, or a folder whose folders are indexes.")
    default_index: str | None = Field(
        default=None,
        description="Of several indexes, the one, or the alias, for requests that name none. None takes the alias "
        "`default`, and without it the first index in order of name.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; any but a loopback address needs an API key."
    )
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    encoder: str | None = Field(
        default=None, description="The index's encoder under another name or path; other weights are refused."
    )
    sparse_encoder: str | None = Field(
        default=None, description="The encoder of the index's learned sparse part under another name or path, likewise."
    )
    local_encoder: str | None = Field(
        default=None, description="The encoder of the index's local vectors under another name or path, likewise."
    )
    reranker: str | None = Field(
        default=None,
        description="What reranks: name or folder of a cross-encoder, or a language model as KIND:MODEL, "
        "KIND+bfloat16:MODEL or KIND+endpoint:MODEL with KIND pairwise, yes_no or query_likelihood, for searches "
        "alone. Without a cross-encoder /v1/rerank answers 503.",
    )
    rerank_depth: int = Field(
        default=50, ge=1, le=1000, description="How many documents of a search the configured reranker reads."
    )
    embedding_models: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="Encoders that /v1/embeddings offers beside those of the indexes, as a JSON list of names and "
        "folders.",
    )
    rerank_models: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="Cross-encoders that the rerank routes offer beside `reranker`, as a JSON list of names and "
        "folders.",
    )
    device: str | None = Field(
        default=None, description="Where models run: cpu, cuda, cuda:1, mps; None lets torch choose."
    )
    offline: bool = Field(default=False, description="Load models without any network call.")
    api_key_sha256: SecretStr | None = Field(
        default=None,
        description="SHA-256, in hex, of the key that requests must bring as `Authorization: Bearer KEY`.",
    )
    writable: bool = Field(
        default=False,
        description="Accept changes of documents and aliases. Where an API key is set, writing needs one of its own.",
    )
    write_key_sha256: SecretStr | None = Field(
        default=None,
        description="SHA-256, in hex, of the key that allows to write, and to read too.",
    )
    allowed_hosts: list[str] | None = Field(
        default=None,
        description="Names accepted in the Host header, as a JSON list. None accepts any while an API key is "
        "set, and the loopback names alone otherwise, so that no web page reaches the service by DNS "
        "rebinding.",
    )
    log_queries: bool = Field(default=False, description="Write the text of queries into the access log.")
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="Time between /readyz turning 503 and the end of listening on SIGTERM.",
    )
    shutdown_seconds: int = Field(
        default=30,
        ge=1,
        le=3600,
        description="Time for requests in progress to finish when the service stops.",
    )
    readiness_seconds: float = Field(
        default=5.0, ge=0, le=600, description="How long the outcome of a readiness check is reused."
    )
    canary_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Longest time for the canary queries of a readiness check; a service that is late is not ready.",
    )
    ann_recall_sample: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of queries with an approximate dense stage that are searched exactly too, in the "
        "background, for the metric retriever_ann_recall. An exact search reads all vectors.",
    )
    otel: bool = Field(
        default=False,
        description="Send traces by OpenTelemetry, to where the OTEL_* variables say; needs the extra otel.",
    )
    limits: Limits = Field(
        default_factory=Limits,
        description="Bounds on requests; set one as RETRIEVER__LIMITS__NAME.",
    )

    @field_validator("api_key_sha256", "write_key_sha256")
    @classmethod
    def _digest(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        digest = value.get_secret_value().strip().lower()
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            # The value may be the key itself, set by mistake, so it is not shown.
            raise ValueError('must be 64 hexadecimal digits; make it with: printf %s "$KEY" | sha256sum')
        return SecretStr(digest)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.api_key_sha256 is None and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without an API key, since anyone could then read "
                "the index. Set RETRIEVER__API_KEY_SHA256 to the SHA-256 of a key, or use "
                "--host 127.0.0.1"
            )
        if self.writable and self.api_key_sha256 is not None and self.write_key_sha256 is None:
            raise ValueError(
                "refusing to accept changes from everybody who may read: set RETRIEVER__WRITE_KEY_SHA256 to the "
                "SHA-256 of another key, or leave out --writable"
            )
        if self.write_key_sha256 is not None and self.write_key_sha256 == self.api_key_sha256:
            raise ValueError("the key that writes must be another one than the key that reads")
        return self

    @property
    def host_names(self) -> frozenset[str] | None:
        """Names that the Host header may hold, in lower case; None for any."""
        if self.allowed_hosts is not None:
            return frozenset(name.lower() for name in self.allowed_hosts)
        if self.api_key_sha256 is not None:
            return None
        return frozenset((*LOOPBACK_NAMES, self.host.lower()))


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; a name other than localhost counts as public."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
