"""`retriever eval ...`: evaluate, compare, reproduce."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from retriever.errors import InvalidInput

if TYPE_CHECKING:
    from retriever.evaluation.records import Record
    from retriever.evaluation.significance import Comparison

app = typer.Typer(no_args_is_help=True, help="Evaluate systems, compare them with paired tests, reproduce tables.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Offline = Annotated[bool, typer.Option(help="Make no network call.")]

DEFAULT_MEASURES = "nDCG@10,R@100,RR@10,AP@1000,Judged@10"


@app.command(
    epilog="Examples:  retriever eval run my-index data/scifact  |  "
    "retriever eval run my-index irds:beir/scifact/test -p bm25 -p hybrid  |  "
    "retriever eval run --run system.run.gz data/scifact"
)
def run(
    system: Annotated[
        Path | None, typer.Argument(metavar="[INDEX]", help="Folder of the index; left out with --run.")
    ] = None,
    collection: Annotated[
        str | None,
        typer.Argument(metavar="COLLECTION", help="BEIR folder, irds:NAME, or a file of judgments (BEIR, TREC)."),
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Evaluate this TREC run (.gz too) instead of an index.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgments: qrels/SPLIT.tsv.")] = "test",
    queries: Annotated[
        Path | None, typer.Option(help="File of queries (.jsonl, or id, tab and text), for a file of judgments.")
    ] = None,
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Repeatable; all of the index if none is given.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=9999, help="Length of the rankings.")] = 1000,
    measures: Annotated[str, typer.Option(help="Comma-separated, as ir_measures writes them.")] = DEFAULT_MEASURES,
    output: Annotated[Path, typer.Option(help="Folder for runs and records.")] = Path("runs"),
    keep_self: Annotated[bool, typer.Option(help="Keep documents whose id is the query's.")] = False,
    group_by_parent: Annotated[bool, typer.Option(help="Rank chunked documents by their best chunk.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="1 measures the latency of single queries.")] = 64,
    again: Annotated[bool, typer.Option(help="Measure again even if the record is current.")] = False,
    encoder: Annotated[str | None, typer.Option(help="The index's encoder under another name or path.")] = None,
    sparse_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its learned sparse part under another name or path.")
    ] = None,
    local_encoder: Annotated[
        str | None, typer.Option(help="The encoder of its local vectors under another name or path.")
    ] = None,
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Evaluate pipelines of an index, or a run file, on a test collection."""
    from retriever.evaluation.collections import open_collection
    from retriever.evaluation.records import EvaluationSettings

    if run_file is not None and collection is None and system is not None:
        # With --run the only argument is the collection.
        system, collection = None, str(system)
    if collection is None or (system is None) == (run_file is None):
        raise InvalidInput("give INDEX and COLLECTION, or --run FILE and COLLECTION.")
    settings = EvaluationSettings(
        k=k,
        measures=tuple(name.strip() for name in measures.split(",") if name.strip()),
        keep_self=keep_self,
        group_by_parent=group_by_parent,
    )
    judged = open_collection(collection, split, queries=queries)
    if run_file is not None:
        from retriever.evaluation.records import evaluate_run
        from retriever.evaluation.runs import read_run

        records = [evaluate_run(read_run(run_file), judged, run_file.name.removesuffix(".gz"), settings)]
        records[0].write(output / f"{judged.name}.{judged.split}.{records[0].system}.json")
    else:
        assert system is not None
        models = {
            "encoder": encoder,
            "sparse_encoder": sparse_encoder,
            "local_encoder": local_encoder,
            "device": device,
            "offline": offline,
        }
        records = _evaluate_pipelines(system, judged, pipeline or [], settings, output, batch_size, again, models)
    if as_json:
        typer.echo(json.dumps([record.model_dump(exclude={"per_query"}) for record in records], indent=1))
        return
    _show_records(records)
    typer.echo(f"records and runs are in {output}", err=True)


