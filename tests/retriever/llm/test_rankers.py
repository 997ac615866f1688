"""Rankers with a judge whose truth is known: counts, order, bias, caches, stops; and the stage of a pipeline."""

import itertools
import random

import numpy as np
import pytest
from pydantic import ValidationError

from retriever.errors import InvalidInput, ModelFault
from retriever.index.sealed import Loader, open_index
from retriever.llm.cache import AnswerCache, key_of
from retriever.llm.causal import CausalModel
from retriever.llm.judge import Judge, preferred
from retriever.llm.rankers import LanguageRanker
from retriever.pipeline import PipelineSpec, Rerank, read_pipelines
from retriever.protocols import Reranker
from retriever.types import Document
from tests.retriever.llm.models import save_model
from tests.retriever.llm.stub import Stub

VALUES = [3.0, 9.0, 1.0, 7.5, 4.0, 8.0, 2.0]


def documents(values):
    return [Document(f"d{place}", f"{value} is my worth") for place, value in enumerate(values)]


def ranker(model, kind="pairwise", **options):
    return LanguageRanker(Judge(model), Rerank(model="stub", kind=kind, **options))


def order_of(scores):
    return sorted(range(len(scores)), key=lambda place: -scores[place])


TRUTH = order_of(VALUES)


@pytest.mark.parametrize("mode", ["scoring", "generation"])
@pytest.mark.parametrize("both_orders", [True, False])
@pytest.mark.parametrize("strategy", ["all_pairs", "heap", "sliding"])
def test_a_perfect_judge_gives_the_true_order_at_the_known_cost(strategy, both_orders, mode):
    model = Stub()
    found = ranker(model, strategy=strategy, passes=6, best=7, mode=mode, both_orders=both_orders).rank(
        "query", documents(VALUES), None
    )
    assert order_of(found.scores) == TRUTH
    assert sorted(found.scores.tolist()) == list(range(7))
    assert found.complete
    ways = 2 if both_orders else 1
    usage = found.usage
    assert usage.calls == model.asked
    assert usage.calls + usage.cached == ways * usage.comparisons
    assert usage.ties == usage.invalid == 0
    if strategy == "all_pairs":
        assert usage.calls == ways * 7 * 6 // 2
        assert usage.cached == 0
    if strategy == "sliding":
        assert usage.calls + usage.cached == ways * 6 * 6


def test_one_pass_costs_two_calls_a_neighbour():
    found = ranker(Stub(), passes=1).rank("query", documents(VALUES), None)
    assert (found.usage.calls, found.usage.cached) == (2 * 6, 0)
    assert order_of(found.scores)[0] == TRUTH[0]


@pytest.mark.parametrize("strategy", ["all_pairs", "heap", "sliding"])
def test_a_judge_that_sees_the_place_alone_decides_nothing(strategy):
    found = ranker(Stub(bias=100.0), strategy=strategy).rank("query", documents(VALUES), None)
    assert found.usage.ties == found.usage.comparisons > 0
    # Constant scores, which a pipeline does not take for a ranking.
    assert set(found.scores.tolist()) == {0.0}
    two, _ = ranker(Stub(bias=100.0)).score("query", documents([1, 2]))
    assert two.tolist() == [1.0, 0.0]


def inversions(order):
    return sum(VALUES[a] < VALUES[b] for a, b in itertools.combinations(order, 2))


@pytest.mark.parametrize("strategy", ["all_pairs", "heap", "sliding"])
@pytest.mark.parametrize("both_orders", [True, False])
def test_taking_off_the_bias_helps_only_where_there_is_one(strategy, both_orders):
    options = {"strategy": strategy, "passes": 6, "best": 7, "both_orders": both_orders}
    wrong = {}
    for bias in (0.0, 3.0):
        for debias in (False, True):
            found = ranker(Stub(bias=bias), debias=debias, **options).rank("query", documents(VALUES), None)
            wrong[bias, debias] = inversions(order_of(found.scores))
    assert wrong[0.0, False] == wrong[0.0, True] == wrong[3.0, True] == 0
    assert wrong[3.0, False] > 0


