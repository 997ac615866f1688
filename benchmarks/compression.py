"""What compressed forms of one model's vectors lose on real collections, and what they take.

    python -m benchmarks.compression --data FOLDER --work .cache/reproduce --output docs/results --learned

Needs the indexes of `retriever eval reproduce` in --work; collections without one are left out. Every form is searched
by the code that serves it (`indexing.compression`) and compared query by query with exact search of float32 vectors.
Writes compression.csv, and compression.md between the marks that its first run makes.

With --learned bpr and jpq are trained for each collection as `retriever index compress --train --queries` does: on its
train split, where it has none on queries that SmolLM2-135M-Instruct makes up for its documents. "bpr+gpl" goes on
from bpr on such queries of every collection; its teacher is the cosine of all-MiniLM-L6-v2, times 20. They encode
documents in bfloat16. Models stay in --models with what was measured of each collection, and a run goes on there.
"""

import argparse
import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from indexing.compression import Trial, try_forms
from indexing.learned_codes import Learned
from retriever.evaluation.collections import open_collection
from retriever.evaluation.records import environment
from retriever.evaluation.significance import Comparison, compare_across, holm
from retriever.index.form import Stored
from retriever.index.manifest import read_manifest
from retriever.storage import write_atomically
from training.generation import GenerationSettings, generate_queries, write_collection
from training.learned_forms import documents_of, learned_forms
from training.recipe import REPORT, run_recipe
from training.recipes.registry import CONFIGS, recipe
from training.settings import read_settings

# The index of `retriever eval reproduce`, its collection, and whether equal ids mean nothing.
COLLECTIONS = {
    "cranfield": ("cranfield", True), "nfcorpus": ("nfcorpus", False), "medquad-sample": ("medquad", False),
    "scifact": ("scifact", False), "cosqa": ("cosqa", False), "nl2bash": ("nl2bash", False),
}  # fmt: skip
FORMS: list[tuple[str, Stored]] = [
    ("flat", "float16"), ("pq384", "none"), ("pq48", "none"), ("opq48", "none"),
    ("binary", "none"), ("opq48", "float16"), ("binary", "float16"), ("RaBitQ", "float16"),
]  # fmt: skip
FIT = ("fit.batch_size=32", "fit.precision=bfloat16", "fit.save_steps=0", "fit.warmup=0.1")
SETTINGS: dict[str, tuple[str, ...]] = {
    "bpr": (*FIT, "fit.steps=100", "hard=none"),
    "jpq": (*FIT, "fit.steps=100", "fit.learning_rate=2e-5", "depth=100", "metric_cut=100"),
    "bpr_gpl": (
        *FIT, "fit.steps=50", "query_tokens=32", "document_tokens=128",
        "teacher={kind: bi_encoder, model: all-MiniLM-L6-v2, scale: 20, precision: bfloat16}",
    ),
}  # fmt: skip
MADE_UP: dict[str, Any] = {
    "documents": 192, "queries": 2, "document_tokens": 128, "new_tokens": 32, "precision": "bfloat16"
}  # fmt: skip
# Learned codes, and what they are compared with.
LEARNED = (("jpq48", "opq48"), ("bpr", "binary"), ("bpr+gpl", "bpr"), ("bpr+gpl", "binary"))
BEGIN, END = "<!-- begin: benchmarks.compression -->", "<!-- end: benchmarks.compression -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".cache/reproduce"))
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--only", nargs="*", default=list(COLLECTIONS))
    parser.add_argument("--learned", action="store_true", help="Train bpr, jpq and bpr_gpl, minutes a collection.")
    parser.add_argument("--models", type=Path, default=Path(".cache/claims/compression"))
    arguments = parser.parse_args()
    found: dict[str, list[Trial]] = {}
    for name, (source, keep_self) in COLLECTIONS.items():
        if name in arguments.only and (arguments.work / name / "CURRENT").is_file():
            place = arguments.models / f"{name}.json"
            plan = plan_of(arguments.work / name, arguments.learned)
            if not (trials := read(place, plan)):
                index, data = arguments.work / name, arguments.data / source
                tried = try_forms(
                    index,
                    collection=open_collection(str(data), "test"),
                    forms=FORMS,
                    learned=learned(index, data, arguments.models / name) if arguments.learned else (),
                    memory_only=True,
                    keep_self=keep_self,
                    offline=True,
                    quiet=False,
                )
                trials = [tried.exact, *tried.trials]
                keep(place, plan, trials)
            found[name] = trials
            write(found, arguments.output)


def plan_of(index: Path, with_learned: bool) -> Any:
    """Return what the measures of an index depend on, as JSON gives it back."""
    generation = (index / "CURRENT").read_text(encoding="utf-8")
    plan = {"index": generation, "forms": FORMS, "learned": [SETTINGS, MADE_UP] if with_learned else None}
    return json.loads(json.dumps(plan))


def keep(path: Path, plan: object, trials: list[Trial]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"plan": plan, "trials": [asdict(trial) for trial in trials]}).encode())


