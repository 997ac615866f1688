"""Shards with chunks: an id stands for one thing, whatever the order in which documents come."""

import itertools

import pytest

from indexing.build import add_documents, build_index
from indexing.change import delete_documents
from indexing.chunking import chunk, owner_of
from indexing.plan import BuildSettings
from indexing.verification import verify_index
from retriever.errors import InvalidInput
from retriever.index.sealed import open_index
from retriever.types import Document
from tests.factories import WORDS, HashingEncoder, ListCorpus

CHUNKED = BuildSettings(encoder="hashing", shard_documents=1, window=24, overlap=0)
# Three chunks: #0, #1 and #2.
LONG = " ".join(f"Sentence number {n} is about {word} and {word} again." for n, word in enumerate(WORDS[:6]))
OTHERS = [Document(f"other{n}", f"About {word}.") for n, word in enumerate(WORDS[:4])]


def build(path, documents, settings=CHUNKED, encoder=None, **options):
    return build_index(ListCorpus(documents), path, settings, encoder=encoder or HashingEncoder(), **options)


def add(path, documents, **options):
    return add_documents(ListCorpus(documents), path, encoder=HashingEncoder(), **options)


def texts(path, *ids):
    with open_index(path, encoder=HashingEncoder()) as index:
        return [document and document.text for document in map(index.get, ids)]


def clash(id_, owner, renamed):
    return (
        f"document '{id_}' has the id of a chunk of document '{owner}'. "
        rf"Give document '{renamed}' another id and run the same command again \(finished shards are kept\)"
    )


@pytest.mark.parametrize(
    ("id_", "owner"),
    [("a#0", "a"), ("a#17", "a"), ("a#0#1", "a#0"), ("##0", "#"), ("a", None), ("#0", None), ("a#01", None),
     ("a#", None), ("a#x", None), ("a#-1", None), ("a#1 ", None), ("a#\u0661", None), ("a#0\n", None)],
)  # fmt: skip
def test_the_owner_of_a_chunk(id_, owner):
    assert owner_of(id_) == owner


def test_every_chunk_names_its_owner():
    document = Document("x#1", LONG)
    chunks = chunk(document, count_tokens=HashingEncoder().count_tokens, window=24, overlap=0)
    assert len(chunks) == 3
    assert {owner_of(part.id) for part in chunks} == {"x#1"}


@pytest.mark.parametrize("shard_documents", [1, 100])
@pytest.mark.parametrize("policy", ["fail", "skip", "overwrite"])
@pytest.mark.parametrize("order", list(itertools.permutations([0, 1])))
def test_a_document_and_a_chunk_with_one_id(tmp_path, shard_documents, policy, order):
    """Both documents are named, in every order and whether they meet in a shard or not; none is lost silently."""
    pair = [Document("a", LONG), Document("a#1", "Real document.")]
    documents = [pair[i] for i in order]
    settings = CHUNKED.model_copy(update={"shard_documents": shard_documents, "duplicates": policy})
    renamed = documents[1].id if shard_documents == 1 else "a#1"
    with pytest.raises(InvalidInput, match=clash("a#1", "a", renamed)):
        build(tmp_path / "index", documents, settings)


def test_finished_shards_are_kept_when_the_later_document_gets_another_id(tmp_path):
    with pytest.raises(InvalidInput, match=clash("a#2", "a", "a#2")):
        build(tmp_path / "index", [Document("a", LONG), *OTHERS, Document("a#2", "Real.")])
    encoder = HashingEncoder()
    report = build(tmp_path / "index", [Document("a", LONG), *OTHERS, Document("a-2", "Real.")], encoder=encoder)
    assert (report["resumed_shards"], report["shards"]) == (5, 6)
    # The new document and the canaries, which are encoded twice.
    assert encoder.encoded == 1 + 2 * 6
    assert texts(tmp_path / "index", "a", "a-2") == [LONG, "Real."]
    assert verify_index(tmp_path / "index", encoder=HashingEncoder()).sound


def test_the_clash_is_found_before_anything_of_its_shard_is_encoded(tmp_path):
    encoder = HashingEncoder()
    settings = CHUNKED.model_copy(update={"shard_documents": 100})
    with pytest.raises(InvalidInput, match="two documents need the same id"):
        build(tmp_path / "index", [*OTHERS, Document("a", LONG), Document("a#0", "Real.")], settings, encoder)
    assert encoder.encoded == 0


@pytest.mark.parametrize("policy", ["fail", "skip", "overwrite"])
def test_adding_what_clashes_leaves_the_index_as_it_was(tmp_path, policy):
    build(tmp_path / "one", [Document("a", LONG), *OTHERS])
    with pytest.raises(InvalidInput, match=clash("a#1", "a", "a#1")):
        add(tmp_path / "one", [Document("a#1", "Real.")], duplicates=policy)
    assert texts(tmp_path / "one", "a") == [LONG]
    build(tmp_path / "two", [Document("a#1", "Real."), *OTHERS])
    with pytest.raises(InvalidInput, match=clash("a#1", "a", "a")):
        add(tmp_path / "two", [Document("a", LONG)], duplicates=policy)
    assert texts(tmp_path / "two", "a#1") == ["Real."]


def test_ids_that_only_look_alike(tmp_path):
    """No chunk has these ids, so all documents are kept: 'a' has three chunks, 'b' is not there."""
    documents = [Document("a", LONG), Document("a#3", "Third."), Document("b#0", "Of none."), Document("a#x", "X.")]
    build(tmp_path / "index", documents)
    assert texts(tmp_path / "index", "a", "a#3", "b#0", "a#x") == [LONG, "Third.", "Of none.", "X."]
    with pytest.raises(InvalidInput, match=clash("a#3", "a", "a")):
        add(tmp_path / "index", [Document("a", f"{LONG} {LONG}")], duplicates="overwrite")
    # Overwriting a document with such an id takes away its own chunks and no other's.
    report = add(tmp_path / "index", [Document("a#3", "New.")], duplicates="overwrite", restart=True)
    assert report["overwritten"] == 1
    assert texts(tmp_path / "index", "a", "a#3") == [LONG, "New."]
    delete_documents(tmp_path / "index", ["a#3"])
    assert texts(tmp_path / "index", "a", "a#3") == [LONG, None]


@pytest.mark.parametrize("shard_documents", [1, 100])
def test_a_chunk_that_an_overwritten_document_no_longer_has_is_free(tmp_path, shard_documents):
    build(tmp_path / "index", [Document("a", LONG), *OTHERS])
    new = [Document("a", "Short now."), Document("a#2", "Real.")]
    report = add(tmp_path / "index", new, duplicates="overwrite", shard_documents=shard_documents)
    assert texts(tmp_path / "index", "a", "a#2") == ["Short now.", "Real."]
    assert report["overwritten"] == 3
    assert verify_index(tmp_path / "index", encoder=HashingEncoder()).sound


def test_without_chunks_such_ids_are_ids_like_any_other(tmp_path):
    documents = [Document("a", LONG), Document("a#0", "Real.")]
    build(tmp_path / "index", documents, BuildSettings(encoder="hashing", shard_documents=1))
    assert texts(tmp_path / "index", "a", "a#0") == [LONG, "Real."]
