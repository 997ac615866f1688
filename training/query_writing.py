"""A causal model that learns to write the query behind its document: the first stage of LLM-QL.

The model's body is trained as part of an encoder whose vector is the state of the last token, so that what is learned
here is what contrastive training goes on with.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retriever.errors import InvalidInput
from retriever.llm.bottleneck import QueryWriter, save_query_writer
from retriever.llm.causal import load_language_model
from training.batch import CollectionLoss
from training.collection import TrainingCollection
from training.losses.query_likelihood import attention_mask, predicting, query_likelihood
from training.negatives import positives_only

WORDS = re.compile(r"\S+")
LANGUAGE_MODEL = "language_model"


def corrupted(text: str, share: float, generator: np.random.Generator) -> str:
    """Return the text with each of its words replaced by "_" with probability `share`."""
    return WORDS.sub(lambda word: "_" if generator.random() < share else word.group(), text)


class WritingCollator:
    """Makes sequences of document, end token, query, end token; which words are corrupted depends on the epoch."""

    valid_label_columns: Sequence[str] = ()

    def __init__(
        self, model: Any, collection: TrainingCollection, *, query_tokens: int, document_tokens: int, share: float,
        seed: int,
    ) -> None:  # fmt: skip
        self.model = model
        self.collection = collection
        self.query_tokens, self.document_tokens = query_tokens, document_tokens
        self.share = share
        self.seed = seed
        self.epoch = 0
        self._draw = positives_only(collection.judgments)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, features: list[dict[str, int]]) -> dict[str, Any]:
        queries = np.array([feature["row"] for feature in features], np.int64)
        generator = np.random.default_rng([self.seed, self.epoch, *queries[:2].tolist()])
        documents, _ = self._draw(queries, generator)
        texts = [self.collection.documents[row].content for row in documents]
        texts = [corrupted(text, self.share, generator) for text in texts]
        sequences = [
            (self._document(text), self._query(self.collection.queries[row]))
            for row, text in zip(queries, texts, strict=True)
        ]
        inputs = padded(sequences)
        return {f"pair_{key}": value for key, value in inputs.items()} | {"label": torch.from_numpy(queries)}

    def _document(self, text: str) -> list[int]:
        """Return tokens as the encoder has them, with the end token that its tokenizer adds."""
        prompt = self.model.prompts.get("document")
        found = self.model.preprocess([text], prompt=prompt, max_length=self.document_tokens)
        ids: list[int] = found["input_ids"][0].tolist()
        return ids

    def _query(self, text: str) -> list[int]:
        """Return tokens and the end token; no token of a beginning, since the query stands inside a sequence."""
        tokenizer = self.model.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [*ids[: self.query_tokens - 1], tokenizer.eos_token_id]


def padded(sequences: Sequence[tuple[list[int], list[int]]], *, left: bool = False) -> dict[str, Tensor]:
    """Return input_ids (B, L) of documents and queries behind each other, and starts, ends and stops int64[B]."""
    lengths = [len(document) + len(query) for document, query in sequences]
    width = max(lengths)
    # 0 is a token of every model; the mask hides it, so that no padding token is needed.
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    starts = torch.tensor([width - length if left else 0 for length in lengths])
    for number, (document, query) in enumerate(sequences):
        start = int(starts[number])
        ids[number, start : start + lengths[number]] = torch.tensor([*document, *query])
    ends = starts + torch.tensor([len(document) - 1 for document, _ in sequences])
    return {"input_ids": ids, "starts": starts, "ends": ends, "stops": starts + torch.tensor(lengths)}


class Writer(nn.Module):
    """A causal model in two parts: the body, which is an encoder's too, and the output layer.

    An output layer of its own stays as it is, since it is no part of the encoder that checkpoints hold.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        """Let the body of the causal model in `folder` take the place of the one in `model`.

        Raises InvalidInput for a body whose tokens cannot be kept from seeing those before them.
        """
        from transformers import AutoModelForCausalLM

        super().__init__()
        causal, self._tokenizer = load_language_model(folder, AutoModelForCausalLM)
        self.causal = causal.float()
        self.body = self.causal.base_model
        self.body.load_state_dict(model[0].model.state_dict())
        # What the encoder's tokens attend to, and the states it gives, are its own; the causal model keeps its own too.
        self.body.config = model[0].model.config
        if not can_be_masked(self.body):
            raise InvalidInput(
                f"the architecture of {folder.name} ({self.body.config.model_type}) takes no mask of its own for each "
                "token, so that no query can be kept from seeing the document; train it by the recipe repllama, or "
                "take a transformer such as SmolLM2-135M-Instruct."
            )
        model[0].model = self.body
        head = self.causal.get_output_embeddings()
        if head.weight is not self.causal.get_input_embeddings().weight:
            head.requires_grad_(False)

    def logits(self, inputs: Mapping[str, Tensor], *, stop: bool, document: bool = False) -> tuple[Tensor, Tensor]:
        """Return (N, V) logits of the places whose next token counts, row by row, and those N tokens."""
        ids, spans = inputs["input_ids"], (inputs["starts"], inputs["ends"], inputs["stops"])
        width = ids.shape[1]
        allowed = attention_mask(*spans, width, stop=stop)
        dtype = self.body.dtype
        # Additive, which every implementation of attention takes; finite, so that no sum is NaN.
        mask = torch.zeros(allowed.shape, dtype=dtype, device=ids.device)
        mask.masked_fill_(~allowed, torch.finfo(dtype).min)
        positions = (torch.arange(width, device=ids.device)[None, :] - spans[0][:, None]).clamp(min=0)
        states = self.body(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        places = predicting(*spans, width, document=document)
        return self.causal.get_output_embeddings()(states[places]), ids[:, 1:][places[:, :-1]]

    def likelihoods(self, sequences: Sequence[tuple[list[int], list[int]]], *, stop: bool) -> list[float]:
        """Return log p(query | document) of each pair of token lists; larger is better."""
        inputs = padded(sequences)
        with torch.inference_mode():
            logits, targets = self.logits({key: value.to(self.body.device) for key, value in inputs.items()}, stop=stop)
            found = torch.log_softmax(logits.float(), -1).gather(1, targets[:, None])[:, 0]
        ends = np.cumsum([len(query) for _, query in sequences])
        return [float(part.sum()) for part in np.split(found.double().cpu().numpy(), ends[:-1])]

    def save(self, folder: Path, taught: QueryWriter) -> None:
        """Save the causal model and how it was taught, for ranking by the likelihood of the query."""
        self.causal.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        save_query_writer(folder, taught)


def can_be_masked(body: Any) -> bool:
    """Tell whether a token that a mask lets see only itself hangs on no other one."""
    ids = torch.tensor([[1, 3], [2, 3]], device=body.device)
    mask = torch.full((2, 1, 2, 2), torch.finfo(body.dtype).min, dtype=body.dtype, device=body.device)
    mask[:, :, [0, 1], [0, 1]] = 0
    training = body.training
    body.eval()
    try:
        with torch.inference_mode():
            made = body(input_ids=ids, attention_mask=mask, position_ids=torch.tensor([[0, 1]] * 2), use_cache=False)
    except (RuntimeError, TypeError, ValueError):
        return False
    finally:
        body.train(training)
    first, other = made.last_hidden_state[:, 1]
    return torch.allclose(first, other, atol=1e-4)


class WritingLoss(CollectionLoss):
    """Mean -log p of the query's tokens."""

    def __init__(self, writer: Writer, collection: TrainingCollection, *, stop: bool, document: bool) -> None:
        super().__init__(collection)
        self.writer = writer
        self.stop, self.document = stop, document

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor | Mapping[str, Tensor]:
        loss = query_likelihood(*self.writer.logits(features[0], stop=self.stop, document=self.document))
        return self.finite(loss, labels.cpu().numpy())
