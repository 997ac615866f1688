"""Facets are counted over what matches, and explanations add up to the scores they explain."""

from collections import Counter

import numpy as np
import pytest

from indexing.build import add_documents, build_index
from indexing.change import delete_documents
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.index.sealed import Index, open_index
from retriever.pipeline import PipelineSpec, Rm3
from retriever.types import Answer, Document
from tests.factories import HashingEncoder, ListCorpus, random_documents

FIELDS = {"year": "number", "kind": "keyword", "tags": "keyword"}
DOCUMENTS = random_documents(300, 1)
LIVE = [document for number, document in enumerate(DOCUMENTS) if number % 7]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Return an index of two segments, both with deletions."""
    path = tmp_path_factory.mktemp("facets") / "index"
    encoder = HashingEncoder()
    build_index(ListCorpus(DOCUMENTS[:200]), path, BuildSettings(fields=FIELDS), encoder=encoder)
    add_documents(ListCorpus(DOCUMENTS[200:]), path, encoder=encoder)
    delete_documents(path, [document.id for document in DOCUMENTS if document not in LIVE])
    return open_index(path, encoder=encoder)


def words(document: Document) -> set[str]:
    return set(document.content.split())


def expected(documents: list[Document], name: str) -> list[tuple[str | float, int]]:
    counts: Counter[str | float] = Counter()
    for document in documents:
        value = document.metadata[name]
        counts.update({float(value)} if name == "year" else set(value) if isinstance(value, list) else {value})
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def counted(answer: Answer, name: str) -> list[tuple[str | float, int]]:
    assert answer.facets is not None
    return answer.facets.counts[name]


@pytest.mark.parametrize("name", list(FIELDS))
def test_words_count_every_document_that_holds_one(index: Index, name: str) -> None:
    answer = index.search("wing flow heat", 1, pipeline="bm25", facets=[name], facet_values=100)
    matching = [document for document in LIVE if {"wing", "flow", "heat"} & words(document)]
    assert counted(answer, name) == expected(matching, name)
    assert answer.facets is not None
    assert (answer.facets.documents, answer.facets.complete) == (len(matching), True)


def test_a_filter_holds_for_the_counts(index: Index) -> None:
    answer = index.search("wing", 1, pipeline="bm25", filter={"year": {"gte": 2010}}, facets=["kind"])
    matching = [d for d in LIVE if "wing" in words(d) and d.metadata["year"] >= 2010]
    assert counted(answer, "kind") == expected(matching, "kind")


def test_the_syntax_counts_what_fulfils_the_query(index: Index) -> None:
    answer = index.search("+wing -heat flow", 1, syntax=True, facets=["tags"], facet_values=100)
    matching = [d for d in LIVE if "wing" in words(d) and "heat" not in words(d)]
    assert counted(answer, "tags") == expected(matching, "tags")


def test_vectors_count_their_candidates_and_say_whether_there_may_be_more(index: Index) -> None:
    few = index.search("wing", 5, pipeline="dense", facets=["kind"])
    assert few.facets is not None
    assert (few.facets.documents, few.facets.complete) == (5, False)
    assert counted(few, "kind") == expected([hit.document for hit in few.hits if hit.document], "kind")
    every = index.search("wing", 1000, pipeline="dense", facets=["kind"])
    assert every.facets is not None
    assert every.facets.complete
    assert every.facets.documents == len(every.hits)


def test_both_together_are_counted_once(index: Index) -> None:
    spec = PipelineSpec(first=("bm25", "dense"), depth=10)
    answer = index.search("wing", 1, pipeline=spec, facets=["kind"])
    near = index.search("wing", 10, pipeline="dense", documents=False).hits
    matching = [d for d in LIVE if "wing" in words(d) or d.id in {hit.id for hit in near}]
    assert answer.facets is not None
    assert answer.facets.documents == len(matching)
    assert counted(answer, "kind") == expected(matching, "kind")


def test_the_values_are_cut_and_fields_are_checked(index: Index) -> None:
    assert len(counted(index.search("wing", 1, facets=["year"], facet_values=3), "year")) == 3
    with pytest.raises(InvalidInput, match="'colour' is not a field"):
        index.search("wing", 1, facets=["colour"])


def test_nothing_found_counts_nothing(index: Index) -> None:
    answer = index.search("unheard", 5, pipeline="bm25", facets=["kind"])
    assert answer.facets is not None
    assert (answer.facets.documents, counted(answer, "kind")) == (0, [])


@pytest.mark.parametrize(
    "spec",
    [PipelineSpec(first=("bm25",)), PipelineSpec(first=("bm25", "dense")), PipelineSpec(first=("bm25",), feedback=Rm3())],
)  # fmt: skip
def test_terms_add_up_to_the_score_to_the_bit(index: Index, spec: PipelineSpec) -> None:
    answer = index.search("wing flow wing heat", 50, pipeline=spec, explain=True)
    explained = 0
    for hit in answer.hits:
        assert hit.explanation is not None
        if "bm25" in hit.scores:
            explained += 1
            assert np.float32(sum(part.score for part in hit.explanation.terms)) == np.float32(hit.scores["bm25"])
    assert explained > 20


def test_ranks_are_places_in_each_stage(index: Index) -> None:
    answer = index.search("wing flow", 20, explain=True)
    for stage in ("bm25", "dense", "fusion"):
        alone = sorted((h.explanation.ranks[stage], h.scores[stage]) for h in answer.hits if stage in h.scores)
        assert [score for _, score in alone] == sorted((score for _, score in alone), reverse=True)
    assert [hit.explanation.ranks["fusion"] for hit in answer.hits] == list(range(1, 21))


def test_a_query_of_the_syntax_is_explained_where_it_is_mere_terms(index: Index) -> None:
    (hit, *_) = index.search("+wing flow^2", 1, syntax=True, pipeline="bm25", explain=True).hits
    assert hit.explanation is not None
    assert {part.term: part.weight for part in hit.explanation.terms} == {"wing": 1.0, "flow": 2.0}
    (hit, *_) = index.search('"wing flow"~9', 1, syntax=True, pipeline="bm25", explain=True).hits
    assert hit.explanation is not None
    assert hit.explanation.terms == []


def test_a_newer_generation_shares_what_did_not_change(index: Index) -> None:
    index.search("wing", 1, facets=["kind"])
    path = index.path
    delete_documents(path, ["d1"])
    newer = index.latest()
    first, second = newer.segments
    assert first is not index.segments[0]
    assert first.columns is index.segments[0].columns
    assert second is index.segments[1]
    answer = newer.search("wing flow heat", 1, pipeline="bm25", facets=["kind"])
    matching = [d for d in LIVE if {"wing", "flow", "heat"} & words(d) and d.id != "d1"]
    assert counted(answer, "kind") == expected(matching, "kind")
    newer.close()
