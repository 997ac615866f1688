"""Trans-Encoder's claims: cross-encoder 1 > bi-encoder 0, bi-encoder 1 > bi-encoder 0, on pairs without labels.

    python -m benchmarks.training.trans_encoder --data nl2bash

One cycle. Both models have the body of splade-tiny (BERT-tiny); bi-encoder 0 is the warm-up of `star_adore`, so it has
seen judgments, the distillation sees none: four pairs of each query, out of bi-encoder 0's best 50 and at random. The
cross-encoder puts bi-encoder 0's best 20 in order. Nothing is selected: each model is that of the last step.
"""

from pathlib import Path
from typing import Any

from benchmarks.training.ar2 import COMMON, measure_ranker, warm_up
from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from training.recipes.trans_encoder import CROSS_ENCODER

ARMS = ("warm-up", "cross-encoder 1", "bi-encoder 1")
CLAIMS = (Claim("cross-encoder 1", "warm-up"), Claim("bi-encoder 1", "warm-up"))


def train(experiment: Experiment, seed: int, queries: int) -> None:
    """Train one cycle from the seed's warm-up."""
    warm = warm_up(experiment, seed)
    folder: Path = experiment.arm("bi-encoder 1", seed, "trans_encoder", settings(warm, queries))
    measure_ranker(experiment, "cross-encoder 1", seed, warm, folder / CROSS_ENCODER)


def settings(warm: Path, queries: int) -> dict[str, Any]:
    return COMMON | {
        "base": str(warm),
        "cross_encoder": "splade-tiny",
        "cross_tokens": 96,
        "max_queries": queries,
        "cycles": 1,
        "fit": {"batch_size": 32, "learning_rate": 5e-5, "epochs": 2, "warmup": 0, "save_steps": 0},
        "cross_fit": {"batch_size": 8, "learning_rate": 3e-4, "epochs": 2, "save_steps": 0},
    }


def main() -> None:
    given = arguments(__doc__, "nl2bash", queries=1000)
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed, given.queries)
    write_csv(given.results / "trans_encoder.csv", experiment, ARMS, given.seeds)
    text = f"## Trans-Encoder\n\n{__doc__}\n{given.queries:,} training queries. *warm-up* is bi-encoder 0.\n"
    write_section(given.results / "trans_encoder.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
