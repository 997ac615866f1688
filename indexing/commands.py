"""`retriever index ...`: build, add, delete, compact, verify, describe."""

import json
import os
import shutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from retriever.analysis import ANALYSERS
from retriever.errors import BackendUnavailable, IndexCorrupt, InvalidInput

app = typer.Typer(no_args_is_help=True, help="Build, change and check indexes.")

IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Offline = Annotated[bool, typer.Option(help="Make no network call; models must be on this machine.")]
Device = Annotated[str | None, typer.Option(help="Where to encode and train: cpu, cuda, cuda:1, mps.")]
Corpus = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="BEIR folder; .jsonl, .csv, .tsv or .parquet file (.gz, .zst too); folder of text, Markdown or "
        "HTML; irds:NAME; pydocs or pydocs:stdlib; - for JSONL on standard input.",
    ),
]
Format = Annotated[str | None, typer.Option(help="Read the corpus as this format instead of guessing.")]
IdField = Annotated[str | None, typer.Option(help="Column or key that holds the id.")]
TitleField = Annotated[str | None, typer.Option(help="Column or key that holds the title.")]
TextField = Annotated[str | None, typer.Option(help="Column or key that holds the text.")]
MetadataField = Annotated[
    list[str] | None,
    typer.Option(help='Column or key to keep as metadata; repeatable. All are kept without it, none with "".'),
]
Header = Annotated[
    bool | None,
    typer.Option(help="CSV and TSV: whether the first line names the columns; judged by its content otherwise."),
]
MaxBadLines = Annotated[int, typer.Option(min=0, help="Faulty lines to leave out before giving up.")]
Processes = Annotated[
    int | None, typer.Option(min=1, max=256, help="Processes that analyse text; as many as cores, up to 8.")
]
Restart = Annotated[bool, typer.Option(help="Throw away an unfinished run instead of resuming it.")]
Duplicates = Annotated[
    str, typer.Option(help="Document ids that occur twice: fail, skip (first wins) or overwrite (last wins).")
]


def _corpus(source: str, **options: Any) -> Any:
    from indexing.corpora import open_corpus

    return open_corpus(source, **_given(options))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given; an option that can be repeated is an empty list when it was not."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, indent=1))
        return
    for name, value in result.items():
        if value not in (None, [], {}, ""):
            typer.echo(f"{name.replace('_', ' '):>18}  {value}")


def _processes(asked: int | None) -> int:
    return asked or min(8, os.cpu_count() or 1)


def _fields(declarations: list[str]) -> dict[str, str]:
    fields = {}
    for declaration in declarations:
        name, _, kind = declaration.partition(":")
        if not name or kind not in ("", "keyword", "number"):
            raise InvalidInput(f"--field takes NAME, NAME:keyword or NAME:number, got {declaration!r}.")
        fields[name] = kind or "keyword"
    return fields