@pytest.mark.parametrize("strategy", ["all_pairs", "heap", "sliding"])
def test_probabilities_of_both_orders_know_no_place(strategy):
    options = {"strategy": strategy, "passes": 6, "best": 7, "soft": True}
    for seed in range(3):
        shuffled = random.Random(seed).sample(VALUES, 7)
        found = ranker(Stub(bias=100.0), **options).rank("query", documents(shuffled), None)
        assert [shuffled[place] for place in order_of(found.scores)] == sorted(VALUES, reverse=True)
        assert found.usage.ties == 0


@pytest.mark.parametrize(("soft", "order"), [(True, [1, 0, 2]), (False, [0, 1, 2])])
def test_a_circle_of_winners_is_opened_by_how_sure_they_are(soft, order):
    """0 beats 1 and 2 beats 0, both barely; 1 beats 2 clearly."""

    class Circle(Stub):
        def _difference(self, prompt):
            first, second = map(int, self._numbers(prompt))
            return {(0, 1): 0.4, (2, 0): 0.4, (1, 2): 2.0}.get((first, second), 0.0) - {
                (1, 0): 0.4, (0, 2): 0.4, (2, 1): 2.0}.get((first, second), 0.0)  # fmt: skip

    scores, _ = ranker(Circle(), strategy="all_pairs", soft=soft).score("query", documents([0, 1, 2]))
    assert order_of(scores) == order


def test_all_pairs_does_not_depend_on_the_order_before_and_one_pass_does():
    found = {"all_pairs": set(), "sliding": set()}
    for seed in range(5):
        shuffled = random.Random(seed).sample(VALUES, 7)
        for strategy, orders in found.items():
            scores, _ = ranker(Stub(bias=0.25), strategy=strategy).score("query", documents(shuffled))
            orders.add(tuple(shuffled[place] for place in order_of(scores)))
    # A bias smaller than all differences changes nothing.
    assert found["all_pairs"] == {tuple(sorted(VALUES, reverse=True))}
    assert len(found["sliding"]) > 1
    assert {order[0] for order in found["sliding"]} == {9.0}


def test_sums_and_means_of_likelihoods_rank_alike():
    for reduction, factor in (("sum", 3), ("mean", 1)):
        found = ranker(Stub(), "query_likelihood", reduction=reduction).rank("one two three", documents(VALUES), None)
        np.testing.assert_allclose(found.scores, np.array(VALUES) * factor)
        assert found.usage.calls == 7


def test_yes_or_no_is_a_difference():
    scores, _ = ranker(Stub(bias=0.5), "yes_no").score("query", documents(VALUES))
    np.testing.assert_allclose(scores, np.array(VALUES) + 0.5)


@pytest.mark.parametrize("kind", ["query_likelihood", "yes_no", "pairwise"])
def test_what_was_asked_is_not_asked_again(kind):
    model = Stub()
    found = ranker(model, kind)
    assert isinstance(found, Reranker)
    first = found.rank("query", documents(VALUES), None)
    again = found.rank("query", documents(VALUES), None)
    assert first.scores.tolist() == again.scores.tolist()
    assert again.usage.calls == 0
    assert again.usage.cached == first.usage.calls + first.usage.cached
    assert again.usage.prompt_tokens == 0
    assert found.rank("other", documents(VALUES), None).usage.calls == first.usage.calls
    # Equal documents are one question.
    assert ranker(Stub(), "yes_no").rank("query", documents([5, 5, 5]), None).usage.calls == 1


def test_a_cache_forgets_the_oldest():
    cache = AnswerCache(2)
    for number in range(3):
        cache.put(key_of("a", str(number)), float(number))
        cache.get(key_of("a", "0"))
    assert len(cache) == 2
    assert [cache.get(key_of("a", str(number))) for number in range(3)] == [0.0, None, 2.0]
    assert key_of("ab", "c") != key_of("a", "bc")


@pytest.mark.parametrize("kind", ["query_likelihood", "yes_no"])
def test_pointwise_what_is_scored_in_time_is_kept(kind):
    values = list(range(20))
    found = ranker(Stub(stop=16), kind).rank("query", documents(values), 1e12)
    assert not found.complete
    np.testing.assert_allclose(found.scores, values[:16])
    assert found.usage.calls == 16
    assert ranker(Stub(stop=0), kind).rank("query", documents(values), 1e12).scores.tolist() == []


