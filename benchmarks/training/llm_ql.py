"""LLM-QL's claims: with few labels a start that has learned to write queries through one token is better.

    python -m benchmarks.training.llm_ql --data nl2bash

The base is the first layers of SmolLM2-135M-Instruct, so that two cores can train it. The writing stage sees pairs of a
query and a document, contrastive training only some of them (`--labels`), the same ones in every arm of a seed.
*plain* starts from the base itself, *stop* from the whole method, *no stop* and *no corruption* lack one part each.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llm import SHARE, WordLikelihood, searching
from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from benchmarks.training.first_layers import shortened
from retriever.encoder import TokenCounter
from retriever.evaluation.collections import Collection
from retriever.fusion import weighted_minmax
from retriever.llm.bottleneck import Bottleneck
from retriever.llm.usage import Deadline
from retriever.types import Document, Run
from training.evaluation import measured
from training.query_writing import LANGUAGE_MODEL
from training.recipes.llm_ql import LlmQlSettings, write
from training.stages import Stages
from training.task import Task

WRITING: dict[str, dict[str, Any]] = {
    "stop": {},
    "no stop": {"stop": False},
    "no corruption": {"share": 0.0},
}
ARMS = ("plain", *WRITING)
CLAIMS = (Claim("stop", "plain"), Claim("stop", "no stop"), Claim("stop", "no corruption"))
COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32, "hard": "none", "count": 1}
FIT: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-4, "epochs": 2, "save_steps": 0}
RANKING = """The model that *stop* leaves after writing, as a ranker: BM25's best 20 documents in the order of
log p(query | document) through the end token, for `--ranked` test queries drawn by seed 42. *words* is the likelihood
by words (Dirichlet) of as much of each document as the model reads, *words, whole* of all of it; sums with BM25 count
the likelihood four times as much as BM25, both from 0 to 1. Only *writer* and *writer + bm25* depend on the seed.
"""
RANKERS = ("bm25", "words", "words, whole", "words + bm25", "writer", "writer + bm25")
RANKER_CLAIMS = (
    Claim("ranked writer", "ranked words"),
    Claim("ranked writer", "ranked words, whole"),
    Claim("ranked writer", "ranked bm25"),
    Claim("ranked writer + bm25", "ranked bm25"),
    Claim("ranked writer + bm25", "ranked words + bm25"),
)
DEPTH = 20
Hits = dict[str, list[tuple[Document, float]]]


def settings_of(arm: str, seed: int, base: Path) -> LlmQlSettings:
    """Return the settings of an arm's writing stage."""
    return LlmQlSettings.model_validate(
        COMMON | {"base": str(base), "seed": seed, "writing": WRITING[arm] | {"fit": FIT | {"epochs": 1}}}
    )


def written(experiment: Experiment, arm: str, seed: int, base: Path, queries: int) -> Path:
    """Return the causal model that the writing stage of an arm makes."""
    settings = settings_of(arm, seed, base)
    plan = {"settings": settings.model_dump(mode="json"), "queries": queries, "data": experiment.digests}
    folder = experiment.models / f".writing {arm}-{seed}"
    task = Task(experiment.collection(queries, seed), settings, Stages(folder, plan), True)
    return task.stages.run("query_likelihood", lambda place: write(task, place)) / LANGUAGE_MODEL


def train(experiment: Experiment, seed: int, layers: int, queries: int, labels: int) -> None:
    base = shortened(layers, experiment.models / f"smollm2-{layers}-layers")
    common = COMMON | {"max_queries": labels, "fit": FIT}
    experiment.arm("plain", seed, "repllama", common | {"base": str(base)})
    for arm in WRITING:
        start = written(experiment, arm, seed, base, queries)
        # By another name for each arm and seed, since records tell bases apart by their names.
        named = experiment.models / f"written {arm}-{seed}"
        if not named.is_symlink():
            named.symlink_to(start.resolve(), target_is_directory=True)
        experiment.arm(arm, seed, "repllama", common | {"base": str(named)})


