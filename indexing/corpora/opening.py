"""From a name or path to a corpus."""

import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from indexing.corpora.beir import corpus_file, read_beir
from indexing.corpora.corpus import Corpus, Raw
from indexing.corpora.folder import files_of, read_folder
from indexing.corpora.irds import load_dataset, read_irds
from indexing.corpora.jsonl import read_jsonl
from indexing.corpora.pydocs import Entry, read_pydocs, roots_of
from indexing.corpora.table import count_parquet, read_csv, read_parquet, read_tsv
from retriever.errors import InvalidInput

FORMATS = ("beir", "jsonl", "csv", "tsv", "parquet", "folder", "irds", "pydocs")

SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
SUFFIXES |= {".parquet": "parquet", ".pq": "parquet"}

IRDS = ("irds", "ir_datasets")

HELP = (
    "a BEIR folder; a .jsonl, .csv, .tsv or .parquet file (.gz and .zst too, but for Parquet); a folder of text, "
    "Markdown or HTML files; irds:NAME; pydocs or pydocs:stdlib; - for standard input"
)


def open_corpus(source: str, *, format: str | None = None, header: bool | None = None, **options: Any) -> Corpus:
    """Return the corpus at a path or under a name; no document is read yet.

    source   a path, "irds:NAME" (or "ir_datasets:NAME"), "pydocs", "pydocs:stdlib", or "-" for JSONL on
             standard input; a path of such a name comes first
    format   one of FORMATS, instead of judging by the name
    header   CSV and TSV: whether the first line names the columns; None judges, see `read_tsv`
    options  those of `Corpus`: id_field, title_field, text_field, metadata_fields, max_bad_lines, duplicates

    Raises InvalidInput naming what is accepted.
    """
    if format is not None and format not in FORMATS:
        raise InvalidInput(f"unknown format {format!r}; use one of {', '.join(FORMATS)}.")
    if header is not None and format not in (None, "csv", "tsv"):
        raise InvalidInput(f"header={header} is for csv and tsv, not for {format}.")
    exists = source != "-" and _exists(source)
    scheme, _, rest = source.partition(":")
    if header is not None and not exists and (source == "-" or scheme in (*IRDS, "pydocs")):
        raise InvalidInput(f"header={header} is for csv and tsv files, {source} is none.")
    if source == "-":
        return _open_stdin(format, options)
    if format == "irds" or (scheme in IRDS and not exists):
        return _open_irds(rest if scheme in IRDS else source, options)
    if format == "pydocs" or (scheme == "pydocs" and not exists):
        return open_pydocs(source, **options)
    if not exists:
        raise InvalidInput(f"there is no corpus at {source!r}; give {HELP}.")
    return _open_path(Path(source), format, header, options)


def open_pydocs(source: str, note: Callable[[Entry], object] | None = None, **options: Any) -> Corpus:
    """Return *pydocs* as a corpus; `note` is told each pair when its document is read."""
    roots_of(source)
    # The same name stands for other documents under another version.
    description = {"format": "pydocs", "source": source, "python": platform.python_version()}
    return Corpus(source, description, lambda: read_pydocs(source, note), **options)


def _exists(source: str) -> bool:
    try:
        return bool(source) and Path(source).exists()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{source[:200]!r} is no path that can be read ({error}); give {HELP}.") from error


def _open_stdin(format: str | None, options: dict[str, Any]) -> Corpus:
    if format not in (None, "jsonl"):
        raise InvalidInput(f"standard input is read as jsonl, not as {format}; save it to a file first.")
    description = {"format": "jsonl", "source": "standard input"}
    return Corpus("stdin", description, lambda: read_jsonl(None), rereadable=False, **options)


def _open_irds(name: str, options: dict[str, Any]) -> Corpus:
    dataset = load_dataset(name)
    description = {"format": "irds", "source": name}
    return Corpus(name, description, lambda: read_irds(name), size_hint=lambda: _count(dataset), **options)


def _count(dataset: Any) -> int | None:
    try:
        count = dataset.metadata().get("docs", {}).get("count")
    except Exception:  # the hint is for a progress bar; whatever the library lacks is no reason to fail
        return None
    return count if isinstance(count, int) else None


def _open_path(path: Path, format: str | None, header: bool | None, options: dict[str, Any]) -> Corpus:
    format = format or _guess(path)
    if (format in ("beir", "folder")) != path.is_dir():
        raise InvalidInput(f"{path} is {'a folder' if path.is_dir() else 'a file'}, not a {format} corpus.")
    if format == "parquet" and path.suffix.lower() in (".gz", ".zst"):
        raise InvalidInput(f"{path}: a Parquet file is packed within; unpack it first.")
    if header is not None and format not in ("csv", "tsv"):
        raise InvalidInput(f"header={header} is for csv and tsv, {path} is {format}.")
    id_field, text_field = options.get("id_field"), options.get("text_field")
    readers: dict[str, Callable[[Path], Iterator[Raw]]] = {
        "beir": read_beir,
        "jsonl": read_jsonl,
        "csv": partial(read_csv, header=header, text_field=text_field),
        "tsv": partial(read_tsv, header=header, id_field=id_field, text_field=text_field),
        "parquet": read_parquet,
        "folder": read_folder,
    }
    read = readers[format]

    def size_hint() -> int | None:
        if format == "parquet":
            return count_parquet(path)
        return len(files_of(path)) if format == "folder" else None

    # The place is not part of it: the same files elsewhere are the same corpus.
    description: dict[str, Any] = {"format": format, "source": path.name or path.resolve().name}
    if header is not None:
        description["header"] = header
    # A named pipe gives what it holds once.
    rereadable = path.is_dir() or path.is_file()
    return Corpus(
        description["source"], description, lambda: read(path), size_hint=size_hint, rereadable=rereadable, **options
    )


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
