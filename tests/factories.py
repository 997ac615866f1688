"""Small deterministic inputs for tests of mechanisms; quality is tested with real models elsewhere."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retriever.types import Document


class HashingEncoder:
    """A bag of hashed words on the unit sphere: fast, the same everywhere, and similar for similar texts.

    broken   words whose presence makes a vector NaN
    """

    def __init__(self, width: int = 32, *, seed: str = "", broken: Sequence[str] = ()) -> None:
        self.width = width
        self.max_tokens = 64
        self.seed = seed
        self.broken = set(broken)
        self.encoded = 0

    def fingerprint(self) -> dict[str, str]:
        return {"weights": hashlib.sha256(f"{self.seed} {self.width}".encode()).hexdigest()}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(queries), self.width), np.float32)
        for row, query in enumerate(queries):
            for word in query.lower().split()[: self.max_tokens]:
                digest = hashlib.blake2b(f"{self.seed}{word}".encode(), digest_size=8).digest()
                generator = np.random.default_rng(int.from_bytes(digest))
                vectors[row] += generator.standard_normal(self.width, np.float32)
                if word in self.broken:
                    vectors[row] = np.nan
            norm = np.linalg.norm(vectors[row])
            if norm > 0:
                vectors[row] /= norm
        self.encoded += len(queries)
        return vectors

    def encode_documents(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        return self.encode_queries([document.content for document in documents])


class ListCorpus:
    """Documents in memory as a corpus."""

    def __init__(self, documents: Iterable[Document], name: str = "list") -> None:
        self.documents = list(documents)
        self.name = name

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def size_hint(self) -> int:
        return len(self.documents)


# fmt: off
WORDS = [
    "wing", "flow", "heat", "boundary", "layer", "speed", "aircraft", "model", "theory", "pressure", "shock",
    "wave", "plate", "cone", "laminar", "turbulent", "jet", "nozzle", "panel", "flutter", "buckling", "shell",
    "creep", "supersonic", "hypersonic", "blunt", "body", "nose", "drag", "lift",
]
# fmt: on


def random_documents(count: int, seed: int, prefix: str = "d") -> list[Document]:
    """Return documents of random words, some empty, with metadata `year`, `kind` and `tags`."""
    generator = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        words = generator.choice(WORDS, size=int(generator.integers(0, 30)))
        metadata = {
            "year": int(generator.integers(1990, 2026)),
            "kind": str(generator.choice(["report", "paper"])),
            "tags": [str(tag) for tag in generator.choice(WORDS[:5], size=2)],
        }
        documents.append(Document(f"{prefix}{number}", " ".join(words), str(generator.choice(WORDS)), metadata))
    return documents


class HashingTermEncoder:
    """Each word and its first three letters, weighed by hash: a learned sparse encoder without learning."""

    max_tokens = 64

    def __init__(self, *, seed: str = "", broken: Sequence[str] = ()) -> None:
        self.seed = seed
        self.broken = set(broken)

    def fingerprint(self) -> dict[str, str]:
        return {"weights": hashlib.sha256(f"terms {self.seed}".encode()).hexdigest()}

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    def encode_queries(self, queries: Sequence[str]) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        for query in queries:
            weights: dict[str, float] = {}
            for word in query.lower().split()[: self.max_tokens]:
                for term in (word, word[:3]):
                    digest = hashlib.blake2b(f"{self.seed}{term}".encode(), digest_size=2).digest()
                    weights[term] = weights.get(term, 0.0) + 0.1 + int.from_bytes(digest) / 65536
                if word in self.broken:
                    weights[word] = float("nan")
            found.append(weights)
        return found

    def encode_documents(self, documents: Sequence[Document]) -> list[dict[str, float]]:
        return self.encode_queries([document.content for document in documents])
