"""The resumable part of a build: the corpus in shards, each analysed, encoded and recorded, then sealed.

    building/plan.json
    building/shards/000000/   plain.* plain.fieldN.* plain-impacts.* dense.* local.* shard.json
    building/segments/...     segments being merged

shard.json is written last; a shard without it is done again. A shard is always processed whole, so a
resumed build gives the same bytes as one that ran through.
"""

import hashlib
import math
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from indexing.analysing import Analysing, texts_of
from indexing.chunking import chunk, owner_of
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput, ModelFault
from retriever.index.dense import ABSENT, VECTORS
from retriever.index.impacts import count_clipped
from retriever.index.local import LOCAL_ABSENT, LOCAL_VECTORS
from retriever.index.plain import PLAIN, PLAIN_IMPACTS, in_field, plain_weights
from retriever.index.records import RecordWriter
from retriever.protocols import Encoder, TermEncoder
from retriever.storage import disk_errors, sync, write_atomically
from retriever.types import Document

# A shard closes at this many characters too, so that long documents do not fill the memory.
SHARD_CHARACTERS = 32_000_000


class Shard(BaseModel):
    """A finished shard: how many source documents it took, their digest, and what came of them.

    `search_fields` says how many documents have text in each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_documents: int
    source_sha256: str
    segment: int
    first: int
    documents: int
    empty: int = 0
    search_fields: dict[str, int] = {}
    truncated: int = 0
    clipped: int = 0
    skipped: int = 0
    overwritten: int = 0
    bad_vectors: list[str] = []


def portions(corpus: Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Yield the source documents of one shard after another."""
    portion: list[Document] = []
    characters = 0
    for document in corpus:
        portion.append(document)
        characters += len(document.text)
        if len(portion) == size or characters >= SHARD_CHARACTERS:
            yield portion
            portion, characters = [], 0
    if portion:
        yield portion


def digest_of(documents: Iterable[Document]) -> str:
    """Return the sha256 of what a shard takes from the corpus."""
    digest = hashlib.sha256()
    for document in documents:
        metadata = repr(dict(document.metadata)) if document.metadata else ""
        sizes = f"{len(document.id)},{len(document.title)},{len(document.text)},{len(metadata)}"
        digest.update(f"{sizes};{document.id}{document.title}{document.text}{metadata}".encode())
    return digest.hexdigest()