@app.command(
    epilog="Examples:  retriever index build corpus.jsonl my-index  |  "
    "retriever index build docs/ my-index --chunk 200 --field lang --dense hnsw  |  "
    "retriever index build corpus.jsonl my-index --dense opq48 --store none  |  "
    "retriever index build corpus.jsonl my-index --encoder my-bidr --local-encoder my-bidr/local  |  "
    "retriever index build papers.jsonl my-index --search-fields title,text,authors  |  "
    "retriever index build papers.jsonl my-index --parts bm25 --positions  |  "
    "zcat dump.gz | retriever index build - my-index --parts bm25"
)
def build(
    corpus: Corpus,
    index: IndexPath,
    parts: Annotated[str, typer.Option(help="Comma-separated: bm25, sparse, dense.")] = "bm25,dense",
    encoder: Annotated[
        str,
        typer.Option(help="Model for the vectors: folder, hub name or pinned name (retriever models list)."),
    ] = "all-MiniLM-L6-v2",
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: faster, vectors at cosine 0.9999.")] = (
        "float32"
    ),
    dense: Annotated[
        str,
        typer.Option(
            help="flat (exact); codes of our own: binary, pqM or opqM with M bytes a document, such as opq48; "
            "indexes of FAISS: hnsw, ivf,pq, or any factory string."
        ),
    ] = "flat",
    store: Annotated[
        str | None,
        typer.Option(
            help="float32, float16, or none for codes alone. Codes that the model itself makes stand alone by default."
        ),
    ] = None,
    codebook: Annotated[
        Path | None, typer.Option(help="Codebook of another index with the same encoder, for pqM and opqM.")
    ] = None,
    oversample: Annotated[
        int, typer.Option(min=1, help="Candidates per hit that an inexact index has rescored exactly.")
    ] = 4,
    local_encoder: Annotated[
        str | None,
        typer.Option(help="A second model, whose vectors on disk put in order what was found, such as bidr's `local`."),
    ] = None,
    local_store: Annotated[str, typer.Option(help="Its vectors as float16 or float32.")] = "float16",
    sparse_encoder: Annotated[
        str, typer.Option(help="Model for learned sparse weights: folder, hub name or pinned name.")
    ] = "splade-tiny",
    sparse_precision: Annotated[
        str, typer.Option(help="uint8: weights in whole steps; float32: exact, three times the bytes.")
    ] = "uint8",
    analyser: Annotated[str, typer.Option(help=f"How text becomes terms: {', '.join(ANALYSERS)}.")] = "lucene-english",
    k1: Annotated[float, typer.Option(help="BM25: how fast repeated terms stop counting.")] = 0.9,
    b: Annotated[float, typer.Option(help="BM25: how much length counts, 0 to 1.")] = 0.4,
    field: Annotated[
        list[str] | None, typer.Option(help="Metadata field to filter by: NAME or NAME:number; repeatable.")
    ] = None,
    search_fields: Annotated[
        str,
        typer.Option(
            help="Comma-separated: title, text or metadata fields that BM25 can also search by name and weigh, see "
            "retriever search --field-weights."
        ),
    ] = "",
    positions: Annotated[
        bool,
        typer.Option(
            "--positions", help="Keep where terms stand, so that phrases need no texts: exact however many match."
        ),
    ] = False,
    chunk: Annotated[
        int | None, typer.Option(help="Cut documents into windows of this many tokens of the encoder.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Tokens that neighbouring windows share at most.")] = 32,
    pipelines: Annotated[Path | None, typer.Option(help="YAML of named pipelines to store.")] = None,
    default_pipeline: Annotated[str | None, typer.Option(help="Pipeline used when none is asked for.")] = None,
    duplicates: Duplicates = "fail",
    max_bad_lines: MaxBadLines = 0,
    max_bad_vectors: Annotated[int, typer.Option(min=0, help="Documents whose vector may be unusable.")] = 0,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    metadata_field: MetadataField = None,
    header: Header = None,
    shard_documents: Annotated[
        int | None,
        typer.Option(help="Documents between two points to resume from; 16384, and 4096 where a model reads them."),
    ] = None,
    processes: Processes = None,
    segment_documents: Annotated[int, typer.Option(help="Most documents of one segment.")] = 1_000_000,
    device: Device = None,
    offline: Offline = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an index that is there.")] = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build an index from a corpus. Run the same command again to resume after an interruption."""
    from indexing.build import build_index
    from indexing.plan import BuildSettings
    from retriever.pipeline import read_pipelines

    try:
        settings = BuildSettings.model_validate(
            {
                "parts": [part.strip() for part in parts.split(",") if part.strip()],
                "encoder": encoder,
                "precision": precision,
                "dense": dense,
                "store": store,
                "oversample": oversample,
                "local_encoder": local_encoder,
                "local_store": local_store,
                "sparse_encoder": sparse_encoder,
                "sparse_precision": sparse_precision,
                "analyser": analyser,
                "k1": k1,
                "b": b,
                "fields": _fields(field or []),
                "search_fields": [name.strip() for name in search_fields.split(",") if name.strip()],
                "positions": positions,
                "window": chunk,
                "overlap": overlap,
                "duplicates": duplicates,
                "max_bad_vectors": max_bad_vectors,
                "shard_documents": shard_documents,
                "segment_documents": segment_documents,
            }
        )
    except ValidationError as error:
        raise InvalidInput(_first_complaint(error)) from error
    source = _corpus(
        corpus,
        format=format,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        metadata_fields=metadata_field,
        header=header,
        max_bad_lines=max_bad_lines,
        duplicates=duplicates,
    )
    report = build_index(
        source,
        index,
        settings,
        pipelines=read_pipelines(pipelines) if pipelines else None,
        default_pipeline=default_pipeline,
        codebook=codebook,
        device=device,
        offline=offline,
        overwrite=overwrite,
        restart=restart,
        quiet=quiet,
        processes=_processes(processes),
    )
    _warn(report)
    _show({"index": str(index), **report}, as_json)


