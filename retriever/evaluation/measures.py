"""Measures by ir_measures, over the judged queries and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Qrels
from retriever.evaluation.runs import strictly_decreasing
from retriever.types import Run

DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10", "AP@1000", "Judged@10")


@dataclass(frozen=True)
class Measured:
    """Means and values of each query, by measure; the mean is over `queries` queries."""

    means: dict[str, float]
    per_query: dict[str, dict[str, float]]
    queries: int


def parse_measures(names: Sequence[str]) -> list[Any]:
    """Return ir_measures objects. Raises InvalidInput naming the faulty one."""
    import ir_measures

    measures = []
    for name in names:
        try:
            parsed = ir_measures.parse_measure(name)
            supported = ir_measures.DefaultPipeline.supports(parsed)
        except (NameError, ValueError, SyntaxError, TypeError, AssertionError) as error:
            raise InvalidInput(f"unknown measure {name!r}; write nDCG@10, R@100, RR@10, AP, P@5 ...") from error
        if not supported:
            raise InvalidInput(f"{name!r} needs a package that is not installed; `ir_measures --help` names it.")
        measures.append(parsed)
    return measures


def measure(run: Run, qrels: Qrels, names: Sequence[str] = DEFAULT_MEASURES) -> Measured:
    """Measure a run against judgments, as `trec_eval -c` does.

    Every judged query counts, with 0 when the run has nothing for it; a query without judgments does not.
    A query whose judgments are all 0 or below counts too, and scores 0.
    """
    import ir_measures

    measures = parse_measures(names)
    judgments = [
        ir_measures.Qrel(query, document, grade)
        for query, graded in qrels.items()
        for document, grade in graded.items()
    ]
    scored = [
        ir_measures.ScoredDoc(query, document, score)
        for query in qrels
        for document, score in strictly_decreasing(run.get(query, []))
    ]
    per_query: dict[str, dict[str, float]] = {str(m): dict.fromkeys(qrels, 0.0) for m in measures}
    # Whatever the provider leaves out, such as a query without results, keeps its 0.
    for metric in ir_measures.iter_calc(measures, judgments, scored):
        per_query[str(metric.measure)][metric.query_id] = float(metric.value)
    means = {name: sum(values.values()) / len(qrels) for name, values in per_query.items()}
    return Measured(means, per_query, len(qrels))
