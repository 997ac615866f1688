"""Rotary positions: turning a state that stands at one position to another.

Dimension i of the first half of a head and dimension i of the second are a pair that position p turns by the angle
p * frequency[i]; arXiv:2104.09864. Turns add up, so a state that the model has turned already is turned on.
"""

import sys
from typing import Any

import torch
from torch import Tensor

from retriever.errors import InvalidInput


def turned(states: Tensor, angles: Tensor) -> Tensor:
    """Return (B, heads, T, d) states turned by angles (B, T, d / 2); an angle of 0 changes no bit."""
    # In float32 whatever the states are: at position 30,000 bfloat16 knows no angle.
    cosine, sine = angles.cos()[:, None], angles.sin()[:, None]
    first, second = states.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(states.dtype)


def frequencies(base: float, width: int) -> Tensor:
    """Return (width / 2,) float64."""
    return base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)


def check_rotary(model: Any, width: int) -> None:
    """Raise InvalidInput unless the model turns whole heads of this width as `turned` does, by plain frequencies."""
    name = type(model).__name__
    parameters = getattr(model.config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    rotary = model.rotary_emb
    if kind != "default" or "rope_theta" not in parameters or not hasattr(rotary, "inv_freq"):
        raise InvalidInput(f"{name} has rotary positions of the kind {kind!r} already; the method windows fits it.")
    apply = getattr(sys.modules[type(model).__module__], "apply_rotary_pos_emb", None)
    if apply is None or 2 * rotary.inv_freq.numel() != width:
        raise InvalidInput(f"{name} turns heads in a way of its own; the method windows fits it.")
    places = torch.arange(0, 4_000, 37)[None]
    states = torch.randn(1, 1, places.shape[1], width, generator=torch.Generator().manual_seed(1))
    expected, _ = apply(states, states, *rotary(states, places.to(rotary.inv_freq.device)))
    found = turned(states, places[..., None].float() * rotary.inv_freq.float().cpu())
    if not torch.allclose(found, expected.cpu(), atol=1e-4):
        raise InvalidInput(f"{name} turns heads in a way of its own; the method windows fits it.")
