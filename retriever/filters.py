"""Metadata filters: a small JSON language, compiled to a set of rows.

    {"lang": "en", "year": {"gte": 2010, "lt": 2020}}    all must hold
    {"tag": {"in": ["a", "b"]}}    {"lang": {"ne": "en"}}    {"year": {"exists": true}}
    {"and": [...]}    {"or": [...]}    {"not": {...}}

A field with a list of values matches when any of them does.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retriever.errors import InvalidInput

MAX_CLAUSES = 256
MAX_VALUES = 10_000
MAX_DEPTH = 16

COMPARISONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}

Match = Callable[[str, str, Sequence[str | float]], NDArray[np.int64]]
"""(field, SQL condition on `value`, parameters) to ascending row numbers; see Records.match."""

Universe = Callable[[], NDArray[np.int64]]
"""Gives all row numbers, ascending; called only for negations."""


def matching_rows(
    condition: Mapping[str, Any],
    fields: Mapping[str, Literal["keyword", "number"]],
    match: Match,
    universe: Universe,
) -> NDArray[np.int64]:
    """Return the ascending row numbers that fulfil a filter.

    Raises InvalidInput for an undeclared field, an unknown operator, a value of the wrong type, or a filter
    with more than MAX_CLAUSES clauses.
    """
    return _Compiler(fields, match, universe).rows(condition)


class _Compiler:
    def __init__(self, fields: Mapping[str, Literal["keyword", "number"]], match: Match, universe: Universe) -> None:
        self.fields = fields
        self.match = match
        self.universe = universe
        self.clauses = 0

    def rows(self, condition: Any, depth: int = 0) -> NDArray[np.int64]:
        if depth > MAX_DEPTH:
            raise InvalidInput(f"a filter may nest {MAX_DEPTH} levels deep at most.")
        if not isinstance(condition, Mapping) or not condition:
            raise InvalidInput(f'a filter is an object such as {{"field": "value"}}, got {_shown(condition)}.')
        parts = [self._part(name, operand, depth) for name, operand in condition.items()]
        return _intersection(parts)

    def _part(self, name: str, operand: Any, depth: int) -> NDArray[np.int64]:
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            raise InvalidInput(f"a filter may have {MAX_CLAUSES} clauses at most.")
        if name in ("and", "or"):
            if not isinstance(operand, list | tuple) or not operand:
                raise InvalidInput(f"{name!r} takes a list of filters, got {_shown(operand)}.")
            parts = [self.rows(part, depth + 1) for part in operand]
            return _intersection(parts) if name == "and" else np.unique(np.concatenate(parts))
        if name == "not":
            return np.setdiff1d(self.universe(), self.rows(operand, depth + 1), assume_unique=True)
        return self._field(name, operand)

    def _field(self, name: str, operand: Any) -> NDArray[np.int64]:
        if name not in self.fields:
            declared = ", ".join(sorted(self.fields)) or "none; declare them with --field when building"
            raise InvalidInput(f"{name!r} is not a filterable field of this index; it has: {declared}.")
        if not isinstance(operand, Mapping):
            operand = {"in": operand} if isinstance(operand, list | tuple) else {"eq": operand}
        if not operand:
            raise InvalidInput(f"the filter on {name!r} is empty; give a value or an operator.")
        return _intersection([self._compare(name, operator, value) for operator, value in operand.items()])

    def _compare(self, name: str, operator: str, value: Any) -> NDArray[np.int64]:
        if operator in COMPARISONS:
            return self.match(name, f"value {COMPARISONS[operator]} ?", [self._value(name, value)])
        if operator == "ne":
            equal = self.match(name, "value = ?", [self._value(name, value)])
            return np.setdiff1d(self.universe(), equal, assume_unique=True)
        if operator == "in":
            if not isinstance(value, list | tuple) or len(value) > MAX_VALUES:
                raise InvalidInput(f"'in' on {name!r} takes a list of at most {MAX_VALUES} values.")
            found = [self.match(name, "value = ?", [self._value(name, member)]) for member in value]
            return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        if operator == "exists":
            if not isinstance(value, bool):
                raise InvalidInput(f"'exists' on {name!r} takes true or false, got {_shown(value)}.")
            having = self.match(name, "1 = 1", [])
            return having if value else np.setdiff1d(self.universe(), having, assume_unique=True)
        raise InvalidInput(
            f"unknown operator {operator!r} on {name!r}; use {', '.join([*COMPARISONS, 'ne', 'in', 'exists'])}."
        )

    def _value(self, name: str, value: Any) -> str | float:
        kind = self.fields[name]
        if isinstance(value, bool):
            value = str(value).lower()
        if kind == "number":
            if isinstance(value, int | float) and is_finite(value):
                return float(value)
        elif isinstance(value, str | int | float):
            return str(value)
        raise InvalidInput(f"field {name!r} holds a {kind}, got {_shown(value)}.")


def is_finite(value: int | float) -> bool:
    """Return whether a number fits a float; whole numbers beyond that are refused, not rounded to infinity."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _intersection(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    rows = parts[0]
    for part in parts[1:]:
        rows = np.intersect1d(rows, part, assume_unique=True)
    return rows


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


CLAUSE = re.compile(r"\s*([^\s<>=!:]+)\s*(>=|<=|!=|>|<|=)\s*(.*?)\s*", re.DOTALL)
OPERATORS = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "!=": "ne", "=": "eq"}


def parse_clause(text: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """Read one clause as typed on a command line: `year>=2010`, `lang=en`, `lang=en,de`, `lang!=fr`.

    The declared type of the field decides whether the value is read as a number.
    """
    found = CLAUSE.fullmatch(text)
    if found is None:
        raise InvalidInput(f"cannot read the filter {text!r}; write field=value, field>=number or JSON.")
    name, sign, content = found.groups()
    values: list[Any] = content.split(",") if sign == "=" else [content]
    if fields.get(name) == "number":
        try:
            values = [float(value) for value in values]
        except ValueError:
            raise InvalidInput(f"field {name!r} holds a number, got {content!r}.") from None
    return {name: {"in": values}} if len(values) > 1 else {name: {OPERATORS[sign]: values[0]}}
