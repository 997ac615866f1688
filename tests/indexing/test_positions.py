"""Indexes that keep positions: the answers of those that read texts, whatever their history; no damage unnoticed."""

import itertools
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from indexing.build import add_documents, build_index
from indexing.change import compact_index, delete_documents
from indexing.ciff import export_ciff, import_ciff
from indexing.commands import app
from indexing.journal import Operation
from indexing.live import apply_operations
from indexing.merging import merge_small
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from kernels.positions.reference import decode_reference
from retriever.errors import IndexCorrupt, InvalidInput
from retriever.index import inverted
from retriever.index import query as module
from retriever.index.inverted import InvertedReader
from retriever.index.manifest import read_manifest
from retriever.index.plain import PlainPostings
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import ListCorpus

WORDS = ["a", "b", "c", "d"]
SETTINGS = BuildSettings(
    parts=("bm25",),
    analyser="whitespace",
    fields={"kind": "keyword"},
    search_fields=("title",),
    shard_documents=16,
    segment_documents=48,
)


def random_documents(count, seed, prefix="d"):
    generator = np.random.default_rng(seed)
    likely = np.array([0.5, 0.3, 0.15, 0.05])
    return [
        Document(
            f"{prefix}{number}",
            " ".join(generator.choice(WORDS, size=int(generator.integers(0, 25)), p=likely)),
            " ".join(generator.choice(WORDS, size=int(generator.integers(0, 5)))),
            {"kind": str(generator.choice(["x", "y"]))},
        )
        for number in range(count)
    ]


def build(path, documents, positions=True, **changes):
    build_index(ListCorpus(documents), path, SETTINGS.model_copy(update={"positions": positions, **changes}))
    return path