def rank(
    experiment: Experiment, ranking: Experiment, seed: int, layers: int, queries: int, found: Collection, hits: Hits
) -> None:
    """Keep the measures of every ranking of BM25's best documents, by the model of one seed."""
    base = shortened(layers, experiment.models / f"smollm2-{layers}-layers")
    settings = settings_of("stop", seed, base).model_copy(update={"max_queries": queries})
    if all([ranking.kept(f"ranked {name}", seed, settings, "llm_ql") for name in RANKERS]):
        return
    folder = written(experiment, "stop", seed, base, queries)
    about = {"recipe": "llm_ql", "settings": settings.model_dump(mode="json")}
    for name, run in runs_of(folder, experiment.corpus.documents, found, hits).items():
        ranking.keep(f"ranked {name}", seed, {found.split: measured(run, found)}, about)


def runs_of(folder: Path, corpus: Sequence[Document], collection: Collection, hits: Hits) -> dict[str, Run]:
    """Return the run of every ranker over the documents that BM25 found for each query."""
    from transformers import AutoTokenizer

    model, counter = Bottleneck(folder, device="cpu"), TokenCounter(AutoTokenizer.from_pretrained(folder))
    words = WordLikelihood(corpus)
    documents = {document.id: document for found in hits.values() for document, _ in found}
    vectors = dict(zip(documents, model.encode_documents(list(documents.values())), strict=True))
    runs: dict[str, Run] = {name: {} for name in RANKERS}
    for query, found in hits.items():
        text, ids = collection.queries[query], [document.id for document, _ in found]
        first = [(document.id, score) for document, score in found]
        runs["bm25"][query] = first
        if not ids:
            continue
        contents = [document.content for document, _ in found]
        # With its end token.
        read = [counter.cut(content, model.max_tokens - 1) for content in contents]
        scores = {
            "words": [words.score(text, content) for content in read],
            "words, whole": [words.score(text, content) for content in contents],
            "writer": model.likelihoods(
                model.encode_queries([text])[0], np.stack([vectors[id_] for id_ in ids]), Deadline()
            ).tolist(),
        }
        for name, values in scores.items():
            # Ties stay in the order of BM25.
            runs[name][query] = sorted(zip(ids, values, strict=True), key=lambda hit: -hit[1])
        for name in ("words", "writer"):
            runs[f"{name} + bm25"][query] = weighted_minmax(
                {"bm25": first, "likelihood": runs[name][query]}, weights={"bm25": 1 - SHARE, "likelihood": SHARE}
            )
    return runs


def main() -> None:
    given = arguments(
        __doc__, "nl2bash", queries=2000, work=Path(".cache/claims/llm_ql"),
        more={"labels": 300, "layers": 4, "ranked": 300},
    )  # fmt: skip
    experiment = Experiment(given.data, given.work)
    experiment.models.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        train(experiment, seed, given.layers, given.queries, given.labels)
    write_csv(given.results / "llm_ql.csv", experiment, ARMS, given.seeds)
    sizes = f"{given.layers} of 30 layers; {given.queries:,} pairs to write, {given.labels:,} labels."
    text = f"## LLM-QL\n\n{__doc__}\n{sizes}"
    write_section(given.results / "llm_ql.md", text, experiment, ARMS, CLAIMS, given.seeds)

    found, hits = searching(given.data, "test", given.ranked, DEPTH)
    ranking = Experiment(given.data, given.work / f"ranked-{given.ranked}", splits=("test",))
    ranking.held_out = [replace(found, qrels={query: found.qrels[query] for query in hits})]
    for seed in given.seeds:
        rank(experiment, ranking, seed, given.layers, given.queries, ranking.held_out[0], hits)
    arms = [f"ranked {name}" for name in RANKERS]
    write_csv(given.results / "llm_ql_ranking.csv", ranking, arms, given.seeds)
    sizes = f"{given.layers} of 30 layers; {given.queries:,} pairs to write."
    text = f"## LLM-QL as a ranker\n\n{RANKING}\n{sizes}"
    write_section(given.results / "llm_ql_ranking.md", text, ranking, arms, RANKER_CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
