"""Search by sign codes on a million vectors, against FAISS: exact, binary with rescoring, and HNSW in as much memory.

    python -m benchmarks.quantised [--vectors 1000000] [--width 384] [--hnsw] [--output FILE]

Rows are added to the file (benchmarks/results/quantised.csv), so that it may hold several runs.

One thread everywhere. Times are CPU seconds of that thread, the median of several rounds in which all systems take
turns, so that other work on the machine stretches none of them. Vectors are of low rank with noise: `--rank` directions
of falling weight, then unit length; queries are noisy copies of documents. The machine's bandwidth is that of summing
the codes, as one stream or as eight at once, whichever is faster.
"""

import argparse
import csv
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexing.segments import write_dense
from kernels.compiling import compiled
from kernels.hamming import nearest_codes, packed
from retriever.evaluation.records import environment
from retriever.index.codes import CODES, read_codes
from retriever.index.dense import ABSENT, VECTORS, DenseReader, pack_signs
from retriever.index.faiss_module import load_faiss
from retriever.index.form import Form

K = 10
BATCH = 64
BLOCK = 50_000


def drawn(count: int, width: int, rank: int, noise: float, seed: int) -> NDArray[np.float32]:
    """Return unit vectors (count, width) of low rank with noise."""
    axes = np.random.default_rng(1).standard_normal((rank, width)).astype(np.float32)
    axes *= (1 + np.arange(rank, dtype=np.float32))[:, None] ** -0.5
    vectors = np.empty((count, width), np.float32)
    generator = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        part = vectors[start : start + BLOCK]
        part[:] = generator.standard_normal((len(part), rank), np.float32) @ axes
        part += noise * generator.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


@compiled
def sum_of_streams(words):
    """Return the sum of uint64[n], read as eight streams; what eight does not divide is left out."""
    part = len(words) // 8
    a = b = c = d = e = f = g = h = np.uint64(0)
    for place in range(part):
        a += words[place]
        b += words[place + part]
        c += words[place + 2 * part]
        d += words[place + 3 * part]
        e += words[place + 4 * part]
        f += words[place + 5 * part]
        g += words[place + 6 * part]
        h += words[place + 7 * part]
    return a + b + c + d + e + f + g + h


def seconds(work: Callable[[], Any]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/quantised.csv"))
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hnsw", action="store_true", help="Build HNSW too, which takes long.")
    arguments = parser.parse_args()
    faiss = load_faiss()
    faiss.omp_set_num_threads(1)
    vectors = drawn(arguments.vectors, arguments.width, arguments.rank, arguments.noise, 2)
    chosen = np.random.default_rng(3).choice(arguments.vectors, BATCH, replace=False)
    spread = np.random.default_rng(4).standard_normal((BATCH, arguments.width)).astype(np.float32)
    queries = vectors[np.sort(chosen)] + 0.5 / arguments.width**0.5 * spread
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), vectors, queries, arguments)
    machine = environment()
    is_new = not arguments.output.is_file()
    with arguments.output.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "vectors", "width", "cpu", "faiss"], lineterminator="\n")
        if is_new:
            writer.writeheader()
        for row in rows:
            print(row)
            extra = {"vectors": arguments.vectors, "width": arguments.width, "cpu": machine["cpu"]}
            writer.writerow(row | extra | {"faiss": machine["packages"].get("faiss-cpu", "")})


