"""`retriever mcp` as a process, asked by the SDK's own client over standard input and output (extra `mcp`)."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import EVIL

pytestmark = [
    pytest.mark.agreement,
    pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="mcp is not installed; the extra [mcp]"),
]


def ask(arguments: list[str], work: Callable[[Any], Awaitable[None]], **variables: str) -> None:
    """Start the command and give a connected client to `work`."""
    from mcp import Client, StdioServerParameters, stdio_client

    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "retriever.cli", "mcp", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        cwd=str(Path.cwd()),
    )

    async def talk() -> None:
        async with Client(stdio_client(parameters)) as client:
            await work(client)

    asyncio.run(talk())


async def call(client: Any, name: str, **arguments: Any) -> Any:
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    assert result.content[0].text
    return result.structured_content


async def refused(client: Any, name: str, **arguments: Any) -> str:
    result = await client.call_tool(name, arguments)
    assert result.is_error
    text: str = result.content[0].text
    return text


def test_tools_say_what_they_take_and_only_read(service_url: str) -> None:
    async def work(client: Any) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "get_document", "list_indexes"}
        assert all(tool.annotations.read_only_hint and tool.description for tool in tools.values())
        properties = tools["search"].input_schema["properties"]
        assert set(properties) == {"query", "index", "k", "pipeline", "filter"}
        assert all(value["description"] for value in properties.values())
        assert tools["search"].input_schema["required"] == ["query"]
        assert properties["k"]["maximum"] == 50
        assert tools["search"].output_schema

    ask(["--url", service_url], work)


def test_a_service_is_searched_and_read(service_url: str) -> None:
    async def work(client: Any) -> None:
        (listed,) = (await call(client, "list_indexes"))["indexes"]
        assert (listed["name"], listed["default"], listed["documents"]) == ("index", True, 301)
        assert listed["fields"]["kind"] == "keyword"
        assert "hybrid" in listed["pipelines"]
        found = await call(client, "search", query="zanzibar", k=3, pipeline="hybrid", filter={"kind": "function"})
        assert (found["status"], found["pipeline"]) == ("exact", "hybrid")
        first = found["documents"][0]
        assert (first["id"], first["title"], first["text"]) == (EVIL.id, EVIL.title, EVIL.text)
        assert first["metadata"] == dict(EVIL.metadata)
        assert set(first["scores"]) == {"bm25", "dense", "fusion"}
        for index in ({}, {"index": "index"}):
            read = await call(client, "get_document", id=EVIL.id, **index)
            assert (read["text"], read["characters"], read["next_start"]) == (EVIL.text, len(EVIL.text), None)
        rest = await call(client, "get_document", id=EVIL.id, start=3)
        assert rest["text"] == EVIL.text[3:]
        # What the service refuses is told to the model in the service's words.
        assert "no document 'nonesuch'" in await refused(client, "get_document", id="nonesuch")
        assert "nonesuch" in await refused(client, "search", query="a", index="nonesuch")
        assert "'colour' is not a filterable field" in await refused(client, "search", query="a", filter={"colour": 1})
        for wrong in ({"k": 0}, {"k": 51}, {"k": "many"}, {"query": ""}):
            assert await refused(client, "search", **{"query": "a"} | wrong)
        # And the server goes on.
        assert (await call(client, "search", query="json", k=1))["documents"]

    ask([], work, RETRIEVER_URL=service_url)


def test_a_folder_is_searched_without_a_service(small_index: Path) -> None:
    async def work(client: Any) -> None:
        (listed,) = (await call(client, "list_indexes"))["indexes"]
        assert (listed["name"], listed["documents"]) == (small_index.name, 300)
        answers = await asyncio.gather(*(call(client, "search", query=q, k=2) for q in ("json", "zip", "a date")))
        assert all(len(answer["documents"]) == 2 for answer in answers)
        first = answers[0]["documents"][0]
        assert (await call(client, "get_document", id=first["id"]))["title"] == first["title"]
        assert "one index here" in await refused(client, "search", query="a", index="other")
        assert "no document" in await refused(client, "get_document", id="nonesuch")

    ask([str(small_index), "--offline", "--device", "cpu"], work)


def test_nobody_to_ask_is_told_to_the_model() -> None:
    async def work(client: Any) -> None:
        assert "cannot reach http://127.0.0.1:9" in await refused(client, "list_indexes")

    ask(["--url", "http://127.0.0.1:9"], work)


def test_faulty_commands_end_with_their_exit_code(tmp_path: Path) -> None:
    for arguments, code, message in (
        ([str(tmp_path), "--url", "http://localhost"], 2, "not both"),
        (["--url", "localhost:8080"], 2, "looks like"),
        ([str(tmp_path / "none")], 3, "no index at"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "retriever.cli", "mcp", *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
