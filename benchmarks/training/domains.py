"""Codes across domains: what they lose on a collection that they were not trained for, and what brings it back.

    python -m benchmarks.training.domains --data nfcorpus --source medquad --threads 1 --forms float,bpr

"float" is BERT-tiny (the body of splade-tiny) trained on the source, "bpr" and "jpq" go on from it there; all are
measured on the target. "+genq" and "+gpl" go on from each on queries that SmolLM2-135M-Instruct made up for documents
of the target, as many batches of as many pairs. The teacher of gpl is all-MiniLM-L6-v2 in bfloat16, 20 times its
cosine, in the place of a cross-encoder. The language model is shown four pairs of the source's training queries before
each document. "noisy" has another document in the place of the right one for every fifth made-up query; "harm" is what
that takes away, query by query. Nothing was chosen on the target's judgments. The made-up queries, once for all
seeds, take most of the time: --documents says for how many documents; --forms leaves out bpr or jpq.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training.claims import MEASURES, Claim, Experiment, arguments, write_csv, write_section
from indexing.corpora import open_corpus
from retriever.evaluation.collections import open_collection
from retriever.storage import write_atomically
from training.collection import open_training_collection
from training.encoders import open_base
from training.generation import GenerationSettings, generate_queries, write_collection
from training.recipe import measure_splits
from training.settings import EncoderSettings

COMMON: dict[str, Any] = {"document_tokens": 128, "query_tokens": 32}
TEACHER = {"kind": "bi_encoder", "model": "all-MiniLM-L6-v2", "scale": 20, "precision": "bfloat16"}
NOISE = 5
# Pairs that the language model is shown, and words of their documents.
EXAMPLES, WORDS = 4, 60
FORMS = ("float", "bpr", "jpq")
HOW = ("genq", "gpl")
# Forms that are also adapted by noisy queries.
NOISY = ("float", "bpr")


def arms_of(forms: Sequence[str]) -> list[str]:
    """Return the arms of some forms: as they come from the source, adapted, and adapted by noisy queries."""
    adapted = [f"{form}+{how}" for form in forms for how in HOW]
    return [*forms, *adapted, *(f"{form}+{how} noisy" for form in forms if form in NOISY for how in HOW)]


def claims_of(forms: Sequence[str]) -> list[Claim]:
    """Return what is tested of some forms."""
    noisy = [form for form in forms if form in NOISY]
    return [
        *(Claim("float", form) for form in forms if form != "float"),
        *(Claim(f"{form}+{how}", form) for how in HOW for form in forms),
        *(Claim(f"{form}+gpl", f"{form}+genq") for form in forms),
        *(Claim(f"{form}+gpl noisy", f"{form}+gpl", margin=0.01) for form in noisy),
        *(Claim(f"harm to {form}+genq", f"harm to {form}+gpl") for form in noisy),
    ]


def shown(source: Path) -> tuple[tuple[str, str], ...]:
    """Return beginnings of documents of the source with their training queries."""
    pairs = open_training_collection(source, max_queries=EXAMPLES)
    first = [pairs.documents[int(pairs.judgments.relevant(row)[0])].content for row in range(EXAMPLES)]
    return tuple((" ".join(text.split()[:WORDS]), query) for text, query in zip(first, pairs.queries, strict=True))


def made_up(target: Path, source: Path, work: Path, documents: int) -> Path:
    """Return the target's corpus with made-up queries as train and its own test queries, made unless it is there."""
    folder = work / f"{target.name}-{documents}-by-{source.name}"
    if (folder / "qrels" / "test.tsv").is_file():
        return folder
    corpus = list(open_corpus(str(target)))
    settings = GenerationSettings(
        queries=2, documents=documents, examples=shown(source), document_tokens=128, new_tokens=32
    )
    generate_queries(corpus, folder / "generated.parquet", settings, offline=True, quiet=False)
    write_collection(folder / "generated.parquet", corpus, folder, held_out=0)
    judged = open_collection(str(target), "test")
    lines = [json.dumps({"_id": id_, "text": text}, ensure_ascii=False) for id_, text in judged.judged.items()]
    queries = (folder / "queries.jsonl").read_text(encoding="utf-8")
    write_atomically(folder / "queries.jsonl", (queries + "\n".join(lines) + "\n").encode())
    rows = [f"{id_}\t{d}\t{grade}" for id_ in judged.judged for d, grade in judged.qrels[id_].items()]
    write_qrels(folder / "qrels" / "test.tsv", rows)
    return folder


