"""Texts on which analysers are compared: real passages, and what Unicode has in store."""

import gzip
import io
import itertools
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import zstandard

LANGUAGES = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")

# fmt: off
EDGES = [
    # possessives and quotes
    "John's dog\u2019s cat\uff07s CAT'S boys' 's ''s o'clock 'tis rock'n'roll James's'", "x\u02bcs y\u2018s z\u201bs it`s",
    # numbers, mid-number and mid-letter signs
    "1,000.5 3.14.15 1:2 1;2 1'000 a:b a.b a..b .5 5. 10% $3.50 1e-5 0x1F 192.168.0.1 12:30 a1.b2 1a.2b v1.2.3-rc1",
    "a_b _a_ __init__ ___ _ a__b 1_000 \u203f a\u203fb \ufe33 \u2040x\u2054 can\u00b7not l\u00b7l a\u2027b a\u0387b",
    "a\u05f4b \u05e6\u05d4\"\u05dc \u05d2\u05f3 \u05d0' \u05d0'\u05d1 \u05d0\"\u05d1 a'\u05d0 \u05d0a \u05d01 \u05d0_\u05d1",
    # full-width and other digits
    "\uff11\uff12\uff13 \uff21\uff22\uff23 \uff41\uff42 \uff11.\uff12 \u0661\u0662\u0663 \u0967\u0968 \u09e7 \u2460\u2461 \u00b2\u00b3 \u2155 \u2167 \u3007",
    "\U0001d7d8\U0001d7d9 \U0001d400\U0001d401\U0001d41a \u212b \u2126 \u212a \ufb01 \ufb03ne \u01c5 \u01f2 \u1e9e STRA\u1e9eE stra\u00dfe",
    # case
    "\u0130stanbul I\u0307 \u0131 DI\u011eER \u03a3\u0391\u03a3 \u03a3 \u1f88 \u1fbc \u03aa\u0301 \u10a0 \u1c90 \u13a0 \uab70 \u1e9e \u0345",
    "\U00010400\U00010428 \U00010c80 \U00016e40 \U0001e900 \u2c00 \ua64a \u1c88",
    # marks, joiners, invisible signs
    "cafe\u0301 caf\u00e9 e\u0301\u0301 \u0301a a\u200db a\u200cb a\u200bb a\u00adb soft\u00adhyphen a\u2060b a\ufeffb \ufeffa a\u034fb",
    "\u0915\u094d\u0937 \u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u200d\u0937 \u0b95\u0bcd\u0bb7 \u0d15\u0d4d\u0d37 \u0e44\u0e17\u0e22 \u0e9e\u0eb2\u0eaa\u0eb2 \u1797\u17b6\u179f\u17b6 \u1019\u103c\u1014\u103a\u1019\u102c",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0643\u0640\u062a\u0627\u0628 \u0645\u064f\u062d\u064e\u0645\u064e\u0651\u062f \u0661\u066b\u0665 \u0661\u066c\u0660 \u060c \u06d4 a\u060cb",
    # Han, kana, Hangul, others
    "\u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8\u3072\u3089\u304c\u306a \uff76\uff9e\uff77\uff9e \u30a2_\u30a4 \u30a2\u30fc \u3042\u30fc \u30fb \u3005 \u3006 \u3031 \u30a2\u3099 a\u30a2 \u30a21",
    "\ud55c\uad6d\uc5b4 \u1112\u1161\u11ab \u3131\u314f \uac00\u0301 a\ud55c \ud55c1 \ua000\ua001 \u3105\u3106 \u31a0 \U00020000\U00020001 \uf900 \u2e80 \u2f00 \u3021 \U0001b000",
    "\u0e01\u0e02a \u0e01\u0e311 \u0e01_\u0e02 \u0e50\u0e51 \u17e0 \u1040 \u19de \u1980\u1981 \u1a20\u1a21 \uaa80 \ua9e0 \uaa60 \u0f40\u0f0b\u0f41 \u1200\u1361\u1201 \u0531\u058f \u055b\u0561",
    # emoji
    "\U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \u2764 \U0001f1e9\U0001f1ea \U0001f1e9 \U0001f1e9\U0001f1ea\U0001f1eb 1\ufe0f\u20e3 #\u20e3 *\ufe0f\u20e3 \u00a9 \u2122 \u203c \u231a \u2139\ufe0e",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f9d1\U0001f3fe\u200d\U0001f680 a\U0001f600b \U0001f600\U0001f601 \U0001f3fd \u3030 \u303d \u3297 \U0001fae8 \U0001fabf",
    # white space, controls, noncharacters, private use
    "a\u00a0b a\u2003b a\u3000b a\u0085b a\u2028b a\x1fb a\x7fb a\tb a\x0bb a\x0cb \ue000 a\ue000b \uffff a\ufffdb \U0010ffff \U000f0000a",
    # long ones
    "y" * 254, "y" * 255, "y" * 256, "y" * 700 + " z", "1" * 300, "a." * 200, "a'" * 300, "\u00e9" * 600, "\U00010400" * 300,
    "a" + "\u0301" * 300, "_" * 300 + "a", "\u30a2" * 400, "\u0e01" * 400, "y" * 254 + "\U00010400", "\U0001f600\u200d" * 200,
    # other spaces, signs and marks that join or not; pictographs that are letters; Hebrew quotes
    "a\u202fb 1\u202f000 \u202f \u0600 a\u0600b \u19da \u055f a\u055fb 1\ufe102 1\u20e32 1\u20e3 \U0001f3fd a\U0001f3fdb \u265e \u2c2f \u0870",
    "\u2139x \u2139\u200d\U0001f600x \u24c2\ufe0f\u200d\u24c2 \u200d\u2139a \u05d0.\u05d0\"\u05d0 \u05d0\"\u05d0\"\u05d0 \u05d0'1 a\u05d0'b.c",
    "\u05d0." * 127 + "\u05d0\u05d0\"\u05d0 a", "ab." * 100, "_" * 300, "_" * 300 + "\U0001f600a", "\U0001f600\ufe0f\u200d" * 100,
    "", " ", "the", "The of AND", "-", "'",
]
# fmt: on


