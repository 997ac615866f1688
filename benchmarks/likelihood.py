"""Ranking 100 documents by query likelihood on a CPU, against a plain padded loop.

    python -m benchmarks.likelihood --collection scifact [--model SmolLM2-135M-Instruct] [--queries 1] [--rounds 3]

A pair is a query and one of BM25's best documents for it, cut to --document-tokens. *plain* is what everybody writes
with transformers: float32, the documents as they come, padded in batches of --batch, logits of all tokens, of which
those of the query are gathered. *ours* is the pipeline's ranker with nothing cached, in float32 and in bfloat16.
*kept places* is the ranking of `retriever.llm.bottleneck`, which runs the query alone against what was computed of each
document before, unmeasured; its scores are others, so only its speed is compared. All take turns in one process and
make their token ids from the same texts; ratios are of the medians over the rounds, cpu_ratio is that of processor
time, which other work on the machine changes less.
Ends with exit code 1 if a float32 score differs from the plain one by more than its tokens' tolerances. Appends to
benchmarks/results/likelihood.csv; wants a quiet machine.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.llm import searching
from benchmarks.table import RESULTS, add_rows
from retriever.llm import prompts
from retriever.llm.bottleneck import Bottleneck, QueryWriter, save_query_writer
from retriever.llm.causal import TOLERANCE, CausalModel
from retriever.llm.judge import Judge
from retriever.llm.rankers import LanguageRanker
from retriever.llm.usage import Deadline
from retriever.models import resolve
from retriever.pipeline import Rerank
from retriever.types import Document

# Documents of the first round, which is for caches.
WARMUP = 8


class Plain:
    """A padded loop over transformers' model."""

    def __init__(self, name: str, batch: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = resolve(name, offline=True)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
        self.batch = batch

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        import torch

        answer = self.tokenizer(query, add_special_tokens=False)["input_ids"]
        scores: list[float] = []
        for start in range(0, len(texts), self.batch):
            chats = [
                self.tokenizer.apply_chat_template(
                    prompts.likelihood(text).messages, tokenize=False, add_generation_prompt=True
                )
                for text in texts[start : start + self.batch]
            ]
            asked = self.tokenizer(chats, add_special_tokens=False)["input_ids"]
            rows = self.tokenizer.pad(
                {"input_ids": [[*ids, *answer] for ids in asked]}, padding=True, return_tensors="pt"
            )
            # Left or right, as the tokenizer pads.
            left = self.tokenizer.padding_side == "left"
            with torch.no_grad():
                logits = self.model(**rows).logits
            found = torch.log_softmax(logits[:, :-1], -1).gather(2, rows["input_ids"][:, 1:, None])[:, :, 0]
            for row, ids in zip(found, asked, strict=True):
                first = (len(row) - len(answer)) if left else len(ids) - 1
                scores.append(float(row[first : first + len(answer)].sum()))
        return scores


class Kept:
    """A model that ranks by kept places; the weights are not taught to, which changes no time."""

    def __init__(self, name: str, document_tokens: int, query_tokens: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            for file in resolve(name, offline=True).iterdir():
                (Path(place) / file.name).symlink_to(file.resolve())
            taught = QueryWriter(document_tokens=document_tokens, query_tokens=query_tokens)
            save_query_writer(Path(place), taught)
            self.model = Bottleneck(place, device="cpu")
        self._known: dict[str, Any] = {}

    def prepare(self, documents: Sequence[Document]) -> None:
        vectors = self.model.encode_documents(documents).astype(np.float16)
        self._known |= {document.id: vector for document, vector in zip(documents, vectors, strict=True)}

    def score(self, query: str, documents: Sequence[Document]) -> NDArray[Any]:
        (vector,) = self.model.encode_queries([query])
        vectors = np.stack([self._known[document.id] for document in documents]).astype(np.float32)
        return self.model.likelihoods(vector, vectors, Deadline())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("RETRIEVER_TEST_DATA", "../shared/data"))
    parser.add_argument("--collection", type=Path, default=folder / "scifact", help="BEIR folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--document-tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help="of the plain loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its own choice")
    parser.add_argument("--output", type=Path, default=RESULTS / "likelihood.csv")
    given = parser.parse_args()
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    collection, searched = searching(given.collection, given.split, given.queries, given.depth)
    asked = [(collection.queries[query], [document for document, _ in found]) for query, found in searched.items()]
    pairs = sum(len(documents) for _, documents in asked)
    rerank = Rerank(
        kind="query_likelihood", model=given.model, depth=given.depth, document_tokens=given.document_tokens
    )
    plain = Plain(given.model, given.batch)
    models = {
        f"ours {precision}": CausalModel(given.model, device="cpu", precision=precision, offline=True)
        for precision in ("float32", "bfloat16")
    }
    kept = Kept(given.model, given.document_tokens, rerank.query_tokens)
    for _, documents in asked:
        kept.prepare(documents)
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", *models, "kept places")}
    processor: dict[str, list[float]] = {name: [] for name in seconds}
    scores: dict[str, list[NDArray[Any]]] = {}
    for number in range(-1, given.rounds):
        for name in seconds:
            scores[name] = []
            started, busy = time.perf_counter(), time.process_time()
            for query, documents in [(asked[0][0], asked[0][1][:WARMUP])] if number < 0 else asked:
                if name == "plain":
                    cut = models["ours float32"].cut
                    texts = [cut(document.content, given.document_tokens) for document in documents]
                    scores[name].append(np.array(plain.score(cut(query, rerank.query_tokens), texts)))
                elif name == "kept places":
                    scores[name].append(kept.score(query, documents))
                else:
                    scores[name].append(LanguageRanker(Judge(models[name]), rerank).score(query, documents)[0])
            if number >= 0:
                seconds[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - busy)
                print(name, f"{seconds[name][-1]:.1f} s", flush=True)
    medians, busy_medians = (
        {name: float(np.median(taken)) for name, taken in noted.items()} for noted in (seconds, processor)
    )
    rows = []
    for name in seconds:
        differences = [np.abs(own - other).max() for own, other in zip(scores[name], scores["plain"], strict=True)]
        orders = [kendalltau(own, other).statistic for own, other in zip(scores[name], scores["plain"], strict=True)]
        rows.append({
            "collection": given.collection.name, "system": name, "model": given.model, "queries": given.queries,
            "documents": given.depth, "document_tokens": given.document_tokens, "plain_batch": given.batch,
            "rounds": given.rounds, "pairs_per_s": f"{pairs / medians[name]:.2f}",
            "ratio": f"{medians['plain'] / medians[name]:.2f}",
            "ratios": " ".join(f"{a / b:.2f}" for a, b in zip(seconds["plain"], seconds[name], strict=True)),
            "cpu_ratio": f"{busy_medians['plain'] / busy_medians[name]:.2f}",
            "largest_difference": "" if name == "kept places" else f"{max(differences):.2g}",
            "kendall_tau": "" if name == "kept places" else f"{np.mean(orders):.4f}",
            "threads": torch.get_num_threads(),
        })  # fmt: skip
        print(rows[-1], flush=True)
    tokens = max(len(models["ours float32"]._answer_ids(query)) for query, _ in asked)
    if float(rows[1]["largest_difference"]) > TOLERANCE * tokens:
        print("float32 scores differ from those of the plain loop", file=sys.stderr)
        return 1
    add_rows(given.output, rows, ("torch", "transformers"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
