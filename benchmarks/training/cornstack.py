"""CoRNStack's claims: the filter finds planted mismatches, and training on what it leaves is better.

    python -m benchmarks.training.cornstack --data nl2bash

A quarter of the training pairs get a random document. The filter's encoder is MiniLM, which has not seen the
collection; `top_k` and `threshold` are looser than the paper's, whose filter was made for code. The students are
BERT-tiny (the body of splade-tiny): both sets of pairs are trained from the plain body, the negatives are compared from
the filtered student on, all out of its best 100 documents; *uniform* draws from these with equal chances.
The curriculum was measured when its temperature fell from epoch to epoch: .05 in the first of two epochs, .001 in the
second. It falls from step to step now. No prompt stands before the queries, which are not code's alone.
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
PAIRS = ("unfiltered", "filtered")
NEGATIVES = ("uniform", "fixed temperature", "curriculum", "curriculum, all candidates")
CLAIMS = (
    Claim("filtered", "unfiltered"),
    Claim("curriculum", "uniform"),
    Claim("curriculum", "fixed temperature"),
    Claim("curriculum", "curriculum, all candidates"),
)
COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32, "count": 1}
TOP_K, THRESHOLD = 20, 0.3
STEPS = 105
# The filtering is the same for all arms and seeds.
FILTER = {"filter": "cornstack-filter"}


def plant(data: Path, folder: Path) -> Path:
    """Write a copy of the collection in which a quarter of the training pairs are mismatched, and which ones."""
    target = folder / f"{data.name}-planted"
    if (target / "planted.json").is_file():
        return target
    # Without the modes of the original, which may be read-only.
    shutil.copytree(data, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for folder in (target, target / "qrels"):
        folder.chmod(0o755)
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


COLUMNS = ("top_k", "threshold", "kept", "precision", "recall", "planted_found")
HEADS = ("top_k", "threshold", "pairs kept", "precision of the kept", "right ones kept", "planted ones thrown out")


def filter_table(experiment: Experiment, results: Path) -> list[str]:
    """Return a Markdown table of the filter at several settings, and write it as CSV; measured once."""
    if not experiment.kept("filter", 0):
        experiment.keep("filter", 0, {}, {"rows": filtered(experiment)})
    rows = experiment.read("filter", 0)["rows"]
    with (results / "cornstack_filter.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [COLUMNS, *([*r[:2], *(f"{v:.4f}" for v in r[2:])] for r in rows)]
        )
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    return lines + [f"| {r[0]} | {r[1]} | {' | '.join(f'{v:.3f}' for v in r[2:])} |" for r in rows]


def filtered(experiment: Experiment) -> list[list[Any]]:
    """Measure which pairs the filter throws out, and which of those were planted, at several settings."""
    planted = {tuple(pair) for pair in json.loads((experiment.data / "planted.json").read_text())}
    collection = experiment.collection(None, 0)
    rows = np.repeat(np.arange(len(collection.queries)), np.diff(collection.judgments.offsets))
    documents = collection.judgments.documents
    wrong = np.array(
        [(collection.query_ids[q], collection.documents[d].id) in planted for q, d in zip(rows, documents, strict=True)]
    )
    encoder = load_encoder("all-MiniLM-L6-v2", offline=True)
    queries, vectors = encoder.encode_queries(collection.queries), encoder.encode_documents(collection.documents)
    found: list[list[Any]] = []
    for top_k in (2, 5, 20, 100, len(vectors)):
        for threshold in (0.0, 0.3, 0.5, 0.7):
            kept = consistent(queries[rows], vectors, documents, top_k, threshold)
            shares = (kept.mean(), (~wrong[kept]).mean(), kept[~wrong].mean(), (~kept[wrong]).mean())
            found.append(["all" if top_k == len(vectors) else top_k, threshold, *map(float, shares)])
    return found


def train_on_pairs(experiment: Experiment, seed: int) -> Path:
    """Train on all pairs and on those that the filter leaves; returns the latter model."""
    experiment.arm("unfiltered", seed, "cornstack", settings("splade-tiny", 3e-4) | {"filter_model": None})
    return experiment.arm("filtered", seed, "cornstack", settings("splade-tiny", 3e-4), shared=FILTER)


def train_on_negatives(experiment: Experiment, seed: int) -> None:
    """Go on from the filtered student with each way to draw negatives."""
    warm = train_on_pairs(experiment, seed)
    shared = FILTER | {"mine": f"cornstack-mine-{seed}"}
    for arm, changes in (
        ("uniform", {}),
        ("fixed temperature", {"temperature": 0.05, "last_temperature": 0.05}),
        ("curriculum", {"temperature": 0.05, "last_temperature": 0.001}),
        ("curriculum, all candidates", {"temperature": 0.05, "last_temperature": 0.001, "ratio": None}),
    ):
        experiment.arm(arm, seed, "cornstack", settings(str(warm), 1e-4) | changes, shared=shared)


def settings(base: str, rate: float) -> dict[str, Any]:
    fit = {"batch_size": 64, "learning_rate": rate, "save_steps": 0, "steps": STEPS, "epochs": 2}
    found = {"filter_model": "all-MiniLM-L6-v2", "top_k": TOP_K, "threshold": THRESHOLD, "temperature": None}
    return COMMON | {"base": base, "fit": fit, "query_prompt": None} | found


def main() -> None:
    given = arguments(__doc__, "nl2bash")
    experiment = Experiment(plant(given.data, given.work.parent), given.work.parent / f"{given.data.name}-planted-work")
    given.results.mkdir(parents=True, exist_ok=True)
    table = filter_table(experiment, given.results)
    text = "\n".join([f"## CoRNStack\n\n{__doc__}", "The filter against the planted mismatches:", "", *table])
    for train, arms, claims in (
        (train_on_pairs, PAIRS, CLAIMS[:1]),
        (train_on_negatives, PAIRS + NEGATIVES, CLAIMS),
    ):
        for seed in given.seeds:
            train(experiment, seed)
        write_csv(given.results / "cornstack.csv", experiment, arms, given.seeds)
        write_section(given.results / "cornstack.md", text, experiment, arms, claims, given.seeds)


if __name__ == "__main__":
    main()
