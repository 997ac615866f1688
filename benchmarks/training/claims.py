"""Claims about training methods: arms trained by several seeds, kept as records, compared by paired tests.

An arm's record holds the measures of every query, so an interrupted run goes on with the arms that are missing. It
also holds digests of the data, so that a work folder serves one collection alone.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from retriever.evaluation.collections import Collection
from retriever.evaluation.records import environment
from retriever.evaluation.significance import Comparison, compare, holm
from retriever.storage import write_atomically
from training.collection import Corpus, TrainingCollection, open_training_collection, read_corpus
from training.evaluation import PerQuery
from training.finished import copy_model
from training.recipe import measure_splits, split_of
from training.recipes.registry import recipe
from training.settings import EncoderSettings
from training.stages import Stages, differing
from training.task import Task

# Beside the outcome of a stage that arms share: which data it is of.
DATA = "data.json"
MEASURES = ("nDCG@10", "RR@10", "R@100")


@dataclass(frozen=True)
class Claim:
    """That one arm is better than another; with `margin` that the two differ by less than it."""

    better: str
    worse: str
    measure: str = "nDCG@10"
    margin: float | None = None


class Experiment:
    """Arms over one collection: trained once, measured on every held-out split.

    models   trained models are kept here, by arm and seed, for arms that start from them
    records  one JSON for each arm and seed
    """

    def __init__(self, data: Path, work: Path, *, splits: Sequence[str] = ("dev", "test")) -> None:
        self.data = data
        self.models = work / "models"
        self.records = work / "records"
        self.records.mkdir(parents=True, exist_ok=True)
        self.corpus: Corpus = read_corpus(data)
        self.held_out: list[Collection] = [found for split in splits if (found := split_of(data, split))]
        self.digests: dict[str, Any] = {"corpus": self.corpus.sha256}
        self.digests |= {found.split: found.sha256 for found in self.held_out}

    def collection(self, max_queries: int | None, seed: int) -> TrainingCollection:
        return open_training_collection(self.data, max_queries=max_queries, seed=seed, corpus=self.corpus)

    def arm(
        self,
        name: str,
        seed: int,
        method: str,
        settings: Mapping[str, Any],
        *,
        shared: Mapping[str, str] | None = None,
    ) -> Path:
        """Train by a recipe unless that is done, measure it, and return the model's folder.

        shared  stages whose outcome other arms take too instead of computing it again, each with the name under
                which it is kept; that they do not depend on what differs between those arms is up to the caller
        """
        model = self.models / f"{name}-{seed}"
        found = recipe(method)
        chosen = found.settings.model_validate({**settings, "seed": seed})
        work = self.models / f".{name}-{seed}"
        plan = {"recipe": method, "settings": chosen.model_dump(mode="json")}
        if self.kept(name, seed, chosen, method) and model.is_dir():
            return model
        # Two digests that differ mean two trainings; an interrupted one of other settings or data is of no use.
        begun = plan | {"data": self.digests}
        digest = hashlib.sha256(json.dumps(begun, sort_keys=True).encode()).hexdigest()[:12]
        task: Task[Any] = Task(self.collection(chosen.max_queries, seed), chosen, Stages(work / digest, begun), True)
        kept = {stage: self.stage(place) for stage, place in (shared or {}).items()}
        for stage, folder in kept.items():
            if (folder / DATA).is_file():
                self._require_same(folder, json.loads((folder / DATA).read_text()), self.digests)
            _copy(folder, task.stages.folder / stage)
        started = time.monotonic()
        trained = found.train(task)
        seconds = time.monotonic() - started
        for stage, folder in kept.items():
            made = task.stages.folder / stage
            # An arm may do without one of them.
            if made.is_dir():
                write_atomically(made / DATA, json.dumps(self.digests).encode())
                _copy(made, folder)
        self.keep(name, seed, measure_splits(task.open_base(trained), self.corpus, self.held_out), plan | {
            "training_seconds": round(seconds, 1), "stages": task.stages.reports})  # fmt: skip
        copy_model(trained, model)
        shutil.rmtree(work)
        return model

    def stage(self, name: str) -> Path:
        """Return the folder in which the outcome of a stage is kept for other arms."""
        return self.models / ".stages" / name

    def keep(self, name: str, seed: int, measured: Mapping[str, PerQuery], about: Mapping[str, Any]) -> None:
        """Write the record of an arm."""
        content = {"arm": name, "seed": seed, **about, "data": self.digests, "environment": environment(),
                   "per_query": measured}  # fmt: skip
        write_atomically(self._record(name, seed), json.dumps(content, default=str).encode())

    def kept(self, name: str, seed: int, settings: EncoderSettings | None = None, method: str | None = None) -> bool:
        """Return whether there is a record of an arm; one of other data, recipe or settings ends the run.

        Models in folders are compared by the folders' names, since the work folder may have moved; settings that a
        record is older than have their defaults.
        """
        if not self._record(name, seed).is_file():
            return False
        record = self.read(name, seed)
        then: dict[str, Any] = {}
        now: dict[str, Any] = {}
        if method is not None:
            then["recipe"], now["recipe"] = record.get("recipe"), method
        if settings is not None and then == now:
            then["settings"] = _comparable(type(settings).model_validate(record.get("settings", {})))
            now["settings"] = _comparable(settings)
        self._require_same(self._record(name, seed), then, now)
        return True

    def read(self, name: str, seed: int) -> dict[str, Any]:
        """Return the record of an arm; one of other data ends the run."""
        path = self._record(name, seed)
        record = dict(json.loads(path.read_text()))
        # Records that are older than the digests lack them.
        if "data" in record:
            self._require_same(path, record["data"], self.digests)
        return record

    def _record(self, name: str, seed: int) -> Path:
        return self.records / f"{name}-{seed}.json"

    def _require_same(self, place: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """End the run where what was kept is of something else; it may have measures of further splits."""
        if other := differing({key: then.get(key) for key in now}, dict(now)):
            raise SystemExit(f"{place} is of another training ({other}); remove it, or give another --work.")

    def per_query(self, name: str, seeds: Sequence[int], split: str, measure: str) -> dict[str, float]:
        """Return the mean over seeds of each query."""
        values = [self.read(name, seed)["per_query"][split][measure] for seed in seeds]
        return {query: statistics.fmean(value[query] for value in values) for query in values[0]}

    def by_seed(self, name: str, seeds: Sequence[int], split: str, measure: str) -> list[float]:
        """Return the mean over queries of each seed."""
        values = [self.read(name, seed)["per_query"][split][measure] for seed in seeds]
        return [statistics.fmean(value.values()) for value in values]


def _comparable(settings: EncoderSettings) -> dict[str, Any]:
    return _by_name(settings.model_dump(mode="json"))


# Settings that may name a model's folder.
MODELS = ("base", "ranker", "model", "filter_model")


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found[name] = _by_name(value)
        else:
            found[name] = Path(value).name if name in MODELS and isinstance(value, str) else value
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, if there is one, to where none is yet; as a whole or not at all."""
    if source.is_dir() and not target.is_dir():
        part = target.with_name(f".{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        part.replace(target)


def arms_table(experiment: Experiment, arms: Sequence[str], seeds: Sequence[int], split: str = "test") -> list[str]:
    """Return a Markdown table: mean and spread over seeds of each arm."""
    lines = [f"| arm | {' | '.join(MEASURES)} | nDCG@10 by seed |", "|---" * (len(MEASURES) + 2) + "|"]
    for arm in arms:
        cells = []
        for measure in MEASURES:
            values = experiment.by_seed(arm, seeds, split, measure)
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.4f}{spread}")
        each = ", ".join(f"{value:.4f}" for value in experiment.by_seed(arm, seeds, split, "nDCG@10"))
        lines.append(f"| {arm} | {' | '.join(cells)} | {each} |")
    return lines


