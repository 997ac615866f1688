"""A cross-encoder from a bi-encoder: a softmax over each query's relevant document and mined negatives.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085; the softmax over hard negatives of the
first stage's own list is that of Gao, Dai and Callan 2021 ("LCE"), arXiv:2101.08751. What lies too near to the
relevant document is no negative: TopK-PercPos of NV-Retriever, arXiv:2407.15831.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from indexing.build import add_documents, build_index
from indexing.corpora import Corpus, open_corpus
from indexing.plan import BuildSettings
from retriever.encoder import DenseEncoder, Precision
from retriever.evaluation.collections import Collection
from retriever.index.sealed import Index, open_index
from retriever.models.folder import read_object
from retriever.pipeline import RERANK_WEIGHT, PipelineSpec, Rerank
from retriever.progress import Progress
from retriever.storage import write_atomically
from retriever.types import Run
from training import rankers
from training.candidates import Candidates
from training.collection import TrainingCollection
from training.evaluation import comparison, measured
from training.losses.contrastive import own_softmax
from training.negatives import with_negatives
from training.pairs import from_candidates, uniform
from training.rankers import RankedLists, Start, open_ranker
from training.recipe import Recipe
from training.settings import EncoderSettings, FitSettings
from training.task import Part, Task

INDEX = "index"
START = "start"
CANDIDATES = "candidates.npz"
MEASURES = ("nDCG@10", "RR@10")
# Searched together.
QUERIES = 64


class CrossEncoderSettings(EncoderSettings):
    """start           joint: `retriever.models.joint_bert`, which begins with the order of the base and keeps it
                    under what is learned; it needs a BERT with mean pooling. classifier: any body with a new layer
                    on its first token, which begins with chance
    joint_layers    of "joint": upper layers that read query and document together
    bridge          of "joint": added to the attention between the two
    dropout         of the model while it learns
    max_tokens      of query and document together in training
    read_tokens     of both together in use, kept in the model's folder
    max_documents   of each collection that are mined from: the relevant ones and a random choice of the others
    depth           negatives are drawn from so many best documents of BM25 and the base together
    positive_ratio  candidates whose cosine is not below this share of the relevant documents' mean are left out;
                    None keeps them: with the paper's 0.95 a joint start has next to nothing to learn, since its base
                    already ranks all that is left below the relevant document
    negatives       for each query and step
    max_eval_queries, eval_depth, weight
                    of the comparison with the first stage and with the untrained start: queries of each split,
                    documents that are reranked, and `rerank.weight`

    `head` and `similarity` are the base's as an encoder, `document_tokens` what it reads when it mines; `max_queries`
    is for each collection.
    """

    start: Start = "joint"
    joint_layers: int = Field(2, ge=0, le=100)
    bridge: float = Field(-2.0, ge=-20, le=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    max_tokens: int = Field(80, ge=16, le=8192)
    read_tokens: int = Field(160, ge=16, le=8192)
    document_tokens: int = Field(96, ge=4, le=8192)
    max_queries: int | None = Field(2500, ge=2)
    max_documents: int = Field(4000, ge=2)
    depth: int = Field(50, ge=1, le=1000)
    positive_ratio: float | None = Field(None, gt=0)
    negatives: int = Field(5, ge=1, le=100)
    max_eval_queries: int = Field(100, ge=2)
    eval_depth: int = Field(20, ge=1, le=1000)
    weight: float = Field(RERANK_WEIGHT, ge=0, le=1)
    fit: FitSettings = FitSettings(batch_size=4, learning_rate=1e-4, epochs=1, save_steps=100)


def train(task: Task[CrossEncoderSettings]) -> Path:
    """Mine in each collection with BM25 and the base together, then fit."""
    settings, collection = task.settings, task.collection
    found = []
    for part in task.parts:
        place = task.stages.run(_mining(part), partial(mine, task, part))
        found.append(_load(place))
    mined = pooled_candidates(found, [len(part.collection.documents) for part in task.parts])
    start = task.stages.run(START, partial(write_start, task))
    # So that the comparison reads as much with it as with the trained one.
    _state_read_tokens(start, settings.read_tokens)
    model = open_ranker(start, max_tokens=settings.max_tokens, seed=settings.seed, offline=task.offline)
    if settings.start == "joint":
        model.model.freeze_bi_encoder()

    def objective(lists: RankedLists) -> Any:
        return own_softmax(lists.scores, lists.relevant)

    draw = with_negatives(collection, settings.negatives, from_candidates(mined, uniform))
    folder = task.fit_ranker("cross-encoder", model, objective, draw, settings.fit)
    _state_read_tokens(folder, settings.read_tokens)
    return folder


def _mining(part: Part) -> str:
    return f"mine-{part.name}"


def mine(task: Task[CrossEncoderSettings], part: Part, folder: Path) -> dict[str, Any]:
    """Index a choice of the part's documents, and keep each query's best `depth` that are no likely positives."""
    settings, collection = task.settings, part.collection
    # Only the first split's: what is mined from does not depend on how many there are.
    chosen = choose_documents(part, held_out(part, settings)[:1], settings.max_documents, settings.seed)
    corpus = _write_corpus(folder, collection, chosen)
    encoder = open_encoder(task)
    plan = BuildSettings(parts=("bm25", "dense"), encoder=settings.base, duplicates="skip")
    build_index(corpus, folder / INDEX, plan, encoder=encoder, overwrite=True, quiet=False)
    with open_index(folder / INDEX, encoder=encoder) as index:
        found = hard_negatives(index, collection, settings.depth, settings.positive_ratio)
    _save(found, folder / CANDIDATES)
    return {"documents": len(chosen), "queries": len(found), "candidates": len(found.documents)}


def _write_corpus(folder: Path, collection: TrainingCollection, rows: list[int]) -> Corpus:
    """Write documents into a folder as a corpus to index."""
    path = folder / "corpus.jsonl"
    lines = [
        {"_id": document.id, "title": document.title, "text": document.text}
        for document in (collection.documents[row] for row in rows)
    ]
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
    return open_corpus(str(path))


def open_encoder(task: Task[CrossEncoderSettings]) -> DenseEncoder:
    """Return the base as it mines."""
    base = task.open_base()
    base.max_seq_length = task.settings.document_tokens
    precision: Precision = "bfloat16" if task.settings.fit.precision == "bfloat16" else "float32"
    return DenseEncoder(base, name=task.settings.base, precision=precision)


def held_out(part: Part, settings: CrossEncoderSettings) -> list[Collection]:
    """Return what the comparison is made on: queries of each split that is not learned from."""
    return [draw_queries(split, settings.max_eval_queries, settings.seed) for split in part.held_out]


def choose_documents(part: Part, judged: list[Collection], most: int, seed: int) -> list[int]:
    """Return rows, ascending: what is relevant to a query of the part or of `judged`, and others up to `most`."""
    collection = part.collection
    rows = collection.corpus.rows
    needed = set(collection.judgments.documents.tolist())
    for split in judged:
        for graded in split.qrels.values():
            needed |= {rows[id_] for id_, grade in graded.items() if grade > 0 and id_ in rows}
    others = np.setdiff1d(np.arange(len(collection.documents)), sorted(needed))
    wanted = max(0, min(len(others), most - len(needed)))
    extra = np.random.default_rng(seed).choice(others, wanted, replace=False)
    return sorted([*needed, *extra.tolist()])


def hard_negatives(index: Index, collection: TrainingCollection, depth: int, ratio: float | None) -> Candidates:
    """Return for each query the best `depth` of the hybrid list that are neither relevant nor likely to be.

    A document with the text of a relevant one counts as relevant. With a ratio, a query whose relevant documents the
    base does not find at all gets no candidates: nothing can be said of the others then.
    """
    rows = collection.corpus.rows
    found, scores = [], []
    spec = PipelineSpec(first=("bm25", "dense"))
    with Progress("mining", len(collection.queries), quiet=False) as progress:
        for start in range(0, len(collection.queries), QUERIES):
            texts = collection.queries[start : start + QUERIES]
            for place, answer in enumerate(index.batch_search(texts, 1000, pipeline=spec, documents=False)):
                row = start + place
                relevant = {collection.documents[int(r)].id for r in collection.judgments.relevant(row)}
                barred = {collection.documents[int(r)].id for r in collection.barred.relevant(row)}
                cosines = {hit.id: hit.scores.get("dense", -np.inf) for hit in answer.hits}
                bound = _bound([cosines[id_] for id_ in relevant if id_ in cosines], ratio)
                kept = [
                    (rows[hit.id], hit.score) for hit in answer.hits if hit.id not in barred and cosines[hit.id] < bound
                ][:depth]
                found.append(np.array([document for document, _ in kept], np.int32))
                scores.append(np.array([score for _, score in kept], np.float32))
            progress.advance(len(texts))
    offsets = np.cumsum([0, *map(len, found)]).astype(np.int64)
    return Candidates(offsets, np.concatenate(found), np.concatenate(scores))


def _bound(cosines: list[float], ratio: float | None) -> float:
    """Return what negatives must lie below, given the cosines of the relevant documents: a share of their mean."""
    if ratio is None:
        return np.inf
    known = [value for value in cosines if value > -np.inf]
    if not known:
        return -np.inf
    mean = float(np.mean(known))
    return mean - (1 - ratio) * abs(mean)


def pooled_candidates(parts: list[Candidates], documents: list[int]) -> Candidates:
    """Return the candidates of several collections as those of `training.collection.pooled`."""
    firsts = np.cumsum([0, *documents[:-1]])
    ends = np.cumsum([0, *(len(part.documents) for part in parts[:-1])])
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends, strict=True)]
    return Candidates(
        np.concatenate([*offsets, [sum(len(part.documents) for part in parts)]]).astype(np.int64),
        np.concatenate([part.documents + first for part, first in zip(parts, firsts, strict=True)]).astype(np.int32),
        np.concatenate([part.scores for part in parts]),
    )


def _save(candidates: Candidates, path: Path) -> None:
    """Write so that a crash leaves the whole file or none."""
    temporary = path.with_name(f".{path.name}.part.npz")
    np.savez(temporary, offsets=candidates.offsets, documents=candidates.documents, scores=candidates.scores)
    temporary.replace(path)


def _load(folder: Path) -> Candidates:
    with np.load(folder / CANDIDATES, allow_pickle=False) as arrays:
        return Candidates(arrays["offsets"], arrays["documents"], arrays["scores"])


def write_start(task: Task[CrossEncoderSettings], folder: Path) -> dict[str, Any]:
    """Write the cross-encoder that training starts from. Raises InvalidInput for a joint start of no BERT."""
    settings = task.settings
    return rankers.write_start(
        folder, settings.base, settings.start, setting="start", seed=settings.seed, bridge=settings.bridge,
        joint_layers=settings.joint_layers, dropout=settings.dropout, offline=task.offline,
    )  # fmt: skip


def _state_read_tokens(folder: Path, tokens: int) -> None:
    """Say in a model's folder how many tokens it reads."""
    for name in ("tokenizer_config.json", "sentence_bert_config.json"):
        path = folder / name
        if path.is_file():
            content = read_object(path)
            key = "model_max_length" if name.startswith("tokenizer") else "max_seq_length"
            write_atomically(path, json.dumps(content | {key: tokens}, indent=1).encode())


