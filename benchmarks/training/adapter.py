"""A residual over frozen embeddings: does it help few labels, and the first place more than the first 25?

    python -m benchmarks.training.adapter --data nl2bash --threads 1

The base is all-MiniLM-L6-v2, its texts are encoded once; the recipe's defaults, nothing chosen on this collection. The
number in an arm's name is that of its training queries, of which a fifth chooses the cycle. "full" has a whole matrix
in place of rank 32, "lookup" slots, "both" a residual for documents too. Success@k says whether a relevant document is
among the first k; "first place" and "first 25" are what the arm adds to it, query by query. --many 0 leaves out the arm
with many queries, which takes most of the time.
"""

import hashlib
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.training.claims import MEASURES, Claim, Experiment, arguments, write_csv, write_section
from retriever.evaluation.collections import Collection
from training.encoders import as_encoder, open_base
from training.evaluation import PerQuery, measured, vector_run
from training.recipes.low_rank_adapter import DOCUMENTS, QUERIES, LowRankAdapterSettings, adapted, train
from training.stages import DONE, Stages
from training.task import Task

FEW, MANY = 200, 4000
TOKENS = {"query_tokens": 32, "document_tokens": 128}
SUCCESS = ("Success@1", "Success@25")
ARMS: dict[str, dict[str, Any]] = {
    f"linear {FEW}": {},
    f"lookup {FEW}": {"form": "lookup"},
    f"full {FEW}": {"form": "full"},
    f"both {FEW}": {"sides": "both"},
}
CLAIMS = (
    Claim(f"linear {FEW}", "base", "Success@1"),
    Claim(f"first place, linear {FEW}", f"first 25, linear {FEW}", "gain"),
    Claim(f"linear {FEW}", f"full {FEW}", "Success@1"),
    Claim(f"linear {FEW}", f"full {FEW}"),
    Claim(f"both {FEW}", f"linear {FEW}"),
)


@cache
def encoded(experiment: Experiment) -> tuple[Any, NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """Return the base's encoder, its vectors of all documents, and of the queries of each split."""
    encoder = as_encoder(open_base(LowRankAdapterSettings(), offline=True))
    queries = {split.split: encoder.encode_queries(list(split.judged.values())) for split in experiment.held_out}
    digest = hashlib.sha256(json.dumps(experiment.corpus.sha256).encode()).hexdigest()
    place = experiment.models / f"documents-{digest[:12]}.npy"
    if not place.is_file():
        part = place.with_name(".documents.part.npy")
        part.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, encoder.encode_documents(experiment.corpus.documents))
        part.replace(place)
    return encoder, np.load(place, allow_pickle=False), queries


def measures(
    experiment: Experiment, split: Collection, queries: NDArray[np.float32], documents: NDArray[np.float32]
) -> PerQuery:
    run = vector_run(queries, documents, experiment.corpus, split)
    return measured(run, split, (*MEASURES, *SUCCESS))


def keep_base(experiment: Experiment, seed: int) -> None:
    """Write the record of the base, which is the same for every seed."""
    if not experiment.kept("base", seed):
        _, documents, queries = encoded(experiment)
        found = {s.split: measures(experiment, s, queries[s.split], documents) for s in experiment.held_out}
        experiment.keep("base", seed, found, {})


def keep_arm(experiment: Experiment, name: str, seed: int, changes: dict[str, Any]) -> None:
    """Train an adapter unless that is done, and write its record."""
    settings = LowRankAdapterSettings.model_validate(TOKENS | {"max_queries": FEW, "seed": seed} | changes)
    if experiment.kept(name, seed, settings):
        return
    encoder, documents, queries = encoded(experiment)
    work = experiment.models / f".{name}-{seed}"
    shutil.rmtree(work, ignore_errors=True)
    collection = experiment.collection(settings.max_queries, seed)
    task: Task[Any] = Task(collection, settings, Stages(work, {}), True)
    place = work / "vectors"
    place.mkdir()
    np.save(place / QUERIES, encoder.encode_queries(collection.queries))
    np.save(place / DOCUMENTS, documents)
    (place / DONE).write_text("{}")
    started = time.monotonic()
    model = task.open_base(train(task))
    seconds = time.monotonic() - started
    changed = adapted(model, documents, "document")
    found = {
        split.split: measures(experiment, split, adapted(model, queries[split.split], "query"), changed)
        for split in experiment.held_out
    }
    about = {"settings": settings.model_dump(mode="json"), "stages": task.stages.reports}
    experiment.keep(name, seed, found, about | {"training_seconds": round(seconds, 1)})
    shutil.rmtree(work)


