"""Answers that a language model gave, by what it was asked."""

import hashlib
import threading
from collections import OrderedDict

ENTRIES = 100_000
"""Kept at most, some 150 bytes each; the ones that were not asked for the longest are forgotten."""


class AnswerCache:
    """A bounded map from questions to numbers; safe for concurrent use."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> float | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def put(self, key: bytes, value: float) -> None:
        with self._lock:
            self._known[key] = value
            self._known.move_to_end(key)
            while len(self._known) > self._entries:
                self._known.popitem(last=False)


def key_of(*parts: str) -> bytes:
    """Return a key for texts; where one ends counts."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()
