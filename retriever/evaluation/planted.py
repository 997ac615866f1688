"""Test collections of long documents that differ by one planted statement: LongEmbed's passkey and needle tasks.

arXiv:2404.12096, section 3. A query asks for the statement of one document. All documents of a collection have the same
length in the encoder's own tokens, so accuracy by length shows up to where it reads. Everything follows from the seed.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection
from retriever.evaluation.records import EvaluationSettings, Record, evaluate_run
from retriever.protocols import Encoder
from retriever.types import Document, Run

Task = Literal["passkey", "needle"]
TASKS: tuple[str, ...] = get_args(Task)
LENGTHS = tuple(256 << i for i in range(8))
QUERIES = 50
DOCUMENTS = 100
SHORTEST, LONGEST = 64, 1 << 20
MEASURES = ("Success@1", "RR@10")

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# fmt: off
FIRST_NAMES = (
    "Ada", "Amir", "Anouk", "Bela", "Carmen", "Chidi", "Dagmar", "Diego", "Elif", "Emeka", "Esther", "Farid", "Fiona",
    "Greta", "Hana", "Hugo", "Ines", "Ivan", "Jasmin", "Jonas", "Kemal", "Kirsten", "Lars", "Leila", "Luis", "Mala",
    "Marek", "Mina", "Nadia", "Noah", "Olga", "Oscar", "Paula", "Pedro", "Rania", "Rosa", "Samir", "Sofia", "Tomas",
    "Yuki",
)
LAST_NAMES = (
    "Abebe", "Becker", "Carvalho", "Dubois", "Eriksen", "Ferrari", "Garcia", "Haddad", "Ibrahim", "Jansen", "Kowalski",
    "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov", "Quinn", "Rossi", "Schneider", "Tanaka", "Ueda", "Vargas",
    "Weber", "Xu", "Yilmaz", "Zhang",
)
OBJECTS = (
    "accordion", "anchor", "bicycle", "birdcage", "chessboard", "compass", "drum", "easel", "globe", "harp", "kettle",
    "ladder", "lantern", "mirror", "sewing machine", "sled", "telescope", "typewriter", "umbrella", "violin",
)
COLOURS = ("black", "blue", "brown", "green", "orange", "purple", "red", "silver", "white", "yellow")
PLACES = (
    "attic", "bakery", "barn", "boathouse", "cellar", "chapel", "garage", "greenhouse", "lighthouse", "mill", "museum",
    "observatory", "pantry", "stable", "tower", "workshop",
)
# fmt: on


class Tokens(Protocol):
    """What is asked of a tokenizer; `retriever.encoder.TokenCounter` fits."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included."""
        ...

    def cut(self, text: str, tokens: int) -> str:
        """Return the beginning of a text that has at most so many tokens, special tokens not counted."""
        ...


@dataclass(frozen=True)
class PlantedCollection:
    """Documents, and the queries that ask for some of them; each is answered by one document alone.

    A document's metadata hold `depth`, the share of its text before the planted statement.
    """

    documents: list[Document]
    collection: Collection


