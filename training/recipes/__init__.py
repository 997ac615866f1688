"""One file a published method; it reads like the paper's algorithm box."""
