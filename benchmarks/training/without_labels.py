"""`retriever adapt --without-labels` by seed: does a collection gain of which there are documents alone?

    python -m benchmarks.training.without_labels --data nl2bash --threads 1

From all-MiniLM-L6-v2, by GPL on two queries that SmolLM2-135M-Instruct makes up for each of --documents documents, with
the cosine of all-mpnet-base-v2, times 20, in the place of a cross-encoder. "adapted" is what the command leaves: the
trained model where judged queries show a significant gain, else the base. A seed draws documents, queries and batches.
"teacher" is all-mpnet-base-v2 itself, five times as large. Nothing was chosen on judged queries but by the command.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from retriever.models import resolve
from training.adaptation import MEASURE, REPORT, adapt_without_labels
from training.encoders import open_base
from training.generation import GenerationSettings
from training.recipe import measure_splits
from training.recipes.gpl import GplSettings
from training.recipes.registry import CONFIGS, recipe
from training.settings import EncoderSettings, read_settings

BASE, TEACHER = "all-MiniLM-L6-v2", "all-mpnet-base-v2"
ARMS = ("base", "adapted", "teacher")
CLAIMS = (*(Claim("adapted", "base", measure) for measure in ("nDCG@10", "R@100")), Claim("teacher", "base"))
CHANGES = (
    f"base={BASE}", f"teacher={{kind: bi_encoder, model: {TEACHER}, scale: 20, precision: bfloat16}}",
    "document_tokens=128", "fit.warmup=0.1", "fit.precision=bfloat16",
)  # fmt: skip
MADE_UP: dict[str, Any] = {"queries": 2, "document_tokens": 128, "new_tokens": 32, "precision": "bfloat16"}


def main() -> None:
    more = {"documents": 400, "steps": 100}
    given = arguments(__doc__, "nl2bash", work=Path(".cache/claims/without_labels"), more=more)
    work = given.work / given.data.name
    experiment = Experiment(given.data, work, splits=("test",))
    for arm, model in (("base", BASE), ("teacher", TEACHER)):
        if not all(experiment.kept(arm, seed) for seed in given.seeds):
            opened = open_base(EncoderSettings(), base=resolve(model, offline=True), offline=True)
            measured = measure_splits(opened, experiment.corpus, experiment.held_out)
            for seed in given.seeds:
                experiment.keep(arm, seed, measured, {})
    decided = []
    for seed in given.seeds:
        output = work / "models" / f"adapted-{seed}"
        if not (output / REPORT).is_file():
            changes = [*CHANGES, f"fit.steps={given.steps}", f"seed={seed}"]
            settings = read_settings(GplSettings, CONFIGS / "gpl.yaml", changes, ignore=("recipe",))
            generation = GenerationSettings(documents=given.documents, seed=seed, **MADE_UP)
            adapt_without_labels(str(given.data), output, recipe("gpl"), settings, generation, offline=True)
        report = json.loads((output / REPORT).read_text())
        unjudged = report["evaluation"]["generated"][MEASURE]
        decided.append(
            f"- seed {seed}: the {report['decision']['kept']} model was kept; by the {unjudged['queries']} held-out "
            f"made-up queries alone {unjudged['difference']:+.4f} (p = {unjudged['p']:.2g})."
        )
        if not experiment.kept("adapted", seed):
            opened = open_base(EncoderSettings(), base=output, offline=True)
            measured = measure_splits(opened, experiment.corpus, experiment.held_out)
            experiment.keep("adapted", seed, measured, {"report": report})
    sizes = f"{given.documents} of {len(experiment.corpus.documents):,} documents, {given.steps} batches of 32 pairs."
    decisions = "\n".join(decided)
    text = f"## `retriever adapt --without-labels` on {given.data.name}\n\n{__doc__}\n{sizes}\n\n{decisions}"
    name = f"without_labels-{given.data.name}"
    write_csv(given.results / f"{name}.csv", experiment, ARMS, given.seeds)
    write_section(given.results / f"{name}.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
