"""`retriever models`: see, fetch and describe models."""

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from retriever.errors import InvalidInput, RetrievalError
from retriever.models import CATALOGUE, PinnedModel, locate, resolve
from retriever.models import describe as describe_model
from retriever.models.description import Description

app = typer.Typer(help="See, fetch and describe models.", no_args_is_help=True)


class _Trained(TyperGroup):
    """Commands of the sub-command `train` that make a model of the list's kind, under `models train` too.

    They are found by entry point when one of them is asked for: `training` lies above this package.
    """

    names = ("reranker",)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        points = list(entry_points(group="retriever.commands", name="train"))
        if cmd_name not in self.names or not points:
            return None
        return get_group(points[0].load()).get_command(ctx, cmd_name)


app.add_typer(
    typer.Typer(cls=_Trained, no_args_is_help=True, help="Train a model on your own collection."), name="train"
)

EXAMPLES_OF_PULL = """
Fetch models, so that later work needs no network. A name is a pinned one or a hub name, owner/name.

Examples:

    retriever models pull all-MiniLM-L6-v2

    retriever models pull intfloat/e5-base-v2

    retriever models pull --all

    retriever models pull --offline all-MiniLM-L6-v2     # fails unless it is here already
"""


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the pinned models and whether they are on this machine. Needs no network.

    Example:

        retriever models list --json
    """
    rows = [_row(model) for model in CATALOGUE.values()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    columns = ("name", "role", "parameters", "size", "licence", "state")
    cells = [columns, *(tuple(_cell(row, column) for column in columns) for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    typer.echo()
    for row in rows:
        typer.echo(f"{row['name']}: {row['origin']}")


def _row(model: PinnedModel) -> dict[str, str | int | None]:
    path = locate(model.name)
    return {
        "name": model.name,
        "role": model.role,
        "parameters": model.parameters,
        "size": model.size,
        "download": sum(wheel.size for wheel in model.wheels),
        "licence": model.licence,
        "state": "ready" if path else "not pulled",
        "path": str(path) if path else None,
        "origin": model.origin,
        "hub": model.hub,
        "extra": model.extra or None,
    }


def _cell(row: dict[str, str | int | None], column: str) -> str:
    value = row[column]
    if not isinstance(value, int):
        return str(value)
    return f"{value / 1e6:.1f} M" if column == "parameters" else _megabytes(value)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


@app.command(help=EXAMPLES_OF_PULL)
def pull(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="All pinned models, about 1.3 GB.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    if everything == bool(names):
        raise InvalidInput("Give either the names of models or --all. `retriever models list` shows the names.")
    paths: dict[str, str] = {}
    failures: list[RetrievalError] = []
    for name in CATALOGUE if everything else names or []:
        try:
            paths[name] = str(resolve(name, offline=offline))
        except RetrievalError as error:
            failures.append(error)
        else:
            if not as_json:
                typer.echo(f"{name}  {paths[name]}")
    if as_json:
        typer.echo(json.dumps(paths, indent=2))
    for failure in failures[:-1]:
        typer.echo(f"error: {failure}", err=True)
    if failures:
        raise failures[-1]


EXAMPLES_OF_EXTEND = """
Make an encoder that reads longer texts, without training; texts within its window keep their vectors.

Methods: windows (any model), grouped, recurrent, interpolated (a table of positions, as BERT has), grouped,
interpolated, ntk, self_extend (rotary positions, as Llama has). The folder is a model like any other.

Examples:

    retriever models extend all-MiniLM-L6-v2 --method windows --length 2048 --output minilm-2048

    retriever index build docs/ my-index --encoder ./minilm-2048

    retriever models extend my-llama-encoder --method self_extend --length 16384 --window 4096 --output longer
