"""What compressed forms of one model's vectors lose on real collections, and what they take.

    python -m benchmarks.compression --data FOLDER --work .cache/reproduce --output docs/results --learned

Needs the indexes of `retriever eval reproduce` in --work; collections without one are left out. Every form is searched
by the code that serves it (`indexing.compression`) and compared query by query with exact search of float32 vectors.
Writes compression.csv, and compression.md between the marks that its first run makes.

With --learned bpr and jpq are trained for each collection as `retriever index compress --train --queries` does: on its
train split, where it has none on queries that SmolLM2-135M-Instruct makes up for its documents. "bpr+gpl" goes on
from bpr on such queries of every collection; its teacher is the cosine of all-MiniLM-L6-v2, times 20. They encode
documents in bfloat16. Each of --seeds trains its own; the made-up queries are the same. Models stay in --models with
what was measured of each collection, and a run goes on there.
"""

import argparse
import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from indexing.compression import Trial, try_forms
from indexing.learned_codes import Learned
from retriever.evaluation.collections import open_collection
from retriever.evaluation.records import environment
from retriever.evaluation.significance import Comparison, compare, compare_across, holm
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
# The recipes' own, of which the folders have the collection's name alone.
FIRST_SEED = 42
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
    parser.add_argument("--seeds", type=int, nargs="*", default=[FIRST_SEED], help="Of what is learned.")
    arguments = parser.parse_args()
    # By seed of what is learned, then by collection; forms without training are tried with the first seed alone.
    found: dict[int, dict[str, list[Trial]]] = {}
    for seed in arguments.seeds:
        trials: dict[str, list[Trial]] = {}
        for name, (source, keep_self) in COLLECTIONS.items():
            if name in arguments.only and (arguments.work / name / "CURRENT").is_file():
                data = arguments.data / source
                index, first = arguments.work / name, seed == arguments.seeds[0]
                trials[name] = tried(index, data, arguments.models, seed, first, keep_self, arguments.learned)
                if first:
                    write({seed: trials}, arguments.output)
        found[seed] = trials
        write(found, arguments.output)


def tried(
    index: Path, data: Path, models: Path, seed: int, first: bool, keep_self: bool, with_learned: bool
) -> list[Trial]:
    """Return exact search and all forms of an index, measured unless they are in `models`.

    first  with the forms that need no training
    """
    own = index.name if seed == FIRST_SEED else f"{index.name}-{seed}"
    forms = FORMS if first else []
    place, plan = models / f"{own}.json", plan_of(index, forms, with_learned)
    if not (trials := read(place, plan)):
        found = try_forms(
            index,
            collection=open_collection(str(data), "test"),
            forms=forms,
            learned=learned(index, data, models / own, models / index.name, seed) if with_learned else (),
            memory_only=True,
            keep_self=keep_self,
            offline=True,
            quiet=False,
        )
        trials = [found.exact, *found.trials]
        keep(place, plan, trials)
    return trials


def plan_of(index: Path, forms: list[tuple[str, Stored]], with_learned: bool) -> Any:
    """Return what the measures of an index depend on, as JSON gives it back."""
    generation = (index / "CURRENT").read_text(encoding="utf-8")
    plan = {"index": generation, "forms": forms, "learned": [SETTINGS, MADE_UP] if with_learned else None}
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


def learned(index: Path, data: Path, work: Path, other: Path, seed: int) -> list[Learned]:
    """Return the models that are trained for an index, trained unless they are in `work`.

    other  a folder of another seed, whose made-up queries are taken where there are some
    """
    made_up = work / "queries.parquet"
    if not made_up.is_file() and (other / made_up.name).is_file():
        work.mkdir(parents=True, exist_ok=True)
        shutil.copy(other / made_up.name, made_up)
    own = [f"{name}.{change}" for name in ("bpr", "jpq") for change in (*SETTINGS[name], f"seed={seed}")]
    found, _ = learned_forms(
        index, work, times=32, queries=str(data), split="test", changes=own,
        generation=[f"{key}={value}" for key, value in MADE_UP.items()], offline=True, quiet=False,
    )  # fmt: skip
    manifest, _ = read_manifest(index)
    folder, pairs = work / "bpr+gpl", work / "made-up"
    if not (folder / REPORT).is_file():
        documents = documents_of(index, manifest)
        generate_queries(documents, made_up, GenerationSettings(**MADE_UP), offline=True, quiet=False)
        write_collection(made_up, documents, pairs, held_out=0.0)
        chosen = recipe("bpr_gpl")
        changes = [*SETTINGS["bpr_gpl"], f"base={work / 'bpr'}", f"seed={seed}"]
        settings = read_settings(chosen.settings, CONFIGS / "bpr_gpl.yaml", changes, ignore=("recipe",))
        run_recipe(chosen, settings, pairs, folder, splits=(), offline=True)
    every = [*found, Learned("bpr+gpl", folder, work / "bpr+gpl-codes", offline=True)]
    return [replace(model, precision="bfloat16") for model in every]