def test_pairwise_the_order_so_far_is_kept():
    found = ranker(Stub(stop=6)).rank("query", documents(range(7)), 1e12)
    assert not found.complete
    # Three comparisons carried the last one up by three.
    assert order_of(found.scores) == [0, 1, 2, 6, 3, 4, 5]
    for strategy in ("sliding", "heap", "all_pairs"):
        nothing = ranker(Stub(stop=1), strategy=strategy).rank("query", documents(VALUES), 1e12)
        assert not nothing.complete
        assert nothing.scores.tolist() == []
    late = ranker(Stub(), debias=True).rank("query", documents(VALUES), 0.0)
    assert (late.complete, late.usage.calls) == (False, 0)


@pytest.mark.parametrize("kind", ["query_likelihood", "yes_no", "pairwise"])
@pytest.mark.parametrize("count", [0, 1])
def test_few_documents(kind, count):
    found = ranker(Stub(), kind).rank("query", documents(VALUES[:count]), None)
    assert found.scores.shape == (count,)
    assert found.complete


@pytest.mark.parametrize("kind", ["query_likelihood", "yes_no", "pairwise"])
def test_numbers_that_are_not_finite_are_a_fault(kind):
    with pytest.raises(ModelFault, match="not finite"):
        ranker(Stub(value=float("nan")), kind).score("query", documents(VALUES))


