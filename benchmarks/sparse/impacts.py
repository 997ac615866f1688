"""Learned impacts."""

from pathlib import Path


def encoded(corpus: Path) -> Path:
    return corpus.with_suffix(".splade.npz")


def documents(path: Path) -> int:
    import numpy as np

    return len(np.load(path)["indptr"]) - 1
