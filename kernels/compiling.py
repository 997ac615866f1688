"""numba.njit for kernels that call each other across files.

numba keeps compiled code until the file of the outermost function changes, and forgets that code of other files
has become part of it: after an upgrade of a callee alone, old code would go on reading new layouts. Here any
change of any file of this package makes all of it compile again.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit


@cache
def sources_digest() -> str:
    """Return the sha256 over all source files of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call, without the GIL, and keep the code for later processes."""
    dispatcher = njit(nogil=True, cache=True)(function)
    # Absent when NUMBA_DISABLE_JIT leaves the function as it is.
    found = getattr(dispatcher, "_cache", None)
    if found is not None:
        found._cache_file._source_stamp = sources_digest()
    return dispatcher
