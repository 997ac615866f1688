"""Top k over an inverted index of 8-bit impacts: layout, candidates, look-ups."""

from kernels.impact.postings import ImpactPostings, lay_out, posting_counts, require_sound, unfold
from kernels.impact.scoring import impact_search
from kernels.impact.search import candidates, locate, posting_sizes
from kernels.impact.segments import Segments, whole_blocks

__all__ = [
    "ImpactPostings",
    "Segments",
    "candidates",
    "impact_search",
    "lay_out",
    "locate",
    "posting_counts",
    "posting_sizes",
    "require_sound",
    "unfold",
    "whole_blocks",
]
