"""`retriever train ...`."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Train encoders and rerankers on your own collection.")


@app.callback()
def train() -> None:
    """Train encoders and rerankers on your own collection."""


@app.command(
    "cross-encoder",
    epilog="Example:  retriever index corpus pydocs:stdlib --to pydocs && "
    "retriever train cross-encoder pydocs --output my-reranker && "
    "retriever search my-index 'a query' --rerank my-reranker",
)
def cross_encoder(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="BEIR folder with train judgments.")],
    output: Annotated[Path, typer.Option(help="Folder of the new model.")],
    base: Annotated[str | None, typer.Option(help="Model whose body it starts from; MiniLM if none is given.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML of settings, see training/configs.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train a reranker on judged pairs with BM25-mined negatives, and test it on held-out queries."""
    from training.recipes.cross_encoder import read_config, train_cross_encoder

    changes = [*(set or []), *([f"base={base}"] if base else [])]
    report = train_cross_encoder(pairs, output, read_config(config, changes), offline=offline)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    found = report["evaluation"]
    typer.echo(
        f"{output}: trained on {report['pairs']} pairs in {report['training_seconds']:.0f} s. "
        f"nDCG@10 on {found['queries']} {found['split']} queries: BM25 {found['bm25']:.4f}, "
        f"reranked {found['reranked']:.4f} ({found['difference']:+.4f}, p = {found['p']:.3g})"
    )