def noisy(folder: Path) -> Path:
    """Return the same collection with another document for every fifth pair of train."""
    copy = folder.with_name(f"{folder.name}-noisy")
    if (copy / "qrels" / "test.tsv").is_file():
        return copy
    (copy / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to((folder / name).resolve())
    pairs = [line.split("\t") for line in (folder / "qrels" / "train.tsv").read_text().splitlines()[1:]]
    documents = [document.id for document in open_corpus(str(folder))]
    generator = np.random.default_rng(0)
    for place in generator.permutation(len(pairs))[: len(pairs) // NOISE]:
        pairs[place][1] = documents[generator.integers(len(documents))]
    write_qrels(copy / "qrels" / "train.tsv", ["\t".join(pair) for pair in pairs])
    (copy / "qrels" / "test.tsv").symlink_to((folder / "qrels" / "test.tsv").resolve())
    return copy


def write_qrels(path: Path, rows: list[str]) -> None:
    write_atomically(path, ("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n").encode())


def experiments(source: Path, folder: Path, work: Path) -> tuple[Experiment, Experiment, Experiment]:
    """Return the experiment on the source, and those on the target's made-up queries, as they are and noisy."""
    place = work / f"{source.name}-to-{folder.name}"
    clean, hurt = (Experiment(data, place, splits=("test",)) for data in (folder, noisy(folder)))
    return Experiment(source, work / f"source-{source.name}", splits=()), clean, hurt


def keep_elsewhere(experiment: Experiment, name: str, seed: int, model: Path) -> None:
    """Measure a model of the source on the target and write its record."""
    if not experiment.kept(name, seed):
        opened = open_base(EncoderSettings(), base=model, offline=True)
        experiment.keep(name, seed, measure_splits(opened, experiment.corpus, experiment.held_out), {})


def keep_harm(experiment: Experiment, arm: str, seed: int) -> None:
    """Write, query by query, what noise takes from an arm."""
    clean, hurt = (experiment.read(name, seed)["per_query"] for name in (arm, f"{arm} noisy"))
    harm = {
        split: {name: {q: value - hurt[split][name][q] for q, value in clean[split][name].items()} for name in MEASURES}
        for split in clean
    }
    experiment.keep(f"harm to {arm}", seed, harm, {})


def train(source: Experiment, clean: Experiment, hurt: Experiment, seed: int, steps: int, forms: Sequence[str]) -> None:
    """Train every arm of a seed."""
    fit: dict[str, Any] = {"batch_size": 32, "save_steps": 0, "steps": steps, "warmup": 0.1}
    models = {"float": source.arm("float", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": fit | {"batch_size": 64, "learning_rate": 3e-4, "steps": 2 * steps},
    })}  # fmt: skip
    if "bpr" in forms:
        models["bpr"] = source.arm("bpr", seed, "bpr", COMMON | {
            "base": str(models["float"]), "hard": "none", "fit": fit | {"learning_rate": 1e-4}})  # fmt: skip
    if "jpq" in forms:
        jpq = {"parts": 16, "centroid_rate": 1e-3}
        models["jpq"] = source.arm("jpq", seed, "jpq", COMMON | jpq | {
            "base": str(models["float"]), "depth": 100, "fit": fit | {"learning_rate": 5e-5}})  # fmt: skip
    for form, model in models.items():
        keep_elsewhere(clean, form, seed, model)
        changes: dict[str, Any] = COMMON | {"base": str(model), "fit": fit | {"learning_rate": 1e-4}}
        if form == "jpq":
            changes |= {"centroid_rate": 1e-3, "fit": fit | {"learning_rate": 5e-5}}
        for how in HOW:
            method = how if form == "float" else f"{form}_{how}"
            own = changes | ({"teacher": TEACHER} if how == "gpl" else {})
            clean.arm(f"{form}+{how}", seed, method, own)
            if form in NOISY:
                hurt.arm(f"{form}+{how} noisy", seed, method, own)
                keep_harm(clean, f"{form}+{how}", seed)


def main() -> None:
    more = {"source": "medquad", "documents": 800, "steps": 200, "forms": ",".join(FORMS)}
    given = arguments(__doc__, "nfcorpus", more=more, work=Path(".cache/claims/domains"))
    # All others begin as "float".
    forms = [form for form in FORMS if form == "float" or form in given.forms.split(",")]
    if unknown := sorted(set(given.forms.split(",")) - set(FORMS)):
        raise SystemExit(f"--forms has {', '.join(unknown)}; there are {', '.join(FORMS)}.")
    # A name stands for a folder beside the target.
    source_data = Path(given.source) if Path(given.source).is_dir() else given.data.parent / given.source
    folder = made_up(given.data, source_data, given.work, given.documents)
    source, clean, hurt = experiments(source_data, folder, given.work)
    for seed in given.seeds:
        train(source, clean, hurt, seed, given.steps, forms)
    name = f"domains-{given.data.name}"
    arms = arms_of(forms)
    write_csv(given.results / f"{name}.csv", clean, arms, given.seeds)
    text = f"## Codes across domains: {source_data.name} to {given.data.name}\n\n{__doc__}"
    rows = [*arms, *(f"harm to {arm.removesuffix(' noisy')}" for arm in arms if arm.endswith(" noisy"))]
    write_section(given.results / f"{name}.md", text, clean, rows, claims_of(forms), given.seeds)


if __name__ == "__main__":
    main()