def collection(folder: Path, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield ids and texts of a BEIR collection."""
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in itertools.islice(file, limit):
            record = json.loads(line)
            yield record["_id"], f"{record['title']} {record['text']}" if record.get("title") else record["text"]


def passages(data: Path, limit: int = 6000) -> Iterator[str]:
    """Yield real passages in English and in the other languages at hand."""
    # Every text that is not ASCII, and enough of the others.
    kept = itertools.islice(_documentation(data), 20 * limit)
    yield from (record["text"] for number, record in enumerate(kept) if number < limit or not record["text"].isascii())
    for name, count in (("scifact", limit), ("jaquad", 300), *((f"xquad/{language}", 240) for language in LANGUAGES)):
        if (data / name).is_dir():
            yield from (text for _, text in collection(data / name, count))


def passages_of(data: Path, source: str, limit: int = 100_000) -> list[str]:
    """Return the passages of one source of the documentation corpus."""
    return [record["text"] for record in itertools.islice(_documentation(data), limit) if record["src"] == source]


def _documentation(data: Path) -> Iterator[dict[str, str]]:
    """Yield the records of the large corpus of documentation that may lie beside the collections."""
    path = data.parent / "perf" / "text-800k.jsonl.zst"
    if path.is_file():
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
            yield from map(json.loads, io.TextIOWrapper(reader, encoding="utf-8"))


def assigned_characters(*, sparse: bool = False) -> Iterator[str]:
    """Yield a text for each block of 64 code points: each of them alone, between letters, between digits, after a letter.

    sparse  only the first assigned one of a block
    """
    for block in range(0, 0x110000, 64):
        points = (chr(point) for point in range(block, block + 64))
        found = [c for c in points if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
        if found:
            yield " ".join(f"{c} a{c}b 1{c}2 A{c}" for c in (found[:1] if sparse else found))
