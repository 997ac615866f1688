"""Write lucene_tokens.jsonl.gz: what Lucene makes of 18,000 distinct tokens, 300 passages and the hard texts.

    python -m tests.agreement.freeze FOLDER_OF_COLLECTIONS

Single words come from every collection at hand, in twelve languages and more. Passages are of WordNet, PostgreSQL's and
Python's documentation, whose licences let them be copied, and of words of all languages put together at random.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

from tests.agreement import texts
from tests.agreement.lucene import find

FILE = Path(__file__).with_name("lucene_tokens.jsonl.gz")
TOKENS = {True: 11_500, False: 6500}
SOURCES = {"dict-wn": 60, "postgresql-doc-15": 50, "python3.11-doc": 120}
MIXED = 70
LONGEST = 18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    lucene = find()
    if isinstance(lucene, str):
        raise SystemExit(lucene)
    generator = random.Random(12)
    pieces = {piece for text in texts.passages(data) for piece in text.split() if len(piece) <= LONGEST}
    given: list[str] = []
    for ascii_, count in TOKENS.items():
        given += sorted(generator.sample(sorted(piece for piece in pieces if piece.isascii() == ascii_), count))
    for source, count in SOURCES.items():
        found = [text for text in texts.passages_of(data, source) if len(text) < 300]
        # Those that are not ASCII first: they are the harder half.
        generator.shuffle(found)
        given += sorted(found, key=str.isascii)[: count // 2] + found[: count - count // 2]
    strange = given[TOKENS[True] : TOKENS[True] + TOKENS[False]]
    plain = given[: TOKENS[True]]
    for _ in range(MIXED):
        words = generator.sample(strange, 12) + generator.sample(plain, 6)
        generator.shuffle(words)
        given.append(
            "".join(word + generator.choice([" ", " ", " ", ", ", "-", "\u00a0", "\u2014", "/"]) for word in words)
        )
    # The hard texts stay: besides the edges, every character of the blocks of the basic plane in which our first
    # tokenizer differed from Lucene, and one of each other block.
    with gzip.open(FILE, "rt", encoding="utf-8") as file:
        frozen = [text for kind, text, _ in map(json.loads, file) if kind == "hard"]
    hard = list(dict.fromkeys([*frozen, *texts.EDGES]))
    given = [text for text in given if text not in hard]
    rows = [("real", given), ("hard", hard)]
    with gzip.GzipFile(FILE, "wb", mtime=0) as file:
        for kind, kept in rows:
            for text, terms in zip(kept, lucene.ask("analyse", texts=kept), strict=True):
                file.write(json.dumps([kind, text, terms], ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    print(f"{FILE.name}: {FILE.stat().st_size} bytes, {len(given)} real, {len(hard)} hard")


if __name__ == "__main__":
    main()