def decide(
    experiment: Experiment, claims: Sequence[Claim], seeds: Sequence[int], split: str = "test"
) -> list[tuple[Claim, Comparison, float]]:
    """Return each claim with its paired test over queries (means over seeds) and the p after Holm's correction.

    For a claim of equivalence it is the p of the two one-sided tests.
    """
    found = []
    for claim in claims:
        worse = experiment.per_query(claim.worse, seeds, split, claim.measure)
        better = experiment.per_query(claim.better, seeds, split, claim.measure)
        found.append(compare(worse, better, margin=claim.margin))
    raw = [c.p if c.equivalence_p is None else c.equivalence_p for c in found]
    return list(zip(claims, found, holm(raw), strict=True))


def claims_table(tested: Sequence[tuple[Claim, Comparison, float]]) -> list[str]:
    """Return a Markdown table of claims."""
    lines = ["| claim | measure | difference (95 %) | p (Holm) | holds |", "|---|---|---|---|---|"]
    for claim, found, p in tested:
        low, high = found.interval
        if claim.margin is None:
            text, holds = f"{claim.better} > {claim.worse}", found.difference > 0 and p < 0.05
        else:
            text, holds = f"{claim.better} within ±{claim.margin} of {claim.worse}", p < 0.05
        difference = f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        lines.append(f"| {text} | {claim.measure} | {difference} | {p:.2g} | {'yes' if holds else 'no'} |")
    return lines


