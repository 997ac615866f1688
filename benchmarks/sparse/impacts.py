"""Encode documents and queries with SPLADE-tiny into 8-bit impacts, the input of the learned-sparse engines.

    python -m benchmarks.sparse.impacts --corpus CORPUS.jsonl[.zst] --queries QUERIES.jsonl [--documents 200000]

max over tokens of log(1 + relu(logit)) of the masked language model, in bfloat16, texts cut at 256 tokens, impact =
min(255, round(SCALE * weight)), zeros left out. Shards are kept, so that the command goes on where it was stopped.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse import indexes
from benchmarks.sparse.matrix import Rows
from benchmarks.sparse.protocol import read_corpus, read_queries

MODEL = "splade-tiny"
DOCUMENTS = 200_000
SHARD = 5000
MAX_TOKENS = 256
TOKENS_IN_BATCH = 4096
VOCABULARY_CHUNK = 512
SCALE = 64


def encoded(corpus: Path, documents: int = DOCUMENTS) -> Path:
    """Return where the impacts of a plain corpus lie, whether or not they are there."""
    return corpus.with_name(f"{corpus.stem.partition('-')[0]}-{MODEL}-{documents}.npz")


class Splade:
    """The masked language model with the pooling of SPLADE."""

    def __init__(self) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForMaskedLM

        from retriever.models.resolve import resolve

        folder = resolve(MODEL)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._body, self._transform = model.bert, model.cls.predictions.transform
        decoder = model.cls.predictions.decoder
        # Chunks of (H, C), each of which gives logits that stay in cache until their maximum is taken.
        self._chunks = [chunk.contiguous() for chunk in decoder.weight.detach().T.split(VOCABULARY_CHUNK, 1)]
        self._bias = decoder.bias.detach().float()

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return the impacts of texts; like lengths are batched together."""
        import torch

        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        found: list[tuple[Any, Any]] = [(None, None)] * len(texts)

        @torch.inference_mode()
        def encode(batch: list[int]) -> None:
            weights = self._weights([tokens[number] for number in batch])
            impacts = (weights * SCALE).round_().clamp_(max=255).to(torch.uint8).numpy()
            for number, row in zip(batch, impacts, strict=True):
                terms = np.flatnonzero(row)
                found[number] = terms.astype(np.int32), row[terms]

        # A batch a thread: threads within one would wait for each other where the machine has other work.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(encode, _batches([len(ids) for ids in tokens])))
        torch.set_num_threads(threads)
        indptr = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(terms) for terms, _ in found], out=indptr[1:])
        return Rows(indptr, np.concatenate([t for t, _ in found]), np.concatenate([v for _, v in found]))

    def _weights(self, tokens: list[list[int]]) -> Any:
        """Return (B, V) float32 weights."""
        import torch

        length = max(map(len, tokens))
        ids = torch.zeros(len(tokens), length, dtype=torch.long)
        mask = torch.zeros(len(tokens), length, dtype=torch.long)
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        hidden = self._transform(self._body(input_ids=ids, attention_mask=mask).last_hidden_state)  # (B, L, H)
        # Padding repeats the first token, which changes no maximum.
        hidden = torch.where(mask[:, :, None] > 0, hidden, hidden[:, :1])
        length_first = hidden.transpose(0, 1).reshape(-1, hidden.shape[-1])  # (L * B, H)
        best = [(length_first @ chunk).view(length, len(tokens), -1).amax(0) for chunk in self._chunks]
        # The bias is the same at every token, and log(1 + relu(x)) never falls: both can wait for the maximum.
        return torch.cat(best, 1).float().add_(self._bias).relu_().log1p_()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the numbers of texts in batches of like length and about TOKENS_IN_BATCH tokens."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_IN_BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def join(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one part after the other."""
    indptr = np.zeros(sum(part.count for part in parts) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(part.indptr) for part in parts]), out=indptr[1:])
    return Rows(indptr, np.concatenate([p.indices for p in parts]), np.concatenate([p.values for p in parts]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    arguments = parser.parse_args()
    corpus = indexes.plain_corpus(arguments.corpus, arguments.documents)
    output = encoded(corpus, arguments.documents)
    # Apart from the number of documents, so that a longer run takes over what a shorter one has done.
    shards = output.with_name(output.name.removesuffix(f"{arguments.documents}.npz") + "shards")
    shards.mkdir(exist_ok=True)
    texts = [text for _, text in read_corpus(corpus)]
    splade = Splade()
    parts = []
    for start in range(0, len(texts), SHARD):
        end = min(start + SHARD, len(texts))
        shard = shards / f"{start:08d}-{end:08d}.npz"
        if not shard.is_file():
            began = time.perf_counter()
            rows = splade.encode(texts[start:end])
            part = shard.with_suffix(".part.npz")
            np.savez(part, **rows.arrays())
            part.rename(shard)
            rate = rows.count / (time.perf_counter() - began)
            print(f"{end} of {len(texts)}, {rate:.0f} documents/s", flush=True)
        with np.load(shard, allow_pickle=False) as file:
            parts.append(Rows(file["indptr"], file["indices"], file["values"]))
    documents, queries = join(parts), splade.encode(read_queries(arguments.queries))
    named = {f"query_{name}": array for name, array in queries.arrays().items()}
    np.savez(output, scale=SCALE, **documents.arrays(), **named)
    print(json.dumps({
        "documents": documents.count, "terms_per_document": len(documents.indices) / documents.count,
        "terms_per_query": len(queries.indices) / queries.count, "largest": int(documents.values.max()),
        "clipped": int((documents.values == 255).sum()),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
