"""Training what compresses the documents of an index, from its own encoder: `retriever index compress --train`."""

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from indexing.compression import LEAST_QUERIES
from indexing.learned_codes import Learned
from indexing.recoding import require_vectors
from retriever.encoder import load_encoder
from retriever.errors import InvalidInput
from retriever.evaluation.collections import Collection, open_collection
from retriever.index.manifest import Manifest, read_manifest
from retriever.index.records import Records
from retriever.index.tombstones import read_live
from retriever.types import Document
from training.generation import GenerationSettings, generate_queries, write_collection
from training.generation.generators import Generator
from training.generation.pairs import Consistency, write_corpus, write_queries
from training.recipe import REPORT, Recipe, require_same_training, run_recipe, split_of
from training.recipes.registry import CONFIGS, recipe
from training.settings import read_settings

RECIPES = ("bpr", "jpq")
TRAIN = "train"
# Of the documents: their generated queries are compared by, and not trained on.
HELD_OUT = 0.1


def learned_forms(
    index: Path,
    work: Path,
    *,
    times: float,
    queries: str | None = None,
    split: str = "dev",
    changes: Sequence[str] = (),
    generation: Sequence[str] = (),
    device: str | None = None,
    offline: bool = False,
    quiet: bool = True,
    generator: Generator | None = None,
    consistent_top_k: int | None = None,
) -> tuple[list[Learned], Collection | None]:
    """Train by `bpr` and `jpq`, as far as their codes are `times` smaller than float32, and return the models.

    Beside them the queries to compare by where none are given: the generated ones of a tenth of the documents, which no
    training sees, and to which their own documents are relevant. None with `queries`.

    work        folder of the models and what they learn from; an interrupted training goes on there
    queries     BEIR folder whose train split they learn from; where there is none, queries are made up for documents
    split       on which forms will be compared; never learned from
    changes     settings of a recipe, such as bpr.fit.epochs=3
    generation  settings of `training.generation.GenerationSettings`, such as documents=2000
    generator   instead of the one that `generation` names
    consistent_top_k  a generated query stays only if the index's encoder finds its document among so many

    Raises InvalidInput for an index without vectors or of chunks, for `split` train, where nothing fits, and for too
    few generated queries to compare by.
    """
    if not times > 1:
        raise InvalidInput(f"the target is above 1, got {times:g}.")
    manifest, _ = read_manifest(index)
    require_vectors(index, manifest)
    assert manifest.dense is not None
    if manifest.chunking is not None:
        raise InvalidInput(f"{index} holds chunks, and judgments are about documents; compress it without --train.")
    if queries is not None and split == TRAIN:
        raise InvalidInput("--train learns from the split train, so compare on another one: --split dev or test.")
    wanted = _changes(changes)
    sizes = _sizes(manifest.dense.width, times)
    if not sizes:
        raise InvalidInput(f"no learned code is {times:g} times smaller than vectors of width {manifest.dense.width}.")
    trainings: list[tuple[str, Recipe, Any]] = []
    for name, parts in sizes:
        given = [f"base={manifest.dense.encoder}", *([f"parts={parts}"] if parts else []), *wanted[name]]
        chosen = recipe(name)
        settings = read_settings(chosen.settings, CONFIGS / f"{name}.yaml", given, ignore=("recipe",))
        # Another target has other parts, and so another model beside this one.
        trainings.append((f"{name}{parts or ''}", chosen, settings))
    data = work / "data"
    consistency = None
    if consistent_top_k is not None:
        encoder = load_encoder(manifest.dense.encoder, device=device, offline=offline)
        consistency = Consistency(encoder, consistent_top_k)
    held_out = _write_pairs(
        index, manifest, data, work / "queries.parquet", queries, generation, device, offline, quiet, generator,
        consistency,
    )  # fmt: skip
    found = []
    for form, chosen, settings in trainings:
        folder = work / form
        if (folder / REPORT).is_file():
            require_same_training(chosen, settings, data, folder, offline=offline)
        else:
            run_recipe(chosen, settings, data, folder, splits=(), offline=offline)
        found.append(Learned(form, folder, work / f"{form}-codes", device, offline, manifest.dense.precision))
    return found, held_out


def _changes(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the changes of settings by recipe."""
    found: dict[str, list[str]] = {name: [] for name in RECIPES}
    for change in given:
        name, point, rest = change.partition(".")
        if name not in found or not point:
            raise InvalidInput(f"--set takes RECIPE.key=value with {' or '.join(RECIPES)}, got {change!r}.")
        found[name].append(rest)
    return found


def _sizes(width: int, times: float) -> list[tuple[str, int | None]]:
    """Return the recipes whose codes are small enough, with the most parts that are."""
    most = 4 * width / times
    found: list[tuple[str, int | None]] = []
    if 8 * -(-width // 64) <= most:
        found.append(("bpr", None))
    # Beyond a quarter of the width training takes minutes, and a byte a dimension is as good.
    parts = [m for m in range(4, width // 4 + 1) if width % m == 0 and m <= most]
    return [*found, ("jpq", parts[-1])] if parts else found


def _write_pairs(
    index: Path,
    manifest: Manifest,
    data: Path,
    generated: Path,
    queries: str | None,
    generation: Sequence[str],
    device: str | None,
    offline: bool,
    quiet: bool,
    generator: Generator | None,
    consistency: Consistency | None,
) -> Collection | None:
    """Write a BEIR folder of the index's documents and judged or generated queries, anew in every run.

    Returns the generated queries that are held out, None where judged ones are there to compare by.
    """
    documents = documents_of(index, manifest)
    shutil.rmtree(data, ignore_errors=True)
    judged = split_of(Path(queries), TRAIN) if queries is not None else None
    if judged is None:
        settings = read_settings(GenerationSettings, None, generation)
        generate_queries(
            documents, generated, settings, device=device, offline=offline, quiet=quiet, generator=generator
        )
        held_out = 0.0 if queries is not None else HELD_OUT
        counts = write_collection(generated, documents, data, held_out=held_out, consistency=consistency)
        if queries is not None:
            return None
        if counts["dev"] < LEAST_QUERIES:
            raise InvalidInput(
                f"{counts['dev']} of {counts['kept']:,} generated queries are held out, too few to measure a loss: "
                f"{LEAST_QUERIES} or more are needed. Generate for more documents (--generate documents=...), or give "
                "judged --queries."
            )
        return open_collection(str(data), "dev")
    data.mkdir(parents=True)
    write_corpus(documents, data)
    write_queries({TRAIN: _relevant(judged, {document.id for document in documents})}, data)
    return None


def documents_of(index: Path, manifest: Manifest) -> list[Document]:
    """Return the live documents; an id that was overwritten is in several segments, and alive in one."""
    found: list[Document] = []
    with closing(Records(index, manifest.generation)) as records:
        for segment in manifest.segments:
            live = read_live(index / segment.tombstones, segment.documents) if segment.tombstones else None
            rows = records.segment_documents(segment.number)
            found += [document for ordinal, document in rows if live is None or live[ordinal]]
    return found


def _relevant(judged: Collection, there: set[str]) -> dict[str, list[str]]:
    """Return the relevant documents of the index by the query's text."""
    found: dict[str, list[str]] = {}
    for id_, text in judged.judged.items():
        own = [document for document, grade in judged.qrels[id_].items() if grade > 0 and document in there]
        if own:
            found[text] = list(dict.fromkeys([*found.get(text, []), *own]))
    return found