def _evaluate_pipelines(
    path: Path,
    collection: Any,
    pipelines: Sequence[str],
    settings: Any,
    output: Path,
    batch_size: int,
    again: bool,
    models: Mapping[str, Any],
) -> list["Record"]:
    from retriever.evaluation.measures import parse_measures
    from retriever.evaluation.records import Record, evaluate_index, is_current
    from retriever.evaluation.runs import write_run
    from retriever.index.sealed import open_index
    from retriever.progress import Progress

    parse_measures(settings.measures)
    records = []
    with open_index(path, **models) as index:
        unknown = [name for name in pipelines if name not in index.pipelines]
        if unknown:
            raise InvalidInput(f"unknown pipelines {unknown}; this index offers {', '.join(index.pipelines)}.")
        for name in pipelines or index.pipelines:
            stem = f"{collection.name}.{collection.split}.{name}"
            target = output / f"{stem}.json"
            run_file = output / f"{stem}.run.gz"
            if target.is_file() and run_file.is_file() and not again:
                record = Record.read(target)
                if is_current(record, index, collection, name, settings, batch_size):
                    records.append(record)
                    continue
            with Progress(f"{name}: queries", len(collection.judged), quiet=False) as progress:
                found, record = evaluate_index(
                    index, collection, name, settings, batch_size=batch_size, advance=progress.advance
                )
            output.mkdir(parents=True, exist_ok=True)
            write_run(run_file, found, name)
            record.write(target)
            records.append(record)
    return records


def _show_records(records: Sequence["Record"]) -> None:
    first = records[0]
    console = Console()
    table = Table(title=f"{first.collection} {first.split}, {first.queries['measured']} queries")
    table.add_column("system")
    for name in first.means:
        table.add_column(name, justify="right")
    table.add_column("p50 ms", justify="right")
    table.add_column("p95 ms", justify="right")
    for record in records:
        latency = record.latency_ms or {}
        table.add_row(
            record.system,
            *(f"{value:.4f}" for value in record.means.values()),
            *(f"{latency[key]:.1f}" if key in latency else "" for key in ("p50", "p95")),
        )
    _print_table(console, table)
    common = {what: n for what, n in first.queries.items() if what != "without_results"}
    console.print(f"queries: {_counts(common)}", style="dim", highlight=False)
    for record in records:
        own = _counts({"without_results": record.queries["without_results"], **(record.answers or {})})
        if own:
            console.print(f"{record.system}: {own}", style="dim", highlight=False)
    console.print(f"policies: {'; '.join(first.policies.values())}", style="dim", highlight=False)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items() if n)


def _print_table(console: Console, table: Table) -> None:
    """Print a table as wide as its numbers need; a narrow terminal wraps it instead of cutting them."""
    needed = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    wide = Console(file=console.file, width=needed)
    wide.print(table, soft_wrap=needed > console.width)


@app.command(
    epilog="Examples:  retriever eval compare runs/scifact.test.bm25.json runs/scifact.test.hybrid.json  |  "
    "retriever eval compare old.json new.json --fail-if-worse 0.005 --alpha 0.05"
)
def compare(
    records: Annotated[list[Path], typer.Argument(metavar="BASELINE SYSTEM...", help="Records of eval run.")],
    measure: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Only these of the records' measures; repeatable.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Also test that the difference lies within this margin.")
    ] = None,
    fail_if_worse: Annotated[
        float | None,
        typer.Option(min=0, help="Exit with 1 if a system is worse by more than this, and significantly so."),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Level of significance.")] = 0.05,
    examples: Annotated[int, typer.Option(min=0, help="Queries that gain and lose most.")] = 3,
    as_json: Json = False,
) -> None:
    """Compare systems with a baseline, query by query: differences, intervals, randomisation tests with Holm."""
    from retriever.evaluation.records import Record
    from retriever.evaluation.significance import compare as compare_values
    from retriever.evaluation.significance import holm

    if len(records) < 2:
        raise InvalidInput("give at least two records, the first is the baseline.")
    loaded = [Record.read(path) for path in records]
    baseline, systems = loaded[0], loaded[1:]
    for path, other in zip(records[1:], systems, strict=True):
        _require_comparable(records[0], baseline, path, other)
    names = _common_measures(loaded, measure)
    found: dict[tuple[str, str], Comparison] = {}
    for position, other in enumerate(systems, 1):
        for name in names:
            key = (f"{position} {other.system}", name)
            found[key] = compare_values(baseline.per_query[name], other.per_query[name], margin=margin)
    adjusted = dict(zip(found, holm([one.p for one in found.values()]), strict=True))
    if as_json:
        lines = [
            {"name": system, "measure": name, "p_holm": adjusted[system, name], **asdict(one)}
            for (system, name), one in found.items()
        ]
        typer.echo(json.dumps({"baseline": baseline.system, "comparisons": lines}, indent=1))
    else:
        _show_comparison(baseline, systems, found, adjusted, alpha, examples, names)
    worse = [
        f"{system} {name}: {one.difference:+.4f}, p = {adjusted[system, name]:.3g}"
        for (system, name), one in found.items()
        if fail_if_worse is not None and one.difference < -fail_if_worse and adjusted[system, name] <= alpha
    ]
    if worse:
        typer.echo(f"significantly worse than {baseline.system}: {'; '.join(worse)}", err=True)
        raise typer.Exit(1)