def test_what_is_cut_is_counted():
    found = ranker(Stub(), "yes_no", document_tokens=8, query_tokens=2).rank(
        "three words here", [Document("a", "1 " * 9), Document("b", "2 two")], None
    )
    assert (found.truncated, found.query_cut) == (1, True)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Passage A", 1),
        (" passage b.", -1),
        ("**Passage B** is better than Passage A", -1),
        ("B", -1),
        ('"A".', 1),
        ("A passage about tea", 0),
        ("The better one is Passage A.", 1),
        ("Both Passage A and Passage B", 0),
        ("", 0),
        ("Yes", 0),
        ("Passage C", 0),
    ],
)
def test_what_an_answer_names(answer, value):
    assert preferred(answer) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "heap"}, "strategy is no option of kind cross_encoder"),
        ({"kind": "yes_no", "passes": 2}, "passes is no option of kind yes_no"),
        ({"kind": "pairwise", "reduction": "mean"}, "reduction is no option of kind pairwise"),
        ({"kind": "pairwise", "depth": 201}, "depth must be at most 200"),
        ({"kind": "pairwise", "depth": 51, "strategy": "all_pairs"}, "use sliding or heap"),
        ({"kind": "pairwise", "debias": True, "mode": "generation"}, "debias needs the numbers"),
        ({"kind": "pairwise", "soft": True, "mode": "generation"}, "soft needs the numbers"),
        ({"kind": "yes_no", "soft": True}, "soft is no option of kind yes_no"),
        ({"kind": "query_likelihood", "backend": "endpoint"}, "does not tell how likely"),
        ({"kind": "yes_no", "backend": "endpoint", "precision": "float32"}, "its own precision; leave out float32"),
        ({"precision": "bfloat16"}, "precision is no option of kind cross_encoder"),
        ({"kind": "listwise"}, "cross_encoder"),
        ({"kind": "pairwise", "passes": 21}, "less than or equal to 20"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Rerank(model="m", **options)


def test_a_stage_is_read_from_a_text_or_a_file(tmp_path):
    assert Rerank.read("my-reranker") == Rerank(model="my-reranker")
    assert Rerank.read("folder:with/colon", depth=5) == Rerank(model="folder:with/colon", depth=5)
    assert Rerank.read("pairwise:org/m") == Rerank(model="org/m", kind="pairwise", depth=20)
    assert Rerank.read("yes_no+endpoint:gpt") == Rerank(model="gpt", kind="yes_no", backend="endpoint")
    halved = Rerank.read("query_likelihood+bfloat16:m")
    assert halved == Rerank(model="m", kind="query_likelihood", precision="bfloat16")
    assert halved.loaded != Rerank.read("query_likelihood:m").loaded
    for text in ("yes_no+cloud:gpt", "query_likelihood+float16:m", "pairwise+:m"):
        with pytest.raises(
            InvalidInput, match=r"precision \(float32, bfloat16\) or a backend \(transformers, endpoint\), not"
        ):
            Rerank.read(text)
    file = tmp_path / "p.yaml"
    file.write_text("asked: {first: [bm25], rerank: {kind: pairwise, model: m, passes: 2, mode: generation}}")
    (spec,) = read_pipelines(file).values()
    assert spec.rerank == Rerank(model="m", kind="pairwise", depth=20, passes=2, mode="generation")
    assert PipelineSpec.model_validate(spec.model_dump()) == spec


def test_one_model_is_loaded_once_for_each_precision(tmp_path):
    loader, folder = Loader(), str(save_model(tmp_path / "m"))
    stages = [
        Rerank(model=folder, kind=kind, precision=p) for kind in ("yes_no", "pairwise") for p in (None, "bfloat16")
    ]
    judges = [loader.ranker(stage, device="cpu", offline=True)._judge for stage in stages]
    assert [judge.model.precision for judge in judges] == ["float32", "bfloat16"] * 2
    assert judges[:2] == judges[2:]


@pytest.fixture
def index(small_index):
    with open_index(small_index) as opened:
        yield opened


def put(index, model):
    """Make the pipelines of an index ask `model`."""
    index._models.loader._judges["transformers", "stub", None] = Judge(model)


class Longest(Stub):
    """Prefers long passages."""

    def _numbers(self, prompt):
        import re

        return [float(len(found)) for found in re.findall(r"(?s)Passage[ AB]*: (.*?)(?=\n\n|\n[DWA]|$)", prompt.user)]


def spec(**options):
    return PipelineSpec(first=("bm25",), rerank=Rerank(model="stub", **options))


@pytest.mark.parametrize("kind", ["query_likelihood", "yes_no", "pairwise"])
def test_a_pipeline_says_what_it_asked(index, kind):
    put(index, Longest())
    plain = index.search("read a file", 20, pipeline="bm25").ranking()
    answer = index.search("read a file", 20, pipeline=spec(kind=kind, depth=5))
    assert answer.status == "exact"
    assert {hit.id for hit in answer.hits[:5]} == {id_ for id_, _ in plain[:5]}
    assert [hit.id for hit in answer.hits[5:]] == [id_ for id_, _ in plain[5:]]
    assert answer.usage["calls"] == (8 if kind == "pairwise" else 5)
    assert answer.usage["prompt_tokens"] > 0
    assert index.search("read a file", 20, pipeline="bm25").usage == {}


def test_a_pipeline_keeps_the_order_so_far_when_time_is_up(index):
    put(index, Longest(stop=8))
    plain = [id_ for id_, _ in index.search("read a file", 20, pipeline="bm25").ranking()]
    answer = index.search("read a file", 20, pipeline=spec(kind="yes_no", depth=16), deadline_ms=1e9)
    assert answer.degraded == ["rerank_timeout"]
    found = [hit.id for hit in answer.hits]
    assert set(found[:8]) == set(plain[:8])
    assert found[:8] != plain[:8]
    assert found[8:] == plain[8:]
    assert ["rerank" in hit.scores for hit in answer.hits] == [True] * 8 + [False] * 12
    put(index, Longest(stop=0))
    answer = index.search("read a file", 20, pipeline=spec(kind="pairwise"), deadline_ms=1e9)
    assert answer.degraded == ["rerank_timeout"]
    assert [hit.id for hit in answer.hits] == plain


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (Stub(value=float("nan")), "rerank_failed"),
        (Stub(value=1.0), "rerank_constant_or_nan"),
    ],
)
def test_a_pipeline_keeps_the_order_before_when_the_model_is_of_no_use(index, model, note):
    put(index, model)
    plain = [id_ for id_, _ in index.search("read a file", 20, pipeline="bm25").ranking()]
    answer = index.search("read a file", 20, pipeline=spec(kind="pairwise"))
    assert answer.degraded == [note]
    assert [hit.id for hit in answer.hits] == plain


@pytest.mark.parametrize("kind", ["query_likelihood", "pairwise"])
def test_a_query_longer_than_the_window_costs_the_ranking_alone(index, tmp_path, kind):
    put(index, CausalModel(save_model(tmp_path / "short", window=64), device="cpu"))
    query = " ".join(["read a file"] * 40)
    plain = [id_ for id_, _ in index.search(query, 20, pipeline="bm25").ranking()]
    answer = index.search(query, 20, pipeline=spec(kind=kind))
    assert answer.degraded == ["rerank_prompt_too_long"]
    assert [hit.id for hit in answer.hits] == plain
