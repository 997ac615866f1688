"""Lines of plain and packed files: every byte accounted for, or an error that says which file."""

import gzip
import io
import sys
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from indexing.corpora import lines
from indexing.corpora.lines import Line, read_lines
from retriever.errors import InvalidInput

PACKERS = {
    ".jsonl": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def texts(path):
    return [line.text for line in read_lines(path)]


@pytest.mark.parametrize("suffix", PACKERS)
def test_line_ends_marks_and_a_last_line_without_an_end(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACKERS[suffix](b"\xef\xbb\xbfone\r\ntwo\n\n\xe2\x80\xa8four\r\r\nlast"))
    assert texts(path) == ["one", "two", "", "\u2028four\r", "last"]
    assert [line.number for line in read_lines(path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_of_nothing_has_no_lines(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACKERS[suffix](b""))
    assert texts(path) == []


@given(st.binary(max_size=200), st.integers(1, 20))
def test_blocks_of_any_size_give_the_same_lines(content, size):
    blocks = (content[i : i + size] for i in range(0, len(content), size))
    expected = content.split(b"\n")
    assert list(lines._split(blocks)) == (expected if expected[-1] else expected[:-1])


def test_bytes_that_are_not_utf8_spoil_their_own_line_only(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\ncaf\xe9\nalso good\n")
    good, bad, after = read_lines(path)
    assert (good.text, after.text) == ("good", "also good")
    assert bad == Line(2, None, "not UTF-8 at byte 4; convert the file, from Latin-1 maybe")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("missing", [1, 4, 1000])
def test_a_packed_file_that_was_cut_off_is_an_error_and_not_a_shorter_file(tmp_path, suffix, missing):
    path = tmp_path / f"file.jsonl{suffix}"
    content = "".join(f"line {i} {hash(i * 7919) % 100003}\n" for i in range(20_000)).encode()
    path.write_bytes(PACKERS[suffix](content)[:-missing])
    with pytest.raises(InvalidInput, match=rf"file\.jsonl{suffix} is a damaged"):
        texts(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_with_altered_bytes(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    packed = bytearray(PACKERS[suffix](b"some text\n" * 1000))
    packed[: len(packed) // 2] = b"\x55" * (len(packed) // 2)
    path.write_bytes(packed)
    with pytest.raises(InvalidInput, match="is a damaged"):
        texts(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_files_that_were_joined(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(PACKERS[suffix](b"one\ntw") + PACKERS[suffix](b"o\nthree\n"))
    assert texts(path) == ["one", "two", "three"]


@pytest.mark.parametrize("suffix", [".GZ", ".Gz", ".ZST"])
def test_a_packed_file_with_a_suffix_in_capitals(tmp_path, suffix):
    path = tmp_path / f"FILE.JSONL{suffix}"
    path.write_bytes(PACKERS[suffix.lower()](b"one\ntwo\n"))
    assert texts(path) == ["one", "two"]


def test_frames_that_zstd_passes_over(tmp_path):
    path = tmp_path / "file.zst"
    skippable = bytes.fromhex("502a4d18") + (5000).to_bytes(4, "little") + b"x" * 5000
    path.write_bytes(skippable + PACKERS[".zst"](b"one\n") + skippable + PACKERS[".zst"](b"two\n"))
    assert texts(path) == ["one", "two"]


def test_a_line_that_is_too_long_is_passed_over_in_bounded_memory(tmp_path):
    path = tmp_path / "file.jsonl.zst"
    packer = zstandard.ZstdCompressor().compressobj()
    with path.open("wb") as file:
        file.write(packer.compress(b"first\n"))
        for _ in range(300):
            file.write(packer.compress(b"x" * (1 << 20)))
        file.write(packer.compress(b"\nlast\n") + packer.flush())
    tracemalloc.start()
    first, long, last = read_lines(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (first.text, last) == ("first", Line(3, "last"))
    assert long == Line(2, None, "longer than 64 MiB")
    # The line's beginning, once in parts and once joined, beside the largest block: not its 300 MiB.
    assert peak < 250 << 20


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("content", [b"\0" * (8 << 20), b"a\n" * (4 << 20)])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, suffix, content):
    monkeypatch.setattr(lines, "HARMLESS_BYTES", 1 << 20)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(PACKERS[suffix](content))
    assert len(content) > lines.MAX_EXPANSION * path.stat().st_size
    with pytest.raises(InvalidInput, match="unpacks to more than 500 times its size"):
        texts(path)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("eins\nzwölf".encode())))
    assert [line.text for line in read_lines(None)] == ["eins", "zwölf"]
