"""A trained beginning of a frozen language model's input, by which it writes queries: SPTAR, arXiv:2307.08303.

    soft_prompt.json         the language model it is for and its digest, example pairs, what is read of a document
    soft_prompt.safetensors  `prompt`, float32 (tokens, width of the model)

The model reads the soft prompt, example pairs of a document and its query, and a document; it goes on with the query.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from retriever.errors import BackendUnavailable, InvalidInput
from retriever.llm.beginnings import Beginning
from retriever.storage import write_atomically
from training.generation.generators import LanguageModel
from training.generation.prompts import Example, Prompt

CONFIG, WEIGHTS = "soft_prompt.json", "soft_prompt.safetensors"
# Behind a query: what follows is not read, see `training.generation.cleaning`.
END = "\n"
# Not part of the loss.
IGNORED = -100


@dataclass(frozen=True)
class SoftPrompt:
    """What a folder of a soft prompt holds.

    model, digest    the language model by folder or name, and its weights
    examples         (document, query) pairs, the documents already cut
    document_tokens  what is read of a document
    prompt           float32 (tokens, width)
    """

    model: str
    digest: str
    examples: tuple[Example, ...]
    document_tokens: int
    prompt: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write both files, the weights first."""
        about = asdict(self)
        del about["prompt"]
        write_atomically(folder / WEIGHTS, save({"prompt": self.prompt}))
        write_atomically(folder / CONFIG, json.dumps(about, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path) -> "SoftPrompt":
        """Read what `save` wrote. Raises BackendUnavailable."""
        try:
            about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            prompt = load_file(folder / WEIGHTS)["prompt"].astype(np.float32)
            examples = tuple((str(document), str(query)) for document, query in about["examples"])
            found = cls(str(about["model"]), str(about["digest"]), examples, int(about["document_tokens"]), prompt)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BackendUnavailable(f"{folder} holds no soft prompt: {error}") from error
        if prompt.ndim != 2 or not prompt.size or not np.isfinite(prompt).all():
            raise BackendUnavailable(f"{folder / WEIGHTS} is damaged: it holds {prompt.shape}, or no numbers.")
        return found


def is_soft_prompt(name: str) -> bool:
    """Return whether a model's name is the folder of a soft prompt."""
    return (Path(name) / CONFIG).is_file()


def text_before(document: str, examples: Sequence[Example], instruction: str = "") -> str:
    """Return what the model reads before the query; with an instruction it is a hard prompt."""
    return Prompt(instruction, tuple(examples)).plain(document).lstrip()


def cut(tokenizer: Any, text: str, tokens: int) -> str:
    """Return the beginning of a text."""
    ids = tokenizer(text, add_special_tokens=False, truncation=True, max_length=tokens)["input_ids"]
    found: str = tokenizer.decode(ids, skip_special_tokens=True)
    return found


@dataclass(frozen=True)
class Sequences:
    """Token ids of prompts with their queries; of each row the places from `first` are the query, the last is END."""

    ids: list[list[int]]
    first: list[int]

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        pairs: Sequence[Example],
        examples: Sequence[Example],
        *,
        document_tokens: int,
        query_tokens: int,
        instruction: str = "",
    ) -> "Sequences":
        """Tokenise (document, query) pairs."""
        ids, first = [], []
        (end,) = tokenizer(END, add_special_tokens=False)["input_ids"][-1:]
        for document, query in pairs:
            before = text_before(cut(tokenizer, document, document_tokens), examples, instruction)
            prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
            answer = tokenizer(" " + " ".join(query.split()), add_special_tokens=False)["input_ids"][:query_tokens]
            ids.append([*prompt, *answer, end])
            first.append(len(prompt))
        return cls(ids, first)

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """Return input_ids, attention_mask and labels (B, L), filled up on the right."""
        import torch

        length = max(len(self.ids[row]) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for place, row in enumerate(rows):
            own, first = torch.tensor(self.ids[row]), self.first[row]
            ids[place, : len(own)], mask[place, : len(own)] = own, 1
            labels[place, first : len(own)] = own[first:]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def token_log_likelihoods(model: Any, batch: dict[str, Any], prompt: Any | None) -> tuple[Any, Any]:
    """Return (B, L) log p of each token that has a label, 0 elsewhere, and bool (B, L) where there is one.

    prompt  (tokens, width) before all of it, or None; gradients reach it
    """
    import torch
    from torch.nn import functional

    embedded = model.get_input_embeddings()(batch["input_ids"])
    mask, labels = batch["attention_mask"], batch["labels"]
    if prompt is not None:
        rows = len(embedded)
        embedded = torch.cat([prompt.to(embedded.dtype).expand(rows, *prompt.shape), embedded], dim=1)
        mask = torch.cat([mask.new_ones(rows, len(prompt)), mask], dim=1)
        labels = torch.cat([labels.new_full((rows, len(prompt)), IGNORED), labels], dim=1)
    logits = model(inputs_embeds=embedded, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    wanted = labels[:, 1:]
    there = wanted != IGNORED
    losses = functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
    return -losses, there


def mean_log_likelihoods(
    model: Any, sequences: Sequences, prompt: Any | None = None, *, batch_size: int = 4
) -> list[float]:
    """Return for each row the mean log p of its query's tokens, END left out: whether and how a model ends a line is
    not what prompts are compared by. The perplexity of a text is exp of minus that."""
    import torch

    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(sequences.ids), batch_size):
            rows = range(start, min(start + batch_size, len(sequences.ids)))
            batch = {name: value.to(model.device) for name, value in sequences.batch(rows).items()}
            logs, there = token_log_likelihoods(model, batch, prompt)
            for own, marked in zip(logs, there, strict=True):
                found.append(float(own[marked][:-1].mean()))
    return found


class SoftPromptedModel(LanguageModel):
    """Writes queries by a soft prompt; fits `training.generation.generators.Generator`."""

    def __init__(self, folder: str | Path, **options: Any) -> None:
        """Open the soft prompt of a folder and its language model; `options` are those of `LanguageModel`.

        Raises BackendUnavailable, and InvalidInput where the language model's weights are not those it was trained for.
        """
        import torch

        soft = SoftPrompt.load(Path(folder))
        super().__init__(soft.model, Prompt("", soft.examples), document_tokens=soft.document_tokens, **options)
        width = self._model.get_input_embeddings().weight.shape[1]
        if self._encodes or soft.prompt.shape[1] != width or soft.digest != super().digest:
            raise InvalidInput(
                f"{folder} was trained for other weights of {soft.model}; train it again, or bring back those weights."
            )
        self._tokenizer.padding_side = "left"
        self._soft = torch.from_numpy(soft.prompt).to(self._model.device)
        self._soft_digest = hashlib.sha256(
            super().digest.encode() + soft.prompt.tobytes() + json.dumps(soft.examples).encode()
        ).hexdigest()

    @property
    def digest(self) -> str:
        return self._soft_digest

    def _tokens(self, document: str) -> list[int]:
        # As in training: the soft prompt is the beginning.
        ids: list[int] = self._tokenizer(self._text(document), add_special_tokens=False)["input_ids"]
        return ids

    def _text(self, document: str) -> str:
        return text_before(cut(self._tokenizer, document, self._document_tokens), self._prompt.examples)

    def _beginning(self, prompts: list[list[int]]) -> Beginning:
        return Beginning(0, None)

    def _generate(self, prompts: list[list[int]], count: int, beginning: Beginning) -> Any:
        import torch

        tokens = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        embedded = self._model.get_input_embeddings()(tokens["input_ids"])
        soft = self._soft.to(embedded.dtype).expand(len(prompts), *self._soft.shape)
        # Fillings stand on the left, so the prompt's place is before them; they are not attended to.
        return self._model.generate(
            inputs_embeds=torch.cat([soft, embedded], dim=1),
            attention_mask=torch.cat([tokens["attention_mask"].new_ones(soft.shape[:2]), tokens["attention_mask"]], 1),
            num_return_sequences=count,
            pad_token_id=self._tokenizer.pad_token_id,
            **self._drawing,
        )
