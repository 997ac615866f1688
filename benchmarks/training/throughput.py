"""Training throughput: the recipe `contrastive` against plain sentence-transformers.

    python -m benchmarks.training.throughput --data nl2bash [--base all-MiniLM-L6-v2] [--steps 30] [--rounds 5]

The same model, texts, batch, loss, optimiser and trainer arguments; ours adds what a recipe does: rows in place of
texts, drawing at each step, the mask of relevant documents, the check for a finite loss, a resumable order. The two
train in turns in one process. A round's speed is the batch over the median time from the end of one step to that of the
next, so that opening and saving do not count; cpu_ratio is the same of processor time, which other work on the machine
changes less. Goal: a ratio of 0.95 or more. Appends to
benchmarks/results/training_throughput.csv; wants a quiet machine.
"""

import argparse
import contextlib
import csv
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from retriever.evaluation.records import environment
from retriever.progress import without_transformers_bars
from training.batch import Batch
from training.collection import TrainingCollection, open_training_collection
from training.encoders import open_base
from training.fitting import arguments_of
from training.losses.contrastive import info_nce
from training.negatives import positives_only, with_negatives
from training.settings import EncoderSettings, FitSettings
from training.stages import Stages
from training.task import Task

RESULTS = Path(__file__).parent.parent / "results" / "training_throughput.csv"
SCALE = 20.0
# Steps of a round that do not count: the first ones find memory and kernels cold.
WARMUP = 5
COLUMNS = (
    "date", "documents", "base", "batch", "steps", "rounds", "ours_queries_per_s", "plain_queries_per_s", "ratio",
    "ratios", "cpu_ratio", "cpu_ratios", "threads", "cpu", "cores", "versions",
)  # fmt: skip


def clock() -> Any:
    """Return a trainer callback that notes in `ends` when each step ended, on the wall and in processor time."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[tuple[float, float]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends.append((time.perf_counter(), time.process_time()))

    return Clock()


def ours(collection: TrainingCollection, settings: EncoderSettings, negatives: int, folder: Path) -> Any:
    """Train as a recipe does; return the seconds of each step on the wall and of the processor, (steps - 1, 2)."""
    task: Task[EncoderSettings] = Task(collection, settings, Stages(folder / "ours", {}), True)
    noted = clock()

    def objective(batch: Batch) -> Any:
        return info_nce(SCALE * batch.scores(), batch.relevant)

    draw = with_negatives(collection, negatives) if negatives else positives_only(collection.judgments)
    task.fit("fit", task.open_base(), objective, draw, callbacks=[noted])
    return np.diff(noted.ends, axis=0)


def plain(collection: TrainingCollection, settings: EncoderSettings, negatives: int, folder: Path) -> Any:
    """Train as the documentation of sentence-transformers says; return what `ours` does."""
    from datasets import Dataset
    from sentence_transformers.sentence_transformer import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import PrinterCallback

    rows = [int(collection.judgments.relevant(row)[0]) for row in range(len(collection.queries))]
    columns = {"anchor": collection.queries, "positive": [collection.documents[row].content for row in rows]}
    generator = np.random.default_rng(settings.seed)
    for place in range(negatives):
        drawn = generator.integers(0, len(collection.documents), len(rows)).tolist()
        columns[f"negative_{place}"] = [collection.documents[row].content for row in drawn]
    model = open_base(settings, offline=True)
    model.max_seq_length = settings.document_tokens
    noted = clock()
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(**arguments_of(settings.fit, folder / "plain", settings.seed)),
        train_dataset=Dataset.from_dict(columns),
        loss=MultipleNegativesRankingLoss(model, scale=SCALE),
        callbacks=[noted],
    )
    trainer.remove_callback(PrinterCallback)
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return np.diff(noted.ends, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(os.environ.get("RETRIEVER_TEST_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=folder / "nl2bash", help="BEIR folder")
    parser.add_argument("--base", default="all-MiniLM-L6-v2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30, help="of a round")
    parser.add_argument("--rounds", type=int, default=5, help="of each, in turns")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 for its own choice")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    collection = open_training_collection(given.data)
    fit = FitSettings(batch_size=given.batch, steps=given.steps + WARMUP, save_steps=0)
    settings = EncoderSettings(base=given.base, query_tokens=given.tokens, document_tokens=given.tokens, fit=fit)
    machine = environment()
    rows: list[list[Any]] = []
    for negatives in (0, 1):
        speeds: dict[str, list[Any]] = {"ours": [], "plain": []}
        for number in range(given.rounds):
            for train in (ours, plain) if number % 2 else (plain, ours):
                with tempfile.TemporaryDirectory() as place, without_transformers_bars():
                    taken = train(collection, settings, negatives, Path(place))[WARMUP - 1 :]
                speeds[train.__name__].append(given.batch / np.median(taken, axis=0))
        wall, cpu = (np.array(speeds["ours"]) / np.array(speeds["plain"])).T
        shown = [(f"{np.median(ratios):.3f}", " ".join(f"{ratio:.3f}" for ratio in ratios)) for ratios in (wall, cpu)]
        medians = [np.median(speeds[name], axis=0)[0] for name in ("ours", "plain")]
        rows.append([
            datetime.now(UTC).isoformat(timespec="seconds"),
            "relevant" if not negatives else f"relevant and {negatives} other",
            given.base, given.batch, given.steps, given.rounds, *(f"{speed:.1f}" for speed in medians),
            *shown[0], *shown[1], torch.get_num_threads(), machine["cpu"], machine["cores"],
            " ".join(f"{name}={v}" for name, v in machine["packages"].items()),
        ])  # fmt: skip
        print(dict(zip(COLUMNS, map(str, rows[-1]), strict=True)), flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    fresh = not given.output.exists()
    with given.output.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows] if fresh else rows)


if __name__ == "__main__":
    main()
