"""The offline job: corpora, chunking, and building, changing and checking indexes."""
