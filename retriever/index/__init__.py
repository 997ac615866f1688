"""Index formats (the writer and the reader of each in one file) and the sealed index made of them."""
