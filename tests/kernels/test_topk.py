"""Top-k of inner products: every implementation against the definition, on the GPU where there is one."""

import importlib.util
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from kernels.topk import topk, topk_reference
from kernels.topk.blocked import topk_blocked
from kernels.topk.selection import select

Search = Callable[..., tuple[Tensor, Tensor]]
INF = float("inf")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    # Triton reads this when it is imported, and then runs its kernels in numpy.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def _blocked_small(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None):
    # 13 documents at a time for one query, fewer for more: many merges and a ragged last block.
    return topk_blocked(queries, documents, k, allowed, block_bytes=13 * 4)


def _triton(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None = None):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    from kernels.topk.triton import topk_triton

    return topk_triton(queries, documents, k, allowed)


IMPLEMENTATIONS = [
    pytest.param(topk, id="picked"),
    pytest.param(_blocked_small, id="blocked"),
    pytest.param(_triton, id="triton"),
]


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty returns with NaN, so that a cell nobody writes shows."""
    empty = torch.empty

    def poisoned(*args, **kwargs) -> Tensor:
        made = empty(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(77)

    monkeypatch.setattr(torch, "empty", poisoned)


def inside_nan(values: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the values as a view into a larger tensor of NaN, so that a read beyond the edge shows."""
    rows, columns = values.shape
    buffer = torch.full((rows + 200, columns + 70), float("nan"), dtype=dtype)
    buffer[3 : 3 + rows, 5 : 5 + columns] = values.to(dtype)
    return buffer[3 : 3 + rows, 5 : 5 + columns]


def whole_numbers(shape: tuple[int, int], seed: int, largest: int = 3) -> Tensor:
    """Return small integers, whose inner products are exact in any order: ties are many and certain."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator, device="cpu").float().to(DEVICE)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_by_hand(search: Search) -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    documents = torch.tensor([[1.0, 1.0], [3.0, 0.0], [2.0, -1.0]])
    scores, rows = search(queries, documents, 2)
    assert scores.tolist() == [[3.0, 2.0], [1.0, 0.0]]
    assert rows.tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("Q", "D", "H", "k"),
    [(1, 1, 1, 1), (3, 7, 5, 2), (5, 257, 60, 10), (17, 129, 63, 33), (2, 1031, 96, 100), (130, 63, 17, 3)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_equals_reference_with_many_ties(search: Search, Q: int, D: int, H: int, k: int, dtype: torch.dtype) -> None:
    queries = inside_nan(whole_numbers((Q, H), seed=D), dtype)
    documents = inside_nan(whole_numbers((D, H), seed=Q), dtype)
    scores, rows = search(queries, documents, k)
    expected, expected_rows = topk_reference(queries, documents, k)
    assert torch.equal(scores, expected)
    assert torch.equal(rows, expected_rows)
    assert (scores.dtype, rows.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
@pytest.mark.parametrize("share", [0.5, 0.02, 0.0])
def test_only_allowed_documents(search: Search, share: float) -> None:
    queries, documents = whole_numbers((9, 31), seed=1), whole_numbers((403, 31), seed=2)
    generator = torch.Generator("cpu").manual_seed(3)
    allowed = (torch.rand(403, generator=generator, device="cpu") < share).to(DEVICE)
    scores, rows = search(queries, documents, 21, allowed)
    expected, expected_rows = topk_reference(queries, documents, 21, allowed)
    assert torch.equal(scores, expected)
    assert torch.equal(rows, expected_rows)
    usable = min(21, int(allowed.sum()))
    assert (rows >= 0).sum(dim=1).tolist() == [usable] * 9
    assert allowed[rows[rows >= 0]].all()
    assert (scores[:, usable:] == -INF).all()


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_random_floats(search: Search) -> None:
    generator = torch.Generator("cpu").manual_seed(4)
    queries, documents = (torch.randn(count, 77, generator=generator, device="cpu").to(DEVICE) for count in (6, 901))
    scores, rows = search(queries, documents, 15)
    expected, expected_rows = topk_reference(queries, documents, 15)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(rows, expected_rows)


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_all_tied_gives_the_first_rows(search: Search) -> None:
    scores, rows = search(torch.ones(2, 4), torch.ones(333, 4), 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert (scores == 4).all()


@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_more_asked_than_there_are(search: Search) -> None:
    scores, rows = search(torch.ones(2, 3), torch.tensor([[1.0, 1, 1], [2, 2, 2]]), 5)
    assert rows.tolist() == [[1, 0, -1, -1, -1]] * 2
    assert scores.tolist() == [[6.0, 3.0, -INF, -INF, -INF]] * 2


@pytest.mark.parametrize(("Q", "D", "k"), [(3, 0, 4), (0, 5, 4), (2, 5, 0)])
def test_nothing_to_find(Q: int, D: int, k: int) -> None:
    scores, rows = topk(torch.ones(Q, 6), torch.ones(D, 6), k)
    assert scores.shape == rows.shape == (Q, k)
    assert (rows == -1).all()
    assert (scores == -INF).all()


# The interpreted kernel computes in numpy, which warns where a GPU is silent.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("bad", [float("nan"), INF, -INF, 3e38])
@pytest.mark.parametrize("place", ["query", "document", "excluded document"])
@pytest.mark.parametrize("search", IMPLEMENTATIONS)
def test_scores_that_are_not_finite_are_refused(search: Search, place: str, bad: float) -> None:
    queries, documents = whole_numbers((3, 8), seed=5) + 4, whole_numbers((50, 8), seed=6) + 4
    allowed = torch.ones(50, dtype=torch.bool)
    if place == "query":
        queries[1, 3] = bad
    else:
        documents[29, 7] = bad
        allowed[29] = place == "document"
    with pytest.raises(ValueError, match="NaN or infinit"):
        search(queries, documents, 2, allowed)


def test_nan_in_a_query_is_refused_without_documents() -> None:
    with pytest.raises(ValueError, match="NaN"):
        topk(torch.full((1, 2), float("nan")), torch.ones(0, 2), 1)


@pytest.mark.parametrize(
    ("queries", "documents", "k", "allowed", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), 1, None, "must be"),
        (torch.ones(3), torch.ones(2, 3), 1, None, "must be"),
        (torch.ones(2, 3), torch.ones(2, 3).half(), 1, None, "must both be"),
        (torch.ones(2, 3).double(), torch.ones(2, 3).double(), 1, None, "must both be"),
        (torch.ones(2, 3), torch.ones(2, 3), -1, None, "k must be"),
        (torch.ones(2, 3), torch.ones(2, 3), True, None, "k must be"),
        (torch.ones(2, 3), torch.ones(2, 3), 1, torch.ones(3, dtype=torch.bool), "allowed must be"),
        (torch.ones(2, 3), torch.ones(2, 3), 1, torch.ones(2), "allowed must be"),
    ],
)
def test_misfits_are_refused(queries: Tensor, documents: Tensor, k: int, allowed: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        topk(queries, documents, k, allowed)


def test_more_queries_than_one_block_of_queries() -> None:
    queries, documents = whole_numbers((2050, 5), seed=7), whole_numbers((40, 5), seed=8)
    scores, rows = topk(queries, documents, 3)
    expected, expected_rows = topk_reference(queries, documents, 3)
    assert torch.equal(scores, expected)
    assert torch.equal(rows, expected_rows)


def test_select_takes_the_first_of_equal_values() -> None:
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [5.0, 1.0, 3.0, 4.0, 2.0]])
    best, columns = select(values, 2)
    assert best.tolist() == [[2.0, 2.0], [5.0, 4.0]]
    assert columns.tolist() == [[1, 2], [0, 3]]
