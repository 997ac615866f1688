"""Names that stand for indexes, kept in one file of the root folder and replaced atomically."""

import json
import logging
import threading
from pathlib import Path

from retriever.storage import disk_errors, write_atomically
from server.names import is_name

log = logging.getLogger("server.index")

FILE = "aliases.json"
MAX_ALIASES = 1000


class Aliases:
    """The aliases of a root folder; a change by another process is seen at the next look-up."""

    def __init__(self, root: Path) -> None:
        self._path = root / FILE
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}

    def all(self) -> dict[str, str]:
        """Return the index that each alias stands for, in order of alias."""
        state = self._state()
        if state != self._seen:
            self._names = self._read()
            self._seen = state
        return dict(self._names)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_bytes())
            if not isinstance(content, dict) or not all(is_name(part) for pair in content.items() for part in pair):
                raise ValueError("it must map names to names")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            log.error("%s cannot be used, the aliases stay as they were: %s", self._path, error)
            return self._names
        return dict(sorted(content.items()))

    def set(self, alias: str, index: str | None) -> str | None:
        """Let an alias stand for an index, or for nothing; return what it stood for. Durable when it returns.

        Raises StorageFull or InvalidInput when the file cannot be written; nothing is changed then.
        """
        with self._lock:
            names = self.all()
            before = names.pop(alias, None)
            if index is not None:
                names[alias] = index
            with disk_errors(self._path.parent):
                write_atomically(self._path, json.dumps(dict(sorted(names.items())), indent=1).encode())
            return before
