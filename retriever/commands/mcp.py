"""`retriever mcp [INDEX]`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retriever.errors import InvalidInput

if TYPE_CHECKING:
    from retriever.adapters.sources import Source


def mcp(
    index: Annotated[
        Path | None,
        typer.Argument(metavar="[INDEX]", help="Folder of an index to read here, instead of asking a service."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(envvar="RETRIEVER_URL", help="Address of a service; http://localhost:8080 if nothing is given."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="RETRIEVER_API_KEY",
            help="The service's key to read; better given by the environment.",
            show_envvar=True,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer of the service.")] = 60.0,
    encoder: Annotated[str | None, typer.Option(help="The index's encoder under another name or path.")] = None,
    sparse_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its learned sparse part under another name or path.")
    ] = None,
    local_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its local vectors under another name or path.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; for INDEX.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no network call to load models for INDEX.")] = False,
) -> None:
    """Offer search to an assistant: a Model Context Protocol server on standard input and output.

    Its tools only read: search, get_document, list_indexes. A program that speaks MCP starts this command.

    Examples:

      retriever mcp --url http://localhost:8080

      retriever mcp my-index --offline
    """
    if index is not None and url is not None:
        raise InvalidInput(f"give the folder {str(index)!r} or the address {url!r}, not both.")
    from retriever.adapters.mcp import create_server

    models = {"encoder": encoder, "sparse_encoder": sparse_encoder, "local_encoder": local_encoder}
    create_server(_source(index, url, api_key, timeout, models, device, offline)).run("stdio")


def _source(
    index: Path | None,
    url: str | None,
    api_key: str | None,
    timeout: float,
    models: dict[str, Any],
    device: str | None,
    offline: bool,
) -> "Source":
    from retriever.adapters.sources import LocalSource, ServiceSource
    from retriever.client import AsyncClient

    if index is None:
        return ServiceSource(AsyncClient(url or "http://localhost:8080", api_key=api_key, timeout=timeout))
    from retriever.index.sealed import open_index

    opened = open_index(index, device=device, offline=offline, **models)
    opened.warm()
    return LocalSource(opened, index)
