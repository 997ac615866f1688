"""TAS-Balanced: the grid of sampling and supervision (arXiv:2104.06967), from one warmed-up model per seed.

    python -m benchmarks.training.tas_b --data nl2bash

Thirteen cells: no teacher, and pair, in-batch or both teachers with random batches, batches of one topic, balanced
pairs, and only pairs of small margins. The student is the body of splade-tiny (BERT-tiny, 4.4 million weights) with
mean pooling after a short warm-up; the teacher for pairs and batches alike is the same body after three epochs.
All arms of a seed share clusters, mined negatives and teacher scores, and see the same number of batches.
"""

from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from training.teacher_settings import TeacherSettings, stage_of

COMMON: dict[str, Any] = {"document_tokens": 32, "query_tokens": 20}
QUICK: dict[str, Any] = {"batch_size": 32, "save_steps": 0}
TEACHER_SEED = 42
SAMPLINGS = ("random", "topic", "topic_balanced", "topic_balanced_hard")
SUPERVISIONS = ("pair", "in_batch", "both")
CELLS = (("none", "random"), *((supervision, sampling) for supervision in SUPERVISIONS for sampling in SAMPLINGS))
STEPS = 120
# Pairs of a smaller margin are hard; of 20 cosines, so a fifth of what a logit would have.
CUTOFF = 4.0
# nDCG@10 below which a difference counts as none.
MARGIN = 0.02


def arm(supervision: str, sampling: str) -> str:
    return f"{supervision}, {sampling.replace('_', ' ')}"


ARMS = ("warm-up", *(arm(*cell) for cell in CELLS))
CLAIMS = (
    *(Claim(arm("both", sampling), arm("pair", sampling)) for sampling in SAMPLINGS),
    Claim(arm("in_batch", "topic"), arm("in_batch", "random")),
    Claim(arm("both", "topic"), arm("both", "random")),
    Claim(arm("pair", "topic"), arm("pair", "random"), margin=MARGIN),
    Claim(arm("both", "topic_balanced"), arm("both", "topic"), "R@100"),
    Claim(arm("both", "topic_balanced"), arm("none", "random")),
)
TEXT = f"""
## TAS-B: what is taught, and what shares a batch

Made by `python -m benchmarks.training.tas_b`; every arm, seed, split and measure stands in tas_b.csv. The student is
BERT-tiny (the body of splade-tiny) after 71 batches of 64 with the softmax loss (*warm-up*). Each arm goes on from it
for {STEPS} batches of {QUICK["batch_size"]} triples; those of a seed share clusters (about 200 queries each), 50
mined negatives a query and the teacher. One bi-encoder teaches pairs and batches: the same body after three epochs
(nDCG@10 .60 on test), its cosines times 20. The paper has an ensemble of cross-encoders for pairs and ColBERT for
batches, and trains 300,000 steps; this is the grid at a small scale, not a reproduction of its numbers. *Balanced*
draws pairs over ten bins of the teacher's margin, *balanced hard* only pairs of a margin up to {CUTOFF:g}. *none* is
the softmax loss on the same triples without a teacher.
"""


def train(experiment: Experiment, seed: int, teacher: Path, steps: int = STEPS) -> None:
    """Train every arm of a seed."""
    warm = experiment.arm("warm-up", seed, "contrastive", COMMON | {
        "base": "splade-tiny", "fit": QUICK | {"batch_size": 64, "learning_rate": 3e-4, "steps": 71}})  # fmt: skip
    taught = {"kind": "bi_encoder", "model": str(teacher), "scale": 20.0}
    further = COMMON | {
        "base": str(warm),
        "pair_teacher": taught,
        "batch_teacher": taught,
        "depth": 50,
        "cutoff": CUTOFF,
        "fit": QUICK | {"learning_rate": 2e-4, "steps": steps},
    }
    shared = {name: f"tas_b-{name}-{seed}" for name in ("cluster", "mine", "score")}
    shared |= {stage_of(TeacherSettings.model_validate(taught)): "tas_b-teacher"}
    for supervision, sampling in CELLS:
        choice = {"supervision": supervision, "sampling": sampling}
        experiment.arm(arm(supervision, sampling), seed, "tas_b", further | choice, shared=shared)


def main() -> None:
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/tas_b"))
    experiment = Experiment(given.data, given.work)
    teacher = experiment.arm("teacher", TEACHER_SEED, "contrastive", {
        "base": "splade-tiny", "document_tokens": 64, "query_tokens": 32,
        "fit": {"batch_size": 64, "learning_rate": 3e-4, "epochs": 3}})  # fmt: skip
    for seed in given.seeds:
        train(experiment, seed, teacher)
    write_csv(given.results / "tas_b.csv", experiment, ARMS, given.seeds)
    write_section(given.results / "tas_b.md", TEXT, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
