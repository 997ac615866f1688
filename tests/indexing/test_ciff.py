"""Common Index File Format: the bytes of the schema, the same scores after a round trip, hostile files."""

import gzip
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.sparse import peers
from indexing.build import add_documents, build_index
from indexing.change import delete_documents
from indexing.ciff import export_ciff, import_ciff, wire
from indexing.commands import app
from indexing.corpora import open_corpus
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import IndexMismatch, InvalidInput, UnknownIndex
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import WORDS, ListCorpus, random_documents

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = BuildSettings(parts=("bm25",), analyser="whitespace", shard_documents=16)


def build(path, documents, **changes):
    build_index(ListCorpus(documents), path, SETTINGS.model_copy(update=changes))
    return path


def rankings(path, queries, k=1000):
    with open_index(path) as index:
        return [[(hit.id, hit.score) for hit in answer.hits] for answer in index.batch_search(queries, k)]


# ---------------------------------------------------------------- the schema, by hand


def hexed(text):
    return bytes.fromhex(text)


# Each field's tag is its number << 3 | its wire type, as the published .proto numbers them.
HEADER = hexed("08 01  10 02  18 03  20 02  28 03  30 0b  39") + struct.pack("<d", 11 / 3) + hexed("42 02 6869")
LISTS = [
    # "jet": df 2, cf 3, postings (docid 0, tf 1) and (gap 2, tf 2); a docid of 0 is not written.
    hexed("0a 03 6a6574  10 02  18 03  22 02 10 01  22 04 08 02 10 02"),
    # "é", docid 1 with tf 300, which takes two bytes.
    hexed("0a 02 c3a9  10 01  18 ac02  22 05 08 01 10 ac02"),
]
DOCUMENTS = [
    hexed("12 01 61  18 01"),
    hexed("08 01  12 01 62  18 ac02"),
    hexed("08 02  12 01 63  18 02"),
]


