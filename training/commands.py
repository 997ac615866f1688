"""`retriever train ...` and `retriever adapt`."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retriever.errors import InvalidInput

if TYPE_CHECKING:
    from training.recipe import Recipe
    from training.settings import EncoderSettings

app = typer.Typer(no_args_is_help=True, help="Train encoders and rerankers on your own collection.")


@app.callback()
def train() -> None:
    """Train encoders and rerankers on your own collection."""


@app.command(
    "run",
    epilog="Example:  retriever train run star --data nl2bash --output my-encoder --set fit.batch_size=64 && "
    "retriever index build nl2bash my-index --encoder my-encoder",
)
def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML of settings, or a recipe's name.")],
    data: Annotated[
        list[Path], typer.Option(help="BEIR folder with train judgments; repeatable where the recipe takes several.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the new model.")],
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew, and replace a finished model.")] = False,
    keep_work: Annotated[bool, typer.Option(help="Keep the folder of stages and checkpoints.")] = False,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train by a recipe and test the result against the start on held-out queries.

    The same command goes on where an interruption left it.
    """
    from training.recipes.registry import configured
    from training.settings import read_settings

    recipe, path = configured(config)
    settings = read_settings(recipe.settings, path, set or [], ignore=("recipe",))
    _run(recipe, settings, data, output, restart, keep_work, offline, as_json)


@app.command(
    "reranker",
    epilog="Example:  retriever train reranker my-reranker --data medquad --data nl2bash && "
    "retriever search my-index 'a query' --rerank my-reranker",
)
def reranker(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder of the new model.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="BEIR folder with train judgments, repeatable; without one, the standard library's docs."),
    ] = None,
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    restart: Annotated[bool, typer.Option(help="Begin anew, and replace a finished model.")] = False,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Train a reranker by the recipe cross_encoder, for `--rerank` and `retriever serve --reranker`.

    The same command goes on where an interruption left it.
    """
    from indexing.corpora import write_beir
    from training.recipes.registry import configured
    from training.settings import read_settings

    recipe, path = configured("cross_encoder")
    settings = read_settings(recipe.settings, path, set or [], ignore=("recipe",))
    folders = list(data or ())
    if not folders:
        folders = [output.parent / f".{output.name}.pydocs"]
        write_beir("pydocs:stdlib", folders[0])
    _run(recipe, settings, folders, output, restart, False, offline, as_json)


def _run(
    recipe: "Recipe",
    settings: "EncoderSettings",
    data: list[Path],
    output: Path,
    restart: bool,
    keep_work: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Train and say how it went."""
    from training.recipe import run_recipe

    report = run_recipe(recipe, settings, data, output, restart=restart, keep_work=keep_work, offline=offline)
    if as_json:
        typer.echo(json.dumps(report, indent=1, default=str))
        return
    typer.echo(f"{output}: {recipe.name} on {report['queries']:,} queries in {report['seconds']:.0f} s.")
    further = report.get("evaluation_from_float_base")
    if further:
        typer.echo(f"Start: {report['start']}.")
    for title, evaluation in (("", report["evaluation"]), ("from the float base, ", further or {})):
        for split, measures in evaluation.items():
            for name, found in measures.items():
                typer.echo(f"{title}{split} {name}: {_difference(found)}")
                if "untrained" in found:
                    typer.echo(f"{split} {name}, from the untrained reranker: {_difference(found['untrained'])}")


def _difference(found: dict[str, Any]) -> str:
    return (
        f"{found['start']:.4f} -> {found['end']:.4f} "
        f"({found['difference']:+.4f}, p = {found['p']:.2g}, {found['queries']:,} queries)"
    )


ConsistentTopK = Annotated[
    int | None,
    typer.Option(help="An encoder must find the document so high for its query too; CoRNStack has 2.", min=1),
]
ConsistentThreshold = Annotated[
    float | None, typer.Option(help="With --consistent-top-k: and score at least so much; CoRNStack has .7.")
]


def _threshold(top_k: int | None, threshold: float | None) -> float:
    """Return the least score of a consistent pair. Raises InvalidInput for one without a filter."""
    if threshold is not None and top_k is None:
        raise InvalidInput("--consistent-threshold belongs to --consistent-top-k; add it, such as 2, or leave it out.")
    return -math.inf if threshold is None else threshold