"""


@app.command(help=EXAMPLES_OF_EXTEND)
def extend(
    name: Annotated[str, typer.Argument(help="A folder, a pinned name or a hub name.", show_default=False)],
    output: Annotated[Path, typer.Option(help="Folder that is made.", show_default=False)],
    method: Annotated[str, typer.Option(help="See above.", show_default=False)],
    length: Annotated[int, typer.Option(help="Longest text in tokens, special tokens included.", show_default=False)],
    window: Annotated[int | None, typer.Option(help="Tokens read as before; all positions of the model.")] = None,
    group: Annotated[int | None, typer.Option(help="self_extend: tokens to a position beyond the neighbours.")] = None,
    neighbours: Annotated[int | None, typer.Option(help="self_extend: how far positions stay exact.")] = None,
    base_factor: Annotated[float | None, typer.Option(help="ntk: of the rotary base.")] = None,
    temperature: Annotated[bool, typer.Option(help="Sharpen attention in longer texts.")] = True,
    offline: Annotated[bool, typer.Option("--offline", help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from retriever.long_context.settings import read_long_context

    settings = read_long_context(
        {
            "method": method, "length": length, "window": window, "group": group, "neighbours": neighbours,
            "base_factor": base_factor, "temperature": temperature,
        }
    )  # fmt: skip
    from retriever.long_context.extension import extend as make_longer
    from retriever.long_context.extension import save_extended
    from retriever.models.folder import require_new

    require_new(output)
    model = make_longer(name, settings, offline=offline)
    save_extended(model, name, output)
    made = model[0].long_context
    if as_json:
        typer.echo(json.dumps({"path": str(output), **made.model_dump(exclude_none=True)}, indent=2))
    else:
        typer.echo(f"{output}  {made.describe()}")


EXAMPLES_OF_EXPORT = """
Write an encoder as ONNX graphs with its tokenizer, for engines that run neither this project nor PyTorch.

One graph, or one of each side where queries and documents are encoded differently; pooling and heads are inside.
export.json names them, and the prompts that stand before texts. ONNX Runtime encodes samples by what was written, and
has to give the encoder's own vectors. Needs the extra "onnx".

Examples:

    retriever models export all-MiniLM-L6-v2 minilm-onnx

    retriever models export ./my-encoder my-encoder-onnx --json
"""


@app.command(help=EXAMPLES_OF_EXPORT)
def export(
    name: Annotated[str, typer.Argument(help="A folder, a pinned name or a hub name.", show_default=False)],
    output: Annotated[Path, typer.Argument(help="Folder that is made.", show_default=False)],
    offline: Annotated[bool, typer.Option("--offline", help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the content of export.json.")] = False,
) -> None:
    from retriever.models.onnx_graph import export as write_graphs

    recipe = write_graphs(name, output, offline=offline)
    if as_json:
        typer.echo(json.dumps(recipe, indent=2, ensure_ascii=False))
        return
    for side, made in recipe["sides"].items():
        typer.echo(
            f"{side:<10}{output / made['file']}  prompt {made['prompt']!r}  off by {made['largest_difference']:.1g}"
        )


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="A folder, a pinned name or a hub name.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a model is, where it came from and whether its files are unaltered. Needs no network.

    Example:

        retriever models describe all-MiniLM-L6-v2
    """
    description = describe_model(name)
    if as_json:
        typer.echo(json.dumps(description.as_json(), indent=2))
        return
    for label, value in _facts(description):
        typer.echo(f"{label:<12}{value}")
    if description.files:
        typer.echo("files")
    for file in description.files:
        mark = {True: "as built", False: "ALTERED", None: ""}[file.as_built]
        typer.echo(f"  {file.sha256}  {_megabytes(file.size):>10}  {file.name}  {mark}".rstrip())


def _facts(description: Description) -> list[tuple[str, str]]:
    verified = {
        True: "yes",
        False: "NO, some files are not as they were built",
        None: "nothing to compare with",
    }
    limit = description.max_tokens
    facts = [
        ("name", description.name),
        ("path", description.path or f"none; fetch it with: retriever models pull {description.name}"),
        ("source", description.source),
        ("revision", description.revision),
        ("origin", description.origin),
        ("role", description.role),
        ("licence", description.licence),
        ("parameters", f"{description.parameters:,}" if description.parameters is not None else None),
        ("dimension", str(description.dimension) if description.dimension else None),
        ("max tokens", f"{limit:,}" if limit else None),
        ("pooling", ", ".join(description.pooling) or None),
        ("normalised", ("yes" if description.normalised else "no") if description.dimension else None),
        ("similarity", description.similarity),
        *(("prompt", f"{kind}: {text!r}") for kind, text in description.prompts.items() if text),
        *(("wheel", f"{wheel['package']} {wheel['version']}") for wheel in description.wheels),
        ("verified", verified[description.verified] if description.files else None),
    ]
    return [(label, value) for label, value in facts if value is not None]
