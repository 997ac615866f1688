"""A cross-encoder from a bi-encoder's body: binary cross-entropy on judged pairs and mined negatives.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085: every pair is a question of relevance.
Negatives come from BM25's list, where the reranker will have to choose (arXiv:2101.08751 found that such ones
matter more than their number), and from the whole corpus, so that it also knows what is plainly unrelated.
"""

import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexing.build import build_index
from indexing.corpora import open_corpus
from indexing.corpora.beir import NAMES, corpus_file
from indexing.plan import BuildSettings
from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection
from retriever.evaluation.measures import measure
from retriever.evaluation.records import environment
from retriever.evaluation.significance import compare
from retriever.index.sealed import Index, open_index
from retriever.models import resolve
from retriever.rerank import CrossEncoderReranker
from retriever.storage import require_writable, sha256_of, write_atomically


class CrossEncoderConfig(BaseModel):
    """Settings of the recipe; the defaults are those of configs/cross_encoder.yaml.

    precision  of the arithmetic, the weights stay float32; "auto" is bfloat16 on a GPU that has it, else float32
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: str = "all-MiniLM-L6-v2"
    negatives: int = Field(4, ge=1, le=100)
    depth: int = Field(50, ge=1, le=1000)
    max_tokens: int = Field(192, ge=16, le=8192)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    epochs: float = Field(1, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    max_pairs: int = Field(2000, ge=1)
    max_eval_queries: int = Field(200, ge=2)
    seed: int = 13


class Pair(NamedTuple):
    """One training example."""

    query: str
    document: str
    label: float


def read_config(path: Path | None, changes: Sequence[str] = ()) -> CrossEncoderConfig:
    """Read a YAML of settings and apply `key=value` changes. Raises InvalidInput naming the faulty one."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise InvalidInput(f"{path} must map settings to values, got {type(content).__name__}.")
        for change in changes:
            key, sign, value = change.partition("=")
            if not sign:
                raise InvalidInput(f"--set takes key=value, got {change!r}.")
            content[key] = yaml.safe_load(value)
        return CrossEncoderConfig.model_validate(content)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise InvalidInput(f"the configuration is not valid: {error}") from error


def train_cross_encoder(
    source: Path, output: Path, config: CrossEncoderConfig | None = None, *, offline: bool = False
) -> dict[str, Any]:
    """Train on the `train` judgments of a BEIR folder and evaluate on `dev`, or `test` where there is no dev.

    Writes a model folder with model card and training_report.json, and returns the report: data hashes, seed,
    versions, and nDCG@10 of BM25's order against the reranked order with a paired test.
    """
    config = config or CrossEncoderConfig()
    require_writable(output)
    started = time.monotonic()
    train = open_collection(str(source), "train")
    held_out = _held_out(source)
    corpus = _corpus_digests(source)
    with _bm25_index(source, output, corpus) as index:
        pairs = list(training_pairs(index, train, config))
        if not pairs:
            raise InvalidInput(f"{source} has no training query with a judged document in the corpus.")
        _fit(pairs, output, config, offline)
        seconds = time.monotonic() - started
        evaluation = evaluate(index, CrossEncoderReranker(output), held_out, config)
    report = {
        "recipe": "cross_encoder",
        "config": config.model_dump(),
        "data": {"corpus": corpus, "train": train.sha256, "held_out": {"split": held_out.split, **held_out.sha256}},
        "pairs": len(pairs),
        "training_seconds": round(seconds, 1),
        "evaluation": evaluation,
        "environment": environment(),
    }
    write_atomically(output / "training_report.json", json.dumps(report, indent=1).encode())
    return report


def _held_out(source: Path) -> Collection:
    try:
        return open_collection(str(source), "dev")
    except InvalidInput:
        return open_collection(str(source), "test")


def _corpus_digests(source: Path) -> dict[str, str]:
    """Return the sha256 of the file that the documents are read from. Raises InvalidInput where there is none."""
    path = corpus_file(source)
    if path is None:
        raise InvalidInput(f"{source} is no BEIR folder: it has none of {', '.join(NAMES)}.")
    return {path.name: sha256_of(path)}


