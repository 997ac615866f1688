"""Does the trained reranker lift searches of collections that it was not trained on?

    python -m benchmarks.reranker MODEL ... --data FOLDER --work .cache/reproduce --output docs/results

Several models are one training by several seeds; beside them stand what they begin as, the cosine of --start, and, on
all but the TREC runs, the cosine of a larger bi-encoder, --larger: how far a teacher like it could lead. Needs
the indexes of `retriever eval reproduce` in --work. Scores are kept in MODEL.scores, one file a collection, so that an
interrupted run goes on and parts can be made apart (--only). The weight of each reranker is the best one on the
development queries; the tables are of test queries and of the TREC runs beside msmarco-dl.
"""

import argparse
import csv
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexing.corpora import open_corpus
from retriever.encoder import load_encoder
from retriever.evaluation.collections import Collection, Qrels, open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.records import environment
from retriever.evaluation.runs import read_run
from retriever.evaluation.significance import Comparison, compare, compare_across, holm
from retriever.fusion import ordered, weighted_minmax
from retriever.index.sealed import Index, open_index
from retriever.models import resolve
from retriever.models.joint_bert import from_bi_encoder
from retriever.rerank import CrossEncoderReranker, Precision
from retriever.storage import sha256_of, write_atomically
from retriever.types import Document, Run

DEVELOPMENT = (("scifact", "train"), ("cosqa", "dev"))
TEST = (("scifact", "test"), ("cosqa", "test"), ("cranfield", "test"))
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
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument("--start", default="all-MiniLM-L6-v2", help="bi-encoder that the models begin as")
    parser.add_argument("--larger", default="all-mpnet-base-v2", help="bi-encoder that stands beside them")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/reproduce"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--depth", type=int, default=20, help="documents that are reranked")
    parser.add_argument("--trec-depth", type=int, default=50, help="of the TREC runs")
    parser.add_argument("--development-queries", type=int, default=100)
    parser.add_argument("--test-queries", type=int, default=1000)
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its own choice")
    parser.add_argument("--trec", nargs="*", default=list(TREC))
    parser.add_argument("--only", nargs="*", help="score these sets and write no table, such as scifact-test dl19-bm25")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    start = cosine(arguments.start, arguments.models[0], arguments.work)
    found: dict[str, list[Scored]] = {}
    for model in (start, *arguments.models):
        reranker = CrossEncoderReranker(model, precision=arguments.precision)
        for name in sets(arguments.trec):
            if arguments.only is None or name in arguments.only:
                weights = model / "model.safetensors"
                found.setdefault(name, []).append(scored(name, model, weights, reranker, arguments))
                print(model.name, name, len(found[name][-1].scores), flush=True)
    larger = Cosines(arguments.larger, reranker.max_tokens, arguments.precision)
    place, weights = scores_of(arguments.larger, arguments.work), resolve(arguments.larger) / "model.safetensors"
    for name in sets([]):
        if arguments.only is None or name in arguments.only:
            found[name].append(scored(name, place, weights, larger, arguments))
            print(place.name, name, len(found[name][-1].scores), flush=True)
    if arguments.only is None:
        write(found, arguments)


class Cosines:
    """A bi-encoder's cosines in the place of a reranker's scores."""

    def __init__(self, name: str, max_tokens: int, precision: Precision | None) -> None:
        self._encoder = load_encoder(name, precision=precision or "float32")
        # No more than the rerankers read.
        self._encoder.model.max_seq_length = max_tokens

    def score(self, query: str, documents: Sequence[Document]) -> tuple[NDArray[np.float32], None]:
        """Return the scores; how many documents were cut is not known."""
        return self._encoder.encode_documents(documents) @ self._encoder.encode_queries([query])[0], None


def cosine(base: str, model: Path, work: Path) -> Path:
    """Return the folder of a cross-encoder whose score is the bi-encoder's cosine, reading as much as `model`."""
    folder = scores_of(base, work)
    if not folder.is_dir():
        from transformers import AutoTokenizer

        from_bi_encoder(str(resolve(base, offline=True)), 0).save_pretrained(str(folder))
        AutoTokenizer.from_pretrained(str(model), local_files_only=True).save_pretrained(str(folder))
    return folder


def scores_of(bi_encoder: str, work: Path) -> Path:
    """Return the folder of a bi-encoder's cosines, by its name."""
    return work / f"{Path(bi_encoder).name}-cosine"


def sets(trec: list[str]) -> list[str]:
    """Return the names of all sets of queries."""
    return [f"{name}-{split}" for name, split in DEVELOPMENT + TEST] + [f"{y}-{run}" for y in YEARS for run in trec]


def scored(
    name: str, model: Path, weights: Path, reranker: CrossEncoderReranker | Cosines, arguments: argparse.Namespace
) -> Scored:
    """Return the runs and scores of a set, from its file or made now; `weights` tell models of one name apart."""
    path = model.with_name(model.name + ".scores") / f"{name}.json"
    of_trec = name.split("-")[0] in YEARS
    key = {
        "model": sha256_of(weights),
        "depth": arguments.trec_depth if of_trec else arguments.depth,
        "queries": None if of_trec else [arguments.development_queries, arguments.test_queries],
    }
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


class Tested(NamedTuple):
    """A set at the weights that development queries chose: nDCG@10 of each query, of models the mean over them."""

    name: str
    before: dict[str, float]
    start: dict[str, float]
    trained: dict[str, float]
    larger: dict[str, float] | None = None

    def comparisons(self) -> tuple[Comparison, Comparison]:
        """Return the trained reranker against the order before it, and against the untrained one."""
        return compare(self.before, self.trained), compare(self.start, self.trained)


