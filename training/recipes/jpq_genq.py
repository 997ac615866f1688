"""JPQ on generated queries: query encoder and centroids fitted to a collection without judgments.

INCOME, Thakur et al. 2022, arXiv:2205.11498; thakur-nandan/income, income/jpq/train_genq.py.
"""

from training.recipe import Recipe
from training.recipes.jpq import JpqSettings, train
from training.settings import FitSettings
from training.untrained_heads import QUANTISED, quantised


class JpqGenqSettings(JpqSettings):
    """Those of `jpq`, with INCOME's values. The base may be a model that `jpq` trained elsewhere: its codebook stays,
    and the collection's documents get their codes by it.
    """

    centroid_rate: float | None = 1e-4
    query_tokens: int = 64
    document_tokens: int = 350
    fit: FitSettings = FitSettings(batch_size=256, learning_rate=5e-6, epochs=1)


RECIPE = Recipe(
    "jpq_genq",
    "Query encoder and centroids of product codes, on queries that a language model made up.",
    "INCOME, arXiv:2205.11498",
    JpqGenqSettings,
    train,
    start=quantised,
    start_is=QUANTISED,
)
