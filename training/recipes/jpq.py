"""JPQ: query encoder and centroids, on what the codes of the moment retrieve; the codes themselves stay.

Zhan et al. 2021, "Jointly Optimizing Query Encoder and Product Quantization to Improve Retrieval Performance",
arXiv:2108.00644; jingtaozhan/JPQ, jpq/run_train.py.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from retriever.heads.product import ProductHead
from training.dynamic_search import DynamicSearchLoss
from training.encoders import head_of, require_no_head, scale_of, with_frozen_documents, with_head
from training.quantisation import CENTROIDS, CodedDocuments, start_codebook
from training.recipe import Recipe
from training.recipes.adore import AdoreSettings
from training.settings import FitSettings
from training.task import Task
from training.untrained_heads import QUANTISED, quantised


class JpqSettings(AdoreSettings):
    """parts          bytes of a document's code; must divide the width. None for an eighth of the width, 32 times
                   smaller than float32, or the next fewer that divide it; or for those of a base that has a codebook
    centroid_rate  learning rate of the centroids, which have no weight decay; None for the paper's by parts: 5e-6
                   below 32, 2e-5 below 48, 1e-4 from there
    fit            its learning rate is the query encoder's

    A base that `repconc` or `jpq` trained gives its own codebook; any other gets one by OPQ.
    """

    parts: int | None = Field(None, ge=1)
    centroid_rate: float | None = Field(None, gt=0)
    query_tokens: int = Field(32, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=32, learning_rate=5e-6, epochs=6)


def train(task: Task[JpqSettings]) -> Path:
    """Give the documents their codes once, then fit a copy of the base for queries, and what the codes stand for."""
    settings = task.settings
    model, documents, scale = coded(task)
    loss = DynamicSearchLoss(
        model, task.collection, documents, depth=settings.depth, metric_cut=settings.metric_cut, scale=scale
    )
    return fit_coded(task, "jpq", model, documents, loss)


def coded(task: Task[Any]) -> tuple[Any, CodedDocuments, float]:
    """Return a copy of the base for queries, before the frozen one for documents; their codes; the factor on scores."""
    settings = task.settings
    base = task.open_base()
    head = _taken(base)
    codebook, codes = start_codebook(
        task, base, settings.parts, given=head.assigning_codebook if head is not None else None
    )
    scale = scale_of(settings, base)
    if head is None:
        head = ProductHead.of(codebook)
    return with_head(with_frozen_documents(base), head), CodedDocuments(codes, head), scale


def fit_coded(task: Task[Any], name: str, model: Any, documents: CodedDocuments, loss: Any) -> Path:
    """Fit queries and centroids by a loss as the stage `name`."""
    rate = task.settings.centroid_rate or paper_rate(documents.codes.shape[1])
    return task.fit_loss(name, model, loss, None, rates={CENTROIDS: rate})


def _taken(base: Any) -> Any:
    """Take the product head off the base and return it, None where there is none."""
    head = head_of(base)
    if not isinstance(head, ProductHead):
        require_no_head(base)
        return None
    del base[-1]
    return head


def paper_rate(parts: int) -> float:
    """Return the original's learning rate of centroids."""
    if parts < 32:
        return 5e-6
    return 2e-5 if parts < 48 else 1e-4


RECIPE = Recipe(
    "jpq",
    "Query encoder and centroids of product codes, on what the codes retrieve at every step.",
    "JPQ, arXiv:2108.00644",
    JpqSettings,
    train,
    start=quantised,
    start_is=QUANTISED,
)
