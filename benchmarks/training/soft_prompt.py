"""A soft prompt against a hard one: how likely does a frozen language model hold the queries that people wrote?

    python -m benchmarks.training.soft_prompt --data nl2bash --threads 1

SmolLM2-135M-Instruct, as it is, reads a document behind nothing, behind the instruction of the style "question", or
behind a soft prompt of 20 tokens that 23 pairs trained, 12 more saying when to stop; all are shown the same example.
Perplexity is that of the tokens of held-out test queries. A document is cut to 48 tokens.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, claims_table, decide, write_csv
from training.generation.soft_prompt import Sequences, SoftPrompt, mean_log_likelihoods
from training.recipes.soft_prompt import SoftPromptSettings, held_out_pairs, likelihoods, open_model, perplexity, train
from training.settings import FitSettings
from training.stages import Stages
from training.task import Task

MEASURE = "log p of a token"
ARMS = ("none", "hard", "soft")
CLAIMS = (Claim("soft", "hard", MEASURE), Claim("hard", "none", MEASURE))


def settings_of(seed: int, queries: int) -> SoftPromptSettings:
    return SoftPromptSettings(
        tokens=20, max_queries=36, validation=1 / 3, tried=1, patience=2, document_tokens=48, query_tokens=32,
        seed=seed, held_out=queries,
        fit=FitSettings(batch_size=2, learning_rate=3e-2, epochs=4, warmup=0, save_steps=0),
    )  # fmt: skip


def keep_arms(experiment: Experiment, seed: int, queries: int) -> None:
    """Train a soft prompt unless that is done, and write the records of all arms."""
    settings = settings_of(seed, queries)
    if all([experiment.kept(arm, seed, settings) for arm in ARMS]):
        return
    work = experiment.models / f".soft-{seed}"
    shutil.rmtree(work, ignore_errors=True)
    task: Task[Any] = Task(experiment.collection(settings.max_queries, seed), settings, Stages(work, {}), True)
    soft = SoftPrompt.load(train(task))
    model, tokenizer = open_model(settings.base, offline=True)
    (split,) = experiment.held_out
    # The same queries for all seeds.
    ids, pairs = held_out_pairs(split, experiment.corpus, queries, 0)
    bare = Sequences.of(
        tokenizer, pairs, soft.examples, document_tokens=soft.document_tokens, query_tokens=settings.query_tokens
    )
    found = (mean_log_likelihoods(model, bare), *likelihoods(model, tokenizer, soft, pairs, settings))
    for arm, values in zip(ARMS, found, strict=True):
        measured = {split.split: {MEASURE: dict(zip(ids, values, strict=True))}}
        experiment.keep(
            arm, seed, measured, {"settings": settings.model_dump(mode="json"), "stages": task.stages.reports}
        )
    shutil.rmtree(work)


def main() -> None:
    given = arguments(__doc__, "nl2bash", more={"held": 60}, work=Path(".cache/claims/soft_prompt"))
    experiment = Experiment(given.data, given.work, splits=("test",))
    for seed in given.seeds:
        keep_arms(experiment, seed, given.held)
    seeds = given.seeds
    lines = ["## A soft prompt", "", __doc__.strip(), ""]
    lines += [f"On {given.held} test queries of {given.data.name}, {len(seeds)} seeds:", ""]
    lines += ["| prompt | perplexity | by seed |", "|---|---|---|"]
    for arm in ARMS:
        values = [perplexity([value]) for value in experiment.by_seed(arm, seeds, "test", MEASURE)]
        shown = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {arm} | {sum(values) / len(values):.1f} | {shown} |")
    lines += ["", "Paired tests over queries, means over seeds, corrected together (Holm):", ""]
    lines += claims_table(decide(experiment, CLAIMS, seeds))
    write_csv(given.results / "soft_prompt.csv", experiment, ARMS, seeds)
    (given.results / "soft_prompt.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
