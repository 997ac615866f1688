"""Orders from comparisons of two: all pairs, heap sort, and bubbles that slide up from the bottom.

A comparison of the documents at two places gives 1 when the first is the better, 0 when the second is, 1/2 when it is
undecided, or the probability that the first is. Each function asks for as many comparisons at a time as do not depend
on each other, so that they can share a batch of the model. Places are those of the order before, which decides where
comparisons do not: arXiv:2306.17563.
"""

from collections.abc import Callable, Sequence

from retriever.llm.usage import OutOfTime

Pair = tuple[int, int]
Compare = Callable[[Sequence[Pair]], Sequence[float]]
"""Compares pairs of documents; may raise OutOfTime."""

Found = tuple[list[int], bool]
"""Places, best first, and whether there was time for every comparison."""


def all_pairs(count: int, compare: Compare) -> Found:
    """Order by wins over all others, an undecided comparison counting as half of one, a probability as that much.

    Asks for count (count - 1) / 2 comparisons. A stop on the way leaves the order as it was.
    """
    pairs = [(first, second) for first in range(count) for second in range(first + 1, count)]
    wins = [0.0] * count
    try:
        for (first, second), result in zip(pairs, compare(pairs), strict=True):
            wins[first] += result
            wins[second] += 1 - result
    except OutOfTime:
        return list(range(count)), False
    return sorted(range(count), key=lambda place: (-wins[place], place)), True


def sliding(count: int, compare: Compare, passes: int) -> Found:
    """Slide `passes` times from the bottom to the top and exchange neighbours where the lower one wins.

    Asks for passes (count - 1) comparisons; the first `passes` documents are then the best, if comparisons are
    consistent. A pass starts as soon as the one before it is two places ahead, which changes no result. A stop leaves
    what was exchanged until then.
    """
    order = list(range(count))
    steps = count - 1
    for moment in range(steps + 2 * (passes - 1) if steps > 0 else 0):
        # Where each pass that is under way looks: the place and the one below it.
        places = [steps - 1 - (moment - 2 * number) for number in range(passes) if 0 <= moment - 2 * number < steps]
        try:
            results = compare([(order[place], order[place + 1]) for place in places])
        except OutOfTime:
            return order, False
        for place, result in zip(places, results, strict=True):
            if result < 0.5:
                order[place], order[place + 1] = order[place + 1], order[place]
    return order, True


def heap(count: int, compare: Compare, best: int) -> Found:
    """Sort by a heap until the `best` first places are filled; the others follow as they were.

    Asks for about 2 count + 2 best log2(count) comparisons, one at a time. A stop leaves the places that are filled.
    """
    nodes = list(range(count))
    found: list[int] = []

    def better(first: int, second: int) -> bool:
        """Tell whether `second` beats `first`, or stood before it and is not beaten."""
        low, high = min(first, second), max(first, second)
        (result,) = compare([(low, high)])
        return (low if result >= 0.5 else high) == second

    def sink(node: int) -> None:
        while (child := 2 * node + 1) < len(nodes):
            if child + 1 < len(nodes) and better(nodes[child], nodes[child + 1]):
                child += 1
            if not better(nodes[node], nodes[child]):
                return
            nodes[node], nodes[child] = nodes[child], nodes[node]
            node = child

    complete = True
    try:
        for node in reversed(range(count // 2)):
            sink(node)
        while nodes and len(found) < best:
            found.append(nodes[0])
            last = nodes.pop()
            if nodes and len(found) < best:
                nodes[0] = last
                sink(0)
    except OutOfTime:
        complete = False
    taken = set(found)
    return [*found, *(place for place in range(count) if place not in taken)], complete
