"""Indexes that are built once per corpus, and what building them took."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from benchmarks.sparse import peers
from benchmarks.sparse.engines import ENGINES, EngineFault, Process

ROOT = Path(__file__).resolve().parents[2]


def plain_corpus(path: Path, documents: int | None) -> Path:
    """Return the first documents of a corpus as plain JSONL, named by its fingerprint and their number."""
    fingerprint = _digest([path])
    found = peers.FOLDER / "corpora" / f"{fingerprint}-{documents or 'all'}.jsonl"
    if not found.is_file():
        found.parent.mkdir(parents=True, exist_ok=True)
        part = found.with_suffix(".part")
        with part.open("w", encoding="utf-8") as file:
            for number, line in enumerate(lines(path)):
                if number == documents:
                    break
                file.write(line)
        part.rename(found)
    return found


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a JSONL file, compressed by zstd or not."""
    with path.open("rb") as file:
        raw: BinaryIO = file
        if path.suffix == ".zst":
            raw = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
        yield from io.TextIOWrapper(raw, encoding="utf-8")


def build(name: str, corpus: Path, *, rebuild: bool = False) -> tuple[Path, dict[str, Any]]:
    """Return the index of an engine and the record of its building; builds unless that was done before."""
    index = peers.FOLDER / "indexes" / corpus.stem / _folder(name)
    record = index.with_name(index.name + ".json")
    if not rebuild and record.is_file():
        return index, json.loads(record.read_text())
    for old in index.parent.glob(f"{ENGINES[name].module}@*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    index.parent.mkdir(parents=True, exist_ok=True)
    with Process(name, log(name)) as process:
        answer = process.ask("build", corpus=corpus, index=index)
        answer["peak_mb"] = process.close()
    if not index.exists():
        raise EngineFault(f"{name}: no index at {index}; see {log(name)}")
    record.write_text(json.dumps(answer))
    return index, answer


def log(name: str) -> Path:
    folder = peers.FOLDER / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


def _folder(name: str) -> str:
    """Return a name that changes with the driver, and with all of the engine where that is ours.

    Engines that differ in options only share an index.
    """
    engine = ENGINES[name]
    sources = [Path(__file__).with_name(f"{engine.module}.py")]
    if engine.own:
        for package in ("kernels", "retriever", "indexing"):
            sources += sorted((ROOT / package).rglob("*.py"))
    return f"{engine.module}@{_digest(sources)}"


def _digest(paths: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()[:12]
