"""Tables of expected numbers, measured again by one command."""

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retriever.errors import InvalidInput, RetrievalError
from retriever.evaluation.collections import open_collection
from retriever.evaluation.records import EvaluationSettings, Record, environment, evaluate_index, is_current
from retriever.evaluation.significance import compare, compare_across, holm
from retriever.index.sealed import open_index
from retriever.storage import write_atomically

MEASURES = ("nDCG@10", "R@100", "RR@10")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Model):
    """A published number for one measure and where it stands."""

    value: float
    tolerance: float
    source: str


class Row(_Model):
    """One index over one collection and the pipelines that are measured on it.

    build      further options of `retriever index build`
    sample     keep one document in so many, chosen by a hash of its id, and all that are judged in the split; a
               smaller collection is an easier one, so such a row is comparable with itself only
    keep_self  queries and documents are numbered apart, so that an equal id means nothing
    in_mean    whether it counts in the first mean: one row a collection, and no foreign language or mere pool
    """

    name: str
    data: str
    split: str = "test"
    build: tuple[str, ...] = ()
    sample: int | None = Field(None, ge=2)
    pipelines: tuple[str, ...] = ("bm25", "dense", "hybrid")
    group_by_parent: bool = False
    keep_self: bool = False
    in_mean: bool = True
    note: str = ""
    expected: dict[str, dict[str, Expected]] = Field(default_factory=dict)


class Table(_Model):
    """All rows of a reproduction table."""

    title: str
    rows: tuple[Row, ...]


class Outcome(BaseModel):
    """One cell: what was expected and what came out."""

    row: str
    system: str
    measure: str
    got: float
    expected: float | None = None
    tolerance: float | None = None
    source: str = ""

    @property
    def verdict(self) -> str:
        if self.expected is None or self.tolerance is None:
            return "measured"
        return "reproduced" if abs(self.got - self.expected) <= self.tolerance + 1e-9 else "differs"


def read_table(path: Path) -> Table:
    """Read a table. Raises InvalidInput naming what is wrong."""
    try:
        return Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InvalidInput(f"{path} is no reproduction table: {error}") from error


def reproduce(
    table: Table,
    data: Path,
    work: Path,
    *,
    only: Sequence[str] = (),
    device: str | None = None,
    offline: bool = False,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Record]]:
    """Build what is missing, evaluate every row, and return the records by row and pipeline.

    data  the folder that holds the collections    work  keeps indexes and records between calls
    """
    names = {row.name for row in table.rows}
    unknown = [name for name in only if name not in names]
    if unknown:
        raise InvalidInput(f"no rows {unknown}; the table has {sorted(names)}.")
    records: dict[str, dict[str, Record]] = {}
    for row in table.rows:
        if only and row.name not in only:
            continue
        source = data / row.data
        unmeasured = [
            f"{system} {name}"
            for system, numbers in row.expected.items()
            for name in numbers
            if system not in row.pipelines or name not in MEASURES
        ]
        if unmeasured:
            raise InvalidInput(f"{row.name} expects {unmeasured}, which it does not measure; correct the table.")
        if not source.is_dir():
            say(f"{row.name}: left out, there is no {row.data} in the data folder")
            continue
        index_path = work / row.name
        if not (index_path / "CURRENT").is_file():
            say(f"{row.name}: building")
            corpus = source if row.sample is None else sample(source, row, work / f"{row.name}-corpus")
            build(corpus, index_path, row.build, device=device, offline=offline)
        records[row.name] = _evaluate(row, source, index_path, device, offline, again, say)
    return records


def sample(source: Path, row: Row, target: Path) -> Path:
    """Write the part of a collection's corpus that a row asks for as a BEIR folder; return the folder."""
    assert row.sample is not None
    judged = {document for graded in open_collection(str(source), row.split).qrels.values() for document in graded}
    path = next(path for path in (source / "corpus.jsonl", source / "corpus.jsonl.gz") if path.is_file())
    kept = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for line in file:
            id_ = str(json.loads(line)["_id"])
            place = int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=4).digest())
            if id_ in judged or place % row.sample == 0:
                kept.append(line)
    target.mkdir(parents=True, exist_ok=True)
    write_atomically(target / "corpus.jsonl", "".join(kept).encode())
    return target


def build(source: Path, index: Path, options: Sequence[str], *, device: str | None, offline: bool) -> None:
    """Run `retriever index build`, in a process of its own since building is no part of this package."""
    command = [
        sys.executable,
        "-m",
        "retriever.cli",
        "index",
        "build",
        str(source),
        str(index),
        "--json",
        *options,
    ]
    command += ["--device", device] if device else []
    command += ["--offline"] if offline else []
    # Only our own options and paths of the table stand in the command.
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=dict(os.environ))  # noqa: S603
    if done.returncode:
        raise RetrievalError(f"building {index} failed with exit code {done.returncode}; see above.")


def _evaluate(
    row: Row,
    source: Path,
    index_path: Path,
    device: str | None,
    offline: bool,
    again: bool,
    say: Callable[[str], None],
) -> dict[str, Record]:
    collection = open_collection(str(source), row.split, name=row.data.replace("/", "-"))
    settings = EvaluationSettings(measures=MEASURES, group_by_parent=row.group_by_parent, keep_self=row.keep_self)
    records = {}
    with open_index(index_path, device=device, offline=offline) as index:
        for pipeline in row.pipelines:
            path = index_path.parent / "records" / f"{row.name}.{pipeline}.json"
            if path.is_file() and not again:
                record = Record.read(path)
                if is_current(record, index, collection, pipeline, settings):
                    records[pipeline] = record
                    continue
            _, record = evaluate_index(index, collection, pipeline, settings)
            record.write(path)
            records[pipeline] = record
            say(f"{row.name} {pipeline}: nDCG@10 {record.means['nDCG@10']:.4f}")
    return records