def measured(
    folder: Path, vectors: NDArray[np.float32], queries: NDArray[np.float32], arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Return a row for each system: recall, CPU milliseconds of one query alone and in a batch, bytes in memory."""
    faiss = load_faiss()
    count, width = vectors.shape
    np.save(folder / VECTORS, vectors)
    np.save(folder / ABSENT, np.zeros(0, np.int32))
    form = Form(width, "binary", "float32")
    (folder / "segment").mkdir()
    write_dense([folder], [None], count, folder / "segment", form)
    codes = read_codes(folder / "segment" / CODES, width, None)
    rank = np.arange(count, dtype=np.int32)
    flat = faiss.IndexFlatIP(width)
    flat.add(vectors)
    _, best = flat.search(queries, K)
    binary = faiss.IndexBinaryFlat(width)
    binary.add(pack_signs(vectors))
    signs = packed(vectors)

    def recall(found: list[NDArray[Any]]) -> float:
        return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / K for a, b in zip(found, best, strict=True)]))

    def ours(part: NDArray[np.float32], reader: DenseReader) -> list[NDArray[Any]]:
        return [ordinals for _, ordinals in reader.search(part, K, rank, None)[0]]

    def theirs(part: NDArray[np.float32], candidates: int) -> list[NDArray[Any]]:
        _, near = binary.search(pack_signs(part), candidates)
        return rescored(vectors, part, near)

    systems: dict[str, tuple[Callable[[NDArray[np.float32]], Any], float]] = {
        "FAISS IndexFlatIP": (lambda part: list(flat.search(part, K)[1]), 4.0 * width)
    }
    for candidates in (500, 1000, 2000, 4000):
        reader = DenseReader(
            folder / "segment", faiss_sha256=None, oversample=4, live=None, codes=codes, candidates=candidates
        )
        systems[f"sign codes, {candidates} rescored"] = (functools.partial(ours, reader=reader), width / 8)
        systems[f"FAISS IndexBinaryFlat, {candidates} rescored"] = (
            functools.partial(theirs, candidates=candidates), width / 8
        )  # fmt: skip
        if recall(ours(queries, reader)) >= 0.95:
            break
    if arguments.hnsw:
        systems |= graphs(vectors, width)
    systems["Hamming scan alone, 1000 nearest"] = (lambda part: nearest_codes(signs, part, 1000), width / 8)
    systems["Hamming scan alone, mapped file"] = (lambda part: codes.nearest(part, 1000, None), width / 8)
    in_small_pages(folder / "segment" / CODES, folder / "small.npy")
    small = read_codes(folder / "small.npy", width, None)
    systems["Hamming scan alone, mapped file in small pages"] = (
        lambda part: small.nearest(part, 1000, None), width / 8
    )  # fmt: skip
    systems["FAISS IndexBinaryFlat alone, 1000 nearest"] = (
        lambda part: binary.search(pack_signs(part), 1000), width / 8
    )  # fmt: skip
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    reads = []
    for search, _ in systems.values():
        search(queries[:1])
    sum_of_streams(signs.words)
    for _ in range(arguments.rounds):
        fastest = min(seconds(signs.words.sum), seconds(functools.partial(sum_of_streams, signs.words)))
        reads.append(signs.words.nbytes / fastest / 1e9)
        for name, (search, _) in systems.items():
            alone = [seconds(functools.partial(search, query[None])) for query in queries[:8]]
            together = seconds(functools.partial(search, queries)) / len(queries)
            times[name].append((1000 * float(np.median(alone)), 1000 * together))
    rows: list[dict[str, object]] = []
    for name, (search, memory) in systems.items():
        alone, together = (float(np.median(column)) for column in zip(*times[name], strict=True))
        first = times["FAISS IndexFlatIP"]
        rows.append(
            {
                "system": name,
                "recall_10": "" if "alone" in name else f"{recall(search(queries)):.3f}",
                "bytes_in_memory": f"{memory:.0f}",
                "ms_alone": f"{alone:.2f}",
                "ms_in_batch": f"{together:.2f}",
                "flat_over_alone": f"{float(np.median([row[0] for row in first])) / alone:.1f}",
                "flat_over_batch": f"{float(np.median([row[1] for row in first])) / together:.1f}",
                "read_gb_s": f"{signs.words.nbytes / alone / 1e6:.1f}" if "Hamming" in name else "",
                "machine_gb_s": f"{float(np.median(reads)):.1f}",
            }
        )
    return rows


def in_small_pages(source: Path, target: Path) -> None:
    """Copy a file so that the system caches it in pages of 4 KB: of larger writes Linux makes larger ones."""
    content = source.read_bytes()
    with target.open("wb", buffering=0) as file:
        for start in range(0, len(content), 4096):
            file.write(content[start : start + 4096])


def rescored(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], near: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the best K of each query's candidates by inner product."""
    found = []
    for query, candidates in zip(queries, near, strict=True):
        candidates = np.sort(candidates)
        scores = vectors[candidates] @ query
        found.append(candidates[np.argsort(-scores, kind="stable")[:K]])
    return found


def graphs(vectors: NDArray[np.float32], width: int) -> dict[str, tuple[Callable[[NDArray[np.float32]], Any], float]]:
    """Return HNSW over product codes that takes as many bytes as sign codes: links of 8 neighbours, and the rest codes.

    Its candidates are rescored by the vectors too.
    """
    faiss = load_faiss()
    codes = width // 8 - 32
    index = faiss.index_factory(width, f"HNSW4_PQ{codes}", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // 50_000)])
    index.add(vectors)

    def search(part: NDArray[np.float32], candidates: int) -> list[NDArray[np.int64]]:
        parameters = faiss.SearchParametersHNSW(efSearch=candidates)
        return rescored(vectors, part, index.search(part, candidates, params=parameters)[1])

    return {
        f"FAISS HNSW4_PQ{codes}, {count} rescored": (functools.partial(search, candidates=count), width / 8)
        for count in (500, 2000)
    }


if __name__ == "__main__":
    main()
