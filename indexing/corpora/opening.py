"""From a name or path to a corpus."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from indexing.corpora.beir import corpus_file, read_beir
from indexing.corpora.corpus import Corpus, Raw
from indexing.corpora.folder import files_of, read_folder
from indexing.corpora.irds import load_dataset, read_irds
from indexing.corpora.jsonl import read_jsonl
from indexing.corpora.pydocs import read_pydocs
from indexing.corpora.table import read_csv, read_parquet, read_tsv
from retriever.errors import InvalidInput

FORMATS = ("beir", "jsonl", "csv", "tsv", "parquet", "folder", "irds", "pydocs")

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
SUFFIXES |= {".parquet": "parquet", ".pq": "parquet"}

HELP = (
    "a BEIR folder; a .jsonl, .csv, .tsv or .parquet file (.gz and .zst too); a folder of text, Markdown or "
    "HTML files; irds:NAME; pydocs or pydocs:stdlib; - for standard input"
)


def open_corpus(source: str, *, format: str | None = None, **options: Any) -> Corpus:
    """Return the corpus at a path or under a name; nothing is read yet.

    source   a path, "irds:NAME", "pydocs", "pydocs:stdlib", or "-" for JSONL on standard input
    format   one of FORMATS, instead of judging by the name
    options  those of `Corpus`: id_field, title_field, text_field, max_bad_lines, duplicates

    Raises InvalidInput naming what is accepted.
    """
    if format is not None and format not in FORMATS:
        raise InvalidInput(f"unknown format {format!r}; use one of {', '.join(FORMATS)}.")
    scheme, _, rest = source.partition(":")
    if source == "-":
        if format not in (None, "jsonl"):
            raise InvalidInput(f"standard input is read as jsonl, not as {format}.")
        description = {"format": "jsonl", "source": "standard input"}
        return Corpus("stdin", description, lambda: read_jsonl(None), rereadable=False, **options)
    if format == "irds" or scheme in ("irds", "ir_datasets"):
        name = rest if scheme in ("irds", "ir_datasets") else source
        dataset = load_dataset(name)
        description = {"format": "irds", "source": name}
        return Corpus(name, description, lambda: read_irds(name), size_hint=lambda: _count(dataset), **options)
    if scheme == "pydocs" and not Path(source).exists():
        return Corpus(source, {"format": "pydocs", "source": source}, lambda: read_pydocs(source), **options)
    return _open_path(Path(source), format, options)


def _count(dataset: Any) -> int | None:
    try:
        count = dataset.metadata().get("docs", {}).get("count")
    except Exception:  # the hint is for a progress bar; whatever the library lacks is no reason to fail
        return None
    return count if isinstance(count, int) else None


def _open_path(path: Path, format: str | None, options: dict[str, Any]) -> Corpus:
    if not path.exists():
        raise InvalidInput(f"there is no corpus at {path}; give {HELP}.")
    format = format or _guess(path)
    if (format in ("beir", "folder")) != path.is_dir():
        raise InvalidInput(f"{path} is {'a folder' if path.is_dir() else 'a file'}, not a {format} corpus.")
    readers: dict[str, Callable[[Path], Iterator[Raw]]] = {
        "beir": read_beir, "jsonl": read_jsonl, "csv": read_csv, "tsv": read_tsv, "parquet": read_parquet,
        "folder": read_folder,
    }  # fmt: skip
    read = readers[format]

    def size_hint() -> int | None:
        return len(files_of(path)) if format == "folder" else None

    # The place is not part of it: the same files elsewhere are the same corpus.
    description = {"format": format, "source": path.name or path.resolve().name}
    return Corpus(description["source"], description, lambda: read(path), size_hint=size_hint, **options)


def _guess(path: Path) -> str:
    if path.is_dir():
        return "beir" if corpus_file(path) else "folder"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    if suffixes and suffixes[-1] in SUFFIXES:
        return SUFFIXES[suffixes[-1]]
    raise InvalidInput(
        f"cannot tell the format of {path} from its name; say --format with one of {', '.join(FORMATS)}."
    )
