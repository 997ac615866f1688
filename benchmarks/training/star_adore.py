"""STAR and ADORE against their baselines (sheet of arXiv:2104.08051), from one warmed-up model per seed.

    python -m benchmarks.training.star_adore --data nl2bash

The base is the body of splade-tiny (BERT-tiny, 4.4 million weights) with mean pooling, so that all arms and seeds
train on two cores within the hour. All arms of a seed begin with the same warm-up and see the same number of batches.
"in-batch" has STAR's own loss, as in the paper; "softmax" is the usual one. "static shared" leaves out the
documents that are relevant to other queries of the batch, but keeps their hard negatives; "static own" has each query's
own alone.
"""

from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section

COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32}
STEPS = 210
ARMS = ("warm-up", "softmax", "in-batch", "static shared", "static own", "star", "adore(in-batch)", "adore(star)")
CLAIMS = (
    Claim("star", "in-batch"),
    Claim("star", "static own"),
    Claim("star", "static shared"),
    Claim("adore(in-batch)", "in-batch"),
    Claim("adore(star)", "star"),
    Claim("star", "static own", "R@100"),
    Claim("star", "static shared", "R@100"),
)


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    quick = {"batch_size": 64, "learning_rate": 3e-4, "save_steps": 0}
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": quick | {"steps": STEPS}})  # fmt: skip
    further = COMMON | {"base": str(warm), "fit": quick | {"learning_rate": 1e-4, "steps": STEPS}}
    experiment.arm("softmax", seed, "contrastive", further)
    in_batch = experiment.arm("in-batch", seed, "star", further | {"count": 0})
    experiment.arm("static shared", seed, "star", further | {"in_batch": False})
    experiment.arm("static own", seed, "star", further | {"in_batch": False, "share_hard": False})
    star = experiment.arm("star", seed, "star", further)
    for name, start in (("in-batch", in_batch), ("star", star)):
        experiment.arm(f"adore({name})", seed, "adore", COMMON | {
            "base": str(start), "fit": quick | {"learning_rate": 5e-5, "steps": STEPS}})  # fmt: skip


def main() -> None:
    given = arguments(__doc__, "nl2bash")
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "star_adore.csv", experiment, ARMS, given.seeds)
    text = f"## STAR and ADORE\n\n{__doc__}"
    write_section(given.results / "star_adore.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
