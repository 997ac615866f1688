"""Turning text into terms."""

from retriever.analysis.analyser import ANALYSERS, Analyser, Token, analyser

__all__ = ["ANALYSERS", "Analyser", "Token", "analyser"]
