"""SPTAR's soft prompt: some dozen pairs teach a frozen language model to write queries of a collection's kind.

Peng et al. 2023, "Soft Prompt Tuning for Augmenting Dense Retrieval with Large Language Models", arXiv:2307.08303;
zhiyuanpeng/SPTAR, xuyang/prompt_train_v1.py. What comes out is a model for `retriever train generate`.
"""

import contextlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from retriever.errors import InvalidInput, ModelFault
from retriever.evaluation.collections import Collection
from retriever.llm.causal import load_language_model
from retriever.models import resolve
from training.collection import Corpus
from training.evaluation import PerQuery, comparison
from training.fitting import arguments_of, rows, stop_at_gradients
from training.generation.prompts import STYLES, Example
from training.generation.soft_prompt import (
    Sequences,
    SoftPrompt,
    cut,
    mean_log_likelihoods,
    token_log_likelihoods,
)
from training.recipe import Recipe
from training.settings import EncoderSettings, FitSettings
from training.task import Task
from training.teachers import model_digest

LIKELIHOOD = "log p of a token"
LEAST_PAIRS = 4


class SoftPromptSettings(EncoderSettings):
    """base         a causal language model, which stays as it is
    tokens       of the soft prompt; these times the model's width are all that is trained
    text         whose embeddings the soft prompt begins with, repeated as often as needed
    max_queries  pairs in all: `validation` of them say when to stop
    examples     pairs that the model is shown before each document, out of the training pairs
    tried        choices of examples, each of which a prompt is trained with; the one with the least loss stays
    patience     epochs without a smaller loss after which training stops
    against      the hard prompt to compare with: a style of `training.generation.prompts`
    held_out     queries of each held-out split that both are compared on

    `head`, `similarity` and `scale` have no meaning here. The paper has batches of one.
    """

    base: str = "SmolLM2-135M-Instruct"
    tokens: int = Field(50, ge=1, le=1000)
    text: str = Field("please generate query for this document", min_length=1)
    max_queries: int | None = Field(100, ge=LEAST_PAIRS)
    validation: float = Field(0.5, gt=0, lt=1)
    examples: int = Field(1, ge=0, le=8)
    tried: int = Field(3, ge=1, le=100)
    patience: int = Field(5, ge=1)
    against: str = "question"
    held_out: int = Field(50, ge=2)
    query_tokens: int = Field(64, ge=4, le=8192)
    document_tokens: int = Field(256, ge=4, le=8192)
    fit: FitSettings = FitSettings(batch_size=2, learning_rate=3e-2, epochs=100, warmup=0, save_steps=0)


def train(task: Task[SoftPromptSettings]) -> Path:
    """Fit a soft prompt for each choice of examples; returns the one with the least loss on the validation pairs."""
    settings, collection = task.settings, task.collection
    pairs = [
        (collection.documents[collection.judgments.relevant(row)[0]].content, query)
        for row, query in enumerate(collection.queries)
    ]
    if len(pairs) < LEAST_PAIRS + settings.examples:
        raise InvalidInput(f"{len(pairs)} pairs are too few; give {LEAST_PAIRS + settings.examples} or more.")
    order = np.random.default_rng(settings.seed).permutation(len(pairs))
    held = min(max(1, round(settings.validation * len(pairs))), len(pairs) - settings.examples - 2)
    validation, own = [pairs[i] for i in order[:held]], [pairs[i] for i in order[held:]]
    model, tokenizer = open_model(settings.base, offline=task.offline)
    best: tuple[float, Path] | None = None
    for number in range(settings.tried if settings.examples else 1):
        drawn = np.random.default_rng([settings.seed, number]).permutation(len(own))[: settings.examples]
        shown = [(cut(tokenizer, own[i][0], settings.document_tokens), own[i][1]) for i in drawn]
        learned = [pair for place, pair in enumerate(own) if place not in drawn]

        def work(
            folder: Path, shown: Sequence[Example] = tuple(shown), learned: Sequence[Example] = tuple(learned)
        ) -> dict[str, Any]:
            return _fit(task, model, tokenizer, shown, learned, validation, folder)

        folder = task.stages.run(f"prompt-{number}", work)
        loss = task.stages.reports[f"prompt-{number}"]["validation_loss"]
        if best is None or loss < best[0]:
            best = loss, folder
    assert best is not None
    return best[1]


def open_model(base: str, *, offline: bool) -> tuple[Any, Any]:
    """Return a frozen language model and its tokenizer."""
    model, tokenizer = load_language_model(resolve(base, offline=offline), AutoModelForCausalLM)
    # In float32: the gradients of so few numbers go through the whole model.
    model = model.float().to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return model, tokenizer


class Prompted(nn.Module):
    """A frozen language model behind a prompt that is trained."""

    def __init__(self, model: Any, start: Tensor) -> None:
        super().__init__()
        # Out of the module's parameters, so that nothing can train, count or save it.
        self.language_model = [model]
        self.prompt = nn.Parameter(start)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        logs, there = token_log_likelihoods(self.language_model[0], batch, self.prompt)
        loss = -logs[there].mean()
        if not torch.isfinite(loss.detach()):
            raise ModelFault(f"the loss of the soft prompt is {float(loss.detach())}; lower learning_rate.")
        return {"loss": loss}

    def require_finite_gradient(self, norm: Tensor) -> None:
        """Raise ModelFault when the norm of the gradient is NaN or infinite."""
        if not torch.isfinite(norm):
            raise ModelFault(f"the norm of the soft prompt's gradient is {float(norm)}; lower learning_rate.")


