"""Reading lines of plain, gzip and zstd files in bounded memory."""

import gzip
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from retriever.errors import InvalidInput

MAX_LINE_BYTES = 64 << 20
# A file that grows by more than this when it is unpacked is not a corpus.
MAX_EXPANSION = 1000


class Line(NamedTuple):
    """A line without its end, or None and the reason why it cannot be read."""

    number: int
    text: str | None
    reason: str = ""


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked when its name ends in .gz or .zst."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        import zstandard

        # Large windows are common in published dumps; 2 GiB is the format's own limit.
        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        return cast(BinaryIO, unpacker.stream_reader(path.open("rb"), read_across_frames=True, closefd=True))
    return path.open("rb")


def read_lines(path: Path | None) -> Iterator[Line]:
    """Yield the lines of a file, or of standard input for None; a byte-order mark and CRLF are taken off.

    Raises InvalidInput for a damaged or absurdly compressed file, naming it.
    """
    name = "standard input" if path is None else str(path)
    file = sys.stdin.buffer if path is None else open_binary(path)
    size = path.stat().st_size if path is not None else 0
    packed = path is not None and path.suffix in (".gz", ".zst")
    total = 0
    try:
        for number, raw in enumerate(_split(file), 1):
            total += len(raw)
            if packed and total > 1 << 30 and total > MAX_EXPANSION * size:
                raise InvalidInput(f"{name} unpacks to more than {MAX_EXPANSION} times its size; not read.")
            yield _decode(number, raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"{name} is a damaged gzip file ({error}); fetch it again.") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise InvalidInput(f"{name} is a damaged zstd file ({error}); fetch it again.") from error
        raise
    finally:
        if path is not None:
            file.close()


def _split(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines with their ends; of one that is too long only the beginning, the rest is passed over."""
    buffer = b""
    skipping = False
    while block := file.read(1 << 20):
        buffer += block
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if not skipping:
                yield line + b"\n"
            skipping = False
        if len(buffer) > MAX_LINE_BYTES:
            if not skipping:
                yield buffer
            skipping, buffer = True, b""
    if buffer and not skipping:
        yield buffer


def _decode(number: int, raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        return Line(number, None, f"longer than {MAX_LINE_BYTES >> 20} MiB")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return Line(number, raw.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        return Line(number, None, f"not UTF-8 at byte {error.start + 1}; convert the file, from Latin-1 maybe")