def _bm25_index(source: Path, output: Path, corpus: dict[str, str]) -> Index:
    """Return a BM25 index over the corpus, kept beside the model for the next training on the same files."""
    digest = hashlib.sha256(json.dumps(corpus, sort_keys=True).encode()).hexdigest()
    path = output.parent / f".{output.name}.bm25-{digest[:12]}"
    if not (path / "CURRENT").is_file():
        build_index(open_corpus(str(source)), path, BuildSettings(parts=("bm25",)))
    return open_index(path)


def training_pairs(index: Index, collection: Collection, config: CrossEncoderConfig) -> Iterator[Pair]:
    """Yield each judged pair followed by its negatives, in an order that the seed decides.

    A negative is no judged document of the query, nor has it the text of one.
    """
    generator = np.random.default_rng(config.seed)
    queries = sorted(collection.judged)
    generator.shuffle(queries)
    segments = [(segment, segment.documents) for segment in index.segments]
    ids = [segment.ids[ordinal] for segment, count in segments for ordinal in range(count)]
    positives = 0
    for query in queries:
        text = collection.queries[query]
        relevant = [id_ for id_, grade in collection.qrels[query].items() if grade > 0]
        documents = [document for document in map(index.get, relevant) if document is not None]
        if not documents:
            continue
        known = set(collection.qrels[query]) | {query}
        texts = {document.content for document in documents}
        hard = [hit.id for hit in index.search(text, config.depth, documents=False).hits if hit.id not in known]
        for document in documents:
            yield Pair(text, document.content, 1.0)
            wanted = config.negatives
            drawn = list(generator.choice(hard, min(len(hard), (wanted + 1) // 2), replace=False)) if hard else []
            drawn += [ids[i] for i in generator.integers(0, len(ids), wanted - len(drawn))]
            for id_ in drawn:
                negative = index.get(str(id_))
                if id_ not in known and negative is not None and negative.content not in texts:
                    yield Pair(text, negative.content, 0.0)
            positives += 1
            if positives == config.max_pairs:
                return


def _fit(pairs: Sequence[Pair], output: Path, config: CrossEncoderConfig, offline: bool) -> None:
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
    )
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import PrinterCallback

    torch.manual_seed(config.seed)
    model = CrossEncoder(
        str(resolve(config.base, offline=offline)),
        num_labels=1,
        max_length=config.max_tokens,
        trust_remote_code=False,
        local_files_only=True,
    )
    rows = {
        "query": [pair.query for pair in pairs],
        "document": [pair.document for pair in pairs],
        "label": [pair.label for pair in pairs],
    }
    ratio = sum(pair.label == 0 for pair in pairs) / max(1, sum(pair.label == 1 for pair in pairs))
    bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    with tempfile.TemporaryDirectory() as scratch:
        arguments = CrossEncoderTrainingArguments(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup,
            bf16=bfloat16,
            use_cpu=not torch.cuda.is_available(),
            seed=config.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = CrossEncoderTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(rows),
            # Positives weigh as much as all negatives together, as they are the rarer kind.
            loss=BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(ratio)),
        )
        trainer.remove_callback(PrinterCallback)
        # What it still says must not go to standard output, which belongs to the report.
        with contextlib.redirect_stdout(sys.stderr):
            trainer.train()
    model.save_pretrained(str(output))


def evaluate(
    index: Index, reranker: CrossEncoderReranker, collection: Collection, config: CrossEncoderConfig
) -> dict[str, Any]:
    """Return nDCG@10 of BM25's best `depth` as they are and reranked, with a paired randomisation test."""
    generator = np.random.default_rng(config.seed)
    queries = sorted(collection.judged)
    generator.shuffle(queries)
    chosen = queries[: config.max_eval_queries]
    before, after = {}, {}
    for query in chosen:
        hits = index.search(collection.queries[query], config.depth).hits
        documents = [hit.document for hit in hits if hit.document is not None and hit.id != query]
        scores, _ = reranker.score(collection.queries[query], documents)
        before[query] = [(hit.id, hit.score) for hit in hits if hit.id != query]
        ordered = sorted(zip(documents, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0].id))
        after[query] = [(document.id, score) for document, score in ordered]
    qrels = {query: collection.qrels[query] for query in chosen}
    measured = [measure(run, qrels, ["nDCG@10"]).per_query["nDCG@10"] for run in (before, after)]
    found = compare(*measured)
    return {
        "split": collection.split,
        "queries": len(chosen),
        "bm25": found.baseline,
        "reranked": found.system,
        "difference": found.difference,
        "interval": found.interval,
        "p": found.p,
    }
