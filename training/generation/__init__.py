"""Queries that a language model makes up for documents, to train on where nobody has judged any.

Sources: doc2query (arXiv:1904.08375), GPL (arXiv:2112.07577), InPars (arXiv:2202.05144), SPTAR (arXiv:2307.08303).
"""

from training.generation.job import GenerationSettings, generate_queries
from training.generation.pairs import Consistency, write_collection

__all__ = ["Consistency", "GenerationSettings", "generate_queries", "write_collection"]