def _first_complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}, got {first['input']!r}."


def _warn(report: dict[str, Any]) -> None:
    """Say on standard error what a user should not have to look for."""
    if report["truncated"]:
        typer.echo(
            f"warning: {report['truncated']} documents are longer than the encoder reads; "
            "the rest of them is found by BM25 only. Use --chunk to index all of it.",
            err=True,
        )
    if report["empty"]:
        typer.echo(f"warning: {report['empty']} documents have no text; no search finds them.", err=True)
    for name, count in report["search_fields"].items():
        if not count:
            typer.echo(f"warning: no document has text in the search field {name!r}; check its name.", err=True)
    if report.get("bad_lines"):
        typer.echo(f"warning: {report['bad_lines']} faulty lines were left out.", err=True)


@app.command(epilog="Example:  retriever index add new.jsonl my-index --duplicates overwrite")
def add(
    corpus: Corpus,
    index: IndexPath,
    duplicates: Duplicates = "fail",
    positions: Annotated[
        bool, typer.Option("--positions", help="Refuse an index that was not built with --positions.")
    ] = False,
    max_bad_lines: MaxBadLines = 0,
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    metadata_field: MetadataField = None,
    header: Header = None,
    processes: Processes = None,
    device: Device = None,
    offline: Offline = False,
    restart: Restart = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add documents to an index, as it was built. Run the same command again to resume."""
    from indexing.build import add_documents

    source = _corpus(
        corpus,
        format=format,
        id_field=id_field,
        title_field=title_field,
        text_field=text_field,
        metadata_fields=metadata_field,
        header=header,
        max_bad_lines=max_bad_lines,
        duplicates=duplicates,
    )
    report = add_documents(
        source,
        index,
        duplicates=duplicates,
        positions=positions,
        device=device,
        offline=offline,
        restart=restart,
        quiet=quiet,
        processes=_processes(processes),
    )
    _warn(report)
    _show({"index": str(index), **report}, as_json)


@app.command(
    epilog="Examples:  retriever index delete my-index doc-1 doc-2  |  "
    "retriever index delete my-index --ids-file gone.txt --ignore-missing  |  "
    "retriever index delete my-index --filter 'year<2000'"
)
def delete(
    index: IndexPath,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of documents.")] = None,
    ids_file: Annotated[
        typer.FileText | None, typer.Option(help="File with one id a line, - for standard input.")
    ] = None,
    filter: Annotated[list[str] | None, typer.Option(help="Delete all that match; see retriever search.")] = None,
    ignore_missing: Annotated[bool, typer.Option(help="Ids that are not there are no error.")] = False,
    as_json: Json = False,
) -> None:
    """Delete documents by id or by filter."""
    from indexing.change import delete_documents
    from retriever.commands.search import read_filter
    from retriever.index.manifest import read_manifest

    chosen = list(ids or [])
    if ids_file is not None:
        chosen += [line.rstrip("\r\n") for line in ids_file if line.strip()]
    condition = read_filter(filter or [], read_manifest(index)[0].fields)
    _show(delete_documents(index, chosen, filter=condition, ignore_missing=ignore_missing), as_json)


@app.command(epilog="Example:  retriever index compact my-index")
def compact(index: IndexPath, device: Device = None, as_json: Json = False) -> None:
    """Merge segments into one and drop deleted documents."""
    from indexing.change import compact_index

    _show(compact_index(index, device=device), as_json)


@app.command(
    epilog="Examples:  retriever index compress my-index --output small --queries data/nfcorpus --split dev  |  "
    "retriever index compress my-index --target 8x --max-loss 0.005 --dry-run  |  "
    "retriever index compress my-index --output small --target 32x --memory-only"
)
def compress(
    index: IndexPath,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the smaller index.")] = None,
    target: Annotated[str, typer.Option(help="How many times smaller than float32 vectors: 32x.")] = "32x",
    max_loss: Annotated[float, typer.Option(min=0, max=1, help="Of nDCG@10 against exact search.")] = 0.02,
    queries: Annotated[
        str | None,
        typer.Option(
            help="Judged or generated queries: BEIR folder or irds:NAME. Without it documents are asked for by title, "
            "and the loss is one of agreement with exact search."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgments: qrels/SPLIT.tsv.")] = "dev",
    keep_self: Annotated[
        bool, typer.Option(help="Queries and documents are numbered apart: equal ids mean nothing.")
    ] = False,
    memory_only: Annotated[
        bool, typer.Option(help="Count what each search reads; vectors for rescoring may lie on disk beside it.")
    ] = False,
    mean: Annotated[
        bool, typer.Option("--mean", help="The mean loss decides, instead of the lower end of its 95 % interval.")
    ] = False,
    train: Annotated[
        bool,
        typer.Option(
            "--train",
            help="Also train codes, by bpr and jpq from the index's encoder: on the train split of --queries, or on "
            "queries that a language model makes up. Minutes to hours.",
        ),
    ] = False,
    set: Annotated[
        list[str] | None,
        typer.Option(help="With --train: a setting of a recipe, such as bpr.fit.epochs=3; repeatable."),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option(
            help="With --train: how queries are made up: key=value; repeatable. Without --queries those of a tenth of "
            "the documents are held out, and what is lost is measured by them."
        ),
    ] = None,
    consistent_top_k: Annotated[
        int | None,
        typer.Option(
            help="With --train: a made-up query stays only if the index's encoder finds its document so high.", min=1
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the report goes, as .md and .json; beside the output by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Try and report only.")] = False,
    device: Device = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the smallest form of the vectors that loses little on queries, and write the index in it.

    Tried are float16, a byte a dimension, product codes, signs and RaBitQ, each with and without vectors for
    rescoring as far as the bytes allow. Nothing is encoded again, but by codes that --train has learned, which are
    tried alone and rescored by the stored vectors: an index of those is written with its model beside it, in
    OUTPUT.encoder. Exit code 2 when no form keeps the bound.
    """
    from indexing import compression
    from indexing.compression_report import as_markdown
    from indexing.compression_report import report as content_of
    from indexing.recoding import encoder_folder
    from retriever.evaluation.collections import open_collection
    from retriever.storage import write_atomically

    if output is None and not dry_run:
        raise InvalidInput("name the folder of the smaller index with --output, or add --dry-run.")
    if output is not None and output.exists() and not dry_run:
        raise InvalidInput(f"{output} is there already; name a folder that is not.")
    try:
        times = float(target.removesuffix("x"))
    except ValueError:
        raise InvalidInput(f"--target is a number such as 32x, got {target!r}.") from None
    if (set or generate or consistent_top_k) and not train:
        raise InvalidInput("--set, --generate and --consistent-top-k belong to --train; add it, or leave them out.")
    if train and output is None:
        raise InvalidInput("--train needs a place for models; name it with --output, with --dry-run too.")
    work = output.with_name(f".{output.name}.learned") if output is not None else None
    collection = open_collection(queries, split) if queries is not None else None
    # Before hours of training, whose result could not be compared.
    compression.require_measurable(times, max_loss, collection)
    learned, held_out = [], None
    if train and work is not None:
        if not dry_run and encoder_folder(output or work).exists():
            raise InvalidInput(f"{encoder_folder(output or work)} is there already; name another --output.")
        learned, held_out = _learned_forms()(
            index, work, times=times, queries=queries, split=split, changes=set or [], generation=generate or [],
            device=device, offline=offline, quiet=quiet, consistent_top_k=consistent_top_k,
        )  # fmt: skip
    found = compression.try_forms(
        index,
        target=times,
        max_loss=max_loss,
        learned=learned,
        collection=collection if collection is not None else held_out,
        generated=held_out is not None,
        by_mean=mean,
        memory_only=memory_only,
        keep_self=keep_self,
        device=device,
        offline=offline,
        quiet=quiet,
    )
    content = content_of(found)
    place = report or (output.with_name(f"{output.name}.compression") if output is not None else None)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place.with_name(f"{place.name}.md"), as_markdown(found).encode())
        write_atomically(place.with_name(f"{place.name}.json"), json.dumps(content, indent=1).encode())
    if as_json:
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        typer.echo(as_markdown(found))
    if found.chosen is not None and output is not None and not dry_run:
        compression.compress_index(found, output, device=device, quiet=quiet)
        # Until an index is written another bound can be tried without training anew.
        if train and work is not None:
            shutil.rmtree(work)
    if found.chosen is None:
        raise InvalidInput(compression.refusal(found))


