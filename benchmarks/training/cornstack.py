"""CoRNStack's claims: the filter finds planted mismatches, and training on what it leaves is better.

    python -m benchmarks.training.cornstack --data nl2bash

A quarter of the training pairs get a random document. The filter's encoder is MiniLM, which has not seen the
collection; `top_k` and `threshold` are looser than the paper's, whose filter was made for code.
"""

import csv
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from indexing.corpora.beir import corpus_file
from retriever.encoder import load_encoder
from retriever.storage import write_atomically
from training.filters import consistent

SHARE = 0.25
ARMS = ("unfiltered", "filtered", "random negatives", "fixed temperature", "curriculum", "curriculum, all candidates")
CLAIMS = (
    Claim("filtered", "unfiltered"),
    Claim("curriculum", "random negatives"),
    Claim("curriculum", "fixed temperature"),
    Claim("curriculum", "curriculum, all candidates"),
)
COMMON: dict[str, Any] = {"base": "splade-tiny", "document_tokens": 64, "query_tokens": 32, "count": 1}
TOP_K, THRESHOLD = 20, 0.3
STEPS = 210


def plant(data: Path, folder: Path) -> Path:
    """Write a copy of the collection in which a quarter of the training pairs are mismatched, and which ones."""
    target = folder / f"{data.name}-planted"
    if (target / "planted.json").is_file():
        return target
    shutil.copytree(data, target, dirs_exist_ok=True)
    path = next((target / "qrels").glob("train.tsv*"))
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    head, *lines = content.decode().splitlines()
    source = corpus_file(target)
    assert source is not None
    content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    ids = [json.loads(line)["_id"] for line in content.splitlines()]
    generator = np.random.default_rng(0)
    wrong: list[list[str]] = []
    for place in np.flatnonzero(generator.random(len(lines)) < SHARE):
        query, _, grade = lines[place].split("\t")
        document = ids[int(generator.integers(len(ids)))]
        lines[place] = f"{query}\t{document}\t{grade}"
        wrong.append([query, document])
    path.unlink()
    (target / "qrels" / "train.tsv").write_text("\n".join([head, *dict.fromkeys(lines)]) + "\n")
    write_atomically(target / "planted.json", json.dumps(wrong).encode())
    return target


def filter_table(experiment: Experiment, results: Path) -> list[str]:
    """Measure the filter at several settings: which pairs it throws out, and which of those were planted."""
    planted = {tuple(pair) for pair in json.loads((experiment.data / "planted.json").read_text())}
    collection = experiment.collection(None, 0)
    rows = np.repeat(np.arange(len(collection.queries)), np.diff(collection.judgments.offsets))
    documents = collection.judgments.documents
    wrong = np.array(
        [(collection.query_ids[q], collection.documents[d].id) in planted for q, d in zip(rows, documents, strict=True)]
    )
    encoder = load_encoder("all-MiniLM-L6-v2", offline=True)
    queries, vectors = encoder.encode_queries(collection.queries), encoder.encode_documents(collection.documents)
    lines = ["| top_k | threshold | pairs kept | precision of the kept | right ones kept | planted ones thrown out |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    records = [["top_k", "threshold", "kept", "precision", "recall", "planted_found"]]
    for top_k in (2, 5, 20, 100, len(vectors)):
        for threshold in (0.0, 0.3, 0.5, 0.7):
            kept = consistent(queries[rows], vectors, documents, top_k, threshold)
            precision, recall = float((~wrong[kept]).mean()), float(kept[~wrong].mean())
            found = float((~kept[wrong]).mean())
            name = "all" if top_k == len(vectors) else str(top_k)
            lines.append(f"| {name} | {threshold} | {kept.mean():.3f} | {precision:.3f} | {recall:.3f} | {found:.3f} |")
            records.append([name, str(threshold), *(f"{v:.4f}" for v in (kept.mean(), precision, recall, found))])
    with (results / "cornstack_filter.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(records)
    return lines


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm; the negatives are compared on the filtered pairs."""
    fit = {"batch_size": 64, "learning_rate": 3e-4, "save_steps": 0, "steps": STEPS, "epochs": 3}
    plain = COMMON | {"fit": fit, "filter_model": None, "temperature": None}
    filtered = plain | {"filter_model": "all-MiniLM-L6-v2", "top_k": TOP_K, "threshold": THRESHOLD}
    shared = {"filter": "cornstack-filter"}
    experiment.arm("unfiltered", seed, "cornstack", plain)
    warm = experiment.arm("filtered", seed, "cornstack", filtered, shared=shared)
    further = filtered | {"base": str(warm), "fit": fit | {"learning_rate": 1e-4}}
    for arm, changes in (
        ("random negatives", {"temperature": 1e6}),
        ("fixed temperature", {"temperature": 0.05, "last_temperature": 0.05}),
        ("curriculum", {"temperature": 0.05, "last_temperature": 0.001}),
        ("curriculum, all candidates", {"temperature": 0.05, "last_temperature": 0.001, "ratio": None}),
    ):
        experiment.arm(arm, seed, "cornstack", further | changes, shared=shared)


def main() -> None:
    given = arguments(__doc__, "nl2bash")
    experiment = Experiment(plant(given.data, given.work.parent), given.work.parent / f"{given.data.name}-planted-work")
    given.results.mkdir(parents=True, exist_ok=True)
    print("\n".join(filter_table(experiment, given.results)), end="\n\n")
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "cornstack.csv", experiment, ARMS, given.seeds)
    text = f"## CoRNStack\n\n{__doc__}"
    write_section(given.results / "cornstack.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
