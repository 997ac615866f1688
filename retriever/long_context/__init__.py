"""Longer inputs for an encoder without training it: arXiv:2404.12096 (LongEmbed), arXiv:2401.01325 (SelfExtend)."""

from retriever.long_context.settings import METHODS, LongContext

__all__ = ["METHODS", "LongContext"]