def write_csv(
    path: Path, experiments: Experiment | Sequence[Experiment], arms: Sequence[str], seeds: Sequence[int]
) -> None:
    """Write one line for each collection, arm, seed, split and measure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["collection", "arm", "seed", "split", "measure", "mean", "training_seconds"])
        for experiment in [experiments] if isinstance(experiments, Experiment) else experiments:
            for arm, seed in product(arms, seeds):
                record = experiment.read(arm, seed)
                for split, measures in record["per_query"].items():
                    for measure, values in measures.items():
                        mean = f"{statistics.fmean(values.values()):.5f}"
                        seconds = record.get("training_seconds", "")
                        writer.writerow([experiment.data.name, arm, seed, split, measure, mean, seconds])


def write_section(
    path: Path, text: str, experiment: Experiment, arms: Sequence[str], claims: Sequence[Claim], seeds: Sequence[int]
) -> None:
    """Write a section of results: `text`, the arms on each split, the claims on the last of them."""
    lines = [text.strip(), ""]
    for found in experiment.held_out:
        seen = f"mean ± spread over {len(seeds)} seeds" if len(seeds) > 1 else "one seed only, so no verdict"
        lines += [f"On {len(found.judged):,} {found.split} queries, {seen}:", ""]
        lines += [*arms_table(experiment, arms, seeds, found.split), ""]
    last = experiment.held_out[-1].split
    lines += [f"Paired tests over {last} queries, means over seeds, corrected together (Holm):", ""]
    lines += claims_table(decide(experiment, claims, seeds, last))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def arguments(
    description: str, collection: str, *, more: Mapping[str, Any] | None = None, **defaults: Any
) -> argparse.Namespace:
    """Parse what every experiment takes: data, work folder, seeds, where the results go.

    more  options of an experiment's own, with their defaults, which say what type they are of
    """
    parser = argparse.ArgumentParser(description=description)
    folder = Path(os.environ.get("RETRIEVER_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=folder / collection, help="BEIR folder")
    parser.add_argument("--work", type=Path, default=Path(".cache/claims") / collection, help="models and records")
    parser.add_argument("--results", type=Path, default=Path("docs/results/training"), help="tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its own choice")
    parser.set_defaults(**{name: value for name, value in defaults.items() if name != "queries"})
    if "queries" in defaults:
        parser.add_argument("--queries", type=int, default=defaults["queries"], help="training queries")
    for name, value in (more or {}).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parsed = parser.parse_args()
    if parsed.threads:
        import torch

        torch.set_num_threads(parsed.threads)
    return parsed
