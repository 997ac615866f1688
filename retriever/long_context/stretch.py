"""What attention does otherwise for a batch with texts beyond the window; made once a batch, used by every layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from retriever.long_context.rotary import frequencies
from retriever.long_context.settings import LongContext


@dataclass(frozen=True)
class Merge:
    """SelfExtend: exact distances between neighbours, grouped ones beyond them; arXiv:2401.01325, equation 4.

    A query at p and a key at k are ⌊p / group⌋ + w - ⌊w / group⌋ - ⌊k / group⌋ apart if they are w or more tokens
    apart, so that distances go on where those of the neighbours end. For a key behind its query the same with the
    parts exchanged.

    places   (B, T)
    grouped  (B, T, d / 2) turns a state from its place to that of its group
    shifted  the same, w - ⌊w / group⌋ farther
    """

    neighbours: int
    places: Tensor
    grouped: Tensor
    shifted: Tensor


@dataclass(frozen=True)
class Stretch:
    """scale  (B,) factor of queries, 1 for texts within the window; None for none
    angles  (B, T, d / 2) by which queries and keys are turned on; None for none
    merge   None but for SelfExtend
    """

    scale: Tensor | None = None
    angles: Tensor | None = None
    merge: Merge | None = None


def temperature(lengths: Tensor, window: int) -> Tensor:
    """Return (B,) max(1, log_window(length)): more tokens make attention flatter, which this takes back."""
    return (lengths.float().log() / torch.tensor(float(window)).log()).clamp(min=1)


def turn_angles(settings: LongContext, places: Tensor, long: Tensor, model_frequencies: Tensor, base: float) -> Tensor:
    """Return (B, T, d / 2): from each place to where the method puts it, 0 in texts within the window.

    places, long       see `retriever.long_context.positions`
    model_frequencies  (d / 2,) by which the model has turned states already
    """
    # On the CPU: not every device has float64, which angles of distant places need.
    own = model_frequencies.cpu().double()
    exact = places[..., None].cpu().double()
    if settings.method == "ntk":
        assert settings.base_factor is not None
        target = exact * frequencies(base * settings.base_factor, 2 * own.numel())
    elif settings.method == "grouped":
        target = (exact // settings.factor) * own
    else:
        target = (exact / settings.factor) * own
    return torch.where(long[:, None, None].cpu(), target - exact * own, 0).float().to(places.device)


def merge_of(settings: LongContext, places: Tensor, long: Tensor, model_frequencies: Tensor) -> Merge:
    """Return SelfExtend's two turns; within the window groups hold one token, and all distances are exact."""
    assert settings.group is not None
    assert settings.neighbours is not None
    device, own, places, long = places.device, model_frequencies.cpu().double(), places.cpu(), long.cpu()
    group = torch.where(long, settings.group, 1)[:, None]
    shift = settings.neighbours - settings.neighbours // group
    by = (places // group - places)[..., None] * own
    farther = (places // group + shift - places)[..., None] * own
    return Merge(settings.neighbours, places.to(device), by.float().to(device), farther.float().to(device))