def compare(task: Task[CrossEncoderSettings], trained: Path) -> dict[str, Any]:
    """Return by collection and split the measures of the first stage and of its order reranked.

    Under "untrained" stands in each of them what the model that training started from makes of the same lists, as
    the start of a comparison with the trained one.
    """
    settings = task.settings
    encoder = open_encoder(task)
    first = PipelineSpec(first=("bm25", "dense"))
    specs = [first, *(_reranked(first, settings, model) for model in (task.stages.folder / START, trained))]
    found = {}
    for part in task.parts:
        for place, chosen in enumerate(held_out(part, settings)):
            # The first split's relevant documents are in the index that was mined from.
            folder = task.stages.folder / _mining(part) if place == 0 else _with_judged(task, part, chosen, encoder)
            with open_index(folder / INDEX, encoder=encoder) as index:
                runs = [ranked(index, chosen, spec) for spec in specs]
            before, untrained, after = (measured(run, chosen, MEASURES) for run in runs)
            added = comparison(untrained, after)
            found[f"{part.name} {chosen.split}"] = {
                name: values | {"untrained": added[name]} for name, values in comparison(before, after).items()
            }
    return found


def _reranked(first: PipelineSpec, settings: CrossEncoderSettings, model: Path) -> PipelineSpec:
    rerank = Rerank(model=str(model), depth=settings.eval_depth, weight=settings.weight)
    return first.model_copy(update={"rerank": rerank})


