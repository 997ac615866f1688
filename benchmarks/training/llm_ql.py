"""LLM-QL's claims: with few labels a start that has learned to write queries through one token is better.

    python -m benchmarks.training.llm_ql --data nl2bash

The base is the first layers of SmolLM2-135M-Instruct, so that two cores can train it. The writing stage sees pairs of a
query and a document, contrastive training only some of them (`--labels`), the same ones in every arm of a seed.
*plain* starts from the base itself, *stop* from the whole method, *no stop* and *no corruption* lack one part each.
"""

from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from benchmarks.training.first_layers import shortened
from training.query_writing import LANGUAGE_MODEL
from training.recipes.llm_ql import LlmQlSettings, write
from training.stages import Stages
from training.task import Task

WRITING: dict[str, dict[str, Any]] = {
    "stop": {},
    "no stop": {"stop": False},
    "no corruption": {"share": 0.0},
}
ARMS = ("plain", *WRITING)
CLAIMS = (Claim("stop", "plain"), Claim("stop", "no stop"), Claim("stop", "no corruption"))
COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32, "hard": "none", "count": 1}
FIT: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-4, "epochs": 2, "save_steps": 0}


def written(experiment: Experiment, arm: str, seed: int, base: Path, queries: int) -> Path:
    """Return the causal model that the writing stage of an arm makes."""
    settings = LlmQlSettings.model_validate(
        COMMON | {"base": str(base), "seed": seed, "writing": WRITING[arm] | {"fit": FIT | {"epochs": 1}}}
    )
    plan = {"settings": settings.model_dump(mode="json"), "queries": queries, "data": experiment.digests}
    folder = experiment.models / f".writing {arm}-{seed}"
    task = Task(experiment.collection(queries, seed), settings, Stages(folder, plan), True)
    return task.stages.run("query_likelihood", lambda place: write(task, place)) / LANGUAGE_MODEL


def train(experiment: Experiment, seed: int, layers: int, queries: int, labels: int) -> None:
    base = shortened(layers, experiment.models / f"smollm2-{layers}-layers")
    common = COMMON | {"max_queries": labels, "fit": FIT}
    experiment.arm("plain", seed, "repllama", common | {"base": str(base)})
    for arm in WRITING:
        start = written(experiment, arm, seed, base, queries)
        # By another name for each arm and seed, since records tell bases apart by their names.
        named = experiment.models / f"written {arm}-{seed}"
        if not named.is_symlink():
            named.symlink_to(start.resolve(), target_is_directory=True)
        experiment.arm(arm, seed, "repllama", common | {"base": str(named)})


def main() -> None:
    given = arguments(
        __doc__, "nl2bash", queries=2000, work=Path(".cache/claims/llm_ql"), more={"labels": 300, "layers": 4}
    )
    experiment = Experiment(given.data, given.work)
    experiment.models.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        train(experiment, seed, given.layers, given.queries, given.labels)
    write_csv(given.results / "llm_ql.csv", experiment, ARMS, given.seeds)
    sizes = f"{given.layers} of 30 layers; {given.queries:,} pairs to write, {given.labels:,} labels."
    text = f"## LLM-QL\n\n{__doc__}\n{sizes}"
    write_section(given.results / "llm_ql.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
