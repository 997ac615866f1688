"""Metadata as an index can store it: what JSON has, and nothing else."""

import datetime
import decimal
import math
import uuid
from collections.abc import Mapping
from typing import Any

MAX_DEPTH = 32


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it: dates in ISO 8601, decimals as numbers, NaN (a missing value) as None.

    Raises ValueError with the reason for what has no such form.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, decimal.Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("it is infinite")
        return None if math.isnan(value) else value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if depth == MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_text(str(name)): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    raise ValueError(f"it is of the type {type(value).__name__}")


def _text(value: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair") from None
    return value
