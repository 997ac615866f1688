"""AR2's claims: lambda = 0.5 >= 0 >= warm-up, 1 alone is worse, and the ranker learns too.

    python -m benchmarks.training.ar2 --data nl2bash

Both models have the body of splade-tiny (BERT-tiny). The ranker begins as the warmed-up retriever itself, whose layers
have copies that read query and document together (`retriever.models.joint_bert`): a body of this size with a new head
stays behind the retriever that it is to teach. The mixed-in reduction is "mean", since the batch is not the original's.
All arms of a seed share warm-up, first mining and the ranker's warm-up.
"""

import shutil
from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from retriever.models.joint_bert import from_bi_encoder
from training.encoders import as_encoder, open_base
from training.evaluation import dense_run
from training.reranking import reranked
from training.settings import EncoderSettings

COMMON: dict[str, Any] = {"document_tokens": 64, "query_tokens": 32}
ARMS = ("warm-up", "lambda 0", "lambda 0.5", "lambda 1")
RANKERS = ("ranker warm-up", "ranker lambda 0", "ranker lambda 0.5")
CLAIMS = (
    Claim("lambda 0.5", "lambda 0"),
    Claim("lambda 0", "warm-up"),
    Claim("lambda 0.5", "warm-up"),
    Claim("lambda 0.5", "lambda 1"),
    Claim("ranker lambda 0.5", "ranker warm-up"),
)
DEPTH = 20
LAYERS = 2


def warm_up(experiment: Experiment, seed: int) -> Path:
    """Return the retriever to begin with, which is that of `star_adore`."""
    fit = {"batch_size": 64, "learning_rate": 3e-4, "save_steps": 0, "steps": 210}
    return experiment.arm("warm-up", seed, "contrastive", COMMON | {"base": "splade-tiny", "fit": fit})


def ranker_start(experiment: Experiment, seed: int, warm: Path) -> Path:
    """Return the ranker to begin with, made unless it is there."""
    from transformers import AutoTokenizer

    folder = experiment.models / f"joint-{seed}"
    if not folder.is_dir():
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        from_bi_encoder(str(warm), LAYERS).save_pretrained(part)
        AutoTokenizer.from_pretrained(str(warm), local_files_only=True).save_pretrained(part)
        part.replace(folder)
    return folder


def train(experiment: Experiment, seed: int) -> None:
    """Train every arm of a seed."""
    warm = warm_up(experiment, seed)
    start = ranker_start(experiment, seed, warm)
    ranker = {"batch_size": 16, "save_steps": 0}
    for weight in (0.0, 0.5, 1.0):
        arm = f"lambda {weight:g}"
        folder = experiment.arm(arm, seed, "ar2", COMMON | {
            "base": str(warm), "ranker": str(start), "ranker_tokens": 96, "depth": 50, "count": 7, "cycles": 2,
            "adversarial": weight, "adversarial_reduction": "mean",
            "fit": {"batch_size": 16, "learning_rate": 1e-4, "steps": 150, "save_steps": 0},
            "ranker_warmup": ranker | {"learning_rate": 3e-4, "steps": 300},
            "ranker_fit": ranker | {"learning_rate": 5e-5, "steps": 100},
        }, shared={"mine-0": f"ar2-mine-{seed}", "ranker-warmup": f"ar2-joint-{seed}"})  # fmt: skip
        measure_ranker(experiment, f"ranker {arm}", seed, warm, folder / "ranker")
    measure_ranker(experiment, "ranker warm-up", seed, warm, experiment.stage(f"ar2-joint-{seed}"))


def measure_ranker(experiment: Experiment, arm: str, seed: int, retriever: Path, ranker: Path) -> None:
    """Keep the measures of the warmed-up retriever's best 20, in the ranker's order."""
    if experiment.kept(arm, seed):
        return
    encoder = as_encoder(open_base(EncoderSettings(), base=retriever, offline=True))
    vectors = encoder.encode_documents(experiment.corpus.documents)
    measured = {}
    for split in experiment.held_out:
        run = dense_run(encoder, experiment.corpus, split, vectors)
        measured[split.split] = reranked(run, ranker, experiment.corpus, split, depth=DEPTH)
    experiment.keep(arm, seed, measured, {"reranked": DEPTH})


def main() -> None:
    given = arguments(__doc__, "nl2bash")
    experiment = Experiment(given.data, given.work)
    for seed in given.seeds:
        train(experiment, seed)
    write_csv(given.results / "ar2.csv", experiment, (*ARMS, *RANKERS), given.seeds)
    text = f"## AR2\n\n{__doc__}"
    write_section(given.results / "ar2.md", text, experiment, (*ARMS, *RANKERS), CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