def keep_gains(experiment: Experiment, arm: str, seed: int) -> None:
    """Write, query by query, what an arm adds to the base in the first place and in the first 25."""
    start, end = (experiment.read(name, seed)["per_query"] for name in ("base", arm))
    for name, measure in zip(("first place", "first 25"), SUCCESS, strict=True):
        gains = {
            split: {"gain": {query: end[split][measure][query] - value for query, value in found[measure].items()}}
            for split, found in start.items()
        }
        experiment.keep(f"{name}, {arm}", seed, gains, {})


def stayed(experiment: Experiment, arms: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Say with which seeds an arm is the base still, since none of its cycles was better on the queries that choose."""
    found = []
    for arm in arms:
        same = [seed for seed in seeds if _per_query(experiment, arm, seed) == _per_query(experiment, "base", seed)]
        if same:
            found.append(f"*{arm}* stays at the base with {_seeds(same)}, {len(same)} of {len(seeds)}.")
    return found


def left_out(experiment: Experiment, arms: Sequence[str]) -> list[str]:
    """Say what is known of arms that are not in the tables, such as one that was measured with one seed alone."""
    seeds: dict[str, list[int]] = {}
    for path in sorted(experiment.records.glob("linear *.json")):
        arm, _, seed = path.stem.rpartition("-")
        # An interrupted run leaves arms without their gains.
        beside = ("base", f"first place, {arm}", f"first 25, {arm}")
        if arm not in arms and all(experiment.kept(name, int(seed)) for name in beside):
            seeds.setdefault(arm, []).append(int(seed))
    found = []
    for arm, known in seeds.items():
        last = experiment.held_out[-1].split

        def mean(name: str, measure: str, known: list[int] = known, last: str = last) -> float:
            return statistics.fmean(experiment.by_seed(name, known, last, measure))

        first, most = mean(f"first place, {arm}", "gain"), mean(f"first 25, {arm}", "gain")
        found.append(
            f"Not in the tables: *{arm}* with {_seeds(known)} has {last} nDCG@10 {mean(arm, 'nDCG@10'):.4f} (base "
            f"{mean('base', 'nDCG@10'):.4f}); it adds {first:+.4f} to the first place and {most:+.4f} to the first 25."
        )
    return found


def _per_query(experiment: Experiment, arm: str, seed: int) -> Any:
    return experiment.read(arm, seed)["per_query"]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def main() -> None:
    given = arguments(__doc__, "nl2bash", more={"many": MANY}, work=Path(".cache/claims/adapter"))
    experiment = Experiment(given.data, given.work)
    settings, claims, gaining = dict(ARMS), list(CLAIMS), [f"linear {FEW}"]
    if given.many:
        many = f"linear {given.many}"
        settings[many] = {"max_queries": given.many}
        claims += [Claim(many, "base", "Success@1"), Claim(f"first place, {many}", f"first 25, {many}", "gain")]
        gaining.append(many)
    for seed in given.seeds:
        keep_base(experiment, seed)
        for name, changes in settings.items():
            keep_arm(experiment, name, seed, changes)
        for arm in gaining:
            keep_gains(experiment, arm, seed)
    arms = ("base", *settings)
    command = f"--many {given.many} --threads 1" if given.many != MANY else "--threads 1"
    said = [*stayed(experiment, list(settings), given.seeds), *left_out(experiment, arms)]
    write_csv(given.results / "adapter.csv", experiment, arms, given.seeds)
    lines = ["## A residual over frozen embeddings", "", __doc__.replace("--threads 1", command), *said]
    text = "\n".join(lines)
    write_section(given.results / "adapter.md", text, experiment, arms, claims, given.seeds)


if __name__ == "__main__":
    main()
