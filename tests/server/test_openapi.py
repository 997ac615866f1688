"""Everything that /openapi.json promises, tried by schemathesis: no fault of the service, no answer beside its schema."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from server.app import create_app
from server.routes import aliases, documents, embeddings, health, indexes, models, rerank, search, shadow
from server.routes.page import FILES
from server.settings import Settings
from tests.server.conftest import Client

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    """Return a body of lines as it is sent."""
    return value.encode("utf-8", "replace") if isinstance(value, str) else json.dumps(value).encode()


# A few examples of each operation at every change; the same ones every time.
FEW, MANY = 6, 300


@pytest.fixture(scope="module")
def everything(
    small_index: Path,
    encoder: Any,
    tiny_reranker: Path,
    late_interaction: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """A service that can do all there is: several indexes, changes, aliases, encoders of each kind and a reranker."""
    root = tmp_path_factory.mktemp("openapi") / "indexes"
    for name in ("docs", "others"):
        shutil.copytree(small_index, root / name)
    settings = Settings(
        index=root, writable=True, reranker=str(tiny_reranker), rerank_depth=4, offline=True, device="cpu",
        default_index="docs", embedding_models=["splade-tiny", str(late_interaction)], ann_recall_sample=1.0,
    )  # fmt: skip
    with Client(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def schema_of(client: Client) -> Any:
    return schemathesis.openapi.from_dict(client.app.openapi())


def operations(client: Client) -> list[Any]:
    return [result.ok() for result in schema_of(client).get_all_operations()]


def try_operation(client: Client, label: str, examples: int) -> None:
    """Send what fits an operation's schema and what does not, and compare the answers with the schema."""
    operation = next(found for found in operations(client) if found.label == label)
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]

    @settings(
        max_examples=examples, deadline=None, derandomize=examples == FEW, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(data=st.data())
    def attempt(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy(generation_mode=data.draw(st.sampled_from(modes))))
        sent = case.as_transport_kwargs(base_url="http://localhost")
        sent.pop("cookies", None)
        if "data" in sent:
            sent["content"] = sent.pop("data")
        try:
            response = client.request(**{name: value for name, value in sent.items() if value is not None})
        except (UnicodeEncodeError, httpx.InvalidURL, TypeError):
            # Nothing that could be sent.
            reject()
        case.validate_response(response, checks=CHECKS)

    attempt()


def labels() -> list[str]:
    """Return what /openapi.json has, from an app that is never started."""
    found = []
    for module in (search, embeddings, rerank, indexes, documents, shadow, aliases, models, health):
        for route in module.router.routes:
            found += [f"{method} {route.path_format}" for method in sorted(route.methods)]
    return found


@pytest.mark.parametrize("label", labels())
def test_each_operation_keeps_its_schema(everything: Client, label: str) -> None:
    try_operation(everything, label, FEW)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("label", labels())
def test_each_operation_keeps_its_schema_at_length(everything: Client, label: str) -> None:
    try_operation(everything, label, MANY)


def test_every_operation_is_tried(everything: Client) -> None:
    page = {f"GET {path}" for path in FILES}
    assert {operation.label for operation in operations(everything)} - page == set(labels())