def _learned_forms() -> Any:
    """Return what trains forms, found by its name since nothing is imported upward."""
    points = list(entry_points(group="retriever.learned_forms"))
    if not points:
        raise BackendUnavailable("nothing that trains codes is installed; install retriever-engine anew.")
    return points[0].load()


@app.command(epilog="Example:  retriever index export-faiss my-index vectors.faiss")
def export_faiss(
    index: IndexPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="FAISS file to write; ids go to FILE.ids.json.")],
    as_json: Json = False,
) -> None:
    """Write the dense part as an index of FAISS with the same scores, for other programs."""
    from indexing.faiss_export import export_faiss as export

    _show(export(index, file), as_json)


@app.command(epilog="Example:  retriever index discard my-index")
def discard(index: IndexPath) -> None:
    """Throw away an unfinished build or add; the index itself stays as it is."""
    from indexing.change import discard_unfinished

    typer.echo("discarded" if discard_unfinished(index) else "there was nothing unfinished")


@app.command(epilog="Example:  retriever index pipelines my-index pipelines.yaml --default quality")
def pipelines(
    index: IndexPath,
    file: Annotated[Path, typer.Argument(help="YAML that maps names to pipelines.")],
    default: Annotated[str | None, typer.Option(help="Pipeline used when none is asked for.")] = None,
) -> None:
    """Store named pipelines in an index."""
    from indexing.change import store_pipelines
    from retriever.pipeline import read_pipelines

    store_pipelines(index, read_pipelines(file), default)