def delimited(messages):
    """Return messages as writeDelimitedTo does; lengths up to 16,383."""
    out = b""
    for content in messages:
        size = len(content)
        out += (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + content
    return out


def test_the_bytes_are_those_of_the_schema():
    assert wire.message(1, 2, 3, 2, 3, 11, 11 / 3, "hi") == HEADER
    jet = wire.postings_list(b"jet", np.array([0, 2], np.int32), np.array([1, 2], np.uint32))
    accent = wire.postings_list("é".encode(), np.array([1], np.int32), np.array([300], np.uint32))
    assert [jet, accent] == [delimited([content]) for content in LISTS]
    assert [wire.message(n, id_, length) for n, id_, length in [(0, "a", 1), (1, "b", 300), (2, "c", 2)]] == DOCUMENTS
    assert [wire.varint(n) for n in (0, 127, 128, 2**31 - 1)] == [b"\0", b"\x7f", b"\x80\1", b"\xff\xff\xff\xff\7"]


def write(path, *, header=HEADER, lists=LISTS, documents=DOCUMENTS, end=b""):
    path.write_bytes(delimited([header, *lists, *documents]) + end)
    return path


def test_messages_written_by_hand_are_read(tmp_path):
    file = write(tmp_path / "x.ciff")
    reader = wire.Reader(file)
    assert reader.header() == (1, 2, 3, 2, 3, 11, 11 / 3, "hi")
    found = [[tuple(map(np.ndarray.tolist, part)) for part in parts[:-1]] + parts[-1:] for parts in
             (list(reader.postings(3)) for _ in LISTS)]  # fmt: skip
    assert found == [[([0, 2], [1, 2]), (b"jet", 2, 3)], [([1], [300]), ("é".encode(), 1, 300)]]
    assert [reader.document() for _ in DOCUMENTS] == [(0, "a", 1), (1, "b", 300), (2, "c", 2)]
    reader.finish()
    report = import_ciff(file, tmp_path / "index", analyser_name="whitespace")
    assert {name: report[name] for name in ("documents", "terms", "postings", "without_text")} == {
        "documents": 3, "terms": 2, "postings": 3, "without_text": 3,
    }  # fmt: skip
    # The lengths come to 303, the header says 11.
    assert any("the lengths come to 303 terms, the header says 11" in remark for remark in report["remarks"])
    assert [[id_ for id_, _ in ranking] for ranking in rankings(tmp_path / "index", ["jet", "é"])] == [
        ["c", "a"],
        ["b"],
    ]


def test_what_other_writers_may_do_is_read_too(tmp_path):
    header = hexed("08 01 10 02 18 03 4a 01 00")  # an unknown field
    lists = [
        # Another order of fields, a docid of 0 that is written, a length with a needless byte, unknown fields.
        hexed("22 84 00 08 00 10 01  18 03  7d 01020304  22 04 10 02 08 02  10 02  0a 03 6a6574"),
        # Terms need not be in order; of a field that is given twice the last one counts.
        hexed("0a 01 7a  0a 02 6161  10 07  10 01  18 ac02  22 05 08 01 10 ac02"),
    ]  # fmt: skip
    records = [DOCUMENTS[2], DOCUMENTS[0], DOCUMENTS[1]]
    file = write(tmp_path / "x.ciff", header=header, lists=lists, documents=records)
    import_ciff(file, tmp_path / "index", analyser_name="whitespace")
    assert verify_index(tmp_path / "index").sound
    with open_index(tmp_path / "index") as index:
        assert list(index.segments[0].ids) == ["a", "b", "c"]
        assert list(index.segments[0].inverted.terms) == ["aa", "jet"]
        plain = index.segments[0].inverted.plain()
    assert [array.tolist() for array in plain[1:5]] == [[0, 1, 3], [1, 0, 2], [300, 1, 2], [1, 300, 2]]


# ---------------------------------------------------------------- round trips


def histories():
    words = st.lists(st.sampled_from([*WORDS[:8], "é", "漢字", "🚀", "a" * 40]), max_size=60)
    texts = st.lists(words.map(" ".join), min_size=1, max_size=25)
    return st.tuples(
        texts,
        texts,
        st.sets(st.integers(0, 24), max_size=12),
        st.sampled_from([3, 7, 1000]),
        st.sampled_from(["", ".gz", ".zst"]),
    )


@given(histories())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_random_indexes_with_deletions_and_segments(tmp_path_factory, history):
    first, second, gone, segment, suffix = history
    folder = tmp_path_factory.mktemp("ciff")
    documents = {f"one{n}": text for n, text in enumerate(first)} | {f"two{n}": text for n, text in enumerate(second)}
    build(folder / "index", [Document(id_, text) for id_, text in documents.items() if id_ < "two"],
          segment_documents=segment, shard_documents=3, k1=1.3, b=0.7)  # fmt: skip
    add_documents(ListCorpus(Document(i, t) for i, t in documents.items() if i >= "two"), folder / "index")
    deleted = [id_ for n in gone for id_ in (f"one{n}", f"two{24 - n}") if id_ in documents][: len(documents) - 1]
    if deleted:
        delete_documents(folder / "index", deleted)
    live = {id_: text for id_, text in documents.items() if id_ not in deleted}
    file = folder / f"index.ciff{suffix}"
    report = export_ciff(folder / "index", file)
    assert report["documents"] == len(live)
    assert report["terms"] == len({word for text in live.values() for word in text.split()})
    assert report["postings"] == sum(len(set(text.split())) for text in live.values())
    texts = ListCorpus(Document(id_, text) for id_, text in reversed(documents.items()))
    imported = import_ciff(file, folder / "copy", corpus=texts)
    assert imported["not_in_file"] == len(deleted)
    assert imported["missing"] == imported["remarks"] == []
    verdict = verify_index(folder / "copy")
    assert verdict.sound, verdict.problems
    assert not verdict.warnings
    with open_index(folder / "copy") as copy:
        assert (copy.manifest.inverted.k1, copy.manifest.inverted.b) == (1.3, 0.7)
        assert len(copy.segments) == 1
        assert {id_: copy.get(id_).text for id_ in live} == live
    queries = [*WORDS[:8], "é 漢字", "🚀 wing wing flow", "a" * 40, "never"]
    assert rankings(folder / "index", queries) == rankings(folder / "copy", queries)
    # The same documents in one segment give the same bytes again.
    again = folder / f"again.ciff{suffix}"
    export_ciff(folder / "copy", again)
    assert again.read_bytes() == file.read_bytes()
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", [pytest.param("scifact", marks=pytest.mark.slow), "cranfield"])
def test_a_real_collection(tmp_path, shared_data, name):
    source = shared_data / name
    if not source.is_dir():
        pytest.skip(f"{name} is not there")
    chosen = BuildSettings(parts=("bm25",), segment_documents=1000, shard_documents=500)
    build_index(open_corpus(str(source)), tmp_path / "index", chosen)
    opener = gzip.open if (source / "queries.jsonl.gz").exists() else open
    with opener(next(source.glob("queries.jsonl*")), "rt") as lines:
        queries = [json.loads(line)["text"] for line in lines][:300]
    with open_index(tmp_path / "index") as index:
        ids = list(index.segments[0].ids)
    delete_documents(tmp_path / "index", ids[::7])
    exported = export_ciff(tmp_path / "index", tmp_path / "x.ciff.zst")
    report = import_ciff(tmp_path / "x.ciff.zst", tmp_path / "copy")
    assert report["documents"] == exported["documents"] == report["without_text"]
    assert "no text" in report["remarks"][0]
    before, after = rankings(tmp_path / "index", queries), rankings(tmp_path / "copy", queries)
    assert before == after
    assert sum(map(len, before)) > 1000
    assert verify_index(tmp_path / "copy").sound
    with open_index(tmp_path / "copy") as copy:
        hit = copy.search(queries[0], 1, highlight=True).hits[0]
        assert (hit.document.text, hit.highlights) == ("", [])


def test_an_imported_index_can_be_changed(tmp_path):
    documents = random_documents(40, seed=1)
    build(tmp_path / "index", documents)
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    import_ciff(tmp_path / "x.ciff", tmp_path / "copy")
    for path in (tmp_path / "index", tmp_path / "copy"):
        add_documents(ListCorpus(random_documents(10, seed=2, prefix="n")), path)
        delete_documents(path, ["d1", "n2"])
    assert rankings(tmp_path / "index", WORDS) == rankings(tmp_path / "copy", WORDS)
    assert verify_index(tmp_path / "copy").sound


def test_a_corpus_that_lacks_documents(tmp_path):
    build(tmp_path / "index", [Document("a", "wing"), Document("b", "flow"), Document("c", "")])
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    texts = ListCorpus([Document("b", "flow", "title", {"year": 1}), Document("z", "other")])
    report = import_ciff(tmp_path / "x.ciff", tmp_path / "copy", corpus=texts)
    assert (report["missing"], report["without_text"], report["not_in_file"]) == (["a", "c"], 2, 1)
    assert report["remarks"] == [
        "2 documents have no text: highlights, rerankers, feedback and phrases find nothing there"
    ]
    with open_index(tmp_path / "copy") as copy:
        assert copy.get("b") == Document("b", "flow", "title", {"year": 1})
        assert copy.get("a").text == ""
    with pytest.raises(InvalidInput, match="no document of the corpus is in the CIFF file: its ids are like 'a'"):
        import_ciff(tmp_path / "x.ciff", tmp_path / "other", corpus=ListCorpus([Document("z", "wing")]))
    assert not (tmp_path / "other").exists()


def test_the_analyser(tmp_path):
    build(tmp_path / "index", [Document("a", "Wing")])
    report = export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    said = json.loads(report["description"])
    assert (said["analyser"], said["k1"], said["b"]) == ("whitespace", 0.9, 0.4)
    file = write(tmp_path / "foreign.ciff")
    with pytest.raises(InvalidInput, match="does not say how its terms were made; name the analyser"):
        import_ciff(file, tmp_path / "copy")
    for changes, error, reason in [
        ({"analyser_fingerprint": "whitespace 0"}, IndexMismatch, "was analysed by whitespace 0, this version"),
        ({"analyser": "/etc/x.yaml"}, InvalidInput, "names the file '/etc/x.yaml'"),
        ({"analyser": "nothing"}, InvalidInput, "unknown analyser"),
        ({"k1": -1}, InvalidInput, "does not say how"),
    ]:
        header = wire.message(1, 2, 3, 2, 3, 303, 101.0, json.dumps(said | changes))
        file = write(tmp_path / "x.ciff", header=header)
        with pytest.raises(error, match=reason):
            import_ciff(file, tmp_path / "copy")
        import_ciff(file, tmp_path / "named", analyser_name="code", k1=2, b=1)
        with open_index(tmp_path / "named") as index:
            assert index.manifest.inverted.model_dump(include={"analyser", "k1", "b"}) == {
                "analyser": "code", "k1": 2, "b": 1,
            }  # fmt: skip
        shutil.rmtree(tmp_path / "named")
    with pytest.raises(InvalidInput, match="b between 0 and 1"):
        import_ciff(file, tmp_path / "copy", analyser_name="code", b=1.5)
    assert not list(tmp_path.glob("*copy*"))


BMP = """
import json, sys
import bmp
bmp.ciff2bmp(ciff_file=sys.argv[1], output=sys.argv[2], bsize=8, compress_range=False)
searcher = bmp.Searcher(sys.argv[2])
for word in sys.argv[3:]:
    print(json.dumps(searcher.search({word: 1.0}, k=1000, alpha=1.0, beta=1.0)))
"""


@pytest.mark.agreement
def test_another_reader_finds_the_same_postings(tmp_path):
    """BMP reads CIFF with code generated from the schema; its scores are the frequencies times a constant."""
    python = peers.interpreter(ROOT / peers.FOLDER)
    if not python.is_file():
        pytest.skip("the peers are not installed; `python -m benchmarks.sparse` does it")
    documents = random_documents(500, seed=4)
    build(tmp_path / "index", documents, segment_documents=150, shard_documents=50)
    delete_documents(tmp_path / "index", ["d3", "d200"])
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    command = [str(python), "-c", BMP, str(tmp_path / "x.ciff"), str(tmp_path / "x.bmp"), *WORDS]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[[")]
    assert len(lines) == len(WORDS)
    ratios = set()
    for word, (ids, scores) in zip(WORDS, lines, strict=True):
        counts = {d.id: d.content.split().count(word) for d in documents if d.id not in ("d3", "d200")}
        wanted = {id_ for id_, count in counts.items() if count}
        # When it may give all documents BMP leaves out one of its blocks, of eight here.
        assert set(ids) <= wanted
        assert len(wanted) - 8 <= len(ids)
        ratios |= {score / counts[id_] for id_, score in zip(ids, scores, strict=True)}
    assert len(ratios) == 1


# ---------------------------------------------------------------- what is refused


def listed(term=b"jet", df=1, cf=1, postings=((1, 1),)):
    parts = [wire.message(gap, tf) for gap, tf in postings]
    return wire.message(term, df, cf) + b"".join(b"\x22" + wire.varint(len(part)) + part for part in parts)


MINUS_ONE = b"\xff" * 9 + b"\1"
FAULTS = {
    "not CIFF": ({"header": b"hello, world"}, "message 1 is faulty at byte .*"),
    "another version": ({"header": hexed("08 02 18 01")}, "message 1 is faulty at byte 1: the version is 2"),
    "no documents": ({"header": hexed("08 01"), "lists": [], "documents": []}, "message 1 .* holds no documents"),
    "negative count": ({"header": b"\x08\1\x10" + MINUS_ONE}, "num_postings_lists is -1, not between 0 and"),
    "more lists than said": ({"lists": [*LISTS, LISTS[0]]}, "message 4 is faulty at byte .*: a field has another type than in a DocRecord"),
    "fewer lists than said": ({"lists": LISTS[:1]}, "message 3 is faulty at byte .*: a field has another type than in a PostingsList"),
    "fewer documents than said": ({"documents": DOCUMENTS[:2]}, "message 6 is faulty at byte 78: the file ends where a DocRecord is expected"),
    "more documents than said": ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, "message 7 is faulty at byte .*: there is more than the header counts"),
    "bytes at the end": ({"end": b"x"}, "message 7 is faulty at byte .*: there is more"),
    "df above": ({"lists": [LISTS[0], listed(df=2)]}, "message 3 is faulty at byte .*: the df of the term 'jet' is 2, but there are 1 postings"),
    "more postings than said": ({"lists": [LISTS[0], listed(df=1, cf=2, postings=[(0, 1), (1, 1)])]}, "message 3 .* the df of the term 'jet' is 1, but there are 2 postings"),
    "cf": ({"lists": [LISTS[0], listed(cf=9)]}, "message 3 .* the cf of the term 'jet' is 9, but its frequencies come to 1"),
    "no postings": ({"lists": [LISTS[0], listed(df=0, cf=0, postings=[])]}, "message 3 .* the term 'jet' has no postings"),
    "no term": ({"lists": [LISTS[0], listed(b"")]}, "message 3 .* has no term"),
    "term not UTF-8": ({"lists": [LISTS[0], listed(b"\xff\xfe")]}, "message 3 .* the term is not UTF-8"),
    "surrogate": ({"lists": [LISTS[0], listed(b"\xed\xa0\x80")]}, "message 3 .* the term is not UTF-8"),
    "same term next": ({"lists": [LISTS[0], listed()]}, "message 3 is faulty at byte 46: the term 'jet' occurs a second time"),
    "same term later": ({"header": hexed("08 01 10 03 18 03"), "lists": [LISTS[0], LISTS[1], listed()]}, "message 4 .* the term 'jet' occurs a second"),
    "docid beyond": ({"lists": [LISTS[0], listed(postings=[(3, 1)])]}, "message 3 .* a docid is beyond the 3 documents"),
    "sum of gaps beyond": ({"lists": [LISTS[0], listed(df=2, cf=2, postings=[(2, 1), (1, 1)])]}, "message 3 .* beyond the 3 documents"),
    "gap of 0": ({"lists": [LISTS[0], listed(df=2, cf=2, postings=[(1, 1), (0, 1)])]}, "message 3 .* a docid stands twice"),
    "negative gap": ({"lists": [LISTS[0], listed(df=2, postings=[(2, 1)]) + b"\x22\x0d\x08" + MINUS_ONE + b"\x10\1"]}, "message 3 .* a gap between docids is negative"),
    "tf of 0": ({"lists": [LISTS[0], listed(cf=0, postings=[(1, 0)])]}, "message 3 .* a term frequency is not above 0"),
    "tf too large": ({"lists": [LISTS[0], listed(cf=2**31, postings=[(1, 2**31)])]}, "message 3 .* frequency is above"),
    "varint too long": ({"lists": [LISTS[0], b"\x10" + b"\xff" * 10 + b"\1"]}, "message 3 .* a number is longer than 64 bits"),
    "varint above 64 bits": ({"lists": [LISTS[0], b"\x10" + b"\xff" * 9 + b"\2"]}, "message 3 .* a number is longer"),
    "varint cut off": ({"lists": [LISTS[0], listed() + b"\x10\x80"]}, "message 3 .* a field reaches beyond the end"),
    "posting cut off": ({"lists": [LISTS[0], listed() + b"\x22\3\x08\1\x10"]}, "message 3 .* a field reaches beyond the end"),
    "field too long": ({"lists": [LISTS[0], listed() + b"\x22\x7f\x08\1"]}, "message 3 .* a field reaches beyond the end"),
    "impossible length": ({"lists": [LISTS[0], listed() + b"\x22" + MINUS_ONE]}, "message 3 .* impossible length"),
    "field 0": ({"lists": [LISTS[0], listed() + b"\0\1"]}, "message 3 .* no such field number"),
    "group": ({"lists": [LISTS[0], listed() + b"\x2b"]}, "message 3 .* a field has another type"),
    "docid of a record": ({"documents": [*DOCUMENTS[:2], wire.message(3, "c", 2)]}, "message 6 .* the docid 3 is beyond the 3 documents"),
    "docid twice": ({"documents": [*DOCUMENTS[:2], wire.message(1, "c", 2)]}, "message 6 .* the docid 1 occurs a second"),
    "id twice": ({"documents": [*DOCUMENTS[:2], wire.message(2, "b", 2)]}, "message 6 .* the id 'b' occurs a second"),
    "no id": ({"documents": [*DOCUMENTS[:2], wire.message(2, "", 2)]}, "message 6 .* the id is empty"),
    "id with a space": ({"documents": [*DOCUMENTS[:2], wire.message(2, "c d", 2)]}, "message 6 .* contains white space"),
    "id not UTF-8": ({"documents": [*DOCUMENTS[:2], wire.message(2, b"\xff", 2)]}, "message 6 .* collection_docid is not UTF-8"),
    "no length": ({"documents": [DOCUMENTS[2], DOCUMENTS[1], wire.message(0, "a", 0)]}, "message 6 .* the docid 0 has postings, but its doclength is 0"),
    "negative length": ({"documents": [*DOCUMENTS[:2], wire.message(2, "c") + b"\x18" + MINUS_ONE]}, "message 6 .* doclength is -1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_files(tmp_path, fault):
    changes, reason = FAULTS[fault]
    file = write(tmp_path / "x.ciff", **changes)
    with pytest.raises(InvalidInput, match=reason):
        import_ciff(file, tmp_path / "new" / "index", analyser_name="whitespace")
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_was_cut_off_anywhere(tmp_path):
    whole = write(tmp_path / "whole.ciff").read_bytes()
    for size in range(len(whole)):
        file = tmp_path / "x.ciff"
        file.write_bytes(whole[:size])
        with pytest.raises(InvalidInput, match=r"message \d is faulty at byte \d+: .*the file ends"):
            import_ciff(file, tmp_path / "index", analyser_name="whitespace")
    for suffix, packed in ((".gz", gzip.compress(whole)), (".zst", zstandard.compress(whole))):
        file = tmp_path / f"x.ciff{suffix}"
        file.write_bytes(packed[:-6])
        with pytest.raises(InvalidInput, match=r"message \d at byte \d+: .* is a damaged"):
            import_ciff(file, tmp_path / "index", analyser_name="whitespace")
        assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("claim", ["documents", "lists", "message", "term", "header", "postings"])
def test_sizes_that_are_only_claimed_take_no_memory(tmp_path, claim):
    import tracemalloc

    most = 2**31 - 1
    header, rest = wire.message(1, 1, 3), b""
    if claim == "documents":
        header, rest = wire.message(1, 1, most), delimited([listed(postings=[(most - 1, 1)]), DOCUMENTS[0]])
    elif claim == "lists":
        header, rest = wire.message(1, most, 1), delimited([listed(postings=[(0, 1)])])
    elif claim == "message":
        rest = wire.varint(most) + LISTS[0]
    elif claim == "term":
        rest = wire.varint(most) + b"\x0a" + wire.varint(most - 10) + b"x" * 5_000_000
    elif claim == "header":
        header = b"\x42" + wire.varint(2 << 20) + b"x" * (2 << 20)
    else:
        rest = wire.varint(most) + b"\x22\4\x08\1\x10\1" * 1_000_000
    file = tmp_path / "x.ciff.gz"
    with gzip.open(file, "wb") as output:
        output.write(wire.delimited(header) + rest)
    import_ciff(write(tmp_path / "warm.ciff"), tmp_path / "warm", analyser_name="whitespace")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=r"message \d is faulty at byte"):
            import_ciff(file, tmp_path / "index", analyser_name="whitespace")
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "index").exists()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    build(folder / "index", random_documents(20, seed=3))
    export_ciff(folder / "index", folder / "x.ciff")
    return (folder / "x.ciff").read_bytes()


changes = st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["set", "cut", "put", "flip"]), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)  # fmt: skip


