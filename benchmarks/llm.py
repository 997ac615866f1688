"""Does a small language model order BM25's best documents better?

    python -m benchmarks.llm --collection FOLDER [--split test] [--queries 60] [--depth 20]

Query likelihood by the model and by words (Dirichlet, of whole documents and of what the model reads of them), yes or
no, and sums with BM25, over the best --depth documents of queries drawn by seed 42. What a query's documents were given
is noted in --work at once: no new query is begun after --seconds, the same command goes on where it stopped, and the
table is of the queries that were finished. Writes the rows of this collection to docs/results/llm.csv. p is of paired
randomisation tests against `against`, corrected by Holm over the rows of the collection.
"""

import argparse
import csv
import json
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.analysis import analyser
from retriever.encoder import Precision
from retriever.evaluation.collections import Collection, open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import compare, holm
from retriever.fusion import weighted_minmax
from retriever.index.sealed import open_index
from retriever.llm.causal import CausalModel
from retriever.llm.judge import Judge
from retriever.llm.rankers import LanguageRanker
from retriever.pipeline import Rerank, RerankKind
from retriever.types import Document, Run

MEASURE = "nDCG@10"
# Of a likelihood beside BM25, as in arXiv:2310.13243.
SHARE = 0.8
# Of Dirichlet's prior, in words; the usual value for documents of this length, not tuned here.
PRIOR = 1000.0
ASKED: dict[str, RerankKind] = {"query likelihood": "query_likelihood", "yes or no": "yes_no"}
# Each with what it is compared with.
SYSTEMS = {
    "bm25": "",
    "word likelihood": "bm25",
    "word likelihood, cut": "bm25",
    "word likelihood + bm25": "bm25",
    "yes or no": "bm25",
    "query likelihood": "word likelihood, cut",
    "query likelihood + bm25": "bm25",
}
COLUMNS = (
    "collection", "queries", "depth", "document_tokens", "precision", "system", MEASURE, "against", "difference", "low",
    "high", "p_holm", "calls_a_query", "tokens_a_query", "seconds_a_query",
)  # fmt: skip


class WordLikelihood:
    """log p(query | document) by words, smoothed by Dirichlet's prior: Zhai and Lafferty 2001."""

    def __init__(self, corpus: Iterable[Document]) -> None:
        self._analyser = analyser("lucene-english")
        self._counts: Counter[str] = Counter()
        for document in corpus:
            self._counts.update(self._analyser.terms(document.content))
        self._total = sum(self._counts.values())

    def score(self, query: str, text: str) -> float:
        terms = self._analyser.terms(text)
        counts = Counter(terms)
        # What stands in no document says nothing about which one is better.
        return sum(
            math.log((counts[term] + PRIOR * self._counts[term] / self._total) / (len(terms) + PRIOR))
            for term in self._analyser.terms(query)
            if self._counts[term]
        )


def searching(
    folder: Path, split: str, queries: int, depth: int
) -> tuple[Collection, dict[str, list[tuple[Document, float]]]]:
    """Return a collection and, for queries drawn by seed 42, BM25's best documents with their scores."""
    collection = open_collection(str(folder), split)
    drawn = random.Random(42).sample(list(collection.judged), min(queries, len(collection.judged)))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "index"
        build_index(open_corpus(str(folder)), path, BuildSettings(parts=("bm25",)))
        with open_index(path) as index:
            hits = {query: index.search(collection.queries[query], depth, pipeline="bm25").hits for query in drawn}
    return collection, {
        query: [(hit.document, hit.score) for hit in found if hit.document is not None] for query, found in hits.items()
    }


def worked(path: Path, plan: dict[str, Any], names: Sequence[str], work: Callable[[str], Any], seconds: float) -> Any:
    """Return what `work` gives for each name, by name; what is noted in a file of this plan is not done again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.is_file() else []
    if not lines:
        path.write_text(json.dumps(plan) + "\n")
    elif json.loads(lines[0]) != plan:
        raise SystemExit(f"{path} is of another plan: {lines[0]}; move it away.")
    noted = [json.loads(line) for line in lines[1:]]
    found = {entry["name"]: entry["found"] for entry in noted}
    began = time.perf_counter()
    for number, name in enumerate(names, 1):
        if name in found:
            continue
        if time.perf_counter() - began > seconds:
            break
        found[name] = work(name)
        with path.open("a") as file:
            file.write(json.dumps({"name": name, "found": found[name]}) + "\n")
        print(f"{number} of {len(names)}", flush=True)
    return {name: found[name] for name in names if name in found}


def arguments(doc: str | None, *, queries: int, document_tokens: int, output: str) -> argparse.ArgumentParser:
    """Return what the benchmarks of language models have in common."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--queries", type=int, default=queries)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--document-tokens", type=int, default=document_tokens)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--work", type=Path, default=Path(".cache/llm"))
    parser.add_argument("--output", type=Path, default=Path("docs/results") / output)
    return parser


