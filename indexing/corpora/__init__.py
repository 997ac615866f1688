"""Corpora: streams of documents from files of many formats, from ir_datasets, and from Python itself."""

from indexing.corpora.beir import write_beir
from indexing.corpora.corpus import BadLine, Corpus, Report
from indexing.corpora.opening import FORMATS, open_corpus

__all__ = ["FORMATS", "BadLine", "Corpus", "Report", "open_corpus", "write_beir"]
