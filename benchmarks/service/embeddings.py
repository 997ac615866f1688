"""/v1/embeddings under concurrent clients, against sentence-transformers' own batches and against Infinity.

    python -m benchmarks.service.embeddings [--clients 64] [--texts 512] [--rounds 3] [--without-infinity]

The same texts, of the standard library's documentation, go through `SentenceTransformer.encode` in one call, through
`retriever serve` and through Infinity, in turns; the median of the rounds counts. Every vector that comes back is
compared with the library's. Adds lines to benchmarks/results/embeddings.csv.
"""

import argparse
import base64
import contextlib
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from benchmarks.service import infinity
from benchmarks.service.load import Measured, post_all
from benchmarks.service.serving import HOST, free_port, serve, serving
from benchmarks.table import RESULTS, add_rows
from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.corpora.pydocs import entries
from indexing.plan import BuildSettings
from retriever.models import DEFAULT_ENCODER, resolve

PACKAGES = ("retriever-engine", "torch", "sentence-transformers", "transformers")
# Of a component of a unit vector; float32 sums in another order, Infinity's libraries are older.
TOLERANCE = 1e-4

LIBRARY, OURS, INFINITY = "sentence-transformers encode", "retriever serve", "infinity"


def real_texts(count: int) -> dict[str, list[str]]:
    """Return documents, and short queries, of the standard library."""
    found = list(itertools.islice(entries("pydocs:stdlib"), count))
    return {"documents": [entry.text for entry in found], "queries": [entry.query for entry in found]}


def serve_ours(work: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start `retriever serve` with the encoder, over a small index without vectors."""
    source = work / "corpus.jsonl"
    source.write_text("".join(json.dumps({"_id": str(i), "text": f"text {i}"}) + "\n" for i in range(10)))
    build_index(open_corpus(str(source)), work / "index", BuildSettings(parts=("bm25",)))
    # What waits long is measured, not refused: Infinity refuses nothing either.
    return serve(
        work / "index", port, work / "ours.log", "--embedding-model", DEFAULT_ENCODER, LIMITS__QUEUE_SECONDS="3600"
    )


def bodies_of(texts: list[str], each: int) -> list[bytes]:
    """Return requests in OpenAI's schema, asking for base64 as its client does."""
    request = {"model": DEFAULT_ENCODER, "encoding_format": "base64"}
    return [json.dumps({**request, "input": texts[i : i + each]}).encode() for i in range(0, len(texts), each)]


def require_same(measured: Measured, expected: np.ndarray, who: str) -> None:
    """Stop unless every vector is the library's."""
    rows = [
        np.frombuffer(base64.b64decode(part["embedding"]), np.float32)
        for body in measured.bodies
        for part in sorted(json.loads(body)["data"], key=lambda part: part["index"])
    ]
    difference = float(np.abs(np.stack(rows) - expected).max())
    print(f"  largest difference of {who} to the library: {difference:.1e}", flush=True)
    if difference > TOLERANCE:
        raise RuntimeError(f"{who} gives other vectors than the library: {difference}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-infinity", action="store_true")
    arguments = parser.parse_args()
    folder = resolve(DEFAULT_ENCODER)
    library = SentenceTransformer(str(folder), device="cpu")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        work = Path(temporary)
        ports = {OURS: free_port()}
        stack.enter_context(
            serving(serve_ours(work, ports[OURS]), f"http://{HOST}:{ports[OURS]}/readyz", work / "ours.log")
        )
        if not arguments.without_infinity:
            infinity.install()
            ports[INFINITY] = free_port()
            process = infinity.serve(folder, DEFAULT_ENCODER, ports[INFINITY], work / "infinity.log")
            stack.enter_context(serving(process, f"http://{HOST}:{ports[INFINITY]}/health", work / "infinity.log"))
        paths = {OURS: "/v1/embeddings", INFINITY: "/embeddings"}
        for kind, texts in real_texts(arguments.texts).items():
            tokens = [
                min(len(ids), 256) for ids in library.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
            ]
            expected = library.encode(texts, show_progress_bar=False)
            for each in (1, 8):
                bodies = bodies_of(texts, each)
                print(f"{kind}, {np.mean(tokens):.0f} tokens each, {each} a request", flush=True)

                def encode(texts: list[str] = texts) -> Measured:
                    started = time.perf_counter()
                    library.encode(texts, show_progress_bar=False)
                    return Measured([], [], time.perf_counter() - started)

                def post(who: str, bodies: list[bytes] = bodies) -> Measured:
                    return post_all(HOST, ports[who], paths[who], bodies, arguments.clients)

                runs: dict[str, Callable[[], Measured]] = {LIBRARY: encode}
                runs |= {who: (lambda who=who: post(who)) for who in ports}
                for who in ports:
                    require_same(runs[who](), expected, who)
                rounds = [{who: run() for who, run in runs.items()} for _ in range(arguments.rounds)]
                rate = {who: len(texts) / statistics.median(found[who].total for found in rounds) for who in runs}
                for who in runs:
                    seconds = [second for found in rounds for second in found[who].seconds]
                    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3 if seconds else ("", "")
                    print(
                        f"  {who}: {rate[who]:.1f} texts/s, {rate[who] / rate[LIBRARY]:.2f} of the library", flush=True
                    )
                    rows.append(
                        {"texts": len(texts), "kind": kind, "mean_tokens": round(float(np.mean(tokens)), 1),
                         "texts_per_request": each, "clients": arguments.clients, "who": who,
                         "texts_per_second": round(rate[who], 2), "of_library": round(rate[who] / rate[LIBRARY], 3),
                         "p50_ms": p50 if p50 == "" else round(p50, 1), "p99_ms": p99 if p99 == "" else round(p99, 1)}
                    )  # fmt: skip
                add_rows(RESULTS / "embeddings.csv", rows, PACKAGES, {"peers": " ".join(infinity.PACKAGES)})
                rows.clear()


if __name__ == "__main__":
    main()
