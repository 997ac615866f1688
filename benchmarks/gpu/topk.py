"""Our top-k of inner products against a matrix product followed by torch.topk.

    python -m benchmarks.gpu.topk --output benchmarks/results/topk_h200.csv
    python -m benchmarks.gpu.topk --smoke

Every implementation is first compared with the definition; one that is wrong ends the run with exit code 1 before
anything is timed. `gb_per_s` counts every vector once, however often it is read; `bandwidth_share` is its
share of what a large copy reaches on the same device in the same run.
"""

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.gpu.table import Table
from benchmarks.gpu.timing import measure
from kernels.topk.blocked import full_float32, topk_blocked
from kernels.topk.dispatch import choose
from kernels.topk.reference import topk_reference

Search = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

FULL = {"N": (100_000, 1_000_000, 10_000_000), "H": (384, 768), "Q": (1, 32, 1024), "k": (10, 1000)}
SMOKE = {"N": (300, 2000), "H": (24,), "Q": (1, 5), "k": (3, 100)}
DTYPES = (torch.float32, torch.bfloat16)
MEASURED = (
    "median_ms", "p10_ms", "p90_ms", "repeats", "gb_per_s", "bandwidth_share", "tflop_per_s", "peak_gib", "note",
)  # fmt: skip


class FilteredSearch(Protocol):
    """A search that takes a mask of documents as well."""

    def __call__(
        self, queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...


def torch_topk(queries: Tensor, documents: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Search as one writes it without us; scores are rounded to the dtype of the vectors."""
    return torch.topk(queries @ documents.T, k, dim=1)


def ours(device: str) -> dict[str, FilteredSearch]:
    """Return our implementations by name."""
    found: dict[str, FilteredSearch] = {"blocked": topk_blocked}
    if device == "cuda" and importlib.util.find_spec("triton") is not None:
        from kernels.topk.triton import topk_triton

        found["triton"] = topk_triton
    return found


def random_vectors(count: int, width: int, dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Return (count, width) normal numbers, made in parts so that no float32 copy of all of them exists."""
    generator = torch.Generator(device).manual_seed(seed)
    made = torch.empty(count, width, dtype=dtype, device=device)
    for part in made.split(1_000_000):
        part.copy_(torch.randn(part.shape, generator=generator, device=device))
    return made


def disagreements(device: str) -> Iterator[str]:
    """Yield a sentence for each case in which an implementation is not equal to the definition.

    Whole numbers make products exact in any order of addition, so scores and rows must be equal, ties included.
    """
    sizes = [(1, 100_003, 384, 10), (33, 50_021, 100, 100), (129, 20_011, 768, 1000), (3, 77, 5, 90)]
    generator = torch.Generator(device).manual_seed(1)
    for (Q, N, H, k), dtype in itertools.product(sizes, (*DTYPES, torch.float16)):
        queries, documents = (
            torch.randint(-2, 3, shape, generator=generator, device=device).to(dtype) for shape in ((Q, H), (N, H))
        )
        some = torch.rand(N, generator=generator, device=device) < 0.1
        for allowed in (None, some):
            expected = topk_reference(queries, documents, k, allowed)
            for name, search in ours(device).items():
                if not all(map(torch.equal, search(queries, documents, k, allowed), expected)):
                    yield f"{name} differs from the definition at Q={Q} N={N} H={H} k={k} {dtype}"


def is_close(search: Search, queries: Tensor, documents: Tensor, k: int) -> bool:
    """Tell whether the scores of four queries are those of the definition, to rounding, at the size that is timed."""
    scores, rows = search(queries, documents, k)
    few = queries[:4]
    expected, _ = topk_blocked(few, documents, k)
    # Sums of H products in float32, added in another order.
    tolerance = 1e-5 * queries.shape[1] ** 0.5 * float(expected.abs().max())
    own = (few.double().unsqueeze(1) * documents[rows[:4]].double()).sum(-1)  # (4, k)
    return bool(((scores[:4] - expected).abs() <= tolerance).all() and ((scores[:4] - own).abs() <= tolerance).all())


def bandwidth(device: str, size: int, seconds: float) -> float:
    """Return bytes a second of a large copy, read and written."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / measure(lambda: target.copy_(source), device, seconds).median * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    parser.add_argument("--seconds", type=float, default=0.5, help="time for one measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run?")
    arguments = parser.parse_args()
    device = arguments.device
    if faults := list(disagreements(device)):
        print(*faults, sep="\n", file=sys.stderr)
        return 1
    sizes = SMOKE if arguments.smoke else FULL
    seconds = 0.01 if arguments.smoke else arguments.seconds
    searches: dict[str, Search] = {"torch": torch_topk, **ours(device)}
    with Table(arguments.output, device) as table, full_float32():
        ceiling = bandwidth(device, 1 << (20 if arguments.smoke else 32), seconds)
        for N, H, dtype in itertools.product(sizes["N"], sizes["H"], DTYPES):
            documents = random_vectors(N, H, dtype, device, seed=2)
            for Q, k in itertools.product(sizes["Q"], sizes["k"]):
                queries = random_vectors(Q, H, dtype, device, seed=3)
                picked = choose(queries, documents, k).__name__.removeprefix("topk_")
                for name, search in searches.items():
                    row = {"N": N, "H": H, "Q": Q, "k": k, "dtype": str(dtype)[6:], "implementation": name}
                    # torch's own scores in a half precision are rounded to it: only ours are held to float32.
                    found = time_one(
                        search, queries, documents, k, exact=name != "torch", seconds=seconds, ceiling=ceiling
                    )
                    table.add(**row, picked=name == picked, copy_gb_per_s=ceiling / 1e9, **found)
            del documents
    return 0


def time_one(
    search: Search, queries: Tensor, documents: Tensor, k: int, *, exact: bool, seconds: float, ceiling: float
) -> dict[str, object]:
    """Return the measured columns of a row; out of memory is a result too.

    Raises ArithmeticError when an implementation that should be exact is not.
    """
    device = documents.device.type
    held = torch.cuda.memory_allocated() if device == "cuda" else 0
    try:
        if exact and not is_close(search, queries, documents, k):
            raise ArithmeticError("wrong scores")
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        timing = measure(lambda: search(queries, documents, k), device, seconds)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return {name: "" for name in MEASURED} | {"repeats": 0, "note": "out of memory"}
    moved = (documents.numel() + queries.numel()) * documents.element_size() + 12 * len(queries) * k
    rate = moved / timing.median * 1e3
    return {
        "median_ms": timing.median,
        "p10_ms": timing.p10,
        "p90_ms": timing.p90,
        "repeats": timing.repeats,
        "gb_per_s": rate / 1e9,
        "bandwidth_share": rate / ceiling,
        "tflop_per_s": 2 * documents.numel() * len(queries) / timing.median / 1e9,
        "peak_gib": (torch.cuda.max_memory_allocated() - held) / 2**30 if device == "cuda" else "",
        "note": "",
    }


if __name__ == "__main__":
    sys.exit(main())
