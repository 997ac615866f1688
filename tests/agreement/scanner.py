"""Lucene's word scanner as its jar has it: the class of every code point, and the automaton over these classes.

    python -m tests.agreement.scanner        writes retriever/analysis/word_breaks.py

Read from the constants of StandardTokenizerImpl.class, without Java.
"""

import importlib.util
import itertools
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.sparse import peers
from retriever.analysis import word_breaks

ROOT = Path(__file__).resolve().parents[2]
CLASS = "org/apache/lucene/analysis/standard/StandardTokenizerImpl.class"
LIMIT = 255
END, GO_ON = -1, 1
# A member of each class of the automaton, and the letter we give it. Those with a space are in no token, but for marks.
MEMBERS = {
    "\0": " ", '"': '"', "#": "#", "'": "'", ",": ",", ".": ".", "0": "N", ":": ":", "A": "L", "_": "_", "\u00a9": "E",
    "\u0300": "x", "\u05d0": "H", "\u0660": "N", "\u0e01": "T", "\u0e31": "t", "\uac00": "L", "\u200d": "z", "\u20e3": "k",
    "\u2139": "B", "\u4e00": "J", "\u30a2": "K", "\u3042": "J", "\ufe0e": "v", "\ufe0f": "V", "\U0001f1e6": "R",
    "\U0001f3fb": "m", "\U000e0020": "g", "\U000e007f": "G",
}  # fmt: skip
MODULE = '''"""Word break classes of code points, as Lucene 10's StandardTokenizer has them: Unicode 12.1.

Written by `python -m tests.agreement.scanner` from Anserini's jar; the letters are explained in `standard_tokenizer`.
"""

# fmt: off
RANGES = {
%s}
# fmt: on
'''


class Scanner:
    """The tables of the automaton, and the scanner that they drive."""

    def __init__(self, jar: Path) -> None:
        with zipfile.ZipFile(jar) as archive:
            strings = _constants(archive.read(CLASS))
        top, self._blocks, self._actions, self._attributes, moves = (
            _unpack(strings[f"ZZ_{name}_PACKED_0"])
            for name in ("CMAP_TOP", "CMAP_BLOCKS", "ACTION", "ATTRIBUTE", "TRANS")
        )
        self._top = top
        self._moves = [move - 1 for move in moves]
        halves = strings["ZZ_ROWMAP_PACKED_0"]
        self._rows = [high << 16 | low for high, low in zip(halves[::2], halves[1::2], strict=True)]

    def class_of(self, point: int) -> int:
        return self._blocks[self._top[point >> 8] | point & 0xFF]

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the character range of each token."""
        # Every rule has an action of its own; the one that skips a character is that of a space.
        skip = self._longest(" ", 0)[1]
        at = 0
        while at < len(text):
            end, action = self._longest(text, at)
            if action != skip:
                yield at, end
            at = end

    def _longest(self, text: str, at: int) -> tuple[int, int]:
        """Return where the longest match from here ends, within what the buffer holds, and its action."""
        state, used, best = 0, 0, (at + 1, 0)
        if self._attributes[state] & GO_ON:
            best = at, self._actions[state]
        for index in range(at, len(text)):
            used += 1 if text[index] < "\U00010000" else 2
            if used > LIMIT:
                break
            state = self._moves[self._rows[state] + self.class_of(ord(text[index]))]
            if state == END:
                break
            if self._attributes[state] & GO_ON:
                best = index + 1, self._actions[state]
        return best


def jar() -> Path | None:
    """Return Anserini's jar, of the peers' environment or of this one."""
    here = peers.FOLDER if peers.FOLDER.is_absolute() else ROOT / peers.FOLDER
    folders = [*here.glob("venv/lib/python3*/site-packages/pyserini")]
    if (module := importlib.util.find_spec("pyserini")) is not None:
        folders += map(Path, module.submodule_search_locations or [])
    return next((path for folder in folders for path in folder.glob("resources/jars/anserini-*-fatjar.jar")), None)


def ranges(scanner: Scanner) -> dict[str, str]:
    """Return the code points of each letter of `MEMBERS` as hexadecimal ranges."""
    letters = {scanner.class_of(ord(member)): letter for member, letter in MEMBERS.items()}
    assert len(letters) == len(MEMBERS)
    found: dict[str, list[str]] = {letter: [] for letter in MEMBERS.values() if letter != " "}
    for letter, group in itertools.groupby(range(0x110000), lambda point: letters[scanner.class_of(point)]):
        if letter != " ":
            first, *_, last = [*group] * 2
            found[letter].append(f"{first:X}" if first == last else f"{first:X}-{last:X}")
    return {letter: " ".join(points) for letter, points in found.items()}


def random_texts(generator: random.Random, count: int) -> Iterator[str]:
    """Yield texts that put characters of all classes beside each other, some longer than a token may be."""
    for _ in range(count):
        some = generator.sample(sorted(MEMBERS), generator.randint(1, 6))
        length = generator.choice([12, 12, 12, 12, 12, 40, 700])
        text = (
            generator.choices([*some, *some, *MEMBERS], k=length) if length < 99 else generator.choices(some, k=length)
        )
        yield "".join(text)


def _constants(data: bytes) -> dict[str, list[int]]:
    """Return the string constants of a class file by the names of their fields, as UTF-16 units."""
    sizes = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
    texts: dict[int, bytes] = {}
    strings: dict[int, int] = {}
    (count,) = struct.unpack_from(">H", data, 8)
    at, number = 10, 1
    while number < count:
        tag = data[at]
        (first,) = struct.unpack_from(">H", data, at + 1)
        if tag == 1:
            texts[number] = data[at + 3 : at + 3 + first]
        elif tag == 8:
            strings[number] = first
        at += 3 + first if tag == 1 else 1 + sizes[tag]
        number += 2 if tag in (5, 6) else 1
    (interfaces,) = struct.unpack_from(">H", data, at + 6)
    at += 8 + 2 * interfaces
    (fields,) = struct.unpack_from(">H", data, at)
    at += 2
    found = {}
    for _ in range(fields):
        _, name, _, attributes = struct.unpack_from(">4H", data, at)
        at += 8
        for _ in range(attributes):
            kind, length = struct.unpack_from(">HI", data, at)
            (value,) = struct.unpack_from(">H", data, at + 6) if length == 2 else (0,)
            if texts[kind] == b"ConstantValue" and value in strings:
                text = texts[strings[value]].replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
                found[texts[name].decode()] = [ord(unit) for unit in text]
            at += 6 + length
    return found


def _unpack(units: list[int]) -> list[int]:
    """Undo the run lengths."""
    return [value for count, value in zip(units[::2], units[1::2], strict=True) for _ in range(count)]


def main() -> None:
    found = jar()
    if found is None:
        raise SystemExit("there is no jar of Anserini; `python -m benchmarks.sparse` installs it")
    lines = []
    for letter, points in ranges(Scanner(found)).items():
        name = f"'{letter}'" if letter == '"' else f'"{letter}"'
        if len(points) < 90:
            lines.append(f'    {name}: "{points}",\n')
            continue
        lines.append(f"    {name}: (\n")
        line = ""
        for point in [*points.split(" "), ""]:
            if line and (not point or len(line) + len(point) > 102):
                lines.append(f'        "{line}"\n')
                line = ""
            line += f"{point} " if point else ""
        lines.append("    ),\n")
    path = Path(word_breaks.__file__)
    path.write_text(MODULE % "".join(lines), encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
