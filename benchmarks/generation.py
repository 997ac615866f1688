"""Do examples help a small language model to write queries that belong to their documents?

    python -m benchmarks.generation --data FOLDER [--only scifact nfcorpus cranfield] [--documents 64]

For documents drawn from each collection SmolLM2-135M-Instruct writes two questions, once with the three examples that
come with the style and once with the instruction alone. A query belongs to its document if all-MiniLM-L6-v2 finds it
first, or among the first ten, of the collection's first --among documents, of which those asked for are drawn. An
answer that is no query counts as not found. Values are means over a document's answers; p is of the paired
randomisation test over documents, corrected by Holm over collections. Adds to benchmarks/results/generation.csv.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import RESULTS, add_rows
from indexing.corpora import open_corpus
from retriever.encoder import load_encoder
from retriever.evaluation.significance import compare, holm
from retriever.types import Document
from training.generation.cleaning import clean
from training.generation.job import MIN_CHARACTERS, GenerationSettings, open_generator

ANSWERS = 2
EXAMPLES: dict[str, Any] = {"none": (), "of the style": None}
DEPTHS = (1, 10)


def found(documents: Sequence[Document], rows: Sequence[int], answers: Sequence[Sequence[str]]) -> dict[int, Any]:
    """Return by depth and row of a document the share of its answers that find it."""
    encoder = load_encoder("all-MiniLM-L6-v2", precision="bfloat16", offline=True)
    vectors = encoder.encode_documents(documents)
    values: dict[int, Any] = {depth: {} for depth in DEPTHS}
    for row, own in zip(rows, answers, strict=True):
        queries = [query for answer in own if (query := clean(answer))]
        scores = encoder.encode_queries(queries) @ vectors.T if queries else np.zeros((0, len(documents)), np.float32)
        better = (scores > scores[:, row, None]).sum(axis=1)
        for depth in DEPTHS:
            values[depth][str(row)] = float((better < depth).sum() / ANSWERS)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["scifact", "nfcorpus", "cranfield"])
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--among", type=int, default=1400)
    parser.add_argument("--output", type=Path, default=RESULTS / "generation.csv")
    given = parser.parse_args()
    rows, tests = [], []
    for name in given.only:
        documents = list(itertools.islice(open_corpus(str(given.data / name)), given.among))
        long = [row for row, document in enumerate(documents) if len(document.content.strip()) >= MIN_CHARACTERS]
        drawn = np.sort(np.random.default_rng(0).permutation(long)[: given.documents]).tolist()
        values = {}
        for label, examples in EXAMPLES.items():
            settings = GenerationSettings(examples=examples, document_tokens=128, new_tokens=32, precision="bfloat16")
            generator = open_generator(settings, offline=True)
            started = time.process_time()
            answers = generator.answers([documents[row].content for row in drawn], ANSWERS, 0)
            seconds = time.process_time() - started
            values[label] = found(documents, drawn, answers)
            usable = np.mean([clean(answer) is not None for own in answers for answer in own])
            means = [np.mean(list(values[label][depth].values())) for depth in DEPTHS]
            rows.append({
                "collection": name, "examples": label, "documents": len(drawn), "among": len(documents),
                "usable": f"{usable:.3f}", "found_first": f"{means[0]:.3f}", "found_in_10": f"{means[1]:.3f}",
                "difference_in_10": "", "low": "", "high": "", "p_holm": "",
                "seconds_a_document": f"{seconds / len(drawn):.2f}",
            })  # fmt: skip
            print(rows[-1], flush=True)
        tests.append(compare(values["none"][DEPTHS[-1]], values["of the style"][DEPTHS[-1]]))
        low, high = tests[-1].interval
        rows[-1] |= {"difference_in_10": f"{tests[-1].difference:+.3f}", "low": f"{low:+.3f}", "high": f"{high:+.3f}"}
    for row, p in zip(rows[1::2], holm([test.p for test in tests]), strict=True):
        row["p_holm"] = f"{p:.2g}"
        print(row)
    add_rows(given.output, rows, ["torch", "transformers"])


if __name__ == "__main__":
    main()