def open_model(name: str, precision: Precision) -> CausalModel:
    return CausalModel(name, device="cpu", precision=precision, offline=True)


def replace_rows(path: Path, columns: Sequence[str], collection: str, rows: Sequence[Sequence[Any]]) -> None:
    """Write rows of a collection to a table, instead of those that it had of it."""
    kept: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] != collection]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *kept, *rows])


def runs_of(
    found: dict[str, Any],
    searched: dict[str, list[tuple[Document, float]]],
    queries: dict[str, str],
    words: WordLikelihood,
    cut: Callable[[str], str],
) -> dict[str, Run]:
    """Return the run of every system over the queries that were finished.

    cut  returns what the model reads of a document
    """
    runs: dict[str, Run] = {name: {} for name in SYSTEMS}
    for query, noted in found.items():
        ids = [document.id for document, _ in searched[query]]
        scores = {name: noted[name]["scores"] for name in ASKED}
        texts = [document.content for document, _ in searched[query]]
        scores["word likelihood"] = [words.score(queries[query], text) for text in texts]
        scores["word likelihood, cut"] = [words.score(queries[query], cut(text)) for text in texts]
        first = [(document.id, score) for document, score in searched[query]]
        runs["bm25"][query] = first
        for name, values in scores.items():
            # Ties stay in the order of BM25.
            runs[name][query] = sorted(zip(ids, values, strict=True), key=lambda hit: -hit[1])
        for name in ("word likelihood", "query likelihood"):
            weights = {"bm25": 1 - SHARE, "likelihood": SHARE}
            runs[f"{name} + bm25"][query] = weighted_minmax(
                {"bm25": first, "likelihood": runs[name][query]}, weights=weights
            )
    return runs


def main() -> None:
    given = arguments(__doc__, queries=60, document_tokens=64, output="llm.csv").parse_args()
    collection, searched = searching(given.collection, given.split, given.queries, given.depth)
    words = WordLikelihood(open_corpus(str(given.collection)))
    model = open_model(given.model, given.precision)
    judge = Judge(model)
    options = {"model": given.model, "depth": given.depth, "document_tokens": given.document_tokens}
    rankers = {name: LanguageRanker(judge, Rerank(kind=kind, **options)) for name, kind in ASKED.items()}
    name = given.collection.name

    def ask(query: str) -> dict[str, Any]:
        found = {}
        for kind, ranker in rankers.items():
            started = time.perf_counter()
            ranked = ranker.rank(collection.queries[query], [document for document, _ in searched[query]], None)
            taken = time.perf_counter() - started
            found[kind] = {"scores": ranked.scores.tolist(), "seconds": taken, "usage": ranked.usage.as_dict()}
        return found

    plan = {**options, "collection": name, "split": given.split, "precision": given.precision}
    plan["sha256"] = collection.sha256
    found = worked(given.work / f"{name}.jsonl", plan, list(searched), ask, given.seconds)
    runs = runs_of(found, searched, collection.queries, words, lambda text: model.cut(text, given.document_tokens))
    qrels = {query: collection.qrels[query] for query in found}
    measured = {system: measure(run, qrels, [MEASURE]) for system, run in runs.items()}
    compared = {
        system: compare(measured[against].per_query[MEASURE], measured[system].per_query[MEASURE])
        for system, against in SYSTEMS.items()
        if against
    }
    corrected = dict(zip(compared, holm([result.p for result in compared.values()]), strict=True))
    rows = []
    for system, against in SYSTEMS.items():
        row = [name, len(found), given.depth, given.document_tokens, given.precision, system]
        row += [f"{measured[system].means[MEASURE]:.4f}", against]
        if against:
            low, high = compared[system].interval
            row += [f"{value:+.4f}" for value in (compared[system].difference, low, high)]
            row.append(f"{corrected[system]:.3g}")
        else:
            row += [""] * 4
        noted = [entry[system] for entry in found.values()] if system in ASKED else []
        if noted:
            usage: Counter[str] = Counter()
            for entry in noted:
                usage.update(entry["usage"])
            tokens = usage["prompt_tokens"] + usage["answer_tokens"]
            seconds = sum(entry["seconds"] for entry in noted)
            row += [f"{value / len(noted):.1f}" for value in (usage["calls"], tokens, seconds)]
        else:
            row += [""] * 3
        rows.append(row)
        print(*row)
    replace_rows(given.output, COLUMNS, name, rows)


if __name__ == "__main__":
    main()
