"""Does the trained reranker lift searches of collections that it was not trained on?

    python -m benchmarks.reranker MODEL --data FOLDER --work .cache/reproduce --output docs/results

Needs the indexes of `retriever eval reproduce` in --work. Scores are kept in MODEL.scores, one file a collection, so
that an interrupted run goes on and parts can be made apart (--only). The weight of the reranker is the best one on
the development queries; the tables are of test queries and of the TREC runs beside msmarco-dl.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexing.corpora import open_corpus
from retriever.evaluation.collections import Collection, Qrels, open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.records import environment
from retriever.evaluation.runs import read_run
from retriever.evaluation.significance import compare, compare_across, holm
from retriever.fusion import ordered, weighted_minmax
from retriever.index.sealed import Index, open_index
from retriever.rerank import CrossEncoderReranker
from retriever.storage import sha256_of, write_atomically
from retriever.types import Document, Run

DEVELOPMENT = (("scifact", "train"), ("cosqa", "dev"), ("nfcorpus", "dev"))
TEST = (("scifact", "test"), ("cosqa", "test"), ("cranfield", "test"), ("nfcorpus", "test"))
TREC = ("bm25", "bm25_rm3", "distilbert_tasb", "splade_pp", "openai_ada2", "repllama")
YEARS = ("dl19", "dl20")
WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
STAGES = ("bm25", "dense", "hybrid")
Scores = dict[str, dict[str, float]]


class Scored(NamedTuple):
    """One set of queries: first-stage runs by name, the reranker's scores of the reranked one, judgments."""

    runs: dict[str, Run]
    scores: Scores
    qrels: Qrels
    milliseconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/reproduce"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--depth", type=int, default=50, help="documents that are reranked")
    parser.add_argument("--trec-depth", type=int, default=100, help="of the TREC runs")
    parser.add_argument("--development-queries", type=int, default=100)
    parser.add_argument("--test-queries", type=int, default=1000)
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--trec", nargs="*", default=list(TREC))
    parser.add_argument("--only", nargs="*", help="score these sets and write no table, such as scifact-test dl19-bm25")
    arguments = parser.parse_args()
    reranker = CrossEncoderReranker(arguments.model, precision=arguments.precision)
    found = {}
    for name in sets(arguments.trec):
        if arguments.only is None or name in arguments.only:
            found[name] = scored(name, reranker, arguments)
            print(name, len(found[name].scores), flush=True)
    if arguments.only is None:
        write(found, arguments)


def sets(trec: list[str]) -> list[str]:
    """Return the names of all sets of queries."""
    return [f"{name}-{split}" for name, split in DEVELOPMENT + TEST] + [f"{y}-{run}" for y in YEARS for run in trec]


def scored(name: str, reranker: CrossEncoderReranker, arguments: argparse.Namespace) -> Scored:
    """Return the runs and scores of a set, from its file or made now."""
    path = arguments.model.with_name(arguments.model.name + ".scores") / f"{name}.json"
    depth = arguments.trec_depth if name.split("-")[0] in YEARS else arguments.depth
    key = {"model": sha256_of(arguments.model / "model.safetensors"), "depth": depth}
    if path.is_file():
        content = json.loads(path.read_text())
        if content["key"] == key:
            runs = {stage: {q: [(d, s) for d, s in hits] for q, hits in run.items()}
                    for stage, run in content["runs"].items()}  # fmt: skip
            return Scored(runs, content["scores"], content["qrels"], content["milliseconds"])
    first, _, second = name.partition("-")
    made = from_trec(first, second, arguments) if first in YEARS else from_index(first, second, arguments)
    scores: Scores = {}
    milliseconds = []
    for query, text, documents in made[2]:
        started = time.perf_counter()
        values, _ = reranker.score(text, documents)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        scores[query] = {document.id: float(value) for document, value in zip(documents, values, strict=True)}
    result = Scored(made[0], scores, made[1], milliseconds)
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, json.dumps({"key": key, **result._asdict()}).encode())
    return result


Work = tuple[dict[str, Run], Qrels, Iterator[tuple[str, str, list[Document]]]]


def from_index(name: str, split: str, arguments: argparse.Namespace) -> Work:
    """Search a collection's index by each stage; hybrid is what is reranked."""
    collection = open_collection(str(arguments.data / name), split)
    most = arguments.test_queries if split == "test" else arguments.development_queries
    ids = list(collection.judged)
    chosen = [ids[place] for place in np.sort(np.random.default_rng(42).permutation(len(ids))[:most])]
    index = open_index(arguments.work / name)
    runs = {stage: searched(index, collection, chosen, stage, arguments.depth) for stage in STAGES}

    def pairs() -> Iterator[tuple[str, str, list[Document]]]:
        for query in chosen:
            documents = [index.get(id_) for id_, _ in runs["hybrid"][query][: arguments.depth]]
            yield query, collection.queries[query], [document for document in documents if document is not None]

    return runs, {query: collection.qrels[query] for query in chosen}, pairs()


def searched(index: Index, collection: Collection, queries: list[str], stage: str, depth: int) -> Run:
    """Return the best of each query, without the query's own document."""
    run: Run = {}
    for start in range(0, len(queries), 64):
        part = queries[start : start + 64]
        texts = [collection.queries[query] for query in part]
        for query, answer in zip(
            part, index.batch_search(texts, depth + 1, pipeline=stage, documents=False), strict=True
        ):
            run[query] = [pair for pair in answer.ranking() if pair[0] != query][:depth]
    return run