@given(changes, st.sampled_from(["", ".gz", ".zst"]))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_refused_or_give_a_sound_index(tmp_path_factory, exported, edits, suffix):
    data = bytearray(exported)
    if suffix:
        data = bytearray(gzip.compress(exported) if suffix == ".gz" else zstandard.compress(exported))
    for place, kind, content in edits:
        at = place % max(1, len(data))
        if kind == "set":
            data[at : at + len(content)] = content
        elif kind == "cut":
            del data[at : at + content[0]]
        elif kind == "put":
            data[at:at] = content
        elif data:
            data[at] ^= 1 << content[0] % 8
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / f"x.ciff{suffix}").write_bytes(data)
    try:
        import_ciff(folder / f"x.ciff{suffix}", folder / "index", analyser_name="whitespace")
    except InvalidInput:
        assert [path.name for path in folder.iterdir()] == [f"x.ciff{suffix}"]
    else:
        assert verify_index(folder / "index").sound
        assert rankings(folder / "index", WORDS)
    shutil.rmtree(folder)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / "x.ciff").write_bytes(content)
    with pytest.raises(InvalidInput):
        import_ciff(folder / "x.ciff", folder / "index", analyser_name="whitespace")
    shutil.rmtree(folder)


def test_long_lists_pass_in_blocks(tmp_path, monkeypatch):
    """Messages that span many blocks are read like short ones, whatever the sizes of the blocks."""
    documents = [Document(f"d{n}", "wing " * (1 + n % 5) + ("flow" if n % 3 else "")) for n in range(3000)]
    build(tmp_path / "index", documents, shard_documents=4096)
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    whole = (tmp_path / "x.ciff").read_bytes()
    for size in (1, 7, 100, 4096):
        blocks = [whole[start : start + size] for start in range(0, len(whole), size)]
        monkeypatch.setattr(wire, "_blocks", lambda _, blocks=blocks: iter([b"", *blocks, b""]))
        import_ciff(tmp_path / "x.ciff", tmp_path / f"copy{size}")
        assert rankings(tmp_path / f"copy{size}", WORDS, 20) == rankings(tmp_path / "index", WORDS, 20)