@app.command(
    epilog="Examples:  retriever index calibrate my-index data/scifact --split train  |  "
    "retriever index calibrate my-index irds:beir/scifact/train -p bm25 --reranker my-cross-encoder"
)
def calibrate(
    index: IndexPath,
    collection: Annotated[
        str, typer.Argument(metavar="COLLECTION", help="Judged queries: BEIR folder, irds:NAME or a file of judgments.")
    ],
    split: Annotated[str, typer.Option(help="Which judgments: qrels/SPLIT.tsv.")] = "train",
    queries: Annotated[Path | None, typer.Option(help="File of queries, for a file of judgments.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", "-p", help="The index's default if none is given.")
    ] = None,
    reranker: Annotated[str | None, typer.Option(help="Cross-encoder behind it, by the name that serve gets.")] = None,
    rerank_depth: Annotated[int, typer.Option(min=1, max=1000, help="How many documents it reads.")] = 50,
    depth: Annotated[int, typer.Option(min=1, max=1000, help="Hits of each query.")] = 100,
    relevant_from: Annotated[int, typer.Option(min=1, help="Least grade that counts as relevant.")] = 1,
    method: Annotated[
        str | None, typer.Option(help="isotonic or logistic; by default the better one on unseen queries.")
    ] = None,
    judged_only: Annotated[
        bool, typer.Option(help="Leave out hits that nobody judged, instead of counting them as not relevant.")
    ] = False,
    group_by_parent: Annotated[bool, typer.Option(help="Judgments are about documents that were cut.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only show how reliable it would be.")] = False,
    device: Device = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fit what turns a pipeline's scores into probabilities of relevance, and store it in the index.

    Searches then give each hit its `relevance`, and `min_relevance` leaves hits out. Shown are numbers for queries that
    the curve had not seen (cross-validation by query).
    """
    from indexing.change import store_calibration
    from retriever.evaluation.calibration import METHODS
    from retriever.evaluation.calibration import calibrate as fit
    from retriever.evaluation.collections import open_collection
    from retriever.index.sealed import open_index
    from retriever.pipeline import Rerank

    chosen = next((name for name in METHODS if name == method), None)
    if method is not None and chosen is None:
        raise InvalidInput(f"--method is {' or '.join(METHODS)}, got {method!r}.")
    judged = open_collection(collection, split, queries=queries)
    with open_index(index, device=device, offline=offline) as opened:
        name = pipeline or opened.default_pipeline
        if name not in opened.pipelines:
            raise InvalidInput(f"unknown pipeline {name!r}; this index offers {', '.join(opened.pipelines)}.")
        spec = opened.pipelines[name]
        if reranker is not None:
            spec = spec.model_copy(update={"rerank": Rerank(model=reranker, depth=rerank_depth)})
        found = fit(
            opened, judged, spec, depth=depth, relevant_from=relevant_from, method=chosen, judged_only=judged_only,
            group_by_parent=group_by_parent, quiet=quiet,
        )  # fmt: skip
    if not dry_run:
        store_calibration(index, found)
    reliability = {key: round(value, 5) for key, value in found.reliability.model_dump().items()}
    if reliability["brier"] >= reliability["brier_of_mean"]:
        typer.echo("warning: these probabilities are no better than always saying the mean.", err=True)
    shown = found.model_dump(include={"collection", "queries", "pairs", "judged", "relevant", "generation"})
    _show({"pipeline": name, "method": found.curve.method, **shown, **reliability, "stored": not dry_run}, as_json)


@app.command(epilog="Example:  retriever index verify my-index --json")
def verify(
    index: IndexPath,
    encoder: Annotated[str | None, typer.Option(help="Check against this model instead of the named one.")] = None,
    local_encoder: Annotated[str | None, typer.Option(help="The same for the model of the local vectors.")] = None,
    canaries: Annotated[bool, typer.Option(help="Load the encoder and compare canary vectors.")] = True,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every file, the records, that all parts agree, and the canary vectors. Exit code 5 if unsound."""
    from dataclasses import asdict

    from indexing.verification import verify_index

    verdict = verify_index(
        index, encoder=encoder, local_encoder=local_encoder, canaries=canaries, offline=offline, quiet=quiet
    )
    _show({"sound": verdict.sound, **asdict(verdict)}, as_json)
    if not verdict.sound:
        raise typer.Exit(IndexCorrupt.exit_code)


@app.command(epilog="Example:  retriever index describe my-index --json")
def describe(index: IndexPath, as_json: Json = False) -> None:
    """Show what an index is made of."""
    from retriever.index.sealed import open_index

    with open_index(index) as opened:
        description = opened.describe()
    if as_json:
        _show(description, True)
        return
    table = Table(show_header=False, box=None)
    for name, value in description.items():
        if value not in (None, {}, []):
            shown = value if isinstance(value, str | int) else yaml.safe_dump(value, sort_keys=False).rstrip()
            table.add_row(name.replace("_", " "), str(shown))
    Console(file=sys.stdout).print(table)


@app.command(epilog="Example:  retriever index export-ciff my-index my-index.ciff.gz")
def export_ciff(
    index: IndexPath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; .gz and .zst are compressed.")],
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the BM25 part as a Common Index File Format file, which other engines read."""
    from indexing.ciff import export_ciff as export

    _show(export(index, file, quiet=quiet), as_json)


@app.command(
    epilog="Examples:  retriever index import-ciff robust04.ciff.gz robust04 --analyser lucene-english  |  "
    "retriever index import-ciff my-index.ciff copy --corpus corpus.jsonl"
)
def import_ciff(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CIFF file; .gz and .zst are unpacked.")],
    index: IndexPath,
    corpus: Annotated[
        str | None, typer.Option(help="Corpus that gives the documents their texts, by id; see retriever index build.")
    ] = None,
    analyser: Annotated[
        str | None, typer.Option(help="How queries become terms; by default what the file names, if we wrote it.")
    ] = None,
    k1: Annotated[float | None, typer.Option(help="BM25: what the file names by default, else 0.9.")] = None,
    b: Annotated[float | None, typer.Option(help="BM25: what the file names by default, else 0.4.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a BM25 index from a Common Index File Format file."""
    from indexing.ciff import import_ciff as import_

    texts = _corpus(corpus) if corpus is not None else None
    report = import_(file, index, corpus=texts, analyser_name=analyser, k1=k1, b=b, quiet=quiet)
    for remark in report["remarks"]:
        typer.echo(f"warning: {remark}.", err=True)
    _show({"index": str(index), **report}, as_json)


@app.command(epilog="Example:  retriever index corpus pydocs:stdlib --to pydocs")
def corpus(
    source: Corpus,
    to: Annotated[Path, typer.Option(help="BEIR folder to write.")],
    format: Format = None,
    id_field: IdField = None,
    title_field: TitleField = None,
    text_field: TextField = None,
    metadata_field: MetadataField = None,
    header: Header = None,
    max_bad_lines: MaxBadLines = 0,
    duplicates: Duplicates = "fail",
    as_json: Json = False,
) -> None:
    """Convert any corpus into a BEIR folder; pydocs comes with queries and judgments."""
    from indexing.corpora import write_beir

    options = {
        "format": format,
        "id_field": id_field,
        "title_field": title_field,
        "text_field": text_field,
        "metadata_fields": metadata_field,
        "header": header,
    }
    _show(write_beir(source, to, max_bad_lines=max_bad_lines, duplicates=duplicates, **_given(options)), as_json)
