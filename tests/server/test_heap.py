"""Memory that is given back."""

import ctypes
from pathlib import Path

import pytest

from server import heap


def own_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps memory and gives it back")
def test_freed_memory_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(heap.time, "monotonic", lambda: now[0])
    kept = heap.Heap()

    def hold_and_free() -> float:
        # Small, so that they come from the heap; the last one, still alive, keeps glibc from shrinking it by itself.
        blocks = [bytes(60_000) for _ in range(1000)]
        last = blocks.pop()
        del blocks
        before = own_megabytes()
        kept.trim()
        assert last
        return before - own_megabytes()

    assert hold_and_free() > 30
    assert hold_and_free() < 30
    now[0] += heap.SECONDS
    assert hold_and_free() > 30


def test_a_library_without_the_call_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: object())
    heap.Heap().trim()