def start_of(model: Any, tokenizer: Any, text: str, tokens: int) -> Tensor:
    """Return (tokens, width), the embeddings of a text, again and again."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    embedded: Tensor = model.get_input_embeddings().weight[[ids[i % len(ids)] for i in range(tokens)]]
    return embedded.detach().clone().float()


def _fit(
    task: Task[SoftPromptSettings],
    model: Any,
    tokenizer: Any,
    shown: Sequence[Example],
    learned: Sequence[Example],
    validation: Sequence[Example],
    folder: Path,
) -> dict[str, Any]:
    settings = task.settings
    lengths: dict[str, Any] = {"document_tokens": settings.document_tokens, "query_tokens": settings.query_tokens}
    own = Sequences.of(tokenizer, learned, shown, **lengths)
    held = Sequences.of(tokenizer, validation, shown, **lengths)
    prompted = Prompted(model, start_of(model, tokenizer, settings.text, settings.tokens))
    stopping = Stopping(prompted, held, settings.patience)
    if len(learned) < settings.fit.batch_size:
        raise InvalidInput(f"{len(learned)} pairs do not fill one batch; lower batch_size={settings.fit.batch_size}.")
    trainer = Trainer(
        model=prompted,
        args=TrainingArguments(**arguments_of(settings.fit, folder, settings.seed), remove_unused_columns=False),
        train_dataset=rows(len(learned)),
        data_collator=lambda features: own.batch([feature["row"] for feature in features]),
        callbacks=[stopping],
    )
    stop_at_gradients(trainer, prompted.require_finite_gradient)
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    SoftPrompt(
        settings.base,
        model_digest(settings.base, offline=task.offline),
        tuple(shown),
        settings.document_tokens,
        stopping.best.cpu().numpy(),
    ).save(folder)
    return {
        "steps": trainer.state.global_step,
        "trained_weights": sum(weight.numel() for weight in prompted.parameters() if weight.requires_grad),
        "validation_losses": stopping.losses,
        "validation_loss": min(stopping.losses),
    }


class Stopping(TrainerCallback):
    """Measures the loss on held-out pairs before training and after each epoch, and keeps the best prompt."""

    def __init__(self, prompted: Prompted, held: Sequences, patience: int) -> None:
        self.prompted, self.held, self.patience = prompted, held, patience
        self.losses: list[float] = []
        self.best = prompted.prompt.detach().clone()

    def _measure(self) -> None:
        prompt = self.prompted.prompt.detach()
        found = mean_log_likelihoods(self.prompted.language_model[0], self.held, prompt)
        loss = -sum(found) / len(found)
        if not self.losses or loss < min(self.losses):
            self.best = prompt.clone()
        self.losses.append(loss)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._measure()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._measure()
        if len(self.losses) - 1 - int(np.argmin(self.losses)) >= self.patience:
            control.should_training_stop = True


def compare(task: Task[SoftPromptSettings], trained: Path) -> dict[str, Any]:
    """Return by split how likely held-out queries are behind a hard prompt with the same examples, and the soft one."""
    settings = task.settings
    model, tokenizer = open_model(settings.base, offline=task.offline)
    found = {}
    for part in task.parts:
        for split in part.held_out:
            ids, pairs = held_out_pairs(split, part.collection.corpus, settings.held_out, settings.seed)
            hard, soft = likelihoods(model, tokenizer, SoftPrompt.load(trained), pairs, settings)
            found[split.split] = comparison(*(_by_query(ids, values) for values in (hard, soft)))
    return found


def likelihoods(
    model: Any, tokenizer: Any, soft: SoftPrompt, pairs: Sequence[Example], settings: SoftPromptSettings
) -> tuple[list[float], list[float]]:
    """Return the mean log p of each query's tokens behind the hard prompt and behind the soft one."""
    lengths: dict[str, Any] = {"document_tokens": soft.document_tokens, "query_tokens": settings.query_tokens}
    instruction = STYLES.get(settings.against, settings.against)
    hard = Sequences.of(tokenizer, pairs, soft.examples, instruction=instruction, **lengths)
    prompt = torch.from_numpy(soft.prompt).to(model.device)
    own = Sequences.of(tokenizer, pairs, soft.examples, **lengths)
    return mean_log_likelihoods(model, hard), mean_log_likelihoods(model, own, prompt)


def held_out_pairs(split: Collection, corpus: Corpus, most: int, seed: int) -> tuple[list[str], list[Example]]:
    """Return ids of queries of a split, and each with a relevant document, drawn by the seed."""
    known = [
        (id_, next((d for d, grade in split.qrels[id_].items() if grade > 0 and d in corpus.rows), None))
        for id_ in split.judged
    ]
    there = [(id_, document) for id_, document in known if document is not None]
    chosen = [there[i] for i in np.sort(np.random.default_rng(seed).permutation(len(there))[:most])]
    return [id_ for id_, _ in chosen], [
        (corpus.documents[corpus.rows[document]].content, split.judged[id_]) for id_, document in chosen
    ]


def _by_query(ids: Sequence[str], values: Sequence[float]) -> PerQuery:
    return {LIKELIHOOD: dict(zip(ids, values, strict=True))}


def perplexity(values: Sequence[float]) -> float:
    """Return exp of minus the mean of log-likelihoods."""
    return math.exp(-sum(values) / len(values))


RECIPE = Recipe(
    "soft_prompt",
    "A soft prompt by which a frozen language model writes queries; for `retriever train generate`.",
    "SPTAR, arXiv:2307.08303",
    SoftPromptSettings,
    train,
    compare,
    task="text-generation",
)
