"""Does pseudo-relevance feedback help BM25? Anserini's defaults on test queries, nothing tuned; and does it agree?

    python -m benchmarks.feedback --data FOLDER [--anserini] --work .cache/feedback --output docs/results

Builds the BM25 indexes that --work lacks; one of an older format must be removed by hand. Writes feedback.csv and
feedback.md. --anserini asks Anserini the same queries; it needs the peers of benchmarks.sparse (a jar and a Java 21).
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import subprocess
from collections import Counter
from pathlib import Path

from benchmarks.sparse import peers
from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.evaluation.collections import open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.records import environment
from retriever.evaluation.significance import compare, holm
from retriever.index.sealed import Index, open_index
from retriever.pipeline import PipelineSpec, Rm3, Rocchio

COLLECTIONS = ("scifact", "nfcorpus", "cranfield")
MEASURES = ("nDCG@10", "R@100", "R@1000")
DEPTH = 1000
SYSTEMS = {
    "bm25": PipelineSpec(first=("bm25",)),
    "rm3": PipelineSpec(first=("bm25",), feedback=Rm3()),
    "rocchio": PipelineSpec(first=("bm25",), feedback=Rocchio()),
}
FLAGS = {"bm25": [], "rm3": ["-rm3"], "rocchio": ["-rocchio"]}
# Anserini writes four decimals and steps of 1e-6 between equal scores.
TOLERANCE = 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/feedback"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--anserini", action="store_true")
    arguments = parser.parse_args()
    rows, agreement = [], []
    for name in COLLECTIONS:
        collection = open_collection(str(arguments.data / name))
        path = arguments.work / name
        if not (path / "CURRENT").is_file():
            build_index(open_corpus(str(arguments.data / name)), path, BuildSettings(parts=("bm25",)))
        queries = list(collection.judged)
        measured, milliseconds, rankings = {}, {}, {}
        with open_index(path) as index:
            index.warm()
            for system, spec in SYSTEMS.items():
                texts = list(collection.judged.values())
                answers = index.batch_search(texts, DEPTH, pipeline=spec, documents=False)
                rankings[system] = dict(zip(queries, (list(answer.ranking()) for answer in answers), strict=True))
                measured[system] = measure(rankings[system], collection.qrels, MEASURES).per_query
                milliseconds[system] = statistics.median(answer.timings["total"] for answer in answers)
            if arguments.anserini:
                work = arguments.work / f"{name}-anserini"
                shutil.rmtree(work, ignore_errors=True)
                agreement += [
                    [name, system, *agree(index, collection.judged, spec, rankings[system], ranked)]
                    for (system, spec), ranked in zip(
                        SYSTEMS.items(), ask_anserini(index, collection.judged, work), strict=True
                    )
                ]
        for system in SYSTEMS:
            for label in MEASURES:
                one = compare(measured["bm25"][label], measured[system][label])
                rows.append((name, len(queries), system, label, one, milliseconds[system]))
                print(
                    f"{name:10} {system:8} {label:8} {one.system:.4f} {one.difference:+.4f} p={one.p:.3g}", flush=True
                )
    write(arguments.output, rows, agreement)


def _jar() -> Path:
    (jar,) = (peers.FOLDER / "venv").glob("lib/*/site-packages/pyserini/resources/jars/anserini-*-fatjar.jar")
    return jar


def ask_anserini(index: Index, queries: dict[str, str], work: Path) -> list[dict[str, list[tuple[str, float]]]]:
    """Return Anserini's ranking of each query, for each of SYSTEMS."""
    java = [str(peers.java_home() / "bin" / "java"), "--add-modules", "jdk.incubator.vector", "-cp", str(_jar())]
    (work / "corpus").mkdir(parents=True)
    with (work / "corpus" / "documents.jsonl").open("w") as file:
        for segment in index.manifest.segments:
            for _, document in index.records.segment_documents(segment.number):
                file.write(json.dumps({"id": document.id, "contents": document.content}) + "\n")
    topics = work / "queries.tsv"
    topics.write_text("".join(f"{id_}\t{' '.join(text.split())}\n" for id_, text in queries.items()))
    build = [
        "io.anserini.index.IndexCollection", "-collection", "JsonCollection", "-input", work / "corpus",
        "-index", work / "index", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-storeRaw",
        "-optimize",
    ]  # fmt: skip
    subprocess.run([*java, *map(str, build)], check=True, capture_output=True)
    found = []
    for system, flags in FLAGS.items():
        run = work / f"{system}.txt"
        search = [
            "io.anserini.search.SearchCollection", "-index", work / "index", "-topics", topics, "-topicReader",
            "TsvString", "-collection", "JsonCollection", "-output", run, "-bm25", "-hits", str(DEPTH), *flags,
        ]  # fmt: skip
        subprocess.run([*java, *map(str, search)], check=True, capture_output=True)
        rankings: dict[str, list[tuple[str, float]]] = {}
        for line in run.read_text().splitlines():
            query, _, document, _, score, _ = line.split()
            rankings.setdefault(query, []).append((document, float(score)))
        found.append(rankings)
    return found


