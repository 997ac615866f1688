"""PISA on learned impacts: MaxScore over the weights as they are."""

import json
import time
from pathlib import Path

import numpy as np
import pyterrier_pisa
from pyterrier_pisa import _pisathon

from benchmarks.sparse import matrix
from benchmarks.sparse.pisa import ALGORITHM, META, Pisa, PisaRetrieval
from benchmarks.sparse.protocol import serve


def _name(term: int) -> str:
    # Of one length, so that the order of names is that of numbers.
    return f"t{term:06d}"


class PisaImpacts(Pisa):
    def build(self, corpus: Path, index: Path) -> float:
        documents, _ = matrix.read(corpus)
        index.mkdir(parents=True)
        start = time.perf_counter()
        postings = documents.transposed(matrix.width(documents))
        lengths = np.diff(postings.indptr)
        used = np.flatnonzero(lengths)
        # Each list is its length and then its numbers, all uint32.
        places = postings.indptr[:-1][used] + np.arange(len(used))
        for name, values in (("docs", postings.indices), ("freqs", postings.values)):
            flat = np.insert(values.astype(np.uint32), postings.indptr[:-1][used], lengths[used].astype(np.uint32))
            assert np.array_equal(flat[places], lengths[used])
            head = np.array([1, documents.count], np.uint32) if name == "docs" else np.zeros(0, np.uint32)
            np.concatenate([head, flat]).tofile(index / f"inv.{name}")
        sums = np.add.reduceat(np.append(documents.values, 0).astype(np.uint32), documents.indptr[:-1])
        sums[np.diff(documents.indptr) == 0] = 0
        np.concatenate([np.array([documents.count], np.uint32), sums.astype(np.uint32)]).tofile(index / "inv.sizes")
        (index / "fwd.terms").write_text("".join(f"{_name(term)}\n" for term in used.tolist()))
        (index / "fwd.documents").write_text("".join(f"{number}\n" for number in range(documents.count)))
        _pisathon.build_binlex(str(index / "fwd.terms"), str(index / "fwd.termlex"))
        _pisathon.build_binlex(str(index / "fwd.documents"), str(index / "fwd.doclex"))
        (index / "pt_meta.json").write_text(json.dumps({**META, "stemmer": "none"}))
        self._retrieval(index).run([(0, {_name(int(used[0])): 1.0})], 10, 1)
        return time.perf_counter() - start

    def open(self, index: Path, queries: Path) -> None:
        _, rows = matrix.read(queries)
        named = [{_name(t): float(v) for t, v in zip(*map(np.ndarray.tolist, row), strict=True)} for row in rows]
        self._queries = list(enumerate(named))
        self._pisa = self._retrieval(index)

    def _retrieval(self, index: Path) -> PisaRetrieval:
        pisa = pyterrier_pisa.PisaIndex(
            str(index), stemmer="none", stops="none", threads=1, index_encoding="block_simdbp"
        )
        self._holder = pisa.quantized(num_results=10, query_algorithm=ALGORITHM)
        return PisaRetrieval(self._holder._ctxt, ALGORITHM, weighted=1, pretokenised=True)


if __name__ == "__main__":
    serve(PisaImpacts())
