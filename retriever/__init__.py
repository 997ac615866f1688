"""Dense and sparse retrieval over one sealed index."""