class ShardWriter:
    """Turns portions of the corpus into shards; finished ones are kept and skipped after a restart."""

    def __init__(
        self,
        folder: Path,
        settings: BuildSettings,
        records: RecordWriter,
        first_segment: int,
        encoder: Encoder | None,
        sparse: TermEncoder | None,
        analysing: Analysing | None,
        local: Encoder | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.records = records
        self.first_segment = first_segment
        self.encoder = encoder
        self.sparse = sparse
        self.analysing = analysing
        self.local = local
        self.shards: list[Shard] = []
        # Shards whose postings another process writes, in order.
        self._pending: deque[tuple[int, Shard, Future[None] | None]] = deque()
        self.folder.mkdir(parents=True, exist_ok=True)

    def finished(self) -> list[Shard]:
        """Return the finished shards from the first on."""
        shards: list[Shard] = []
        while (path := self.path(len(shards)) / "shard.json").is_file():
            try:
                shards.append(Shard.model_validate_json(path.read_bytes()))
            except ValidationError as error:
                raise InvalidInput(f"{path} is damaged; add --restart to begin again.") from error
        return shards

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def clear_unfinished(self) -> None:
        """Remove files and rows of the shard that was under way when a build stopped."""
        finished = self.finished()
        for path in self.folder.iterdir():
            if path.name >= self.path(len(finished)).name:
                shutil.rmtree(path)
        segment, ordinal = self._next_place(finished)
        self.records.truncate(segment, ordinal)

    def _next_place(self, shards: list[Shard]) -> tuple[int, int]:
        if not shards:
            return self.first_segment, 0
        last = shards[-1]
        end = last.first + last.documents
        if end >= self.settings.segment_documents:
            return last.segment + 1, 0
        return last.segment, end

    def take(self, finished: list[Shard], portion: list[Document]) -> Shard:
        """Process one portion, or recognise it as done. Raises InvalidInput when the corpus has changed."""
        number = len(self.shards)
        if number < len(finished):
            shard = finished[number]
            if shard.source_documents != len(portion) or shard.source_sha256 != digest_of(portion):
                raise InvalidInput(
                    f"the corpus has changed since the unfinished build (shard {number}, near document "
                    f"{portion[0].id!r}); add --restart to begin again."
                )
        else:
            with disk_errors(self.folder):
                shard = self._process(number, portion)
        self.shards.append(shard)
        return shard

    def _process(self, number: int, portion: list[Document]) -> Shard:
        segment, first = self._next_place(self.shards)
        folder = self.path(number)
        folder.mkdir()
        documents, skipped, replaced = self.place(portion)
        empty = sum(not document.content.strip() for document in documents)
        filled: dict[str, int] = {}
        written = None
        if self.analysing:
            texts = texts_of(documents, self.settings.search_fields)
            for field, name in enumerate(self.settings.search_fields):
                filled[name] = sum(bool(text.strip()) for text in texts[in_field(PLAIN, field)])
            written = self.analysing.submit(texts, folder)
        cut = np.zeros(len(documents), np.bool_)
        bad: dict[str, None] = {}
        for encoder, names in ((self.encoder, (VECTORS, ABSENT)), (self.local, (LOCAL_VECTORS, LOCAL_ABSENT))):
            if encoder is not None:
                cut |= self._encode(folder, documents, encoder, names, bad)
        clipped = self._weigh(folder, documents, bad) if self.sparse else 0
        self.records.replace(segment, first, documents, self.settings.fields, replaced)
        shard = Shard(
            source_documents=len(portion),
            source_sha256=digest_of(portion),
            segment=segment,
            first=first,
            documents=len(documents),
            empty=empty,
            search_fields=filled,
            truncated=int(cut.sum()),
            clipped=clipped,
            skipped=skipped,
            overwritten=len(replaced),
            bad_vectors=list(bad),
        )
        self._pending.append((number, shard, written))
        self._settle(self.analysing.most_pending if self.analysing else 0)
        return shard

    def place(self, portion: list[Document]) -> tuple[list[Document], int, list[int]]:
        """Return the documents or chunks to add, how many documents are skipped, and the rows that are replaced."""
        documents, skipped, replaced = self._settle_duplicates(portion)
        return self._cut(documents, replaced), skipped, replaced

    def finish(self) -> None:
        """Wait until all shards are written."""
        with disk_errors(self.folder):
            self._settle(0)

    def _settle(self, most: int) -> None:
        """Declare shards finished in their order until at most so many are pending, and all that are ready."""
        while self._pending:
            number, shard, written = self._pending[0]
            if written is not None and not written.done() and len(self._pending) <= most:
                return
            if written is not None:
                written.result()
            write_atomically(self.path(number) / "shard.json", shard.model_dump_json().encode())
            self._pending.popleft()

    def _settle_duplicates(self, portion: list[Document]) -> tuple[list[Document], int, list[int]]:
        """Return the documents to add, how many are skipped, and the rows that they replace."""
        existing = self.records.existing([document.id for document in portion])
        if not existing:
            return portion, 0, []
        if self.settings.window is not None:
            self._require_no_chunk(existing)
        if self.settings.duplicates == "fail":
            raise InvalidInput(
                f"{len(existing)} document ids are in the index already, such as {next(iter(existing))!r}; "
                "use --duplicates overwrite or --duplicates skip."
            )
        if self.settings.duplicates == "skip":
            return [document for document in portion if document.id not in existing], len(existing), []
        # A row may be there twice: as a chunk of one document, under the id of another.
        return portion, 0, sorted({row for rows in existing.values() for row in rows})

    def _require_no_chunk(self, existing: dict[str, list[int]]) -> None:
        """Refuse a document with the id of a chunk in the index; overwriting or skipping it would be wrong."""
        for id_, rows in existing.items():
            owner = owner_of(id_)
            # The chunks that an overwritten document has had go; those it will have are compared when they are cut.
            if owner is None or (owner in existing and self.settings.duplicates == "overwrite"):
                continue
            if not set(rows).isdisjoint(self.records.existing([owner]).get(owner, [])):
                raise _ambiguous(id_, owner, new=id_)

    def _cut(self, documents: list[Document], replaced: Iterable[int]) -> list[Document]:
        """Return the chunks of documents, or the documents when the index has no chunks.

        Raises InvalidInput for a chunk with the id of a document: one id must not stand for two things.
        """
        if self.settings.window is None or self.encoder is None:
            return documents
        chunks: list[Document] = []
        for document in documents:
            chunks += chunk(
                document,
                count_tokens=self.encoder.count_tokens,
                window=self.settings.window,
                overlap=self.settings.overlap,
            )
        beside = {document.id for document in documents}
        gone = set(replaced)
        existing = self.records.existing([part.id for part in chunks])
        for part in chunks:
            assert part.parent is not None
            if part.id in beside:
                raise _ambiguous(part.id, part.parent, new=part.id)
            if not gone.issuperset(existing.get(part.id, [])):
                raise _ambiguous(part.id, part.parent, new=part.parent)
        return chunks

    def _tolerate(self, bad: dict[str, None], found: list[str], complaint: str, advice: str) -> None:
        """Add to a shard's `bad` ids those that one of the models could not encode.

        Raises ModelFault when there are too many documents by now, each counted once.
        """
        bad.update(dict.fromkeys(found))
        before = {id_ for shard in self.shards for id_ in shard.bad_vectors}
        if len(before | bad.keys()) > self.settings.max_bad_vectors:
            raise ModelFault(f"{complaint} for {len(found)} documents: {', '.join(found[:5])}. {advice}")

    def _weigh(self, folder: Path, documents: list[Document], bad: dict[str, None]) -> int:
        """Write the learned term weights; return how many are cut off. Unusable documents are added to `bad`."""
        assert self.sparse is not None
        filled = [i for i, document in enumerate(documents) if document.content.strip()]
        weights: list[dict[str, float]] = [{} for _ in documents]
        for i, terms in zip(filled, self.sparse.encode_documents([documents[i] for i in filled]), strict=True):
            weights[i] = terms
        self._tolerate(
            bad,
            [documents[i].id for i, terms in enumerate(weights) if not all(map(math.isfinite, terms.values()))],
            "the sparse encoder gave unusable weights",
            "Allow some with --max-bad-vectors; they stay findable by the other parts.",
        )
        for name in write_weights(folder, weights):
            sync(folder / name)
        return count_clipped(weights, self.settings.sparse_step)

    def _encode(
        self,
        folder: Path,
        documents: list[Document],
        encoder: Encoder,
        names: tuple[str, str],
        bad: dict[str, None],
    ) -> NDArray[np.bool_]:
        """Write the vectors; return which documents were cut. Those whose vector is not finite are added to `bad`."""
        filled = [i for i, document in enumerate(documents) if document.content.strip()]
        texts = [documents[i] for i in filled]
        counts = encoder.count_tokens([document.content for document in texts])
        vectors = np.zeros((len(documents), encoder.width), np.float32)
        if texts:
            vectors[filled] = encoder.encode_documents(texts)
        finite = np.isfinite(vectors).all(axis=1)
        self._tolerate(
            bad,
            [documents[i].id for i in np.flatnonzero(~finite)],
            "the encoder gave unusable vectors",
            "Use --precision float32, or allow some with --max-bad-vectors; they stay findable by BM25.",
        )
        present = np.zeros(len(documents), np.bool_)
        present[filled] = True
        write_vectors(folder, vectors, present, names)
        for name in names:
            sync(folder / name)
        cut = np.zeros(len(documents), np.bool_)
        cut[filled] = [count > encoder.max_tokens for count in counts]
        return cut


def write_vectors(
    folder: Path,
    vectors: NDArray[np.float32],
    present: NDArray[np.bool_],
    names: tuple[str, str] = (VECTORS, ABSENT),
) -> None:
    """Write (N, H) vectors; those that are not finite, or not `present`, count as absent.

    names  of the files of the vectors and of what is absent: those of the dense part, or of the local one
    """
    usable = present & np.isfinite(vectors).all(axis=1)
    np.save(folder / names[0], np.where(usable[:, None], vectors, np.float32(0)))
    np.save(folder / names[1], np.flatnonzero(~usable).astype(np.int32))


def write_weights(folder: Path, weights: Sequence[dict[str, float]]) -> list[str]:
    """Write the learned term weights of documents and return the files; those that are not all finite count as none."""
    usable = [terms if all(map(math.isfinite, terms.values())) else {} for terms in weights]
    return plain_weights(usable).write(folder, PLAIN_IMPACTS)


def _ambiguous(id_: str, owner: str, *, new: str) -> InvalidInput:
    return InvalidInput(
        f"two documents need the same id: document {id_!r} has the id of a chunk of document {owner!r}. "
        f"Give document {new!r} another id and run the same command again (finished shards are kept), "
        "or build without --chunk."
    )
