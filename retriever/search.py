"""Running a pipeline: first stages, fusion, local vectors, reranking, and an honest account of what happened."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retriever.calibration import Calibration, calibration_for
from retriever.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ModelFault,
    ModelOverloaded,
    ModelUnavailable,
    PromptTooLong,
)
from retriever.feedback import Frequencies, rm3, rocchio
from retriever.fusion import ordered, reciprocal_rank, weighted_minmax
from retriever.highlight import highlights
from retriever.index.fielded import in_fields
from retriever.llm.usage import OutOfTime
from retriever.pipeline import Fusion, Local, PipelineSpec, Rerank, Rm3, Rocchio
from retriever.types import Answer, Document, Explanation, Facets, Hit

if TYPE_CHECKING:
    from retriever.index.fielded import FieldTerm
    from retriever.index.query import Execution
    from retriever.index.sealed import Candidates, Index, Mask

log = logging.getLogger("retriever.search")

MAX_K = 10_000
MAX_QUERY_CHARACTERS = 32_768

# With a deadline the reranker is asked in portions this large, so that the clock is read in between.
RERANK_PORTION = 8

# What may go wrong with a model at any time, such as running out of device memory or having too much to do; an
# answer without it is worth having. A model that is not the index's or cannot be found is the caller's to know of.
FAULTS = (ModelFault, ModelUnavailable, DeadlineExceeded, RuntimeError)


@dataclass(frozen=True, slots=True)
class Request:
    """Everything but the query; see Index.batch_search."""

    k: int
    pipeline: PipelineSpec
    filter: Mapping[str, Any] | None
    group_by_parent: bool
    highlight: bool
    documents: bool
    offset: int
    deadline_ms: float | None
    syntax: bool = False
    facets: tuple[str, ...] = ()
    facet_values: int = 10
    explain: bool = False
    min_relevance: float | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("k", self.k, 1), ("offset", self.offset, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_K:
                raise InvalidInput(f"{name} must be a whole number from {least} to {MAX_K}, got {value!r}.")
        if self.k + self.offset > MAX_K:
            raise InvalidInput(f"k + offset must be at most {MAX_K}, got {self.k + self.offset}.")
        if self.deadline_ms is not None and not self.deadline_ms > 0:
            raise InvalidInput(f"deadline_ms must be above 0, got {self.deadline_ms!r}.")
        if self.min_relevance is not None and not 0 <= self.min_relevance <= 1:
            raise InvalidInput(f"min_relevance is a probability from 0 to 1, got {self.min_relevance!r}.")

    @property
    def wanted(self) -> int:
        return self.k + self.offset

    @property
    def depth(self) -> int:
        """How many candidates each first stage gives."""
        if len(self.pipeline.first) > 1 or self.group_by_parent:
            return max(self.pipeline.depth, self.wanted)
        later = (self.pipeline.local, self.pipeline.rerank)
        return max(self.wanted, *(stage.depth for stage in later if stage), 0)


@dataclass(slots=True)
class _State:
    """One query on its way through the stages; with `execution`, `query` holds only its words, for models."""

    query: str
    answer: Answer
    started: float
    found: dict[str, "Candidates"] = field(default_factory=dict)
    ranking: list[tuple[str, float]] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    terms: list[str] = field(default_factory=list)
    weights: "Mapping[FieldTerm, float]" = field(default_factory=dict)
    execution: "Execution | None" = None

    def warn(self, warning: str) -> None:
        if warning not in self.answer.warnings:
            self.answer.warnings.append(warning)

    def degrade(self, stage: str, fault: Exception) -> None:
        """Note that the answer does without a stage, and why."""
        late = isinstance(fault, DeadlineExceeded)
        # Those come with load, by the thousand, and say all in the answer.
        if not late and not isinstance(fault, ModelOverloaded):
            log.warning("%s failed: %s", stage, fault)
        self.answer.degraded.append(f"{stage}_timeout" if late else f"{stage}_failed")
        if isinstance(fault, ModelUnavailable):
            busy = isinstance(fault, ModelOverloaded)
            self.warn(f"{stage}_overloaded" if busy else f"{stage}_unavailable")

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.answer.timings[stage] = (time.perf_counter() - started) * 1e3


def run(index: "Index", queries: Sequence[str], request: Request, name: str) -> list[Answer]:
    """Answer each query by the pipeline of the request."""
    started = time.perf_counter()
    calibration = _calibration(index, request, name)
    states = [_state(index, query, name, started, request.syntax) for query in queries]
    mask = None
    if request.filter is not None:
        mask = index.mask(request.filter)
        filtering = (time.perf_counter() - started) * 1e3
        for state in states:
            state.answer.timings["filter"] = filtering
    if request.syntax:
        if request.pipeline.feedback is not None:
            raise InvalidInput("feedback changes the words of a query and its syntax fixes them; use one of both.")
        for state in states:
            _execute(index, state, request, mask)
    if "dense" in request.pipeline.first:
        _dense(index, states, request, mask)
    if "sparse" in request.pipeline.first:
        _sparse(index, states, request, mask)
    local = request.pipeline.local
    vectors = _local_vectors(index, states, request) if local else None
    batch_time = time.perf_counter() - started
    for number, state in enumerate(states):
        # The shared work above counts for every query in equal parts.
        state.started = time.perf_counter() - batch_time / len(states)
        if "bm25" in request.pipeline.first:
            _bm25(index, state, request, mask)
            if not state.terms:
                state.warn("no_terms")
        rankings = _rankings(state, request.pipeline)
        if local and local.of == "dense" and vectors is not None and "dense" in rankings:
            rankings["dense"] = _local(index, state, rankings["dense"], local, vectors[number], request.deadline_ms)
        _fuse(state, rankings, request.pipeline)
        if request.facets:
            _count(index, state, request, mask)
        if local and local.of == "all" and vectors is not None:
            state.ranking = _local(index, state, state.ranking, local, vectors[number], request.deadline_ms)
        if request.pipeline.rerank is not None:
            _rerank(index, state, request.pipeline.rerank, request.deadline_ms)
        _finish(index, state, request, calibration)
    return [state.answer for state in states]


def _calibration(index: "Index", request: Request, name: str) -> Calibration | None:
    found = calibration_for(index.manifest.calibrations, request.pipeline)
    if found is None and request.min_relevance is not None:
        raise InvalidInput(
            f"min_relevance needs scores calibrated as probabilities, and the index has no calibration for the "
            f"pipeline {name!r} with these stages; make one from judged queries with `retriever index calibrate`, or "
            "leave it out."
        )
    return found


def _state(index: "Index", query: str, name: str, started: float, syntax: bool) -> _State:
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput("the query is empty; give at least one word.")
    answer = Answer([], pipeline=name, generation=index.generation)
    # In the syntax a part of a query is another query; there the parser refuses what is too long.
    if len(query) > MAX_QUERY_CHARACTERS and not syntax:
        query = query[:MAX_QUERY_CHARACTERS]
        answer.truncated = True
    return _State(query, answer, started)


def _bm25(index: "Index", state: _State, request: Request, mask: "Mask | None") -> None:
    """Search by words; with feedback a first time for the documents to learn from, however many hits are asked for."""
    feedback, depth, field_weights = request.pipeline.feedback, request.depth, request.pipeline.field_weights
    if state.execution is not None:
        with state.timed("bm25"):
            state.found["bm25"] = index.best_of_query(state.execution, depth)
        state.weights = state.execution.flat_weights() or {}
        return
    if feedback is not None:
        depth = feedback.documents
        if isinstance(feedback, Rocchio) and feedback.last_documents:
            depth = feedback.first_depth
    with state.timed("bm25"):
        found, state.terms = index.search_bm25(state.query, depth, mask, field_weights)
    if feedback is not None:
        with state.timed("feedback"):
            expanded = _expanded(index, state.query, found, feedback)
            found = index.search_terms(expanded, request.depth, mask, field_weights)
        state.weights = in_fields(expanded, field_weights)
    elif request.explain or request.facets:
        state.weights = index.query_terms(state.query, field_weights)
    state.found["bm25"] = found


def _expanded(index: "Index", query: str, found: "Candidates", feedback: Rm3 | Rocchio) -> dict[str, float]:
    """Return the query's terms and those of the documents' contents, with weights."""
    assert index.analyser is not None
    rows, last = found.rows[: feedback.documents], []
    if isinstance(feedback, Rocchio) and feedback.last_documents:
        last = found.rows[feedback.documents :][-feedback.last_documents :]
    texts = index.documents([*rows, *last])
    counts = {row: Counter(index.analyser.terms(document.content)) for row, document in texts.items()}
    terms = sorted(set().union(*counts.values()))
    frequencies = Frequencies(
        index.document_count, dict(zip(terms, index.document_frequency(terms).tolist(), strict=True))
    )
    words = dict(Counter(index.analyser.terms(query)))
    documents = [counts[row] for row in rows]
    if isinstance(feedback, Rm3):
        return rm3(
            words, documents, found.scores[: len(rows)], frequencies, terms=feedback.terms,
            original_weight=feedback.original_weight, filter_terms=feedback.filter_terms,
        )  # fmt: skip
    return rocchio(
        words, documents, frequencies, last=[counts[row] for row in last], terms=feedback.terms,
        alpha=feedback.alpha, beta=feedback.beta, gamma=feedback.gamma,
    )  # fmt: skip


def _execute(index: "Index", state: _State, request: Request, mask: "Mask | None") -> None:
    """Read a query of the syntax and find what it matches."""
    with state.timed("syntax"):
        execution = index.execute_query(state.query, mask, request.pipeline.field_weights)
    state.execution, state.query, state.terms = execution, execution.plan.words, execution.terms
    if execution.plan.without_terms:
        state.warn(f"clauses_without_terms:{execution.plan.without_terms}")
    if not execution.exact:
        state.answer.exact = False
        state.warn("phrase_candidates_cut")


@contextmanager
def _degrading(states: Sequence[_State], request: Request, stage: str) -> Iterator[None]:
    """Let a fault of a model only degrade the answers while another first stage is left to answer with."""
    try:
        yield
    except FAULTS as fault:
        # No later stage has run yet: what the answers lack so far are first stages.
        lacking = max((len(state.answer.degraded) for state in states), default=0) + 1
        if lacking == len(request.pipeline.first):
            raise
        for state in states:
            state.degrade(stage, fault)


def _in_time(encoder: Any, queries: Sequence[str], states: Sequence[_State], request: Request) -> Any:
    """Encode queries. Raises DeadlineExceeded when the deadline passes first.

    Only encoders that share their model with other requests can be left waiting.
    """
    if request.deadline_ms is None or not states or not hasattr(encoder, "encode_queries_until"):
        return encoder.encode_queries(queries)
    found = encoder.encode_queries_until(queries, states[0].started + request.deadline_ms / 1e3)
    if found is None:
        raise DeadlineExceeded(
            f"the deadline of {request.deadline_ms:.0f} ms passed before the query was encoded; allow more, or ask for "
            "a pipeline with bm25."
        )
    return found


def _dense(index: "Index", states: Sequence[_State], request: Request, mask: "Mask | None") -> None:
    """Encode all queries together and search; with another first stage left, a failure only degrades."""
    queries = [state.query for state in states]
    with _degrading(states, request, "dense"):
        encoder = index.encoder
        if encoder is None:
            raise InvalidInput(f"{index.path} has no vectors; build it with --parts bm25,dense.")
        started = time.perf_counter()
        counts = encoder.count_tokens(queries)
        vectors = _in_time(encoder, queries, states, request)
        encoded = time.perf_counter()
        if not np.isfinite(vectors).all():
            raise ModelFault(f"the encoder gave a vector that is not finite for one of {queries[:3]!r}.")
        if request.syntax:
            found, exact = _dense_within(index, states, vectors, request.depth)
        else:
            found, exact = index.search_dense(vectors, request.depth, mask)
        searched = time.perf_counter()
        for state, candidates, count in zip(states, found, counts, strict=True):
            state.found["dense"] = candidates
            state.answer.exact &= exact
            _note_unencoded(index, state)
            state.answer.truncated |= count > encoder.max_tokens
            state.answer.timings["encode"] = (encoded - started) * 1e3 / len(states)
            state.answer.timings["dense"] = (searched - encoded) * 1e3 / len(states)


def _note_unencoded(index: "Index", state: _State) -> None:
    """Say that a model did not see documents whose vectors are still to be made."""
    if index.manifest.unencoded:
        state.answer.exact = False
        state.warn(f"pending_encoding:{index.manifest.unencoded}")


def _dense_within(
    index: "Index", states: Sequence[_State], vectors: NDArray[np.float32], depth: int
) -> tuple[list["Candidates"], bool]:
    """Search among the documents that fulfil each query."""
    found, exact = [], True
    for number, state in enumerate(states):
        matching = state.execution.masks() if state.execution else None
        part, was_exact = index.search_dense(vectors[number : number + 1], depth, matching)
        found += part
        exact &= was_exact
    return found, exact


def _sparse(index: "Index", states: Sequence[_State], request: Request, mask: "Mask | None") -> None:
    """Weigh the terms of all queries together and search; with another first stage left, a failure only degrades."""
    queries = [state.query for state in states]
    with _degrading(states, request, "sparse"):
        encoder = index.sparse_encoder
        if encoder is None:
            raise InvalidInput(f"{index.path} has no learned sparse part; build it with --parts bm25,sparse.")
        started = time.perf_counter()
        counts = encoder.count_tokens(queries)
        weights = _in_time(encoder, queries, states, request)
        encoding = (time.perf_counter() - started) * 1e3 / len(states)
        for query, terms in zip(queries, weights, strict=True):
            if not all(map(math.isfinite, terms.values())):
                raise ModelFault(f"the sparse encoder gave a weight that is not finite for {query!r}.")
        for state, terms, count in zip(states, weights, counts, strict=True):
            # In the syntax only what fulfils the query may be found.
            matching = state.execution.masks() if state.execution else mask
            with state.timed("sparse"):
                state.found["sparse"] = index.search_sparse(terms, request.depth, matching)
            _note_unencoded(index, state)
            state.answer.truncated |= count > encoder.max_tokens
            state.answer.timings["encode_sparse"] = encoding


def _rankings(state: _State, pipeline: PipelineSpec) -> dict[str, list[tuple[str, float]]]:
    """Return what each first stage found, and note its scores."""
    for stage in pipeline.first:
        if stage not in state.found:
            continue
        candidates = state.found[stage]
        for id_, score, row in zip(candidates.ids, candidates.scores, candidates.rows, strict=True):
            state.scores.setdefault(id_, {})[stage] = score
            state.rows[id_] = row
    return {stage: found.ranking() for stage, found in state.found.items()}


def _fuse(state: _State, rankings: Mapping[str, list[tuple[str, float]]], pipeline: PipelineSpec) -> None:
    if len(pipeline.first) == 1:
        (state.ranking,) = rankings.values()
        return
    with state.timed("fusion"):
        state.ranking = fuse(rankings, pipeline.fusion)
    for id_, score in state.ranking:
        state.scores[id_]["fusion"] = score


def fuse(rankings: Mapping[str, list[tuple[str, float]]], fusion: Fusion) -> list[tuple[str, float]]:
    """Fuse first-stage rankings as a pipeline says."""
    if fusion.method == "rrf":
        return reciprocal_rank(rankings, constant=fusion.constant, weights=fusion.weights)
    return weighted_minmax(rankings, weights=fusion.weights)


def _local_vectors(index: "Index", states: Sequence[_State], request: Request) -> NDArray[np.float32] | None:
    """Return the vectors of queries by the local encoder; None, and so noted, where there are none for once."""
    encoder = index.local_encoder
    if encoder is None:
        raise InvalidInput(f"{index.path} has no local vectors; build it with --local-encoder MODEL.")
    queries = [state.query for state in states]
    started = time.perf_counter()
    try:
        counts = encoder.count_tokens(queries)
        vectors: NDArray[np.float32] = _in_time(encoder, queries, states, request)
        if not np.isfinite(vectors).all():
            raise ModelFault(f"the local encoder gave a vector that is not finite for one of {queries[:3]!r}.")
    except FAULTS as fault:
        for state in states:
            state.degrade("local", fault)
        return None
    for state, count in zip(states, counts, strict=True):
        _note_unencoded(index, state)
        state.answer.truncated |= count > getattr(encoder, "max_query_tokens", encoder.max_tokens)
        state.answer.timings["encode_local"] = (time.perf_counter() - started) * 1e3 / len(states)
    return vectors


def _local(
    index: "Index",
    state: _State,
    ranking: list[tuple[str, float]],
    local: Local,
    vector: NDArray[np.float32],
    deadline_ms: float | None,
) -> list[tuple[str, float]]:
    """Return a ranking with its best `depth` by their local and present scores, the others behind them.

    So is what has no vector. Where the stage fails the ranking stays as it is.
    """
    head = ranking[: local.depth]
    with state.timed("local"):
        deadline = None if deadline_ms is None else state.started + deadline_ms / 1e3
        try:
            found = index.local_scores(vector, [state.rows[id_] for id_, _ in head], deadline).tolist()
        except OutOfTime:
            state.answer.degraded.append("local_timeout")
            return ranking
        except FAULTS as fault:
            state.degrade("local", fault)
            return ranking
        scores: dict[str, float] = {}
        for (id_, before), score in zip(head, found, strict=True):
            if not math.isnan(score):
                state.scores[id_]["local"] = score
                scores[id_] = score + local.weight * before
        return _begun_by(ranking, ordered(scores))


def _begun_by(ranking: list[tuple[str, float]], new: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return a ranking that begins with documents in a new order.

    The others keep their order, and their distance among each other, below the lowest new score.
    """
    if not new:
        return ranking
    chosen = {id_ for id_, _ in new}
    rest = [(id_, score) for id_, score in ranking if id_ not in chosen]
    floor = new[-1][1] - 1.0
    top = rest[0][1] if rest else 0.0
    return [*new, *((id_, floor - (top - score)) for id_, score in rest)]