def _require_comparable(first: Path, a: "Record", second: Path, b: "Record") -> None:
    if (a.collection, a.split) != (b.collection, b.split):
        raise InvalidInput(
            f"{first} is of {a.collection} {a.split}, {second} of {b.collection} {b.split}; "
            "compare records of the same collection."
        )
    if a.sha256 != b.sha256:
        raise InvalidInput(f"{first} and {second} were measured with different queries or judgments; run one again.")
    if a.settings.keep_self != b.settings.keep_self or a.settings.k != b.settings.k:
        raise InvalidInput(f"{first} and {second} were measured by different rules: {a.settings} and {b.settings}.")
    if any(a.per_query[name].keys() != b.per_query[name].keys() for name in a.per_query.keys() & b.per_query.keys()):
        raise InvalidInput(f"{first} and {second} hold different queries; run one again.")


def _common_measures(records: Sequence["Record"], wanted: Sequence[str] | None) -> list[str]:
    common = [name for name in records[0].means if all(name in record.means for record in records)]
    missing = [name for name in wanted or [] if name not in common]
    if missing or not common:
        raise InvalidInput(f"the records have no measure {missing or ''} in common; they share {common}.")
    return [name for name in common if not wanted or name in wanted]


def _show_comparison(
    baseline: "Record",
    systems: Sequence["Record"],
    found: Mapping[tuple[str, str], "Comparison"],
    adjusted: Mapping[tuple[str, str], float],
    alpha: float,
    examples: int,
    names: Sequence[str],
) -> None:
    console = Console()
    table = Table(title=f"{baseline.collection} {baseline.split}: against {baseline.system}")
    for column in (
        "system",
        "measure",
        "baseline",
        "system",
        "difference",
        "95 % interval",
        "d",
        "W : L : T",
        "p",
        "p (Holm)",
    ):
        table.add_column(column, justify="left" if column in ("system", "measure") else "right")
    if any(one.equivalence_p is not None for one in found.values()):
        table.add_column("p equivalent", justify="right")
    for (system, name), one in found.items():
        p = adjusted[system, name]
        row = [
            system, name, f"{one.baseline:.4f}", f"{one.system:.4f}", f"{one.difference:+.4f}",
            f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}", f"{one.effect:+.2f}",
            f"{one.wins} : {one.losses} : {one.ties}", f"{one.p:.3g}", f"{p:.3g}{' *' if p <= alpha else ''}",
        ]  # fmt: skip
        table.add_row(*row, *([f"{one.equivalence_p:.3g}"] if one.equivalence_p is not None else []))
    _print_table(console, table)
    for record in (baseline, *systems):
        latency, index = record.latency_ms or {}, record.index or {}
        if latency and index:
            console.print(
                f"{record.system}: p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms, "
                f"{index['bytes']:,} bytes, {index['documents']:,} documents",
                style="dim",
                highlight=False,
            )
    for position, other in enumerate(systems, 1):
        _show_examples(console, f"{position} {other.system}", baseline, other, names[0], examples)


