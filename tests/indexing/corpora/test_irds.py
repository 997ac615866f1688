"""Collections by their ir_datasets name; a small one is registered here, since tests fetch nothing."""

from typing import NamedTuple

import ir_datasets
import pytest
from ir_datasets.formats import BaseDocs

from indexing.corpora import open_corpus
from retriever.errors import BackendUnavailable, InvalidInput
from retriever.types import Document


class Article(NamedTuple):
    doc_id: str
    headline: str
    body: str
    year: int


class Passage(NamedTuple):
    doc_id: str
    words: str

    def default_text(self) -> str:
        return self.words.upper()


class Documents(BaseDocs):
    """Documents in memory, and the number of them as the library's metadata has it."""

    def __init__(self, documents, fault=None):
        self.documents = documents
        self.fault = fault

    def docs_iter(self):
        yield from self.documents
        if self.fault:
            raise self.fault

    def docs_cls(self):
        return type(self.documents[0])


@pytest.fixture
def register():
    """Register datasets in ir_datasets for one test."""
    names = []

    def add(name, handler):
        ir_datasets.registry.register(name, ir_datasets.Dataset(handler))
        names.append(name)

    yield add
    for name in names:
        del ir_datasets.registry._registered[name]


def test_documents_of_a_registered_collection(register):
    register("tiny-news", Documents([Article("a", "Head", "Body", 1990), Article("b", "", "", 1991)]))
    corpus = open_corpus("irds:tiny-news")
    assert list(corpus) == [Document("a", "Body", "Head", {"year": 1990}), Document("b", "", "", {"year": 1991})]
    assert corpus.report.empty == 1
    assert corpus.describe()["source"] == "tiny-news"
    assert corpus.size_hint() is None
    assert list(open_corpus("ir_datasets:tiny-news")) == list(open_corpus("tiny-news", format="irds")) == list(corpus)


def test_the_librarys_own_reader_of_tsv(register, tmp_path):
    (tmp_path / "docs.tsv").write_text("d1\tfirst text\nd2\tsecond text\n")
    register("tiny-tsv", ir_datasets.create_dataset(docs_tsv=str(tmp_path / "docs.tsv")).docs_handler())
    assert list(open_corpus("irds:tiny-tsv")) == [Document("d1", "first text"), Document("d2", "second text")]


def test_a_collection_that_says_what_its_text_is(register):
    register("tiny-words", Documents([Passage("a", "some words")]))
    assert list(open_corpus("irds:tiny-words")) == [Document("a", "SOME WORDS", "", {"words": "some words"})]


def test_faults_have_a_place(register):
    register("tiny-faults", Documents([Passage("a", "x"), Passage("b b", "x")]))
    with pytest.raises(InvalidInput, match="irds:tiny-faults:2: the id 'b b' contains white space"):
        list(open_corpus("irds:tiny-faults"))


@pytest.mark.parametrize("name", ["no-such-collection", "beir/nothing", ""])
def test_an_unknown_collection(name):
    with pytest.raises(
        InvalidInput, match=f"ir_datasets knows no collection '{name}'; its names are like beir/scifact"
    ):
        open_corpus(f"irds:{name}")


def test_a_collection_that_breaks_off_is_not_taken_for_a_shorter_one(register):
    register("tiny-broken", Documents([Passage("a", "x")], fault=OSError("connection lost")))
    with pytest.raises(BackendUnavailable, match="ir_datasets could not provide 'tiny-broken': connection lost"):
        list(open_corpus("irds:tiny-broken"))


def test_a_published_collection_without_a_network(no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    corpus = open_corpus("irds:nano-beir/scifact")
    with pytest.raises(BackendUnavailable, match="ir_datasets could not provide 'nano-beir/scifact'"):
        list(corpus)