def write(found: dict[int, dict[str, list[Trial]]], folder: Path) -> None:
    """Write what there is so far: the CSV by seed, the tables of means over seeds."""
    with (folder / "compression.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["collection", "form", "bytes", "memory", "codebook_bytes", "ndcg_10", "difference", "low", "high", "p",
             "recall_100", "recall_difference", "queries_per_second", "ms", "problem", "seed"]
        )  # fmt: skip
        for name in next(iter(found.values())):
            for place, (seed, by_name) in enumerate(found.items()):
                for trial in by_name[name]:
                    if trial.model or not place:
                        writer.writerow([name, *_row(trial), seed if trial.model else ""])
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


def _over_seeds(found: dict[int, dict[str, list[Trial]]]) -> dict[str, list[Trial]]:
    """Return the trials of the first seed, the learned ones with the mean over seeds of every query."""
    first, *others = found.values()
    means: dict[str, list[Trial]] = {}
    for name, trials in first.items():
        exact, means[name] = trials[0], []
        for trial in trials:
            same = [trial] + [t for by_name in others for t in by_name[name] if trial.model and t.name == trial.name]
            if len(same) > 1 and trial.recall is not None:
                values = {id_: sum(t.per_query[id_] for t in same) / len(same) for id_ in trial.per_query}
                recall = sum(t.recall.system for t in same if t.recall) / len(same)
                rate = sum(t.queries_per_second for t in same) / len(same)
                trial = replace(
                    trial, per_query=values, ndcg=compare(exact.per_query, values),
                    recall=replace(trial.recall, system=recall), queries_per_second=rate,
                )  # fmt: skip
            means[name].append(trial)
    return means


def _table(by_seed: dict[int, dict[str, list[Trial]]]) -> list[str]:
    found = _over_seeds(by_seed)
    machine = environment()
    names = list(found)
    lines = [
        f"Made by `python -m benchmarks.compression`. all-MiniLM-L6-v2, width 384, test queries. {machine['cpu']}, "
        f"{machine['cores']} cores. Bytes are those of a document on disk, in brackets those that each search reads; "
        "codebooks (about 1 MB an index) are apart. Queries a second are of one run on a busy machine: compare them "
        "within a column's collection mean only. Stars: the paired randomisation test over all queries, stratified by "
        "collection, gives p < .05 (*) or p < .001 (**) against exact search.",
        *([f"Learned forms are means over {len(by_seed)} seeds, query by query."] if len(by_seed) > 1 else []),
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
        lines += ["", *_learned_table(found, by_seed)]
    return lines


def _learned_table(found: dict[str, list[Trial]], by_seed: dict[int, dict[str, list[Trial]]]) -> list[str]:
    """Return a Markdown table of codes alone of as many bytes, on the mean over collections."""
    by_name = {name: {trial.name: trial for trial in trials} for name, trials in found.items()}
    untrained = {name: {t.name: t for t in trials if not t.model} for name, trials in found.items()}
    of_seeds = [
        {name: untrained[name] | {t.name: t for t in trials if t.model} for name, trials in one.items()}
        for one in by_seed.values()
    ]
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
        "| | mean nDCG@10 | by seed | better on | p |",
        "|---|---|---|---|---|",
    ]
    for (after, before), (low, high, _), p in zip(LEARNED, compared, holm([p for _, _, p in compared]), strict=True):
        pairs = [[trials[f"{form}, codes alone"].ndcg for form in (before, after)] for trials in by_name.values()]
        ahead = sum(two.system > one.system for one, two in pairs if one and two)
        seeds = ", ".join(f"{_mean(trials, after) - _mean(trials, before):+.4f}" for trials in of_seeds)
        lines.append(
            f"| {after} against {before} | {low:.4f} → {high:.4f} | {seeds} | {ahead} of {len(pairs)} | {p:.2g} |"
        )
    return lines


def _mean(found: dict[str, dict[str, Trial]], form: str) -> float:
    """Return the mean over collections of a form's codes alone."""
    means = [trial.ndcg.system for trials in found.values() if (trial := trials[f"{form}, codes alone"]).ndcg]
    return sum(means) / len(means)


if __name__ == "__main__":
    main()
