"""The README of a trained model: what it is, what it was trained on, what was measured."""

from typing import Any

import yaml


def model_card(report: dict[str, Any]) -> str:
    """Return Markdown with the metadata block that model hubs read."""
    settings = report["settings"]
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": report["pipeline_tag"],
        "base_model": settings["base"],
        "tags": ["retrieval", report["recipe"]],
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        f"# {settings['base']} trained by `{report['recipe']}`",
        "",
        f"Source of the method: {report['source']}. Trained on {report['queries']:,} queries; "
        "`training_report.json` has the digests of the data, all settings, and the environment.",
        "",
        *_measured(report),
        "",
        "## Settings",
        "",
        "```yaml",
        yaml.safe_dump(settings, sort_keys=False).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _measured(report: dict[str, Any]) -> list[str]:
    lines = _measures(report["evaluation"])
    further = report.get("evaluation_from_float_base")
    if further:
        lines = [f"Start: {report['start']}.", "", *lines, "", "Further, from the float base:", "", *_measures(further)]
    return lines


def _measures(evaluation: dict[str, Any]) -> list[str]:
    lines = ["| split | measure | queries | start | end | difference (95 %) | p |", "|---|---|---|---|---|---|---|"]
    for split, measures in evaluation.items():
        for name, found in measures.items():
            lines.append(_row(split, name, found))
            if "untrained" in found:
                lines.append(_row(split, f"{name}, start: reranked untrained", found["untrained"]))
    return lines


def _row(split: str, name: str, found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return (
        f"| {split} | {name} | {found['queries']:,} | {found['start']:.4f} | {found['end']:.4f} "
        f"| {found['difference']:+.4f} ({low:+.4f} to {high:+.4f}) | {found['p']:.2g} |"
    )
