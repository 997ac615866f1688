"""`retriever adapt` from MiniLM, by seed: does a user's collection gain?

    python -m benchmarks.training.adapt --data nl2bash

The settings are those of training/configs/adapt.yaml; --queries keeps so many training queries, drawn by the seed.
"""

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from training.encoders import open_base
from training.recipe import measure_splits
from training.recipes.contrastive import ContrastiveSettings
from training.recipes.registry import CONFIGS
from training.settings import read_settings

ARMS = ("base", "adapted")
CLAIMS = tuple(Claim("adapted", "base", measure) for measure in ("nDCG@10", "R@100"))


def main() -> None:
    given = arguments(__doc__, "nl2bash", queries=4000)
    experiment = Experiment(given.data, given.work)
    changes = [f"max_queries={given.queries}", "fit.save_steps=0"]
    settings = read_settings(ContrastiveSettings, CONFIGS / "adapt.yaml", changes, ignore=("recipe",))
    for seed in given.seeds:
        if not (experiment.records / f"base-{seed}.json").is_file():
            measured = measure_splits(open_base(settings, offline=True), experiment.corpus, experiment.held_out)
            for each in given.seeds:
                experiment.keep("base", each, measured, {"recipe": None})
        experiment.arm("adapted", seed, "contrastive", settings.model_dump())
    write_csv(given.results / f"adapt-{given.data.name}.csv", experiment, ARMS, given.seeds)
    text = f"## `retriever adapt` on {given.data.name}\n\n{__doc__}"
    write_section(given.results / f"adapt-{given.data.name}.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