def agree(index, queries, spec, ours, theirs) -> list[int]:
    """Return how many queries there are, with the same ten first, the same list, and the same scores."""
    same_ten = same = same_scores = 0
    for id_, text in queries.items():
        counts = Counter(index.analyser.terms(text)).values()
        norm = 1.0
        if isinstance(spec.feedback, Rm3):
            norm = sum(counts)
        elif isinstance(spec.feedback, Rocchio):
            norm = math.sqrt(sum(count * count for count in counts))
        a, b = ours[id_], theirs.get(id_, [])
        same_ten += [one for one, _ in a[:10]] == [one for one, _ in b[:10]]
        same += [one for one, _ in a] == [one for one, _ in b]
        same_scores += len(a) == len(b) and all(
            abs(x / norm - y) < TOLERANCE for (_, x), (_, y) in zip(a, b, strict=True)
        )
    return [len(queries), same_ten, same, same_scores]


def write(folder: Path, rows, agreement) -> None:
    """Write all comparisons as CSV and Markdown; p-values are corrected over all of them."""
    tested = [row for row in rows if row[2] != "bm25"]
    adjusted = iter(holm([row[4].p for row in tested]))
    machine = environment()
    versions = " ".join(
        f"{package}={machine['packages'][package]}" for package in ("retriever-engine", "numba", "numpy")
    )
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    with (folder / "feedback.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([
            "collection", "queries", "system", "measure", "value", "difference", "low", "high", "wins", "losses",
            "ties", "p", "p_holm", "median_ms", "cpu", "versions",
        ])  # fmt: skip
        for name, queries, system, label, one, milliseconds in rows:
            p = "" if system == "bm25" else f"{one.p:.3g}"
            corrected = next(adjusted) if p else 1.0
            low, high = one.interval
            writer.writerow([
                name, queries, system, label, f"{one.system:.4f}", f"{one.difference:+.4f}", f"{low:+.4f}",
                f"{high:+.4f}", one.wins, one.losses, one.ties, p, f"{corrected:.3g}" if p else "",
                f"{milliseconds:.2f}", machine["cpu"], versions,
            ])  # fmt: skip
            if p:
                table.append(
                    f"| {name} | {label} | {system} | {one.baseline:.4f} | {one.system:.4f} | {one.difference:+.4f} "
                    f"({low:+.4f} … {high:+.4f}) | {one.wins} : {one.losses} : {one.ties} | {p} | {corrected:.3g}"
                    f"{' *' if corrected <= 0.05 else ''} |"
                )
    lines = [
        "# Does feedback help BM25?",
        "",
        "Made by `python -m benchmarks.feedback --data FOLDER --anserini`: test queries, Anserini's defaults "
        "(10 documents, 10 terms, original weight 0.5 in RM3, 1 and 0.75 in Rocchio), nothing tuned. Paired "
        f"randomisation tests over queries, corrected by Holm over all {len(tested)}; * is at 0.05. In brackets the "
        "95 % bootstrap interval.",
        "",
        "| collection | measure | system | bm25 | with feedback | difference | won : lost : equal | p | p (Holm) |",
        "|---|---|---|---|---|---|---|---|---|",
        *table,
        "",
        *_conclusion(tested, [row[4] for row in tested]),
        "",
        "Median milliseconds a query for 1,000 hits, on "
        + f"{machine['cpu']}, {machine['cores']} cores shared with other work: "
        + "; ".join(
            f"{name} " + ", ".join(f"{row[2]} {row[5]:.1f}" for row in rows if row[0] == name and row[3] == MEASURES[0])
            for name in dict.fromkeys(row[0] for row in rows)
        )
        + ".",
    ]
    if agreement:
        lines += [
            "",
            "## Agreement with Anserini",
            "",
            f"The same documents and queries through {_jar().stem.removesuffix('-fatjar')} "
            "(`SearchCollection -bm25 [-rm3 | -rocchio] -hits 1000`); scores are the same when, divided by the query's "
            f"norm, no rank's differ by {TOLERANCE:g}. So lists differ only where scores are nearly equal.",
            "",
            "| collection | system | queries | same first ten | same 1,000 | same scores |",
            "|---|---|---|---|---|---|",
            *(f"| {' | '.join(map(str, row))} |" for row in agreement),
        ]
    (folder / "feedback.md").write_text("\n".join(lines) + "\n")


def _conclusion(tested, comparisons) -> list[str]:
    """Return what the tests say, in sentences that follow from the numbers."""
    adjusted = holm([one.p for one in comparisons])
    lines = []
    for label in MEASURES:
        found = [
            (f"{row[2]} on {row[0]}", one.difference)
            for row, one, p in zip(tested, comparisons, adjusted, strict=True)
            if row[3] == label and p <= 0.05
        ]
        better = ", ".join(f"{name} ({by:+.4f})" for name, by in found if by > 0)
        worse = ", ".join(f"{name} ({by:+.4f})" for name, by in found if by < 0)
        lines.append(f"- {label}: significantly better: {better or 'none'}; significantly worse: {worse or 'none'}.")
    return lines


if __name__ == "__main__":
    main()
