"""What the documents name exists."""

import re
from pathlib import Path

import pytest

from training.recipes.registry import NAMES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/usage.md"]
PATH = re.compile(r"`((?:kernels|retriever|indexing|training|server|tests|docs|benchmarks|examples)/[\w./-]*)`")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_path_that_is_named_exists(name):
    text = (ROOT / name).read_text()
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), f"{name} names {path}"


def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)", (ROOT / name).read_text()):
            assert target in targets, f"{name} names make {target}"


def test_every_package_is_described():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for package in ("kernels", "retriever", "indexing", "training", "server"):
        assert f"## {package}/" in text


def test_every_recipe_is_in_the_table():
    table = [line for line in (ROOT / "docs/training.md").read_text().splitlines() if line.startswith("| `")]
    assert set(NAMES) <= {name for line in table for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}


def test_the_example_in_the_readme_runs(small_index, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.setattr("sys.argv", ["example"])
    exec(compile(example.replace("demo-index", str(small_index)), "README.md", "exec"), {})
    assert "json" in capsys.readouterr().out