# ---------------------------------------------------------------- files and commands


def test_places_that_will_not_do(tmp_path):
    build(tmp_path / "index", [Document("a", "wing")])
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    with pytest.raises(InvalidInput, match="is there already"):
        import_ciff(tmp_path / "x.ciff", tmp_path / "index")
    with pytest.raises(InvalidInput, match="is there already"):
        import_ciff(tmp_path / "x.ciff", tmp_path / "x.ciff")
    with pytest.raises(InvalidInput, match="there is no file"):
        import_ciff(tmp_path / "y.ciff", tmp_path / "copy")
    with pytest.raises(InvalidInput, match="is a folder"):
        export_ciff(tmp_path / "index", tmp_path)
    with pytest.raises(InvalidInput, match="there is no folder"):
        export_ciff(tmp_path / "index", tmp_path / "no" / "x.ciff")
    with pytest.raises(UnknownIndex):
        export_ciff(tmp_path / "no", tmp_path / "y.ciff")
    (tmp_path / "empty").mkdir()
    import_ciff(tmp_path / "x.ciff", tmp_path / "empty")
    delete_documents(tmp_path / "index", ["a"])
    assert export_ciff(tmp_path / "index", tmp_path / "x.ciff")["documents"] == 0
    with pytest.raises(InvalidInput, match="holds no documents"):
        import_ciff(tmp_path / "x.ciff", tmp_path / "copy")


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    build(tmp_path / "index", random_documents(20, seed=0))
    file = tmp_path / "x.ciff.gz"
    file.write_bytes(b"before")
    monkeypatch.setattr("indexing.ciff.exporting.postings_list", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_ciff(tmp_path / "index", file)
    assert file.read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "x.ciff.gz"]


