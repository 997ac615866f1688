"""How fast a bi-encoder encodes and a cross-encoder reranks, by precision and length of text.

    python -m benchmarks.gpu.half_precision all-MiniLM-L6-v2 .cache/gpu/minilm-fp16
    python -m benchmarks.gpu.encode .cache/gpu/minilm-fp16 --output benchmarks/results/encode_h200.csv
    python -m benchmarks.gpu.encode MODEL --smoke

The cross-encoder is the same model with an untrained head: its speed does not depend on the weights. Times are by
the host's clock, from strings to vectors or scores on the host; the rows of task "tokenise" say how much of them
is not the device's. Before anything is timed, vectors and scores in half precision are compared with float32; if
they are not close the run ends with exit code 1.
"""

import argparse
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.table import Table
from benchmarks.gpu.timing import Timing, wall

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MODULES = (
    "argparse",
    "asyncio",
    "collections",
    "decimal",
    "difflib",
    "inspect",
    "json",
    "logging",
    "typing",
    "unittest",
)

FULL = {"lengths": (16, 64, 256, 512), "rerank_lengths": (64, 128, 256, 512), "batch_tokens": 131_072, "batches": 4}
SMOKE = {"lengths": (16, 32), "rerank_lengths": (24,), "batch_tokens": 128, "batches": 2}
RERANKED = 100


def real_text() -> str:
    """Return some 200,000 characters of docstrings of the standard library."""
    parts = []
    for name in MODULES:
        module = __import__(name)
        parts += [inspect.getdoc(module) or ""]
        parts += [inspect.getdoc(member) or "" for _, member in sorted(vars(module).items(), key=lambda pair: pair[0])]
    return "\n".join(parts)


def texts_of(tokenizer: Any, length: int, count: int) -> list[str]:
    """Return texts of about `length` tokens, special tokens included; a handful may be a token off."""
    ids = tokenizer(real_text(), add_special_tokens=False, verbose=False)["input_ids"]
    starts = (7 * i * length % (len(ids) - length) for i in range(count))
    return [tokenizer.decode(ids[start : start + length - 2]) for start in starts]


def load_bi_encoder(folder: str, dtype: torch.dtype, device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=device, model_kwargs={"dtype": dtype}, local_files_only=True)
    model.max_seq_length = 512
    return model.eval()


def load_cross_encoder(folder: str, dtype: torch.dtype, device: str) -> Any:
    from sentence_transformers import CrossEncoder

    torch.manual_seed(1)
    loaded = CrossEncoder(
        folder, num_labels=1, device=device, model_kwargs={"dtype": torch.float32}, local_files_only=True
    )
    loaded.activation_fn = torch.nn.Identity()
    return loaded.to(dtype).eval()


def disagreements(folder: str, device: str) -> Iterator[str]:
    """Yield a sentence for each half precision whose vectors or scores are not those of float32."""
    exact = load_bi_encoder(folder, torch.float32, device)
    texts = [text for length in (16, 64) for text in texts_of(exact.tokenizer, length, 16)]
    expected = torch.from_numpy(exact.encode(texts)).double()
    pairs = list(zip(texts, reversed(texts), strict=True))
    expected_scores = torch.from_numpy(load_cross_encoder(folder, torch.float32, device).predict(pairs)).double()
    for dtype in DTYPES[1:]:
        vectors = torch.from_numpy(load_bi_encoder(folder, dtype, device).encode(texts)).double()
        cosine = torch.nn.functional.cosine_similarity(vectors, expected).min().item()
        if not cosine > 0.999:
            yield f"{dtype}: a vector has cosine {cosine:.5f} to that of float32"
        scores = torch.from_numpy(load_cross_encoder(folder, dtype, device).predict(pairs)).double()
        error = ((scores - expected_scores).abs().max() / expected_scores.std()).item()
        if not error < 0.5:
            yield f"{dtype}: a score is off by {error:.3f} standard deviations of the scores"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a bi-encoder")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--seconds", type=float, default=4.0, help="time for one measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    folder, device = arguments.model, arguments.device
    if faults := list(disagreements(folder, device)):
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    sizes: dict[str, Any] = SMOKE if arguments.smoke else FULL
    seconds = 0.01 if arguments.smoke else arguments.seconds
    with Table(arguments.output, device) as table:
        for dtype in DTYPES:
            model = load_bi_encoder(folder, dtype, device)
            for length in sizes["lengths"]:
                batch = max(1, sizes["batch_tokens"] // length)
                texts = texts_of(model.tokenizer, length, batch * sizes["batches"])
                if dtype == torch.float32:
                    time_tokeniser(table, model.tokenizer, texts, length, seconds)
                for name, inputs in (("encode", texts), ("encode one query", texts[:1])):
                    timing = wall(partial(model.encode, inputs, batch_size=batch), device, seconds)
                    add(table, name, dtype, length, len(inputs), timing)
            model = load_cross_encoder(folder, dtype, device)
            for length in sizes["rerank_lengths"]:
                query = "how do I read the lines of a file"
                documents = texts_of(model.tokenizer, length - 9, RERANKED)
                pairs = [(query, document) for document in documents]
                timing = wall(partial(model.predict, pairs, batch_size=RERANKED), device, seconds)
                add(table, "rerank", dtype, length, RERANKED, timing)
    return 0


def time_tokeniser(table: Table, tokenizer: Any, texts: list[str], length: int, seconds: float) -> None:
    tokenise = partial(tokenizer, texts, truncation=True, max_length=512)
    add(table, "tokenise", None, length, len(texts), wall(tokenise, "cpu", seconds))


def add(table: Table, task: str, dtype: torch.dtype | None, length: int, count: int, timing: Timing) -> None:
    table.add(
        task=task,
        dtype=str(dtype)[6:] if dtype else "",
        tokens=length,
        texts=count,
        p50_ms=timing.median,
        p95_ms=timing.p95,
        repeats=timing.repeats,
        texts_per_s=count / timing.median * 1e3,
        tokens_per_s=count * length / timing.median * 1e3,
    )


if __name__ == "__main__":
    sys.exit(main())