def read(path: Path, plan: object) -> list[Trial]:
    """Return what was measured by this plan, nothing where that is of another one."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept.get("plan") != plan:
        return []
    compared = ("ndcg", "recall")
    rows = [{**row, **{key: row[key] and Comparison(**row[key]) for key in compared}} for row in kept["trials"]]
    return [Trial(**row) for row in rows]


def learned(index: Path, data: Path, work: Path) -> list[Learned]:
    """Return the models that are trained for an index, trained unless they are in `work`."""
    own = {name: [f"{name}.{change}" for change in SETTINGS[name]] for name in ("bpr", "jpq")}
    found, _ = learned_forms(
        index, work, times=32, queries=str(data), split="test", changes=[*own["bpr"], *own["jpq"]],
        generation=[f"{key}={value}" for key, value in MADE_UP.items()], offline=True, quiet=False,
    )  # fmt: skip
    manifest, _ = read_manifest(index)
    folder, pairs = work / "bpr+gpl", work / "made-up"
    if not (folder / REPORT).is_file():
        documents = documents_of(index, manifest)
        generate_queries(documents, work / "queries.parquet", GenerationSettings(**MADE_UP), offline=True, quiet=False)
        write_collection(work / "queries.parquet", documents, pairs, held_out=0.0)
        chosen = recipe("bpr_gpl")
        changes = [*SETTINGS["bpr_gpl"], f"base={work / 'bpr'}"]
        settings = read_settings(chosen.settings, CONFIGS / "bpr_gpl.yaml", changes, ignore=("recipe",))
        run_recipe(chosen, settings, pairs, folder, splits=(), offline=True)
    every = [*found, Learned("bpr+gpl", folder, work / "bpr+gpl-codes", offline=True)]
    return [replace(model, precision="bfloat16") for model in every]


def write(found: dict[str, list[Trial]], folder: Path) -> None:
    """Write what there is so far."""
    with (folder / "compression.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["collection", "form", "bytes", "memory", "codebook_bytes", "ndcg_10", "difference", "low", "high", "p",
             "recall_100", "recall_difference", "queries_per_second", "ms", "problem"]
        )  # fmt: skip
        for name, trials in found.items():
            for trial in trials:
                writer.writerow([name, *_row(trial)])
    path = folder / "compression.md"
    content = path.read_text(encoding="utf-8") if path.is_file() else f"# Compression\n\n{BEGIN}\n{END}\n"
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = "\n".join(_table(found))
    write_atomically(path, f"{before}{BEGIN}\n{table}\n{END}{after}".encode())


def _row(trial: Trial) -> list[object]:
    if trial.ndcg is None or trial.recall is None:
        return [trial.name, *[""] * 12, trial.problem]
    return [
        trial.name, f"{trial.bytes:.2f}", f"{trial.memory:.2f}", trial.fixed, f"{trial.ndcg.system:.4f}",
        f"{trial.ndcg.difference:+.4f}", *(f"{value:+.4f}" for value in trial.ndcg.interval), f"{trial.ndcg.p:.2g}",
        f"{trial.recall.system:.4f}", f"{trial.recall.difference:+.4f}", f"{trial.queries_per_second:.0f}",
        f"{trial.latency_ms:.3f}", "",
    ]  # fmt: skip


def _table(found: dict[str, list[Trial]]) -> list[str]:
    machine = environment()
    names = list(found)
    lines = [
        f"Made by `python -m benchmarks.compression`. all-MiniLM-L6-v2, width 384, test queries. {machine['cpu']}, "
        f"{machine['cores']} cores. Bytes are those of a document on disk, in brackets those that each search reads; "
        "codebooks (about 1 MB an index) are apart. Queries a second are of one run on a busy machine: compare them "
        "within a column's collection mean only. Stars: the paired randomisation test over all queries, stratified by "
        "collection, gives p < .05 (*) or p < .001 (**) against exact search.",
        "",
        f"| form | bytes | {' | '.join(names)} | mean nDCG@10 | mean recall@100 | queries/s |",
        f"|---|---|{'---|' * len(names)}---|---|---|",
    ]
    for place, trial in enumerate(found[names[0]]):
        trials = [found[name][place] for name in names]
        cells = [f"{t.ndcg.system:.4f}" if t.ndcg else "-" for t in trials]
        whole = [t for t in trials if t.ndcg is not None and t.recall is not None]
        # Learned codes rescored by float32 are as good as by float16, and only in the CSV.
        if not whole or (trial.model and trial.stored == "float32"):
            continue
        _, mean, p = compare_across(
            {n: (found[n][0].per_query, t.per_query) for n, t in zip(names, trials, strict=True) if t.ndcg is not None}
        )
        star = "**" if p < 0.001 else "*" if p < 0.05 else ""
        recall = sum(t.recall.system for t in whole if t.recall) / len(whole)
        rate = sum(t.queries_per_second for t in whole) / len(whole)
        size = f"{trial.bytes:.0f}" + (f" ({trial.memory:.0f})" if round(trial.memory) != round(trial.bytes) else "")
        lines.append(f"| {trial.name} | {size} | {' | '.join(cells)} | {mean:.4f}{star} | {recall:.4f} | {rate:,.0f} |")
    if all(any(trial.model for trial in trials) for trials in found.values()):
        lines += ["", *_learned_table(found)]
    return lines


def _learned_table(found: dict[str, list[Trial]]) -> list[str]:
    """Return a Markdown table of codes alone of as many bytes, on the mean over collections."""
    by_name = {name: {trial.name: trial for trial in trials} for name, trials in found.items()}
    compared = [
        compare_across(
            {
                name: tuple(trials[f"{form}, codes alone"].per_query for form in (before, after))
                for name, trials in by_name.items()
            }
        )
        for after, before in LEARNED
    ]
    lines = [
        "Learned codes alone against others of as many bytes: the same test, p corrected by Holm over the rows.",
        "",
        "| | mean nDCG@10 | better on | p |",
        "|---|---|---|---|",
    ]
    for (after, before), (low, high, _), p in zip(LEARNED, compared, holm([p for _, _, p in compared]), strict=True):
        pairs = [[trials[f"{form}, codes alone"].ndcg for form in (before, after)] for trials in by_name.values()]
        ahead = sum(two.system > one.system for one, two in pairs if one and two)
        lines.append(f"| {after} against {before} | {low:.4f} → {high:.4f} | {ahead} of {len(pairs)} | {p:.2g} |")
    return lines


if __name__ == "__main__":
    main()
