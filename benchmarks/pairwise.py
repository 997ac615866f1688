"""What pairwise ranking by a small language model costs, and how much it depends on the order that it begins with.

    python -m benchmarks.pairwise --collection FOLDER [--split test] [--queries 10] [--depth 20]

For queries drawn by seed 42 the model is asked about all ordered pairs of BM25's best --depth documents once; every
variant then ranks by these answers, as it would by the model, with its calls counted and nothing cached before. Each
begins with the order of BM25, its reverse and three random ones: `tau` is Kendall's between what comes of BM25's order
and of each other one, 1 where the beginning does not matter. `seconds` are calls times the measured time of one, in
prompts that share query and first passage. As `benchmarks.llm`, the same command goes on where it stopped. Writes the
rows of this collection to docs/results/llm_pairwise.csv; p is against BM25, corrected by Holm.
"""

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from benchmarks.llm import MEASURE, arguments, open_model, replace_rows, searching, worked
from retriever.evaluation.measures import measure
from retriever.evaluation.significance import compare, holm
from retriever.llm import prompts
from retriever.llm.judge import Judge
from retriever.llm.prompts import Prompt
from retriever.llm.rankers import LanguageRanker
from retriever.llm.usage import Deadline, Usage
from retriever.pipeline import Rerank
from retriever.types import Document, Run

VARIANTS: dict[str, dict[str, Any]] = {
    "all pairs": {"strategy": "all_pairs"},
    "heap, best 10": {"strategy": "heap", "best": 10},
    "sliding, 1 pass": {"strategy": "sliding"},
    "sliding, 10 passes": {"strategy": "sliding", "passes": 10},
    "all pairs, soft": {"strategy": "all_pairs", "soft": True},
    "heap, best 10, soft": {"strategy": "heap", "best": 10, "soft": True},
    "sliding, 10 passes, soft": {"strategy": "sliding", "passes": 10, "soft": True},
    "all pairs, one order": {"strategy": "all_pairs", "both_orders": False},
    "all pairs, one order, debiased": {"strategy": "all_pairs", "both_orders": False, "debias": True},
    "sliding, 10 passes, one order": {"strategy": "sliding", "passes": 10, "both_orders": False},
}
SHUFFLES = 3
COLUMNS = (
    "collection", "queries", "depth", "document_tokens", "precision", "variant", MEASURE, "difference", "p_holm",
    "of_other_orders", "tau", "calls", "comparisons", "ties", "tokens", "seconds",
)  # fmt: skip


class Recorded:
    """Fits `retriever.llm.model.LanguageModel` with answers that are known.

    Ranking by pairs in mode scoring only chooses; that it asks for nothing else is what the two other calls see to.
    """

    name = "recorded"

    def __init__(self, answers: dict[str, float], tokens: float) -> None:
        self._answers = answers
        self._tokens = tokens

    def cut(self, text: str, tokens: int) -> str:
        return text

    def choose(
        self, asked: Sequence[Prompt], options: tuple[str, str], deadline: Deadline, usage: Usage
    ) -> list[float]:
        usage.prompt_tokens += round(self._tokens * len(asked))
        return [self._answers[prompt.user] for prompt in asked]

    def likelihoods(self, *given: Any) -> list[list[float]]:
        raise NotImplementedError

    def write(self, *given: Any) -> list[str]:
        raise NotImplementedError


def orders(count: int) -> list[list[int]]:
    """Return places in the order of BM25, in reverse, and in random orders."""
    generator = random.Random(7)
    given = list(range(count))
    return [given, given[::-1], *(generator.sample(given, count) for _ in range(SHUFFLES))]


def ranked(
    query: str, documents: Sequence[Document], noted: dict[str, Any], options: dict[str, Any]
) -> tuple[list[list[str]], Usage]:
    """Return the ids that a variant puts in order from each beginning, and what it cost from BM25's."""
    texts = noted["texts"]
    answers = {
        prompts.pair(noted["query"], texts[first], texts[second]).user: noted["answers"][first][second]
        for first in range(len(texts))
        for second in range(len(texts))
        if first != second
    }
    shown = [Document(document.id, text) for document, text in zip(documents, texts, strict=True)]
    found, usage = [], Usage()
    for order in orders(len(shown)):
        judge = Judge(Recorded(answers, noted["tokens"] / max(1, noted["prompts"])))
        ranker = LanguageRanker(judge, Rerank(model="recorded", kind="pairwise", depth=len(shown), **options))
        result = ranker.rank(noted["query"], [shown[place] for place in order], None)
        if not found:
            usage = result.usage
        by_score = sorted(range(len(order)), key=lambda place: -float(result.scores[place]))
        found.append([shown[order[place]].id for place in by_score])
    return found, usage


