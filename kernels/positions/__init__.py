"""Positions of terms in documents: compact bytes beside impact postings, and phrases answered from them."""

from kernels.positions.coding import encode_positions, term_starts
from kernels.positions.layout import (
    Positions,
    first_fault,
    lay_out_positions,
    list_order,
    require_sound_positions,
)
from kernels.positions.matching import exact_frequency, phrase_frequencies, sloppy_frequency
from kernels.positions.merging import copy_kept_bytes, count_kept_bytes

__all__ = [
    "Positions",
    "copy_kept_bytes",
    "count_kept_bytes",
    "encode_positions",
    "exact_frequency",
    "first_fault",
    "lay_out_positions",
    "list_order",
    "phrase_frequencies",
    "require_sound_positions",
    "sloppy_frequency",
    "term_starts",
]
