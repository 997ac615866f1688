"""A causal language model of Hugging Face in this process: likelihoods of given answers, and short answers."""

import copy
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from retriever.encoder import Precision, TokenCounter, length_batches
from retriever.errors import BackendUnavailable, InvalidInput, ModelFault, PromptTooLong
from retriever.llm.beginnings import LEAST_SHARED, Beginning, alike, can_be_shared, common_length
from retriever.llm.continuation import continuations
from retriever.llm.model import WRITTEN_TOKENS
from retriever.llm.prompts import Prompt
from retriever.llm.usage import Deadline, Usage, turn
from retriever.models import resolve
from retriever.progress import quiet_transformers, without_transformers_bars
from retriever.rerank import CHARACTERS_PER_TOKEN

Side = Literal["left", "right"]

# Padded tokens of one forward pass.
BATCH_TOKENS = {"cuda": 32_768, "cpu": 2_048}

# What is read of models that state no length.
DEFAULT_WINDOW = 2_048

TOLERANCE = 1e-3
"""Batch, padding and a shared beginning change a log-probability by no more than this, in float32."""


class _Row(NamedTuple):
    """A sequence and the first place whose logits are asked for; they are asked for up to its end."""

    ids: list[int]
    first: int


class CausalModel:
    """Fits `retriever.llm.model.LanguageModel`.

    name              folder, hub name or pinned name; a model with a chat form is asked in it, others get plain text
    precision         None means bfloat16 on a GPU, float32 elsewhere
    max_batch_tokens  padded tokens of one forward pass; a longer sequence goes alone
    padding           where shorter sequences of a batch are filled up; scores do not depend on it

    The beginning that prompts of a call have in common is computed once, and of logits only those that are read.
    Safe to call from many threads; passes of the model wait for each other, and no longer than their deadlines.
    Raises BackendUnavailable for a folder that is no causal model or lacks weights.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        device: str | None = None,
        offline: bool = False,
        precision: Precision | None = None,
        max_batch_tokens: int | None = None,
        padding: Side = "left",
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if padding not in get_args(Side):
            raise InvalidInput(f"padding must be left or right, got {padding!r}.")
        require_precision(precision)
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise InvalidInput(f"max_batch_tokens must be at least 1, got {max_batch_tokens}.")
        model, self._tokenizer = load_language_model(resolve(str(name), offline=offline), AutoModelForCausalLM)
        self._model = placed(model, device, precision)
        self.precision: Precision = "bfloat16" if self._model.dtype == torch.bfloat16 else "float32"
        self._name = str(name)
        self._padding: Side = padding
        self._batch_tokens = max_batch_tokens or BATCH_TOKENS.get(self._model.device.type, BATCH_TOKENS["cpu"])
        stated = getattr(self._model.config, "max_position_embeddings", None)
        self.window = int(stated) if stated else DEFAULT_WINDOW
        self._takes = set(inspect.signature(self._model.forward).parameters)
        self._counter = TokenCounter(self._tokenizer)
        added = (str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special)
        self._special = sorted({*self._tokenizer.all_special_tokens, *added}, key=len, reverse=True)
        # A fast tokenizer holds truncation and padding as state, which threads would change under each other.
        self._lock = threading.Lock()
        self._shared: tuple[list[int], Any] = ([], None)

    @property
    def name(self) -> str:
        return self._name

    def cut(self, text: str, tokens: int) -> str:
        # What lies beyond need not be tokenised.
        text = text[: CHARACTERS_PER_TOKEN * tokens]
        # A document must not end its own part of the prompt and speak in another role; blanks keep the length.
        for special in self._special:
            text = text.replace(special, " " * len(special))
        return self._counter.cut(text, tokens)

    def likelihoods(
        self, prompts: Sequence[Prompt], answers: Sequence[str], deadline: Deadline, usage: Usage
    ) -> list[list[float]]:
        """Return log p of each token of each answer behind its prompt.

        The answer is tokenised apart from the prompt, so that its tokens are the same behind every prompt.
        Raises InvalidInput for an empty answer, PromptTooLong for one that the window does not hold with its prompt.
        """
        with turn(self._lock, deadline):
            texts = [self._prompt_ids(prompt) for prompt in prompts]
            written = [self._answer_ids(answer) for answer in answers]
        rows = []
        for text, answer in zip(texts, written, strict=True):
            if not answer:
                raise InvalidInput("an empty answer has no likelihood; give at least one word.")
            rows.append(_Row([*text, *answer[:-1]], len(text) - 1))

        def read(logits: Any, place: int) -> list[float]:
            import torch

            found = torch.log_softmax(logits, -1)
            targets = torch.tensor(written[place], device=logits.device)
            values: list[float] = found.gather(1, targets[:, None])[:, 0].double().tolist()
            return values

        usage.answer_tokens += sum(map(len, written))
        usage.prompt_tokens += sum(map(len, texts))
        return self._run(rows, read, deadline)

    def choose(
        self, prompts: Sequence[Prompt], options: tuple[str, str], deadline: Deadline, usage: Usage
    ) -> list[float]:
        """Return log p(first option) - log p(second), at the first token in which they differ."""
        with turn(self._lock, deadline):
            first, second = (self._answer_ids(option) for option in options)
            texts = [self._prompt_ids(prompt) for prompt in prompts]
        common = common_length([first, second])
        if common == min(len(first), len(second)):
            raise InvalidInput(f"one of the answers {options} begins with the other; give two that differ.")
        rows = [_Row([*text, *first[:common]], len(text) + common - 1) for text in texts]

        def read(logits: Any, _: int) -> float:
            return float(logits[0, first[common]].double() - logits[0, second[common]].double())

        usage.prompt_tokens += sum(map(len, texts))
        usage.answer_tokens += len(texts) * (common + 1)
        return self._run(rows, read, deadline, columns=(first[common], second[common]))

    def write(self, prompts: Sequence[Prompt], deadline: Deadline, usage: Usage) -> list[str]:
        import torch

        with turn(self._lock, deadline):
            texts = [self._prompt_ids(prompt) for prompt in prompts]
        for text in texts:
            self._require_room(len(text) + WRITTEN_TOKENS)
        found = [""] * len(texts)
        filler = (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0)
        options = {
            "max_new_tokens": WRITTEN_TOKENS, "do_sample": False,
            "pad_token_id": next(token for token in filler if token is not None),
        }  # fmt: skip
        with torch.inference_mode():
            with turn(self._lock, deadline):
                beginning = Beginning.of(self._model, texts)
            for batch in length_batches([len(text) + WRITTEN_TOKENS for text in texts], self._batch_tokens):
                with turn(self._lock, deadline), self._model.register_forward_hook(self._look_at_last):
                    made = continuations(self._model, [texts[place] for place in batch], 1, beginning, **options)
                    for place, ids in zip(batch, made, strict=True):
                        found[place] = self._tokenizer.decode(ids, skip_special_tokens=True)
                        usage.prompt_tokens += len(texts[place])
                        usage.answer_tokens += len(ids)
        return found

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if self._tokenizer.chat_template is not None:
            text = self._tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
            # The chat form holds its special tokens already.
            return self._ids(text)
        return [*first_tokens(self._tokenizer), *self._ids(prompt.plain)]

    def _answer_ids(self, answer: str) -> list[int]:
        return self._ids(answer if self._tokenizer.chat_template is not None else f" {answer}") if answer else []

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return ids

    def _require_room(self, tokens: int) -> None:
        if tokens > self.window:
            raise PromptTooLong(
                f"prompt and answer have {tokens} tokens and {self.name} reads {self.window}; "
                "shorten the query or let less of each document be read."
            )

    def _look_at_last(self, _model: Any, _given: Any, made: Any) -> None:
        """Look, before others change them, at the logits by which the next token is chosen."""
        self._require_finite(made.logits[:, -1])

    def _require_finite(self, logits: Any) -> None:
        import torch

        if not torch.isfinite(logits).all():
            raise ModelFault(f"{self.name} gave a logit that is not finite; try precision='float32'.")

    def _run(
        self,
        rows: Sequence[_Row],
        read: Callable[[Any, int], Any],
        deadline: Deadline,
        *,
        columns: Sequence[int] = (),
    ) -> list[Any]:
        """Return what `read` makes of the (n, V) float32 logits of each row.

        columns  tokens whose logits are to be compared, so that a smaller precision must not make them equal
        """
        import torch

        for row in rows:
            self._require_room(len(row.ids) + 1)
        found: list[Any] = [None] * len(rows)
        with torch.inference_mode():
            for group in alike([row.ids for row in rows]):
                with turn(self._lock, deadline):
                    shared, cache = self._prefix([rows[place] for place in group])
                lengths = [len(rows[place].ids) - shared for place in group]
                for batch in length_batches(lengths, self._batch_tokens):
                    places = [group[number] for number in batch]
                    with turn(self._lock, deadline):
                        logits = self._forward([rows[place] for place in places], shared, cache, columns)
                    for place, own in zip(places, logits, strict=True):
                        self._require_finite(own)
                        found[place] = read(own, place)
        return found

    def _prefix(self, rows: Sequence[_Row]) -> tuple[int, Any]:
        """Return how many tokens all rows begin with, and their keys and values; 0 where that would not pay."""
        import torch

        if len(rows) < 2:
            return 0, None
        # Every row keeps a token of its own, whose logits are the first that are read.
        most = min(min(row.first, len(row.ids) - 1) for row in rows)
        shared = min(common_length([row.ids for row in rows]), most)
        if shared < LEAST_SHARED:
            return 0, None
        ids = rows[0].ids[:shared]
        known, cache = self._shared
        kept = min(common_length([known, ids]), shared)
        # What the call before left is cut to what is common, unless that wastes much.
        if cache is None or kept < 0.75 * shared:
            inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self._model.device)}
            if "logits_to_keep" in self._takes:
                inputs["logits_to_keep"] = 1
            cache = getattr(self._model(**inputs, use_cache=True), "past_key_values", None)
            if not can_be_shared(cache):
                return 0, None
            self._shared, kept = (ids, cache), shared
        return kept, cache

    def _forward(self, rows: Sequence[_Row], shared: int, cache: Any, columns: Sequence[int]) -> list[Any]:
        """Return for each row its (n, V) float32 logits, in one forward pass."""
        import torch

        lengths = [len(row.ids) - shared for row in rows]
        longest = max(lengths)
        left = self._padding == "left"
        starts = [longest - length if left else 0 for length in lengths]
        # 0 is a token of every model; the mask hides it, so that no padding token is needed.
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), shared + longest, dtype=torch.long)
        mask[:, :shared] = 1
        for number, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
            ids[number, start : start + length] = torch.tensor(row.ids[shared:])
            mask[number, shared + start : shared + start + length] = 1
        device = self._model.device
        inputs: dict[str, Any] = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if "position_ids" in self._takes:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
            inputs["position_ids"] = positions.to(device)
        wanted = [
            list(range(start + row.first - shared, start + length))
            for row, start, length in zip(rows, starts, lengths, strict=True)
        ]
        kept = sorted(set(itertools.chain.from_iterable(wanted)))
        if "logits_to_keep" in self._takes:
            inputs["logits_to_keep"] = torch.tensor(kept, device=device)
        else:
            kept = list(range(longest))
        if cache is not None:
            own = copy.deepcopy(cache)
            # Takes how many to remove, as a negative number.
            own.crop(shared - own.get_seq_length())
            own.batch_repeat_interleave(len(rows))
            inputs["past_key_values"] = own
        with _exactly(self._model.get_output_embeddings(), list(columns)):
            logits = self._model(**inputs, use_cache=cache is not None).logits.float()
        place = {position: number for number, position in enumerate(kept)}
        return [logits[number, [place[position] for position in own]] for number, own in enumerate(wanted)]


@contextmanager
def _exactly(layer: Any, columns: list[int]) -> Iterator[None]:
    """Let an output layer compute the logits of some tokens in float32, whatever its weights are."""
    import torch

    if not columns or not isinstance(layer, torch.nn.Linear) or layer.weight.dtype == torch.float32:
        yield
        return

    def compute(_: Any, given: tuple[Any, ...], made: Any) -> Any:
        bias = None if layer.bias is None else layer.bias[columns].float()
        made = made.float()
        made[..., columns] = torch.nn.functional.linear(given[0].float(), layer.weight[columns].float(), bias)
        return made

    hook = layer.register_forward_hook(compute)
    try:
        yield
    finally:
        hook.remove()


def first_tokens(tokenizer: Any) -> list[int]:
    """Return what a tokenizer puts before a text that is no chat: its beginning token, or nothing."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("x", verbose=False)["input_ids"][:1] == [bos] else []


