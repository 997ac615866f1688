"""The traps that the fixed package names set."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_transformers_imports_beside_our_kernels_package():
    # transformers takes our distribution's version for that of the PyPI package `kernels`.
    subprocess.run([sys.executable, "-c", "import kernels, transformers"], check=True)


def test_the_version_is_a_calendar_version():
    year, month, _ = version("retriever-engine").split(".")
    assert int(year) >= 2026
    assert 1 <= int(month) <= 12


def test_kernels_init_is_empty():
    assert (ROOT / "kernels" / "__init__.py").read_bytes() == b""


def test_every_test_folder_is_a_package():
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    for folder in folders:
        while folder != ROOT:
            assert (folder / "__init__.py").is_file(), folder
            folder = folder.parent
