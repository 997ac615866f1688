"""What `indexing.compression` found, for machines and for reading."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from indexing.compression import Compression, Trial, refusal
from retriever.evaluation.significance import Comparison


def report(found: Compression) -> dict[str, Any]:
    """Return all that was measured, ready for JSON."""

    def shown(trial: Trial) -> dict[str, Any]:
        content = asdict(trial)
        del content["per_query"]
        return {"name": trial.name, **content, "within": found.within(trial), "over": found.over(trial)}

    said = found.chosen or found.closest
    return {
        "index": found.index,
        "documents": found.documents,
        "width": found.width,
        "queries": found.queries,
        "target": found.target,
        "most_bytes": found.most_bytes,
        "counted": "memory" if found.memory_only else "disk",
        "max_loss": found.max_loss,
        "decided_by": "mean" if found.by_mean else "lower end of the 95 % interval",
        "cores": os.cpu_count(),
        "exact": shown(found.exact),
        "trials": [shown(trial) for trial in found.trials],
        "chosen": found.chosen.name if found.chosen else None,
        "closest": found.closest.name if found.closest else None,
        "losing_most": [
            {"id": id_, "query": text, "before": before, "after": after}
            for id_, text, before, after in (found.losers(said) if said else [])
        ],
    }


def as_markdown(found: Compression) -> str:
    """Return the report for reading."""
    lines = [
        f"# Compression of {Path(found.index).name}",
        "",
        f"{found.documents:,} documents of width {found.width}; {found.queries}. "
        f"Target: {found.target:g} times smaller, at most {found.most_bytes:g} bytes a document "
        f"({'read by each search' if found.memory_only else 'on disk'}); "
        f"nDCG@10 may fall by {found.max_loss:g}, by the "
        f"{'mean' if found.by_mean else 'lower end of its 95 % interval'}.",
        "",
        f"**{'Chosen: ' + found.chosen.name if found.chosen else 'Refused: ' + refusal(found)}**",
        "",
        "| form | bytes | in memory | nDCG@10 | difference | 95 % interval | recall@100 | difference | 95 % interval "
        "| ms | queries/s | within |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for trial in [found.exact, *found.trials]:
        if trial.ndcg is None or trial.recall is None:
            lines.append(f"| {trial.name} | {trial.problem} | | | | | | | | | | |")
            continue
        lines.append(
            f"| {trial.name} | {trial.bytes:.1f} | {trial.memory:.1f} | {_compared(trial.ndcg)} "
            f"| {_compared(trial.recall)} | {trial.latency_ms:.2f} | {trial.queries_per_second:,.0f} "
            f"| {_within(found, trial)} |"
        )
    said = found.chosen or found.closest
    losers = found.losers(said) if said else []
    if said and losers:
        lines += ["", f"## Queries that lose most by {said.name}", "", "| query | before | after |", "|---|---|---|"]
        for _, text, before, after in losers:
            cell = " ".join(text.split())[:100].replace("|", "\\|")
            lines.append(f"| {cell} | {before:.3f} | {after:.3f} |")
    return "\n".join(lines) + "\n"


def _compared(measured: Comparison) -> str:
    """Return the cells of a measure: its value, the difference from exact search, and the interval of that."""
    low, high = measured.interval
    return f"{measured.system:.4f} | {measured.difference:+.4f} | {low:+.4f} to {high:+.4f}"


def _within(found: Compression, trial: Trial) -> str:
    """Say whether a form keeps the bound; of one that is too large how much smaller it is after all."""
    if trial is not found.exact and found.over(trial):
        return f"over the target: {4 * found.width / found.counted(trial):.1f} times smaller"
    return "yes" if found.within(trial) else "no"