def first_stage(part: Scored) -> str:
    return "hybrid" if "hybrid" in part.runs else next(iter(part.runs))


def averaged(parts: Sequence[Scored], weight: float) -> dict[str, float]:
    """Return nDCG@10 of each query reranked, the mean over models."""
    each = [reranked(part, first_stage(part), weight) for part in parts]
    return {query: statistics.fmean(values[query] for values in each) for query in each[0]}


def rows_of(arguments: argparse.Namespace) -> dict[str, slice]:
    """Return the places of what is compared among a set's scores."""
    trained = 1 + len(arguments.models)
    return {"start": slice(0, 1), "trained": slice(1, trained), "larger": slice(trained, None)}


def write(found: dict[str, list[Scored]], arguments: argparse.Namespace) -> None:
    """Choose the weights, compare, and write CSV and Markdown."""
    development = [f"{name}-{split}" for name, split in DEVELOPMENT]
    curves = {
        who: {w: [mean(averaged(found[name][places], w)) for name in development] for w in WEIGHTS}
        for who, places in rows_of(arguments).items()
    }
    best = {who: max((sum(means), weight) for weight, means in curve.items())[1] for who, curve in curves.items()}
    tested = []
    for name, parts in found.items():
        before = per_query(parts[0].runs[first_stage(parts[0])], parts[0].qrels)
        means = {who: averaged(parts[places], best[who]) for who, places in rows_of(arguments).items() if parts[places]}
        tested.append(Tested(name, before, **means))
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_csv(found, arguments)
    lines = [*curve_table(curves, development), "", *tests_table(tested, found, best, development)]
    (arguments.output / "reranker-tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def write_csv(found: dict[str, list[Scored]], arguments: argparse.Namespace) -> None:
    """Write one line for each set, model and weight."""
    machine = environment()
    with (arguments.output / "reranker.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "queries", "depth", "model", "weight", *STAGES[:2], "before", "reranked", "ms_median",
                         "cpu"])  # fmt: skip
        for name, parts in found.items():
            depth = arguments.trec_depth if name.split("-")[0] in YEARS else arguments.depth
            models = ("start", *(m.name for m in arguments.models), Path(arguments.larger).name)
            for model, part in zip(models, parts, strict=False):
                stage, taken = first_stage(part), f"{np.median(part.milliseconds):.0f}"
                before = f"{mean(per_query(part.runs[stage], part.qrels)):.4f}"
                for weight in WEIGHTS[1:]:
                    after = f"{mean(reranked(part, stage, weight)):.4f}"
                    about = [name, len(part.scores), depth, model, weight]
                    writer.writerow([*about, *stages(part), before, after, taken, machine["cpu"]])


def stages(part: Scored) -> list[str]:
    """Return nDCG@10 of BM25 and of dense search, where there are runs of them."""
    return [f"{mean(per_query(part.runs[s], part.qrels)):.4f}" if s in part.runs else "" for s in STAGES[:2]]


def curve_table(curves: dict[str, dict[float, list[float]]], development: list[str]) -> list[str]:
    """Return a Markdown table: each weight on the development queries."""
    rows = [
        f"| {name} | {who} | {' | '.join(f'{curve[weight][place]:.4f}' for weight in WEIGHTS)} |"
        for place, name in enumerate(development)
        for who, curve in curves.items()
    ]
    return [f"| development | | {' | '.join(f'{w:g}' for w in WEIGHTS)} |", f"|---|---|{'---|' * len(WEIGHTS)}", *rows]


def tests_table(
    tested: list[Tested], found: dict[str, list[Scored]], best: dict[str, float], development: list[str]
) -> list[str]:
    """Return a Markdown table of the tests, p corrected by Holm within each of the two columns of differences."""
    shown = [row for row in tested if row.name not in development]
    results = [row.comparisons() for row in shown]
    corrected = [holm([pair[place].p for pair in results]) for place in (0, 1)]
    lines = [
        f"| set | queries | BM25 | dense | before | start at {best['start']:g} | trained at {best['trained']:g} "
        "| over before (95 %) | p (Holm) | over start (95 %) | p (Holm) |",
        f"|{'---|' * 11}",
    ]
    for place, (row, pair) in enumerate(zip(shown, results, strict=True)):
        gains = [
            f"{result.difference:+.4f} ({result.interval[0]:+.4f} to {result.interval[1]:+.4f}) | {p[place]:.2g}"
            for result, p in zip(pair, corrected, strict=True)
        ]
        means = [f"{mean(values):.4f}" for values in (row.before, row.start, row.trained)]
        cells: list[Any] = [row.name, len(row.before), *stages(found[row.name][0]), *means, *gains]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    collections = [row for row in shown if row.larger]
    lines += ["", f"| set | before | larger at {best['larger']:g} | over before (95 %) | p (Holm) |", f"|{'---|' * 5}"]
    beside = [compare(row.before, row.larger) for row in collections if row.larger]
    for row, result, p in zip(collections, beside, holm([result.p for result in beside]), strict=True):
        (low, high), before = result.interval, mean(row.before)
        lines.append(f"| {row.name} | {before:.4f} | {before + result.difference:.4f} "
                     f"| {result.difference:+.4f} ({low:+.4f} to {high:+.4f}) | {p:.2g} |")  # fmt: skip
    for first, second in (("before", "trained"), ("start", "trained"), ("before", "larger")):
        pairs = {row.name: (getattr(row, first), getattr(row, second)) for row in collections}
        low, high, p = compare_across(pairs)
        lines += ["", f"All {len(collections)} collections, each weighing the same, {first} to {second}: {low:.4f} → "
                  f"{high:.4f} ({high - low:+.4f}), p = {p:.2g}."]  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
