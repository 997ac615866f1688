"""An encoder that follows instructions: first negatives of the batch too, then collections each in its own way.

NV-Embed, arXiv:2405.17428. What tells queries apart that look alike but ask for other things is an instruction before
them; its tokens are seen by the others and left out of the pooling. A query's own negatives are mined in its
collection, after its instruction, before each stage. The first stage has those of the batch beside them; they may be
wrong where a collection is not for retrieval, and the second stage takes them only where a collection says so.

Batches here are of one collection each; NV-Embed's mix tasks.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from retriever.errors import InvalidInput
from training.batch import Batch, RowCollator
from training.batches import PartBatchSampler
from training.decoders import open_decoder
from training.encoders import as_encoder, scale_of
from training.evaluation import comparison, measured, vector_run
from training.losses.contrastive import info_nce, own_softmax
from training.low_rank import LowRankSettings, add_low_rank, merge_low_rank, require_package
from training.negatives import Draw, Rows, of_parts
from training.recipe import Recipe
from training.recipes.contrastive import drawn
from training.recipes.repllama import RepllamaSettings
from training.settings import FitSettings
from training.task import Part, Task

# Tokens of a query that must have a place behind its instruction.
ROOM = 8


class SetSettings(BaseModel):
    """How one collection is learned from.

    instruction  what its queries ask for; None for that of all
    first        whether it has a part in the first stage, as collections for retrieval do
    in_batch     whether other queries' documents are negatives in the second stage
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    instruction: str | None = None
    first: bool = True
    in_batch: bool = False


class InstructSettings(RepllamaSettings):
    """query_prompt  with {instruction}; ends in a line break, for tokenizers join a blank to the query's first word
    instruction  of collections that have none of their own, and of the finished encoder's queries
    sets        how collections are learned from, by the names of their folders
    first       the fit of the first stage; `fit` is that of the second
    lora        the published training has rank 16 and learning rates of 2e-5, then 1.5e-5, for 7 billion weights
    """

    attention: Literal["causal", "bidirectional"] = "bidirectional"
    pooling: Literal["last", "mean", "latent_attention", "multi_layer"] = "latent_attention"
    query_prompt: str = "Instruct: {instruction}\nQuery:\n"
    document_prompt: str = ""
    instruction: str = "Given a query, retrieve passages that answer it"
    sets: dict[str, SetSettings] = Field(default_factory=dict)
    first: FitSettings = FitSettings(batch_size=16, learning_rate=1e-5)
    fit: FitSettings = FitSettings(batch_size=8, learning_rate=1e-5)
    hard: Literal["none", "random", "mined"] = "mined"
    count: int = Field(7, ge=1, le=100)
    scale: float | None = Field(50.0, gt=0)
    lora: LowRankSettings = LowRankSettings(alpha=32)
    query_tokens: int = Field(64, ge=4, le=8192)
    document_tokens: int = Field(192, ge=4, le=8192)

    @model_validator(mode="after")
    def _possible(self) -> "InstructSettings":
        if "{instruction}" not in self.query_prompt:
            raise ValueError("query_prompt needs a place for {instruction}")
        return self

    def of(self, name: str) -> SetSettings:
        """Return how the collection of that name is learned from."""
        return self.sets.get(name, SetSettings())

    def prompt(self, name: str | None = None) -> str:
        """Return what stands before the queries of a collection, or before those of none."""
        own = None if name is None else self.of(name).instruction
        # Not `format`: an instruction may hold braces.
        return self.query_prompt.replace("{instruction}", self.instruction if own is None else own)


class InstructCollator(RowCollator):
    """Puts before the queries of a batch, which are of one collection, what stands before those of it."""

    def __init__(self, *given: Any, parts: Rows, prompts: list[str], **options: Any) -> None:
        super().__init__(*given, **options)
        self.parts, self.query_prompts = parts, prompts
        self._prompt = ""

    def __call__(self, features: list[dict[str, int]]) -> dict[str, Any]:
        self._prompt = self.query_prompts[self.parts[features[0]["row"]]]
        return super().__call__(features)

    def prompt(self, side: str) -> str | None:
        return self._prompt if side == "query" else super().prompt(side)


def train(task: Task[InstructSettings]) -> Path:
    """Fit the base on the collections for retrieval with in-batch negatives, then on all of them."""
    settings = task.settings
    require_package(settings.lora)
    names = [part.name for part in task.parts]
    parts = np.repeat(np.arange(len(names)), [len(part.collection.queries) for part in task.parts])
    _require(settings, task.parts)
    first = np.where(np.array([settings.of(name).first for name in names])[parts], parts, -1)
    in_batch = [settings.of(name).in_batch for name in names]
    model = open_encoder(settings, task.offline, names)
    _require_room(settings, model, names)
    scale = scale_of(settings, model)

    def retrieval(batch: Batch) -> Tensor:
        return info_nce(scale * batch.scores(), batch.relevant)

    def blend(batch: Batch) -> Tensor:
        if in_batch[parts[batch.query_rows[0]]]:
            return retrieval(batch)
        return own_softmax(scale * batch.own_scores(), batch.own_relevant())

    def fit(name: str, model: Any, objective: Any, settings_of_fit: FitSettings, taken: Rows) -> Path:
        draw = drawn_apart(task, model, name, np.unique(taken[taken >= 0]).tolist())
        collator = InstructCollator(
            model, task.collection, draw, query_tokens=settings.query_tokens,
            document_tokens=settings.document_tokens, seed=settings.seed, parts=parts,
            prompts=[settings.prompt(name) for name in names],
        )  # fmt: skip
        finish = None
        if settings.lora.rank:
            add_low_rank(model, settings.lora, settings.seed)
            finish = merge_low_rank
        sampler = partial(PartBatchSampler, parts=taken)
        return task.fit(
            name, model, objective, draw, settings=settings_of_fit, batch_sampler=sampler, collator=collator,
            finish=finish,
        )  # fmt: skip

    fitted = fit("retrieval", model, retrieval, settings.first, first)
    return fit("blend", open_decoder(settings, folder=fitted), blend, settings.fit, parts)


