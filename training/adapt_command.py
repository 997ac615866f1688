"""`retriever adapt ...`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def adapt(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="BEIR folder with judgments, pydocs, or any corpus.")],
    output: Annotated[Path, typer.Option(help="Folder of the model: the trained one, or the base.")],
    pairs: Annotated[
        Path | None, typer.Option(help="Lines of query, tab, id of a relevant document; a fifth is held out.")
    ] = None,
    base: Annotated[str, typer.Option(help="Model that training starts from.")] = "all-MiniLM-L6-v2",
    alpha: Annotated[float, typer.Option(help="Keep the trained model only with p below.", min=0, max=1)] = 0.05,
    config: Annotated[Path | None, typer.Option(help="YAML of settings of the recipe `contrastive`.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew, and replace a finished model.")] = False,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Train an encoder on your own collection, and keep it only if it is significantly better on held-out queries.

    The same command goes on where an interruption left it.

    Example:  retriever adapt my-corpus --pairs clicks.tsv --output my-encoder &&
    retriever index build my-corpus my-index --encoder my-encoder
    """
    from training import adaptation
    from training.recipes.contrastive import ContrastiveSettings
    from training.recipes.registry import CONFIGS
    from training.settings import read_settings

    settings = read_settings(
        ContrastiveSettings, config or CONFIGS / "adapt.yaml", [f"base={base}", *(set or [])], ignore=("recipe",)
    )
    found = adaptation.adapt(corpus, output, settings, pairs=pairs, alpha=alpha, restart=restart, offline=offline)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    measured = f"{found['measure']} {found['start']:.4f} -> {found['end']:.4f}, p = {found['p']:.2g}"
    what = "the trained model" if found["kept"] == "trained" else f"the base, {base}: no significant gain"
    typer.echo(f"{output}: {what} ({measured}, {found['queries']:,} {found['split']} queries).")
