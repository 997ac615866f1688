"""Names of indexes and aliases: what can never lead out of the root folder."""

import re
from typing import Any

PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NAME = re.compile(PATTERN.strip("^$"))


def is_name(value: Any) -> bool:
    """Tell whether a value may name an index: ASCII letters, digits, dot, dash and underscore, 64 at most."""
    return isinstance(value, str) and NAME.fullmatch(value) is not None
