"""A small real collection to learn from and to test on."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def split_pydocs(pydocs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small *pydocs* with two thirds of its judgments for training."""
    folder = tmp_path_factory.mktemp("split") / "pydocs"
    shutil.copytree(pydocs, folder)
    head, *lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
    (folder / "qrels" / "train.tsv").write_text("\n".join([head, *(line for i, line in enumerate(lines) if i % 3)]))
    (folder / "qrels" / "test.tsv").write_text("\n".join([head, *lines[::3]]))
    return folder
