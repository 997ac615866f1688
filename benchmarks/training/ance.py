"""ANCE's claim: negatives that the model mines anew in every cycle are better than those of its start.

    python -m benchmarks.training.ance --data nl2bash

Three cycles with the body of splade-tiny (BERT-tiny), from the warm-up of `star_adore`. *static* trains three times as
well, each time on what the warm-up itself ranks high, so that the two differ in the mining alone: same loss over each
query's own documents, same batches, same three decays of the learning rate.
"""

from pathlib import Path
from typing import Any

from benchmarks.training.ar2 import COMMON, warm_up
from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section

ARMS = ("warm-up", "static", "refreshed")
CLAIMS = (Claim("refreshed", "static"), Claim("refreshed", "warm-up"), Claim("static", "warm-up"))
CYCLES = 3


def train(experiment: Experiment, seed: int) -> None:
    """Train both arms of a seed."""
    warm = warm_up(experiment, seed)
    fit = {"batch_size": 64, "learning_rate": 1e-4, "steps": 50, "save_steps": 0}
    settings: dict[str, Any] = COMMON | {"base": str(warm), "cycles": CYCLES, "fit": fit}
    for name, refresh in (("static", False), ("refreshed", True)):
        shared = {"mine-0": f"ance-mine-{seed}", "fit-0": f"ance-fit-{seed}"}
        experiment.arm(name, seed, "ance", settings | {"refresh": refresh}, shared=shared)


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/nl2bash"))
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "ance.csv", experiment, ARMS, given.seeds)
    write_section(given.results / "ance.md", f"## ANCE\n\n{__doc__}", experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