def from_trec(year: str, run: str, arguments: argparse.Namespace) -> Work:
    """Read a real first-stage run of TREC Deep Learning and its full judgments."""
    folder = arguments.data / "msmarco-dl"
    texts = {document.id: document for document in open_corpus(str(folder))}
    collection = open_collection(str(folder / f"qrels_full.{year}.trec"), queries=folder / "queries.jsonl")
    found = read_run(folder / "runs" / f"{run}.{year}.trec.gz")
    judged = {query: ranking for query, ranking in found.items() if query in collection.qrels}

    def pairs() -> Iterator[tuple[str, str, list[Document]]]:
        for query, ranking in judged.items():
            yield query, collection.queries[query], [texts[id_] for id_, _ in ranking[: arguments.trec_depth]]

    return {run: judged}, {query: collection.qrels[query] for query in judged}, pairs()


def reranked(scored: Scored, stage: str, weight: float) -> dict[str, float]:
    """Return nDCG@10 of each query as `rerank.weight` mixes the two orders; what was not reranked stays below."""
    run: Run = {}
    for query, ranking in scored.runs[stage].items():
        scores = scored.scores[query]
        head = [pair for pair in ranking if pair[0] in scores]
        new = weighted_minmax(
            {"first": head, "rerank": ordered(scores)}, weights={"first": 1 - weight, "rerank": weight}
        )
        rest = [id_ for id_, _ in ranking if id_ not in scores]
        # In places, since the scores of the two parts are not of one scale.
        places = [id_ for id_, _ in new] + rest
        run[query] = [(id_, float(-place)) for place, id_ in enumerate(places)]
    return per_query(run, scored.qrels)


def per_query(run: Run, qrels: Qrels) -> dict[str, float]:
    return measure(run, qrels, ["nDCG@10"]).per_query["nDCG@10"]


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def write(found: dict[str, Scored], arguments: argparse.Namespace) -> None:
    """Choose the weight, compare, and write CSV and Markdown."""
    development = [f"{name}-{split}" for name, split in DEVELOPMENT]
    curve = {weight: [mean(reranked(found[name], "hybrid", weight)) for name in development] for weight in WEIGHTS}
    best = max(curve, key=lambda weight: sum(curve[weight]))
    rows = []
    for name, part in found.items():
        stage = "hybrid" if "hybrid" in part.runs else next(iter(part.runs))
        before = per_query(part.runs[stage], part.qrels)
        for weight in (best, 1.0):
            after = reranked(part, stage, weight)
            rows.append((name, weight, part, compare(before, after), before, after))
    tested = [row for row in rows if row[1] == best and row[0] not in development]
    adjusted = dict(zip([row[0] for row in tested], holm([row[3].p for row in tested]), strict=True))
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = environment()
    with (arguments.output / "reranker.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "queries", "bm25", "dense", "first", "weight", "reranked", "difference", "low", "high",
                         "p", "p_holm", "ms_median", "depth", "cpu"])  # fmt: skip
        for name, weight, part, result, _, _ in rows:
            stages = [f"{mean(per_query(part.runs[s], part.qrels)):.4f}" if s in part.runs else "" for s in STAGES[:2]]
            holms = f"{adjusted[name]:.3g}" if weight == best and name in adjusted else ""
            writer.writerow([name, len(part.scores), *stages, f"{result.baseline:.4f}", weight, f"{result.system:.4f}",
                             f"{result.difference:+.4f}", *(f"{edge:+.4f}" for edge in result.interval),
                             f"{result.p:.3g}", holms, f"{np.median(part.milliseconds):.0f}",
                             arguments.depth, machine["cpu"]])  # fmt: skip
    lines = [
        f"| development | {' | '.join(f'{weight:g}' for weight in WEIGHTS)} |",
        f"|---|{'---|' * len(WEIGHTS)}",
        *(
            f"| {name} | {' | '.join(f'{curve[weight][place]:.4f}' for weight in WEIGHTS)} |"
            for place, name in enumerate(development)
        ),
        "",
        f"| set | queries | BM25 | dense | before | reranked at {best:g} | difference (95 %) | p | p (Holm) | at 1 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    alone = {row[0]: row[3].system for row in rows if row[1] == 1.0}
    for name, _, part, result, _, _ in tested:
        stages = [f"{mean(per_query(part.runs[s], part.qrels)):.4f}" if s in part.runs else "" for s in STAGES[:2]]
        low, high = result.interval
        lines.append(
            f"| {name} | {len(part.scores)} | {stages[0]} | {stages[1]} | {result.baseline:.4f} | {result.system:.4f} "
            f"| {result.difference:+.4f} ({low:+.4f} to {high:+.4f}) | {result.p:.2g} | {adjusted[name]:.2g} "
            f"| {alone[name]:.4f} |"
        )
    together = {row[0]: (row[4], row[5]) for row in tested if row[0].split("-")[0] not in YEARS}
    start, end, p = compare_across(together)
    lines += ["", f"All {len(together)} collections, each weighing the same: {start:.4f} → {end:.4f} "
              f"({end - start:+.4f}), p = {p:.2g}."]  # fmt: skip
    (arguments.output / "reranker-tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
