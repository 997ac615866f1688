"""Language models that write queries: any of Hugging Face's, or any behind an OpenAI-compatible endpoint."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from retriever.encoder import Precision, length_batches
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.llm.beginnings import Beginning
from retriever.llm.causal import first_tokens, load_language_model, placed, require_precision
from retriever.llm.chat import Chat
from retriever.llm.continuation import continuations
from retriever.llm.usage import Deadline
from retriever.models import resolve
from training.generation.prompts import Example, Prompt
from training.teachers import model_digest

# Tokens of one batch, those to come included.
BATCH_TOKENS = {"cuda": 32_768, "cpu": 4_096}


class Generator(Protocol):
    """Writes raw answers; `training.generation.cleaning` makes queries of them."""

    @property
    def digest(self) -> str:
        """What the answers depend on, beside prompt and settings."""
        ...

    def answers(self, documents: Sequence[str], count: int, seed: int) -> list[list[str]]:
        """Return `count` answers for each document; equal seeds give equal answers on the same machine."""
        ...


class LanguageModel:
    """A causal or sequence-to-sequence model in this process.

    name             folder, hub name or pinned name; a sequence-to-sequence model such as a T5 trained for doc2query
                     gets the document alone, a causal one the prompt, in its chat form if it has one
    document_tokens  what is read of a document
    new_tokens       of an answer
    temperature      0 takes the likeliest word each time, and only one answer is possible then
    top_p, top_k     what is drawn from: GPL has 0.95 and 25
    precision        of the weights; None means bfloat16 on a GPU, float32 elsewhere
    """

    def __init__(
        self,
        name: str | Path,
        prompt: Prompt,
        *,
        document_tokens: int = 256,
        new_tokens: int = 48,
        temperature: float = 1.0,
        top_p: float = 0.95,
        top_k: int = 25,
        precision: Precision | None = None,
        device: str | None = None,
        offline: bool = False,
    ) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

        require_precision(precision)
        folder = resolve(str(name), offline=offline)
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BackendUnavailable(f"{folder} is no language model: {error}") from error
        encodes = bool(config.is_encoder_decoder)
        kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
        model, self._tokenizer = load_language_model(folder, kind)
        self._model = placed(model, device, precision)
        self._encodes = encodes
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self.name = str(name)
        self._prompt = prompt
        self._document_tokens = document_tokens
        self._drawing: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            self._drawing |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        self._digest = model_digest(folder, offline=True)
        self._require_room()

    @property
    def examples(self) -> Sequence[Example]:
        """What the model is shown."""
        return self._prompt.examples

    @property
    def digest(self) -> str:
        return self._digest

    def answers(self, documents: Sequence[str], count: int, seed: int) -> list[list[str]]:
        import torch

        if count > 1 and not self._drawing["do_sample"]:
            raise InvalidInput(f"temperature 0 always gives the same answer, not {count}; raise it or ask for one.")
        prompts = [self._tokens(document) for document in documents]
        room = BATCH_TOKENS.get(self._model.device.type, BATCH_TOKENS["cpu"])
        found: list[list[str]] = [[] for _ in prompts]
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(seed)
            beginning = self._beginning(prompts)
            # What is shared is not computed again. On a GPU its copies take the memory that bounds a batch.
            known = beginning.length if self._model.device.type == "cpu" else 0
            grown = [count * (len(prompt) - known + self._drawing["max_new_tokens"]) for prompt in prompts]
            for batch in length_batches(grown, room):
                made = self._generate([prompts[place] for place in batch], count, beginning)
                answers = self._tokenizer.batch_decode(made, skip_special_tokens=True)
                for number, place in enumerate(batch):
                    found[place] = answers[number * count : (number + 1) * count]
        return found

    def _tokens(self, document: str) -> list[int]:
        """Return the tokens of a document's prompt; a chat form holds its special ones already."""
        ids: list[int] = self._tokenizer(self._text(document), add_special_tokens=self._encodes)["input_ids"]
        plain = not self._encodes and self._tokenizer.chat_template is None
        return [*first_tokens(self._tokenizer), *ids] if plain else ids

    def _require_room(self) -> None:
        """Raise InvalidInput where a whole document, its prompt and an answer are more than the model reads."""
        window = getattr(self._model.config, "max_position_embeddings", None)
        answer = 0 if self._encodes else self._drawing["max_new_tokens"]
        needed = len(self._tokens("")) + self._document_tokens + answer
        if window and needed > window:
            raise InvalidInput(
                f"instruction, examples, document_tokens={self._document_tokens} and the answer take up to {needed} "
                f"tokens, and {self.name} reads {window}; lower document_tokens or new_tokens, or show fewer examples."
            )

    def _text(self, document: str) -> str:
        ids = self._tokenizer(document, add_special_tokens=False, truncation=True, max_length=self._document_tokens)
        cut: str = self._tokenizer.decode(ids["input_ids"], skip_special_tokens=True)
        if self._encodes:
            return cut
        if self._tokenizer.chat_template is None:
            return self._prompt.plain(cut)
        text: str = self._tokenizer.apply_chat_template(
            self._prompt.messages(cut), tokenize=False, add_generation_prompt=True
        )
        return text

    def _beginning(self, prompts: list[list[int]]) -> Beginning:
        return Beginning(0, None) if self._encodes else Beginning.of(self._model, prompts)

    def _generate(self, prompts: list[list[int]], count: int, beginning: Beginning) -> Any:
        """Return the tokens of `count` answers to each prompt, in the order of the prompts."""
        options = self._drawing | {"pad_token_id": self._tokenizer.pad_token_id}
        if not self._encodes:
            return continuations(self._model, prompts, count, beginning, **options)
        tokens = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        return self._model.generate(**tokens, num_return_sequences=count, **options)


class Endpoint:
    """A model behind an OpenAI-compatible endpoint, see `retriever.llm.chat.Chat`."""

    def __init__(
        self,
        url: str,
        model: str,
        prompt: Prompt,
        *,
        document_characters: int = 1_500,
        new_tokens: int = 48,
        temperature: float = 1.0,
        top_p: float = 0.95,
    ) -> None:
        self._chat = Chat(model, url)
        self._prompt = prompt
        self._characters = document_characters
        self._drawing = {"max_tokens": new_tokens, "temperature": temperature, "top_p": top_p}

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self._chat.url} {self._chat.model}".encode()).hexdigest()

    def answers(self, documents: Sequence[str], count: int, seed: int) -> list[list[str]]:
        asked = [document for document in documents for _ in range(count)]
        bodies = [
            self._drawing | {"messages": self._prompt.messages(document[: self._characters]), "seed": seed + place}
            for place, document in enumerate(asked)
        ]
        found = self._chat.complete(bodies, lambda choice: str(choice["message"]["content"] or ""), Deadline())
        return [[answer.found for answer in found[start : start + count]] for start in range(0, len(found), count)]
