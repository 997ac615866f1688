"""Alert rules and dashboard against the PromQL grammar and the numbers that /metrics has."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from server.metrics import Metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD = json.loads((DEPLOY / "grafana" / "retriever.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}

SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """Return the labels of each sample of /metrics."""
    found: dict[str, set[str]] = {"up": {"job"}}
    registry = Metrics().registry
    for collector in set(registry._names_to_collectors.values()):
        for family in collector.describe():
            for suffix in SAMPLES[family.type]:
                labels = {"le"} if suffix == "_bucket" else set()
                found[family.name + suffix] = {*collector._labelnames, *labels}
    return found


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Return what an expression reads, after parsing it."""
    found: list[promql_parser.VectorSelector] = []

    def walk(part: object) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append(part)
        for name in ("expr", "lhs", "rhs", "vector_selector", "args", "vs"):
            inner = getattr(part, name, None)
            for child in inner if isinstance(inner, list) else [inner]:
                if child is not None:
                    walk(child)

    # Grafana puts a duration here.
    walk(promql_parser.parse(expression.replace("$__rate_interval", "5m")))
    return found


def require_known(expression: str, known: dict[str, set[str]]) -> None:
    reads = selectors(expression)
    assert reads, expression
    names = set(re.findall(r"\b(?:retriever_[a-z_]+|up)\b", expression))
    assert {read.name for read in reads} == names
    for read in reads:
        assert read.name in known, read.name
        assert {matcher.name for matcher in read.matchers.matchers} <= known[read.name]
    for labels in re.findall(r"by \(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",")} <= set.union(*(known[name] for name in names))


@pytest.mark.parametrize("name", RULES)
def test_alerts_read_what_there_is(name: str, known: dict[str, set[str]]) -> None:
    rule = RULES[name]
    require_known(rule["expr"], known)
    assert rule["labels"]["severity"] in ("page", "ticket")
    used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert used <= set.union(*(known[read.name] for read in selectors(rule["expr"])))


@pytest.mark.parametrize("title", PANELS)
def test_panels_read_what_there_is(title: str, known: dict[str, set[str]]) -> None:
    for target in PANELS[title]["targets"]:
        require_known(target["expr"], known)
        used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert used <= set.union(*(known[read.name] for read in selectors(target["expr"])))


def test_every_number_is_shown(known: dict[str, set[str]]) -> None:
    shown = {
        re.sub("_(bucket|sum|count)$", "", read.name)
        for panel in PANELS.values()
        for target in panel["targets"]
        for read in selectors(target["expr"])
    }
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in known} - {"up", "retriever_ann_recall_dropped_total"}
    assert there <= shown


def test_a_misspelt_name_would_be_noticed(known: dict[str, set[str]]) -> None:
    for faulty in ("rate(retriever_request_total[5m])", 'retriever_requests_total{state="200"}'):
        with pytest.raises(AssertionError):
            require_known(faulty, known)
    with pytest.raises(ValueError):
        selectors("rate(retriever_requests_total[5m)")


def test_panels_do_not_overlap() -> None:
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in PANELS.values()]
    assert len(set(places)) == len(places) == len({p["id"] for p in PANELS.values()})