def drawn_apart(task: Task[InstructSettings], model: Any, stage: str, numbers: list[int]) -> Draw:
    """Return what draws for batches of the collections of these numbers, each within its own documents.

    Where `model` mines, the collection's instruction stands before its queries.
    """
    draws = {}
    for number in numbers:
        part = task.parts[number]
        model.prompts["query"] = task.settings.prompt(part.name)
        draws[number] = drawn(task.on(part.collection), model, f"mine-{stage}-{part.name}")
    model.prompts["query"] = task.settings.prompt()
    return of_parts(draws, [part.collection for part in task.parts])


def open_encoder(settings: InstructSettings, offline: bool, names: list[str]) -> Any:
    """Return the base with this recipe's form: prompts by the name of each collection, left out of the pooling."""
    model = open_decoder(settings, offline=offline)
    model[1].include_prompt = False
    model.prompts = {"query": settings.prompt(), "document": settings.document_prompt}
    model.prompts |= {name: settings.prompt(name) for name in names}
    _require_apart(model)
    return model


def _require_apart(model: Any) -> None:
    """Raise InvalidInput for a prompt whose end and the text behind it share a token: then it cannot be left out."""

    def tokens(text: str) -> list[int]:
        ids: list[int] = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    for prompt in sorted(set(model.prompts.values())):
        alone = tokens(prompt)
        if tokens(prompt + "wing")[: len(alone)] != alone:
            raise InvalidInput(
                f"the tokenizer joins the end of the prompt {prompt!r} to the word behind it, which then could not be "
                "told from the instruction; let the prompt end in a line break."
            )


def compare(task: Task[InstructSettings], trained: Path) -> dict[str, Any]:
    """Return by collection and split the measures of the base in this form and of the trained encoder."""
    names = [part.name for part in task.parts]
    models = [open_encoder(task.settings, task.offline, names), open_decoder(task.settings, folder=trained)]
    found: dict[str, Any] = {}
    for part in task.parts:
        measures: dict[str, list[Any]] = {split.split: [] for split in part.held_out}
        for model in models:
            model.prompts["query"] = task.settings.prompt(part.name)
            encoder, corpus = as_encoder(model), part.collection.corpus
            vectors = encoder.encode_documents(corpus.documents)
            for split in part.held_out:
                queries = encoder.encode_queries(list(split.judged.values()))
                measures[split.split].append(measured(vector_run(queries, vectors, corpus, split), split))
        found |= {f"{part.name} {split}": comparison(*values) for split, values in measures.items()}
    return found


def _require(settings: InstructSettings, parts: Sequence[Part]) -> None:
    """Raise InvalidInput for settings that do not fit the collections."""
    names = [part.name for part in parts]
    if taken := sorted({"query", "document"} & set(names)):
        raise InvalidInput(f"the model keeps a prompt by the name {taken[0]!r}; give the folder --data another name.")
    if unknown := sorted(settings.sets.keys() - set(names)):
        raise InvalidInput(f"sets names {', '.join(unknown)}, which is no collection; there are {', '.join(names)}.")
    if len(parts) > 1 and (settings.negatives or settings.teacher_margin):
        raise InvalidInput(
            f"negatives and teacher_margin are for one collection, got {', '.join(names)}; leave them out, so that "
            "negatives are mined in each."
        )
    if settings.hard == "none" and not all(settings.of(name).in_batch for name in names):
        raise InvalidInput(
            "without in-batch negatives a query needs its own ones; set hard=mined or random, or in_batch of every set."
        )
    if not any(settings.of(name).first for name in names):
        raise InvalidInput("no collection has a part in the first stage; leave out first=false of one.")
    for part in parts:
        stages = (
            {"first": settings.first, "fit": settings.fit} if settings.of(part.name).first else {"fit": settings.fit}
        )
        for stage, fit in stages.items():
            if (queries := len(part.collection.queries)) < fit.batch_size:
                raise InvalidInput(
                    f"{part.name} has {queries} queries, which fill no batch of its own: {stage}.batch_size is "
                    f"{fit.batch_size}; lower it, or leave the collection out."
                )


def _require_room(settings: InstructSettings, model: Any, names: list[str]) -> None:
    """Raise InvalidInput for an instruction that leaves too few of `query_tokens` for the query."""
    for name in names:
        taken = len(model.tokenizer(settings.prompt(name))["input_ids"])
        if settings.query_tokens - taken < ROOM:
            raise InvalidInput(
                f"what stands before the queries of {name} takes {taken} tokens, with the end token; "
                f"query_tokens={settings.query_tokens} leaves fewer than {ROOM} for the query: set it to "
                f"{taken + ROOM} or more, or shorten the instruction."
            )


RECIPE = Recipe(
    "instruct",
    "A causal language model that follows instructions, from several collections in two stages.",
    "NV-Embed, arXiv:2405.17428",
    InstructSettings,
    train,
    compare,
    several=True,
)
