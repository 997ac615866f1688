"""Metadata: what JSON has goes in, the rest is turned into it or refused."""

import datetime
import decimal
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexing.corpora.metadata import plain

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_what_json_has_stays_as_it_is(value):
    assert plain(value) == value
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime.date(2026, 11, 21), "2026-11-21"),
        (datetime.datetime(2026, 11, 21, 5, 30, tzinfo=datetime.UTC), "2026-11-21T05:30:00+00:00"),
        (datetime.timedelta(minutes=2), 120.0),
        (decimal.Decimal("12.50"), 12.5),
        (decimal.Decimal("12.00"), 12),
        (decimal.Decimal("NaN"), None),
        (float("nan"), None),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ((1, (2.5, None)), [1, [2.5, None]]),
        ({"a": {1: datetime.time(5, 30)}}, {"a": {"1": "05:30:00"}}),
    ],
)
def test_what_has_a_form_in_json(value, expected):
    assert plain(value) == expected


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\x00", "of the type bytes"),
        (float("inf"), "infinite"),
        ("\ud83d", "half of a surrogate pair"),
        ({"\ud83d": 1}, "half of a surrogate pair"),
        ([["deep", object()]], "of the type object"),
    ],
)
def test_what_has_none(value, reason):
    with pytest.raises(ValueError, match=reason):
        plain(value)


def test_depth_is_bounded():
    value = "bottom"
    for _ in range(32):
        value = [value]
    assert plain(value) == value
    with pytest.raises(ValueError, match="deeper than 32 levels"):
        plain([value])