def main() -> None:
    given = arguments(__doc__, queries=10, document_tokens=64, output="llm_pairwise.csv").parse_args()
    collection, searched = searching(given.collection, given.split, given.queries, given.depth)
    model = open_model(given.model, given.precision)
    name = given.collection.name

    def ask(query: str) -> dict[str, Any]:
        judge, usage = Judge(model), Usage()
        asked = model.cut(collection.queries[query], 64)
        texts = [model.cut(document.content, given.document_tokens) for document, _ in searched[query]]
        answers = []
        started = time.perf_counter()
        for place, first in enumerate(texts):
            # All that begin alike are asked together: query and first passage are computed once.
            pairs = [(first, second) for second in texts[:place] + texts[place + 1 :]]
            found = judge.preferences(asked, pairs, "scoring", Deadline(), usage)
            answers.append([*found[:place], 0.0, *found[place:]])
        taken = time.perf_counter() - started
        tokens = usage.prompt_tokens + usage.answer_tokens
        return {
            "query": asked, "texts": texts, "answers": answers, "seconds": taken, "tokens": tokens,
            "prompts": usage.calls,
        }  # fmt: skip

    plan = {
        "model": given.model, "depth": given.depth, "document_tokens": given.document_tokens, "collection": name,
        "split": given.split, "precision": given.precision, "sha256": collection.sha256,
    }  # fmt: skip
    found = worked(given.work / f"pairwise-{name}.jsonl", plan, list(searched), ask, given.seconds)
    qrels = {query: collection.qrels[query] for query in found}
    first = {query: [(document.id, score) for document, score in searched[query]] for query in found}
    before = measure(first, qrels, [MEASURE])
    seconds = sum(noted["seconds"] for noted in found.values()) / sum(noted["prompts"] for noted in found.values())
    rows, tests = [], []
    for variant, options in VARIANTS.items():
        runs: list[Run] = [{} for _ in range(2 + SHUFFLES)]
        taus, costs = [], []
        for query, noted in found.items():
            results, usage = ranked(query, [document for document, _ in searched[query]], noted, options)
            for run, ids in zip(runs, results, strict=True):
                run[query] = [(id_, float(len(ids) - place)) for place, id_ in enumerate(ids)]
            places = [{id_: place for place, id_ in enumerate(ids)} for ids in results]
            taus += [
                kendalltau([places[0][id_] for id_ in results[0]], [other[id_] for id_ in results[0]]).statistic
                for other in places[1:]
                # One document has no order.
                if len(other) > 1
            ]
            costs.append(usage)
        means = [measure(run, qrels, [MEASURE]) for run in runs]
        test = compare(before.per_query[MEASURE], means[0].per_query[MEASURE])
        tests.append(test.p)
        calls, comparisons, ties = (
            float(np.mean([getattr(usage, field) for usage in costs])) for field in ("calls", "comparisons", "ties")
        )
        tokens = float(np.mean([usage.prompt_tokens for usage in costs]))
        rows.append([
            name, len(found), given.depth, given.document_tokens, given.precision, variant,
            f"{means[0].means[MEASURE]:.4f}", f"{test.difference:+.4f}", "",
            f"{np.mean([m.means[MEASURE] for m in means[1:]]):.4f}", f"{np.mean(taus):.3f}", f"{calls:.0f}",
            f"{comparisons:.0f}", f"{ties:.0f}", f"{tokens:.0f}", f"{calls * seconds:.1f}",
        ])  # fmt: skip
    for row, p in zip(rows, holm(tests), strict=True):
        row[COLUMNS.index("p_holm")] = f"{p:.3g}"
    none = [name, len(found), given.depth, "", "", "bm25", f"{before.means[MEASURE]:.4f}"]
    rows.insert(0, [*none, *[""] * (len(COLUMNS) - len(none))])
    for row in rows:
        print(*row)
    replace_rows(given.output, COLUMNS, name, rows)


if __name__ == "__main__":
    main()