def _with_judged(task: Task[CrossEncoderSettings], part: Part, split: Collection, encoder: DenseEncoder) -> Path:
    """Return a copy of the index that was mined from, with the relevant documents of a split added, as a stage."""
    collection = part.collection
    rows = collection.corpus.rows
    relevant = {id_ for graded in split.qrels.values() for id_, grade in graded.items() if grade > 0 and id_ in rows}

    def work(folder: Path) -> dict[str, Any]:
        shutil.rmtree(folder / INDEX, ignore_errors=True)
        shutil.copytree(task.stages.folder / _mining(part) / INDEX, folder / INDEX)
        added = _write_corpus(folder, collection, sorted(rows[id_] for id_ in relevant))
        report = add_documents(added, folder / INDEX, duplicates="skip", encoder=encoder)
        return {"documents": report["documents"]}

    return task.stages.run(f"compare-{part.name}-{split.split}", work)


def draw_queries(split: Collection, most: int, seed: int) -> Collection:
    """Return a split with at most so many of its judged queries."""
    ids = list(split.judged)
    kept = np.sort(np.random.default_rng(seed).permutation(len(ids))[:most])
    qrels = {ids[place]: split.qrels[ids[place]] for place in kept}
    return Collection(split.name, split.split, split.queries, qrels, split.sha256)


def ranked(index: Index, collection: Collection, spec: PipelineSpec) -> Run:
    """Return the best ten of every judged query, without the query's own document."""
    queries = collection.judged
    run: Run = {}
    for query, text in queries.items():
        hits = index.search(text, 11, pipeline=spec, documents=False).hits
        run[query] = [(hit.id, hit.score) for hit in hits if hit.id != query][:10]
    return run


RECIPE = Recipe(
    "cross_encoder",
    "A reranker that begins as a bi-encoder, from mined negatives of several collections.",
    "LCE, arXiv:2101.08751",
    CrossEncoderSettings,
    train,
    compare,
    several=True,
    task="text-ranking",
)
