"""A language model that first learns to write queries through the document's end token, then to tell documents apart.

LLM-QL, arXiv:2504.05216; github.com/Trustworthy-Information-Access/llm-ql.
"""

import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from retriever.llm.bottleneck import QueryWriter
from retriever.models import resolve
from training.decoders import open_decoder, untrained
from training.fitting import FINISHED, fit_encoder
from training.low_rank import require_package
from training.query_writing import LANGUAGE_MODEL, Writer, WritingCollator, WritingLoss
from training.recipe import Recipe
from training.recipes.repllama import RepllamaSettings, contrast
from training.settings import FitSettings
from training.task import Task


class WritingSettings(BaseModel):
    """The first stage, which trains the whole body; an output layer of its own, which SmolLM2 has not, stays as it is.

    share          of the document's words that are replaced by "_"
    stop           queries see the document through its end token alone
    document_loss  the document's own tokens count too, as in the published code
    keep           put the causal model beside the encoder, as its folder LANGUAGE_MODEL: it ranks by the likelihood of
                   the query, see `retriever.llm.bottleneck`
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.6, ge=0, lt=1)
    stop: bool = True
    document_loss: bool = False
    keep: bool = True
    fit: FitSettings = FitSettings(learning_rate=1e-5, epochs=2)


class LlmQlSettings(RepllamaSettings):
    """writing  the stage before contrastive training"""

    writing: WritingSettings = WritingSettings()
    document_tokens: int = Field(200, ge=4, le=8192)


def train(task: Task[LlmQlSettings]) -> Path:
    """Fit the base by the likelihood of queries, then with the softmax loss."""
    require_package(task.settings.lora)
    written = task.stages.run("query_likelihood", lambda folder: write(task, folder))
    trained = contrast(task, open_decoder(task.settings, folder=written))
    if task.settings.writing.keep:
        shutil.copytree(written / LANGUAGE_MODEL, trained / LANGUAGE_MODEL, dirs_exist_ok=True)
    return trained


def write(task: Task[LlmQlSettings], folder: Path) -> dict[str, Any]:
    """Fit the base to write queries into `folder`, and the causal model into its subfolder LANGUAGE_MODEL."""
    settings, base = task.settings, resolve(task.settings.base, offline=task.offline)
    # What was interrupted between fitting and saving the causal model is fitted already.
    model = open_decoder(settings, folder=folder if (folder / FINISHED).is_file() else None, offline=task.offline)
    writer = Writer(model, base)
    collator = WritingCollator(
        model,
        task.collection,
        query_tokens=settings.query_tokens,
        document_tokens=settings.document_tokens,
        share=settings.writing.share,
        seed=settings.seed,
    )
    loss = WritingLoss(writer, task.collection, stop=settings.writing.stop, document=settings.writing.document_loss)
    report = fit_encoder(
        model, loss, collator, folder, settings=settings.writing.fit, seed=settings.seed,
        examples=len(task.collection.queries),
    )  # fmt: skip
    taught = QueryWriter(
        document_prompt=settings.document_prompt,
        document_tokens=settings.document_tokens,
        query_tokens=settings.query_tokens,
    )
    writer.save(folder / LANGUAGE_MODEL, taught)
    return report


RECIPE = Recipe(
    "llm_ql",
    "A causal language model learns to write queries through one token before contrastive training.",
    "LLM-QL, arXiv:2504.05216",
    LlmQlSettings,
    train,
    start=untrained,
)
