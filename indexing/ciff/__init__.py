"""The Common Index File Format: BM25 postings exchanged with other engines. See docs/ciff.md."""

from indexing.ciff.exporting import export_ciff
from indexing.ciff.importing import import_ciff

__all__ = ["export_ciff", "import_ciff"]