def plant(
    task: Task,
    length: int,
    tokens: Tokens,
    *,
    texts: Sequence[str] = (),
    seed: int = 42,
    queries: int = QUERIES,
    documents: int = DOCUMENTS,
) -> PlantedCollection:
    """Make a collection whose documents have at most `length` tokens, special ones included, and few less.

    task   passkey: a person's key, stated twice, between sentences that say nothing;
           needle: where a person keeps a thing, in texts about anything else
    texts  what stands around the statement; needle needs them, passkey has sentences of its own
    Raises InvalidInput for numbers beyond their bounds and for texts that are shorter than a document.
    """
    most = len(FIRST_NAMES) * len(LAST_NAMES)
    if task not in TASKS:
        raise InvalidInput(f"task is {task!r}; it is one of: {', '.join(TASKS)}.")
    if not SHORTEST <= length <= LONGEST:
        raise InvalidInput(f"a document of {length:,} tokens cannot be made; give from {SHORTEST} to {LONGEST:,}.")
    if not 1 <= queries <= documents <= most:
        raise InvalidInput(
            f"{queries} queries and {documents} documents do not go together; 1 to {most:,} documents, and no more "
            "queries than documents."
        )
    if task == "needle" and not any(texts):
        raise InvalidInput("the task needle plants statements in texts; give some (--texts).")
    # A string seeds by its content, the same in every process.
    generator = random.Random(f"{task} {length} {seed}")  # noqa: S311 (not a secret)
    state = _passkeys if task == "passkey" else _needles
    statements = state(generator, documents)
    around = _around(list(texts) or [FILLER], length, tokens, generator)
    made = []
    for number, (statement, _) in enumerate(statements):
        text, depth = _planted(statement, next(around), length, tokens, generator.random())
        made.append(Document(f"d{number:03}", text, metadata={"depth": round(depth, 4)}))
    # The documents that are asked for are not the first ones: ties stand in order of id.
    asked = sorted(generator.sample(range(documents), queries))
    texts_of = {f"q{number:03}": statements[number][1] for number in asked}
    qrels = {f"q{number:03}": {f"d{number:03}": 1} for number in asked}
    content = json.dumps([[document.text for document in made], texts_of, qrels], ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return PlantedCollection(made, Collection(f"{task}-{length}", f"seed{seed}", texts_of, qrels, {"planted": digest}))


def _names(generator: random.Random, count: int) -> list[str]:
    return generator.sample([f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES], count)


def _passkeys(generator: random.Random, count: int) -> list[tuple[str, str]]:
    """Return (statement, query) pairs, in LongEmbed's words."""
    keys = generator.sample(range(10_000, 100_000), count)
    return [
        (
            f"{name}'s pass key is {key}. Remember it. {key} is the pass key for {name}.",
            f"what is the pass key for {name}?",
        )
        for name, key in zip(_names(generator, count), keys, strict=True)
    ]


def _needles(generator: random.Random, count: int) -> list[tuple[str, str]]:
    """Return (statement, query) pairs: no two of the same thing of the same person."""
    pairs = []
    for name in _names(generator, count):
        thing = f"{generator.choice(COLOURS)} {generator.choice(OBJECTS)}"
        place = f"{generator.choice(PLACES)} behind the house of {generator.choice(FIRST_NAMES)}"
        pairs.append((f"{name} keeps the {thing} in the {place}.", f"where does {name} keep the {thing}?"))
    return pairs


def _around(texts: list[str], length: int, tokens: Tokens, generator: random.Random) -> Iterator[str]:
    """Yield text of at least `length` tokens again and again: texts joined from a random one on, in a fixed order."""
    if len(texts) == 1 and texts[0] == FILLER:
        repeats = -(-length // max(1, tokens.count([FILLER])[0] - 2)) + 1
        while True:
            yield " ".join([FILLER] * repeats)
    cleaned = [" ".join(text.split()) for text in texts]
    counts = tokens.count(cleaned)
    if sum(counts) < length:
        raise InvalidInput(f"the texts have {sum(counts):,} tokens together, a document has {length:,}; give more.")
    while True:
        place = generator.randrange(len(cleaned))
        parts, have = [], 0
        # Twice as many: special tokens were counted with every text.
        while have < 2 * length:
            parts.append(cleaned[place % len(cleaned)])
            have += counts[place % len(cleaned)]
            place += 1
        yield " ".join(parts)


def _planted(statement: str, around: str, length: int, tokens: Tokens, share: float) -> tuple[str, float]:
    """Return a text of at most `length` tokens with the statement in it, and the share that stands before it."""
    room = length - tokens.count([statement])[0]
    if room < 0:
        raise InvalidInput(f"a statement alone has {length - room} of this tokenizer's tokens; give a larger length.")
    while room > 0:
        kept = tokens.cut(around, room)
        place = _boundary(kept, round(share * len(kept)))
        text = " ".join(part for part in (kept[:place].strip(), statement, kept[place:].strip()) if part)
        over = tokens.count([text])[0] - length
        if over <= 0:
            return text, text.index(statement) / len(text)
        room -= over
    return statement, 0.0


def _boundary(text: str, place: int) -> int:
    """Return the end of the sentence around a place, or of the word where no sentence ends behind it."""
    ends = [found + 1 for mark in ".!?" if (found := text.find(f"{mark} ", place)) >= 0]
    if ends:
        return min(ends)
    space = text.find(" ", place)
    return space if space >= 0 else len(text)


def evaluate_planted(encoder: Encoder, planted: PlantedCollection, system: str) -> Record:
    """Measure an encoder by exact search: accuracy of the first document (Success@1), and RR@10.

    The record names how many documents the encoder cut (`answers`). Compare it with `retriever eval compare`.
    """
    asked = planted.collection.judged
    vectors = encoder.encode_documents(planted.documents)
    scores = encoder.encode_queries(list(asked.values())) @ vectors.T  # (Q, D)
    ids = [document.id for document in planted.documents]
    run: Run = {}
    for query, row in zip(asked, scores.tolist(), strict=True):
        run[query] = sorted(zip(ids, row, strict=True), key=lambda pair: (-pair[1], pair[0]))
    record = evaluate_run(run, planted.collection, system, EvaluationSettings(k=len(ids), measures=MEASURES))
    counts = encoder.count_tokens([document.content for document in planted.documents])
    record.answers = {"documents_cut": sum(count > encoder.max_tokens for count in counts)}
    return record