def outcomes(table: Table, records: Mapping[str, Mapping[str, Record]]) -> list[Outcome]:
    """Return every measured number beside the expected one."""
    found = []
    for row in table.rows:
        for system, record in records.get(row.name, {}).items():
            for name in MEASURES:
                expected = row.expected.get(system, {}).get(name)
                cell = Outcome(row=row.name, system=system, measure=name, got=record.means[name])
                if expected is not None:
                    cell.expected, cell.tolerance = expected.value, expected.tolerance
                    cell.source = expected.source
                found.append(cell)
    return found


def as_csv(cells: Sequence[Outcome], records: Mapping[str, Mapping[str, Record]]) -> str:
    """Return one line a number, with the machine and versions that gave it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["row", "system", "measure", "got", "expected", "tolerance", "verdict", "queries", "documents", "p50_ms",
         "bytes", "cpu", "cores", "versions", "created"]
    )  # fmt: skip
    for cell in cells:
        record = records[cell.row][cell.system]
        index, latency = record.index or {}, record.latency_ms or {}
        versions = " ".join(f"{name}={v}" for name, v in record.environment["packages"].items())
        writer.writerow(
            [cell.row, cell.system, cell.measure, f"{cell.got:.4f}", cell.expected, cell.tolerance, cell.verdict,
             record.queries["measured"], index.get("documents"), f"{latency.get('p50', 0):.2f}", index.get("bytes"),
             record.environment["cpu"], record.environment["cores"], versions, record.created]
        )  # fmt: skip
    return out.getvalue()


def as_markdown(table: Table, records: Mapping[str, Mapping[str, Record]], command: str) -> str:
    """Return the table for reading, with the tests of hybrid against its parts."""
    machine = environment()
    lines = [
        f"# {table.title}",
        "",
        f"Made by `{command}`, {_dates(records)}. "
        f"Machine: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; "
        + ", ".join(f"{name} {v}" for name, v in machine["packages"].items())
        + ".",
        "Policies: "
        + "; ".join(next(iter(next(iter(records.values())).values())).policies.values())
        + ". Latencies are per query in batches of 64.",
        "",
        "| row | queries | documents | system | nDCG@10 | expected | verdict | R@100 | RR@10 | p50 ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.rows:
        for system, record in records.get(row.name, {}).items():
            expected = row.expected.get(system, {}).get("nDCG@10")
            cell = Outcome(row=row.name, system=system, measure="nDCG@10", got=record.means["nDCG@10"])
            shown = ""
            if expected:
                cell.expected, cell.tolerance = expected.value, expected.tolerance
                shown = f"{expected.value:.4f} ±{expected.tolerance:g} ({expected.source})"
            index, latency = record.index or {}, record.latency_ms or {}
            lines.append(
                f"| {row.name} | {record.queries['measured']} | {index.get('documents', 0):,} | {system} "
                f"| {cell.got:.4f} | {shown} | {cell.verdict} | {record.means['R@100']:.4f} "
                f"| {record.means['RR@10']:.4f} | {latency.get('p50', 0):.1f} |"
            )
    notes = [f"- **{row.name}**: {row.note}" for row in table.rows if row.note and row.name in records]
    return "\n".join([*lines, "", *notes, "", *_significance(table, records)]) + "\n"


def _dates(records: Mapping[str, Mapping[str, Record]]) -> str:
    days = sorted({record.created[:10] for systems in records.values() for record in systems.values()})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _significance(table: Table, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    rows = [row.name for row in table.rows if {"bm25", "dense", "hybrid"} <= records.get(row.name, {}).keys()]
    if not rows:
        return []
    lines = [
        "## Does hybrid beat its parts?",
        "",
        "nDCG@10, paired randomisation test over queries (two-sided), Holm-adjusted over all lines of a part.",
        "",
        "| row | against | difference | 95 % interval | effect (d) | wins : losses | p | p (Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for part in ("bm25", "dense"):
        found = [
            compare(records[name][part].per_query["nDCG@10"], records[name]["hybrid"].per_query["nDCG@10"])
            for name in rows
        ]
        for name, one, adjusted in zip(rows, found, holm([one.p for one in found]), strict=True):
            lines.append(
                f"| {name} | {part} | {one.difference:+.4f} | {one.interval[0]:+.4f} … {one.interval[1]:+.4f} "
                f"| {one.effect:+.2f} | {one.wins} : {one.losses} | {one.p:.4g} | {adjusted:.4g} |"
            )
    lines += [
        "",
        "## On the mean over collections",
        "",
        "Every row weighs the same; signs are changed query by query within its row (stratified randomisation test).",
        "",
        "| rows | against | its mean | hybrid | difference | p |",
        "|---|---|---|---|---|---|",
    ]
    groups = {
        "one for each collection that MiniLM is meant for": [
            r.name for r in table.rows if r.in_mean and r.name in rows
        ],
        "all": rows,
    }
    for label, names in groups.items():
        for part in ("bm25", "dense"):
            pairs = {
                name: (records[name][part].per_query["nDCG@10"], records[name]["hybrid"].per_query["nDCG@10"])
                for name in names
            }
            if pairs:
                before, after, p = compare_across(pairs)
                lines.append(
                    f"| {label} ({len(names)}) | {part} | {before:.4f} | {after:.4f} "
                    f"| {after - before:+.4f} | {p:.2g} |"
                )
    return lines


def write_report(folder: Path, table: Table, records: Mapping[str, Mapping[str, Record]], command: str) -> None:
    """Write reproduction.md and reproduction.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "reproduction.md", as_markdown(table, records, command).encode())
    write_atomically(folder / "reproduction.csv", as_csv(outcomes(table, records), records).encode())