def require_precision(precision: str | None) -> None:
    """Raise InvalidInput for a precision that there is not."""
    if precision is not None and precision not in get_args(Precision):
        raise InvalidInput(f"precision must be float32 or bfloat16, got {precision!r}.")


def placed(model: Any, device: str | None, precision: Precision | None) -> Any:
    """Return a model ready to answer, on a GPU where there is one unless a device is named.

    precision  None means bfloat16 on a GPU, float32 elsewhere
    """
    import torch

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    halved = precision == "bfloat16" or (precision is None and where.startswith("cuda"))
    return model.to(where, torch.bfloat16 if halved else torch.float32).eval()


def load_language_model(folder: Path, kind: Any) -> tuple[Any, Any]:
    """Return model and tokenizer by one of transformers' Auto classes, such as AutoModelForCausalLM.

    Raises BackendUnavailable for a folder that is none or lacks weights: the library would fill them with random
    numbers.
    """
    from transformers import AutoTokenizer

    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        with without_transformers_bars(), quiet_transformers():
            model, loading = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError) as error:
        raise BackendUnavailable(f"{folder} is no language model: {error}") from error
    if missing := sorted(loading["missing_keys"]):
        raise BackendUnavailable(f"{folder} is no language model: it lacks weights, such as {missing[0]}.")
    return model, tokenizer