def _show_examples(console: Console, title: str, baseline: "Record", system: "Record", name: str, count: int) -> None:
    before, after = baseline.per_query[name], system.per_query[name]
    ordered = sorted(before, key=lambda query: (after[query] - before[query], query))
    for what, queries in (("gain", ordered[::-1][:count]), ("loss", ordered[:count])):
        shown = [
            f"{query} {before[query]:.2f} → {after[query]:.2f}"
            for query in queries
            if (after[query] > before[query]) == (what == "gain") and after[query] != before[query]
        ]
        if shown:
            console.print(f"{title}, greatest {what} in {name}: {', '.join(shown)}", style="dim", highlight=False)


@app.command(epilog="Example:  retriever eval across --baseline 'runs/*.bm25.json' --system 'runs/*.hybrid.json'")
def across(
    baseline: Annotated[str, typer.Option(help="Glob pattern of the baseline's records.")],
    system: Annotated[str, typer.Option(help="Glob pattern of the system's records.")],
    measure: Annotated[str, typer.Option("--measure", "-m", help="Measure to compare.")] = "nDCG@10",
    as_json: Json = False,
) -> None:
    """Compare two systems on the mean over several collections, each weighing the same."""
    from retriever.evaluation.significance import compare_across

    before, after = _by_collection(baseline), _by_collection(system)
    if before.keys() != after.keys():
        lacking = sorted(before.keys() ^ after.keys())
        raise InvalidInput(f"these collections have only one of the two records: {lacking}.")
    pairs = {}
    for key, (path, record) in before.items():
        other_path, other = after[key]
        _require_comparable(path, record, other_path, other)
        _common_measures([record, other], [measure])
        pairs[" ".join(key)] = (record.per_query[measure], other.per_query[measure])
    mean_before, mean_after, p = compare_across(pairs)
    result = {
        "measure": measure,
        "collections": sorted(pairs),
        "baseline": mean_before,
        "system": mean_after,
        "difference": mean_after - mean_before,
        "p": p,
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        typer.echo(
            f"{measure} on the mean over {len(pairs)} collections: {mean_before:.4f} → {mean_after:.4f} "
            f"({mean_after - mean_before:+.4f}), p = {p:.3g}"
        )


def _by_collection(pattern: str) -> dict[tuple[str, str], tuple[Path, "Record"]]:
    from retriever.evaluation.records import Record

    found: dict[tuple[str, str], tuple[Path, Record]] = {}
    for path in sorted(Path().glob(pattern) if not Path(pattern).is_absolute() else Path("/").glob(pattern[1:])):
        record = Record.read(path)
        key = (record.collection, record.split)
        if key in found:
            raise InvalidInput(f"{pattern!r} matches two records of {' '.join(key)}: {found[key][0]} and {path}.")
        found[key] = (path, record)
    if not found:
        raise InvalidInput(f"no record matches {pattern!r}.")
    return found


@app.command(
    "long",
    epilog="Examples:  retriever eval long all-MiniLM-L6-v2 --lengths 256,512,1024  |  "
    "retriever eval long ./minilm-2048 --task passkey --task needle --texts data/qmsum --name minilm-2048",
)
def evaluate_long(
    encoder: Annotated[str, typer.Argument(help="A folder, a pinned name or a hub name.", show_default=False)],
    task: Annotated[
        list[str] | None, typer.Option(help="passkey, needle; repeatable. passkey if none is given.")
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Comma-separated, in the encoder's own tokens.")
    ] = "256,512,1024,2048,4096,8192,16384,32768",
    texts: Annotated[
        Path | None,
        typer.Option(help="What stands around: a BEIR folder, a .jsonl or .txt file, a folder of texts; for needle."),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Of each length.")] = 50,
    documents: Annotated[int, typer.Option(min=1, help="Of each length.")] = 100,
    seed: Annotated[int, typer.Option(help="Names, statements and places follow from it.")] = 42,
    name: Annotated[str | None, typer.Option(help="Of the records; the encoder's own if none is given.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for records.")] = Path("runs"),
    device: Device = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Measure up to which length an encoder reads: LongEmbed's passkey and needle tasks, accuracy by length."""
    from retriever.encoder import TokenCounter, load_encoder
    from retriever.evaluation.collections import read_texts
    from retriever.evaluation.planted import evaluate_planted, plant
    from retriever.progress import Progress

    sizes = _numbers(lengths)
    around = read_texts(texts) if texts is not None else []
    tasks: list[Any] = list(dict.fromkeys(task or ["passkey"]))
    loaded = load_encoder(encoder, device=device, offline=offline)
    tokens = TokenCounter(loaded.model.tokenizer)
    system = name or Path(encoder).name
    records: list[Record] = []
    with Progress("collections", len(tasks) * len(sizes), quiet=False) as progress:
        for one in tasks:
            for size in sizes:
                # As published, passkeys stand between sentences of their own.
                stands = around if one == "needle" else ()
                planted = plant(one, size, tokens, texts=stands, seed=seed, queries=queries, documents=documents)
                record = evaluate_planted(loaded, planted, system)
                record.write(output / f"{record.collection}.{record.split}.{system}.json")
                records.append(record)
                progress.advance(1)
    means = {
        one: sum(record.means["Success@1"] for record in records if record.collection.startswith(one)) / len(sizes)
        for one in tasks
    }
    if as_json:
        lines = [record.model_dump(exclude={"per_query"}) for record in records]
        typer.echo(json.dumps({"accuracy": means, "records": lines}, indent=1))
        return
    shown = Table(title=f"{system}: accuracy of the first document, {queries} queries, {documents} documents each")
    shown.add_column("tokens", justify="right")
    for one in tasks:
        shown.add_column(one, justify="right")
    shown.add_column("documents cut", justify="right")
    for place, size in enumerate(sizes):
        row = records[place :: len(sizes)]
        cells = [f"{record.means['Success@1']:.3f}" for record in row]
        shown.add_row(f"{size:,}", *cells, str((row[0].answers or {})["documents_cut"]))
    shown.add_row("mean", *(f"{mean:.3f}" for mean in means.values()), "")
    _print_table(Console(), shown)
    typer.echo(f"records are in {output}", err=True)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidInput(f"{text!r} are no lengths; write 256,512,1024.") from None


@app.command(
    epilog="Example:  retriever eval reproduce retriever/evaluation/reproduction.yaml --data ../data --only scifact"
)
def reproduce(
    table: Annotated[Path, typer.Argument(help="YAML of rows and expected numbers.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the collections in BEIR layout.")],
    only: Annotated[list[str] | None, typer.Option(help="Only this row; repeatable.")] = None,
    work: Annotated[Path, typer.Option(help="Keeps indexes and records between calls.")] = Path(".cache/reproduce"),
    output: Annotated[Path | None, typer.Option(help="Folder for reproduction.md and reproduction.csv.")] = None,
    device: Device = None,
    offline: Offline = False,
    again: Annotated[bool, typer.Option(help="Measure again even what is current.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a table of expected numbers again; exit code 1 if one lies outside its tolerance."""
    from retriever.evaluation.reproduction import outcomes, read_table, write_report
    from retriever.evaluation.reproduction import reproduce as measure_again

    rows = read_table(table)
    work.mkdir(parents=True, exist_ok=True)
    records = measure_again(
        rows,
        data,
        work,
        only=only or [],
        device=device,
        offline=offline,
        again=again,
        say=lambda line: typer.echo(line, err=True),
    )
    if not records:
        raise InvalidInput(f"none of the table's collections is in {data}.")
    cells = outcomes(rows, records)
    if output is not None:
        write_report(output, rows, records, f"retriever eval reproduce {table} --data FOLDER")
    if as_json:
        typer.echo(json.dumps([{**cell.model_dump(), "verdict": cell.verdict} for cell in cells], indent=1))
    else:
        shown = Table(title=rows.title)
        for column in ("row", "system", "measure", "got", "expected", "verdict"):
            shown.add_column(column)
        for cell in cells:
            expected = "" if cell.expected is None else f"{cell.expected:.4f} ±{cell.tolerance:g}"
            shown.add_row(cell.row, cell.system, cell.measure, f"{cell.got:.4f}", expected, cell.verdict)
        _print_table(Console(file=sys.stdout), shown)
    if any(cell.verdict == "differs" for cell in cells):
        raise typer.Exit(1)