def test_an_import_clears_up_after_one_that_was_killed(tmp_path):
    build(tmp_path / "index", random_documents(20, seed=0))
    export_ciff(tmp_path / "index", tmp_path / "x.ciff")
    left = tmp_path / ".copy.importing"
    (left / "building" / "postings").mkdir(parents=True)
    (left / "documents.sqlite").write_bytes(b"half of something")
    import_ciff(tmp_path / "x.ciff", tmp_path / "copy")
    assert not left.exists()
    assert verify_index(tmp_path / "copy").warnings == []


def test_the_commands(tmp_path: Path):
    source = tmp_path / "c.jsonl"
    source.write_text("".join(json.dumps({"_id": f"d{n}", "text": word}) + "\n" for n, word in enumerate(WORDS)))
    build_index(open_corpus(str(source)), tmp_path / "index", BuildSettings(parts=("bm25",)))

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    exported = run("export-ciff", tmp_path / "index", tmp_path / "x.ciff.zst", "--json")
    assert json.loads(exported.stdout)["documents"] == len(WORDS)
    plain = run("import-ciff", tmp_path / "x.ciff.zst", tmp_path / "plain")
    assert "warning: the documents have no text" in plain.stderr
    full = run("import-ciff", tmp_path / "x.ciff.zst", tmp_path / "full", "--corpus", source, "--json", "--k1", "1.2")
    assert full.stderr == ""
    assert json.loads(full.stdout)["without_text"] == 0
    with open_index(tmp_path / "full") as index:
        assert index.search("wing", 1).hits[0].document.text == "wing"
        assert index.manifest.inverted.k1 == 1.2
