"""`retriever serve INDEX`."""

import contextlib
import json
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retriever.errors import BackendUnavailable, InvalidInput

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from server.settings import Settings

# macOS names no bound, and refuses more than this.
MACOS_OPEN_FILES = 10_240


def serve(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of an index, or of several.")],
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; 127.0.0.1 if none is given. Others need an API key.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on, 8080 if none is given; 0 takes a free one.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(help="Cross-encoder that reorders the top: name or folder; or a language model, KIND:MODEL."),
    ] = None,
    embedding_model: Annotated[
        list[str] | None, typer.Option(help="Another encoder for /v1/embeddings: name or folder; may be repeated.")
    ] = None,
    rerank_model: Annotated[
        list[str] | None, typer.Option(help="Another cross-encoder for the rerank routes; may be repeated.")
    ] = None,
    rerank_depth: Annotated[
        int | None, typer.Option(min=1, max=1000, help="How many documents it reads; 50 if none is given.")
    ] = None,
    default_index: Annotated[
        str | None, typer.Option(help="Of several, the index or alias for requests that name none.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="The index's encoder under another name or path.")] = None,
    sparse_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its learned sparse part under another name or path.")
    ] = None,
    local_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its local vectors under another name or path.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Make no network call.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Requests that are worked on at the same time.")
    ] = None,
    queue: Annotated[
        int | None, typer.Option(min=0, help="Requests that may wait; the next one is answered 429.")
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Accept changes of documents and aliases over HTTP.")
    ] = False,
    log_queries: Annotated[bool, typer.Option("--log-queries", help="Write queries into the log.")] = False,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Print all settings with their meaning and stop.")
    ] = False,
) -> None:
    """Serve an index over HTTP: a search page at /, an API under /v1, its description at /openapi.json.

    Every setting is also an environment variable RETRIEVER__NAME; a flag goes before it. To be reached from
    other machines, set RETRIEVER__API_KEY_SHA256 to the SHA-256 of a key. Nothing can be changed unless
    --writable is given; where a key is set, writing needs another one, RETRIEVER__WRITE_KEY_SHA256.

    Examples:

      retriever serve my-index

      retriever serve folder-of-indexes --default-index docs

      retriever serve my-index --embedding-model splade-tiny --rerank-model my-cross-encoder

      retriever serve my-index --port 9000 --reranker my-cross-encoder --offline

      RETRIEVER__API_KEY_SHA256=5e88... retriever serve my-index --host 0.0.0.0

      printf %s "$KEY" | sha256sum
    """
    limits = {"threads": threads, "queue": queue}
    settings = read_settings(
        index=index,
        host=host,
        port=port,
        reranker=reranker,
        embedding_models=embedding_model or None,
        rerank_models=rerank_model or None,
        rerank_depth=rerank_depth,
        default_index=default_index,
        encoder=encoder,
        sparse_encoder=sparse_encoder,
        local_encoder=local_encoder,
        device=device,
        offline=offline or None,
        writable=writable or None,
        log_queries=log_queries or None,
        limits={name: value for name, value in limits.items() if value is not None} or None,
    )
    if print_settings:
        typer.echo(json.dumps(describe_settings(settings), indent=1))
        return
    _run(settings)


def read_settings(**given: Any) -> "Settings":
    """Return the settings from the environment, with the values given, other than None, before them.

    Raises InvalidInput naming the setting and its environment variable.
    """
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidInput("; ".join(_complaint(entry) for entry in error.errors())) from None


def _complaint(entry: Any) -> str:
    text = str(entry["msg"]).removeprefix("Value error, ")
    if not entry["loc"]:
        return text
    return f"RETRIEVER__{'__'.join(str(part).upper() for part in entry['loc'])}: {text}"


def describe_settings(settings: "Settings") -> dict[str, Any]:
    """Return every setting's environment variable with its value and its meaning."""
    found = {}
    values = settings.model_dump(mode="json")
    for model, prefix, content in (
        (type(settings), "RETRIEVER__", values),
        (type(settings.limits), "RETRIEVER__LIMITS__", values["limits"]),
    ):
        for name, field in model.model_fields.items():
            if name != "limits":
                found[prefix + name.upper()] = {"value": content[name], "meaning": field.description}
    return found


def _run(settings: "Settings") -> None:
    from server.app import create_app
    from server.draining import DrainingServer
    from server.logs import log_to_stderr

    allow_open_files()
    # The port first: it would be a pity to load models for nothing.
    listener = bind(settings.host, settings.port)
    with listener:
        app = create_app(settings)
        service = app.state.service
        typer.echo(f"loading the models of {settings.index} ...", err=True)
        # Here and not when the app starts, so that a failure ends in its own message and exit code.
        service.indexes.prepare()
        service.models.prepare()
        log_to_stderr()
        config = server_config(app, settings)
        server = DrainingServer(config, service.readiness, settings.drain_seconds, service.models.broken)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        typer.echo(f"serving {settings.index} at http://{host}:{listener.getsockname()[1]}/", err=True)
        server.run(sockets=[listener])
        if server.failure is not None:
            raise BackendUnavailable(f"a model's device failed, start the service anew: {server.failure}")


def server_config(app: "FastAPI", settings: "Settings") -> "uvicorn.Config":
    """Return how uvicorn is to serve the app."""
    import uvicorn

    from server.connections import bounded_protocol

    return uvicorn.Config(
        app,
        http=bounded_protocol(settings.limits),
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


def allow_open_files() -> None:
    """Let this process open as many files as the system lets it.

    Every file of every segment stays open as long as it is mapped: some indexes that are written to would not fit into
    the 1,024 files that are usual until somebody asks for more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, max(soft, MACOS_OPEN_FILES)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not listening yet. Raises InvalidInput when it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}: {error.strerror or error}.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port, 0 for a free one."
        ) from error
    return listener
