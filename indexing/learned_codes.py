"""Codes that a model learned to make for an index which another encoder built."""

import shutil
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexing.codebooks import own_form
from indexing.shards import portions
from retriever.encoder import DenseEncoder, Precision, load_encoder
from retriever.index.codes import write_rows
from retriever.index.dense import ABSENT
from retriever.index.form import Form, Stored
from retriever.index.manifest import Segment
from retriever.index.records import Records
from retriever.pipeline import Local

# Documents that are encoded together; only their codes stay in memory.
PORTION = 4_096


@dataclass(frozen=True)
class Rescoring:
    """The vectors that an index stores, which put in order what learned codes find.

    They become the local vectors of the new index (`retriever.index.local`), by the encoder that they are of.
    """

    stored: Stored
    stage: Local


@dataclass(frozen=True)
class Learned:
    """A model that compresses documents itself, as a form of an index to try.

    name       such as bpr or jpq48
    model      its folder
    codes      a folder for its codes of each segment, and of nothing else
    precision  documents are encoded in; that of the index, which later ones are encoded in too. Queries take float32,
               as in service
    """

    name: str
    model: Path
    codes: Path
    device: str | None = None
    offline: bool = False
    precision: Precision = "float32"
    _loaded: dict[Precision, DenseEncoder] = field(default_factory=dict, repr=False, compare=False)

    @property
    def encoder(self) -> DenseEncoder:
        """The model as queries are encoded by it."""
        return self._in("float32")

    def _in(self, precision: Precision) -> DenseEncoder:
        """Return the model in a precision, loaded once."""
        if precision not in self._loaded:
            loaded = load_encoder(self.model, device=self.device, precision=precision, offline=self.offline)
            self._loaded[precision] = loaded
        return self._loaded[precision]

    @property
    def form(self) -> Form:
        """How an index keeps its codes. Raises InvalidInput for a model that makes none."""
        return own_form(self.encoder)

    def forget(self) -> None:
        """Remove all codes; the model may not be the one that made them."""
        shutil.rmtree(self.codes, ignore_errors=True)

    def codes_of(self, index: Path, generation: int, segment: Segment) -> Path:
        """Return the folder of the codes of all documents of a segment, which are made unless they are there.

        Documents without a usable vector are noted as absent. Of an index that has changed since, only what is new is
        encoded: segments are known by their content, for another one may get the number of one that went.
        """
        folder = self.codes / segment.records_sha256
        if not folder.is_dir():
            working = folder.with_suffix(".part")
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir(parents=True)
            self._encode(index, generation, segment, working)
            working.rename(folder)
        return folder

    def _encode(self, index: Path, generation: int, segment: Segment, folder: Path) -> None:
        form, encoder = self.form, self._in(self.precision)
        rows: list[NDArray[Any]] = []
        usable: list[NDArray[np.bool_]] = []
        with closing(Records(index, generation)) as records:
            texts = (document for _, document in records.segment_documents(segment.number))
            for portion in portions(texts, PORTION):
                filled = [place for place, document in enumerate(portion) if document.content.strip()]
                vectors = np.full((len(portion), form.width), np.nan, np.float32)
                if filled:
                    vectors[filled] = encoder.encode_documents([portion[place] for place in filled])
                finite: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
                usable.append(finite)
                rows.append(form.encode(np.where(finite[:, None], vectors, np.float32(0))))
        write_rows(folder, np.concatenate(rows))
        np.save(folder / ABSENT, np.flatnonzero(~np.concatenate(usable)).astype(np.int32))