def change(path):
    """Add, replace and delete; the same for every index."""
    add_documents(ListCorpus(random_documents(30, 1, "e")), path)
    add_documents(ListCorpus(random_documents(25, 2)), path, duplicates="overwrite")
    delete_documents(path, [f"d{number}" for number in range(40, 70)])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return an index with positions and one without, of the same documents in several segments, some deleted."""
    folder = tmp_path_factory.mktemp("both")
    for name in ("with", "without"):
        build(folder / name, random_documents(100, 0), positions=name == "with")
        change(folder / name)
    with open_index(folder / "with") as one, open_index(folder / "without") as other:
        assert len(one.segments) > 3
        yield one, other


phrases = st.builds(
    lambda words, slop, field: f'{field}"{" ".join(words)}"' + (f"~{slop}" if slop else ""),
    st.lists(st.sampled_from([*WORDS, "a", "b", "none"]), min_size=2, max_size=5),
    st.sampled_from([0, 0, 1, 2, 3, 7]),
    st.sampled_from(["", "", "title:"]),
)
clauses = st.builds(
    lambda sign, node, boost: sign + node + boost,
    st.sampled_from(["", "", "+", "-"]),
    st.one_of(phrases, phrases, st.sampled_from(WORDS)),
    st.sampled_from(["", "^3"]),
)
queries = st.one_of(
    phrases,
    st.lists(clauses, min_size=1, max_size=4).map(lambda found: " ".join(["d", *found])),
    st.builds(lambda one, other: f"+({one} {other}) -({other} a)", phrases, clauses.map(lambda c: c.lstrip("+-"))),
)


def answers(index, query, k=1000, **options):
    answer = index.search(query, k, syntax=True, **options)
    assert answer.exact
    return answer.ranking()


# Nothing is near the word, so that the excluded phrase is all that is left.
@example('zzqqx~1 -"a b"', 1000, None, False)
@given(queries, st.sampled_from([1, 5, 1000]), st.sampled_from([None, {"kind": "x"}]), st.booleans())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_positions_give_the_answers_of_texts(both, query, k, filter, weighed):
    options = {"filter": filter, "field_weights": {"title": 2.0, "contents": 0.5} if weighed else None}
    one, other = both
    assert answers(one, query, k, **options) == answers(other, query, k, **options)


def test_any_history_gives_the_same_answers(both, tmp_path):
    one, _ = both
    for name in ("compacted", "changed"):
        shutil.copytree(one.path, tmp_path / name)
    compact_index(tmp_path / "compacted")
    delete_documents(tmp_path / "changed", ["e3"])
    operations = [Operation(1, "e3", one.get("e3"), 1), Operation(2, "gone", None, 1)]
    for _ in range(2):
        apply_operations(tmp_path / "changed", operations)
    merge_small(tmp_path / "changed")
    for name in ("compacted", "changed"):
        with open_index(tmp_path / name) as index:
            for query in ('"a b"', '"b a c"~4', '"a a"', 'title:"a b"', 'a -"b c"'):
                assert answers(index, query) == answers(one, query)
        assert verify_index(tmp_path / name).sound


def test_what_is_compacted_has_the_bytes_of_what_is_built(both, tmp_path):
    one, _ = both
    shutil.copytree(one.path, tmp_path / "compacted")
    compact_index(tmp_path / "compacted")
    with open_index(tmp_path / "compacted") as index:
        (segment,) = index.segments
        documents = [index.get(segment.ids[ordinal]) for ordinal in range(len(index))]
    compacted = index.path / "segments" / index.manifest.segments[0].name
    build(tmp_path / "built", documents, segment_documents=1000)
    (built,) = (tmp_path / "built" / "segments").iterdir()
    for name in ("positions", "position_marks", "field0.positions", "field0.position_marks"):
        file = f"inverted.{name}.npy"
        assert (compacted / file).read_bytes() == (built / file).read_bytes()


def files_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in (path / "segments").rglob("*") if p.is_file()}


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path):
    documents = random_documents(100, 0)
    build(tmp_path / "one", documents)
    with_positions = SETTINGS.model_copy(update={"positions": True})
    build_index(ListCorpus(documents), tmp_path / "two", with_positions, processes=2)
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


def test_a_stopped_build_resumes_with_the_same_bytes(tmp_path, monkeypatch):
    documents = random_documents(100, 0)
    whole = files_of(build(tmp_path / "whole", documents))
    assert any(name.endswith("inverted.position_marks.npy") for name in whole)
    written = []
    original = PlainPostings.write

    def write(self, folder, part):
        written.append(folder)
        if len(written) == 8:
            raise KeyboardInterrupt
        return original(self, folder, part)

    with monkeypatch.context() as patch:
        patch.setattr(PlainPostings, "write", write)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "stopped", documents)
    with pytest.raises(InvalidInput, match="positions: True then, False now"):
        build(tmp_path / "stopped", documents, positions=False)
    report = build_index(ListCorpus(documents), tmp_path / "stopped", SETTINGS.model_copy(update={"positions": True}))
    assert report["resumed_shards"] == 3
    assert files_of(tmp_path / "stopped") == whole


def test_what_stands_in_the_bytes(tmp_path):
    build(tmp_path / "index", [Document("1", "b a b", "x"), Document("2", "a a")], search_fields=())
    (folder,) = (tmp_path / "index" / "segments").iterdir()
    reader = InvertedReader(folder, positions=True)
    assert list(reader.terms) == ["a", "b", "x"]
    # Title and text are one text: x b a b.
    assert decode_reference(bytes(reader.positions.data)) == [[2], [0, 1], [1, 3], [0]]


def test_stop_words_leave_no_gap(tmp_path):
    texts = {"1": "the passage of the retrieval", "2": "passage, retrieval", "3": "retrieval of a passage"}
    documents = [Document(id_, text) for id_, text in texts.items()]
    for name in ("with", "without"):
        build(tmp_path / name, documents, name == "with", analyser="lucene-english")
        with open_index(tmp_path / name) as index:
            assert {id_ for id_, _ in answers(index, '"passage retrieval"')} == {"1", "2"}
            assert {id_ for id_, _ in answers(index, '"passage retrieval"~2')} == {"1", "2", "3"}
            assert answers(index, 'the -"passage retrieval"') == []


def test_no_text_is_read_and_nothing_is_cut(both, monkeypatch):
    one, other = both
    monkeypatch.setattr(module, "MAX_PHRASE_DOCUMENTS", 5)
    assert not other.execute_query('"a b"', None).exact

    def read_terms(*_):
        raise AssertionError("texts were read")

    monkeypatch.setattr(one.execute_query("a", None)._search, "read_terms", read_terms)
    assert len(answers(one, '"a b"')) > 20


def test_filters_and_deletions_come_before_positions(both, monkeypatch):
    one, _ = both
    original = module.phrase_frequencies
    read = []

    def counted(codes, positions, entries, same, slop):
        read.append(entries.shape[1])
        return original(codes, positions, entries, same, slop)

    monkeypatch.setattr(module, "phrase_frequencies", counted)
    for query, options, holding in (
        ('"a b"', {}, lambda words, kind: {"a", "b"} <= words),
        ('"a b"', {"filter": {"kind": "x"}}, lambda words, kind: {"a", "b"} <= words and kind == "x"),
        ('+d +"a b"', {}, lambda words, kind: {"a", "b", "d"} <= words),
        ('"a none"', {}, lambda words, kind: False),
    ):
        read.clear()
        answers(one, query, **options)
        documents = [one.get(id_) for segment in one.segments for id_ in segment.ids if one.get(id_)]
        # Replaced documents have the ids of living ones.
        living = {document.id: document for document in documents}.values()
        assert sum(read) == sum(holding(set(d.content.split()), d.metadata["kind"]) for d in living)


@pytest.mark.parametrize("positions", [True, False])
def test_many_phrases_take_the_memory_of_what_else_matches(tmp_path, positions):
    documents = [Document(str(number), "a b c d " + "rare" * (number == 0)) for number in range(4000)]
    build(tmp_path / "index", documents, positions, search_fields=(), segment_documents=5000)
    with open_index(tmp_path / "index") as index:
        orders = itertools.islice(itertools.permutations(["a", "b", "c", "d"]), 20)
        query = "+rare " + " ".join(f'"{" ".join(order)}"~{slop}' for order in orders for slop in range(5))
        index.execute_query(query, None)
        tracemalloc.start()
        execution = index.execute_query(query, None)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert [mask.sum() for mask in execution.masks()] == [1]
    # For each phrase the number of each document, but not where its four terms are there.
    assert 100 * 4000 * 4 < peak < 100 * 4000 * 8


def test_entries_are_looked_up_in_portions(both, monkeypatch):
    one, other = both
    monkeypatch.setattr(module, "MAX_ENTRIES", 7)
    for query in ('"a b"', '+a "b a a"~3', '"a b c" -"a a"'):
        assert answers(one, query) == answers(other, query)


def test_a_term_repeated_a_million_times(tmp_path):
    documents = [Document("1", "spam " * 1_000_000 + "ham"), Document("2", "spam ham")]
    build(tmp_path / "index", documents, search_fields=())
    with open_index(tmp_path / "index") as index:
        assert [id_ for id_, _ in answers(index, '"spam ham"')] == ["2", "1"]
        assert [id_ for id_, _ in answers(index, '"spam spam ham"~1')] == ["1"]
        # A byte a position, and two for the place of "ham".
        assert index.describe()["bytes"]["positions"] < 1_001_000


def test_a_phrase_of_thousands_of_words(tmp_path):
    words = [f"w{number}" for number in range(4000)]
    documents = [Document("whole", " ".join(words)), Document("half", " ".join(words[:2000]))]
    documents.append(Document("turned", " ".join(reversed(words))))
    for name in ("with", "without"):
        build(tmp_path / name, documents, name == "with", search_fields=())
        with open_index(tmp_path / name) as index:
            assert [id_ for id_, _ in answers(index, f'"{" ".join(words)}"')] == ["whole"]
            assert [id_ for id_, _ in answers(index, f'"{" ".join(words[:2000] * 2)}"')] == []


def test_documents_without_terms(tmp_path):
    build(tmp_path / "index", [Document("1", ""), Document("2", " ")])
    assert verify_index(tmp_path / "index").sound
    with open_index(tmp_path / "index") as index:
        assert answers(index, '"a b"') == []
    add_documents(ListCorpus([Document("3", "a b")]), tmp_path / "index", positions=True)
    compact_index(tmp_path / "index")
    with open_index(tmp_path / "index") as index:
        assert [id_ for id_, _ in answers(index, '"a b"')] == ["3"]


@pytest.fixture
def index(both, tmp_path):
    return shutil.copytree(both[0].path, tmp_path / "index")


@pytest.mark.parametrize("name", ["positions", "position_marks", "field0.positions"])
def test_a_flipped_bit_is_found(index, name):
    path = next(iter(sorted(index.glob(f"segments/*/inverted.{name}.npy"))))
    content = bytearray(path.read_bytes())
    content[-3] ^= 2
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match=rf"inverted.{name}.npy was altered: its sha256"):
        open_index(index)
    (problem,) = verify_index(index).problems
    assert f"inverted.{name}.npy was altered: its sha256 is not the manifest's" in problem


@pytest.mark.parametrize("bit", [0, 7])
def test_damaged_positions_are_not_merged(index, bit):
    path = sorted(index.glob("segments/*/inverted.positions.npy"))[0]
    content = bytearray(path.read_bytes())
    # The header is 128 bytes; the last byte is looked at in any case.
    content[128 + 10] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(IndexCorrupt, match="bytes of positions are not those of"):
        compact_index(index)


def test_positions_that_were_wrong_when_they_were_sealed(tmp_path, monkeypatch):
    original = inverted.lay_out_positions

    def shifted(*arguments):
        positions = original(*arguments)
        # A document of two terms, the second of which is now its fourth.
        positions.data[positions.data == 2] = 6
        return positions

    monkeypatch.setattr(inverted, "lay_out_positions", shifted)
    build(tmp_path / "index", [Document("1", "a b"), Document("2", "b")], search_fields=())
    assert verify_index(tmp_path / "index").problems == [
        "segment 000001: positions do not belong to the postings beside them"
    ]


def test_a_missing_file(index):
    path = next(index.glob("segments/*/inverted.positions.npy"))
    path.unlink()
    with pytest.raises(IndexCorrupt, match=r"inverted.positions.npy is missing"):
        open_index(index)


def test_positions_cannot_be_added_later(both):
    with pytest.raises(InvalidInput, match=r"built without positions.*index build CORPUS .* --positions --overwrite"):
        add_documents(ListCorpus([Document("new", "a")]), both[1].path, positions=True)


def test_positions_need_words(tmp_path):
    with pytest.raises(InvalidInput, match="--positions are those of BM25's terms; they need the bm25 part"):
        build(tmp_path / "index", [Document("1", "a")], parts=("dense",), search_fields=())


def test_ciff_leaves_positions_out(both, tmp_path):
    export_ciff(both[0].path, tmp_path / "file.ciff")
    import_ciff(tmp_path / "file.ciff", tmp_path / "index")
    part = read_manifest(tmp_path / "index")[0].inverted
    assert part is not None
    assert not part.positions
    add_documents(ListCorpus([Document("new", "a b")]), tmp_path / "index")
    assert verify_index(tmp_path / "index").sound


def test_on_the_command_line(tmp_path):
    lines = [json.dumps({"id": id_, "text": text}) for id_, text in (("1", "red wine cellar"), ("2", "wine red"))]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    path = str(tmp_path / "index")
    run = CliRunner().invoke
    arguments = ["build", str(tmp_path / "corpus.jsonl"), path, "--parts", "bm25", "--positions", "--processes", "1"]
    assert run(app, arguments).exit_code == 0
    described = json.loads(run(app, ["describe", path, "--json"]).stdout)
    assert described["inverted"]["positions"] is True
    assert described["bytes"]["inverted"] > described["bytes"]["positions"] > 0
    assert run(app, ["verify", path]).exit_code == 0
    with open_index(path) as index:
        assert [id_ for id_, _ in answers(index, '"red wine"')] == ["1"]
