"""Reading lines of plain, gzip and zstd files in bounded memory."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from retriever.errors import InvalidInput

MAX_LINE_BYTES = 64 << 20
# A file that grows by more than this when it is unpacked is not a corpus; gzip can reach 1,030, text about 10.
MAX_EXPANSION = 500
# Below this many bytes the growth is not looked at.
HARMLESS_BYTES = 1 << 30

BLOCK = 1 << 20
# Four bytes can stand for 128 KiB, so what is unpacked at once comes to 32 MiB at most.
PACKED_BLOCK = 1024


class Line(NamedTuple):
    """A line without its end, or None and the reason why it cannot be read."""

    number: int
    text: str | None
    reason: str = ""


def read_lines(path: Path | None) -> Iterator[Line]:
    """Yield the lines of a file, or of standard input for None; a byte-order mark and CRLF are taken off.

    Lines end at line feeds alone, since JSON may hold the other separators of Unicode.
    Raises InvalidInput for a damaged or absurdly compressed file, naming it.
    """
    for number, raw in enumerate(_split(_blocks(path)), 1):
        yield _decode(number, raw)


def _blocks(path: Path | None) -> Iterator[bytes]:
    if path is None:
        yield from iter(partial(sys.stdin.buffer.read, BLOCK), b"")
        return
    with path.open("rb") as file:
        suffix = path.suffix.lower()
        if suffix == ".gz":
            yield from _bounded(path, _gunzip(path, file))
        elif suffix == ".zst":
            yield from _bounded(path, _unzstd(path, file))
        else:
            yield from iter(partial(file.read, BLOCK), b"")


def _gunzip(path: Path, file: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield from iter(partial(unpacked.read, BLOCK), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{path} is a damaged gzip file ({error}); fetch it again.") from error


def _unzstd(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of all frames. The library's own reader takes a file that was cut off for a whole one."""
    import zstandard

    # Large windows are common in published dumps; 2 GiB is the format's own limit.
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = None
    try:
        while packed := file.read(PACKED_BLOCK):
            while packed:
                frame = frame or unpacker.decompressobj()
                yield frame.decompress(packed)
                packed = b""
                if frame.eof:
                    packed, frame = frame.unused_data, None
    except zstandard.ZstdError as error:
        raise InvalidInput(f"{path} is a damaged zstd file ({error}); fetch it again.") from error
    if frame is not None:
        raise InvalidInput(f"{path} is a damaged zstd file (it ends within a frame); fetch it again.")


def _bounded(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    allowed = max(HARMLESS_BYTES, MAX_EXPANSION * path.stat().st_size)
    total = 0
    for block in blocks:
        total += len(block)
        if total > allowed:
            raise InvalidInput(f"{path} unpacks to more than {MAX_EXPANSION} times its size; not read.")
        yield block


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines without their ends; of one that is too long only the beginning, too long as well."""
    pending: list[bytes] = []
    held = 0
    for block in blocks:
        *ended, rest = block.split(b"\n")
        for line in ended:
            yield b"".join([*pending, line]) if pending else line
            pending, held = [], 0
        if rest and held <= MAX_LINE_BYTES:
            pending.append(rest)
            held += len(rest)
    if pending:
        yield b"".join(pending)


def _decode(number: int, raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        return Line(number, None, f"longer than {MAX_LINE_BYTES >> 20} MiB")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return Line(number, raw.removesuffix(b"\r").decode("utf-8"))
    except UnicodeDecodeError as error:
        return Line(number, None, f"not UTF-8 at byte {error.start + 1}; convert the file, from Latin-1 maybe")
