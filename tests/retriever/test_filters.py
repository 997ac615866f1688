"""Filters against a plain reading of the same condition, and their complaints."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.errors import InvalidInput
from retriever.filters import MAX_CLAUSES, matching_rows, parse_clause
from retriever.index.records import Records, RecordWriter
from tests.factories import WORDS, random_documents

FIELDS = {"year": "number", "kind": "keyword", "tags": "keyword"}
DOCUMENTS = random_documents(80, seed=1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    with contextlib.closing(RecordWriter(folder, 1)) as writer:
        writer.replace(0, 0, DOCUMENTS, FIELDS)
    with contextlib.closing(Records(folder, 1)) as reader:
        yield reader


def rows(records, condition):
    return matching_rows(condition, FIELDS, records.match, lambda: np.arange(len(DOCUMENTS))).tolist()


def holds(condition, metadata):
    """Read a condition as a person would."""
    for name, operand in condition.items():
        if name == "and":
            true = all(holds(part, metadata) for part in operand)
        elif name == "or":
            true = any(holds(part, metadata) for part in operand)
        elif name == "not":
            true = not holds(operand, metadata)
        else:
            values = metadata[name] if isinstance(metadata[name], list) else [metadata[name]]
            tests = {
                "eq": lambda v, o: v == o,
                "gt": lambda v, o: v > o,
                "gte": lambda v, o: v >= o,
                "lt": lambda v, o: v < o,
                "lte": lambda v, o: v <= o,
                "in": lambda v, o: v in o,
            }
            true = all(
                holds({"not": {name: other}}, metadata) if operator == "ne"
                else any(tests[operator](value, other) for value in values)
                for operator, other in (operand if isinstance(operand, dict) else {"eq": operand}).items()
            )  # fmt: skip
        if not true:
            return False
    return True


tags = st.sampled_from(WORDS[:6])
comparisons = st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte", "ne"]), st.integers(1990, 2025), min_size=1, max_size=3
)
leaves = st.one_of(
    st.fixed_dictionaries({"year": st.integers(1985, 2030)}),
    st.fixed_dictionaries({"year": comparisons}),
    st.fixed_dictionaries({"kind": st.sampled_from(["report", "paper", "none"])}),
    st.fixed_dictionaries({"tags": st.fixed_dictionaries({"in": st.lists(tags, max_size=3)})}),
    st.fixed_dictionaries({"tags": st.fixed_dictionaries({"ne": tags})}),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=8,
)


@given(conditions)
@settings(deadline=None)
def test_equals_reading_the_metadata(records, condition):
    expected = [row for row, document in enumerate(DOCUMENTS) if holds(condition, document.metadata)]
    assert rows(records, condition) == expected


def test_exists(records):
    assert rows(records, {"year": {"exists": True}}) == list(range(len(DOCUMENTS)))
    assert rows(records, {"year": {"exists": False}}) == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({"colour": "red"}, "'colour' is not a filterable field of this index; it has: kind, tags, year"),
        ({"year": "recent"}, "'year' holds a number, got 'recent'"),
        ({"year": {"near": 3}}, "unknown operator 'near' on 'year'; use eq"),
        ({"year": float("nan")}, "'year' holds a number"),
        ({"year": {"gt": 2**2000}}, "'year' holds a number"),
        ({"year": {"gt": None}}, "'year' holds a number, got None"),
        ({"kind": {}}, "the filter on 'kind' is empty"),
        ({"and": []}, "'and' takes a list"),
        ({"and": {"kind": "x"}}, "'and' takes a list"),
        ({"not": []}, "a filter is an object"),
        ({}, "a filter is an object"),
        ([], "a filter is an object"),
        ({"year": {"in": 3}}, "takes a list"),
        ({"year": {"exists": 1}}, "true or false"),
        ({"or": [{"kind": "x"}] * (MAX_CLAUSES + 1)}, "256 clauses"),
    ],
)
def test_complaints(records, condition, message):
    with pytest.raises(InvalidInput, match=message):
        rows(records, condition)


def test_deep_nesting_is_refused(records):
    condition = {"kind": "x"}
    for _ in range(40):
        condition = {"not": condition}
    with pytest.raises(InvalidInput, match="16 levels"):
        rows(records, condition)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("year>=2010", {"year": {"gte": 2010.0}}),
        ("kind=paper", {"kind": {"eq": "paper"}}),
        ("kind = report,paper", {"kind": {"in": ["report", "paper"]}}),
        ("kind!=x=y", {"kind": {"ne": "x=y"}}),
    ],
)
def test_clauses_as_typed(text, condition):
    assert parse_clause(text, FIELDS) == condition


@pytest.mark.parametrize("text", ["", "kind", "=x", "year>=soon"])
def test_clauses_that_cannot_be_read(text):
    with pytest.raises(InvalidInput):
        parse_clause(text, FIELDS)
