"""Poolers of a language model: what its tokens attend to, and how states become a vector, on several collections.

    python -m benchmarks.training.poolers --data nl2bash --threads 1

The first layers of SmolLM2-135M-Instruct (`--layers`) are trained by `repllama`, all weights, with causal or
bidirectional attention and four poolers: the end token's state, the mean, NV-Embed's latent attention
(arXiv:2405.17428), and trained latents over all layers (arXiv:2409.02727), which read each layer's last state where
attention is causal and its mean where it is bidirectional, so that two things differ there. The arms of a seed see the
same batches: `--queries` training pairs of each of `--data` and `--also`, once, in bfloat16 arithmetic. Test queries of
these and of `--others`, which training never saw, are drawn once (`--tested`), with all their relevant documents and
others up to `--documents`; so few documents make a collection easier than it is. All texts are cut to the tokens that
training reads. Nothing was chosen on these queries.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training.claims import Experiment, arguments, write_csv
from benchmarks.training.first_layers import shortened
from indexing.corpora import open_corpus
from retriever.evaluation.collections import open_collection
from retriever.evaluation.significance import compare, holm, signed_ranks
from retriever.storage import write_atomically
from retriever.types import Document
from training.collection import open_training_collection
from training.encoders import open_base
from training.recipe import measure_splits
from training.recipes.repllama import RepllamaSettings

ATTENTION = ("causal", "bidirectional")
POOLING = ("last", "mean", "latent_attention", "multi_layer")
ARMS = {f"{attention} {pooling}": (attention, pooling) for attention in ATTENTION for pooling in POOLING}
# Each arm with the one that it is compared with.
PAIRS = (
    *((f"bidirectional {pooling}", f"causal {pooling}") for pooling in POOLING),
    *((f"causal {pooling}", "causal last") for pooling in POOLING if pooling != "last"),
    *((f"bidirectional {pooling}", "bidirectional mean") for pooling in POOLING if pooling != "mean"),
)
COMMON: dict[str, Any] = {"document_tokens": 48, "query_tokens": 32, "hard": "none", "count": 1}
FIT: dict[str, Any] = {
    "batch_size": 16, "learning_rate": 1e-4, "epochs": 1, "save_steps": 0, "precision": "bfloat16",
}  # fmt: skip
MEASURE = "nDCG@10"


def write_folder(
    folder: Path, documents: Iterable[Document], queries: Mapping[str, str], split: str, pairs: Iterable[str]
) -> Path:
    """Write a BEIR folder of one split; its judgments come last, and say that it is complete."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    records = [{"_id": found.id, "title": found.title, "text": found.text} for found in documents]
    asked = [{"_id": id_, "text": text} for id_, text in queries.items()]
    for name, rows in (("corpus", records), ("queries", asked)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_atomically(folder / f"{name}.jsonl", "".join(lines).encode())
    judged = "\n".join(["query-id\tcorpus-id\tscore", *pairs]) + "\n"
    write_atomically(folder / "qrels" / f"{split}.tsv", judged.encode())
    return folder


def pairs_of(sources: Sequence[Path], queries: int, work: Path) -> Path:
    """Return a folder with training queries of each source and their relevant documents, made unless it is there."""
    folder = work / f"train-{queries}-{'-'.join(source.name for source in sources)}"
    if (folder / "qrels" / "train.tsv").is_file():
        return folder
    documents: dict[str, Document] = {}
    texts: dict[str, str] = {}
    pairs = []
    for source in sources:
        found = open_training_collection(source, max_queries=queries)
        for row, (id_, text) in enumerate(zip(found.query_ids, found.queries, strict=True)):
            texts[f"{source.name}:{id_}"] = text
            for place in found.judgments.relevant(row).tolist():
                document = found.documents[place]
                own = f"{source.name}:{document.id}"
                documents[own] = Document(own, document.text, document.title)
                pairs.append(f"{source.name}:{id_}\t{own}\t1")
    return write_folder(folder, documents.values(), texts, "train", pairs)


def sampled(source: Path, queries: int, documents: int, work: Path) -> Path:
    """Return a folder with test queries of a source, all that is relevant to them and other documents, likewise."""
    folder = work / f"test-{queries}-{documents}" / source.name
    if (folder / "qrels" / "test.tsv").is_file():
        return folder
    generator = np.random.default_rng(0)
    corpus = {document.id: document for document in open_corpus(str(source))}
    judged = open_collection(str(source), "test")
    # A judged document that is no more in the corpus cannot be found.
    relevant = {
        id_: {d: grade for d, grade in judged.qrels[id_].items() if grade > 0 and d in corpus} for id_ in judged.judged
    }
    ids = [id_ for id_, found in relevant.items() if found]
    drawn = {ids[place]: relevant[ids[place]] for place in sorted(generator.permutation(len(ids))[:queries])}
    kept = {document for found in drawn.values() for document in found}
    others = [id_ for id_ in corpus if id_ not in kept]
    kept |= {others[place] for place in generator.permutation(len(others))[: max(0, documents - len(kept))]}
    pairs = [f"{id_}\t{document}\t{grade}" for id_, found in drawn.items() for document, grade in found.items()]
    texts = {id_: judged.queries[id_] for id_ in drawn}
    return write_folder(folder, (corpus[id_] for id_ in corpus if id_ in kept), texts, "test", pairs)


def train(trained: Experiment, measured: Sequence[Experiment], arm: str, seed: int, settings: dict[str, Any]) -> None:
    """Train an arm and measure it on every collection, unless that is done."""
    attention, pooling = ARMS[arm]
    settings = settings | {"attention": attention, "pooling": pooling}
    chosen = RepllamaSettings.model_validate(settings | {"seed": seed})
    missing = [experiment for experiment in measured if not experiment.kept(arm, seed, chosen, "repllama")]
    if not missing:
        return
    model = open_base(chosen, base=trained.arm(arm, seed, "repllama", settings), offline=True)
    model.max_seq_length = chosen.document_tokens
    about = {name: trained.read(arm, seed)[name] for name in ("recipe", "settings", "training_seconds")}
    for experiment in missing:
        experiment.keep(arm, seed, measure_splits(model, experiment.corpus, experiment.held_out), about)


def means_table(measured: Sequence[Experiment], seeds: Sequence[int]) -> list[str]:
    """Return a Markdown table: nDCG@10 of each arm on each collection, and the mean over them by seed."""
    names = [experiment.data.name for experiment in measured]
    lines = [f"| arm | {' | '.join(names)} | mean | by seed |", "|---" * (len(names) + 3) + "|"]
    for arm in ARMS:
        values = np.array([experiment.by_seed(arm, seeds, "test", MEASURE) for experiment in measured])
        cells = [f"{value:.4f}" for value in (*values.mean(axis=1), values.mean())]
        lines.append(f"| {arm} | {' | '.join(cells)} | {', '.join(f'{value:.4f}' for value in values.mean(axis=0))} |")
    return lines


def tests_table(measured: Sequence[Experiment], seeds: Sequence[int]) -> list[str]:
    """Return a Markdown table: each pair of arms on all queries together and on each collection.

    p is corrected over the pairs for all queries together, over pairs and collections for these.
    """
    names = [experiment.data.name for experiment in measured]
    found = {
        arm: {
            f"{experiment.data.name}\t{query}": value
            for experiment in measured
            for query, value in experiment.per_query(arm, seeds, "test", MEASURE).items()
        }
        for arm in ARMS
    }
    differences = [{key: found[arm][key] - value for key, value in found[other].items()} for arm, other in PAIRS]
    single = [[[d for key, d in each.items() if key.startswith(f"{name}\t")] for name in names] for each in differences]
    tests = [signed_ranks(list(each.values())) for each in differences]
    together = holm([p for p, _ in tests])
    apart = iter(holm([signed_ranks(cell)[0] for row in single for cell in row]))
    lines = [f"| | all queries (95 %) | wins, losses | p | | {' | '.join(names)} |", "|---" * (len(names) + 5) + "|"]
    for (arm, other), (_, ranks), p, row in zip(PAIRS, tests, together, single, strict=True):
        seen = compare(found[other], found[arm])
        low, high = seen.interval
        verdict = "no difference shown"
        # The mean may point the other way than the ranks.
        if p < 0.05 and seen.difference * ranks > 0:
            verdict = "better" if seen.difference > 0 else "worse"
        cells = [f"{np.mean(cell):+.4f} (p = {next(apart):.2g})" for cell in row]
        lines.append(
            f"| {arm} against {other} | {seen.difference:+.4f} ({low:+.4f} to {high:+.4f}) "
            f"| {seen.wins}, {seen.losses} | {p:.2g} | {verdict} | {' | '.join(cells)} |"
        )
    return lines


def section(learned: str, measured: Sequence[Experiment], seeds: Sequence[int]) -> list[str]:
    """Return the lines of the results' section; `learned` says what was trained."""
    sizes = "; ".join(
        f"{experiment.data.name}, {len(experiment.held_out[0].judged)} queries and "
        f"{len(experiment.corpus.documents):,} documents"
        for experiment in measured
    )
    seen = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed only, so that a difference may be the seed's"
    return [
        "## Poolers", "", __doc__.strip(), "", f"{learned}. Measured on {sizes}.", "",
        f"nDCG@10, {seen}:", "", *means_table(measured, seeds), "",
        "Wilcoxon's signed-rank tests over queries, means over seeds; p is corrected (Holm), for all queries together",
        f"over the {len(PAIRS)} pairs, for single collections over all {len(PAIRS) * len(measured)} of theirs:", "",
        *tests_table(measured, seeds),
    ]  # fmt: skip


def main() -> None:
    more = {
        "also": "arxiv-title", "others": "cosqa,scifact,cranfield", "tested": 100, "documents": 250, "layers": 4,
        "latents": 64,
    }  # fmt: skip
    given = arguments(__doc__, "nl2bash", queries=400, work=Path(".cache/claims/poolers"), more=more)
    # Names stand for folders beside the first one.
    also, others = (
        [given.data.parent / name for name in text.split(",") if name] for text in (given.also, given.others)
    )
    sources = [given.data, *also]
    pairs = pairs_of(sources, given.queries, given.work)
    # Records tell what was trained by its settings, not by its pairs.
    work = given.work / f"from-{pairs.name}"
    trained = Experiment(pairs, work / "trained", splits=())
    measured = []
    for source in (*sources, *others):
        folder = sampled(source, given.tested, given.documents, given.work)
        measured.append(Experiment(folder, work / f"measured-{source.name}", splits=("test",)))
    trained.models.mkdir(parents=True, exist_ok=True)
    base = shortened(given.layers, trained.models / f"smollm2-{given.layers}-layers")
    settings = COMMON | {"base": str(base), "latents": given.latents, "fit": FIT}
    for seed in given.seeds:
        for arm in ARMS:
            train(trained, measured, arm, seed, settings)
    write_csv(given.results / "poolers.csv", measured, list(ARMS), given.seeds)
    learned = f"{given.layers} of 30 layers, {given.latents} latents; {given.queries:,} pairs of each of "
    learned += ", ".join(source.name for source in sources)
    lines = section(learned, measured, given.seeds)
    (given.results / "poolers.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
