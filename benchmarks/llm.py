"""Does a small language model order BM25's best documents better, and at what cost?

    python -m benchmarks.llm --collection FOLDER --split test --output docs/results/llm.csv

Query likelihood, its sum with BM25, and one sliding pass of pairs in both orders, over the best --depth documents of
--queries queries drawn by seed 42. Queries are worked on one after another and no new one is begun after --seconds;
the table says how many were. All numbers are of the queries that all systems answered.
"""

import argparse
import csv
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from retriever.evaluation.collections import open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import compare, holm
from retriever.fusion import weighted_minmax
from retriever.index.sealed import open_index
from retriever.llm.causal import CausalModel
from retriever.llm.judge import Judge
from retriever.llm.rankers import LanguageRanker
from retriever.pipeline import Rerank
from retriever.types import Run

MEASURE = "nDCG@10"
# Of query likelihood beside BM25, as in arXiv:2310.13243.
SHARE = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--document-tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=480)
    arguments = parser.parse_args()
    collection = open_collection(str(arguments.collection), arguments.split)
    drawn = random.Random(42).sample(list(collection.judged), min(arguments.queries, len(collection.judged)))
    judge = Judge(CausalModel(arguments.model, device="cpu", precision=arguments.precision, offline=True))
    options = {"model": arguments.model, "depth": arguments.depth, "document_tokens": arguments.document_tokens}
    rankers = {kind: LanguageRanker(judge, Rerank(kind=kind, **options)) for kind in ("query_likelihood", "pairwise")}
    runs: dict[str, Run] = {name: {} for name in ("bm25", *rankers, "query_likelihood + bm25")}
    usage: dict[str, Counter[str]] = {name: Counter() for name in rankers}
    seconds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        build_index(open_corpus(str(arguments.collection)), path, BuildSettings(parts=("bm25",)))
        began = time.perf_counter()
        with open_index(path) as index:
            for number, query in enumerate(drawn, 1):
                if time.perf_counter() - began > arguments.seconds:
                    break
                text = collection.queries[query]
                hits = index.search(text, arguments.depth, pipeline="bm25").hits
                documents = [hit.document for hit in hits if hit.document is not None]
                first = [(hit.id, hit.score) for hit in hits]
                runs["bm25"][query] = first
                for name, ranker in rankers.items():
                    started = time.perf_counter()
                    ranked = ranker.rank(text, documents, None)
                    seconds[name] += time.perf_counter() - started
                    usage[name].update(ranked.usage.as_dict())
                    scores = {
                        document.id: float(score) for document, score in zip(documents, ranked.scores, strict=True)
                    }
                    places = {id_: place for place, (id_, _) in enumerate(first)}
                    order = sorted(scores, key=lambda id_: (-scores[id_], places[id_]))
                    runs[name][query] = [(id_, scores[id_]) for id_ in order]
                runs["query_likelihood + bm25"][query] = weighted_minmax(
                    {"bm25": first, "likelihood": runs["query_likelihood"][query]},
                    weights={"bm25": 1 - SHARE, "likelihood": SHARE},
                )
                print(number, query, {name: round(value) for name, value in seconds.items()}, flush=True)
    asked = list(runs["bm25"])
    qrels = {query: collection.qrels[query] for query in asked}
    measured = {name: measure(run, qrels, [MEASURE]) for name, run in runs.items()}
    compared = {
        name: compare(measured["bm25"].per_query[MEASURE], found.per_query[MEASURE])
        for name, found in measured.items()
        if name != "bm25"
    }
    corrected = dict(zip(compared, holm([found.p for found in compared.values()]), strict=True))
    with arguments.output.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(
            ("collection", "queries", "system", MEASURE, "p_holm_against_bm25", "seconds_a_query", "calls_a_query",
             "tokens_a_query", "comparisons", "ties")
        )  # fmt: skip
        for name, found in measured.items():
            counts = usage.get(name, Counter())
            tokens = counts["prompt_tokens"] + counts["answer_tokens"]
            table.writerow(
                (arguments.collection.name, len(asked), name, f"{found.means[MEASURE]:.4f}",
                 f"{corrected[name]:.3f}" if name in corrected else "", f"{seconds[name] / len(asked):.2f}",
                 f"{counts['calls'] / len(asked):.1f}", f"{tokens / len(asked):.0f}", counts["comparisons"],
                 counts["ties"])
            )  # fmt: skip


if __name__ == "__main__":
    main()