@app.command(
    "generate",
    epilog="Example:  retriever train generate my-corpus --output my-collection --set documents=2000 && "
    "retriever train run gpl --data my-collection --output my-encoder",
)
def generate(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Any corpus that `retriever index build` takes.")],
    output: Annotated[Path, typer.Option(help="BEIR folder to write, with a train and a dev split.")],
    config: Annotated[Path | None, typer.Option(help="YAML of settings.")] = None,
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    top_k: Annotated[int, typer.Option(help="BM25 must find the document so high for its query; 0: any.", min=0)] = 30,
    consistent_top_k: ConsistentTopK = None,
    consistent_threshold: ConsistentThreshold = None,
    consistent_model: Annotated[
        str, typer.Option(help="Encoder by which --consistent-top-k filters.")
    ] = "all-MiniLM-L6-v2",
    held_out: Annotated[float, typer.Option(help="Share of documents of the dev split.", min=0, max=0.9)] = 0.1,
    shard: Annotated[str, typer.Option(metavar="NUMBER/OF", help="Make only this part, such as 2/8.")] = "1/1",
    restart: Annotated[bool, typer.Option(help="Throw away queries that were made before.")] = False,
    device: Annotated[str | None, typer.Option(help="Where the model runs, such as cuda.")] = None,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Let a language model make up queries for documents, and write them as a collection to train on.

    Raw queries are kept in OUTPUT/generated.parquet; interrupted, the same command goes on where it stopped.
    """
    from retriever.encoder import load_encoder
    from training.generation import Consistency, GenerationSettings
    from training.jobs import run_generation
    from training.settings import read_settings

    threshold = _threshold(consistent_top_k, consistent_threshold)

    def consistency() -> Consistency:
        encoder = load_encoder(consistent_model, device=device, offline=offline)
        return Consistency(encoder, consistent_top_k or 1, threshold)

    settings = read_settings(GenerationSettings, config, set or [])
    report = run_generation(
        corpus, output, settings, top_k=top_k or None, held_out=held_out,
        consistency=consistency if consistent_top_k else None, shard=shard, restart=restart, device=device,
        offline=offline, quiet=quiet,
    )  # fmt: skip
    typer.echo(json.dumps(report, indent=1) if as_json else report["summary"])


@app.command("recipes")
def recipes() -> None:
    """List the recipes and where they come from."""
    from training.recipes.registry import NAMES, recipe

    for name in NAMES:
        found = recipe(name)
        typer.echo(f"{name:16} {found.summary} [{found.source}]")


Sharding = Annotated[str, typer.Option(metavar="NUMBER/OF", help="Make only this part, such as 2/8.")]
Restart = Annotated[bool, typer.Option(help="Throw away unfinished work and replace the output.")]
Device = Annotated[str | None, typer.Option(help="Where models run, such as cuda.")]
Offline = Annotated[bool, typer.Option(help="Make no network call.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@app.command(
    "mine",
    epilog="Example:  retriever train mine my-index --queries nfcorpus --output negatives.parquet && "
    "retriever train score negatives.parquet --model my-reranker --output scores.parquet",
)
def mine(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Index of the collection's corpus.")],
    queries: Annotated[str, typer.Option(help="BEIR folder, or irds:NAME, with queries and judgments.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write, see docs/training-data.md.")],
    split: Annotated[str, typer.Option(help="Whose queries are mined.")] = "train",
    sources: Annotated[str, typer.Option(help="Of bm25, dense, sparse; joined by commas.")] = "bm25,dense",
    depth: Annotated[int, typer.Option(help="Documents from each source for a query.", min=1)] = 200,
    denoise: Annotated[str | None, typer.Option(help="Cross-encoder that drops likely positives.")] = None,
    denoise_ratio: Annotated[float, typer.Option(help="Drop above this share of the positive's probability.")] = 0.95,
    estimate: Annotated[bool, typer.Option(help="Estimate false negatives by the index's encoder.")] = True,
    portion: Annotated[int, typer.Option(help="Queries between two saves.", min=1)] = 1024,
    shard: Sharding = "1/1",
    restart: Restart = False,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Mine hard negatives for judged queries; interrupted, the same command goes on where it stopped."""
    from training.jobs import run_mining

    report = run_mining(
        index, queries, output, split=split, shard=shard, restart=restart, device=device, offline=offline, quiet=quiet,
        settings={
            "sources": sources.split(","), "depth": depth, "denoise": denoise, "denoise_ratio": denoise_ratio,
            "estimate": estimate, "portion": portion,
        },
    )  # fmt: skip
    typer.echo(json.dumps(report, indent=1) if as_json else report["summary"])


@app.command(
    "score",
    epilog="Example:  retriever train score negatives.parquet --model my-reranker --output scores.parquet",
)
def score(
    pairs: Annotated[Path, typer.Argument(metavar="PAIRS", help="Parquet file with query_id and document_id.")],
    model: Annotated[str, typer.Option(help="Cross-encoder: a folder or name.")],
    output: Annotated[Path, typer.Option(help="Parquet file of scores to write.")],
    index: Annotated[Path | None, typer.Option(help="Index of the documents; PAIRS may name it.")] = None,
    queries: Annotated[str | None, typer.Option(help="Where the queries' texts are; PAIRS may name it.")] = None,
    split: Annotated[str | None, typer.Option(help="Of the queries; PAIRS may name it.")] = None,
    shard: Sharding = "1/1",
    restart: Restart = False,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score pairs by a cross-encoder, once, as a teacher's scores; resumes as `mine` does."""
    from training.jobs import run_scoring

    report = run_scoring(
        pairs, output, model, index=index, queries=queries, split=split, shard=shard, restart=restart,
        device=device, offline=offline, quiet=quiet,
    )  # fmt: skip
    typer.echo(json.dumps(report, indent=1) if as_json else report["summary"])


@app.command(
    "merge",
    epilog="Example:  retriever train merge a/negatives.parquet.work b/negatives.parquet.work --output all.parquet",
)
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="WORK...", help="The .work folders of all machines.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    as_json: Json = False,
) -> None:
    """Merge what `mine --shard` or `score --shard` made on machines that share no disk."""
    from training.jobs import run_merging

    report = run_merging(folders, output)
    typer.echo(json.dumps(report, indent=1) if as_json else report["summary"])


def adapt(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="BEIR folder with judgments, pydocs, or any corpus.")],
    output: Annotated[Path, typer.Option(help="Folder of the model: the trained one, or the base.")],
    pairs: Annotated[
        Path | None, typer.Option(help="Lines of query, tab, id of a relevant document; a fifth is held out.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model that training starts from. [default: the recipe's, all-MiniLM-L6-v2]")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Keep the trained model only with p below.", min=0, max=1)] = 0.05,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML of settings of the recipe `contrastive`; without labels of the recipe that it names."),
    ] = None,
    set: Annotated[list[str] | None, typer.Option(help="Change one setting: key=value; repeatable.")] = None,
    without_labels: Annotated[
        bool, typer.Option("--without-labels", help="Learn from queries that a language model makes up.")
    ] = False,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Without labels: gpl (a cross-encoder's margins) or genq. [default: what --config names, else gpl]"
        ),
    ] = None,
    generate: Annotated[
        list[str] | None, typer.Option(help="Without labels: change how queries are made: key=value; repeatable.")
    ] = None,
    top_k: Annotated[
        int, typer.Option(help="Without labels: BM25 must find the document so high; 0: any.", min=0)
    ] = 30,
    consistent_top_k: ConsistentTopK = None,
    consistent_threshold: ConsistentThreshold = None,
    restart: Annotated[bool, typer.Option(help="Begin anew, and replace a finished model.")] = False,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Train an encoder on your own collection, and keep it only if it is significantly better on held-out queries.

    The same command goes on where an interruption left it.

    Examples:  retriever adapt my-corpus --pairs clicks.tsv --output my-encoder  |
    retriever adapt my-corpus --without-labels --output my-encoder --generate documents=5000 --generate queries=2
    """
    from training import adaptation
    from training.generation import GenerationSettings
    from training.recipes.contrastive import ContrastiveSettings
    from training.recipes.registry import CONFIGS, configured, named_in
    from training.settings import read_settings

    changes = [*([f"base={base}"] if base else []), *(set or [])]
    threshold = _threshold(consistent_top_k, consistent_threshold)
    if without_labels:
        if pairs is not None:
            raise InvalidInput("--pairs are labels; give either them or --without-labels.")
        named = named_in(config) if config is not None else None
        chosen, path = configured(recipe or named or "gpl")
        if config is not None and named not in (None, chosen.name):
            raise InvalidInput(f"{config} is for the recipe {named}, and --recipe is {chosen.name}; give one of them.")
        settings = read_settings(chosen.settings, config or path, changes, ignore=("recipe",))
        found = adaptation.adapt_without_labels(
            corpus,
            output,
            chosen,
            settings,
            read_settings(GenerationSettings, None, generate or []),
            top_k=top_k or None,
            consistent_top_k=consistent_top_k,
            consistent_threshold=threshold,
            alpha=alpha,
            restart=restart,
            offline=offline,
        )
    else:
        if recipe or generate or consistent_top_k:
            raise InvalidInput(
                "--recipe, --generate and --consistent-top-k belong to --without-labels; add it, or leave them out."
            )
        named = named_in(config) if config is not None else None
        if named not in (None, "contrastive"):
            raise InvalidInput(
                f"{config} is for the recipe {named}, and adapting with labels takes contrastive; leave out --config, "
                f"or use `retriever train run {config}`."
            )
        settings = read_settings(ContrastiveSettings, config or CONFIGS / "adapt.yaml", changes, ignore=("recipe",))
        found = adaptation.adapt(corpus, output, settings, pairs=pairs, alpha=alpha, restart=restart, offline=offline)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    measured = f"{found['measure']} {found['start']:.4f} -> {found['end']:.4f}, p = {found['p']:.2g}"
    what = "the trained model" if found["kept"] == "trained" else f"the base, {settings.base}: no significant gain"
    against = "" if found["compared_with"] == "the base" else f" from {found['compared_with']}"
    typer.echo(f"{output}: {what} ({measured}{against}, {found['queries']:,} {found['split']} queries).")
