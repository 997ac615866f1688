"""SPLADE pooling by portions of the vocabulary (retriever/term_encoder.py) beside the library's own, on a CPU.

    python -m benchmarks.pooling CORPUS.jsonl [--model splade-tiny] [--batches 20]

Takes the first documents of a corpus in batches of 1, 8 and 32, encodes every batch both ways in turns, and prints
milliseconds a batch (medians) and their ratio. Ends with exit code 1 if a weight differs by more than float32 rounds.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sparse.protocol import read_corpus
from retriever.models import resolve
from retriever.term_encoder import load_term_encoder

SIZES = (1, 8, 32)


def main() -> int:
    from sentence_transformers import SparseEncoder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default="splade-tiny")
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    models = {
        "library": SparseEncoder(str(resolve(arguments.model)), device="cpu", local_files_only=True).eval(),
        "portions": load_term_encoder(arguments.model, device="cpu").model,
    }
    documents = itertools.cycle(text for _, text in read_corpus(arguments.corpus))
    for size in SIZES:
        milliseconds: dict[str, list[float]] = {name: [] for name in models}
        for number in range(-1, arguments.batches):
            texts = list(itertools.islice(documents, size))
            found: dict[str, Any] = {}
            for name, model in models.items():
                started = time.perf_counter()
                found[name] = model.encode_document(texts, batch_size=size, convert_to_sparse_tensor=False)
                # The first batch is for caches.
                if number >= 0:
                    milliseconds[name].append((time.perf_counter() - started) * 1e3)
            if not np.allclose(found["library"], found["portions"], rtol=1e-5, atol=1e-6):
                print(f"weights differ in a batch of {size}", file=sys.stderr)
                return 1
        library, portions = (float(np.median(milliseconds[name])) for name in models)
        print(f"{size:3} texts: library {library:8.1f} ms, portions {portions:8.1f} ms, ratio {library / portions:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
