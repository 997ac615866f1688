"""The manifest: what one generation of an index consists of, and the pointer to the one in force.

    CURRENT               "manifest-000007.json SHA256"
    manifest-000007.json  one `Manifest`

A generation is published by replacing CURRENT; until then its files are of no account.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from retriever.calibration import Calibration
from retriever.errors import IndexCorrupt, IndexMismatch, UnknownIndex
from retriever.index.form import Form, Stored, read_codebook
from retriever.pipeline import PipelineSpec
from retriever.storage import sha256_of, write_atomically

FORMAT = 4
"""Raised when a key is added or a file's meaning changes, so that older programs ask to be upgraded.

Format 3 has codes of our own, vectors of float16 and codebooks, and tells by its number of the keys that came
during 2: `search_fields`, `applied`, `unencoded`, `calibrations`. Format 4 has local vectors, pipelines with
them, and positions of terms.
"""
OLDEST = 2
"""The oldest format that is read; the next change of such an index raises it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Model):
    """One file of the index, by its path relative to the index folder."""

    sha256: str
    bytes: int


def _within_index(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    for name in files:
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            raise ValueError(f"the file name {name!r} leads out of the index")
    return files


Files = Annotated[dict[str, FileEntry], AfterValidator(_within_index)]


class Segment(_Model):
    """An immutable batch of documents, `documents` of them, of which `deleted` are tombstoned.

    `records_sha256` is the digest of its rows in documents.sqlite (see Records.digest).
    `unencoded` says that vectors and learned weights of its documents are still to be made; it has none until then.
    """

    name: str
    number: int
    documents: int
    deleted: int = 0
    tombstones: str | None = None
    records_sha256: str
    empty: int = 0
    unencoded: bool = False
    files: Files


class InvertedPart(_Model):
    """How the BM25 part was built; `search_fields` have inverted parts of their own, numbered in this order.

    `positions` says that terms are kept with their places in the documents, in every inverted part of every segment.
    """

    analyser: str
    analyser_fingerprint: str
    k1: float = 0.9
    b: float = 0.4
    search_fields: tuple[str, ...] = ()
    positions: bool = False


class DensePart(_Model):
    """How the vectors were made, how they are kept and how they are searched: see `retriever.index.form`.

    `codes` says, where there are codes, whether they are made from the encoder's vectors for this index, or are how the
    model itself represents documents, and lose nothing. `codebook` is the file of the centroids.
    """

    encoder: str
    fingerprint: dict[str, str]
    width: int
    precision: Literal["float32", "bfloat16"] = "float32"
    kind: str = "flat"
    stored: Stored = "float32"
    codes: Literal["index", "model"] = "index"
    codebook: str = ""
    oversample: int = 4
    canaries: str
    canary_texts: list[str] = Field(default_factory=list)


class LocalPart(_Model):
    """How the vectors were made that put candidates in order: see `retriever.index.local`."""

    encoder: str
    fingerprint: dict[str, str]
    width: int
    stored: Literal["float32", "float16"] = "float16"
    canaries: str
    canary_texts: list[str] = Field(default_factory=list)


class ImpactPart(_Model):
    """How the learned sparse part was built: `step` is what one level of an 8-bit impact stands for."""

    encoder: str
    fingerprint: dict[str, str]
    precision: Literal["uint8", "float32"] = "uint8"
    step: float


class Chunking(_Model):
    """Windows counted in the encoder's tokens."""

    window: int
    overlap: int


class Manifest(_Model):
    """All that a reader needs to know about one generation.

    `applied` is the number of the last operation of the journal (`indexing.journal`) that it holds.
    """

    format: int = FORMAT
    generation: int
    created: str
    version: str
    segments: list[Segment]
    inverted: InvertedPart | None = None
    sparse: ImpactPart | None = None
    dense: DensePart | None = None
    local: LocalPart | None = None
    fields: dict[str, Literal["keyword", "number"]] = Field(default_factory=dict)
    chunking: Chunking | None = None
    pipelines: dict[str, PipelineSpec]
    default_pipeline: str
    calibrations: list[Calibration] = Field(default_factory=list)
    files: Files = Field(default_factory=dict)
    corpus: dict[str, Any] = Field(default_factory=dict)
    report: dict[str, Any] = Field(default_factory=dict)
    applied: int = 0

    @property
    def live(self) -> int:
        return sum(segment.documents - segment.deleted for segment in self.segments)

    @property
    def unencoded(self) -> int:
        """How many live documents wait for their vectors or learned weights."""
        return sum(segment.documents - segment.deleted for segment in self.segments if segment.unencoded)

    def all_files(self) -> dict[str, FileEntry]:
        """Return every file of this generation but documents.sqlite."""
        return self.files | {name: entry for segment in self.segments for name, entry in segment.files.items()}


def manifest_name(generation: int) -> str:
    return f"manifest-{generation:06d}.json"


def describe_file(path: Path) -> FileEntry:
    """Return size and digest of a finished file."""
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def read_pointer(folder: Path) -> tuple[str, str]:
    """Return the name and sha256 of the manifest in force. Raises UnknownIndex or IndexCorrupt."""
    try:
        content = (folder / "CURRENT").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "building").is_dir():
            raise UnknownIndex(
                f"{folder} holds an unfinished build and no index yet; "
                "run the same `retriever index build` again to resume it."
            ) from None
        raise UnknownIndex(f"no index at {folder}; build one with `retriever index build CORPUS {folder}`.") from None
    except UnicodeDecodeError as error:
        raise IndexCorrupt(f"{folder}/CURRENT is not text; restore it or rebuild the index.") from error
    name, _, digest = content.strip().partition(" ")
    # The pointer must not lead out of the folder, whatever it says.
    if not (name.startswith("manifest-") and name.endswith(".json") and Path(name).name == name and digest):
        raise IndexCorrupt(f"{folder}/CURRENT does not name a manifest; restore it or rebuild the index.")
    return name, digest


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest in force and its sha256, the fingerprint of the index.

    Raises UnknownIndex, IndexCorrupt, or IndexMismatch when another version wrote it in another format.
    """
    name, digest = read_pointer(folder)
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        raise IndexCorrupt(f"{folder}/CURRENT names {name}, which is missing; restore it.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise IndexCorrupt(f"{folder / name} was altered: its sha256 is not the one in CURRENT; restore it.")
    written = _format_of(content)
    if written is not None and not OLDEST <= written <= FORMAT:
        advice = "upgrade to open it" if written > FORMAT else "build the index again"
        raise IndexMismatch(f"{folder} has index format {written}, this version reads {OLDEST} to {FORMAT}; {advice}.")
    try:
        return Manifest.model_validate_json(content), digest
    except ValidationError as error:
        unknown = [".".join(map(str, e["loc"])) for e in error.errors() if e["type"] == "extra_forbidden"]
        if len(unknown) == error.error_count():
            raise IndexMismatch(
                f"{folder} says {', '.join(unknown)}, which this version does not know; "
                "open it with the version that wrote it, or a later one."
            ) from error
        raise IndexCorrupt(f"{folder / name} is not a valid manifest: {error}") from error


def _format_of(content: bytes) -> int | None:
    class Header(BaseModel):
        format: int

    try:
        return Header.model_validate_json(content).format
    except ValidationError:
        return None


def publish(folder: Path, manifest: Manifest) -> str:
    """Write the manifest, in the newest format, and put it in force; return its sha256."""
    manifest = manifest.model_copy(update={"format": FORMAT})
    content = manifest.model_dump_json(indent=1, exclude_defaults=False).encode()
    digest = hashlib.sha256(content).hexdigest()
    name = manifest_name(manifest.generation)
    write_atomically(folder / name, content)
    write_atomically(folder / "CURRENT", f"{name} {digest}\n".encode())
    return digest


def form_of(folder: Path, part: DensePart) -> Form:
    """Return how the segments of an index keep their vectors. Raises IndexCorrupt or IndexMismatch for its codebook."""
    codebook = read_codebook(folder / part.codebook, part.fingerprint) if part.codebook else None
    return Form(part.width, part.kind, part.stored, codebook)
