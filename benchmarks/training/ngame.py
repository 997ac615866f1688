"""NGAME: clustered batches against random ones (arXiv:2207.04452), at equal epochs from one warmed-up model per seed.

    python -m benchmarks.training.ngame --data nl2bash

The base is the body of splade-tiny (BERT-tiny, 4.4 million weights) with mean pooling after a short warm-up. All arms
have the triplet loss with online hard mining; they differ in what shares a batch and in the mask of false negatives.
"""

from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section

COMMON: dict[str, Any] = {"document_tokens": 32, "query_tokens": 20}
BATCH, EPOCHS, LONG, QUERIES = 64, 5, 20, 2048
# Clusters of 1, 4, 16, 32 and 64 queries.
DOUBLINGS = [1, 1, 2, 2, 3, 4]
CHOICES: dict[str, dict[str, Any]] = {
    "random": {"batches": "random"},
    "clustered": {},
    "clustered, no mask": {"mask": False},
    "large from the start": {"doublings": [0] * len(DOUBLINGS)},
    "random, longer": {"batches": "random", "epochs": LONG},
    "clustered, longer": {"doublings": [LONG // EPOCHS * epoch for epoch in DOUBLINGS], "epochs": LONG},
}
ARMS = ("warm-up", *CHOICES)
CLAIMS = (
    Claim("clustered", "random"),
    Claim("clustered", "random", "RR@10"),
    Claim("clustered", "clustered, no mask"),
    Claim("clustered", "large from the start"),
    Claim("clustered, longer", "random, longer"),
)
TEXT = f"""
## NGAME: batches of similar queries

Made by `python -m benchmarks.training.ngame`; every arm, seed, split and measure stands in ngame.csv. From one
warm-up per seed (BERT-tiny, 71 batches of 64 with the softmax loss) each arm sees {QUERIES:,} training queries
{EPOCHS} times in batches of {BATCH}, with the triplet loss over the ten hardest documents of the batch. *clustered*
begins at random and has larger clusters in every epoch, up to {2 ** len(DOUBLINGS)} queries; *large from the start*
has clusters of that size in every epoch; *no mask* takes documents of other queries as negatives even where they are
judged relevant; *longer* has {LONG} epochs. The paper has 300 epochs and batches of 1,600. Of mask and curriculum it
claims only that they do no harm: a "no" below means no significant gain, the interval tells what harm is possible.
"""


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    quick = {"batch_size": BATCH, "save_steps": 0}
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": quick | {"learning_rate": 3e-4, "steps": 71}})  # fmt: skip
    further = COMMON | {
        "base": str(warm),
        "max_queries": QUERIES,
        "doublings": DOUBLINGS,
        "refresh": 1,
    }
    for name, choice in CHOICES.items():
        fit = quick | {"learning_rate": 2e-4, "epochs": choice.get("epochs", EPOCHS)}
        chosen = {key: value for key, value in choice.items() if key != "epochs"}
        experiment.arm(name, seed, "ngame", further | chosen | {"fit": fit})


def clustering(experiment: Experiment, seeds: list[int]) -> str:
    """Return a table of what clustering costs and how near the negatives of a batch are."""
    lines = [
        "| arm | seed | clustering, s | training, s | share | encoded for it | cosine of negatives by epoch |",
        "|---" * 7 + "|",
    ]
    for arm in CHOICES:
        for seed in seeds:
            found = experiment.read(arm, seed)["stages"]["ngame"]
            share = found["clustering_seconds"] / found["seconds"]
            near = ", ".join(f"{value:.3f}" for value in found["negative_cosine_by_epoch"].values())
            lines.append(
                f"| {arm} | {seed} | {found['clustering_seconds']} | {found['seconds']} | {share:.2%} | "
                f"{found['queries_encoded_for_clustering']} | {near} |"
            )
    return "\n".join(lines)


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/ngame"))
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "ngame.csv", experiment, ARMS, given.seeds)
    text = f"{TEXT}\n{clustering(experiment, given.seeds)}\n"
    write_section(given.results / "ngame.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
