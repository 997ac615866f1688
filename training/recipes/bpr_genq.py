"""BPR on generated queries: sign codes fitted to a collection without judgments.

INCOME, Thakur et al. 2022, arXiv:2205.11498; thakur-nandan/income, income/bpr/genq.
"""

from pathlib import Path
from typing import Literal

from training.recipe import Recipe
from training.recipes.bpr import BprSettings, fit_signs
from training.settings import FitSettings
from training.task import Task
from training.untrained_heads import SIGNED, signed


class BprGenqSettings(BprSettings):
    """Those of `bpr`, with INCOME's values. The base may be a model that `bpr` trained elsewhere: its head stays."""

    hard: Literal["none", "random", "mined"] = "none"
    query_tokens: int = 64
    document_tokens: int = 350
    fit: FitSettings = FitSettings(batch_size=75, learning_rate=2e-5, epochs=1)


def train(task: Task[BprGenqSettings]) -> Path:
    """Fit the base to pairs of documents and what was generated for them."""
    return fit_signs(task, task.open_base())


RECIPE = Recipe(
    "bpr_genq",
    "Sign codes on queries that a language model made up.",
    "INCOME, arXiv:2205.11498",
    BprGenqSettings,
    train,
    start=signed,
    start_is=SIGNED,
)