def _rerank(index: "Index", state: _State, rerank: Rerank, deadline_ms: float | None) -> None:
    """Order the best `depth` by the reranker's and their present scores; the rest follow. A failure only degrades."""
    head = state.ranking[: rerank.depth]
    if not head:
        return
    reranker = index.ranker(rerank)
    with state.timed("rerank"):
        try:
            documents = index.documents([state.rows[id_] for id_, _ in head])
            texts = [documents[state.rows[id_]] for id_, _ in head]
            deadline = None if deadline_ms is None else state.started + deadline_ms / 1e3
            scored = _score_until(reranker, state.query, texts, deadline)
        except (*FAULTS, BackendUnavailable) as fault:
            state.degrade("rerank", fault)
            return
        except PromptTooLong:
            # What is searched for may be long; that a ranker cannot read it must not cost the answer.
            state.answer.degraded.append("rerank_prompt_too_long")
            return
    if not scored.complete:
        state.answer.degraded.append("rerank_timeout")
    state.answer.usage = scored.usage
    state.answer.truncated |= scored.query_cut
    scores, truncated = scored.scores, scored.truncated
    # What was scored in time; the documents without a score are the last ones.
    head = head[: len(scores)]
    if not head:
        return
    if not np.isfinite(scores).all() or (len(scores) > 2 and len(set(scores)) == 1):
        state.answer.degraded.append("rerank_constant_or_nan")
        return
    if truncated:
        state.warn(f"rerank_truncated_documents:{truncated}")
    new = ordered(dict(zip((id_ for id_, _ in head), scores, strict=True)))
    for id_, score in new:
        state.scores[id_]["rerank"] = score
    if rerank.weight < 1:
        new = weighted_minmax(
            {"first": head, "rerank": new}, weights={"first": 1 - rerank.weight, "rerank": rerank.weight}
        )
    state.ranking = _begun_by(state.ranking, new)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of the first documents, of all where the reranker had the time; see `retriever.llm.rankers.Ranked`."""

    scores: list[float] = field(default_factory=list)
    truncated: int = 0
    complete: bool = True
    query_cut: bool = False
    usage: dict[str, int] = field(default_factory=dict)


def _score_until(reranker: Any, query: str, documents: Sequence[Document], deadline: float | None) -> _Scored:
    """Return the scores of documents, or what of them there is when the deadline passes on the way."""
    if hasattr(reranker, "rank"):
        ranked = reranker.rank(query, documents, deadline)
        return _Scored(
            ranked.scores.tolist(), ranked.truncated, ranked.complete, ranked.query_cut, ranked.usage.as_dict()
        )
    if deadline is None:
        scores, truncated = reranker.score(query, documents)
        return _Scored([float(score) for score in scores], truncated)
    if hasattr(reranker, "score_until"):
        found: tuple[list[float], int] | None = reranker.score_until(query, documents, deadline)
        return _Scored(*found) if found is not None else _Scored(complete=False)
    collected: list[float] = []
    truncated = 0
    for start in range(0, len(documents), RERANK_PORTION):
        if time.perf_counter() > deadline:
            return _Scored(complete=False)
        part, cut = reranker.score(query, documents[start : start + RERANK_PORTION])
        collected += [float(score) for score in part]
        truncated += cut
    return _Scored(complete=False) if time.perf_counter() > deadline else _Scored(collected, truncated)


def _count(index: "Index", state: _State, request: Request, mask: "Mask | None") -> None:
    """Count the facets over what matches; see `retriever.types.Facets`."""
    with state.timed("facets"):
        complete = True
        if state.execution is not None:
            matching = state.execution.masks()
            complete = state.execution.exact
        else:
            terms = list(state.weights) if "bm25" in request.pipeline.first else []
            matching = (
                index.holding(terms, mask)
                if terms
                else [np.zeros(segment.documents, np.bool_) for segment in index.segments]
            )
            for stage, found in state.found.items():
                if stage != "bm25":
                    complete &= len(found.rows) < request.depth
                    index.add_rows(matching, found.rows)
        state.answer.facets = Facets(
            {name: index.count_values(name, matching, request.facet_values) for name in request.facets},
            sum(int(np.count_nonzero(part)) for part in matching),
            complete,
        )


def _relevance(state: _State, request: Request, calibration: Calibration) -> dict[str, float]:
    """Return the probability of each document that the last stage scored; leave out what falls below the least one."""
    if state.answer.degraded:
        # Scores of other stages than those of the calibration.
        state.warn("not_calibrated")
        return {}
    last = request.pipeline.last
    ids = [id_ for id_, _ in state.ranking if last is None or last in state.scores[id_]]
    values = calibration.curve.relevance([score for _, score in state.ranking[: len(ids)]])
    found = dict(zip(ids, values.tolist(), strict=True))
    if request.min_relevance is not None:
        least = request.min_relevance
        state.ranking = [(id_, score) for id_, score in state.ranking if found.get(id_, -1.0) >= least]
    return found


def _finish(index: "Index", state: _State, request: Request, calibration: Calibration | None) -> None:
    """Cut the page out of the ranking and dress the hits."""
    answer = state.answer
    relevance = _relevance(state, request, calibration) if calibration else {}
    with state.timed("documents"):
        if request.group_by_parent:
            hits, documents = _grouped(index, state, request)
        else:
            page = state.ranking[request.offset : request.wanted]
            rows = [state.rows[id_] for id_, _ in page]
            needed = request.documents or request.highlight or request.explain
            documents = index.documents(rows) if needed else {}
            hits = [
                Hit(id_, score, state.scores[id_], documents.get(row))
                for (id_, score), row in zip(page, rows, strict=True)
            ]
    for hit in hits:
        hit.relevance = relevance.get(hit.document.id if hit.document is not None else hit.id)
    if request.highlight and index.analyser is not None:
        with state.timed("highlight"):
            terms = set(state.terms if state.execution else index.analyser.terms(state.query))
            for hit in hits:
                if hit.document is not None:
                    hit.highlights = highlights(hit.document.text, terms, index.analyser)
    if request.explain:
        with state.timed("explain"):
            _explain(index, state, hits)
    answer.hits = hits
    answer.timings["total"] = (time.perf_counter() - state.started) * 1e3


def _explain(index: "Index", state: _State, hits: Sequence[Hit]) -> None:
    ranks = {stage: {id_: rank for rank, id_ in enumerate(found.ids, 1)} for stage, found in state.found.items()}
    for stage in ("fusion", "local", "rerank"):
        scored = [(id_, scores[stage]) for id_, scores in state.scores.items() if stage in scores]
        scored.sort(key=lambda pair: (-pair[1], pair[0]))
        if scored:
            ranks[stage] = {id_: rank for rank, (id_, _) in enumerate(scored, 1)}
    for hit in hits:
        # With group_by_parent the hit bears the parent's id, the stages saw the chunk.
        id_ = hit.document.id if hit.document is not None else hit.id
        hit.explanation = Explanation({stage: places[id_] for stage, places in ranks.items() if id_ in places})
        if "bm25" in hit.scores and state.weights and hit.document is not None:
            hit.explanation.terms = index.explain_terms(state.weights, hit.document)


def _grouped(index: "Index", state: _State, request: Request) -> tuple[list[Hit], dict[int, Document]]:
    """Keep the best chunk of each parent, reading documents only as far down as needed."""
    hits: dict[str, Hit] = {}
    documents: dict[int, Document] = {}
    for start in range(0, len(state.ranking), 200):
        part = state.ranking[start : start + 200]
        found = index.documents([state.rows[id_] for id_, _ in part])
        documents |= found
        for id_, score in part:
            # A record that is missing costs its hit the text, here as in a search without groups.
            document = found.get(state.rows[id_])
            parent = document.parent or id_ if document is not None else id_
            if parent not in hits:
                hits[parent] = Hit(parent, score, state.scores[id_], document)
        if len(hits) >= request.wanted:
            break
    return list(hits.values())[request.offset : request.wanted], documents
