"""The `retriever` command. Its sub-commands come from the entry-point group `retriever.commands`."""

import os
import sys
from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from retriever.errors import RetrievalError

INTERRUPTED = 130
INTERRUPTION = "interrupted; nothing that was finished is lost, run the same command again to go on"
ORDER = ["models", "index", "search", "eval", "train", "serve", "mcp"]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("retriever-engine"))
        raise typer.Exit


def build_app(only: str | None = None) -> typer.Typer:
    """Return the command line with the sub-commands of all installed packages.

    only  a sub-command; if there is one of that name the others are not even imported, which saves seconds
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Build, search, serve and evaluate sealed retrieval indexes.",
        epilog="Begin with:  retriever index build CORPUS INDEX,  then  retriever search INDEX 'your query'.",
    )

    @app.callback()
    def top(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
        ] = False,
    ) -> None: ...

    found = {point.name: point for point in entry_points(group="retriever.commands")}
    if only in found:
        found = {only: found[only]}
    for name in [*(n for n in ORDER if n in found), *(n for n in sorted(found) if n not in ORDER)]:
        command = found[name].load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Run the command line; errors end in one line on standard error and their own exit code."""
    # Forked data loaders would otherwise print a warning for every worker.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        build_app(next(iter(sys.argv[1:]), None))()
    except RetrievalError as error:
        _fail(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _fail(INTERRUPTION, INTERRUPTED)
    except SystemExit as stop:
        # Typer turns Ctrl-C into this code without a word.
        if stop.code == INTERRUPTED:
            _fail(INTERRUPTION, INTERRUPTED)
        raise


def _fail(message: str, code: int) -> None:
    typer.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
