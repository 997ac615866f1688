"""`retriever search INDEX "text"`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from retriever.errors import InvalidInput
from retriever.types import Answer, Hit

SNIPPET = 300


def read_filter(clauses: list[str], fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the filter that all clauses make together: JSON objects or `field=value`; None for none."""
    from retriever.filters import parse_clause

    parts = []
    for clause in clauses:
        if clause.lstrip().startswith("{"):
            try:
                parts.append(json.loads(clause))
            except ValueError as error:
                raise InvalidInput(f"the filter {clause!r} is not JSON: {error}") from error
        else:
            parts.append(parse_clause(clause, fields))
    return {"and": parts} if parts else None


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")],
    query: Annotated[str, typer.Argument(help="What to look for; - reads one query a line from standard input.")],
    k: Annotated[int, typer.Option("--k", "-k", help="How many hits.")] = 10,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", "-p", help="bm25, dense, hybrid or a stored one.")
    ] = None,
    field_weights: Annotated[
        str | None,
        typer.Option(metavar="NAME=N,...", help="Fields that BM25 searches and their weights: title=2,contents=1."),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="Cross-encoder that reorders the top: name or folder; or a language model: pairwise:MODEL, "
            "yes_no:MODEL, query_likelihood:MODEL, query_likelihood+bfloat16:MODEL, pairwise+endpoint:MODEL."
        ),
    ] = None,
    rerank_depth: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="How many documents it reads: 50 if none is given, 20 of language models."),
    ] = None,
    rerank_weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of its score in the order; the stages before have the rest."),
    ] = None,
    filter: Annotated[
        list[str] | None,
        typer.Option("--filter", "-f", help="field=value, field>=number or JSON; repeatable, all must hold."),
    ] = None,
    group_by_parent: Annotated[bool, typer.Option(help="One hit for each chunked document.")] = False,
    offset: Annotated[int, typer.Option(min=0, help="Hits to pass over.")] = 0,
    deadline_ms: Annotated[float | None, typer.Option(help="Leave out reranking beyond this time.")] = None,
    syntax: Annotated[
        bool, typer.Option("--syntax", help='Read signs, quotes, * and ~: +word -word "a phrase" retriev* fuzzy~1.')
    ] = False,
    encoder: Annotated[str | None, typer.Option(help="The index's encoder under another name or path.")] = None,
    sparse_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its learned sparse part under another name or path.")
    ] = None,
    local_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its local vectors under another name or path.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")] = None,
    offline: Annotated[bool, typer.Option(help="Make no network call.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a query.")] = False,
) -> None:
    """Search an index and show each hit with the scores of all stages.

    Examples:

      retriever search my-index "how are tokens counted"

      retriever search my-index "parse json" -k 5 -p hybrid -f kind=function -f 'lines<50'

      retriever search my-index --syntax '"passage retrieval" +rank* -bert'

      retriever search my-index "swept wing" --field-weights title=2,contents=1

      retriever search my-index "swept wing" --rerank pairwise:SmolLM2-135M-Instruct --rerank-depth 10

      retriever search my-index - --json < queries.txt
    """
    from retriever.fields import read_weights
    from retriever.index.sealed import open_index
    from retriever.pipeline import Rerank

    queries = [query]
    if query == "-":
        queries = [line.strip() for line in typer.get_text_stream("stdin") if line.strip()]
    with open_index(
        index,
        encoder=encoder,
        sparse_encoder=sparse_encoder,
        local_encoder=local_encoder,
        device=device,
        offline=offline,
    ) as opened:
        chosen = opened.pipelines.get(pipeline or opened.default_pipeline, pipeline)
        if rerank and not isinstance(chosen, str | None):
            given = {"weight": rerank_weight, "depth": rerank_depth}
            options = {name: value for name, value in given.items() if value is not None}
            chosen = chosen.model_copy(update={"rerank": Rerank.read(rerank, **options)})
        answers = opened.batch_search(
            queries,
            k,
            pipeline=chosen if rerank else pipeline,
            field_weights=read_weights(field_weights) if field_weights is not None else None,
            filter=read_filter(filter or [], opened.fields),
            group_by_parent=group_by_parent,
            highlight=not as_json,
            offset=offset,
            deadline_ms=deadline_ms,
            syntax=syntax,
        )
    for text, answer in zip(queries, answers, strict=True):
        if as_json:
            typer.echo(json.dumps({"query": text, "status": answer.status, **asdict(answer)}, ensure_ascii=False))
        else:
            _print(text, answer, offset)


def _print(query: str, answer: Answer, offset: int) -> None:
    console = Console()
    notes = [answer.status, f"{answer.timings['total']:.1f} ms", answer.pipeline]
    if answer.usage:
        tokens = answer.usage["prompt_tokens"] + answer.usage["answer_tokens"]
        notes.append(f"{answer.usage['calls']} calls, {tokens} tokens")
    console.print(Text(f"{query}  ", style="bold").append(f"[{', '.join(notes)}]", style="dim"))
    for warning in [*answer.degraded, *answer.warnings]:
        console.print(Text(f"  {warning}", style="yellow"))
    if not answer.hits:
        console.print(Text("  no documents", style="dim"))
    for rank, hit in enumerate(answer.hits, offset + 1):
        _print_hit(console, rank, hit)


def _print_hit(console: Console, rank: int, hit: Hit) -> None:
    stages = "  ".join(f"{stage} {score:.4g}" for stage, score in hit.scores.items())
    console.print(
        Text(f"{rank:>3}. ").append(hit.id, style="cyan").append(f"  {hit.score:.4f}", style="green")
        .append(f"  {stages}" if len(hit.scores) > 1 else "", style="dim")
    )  # fmt: skip
    if hit.document is None:
        return
    if hit.document.title:
        console.print(Text(f"     {hit.document.title}", style="bold"))
    console.print(_snippet(hit))


def _snippet(hit: Hit) -> Text:
    """Return a piece of the text around the first match, with the matches marked."""
    assert hit.document is not None
    first = hit.highlights[0][0] if hit.highlights else 0
    start = max(0, first - SNIPPET // 3)
    text = Text(hit.document.text[start : start + SNIPPET].replace("\n", " "))
    for begin, end in hit.highlights:
        if begin >= start:
            text.stylize("bold magenta", begin - start, end - start)
    text.pad_left(5)
    return text
