"""GenQ: the softmax over the batch on generated queries, nothing else. The baseline of GPL.

Also called QGen (arXiv:2004.14503); the settings are those that GPL compares with (arXiv:2112.07577).
"""

from training.recipe import Recipe
from training.recipes.contrastive import ContrastiveSettings, train
from training.settings import FitSettings


class GenqSettings(ContrastiveSettings):
    """Those of `contrastive`, with GenQ's values."""

    query_tokens: int = 64
    document_tokens: int = 350
    fit: FitSettings = FitSettings(batch_size=75, learning_rate=2e-5, epochs=1)


RECIPE = Recipe(
    "genq",
    "Softmax over the batch on queries that a language model made up.",
    "GenQ as in GPL, arXiv:2112.07577",
    GenqSettings,
    train,
)
