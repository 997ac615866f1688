"""Values that change during training, as pure functions of step, epoch or progress."""

from collections.abc import Sequence

from retriever.errors import InvalidInput

NGAME_DOUBLINGS = (10, 20, 25, 50, 75, 100, 125, 150, 200)


def quadratic_ramp(step: int, steps: int, final: float) -> float:
    """Return final * ((step + 1) / steps)^2 until step steps - 1, then `final`: SPLADE's weight of the regulariser."""
    if steps <= 0:
        raise InvalidInput(f"steps of a ramp must be 1 or more, got {steps}.")
    return final * (min(step + 1, steps) / steps) ** 2


def root_growth(step: int, gamma: float = 0.1) -> float:
    """Return sqrt(1 + gamma * step), by which BPR sharpens tanh towards a sign (studio-ousia/bpr)."""
    return float((1 + gamma * step) ** 0.5)


def annealed(start: float, end: float, progress: float) -> float:
    """Return the value between `start` and `end` on a straight line; `progress` from 0 to 1, clipped outside.

    CoRNStack lowers the temperature of its negatives during training (arXiv:2412.01007).
    """
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def cluster_size(epoch: int, doublings: Sequence[int] = NGAME_DOUBLINGS) -> int:
    """Return 1, doubled once for each of `doublings` that `epoch` has reached; the default is NGAME's."""
    return int(2 ** sum(epoch >= doubling for doubling in doublings))
