"""Sparse retrieval beside its peers: BM25 and learned impacts, every engine in a process of its own."""
