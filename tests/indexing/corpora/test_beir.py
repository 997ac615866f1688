"""BEIR folders: read whatever way they are packed, written from any corpus."""

import gzip
import json

import pytest
import zstandard

from indexing.corpora import open_corpus, write_beir
from retriever.errors import InvalidInput
from retriever.evaluation.collections import open_collection

LINES = (
    '{"_id": "1", "title": "T", "text": "x é", "metadata": {"url": "u"}}\n'
    '{"_id": "2", "title": "", "text": ""}\n'
    '{"_id": "3", "text": "y", "year": 1999}\n'
)


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_folder_in_and_the_same_documents_out(tmp_path, suffix):
    source = tmp_path / "source"
    source.mkdir()
    (source / f"corpus.jsonl{suffix}").write_bytes(PACKERS[suffix](LINES.encode()))
    (source / "notes.txt").write_text("not a document")
    target = tmp_path / "deep" / "target"
    assert write_beir(str(source), target) == {"folder": str(target), "documents": 3, "empty": 1}
    assert [path.name for path in target.iterdir()] == ["corpus.jsonl"]
    assert list(open_corpus(str(target))) == list(open_corpus(str(source)))
    records = [json.loads(line) for line in (target / "corpus.jsonl").read_text().splitlines()]
    assert records[0] == {"_id": "1", "title": "T", "text": "x é", "metadata": {"url": "u"}}
    assert records[2] == {"_id": "3", "title": "", "text": "y", "metadata": {"year": 1999}}


def test_what_was_left_out_is_reported(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(LINES + LINES + "{\n")
    report = write_beir(str(path), tmp_path / "target", duplicates="skip", max_bad_lines=1, format=None)
    assert report["documents"] == report["duplicates"] == 3
    assert report["bad_lines_total"] == 1


def test_a_faulty_corpus_leaves_the_target_as_it_was(tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(LINES)
    bad.write_text(LINES + "{\n")
    target = tmp_path / "target"
    write_beir(str(good), target)
    before = (target / "corpus.jsonl").read_bytes()
    with pytest.raises(InvalidInput, match=r"bad\.jsonl:4: not JSON"):
        write_beir(str(bad), target)
    assert [path.name for path in target.iterdir()] == ["corpus.jsonl"]
    assert (target / "corpus.jsonl").read_bytes() == before


def test_judgments_of_other_documents_are_not_mixed_in(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text(LINES)
    for name in ("queries.jsonl", "qrels"):
        target = tmp_path / f"with-{name}"
        target.mkdir()
        (target / name).touch()
        with pytest.raises(InvalidInput, match="holds queries or judgments of another corpus"):
            write_beir(str(path), target)
    with pytest.raises(InvalidInput, match="is a file; name a folder"):
        write_beir(str(path), path)


def test_pydocs_becomes_a_collection_that_can_be_evaluated(tmp_path):
    report = write_beir("pydocs:stdlib", tmp_path)
    documents = {document.id: document for document in open_corpus(str(tmp_path))}
    assert report["documents"] == report["queries"] == len(documents)
    assert report["train"] + report["dev"] + report["test"] == report["queries"]
    # The hash gives one tenth each to dev and test.
    assert report["queries"] * 0.08 < report["dev"] < report["queries"] * 0.12
    assert report["queries"] * 0.08 < report["test"] < report["queries"] * 0.12
    judged = set()
    for split in ("train", "dev", "test"):
        collection = open_collection(str(tmp_path), split)
        assert len(collection.qrels) == report[split]
        assert set(collection.qrels) <= set(collection.queries)
        for query, judgments in collection.qrels.items():
            ((document, grade),) = judgments.items()
            assert (query, grade) == (f"q:{document}", 1)
            assert document in documents
            assert document not in judged
            judged.add(document)
    assert judged == set(documents)


def test_a_folder_of_that_name_is_not_taken_for_pydocs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pydocs").mkdir()
    (tmp_path / "pydocs" / "corpus.jsonl").write_text(LINES)
    assert write_beir("pydocs", tmp_path / "target")["documents"] == 3
    assert not (tmp_path / "target" / "queries.jsonl").exists()


def test_real_collections(shared_data):
    for name, count in (("nfcorpus", 3633), ("cranfield", 1400)):
        corpus = open_corpus(str(shared_data / name))
        assert sum(1 for _ in corpus) == corpus.report.documents == count
        assert (corpus.report.duplicates, corpus.report.bad_lines_total) == (0, 0)
