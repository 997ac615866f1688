"""Compiled code is kept, and forgotten when any kernel's source changes."""

import subprocess
import sys

PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from kernels import compiling
if {stamp!r}:
    compiling.sources_digest = lambda: {stamp!r}
import outer
print(outer.double_next(20), sum(outer.double_next.stats.cache_hits.values()))
"""


def run(folder, stamp=""):
    command = [sys.executable, "-c", PROGRAM.format(folder=str(folder), stamp=stamp)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_changed_callee_in_another_file_is_compiled_again(tmp_path):
    head = "from kernels.compiling import compiled\n"
    inner = tmp_path / "inner.py"
    inner.write_text(head + "@compiled\ndef step(x):\n    return x + 1\n")
    (tmp_path / "outer.py").write_text(
        head + "from inner import step\n@compiled\ndef double_next(x):\n    return 2 * step(x)\n"
    )
    assert run(tmp_path, "a") == ["42", "0"]
    assert run(tmp_path, "a") == ["42", "1"]
    # The caller's file is as it was; with numba's own rule the next call would still give 42.
    inner.write_text(head + "@compiled\ndef step(x):\n    return x + 5\n")
    assert run(tmp_path, "b") == ["50", "0"]


def test_the_digest_covers_the_kernels(tmp_path, monkeypatch):
    from kernels import compiling

    assert len(compiling.sources_digest()) == 64
    copy = tmp_path / "kernels"
    copy.mkdir()
    (copy / "compiling.py").write_text("x = 1\n")
    monkeypatch.setattr(compiling, "__file__", str(copy / "compiling.py"))
    first = compiling.sources_digest.__wrapped__()
    (copy / "more").mkdir()
    (copy / "more" / "search.py").write_text("y = 1\n")
    assert compiling.sources_digest.__wrapped__() != first
