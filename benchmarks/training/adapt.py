"""`retriever adapt` from MiniLM, by seed: does a user's collection gain?

    python -m benchmarks.training.adapt --data nl2bash
    python -m benchmarks.training.adapt --data pydocs --queries 500 --work .cache/claims/pydocs

The settings are those of training/configs/adapt.yaml; --queries keeps so many training queries, drawn by the seed. In
place of a folder *pydocs* means the standard library: its test pairs, and of its documents these and 800 others; it
is trained in bfloat16, since its texts are long.
"""

import json
from pathlib import Path

from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from indexing.corpora import write_beir
from training.encoders import open_base
from training.recipe import measure_splits
from training.recipes.contrastive import ContrastiveSettings
from training.recipes.registry import CONFIGS
from training.settings import read_settings

ARMS = ("base", "adapted")
CLAIMS = tuple(Claim("adapted", "base", measure) for measure in ("nDCG@10", "R@100"))
OTHERS = 800
HEAD = "query-id\tcorpus-id\tscore"


def pydocs(folder: Path) -> Path:
    """Write the collection unless it is there: train and test of pydocs:stdlib, 800 train documents, no dev."""
    if (folder / "qrels" / "test.tsv").is_file() and not (folder / "qrels" / "dev.tsv").exists():
        return folder
    write_beir("pydocs:stdlib", folder)
    qrels = {
        split: (folder / "qrels" / f"{split}.tsv").read_text().splitlines()[1:] for split in ("train", "dev", "test")
    }
    # In order of their ids, so every so many of all modules.
    train = sorted(qrels["train"])
    train = train[:: max(1, len(train) // OTHERS)][:OTHERS]
    kept = {line.split("\t")[1] for line in train + qrels["test"]}
    corpus = folder / "corpus.jsonl"
    lines = [line for line in corpus.read_text(encoding="utf-8").splitlines() if json.loads(line)["_id"] in kept]
    corpus.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, rows in (("train", train), ("test", qrels["test"])):
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([HEAD, *rows]) + "\n")
    (folder / "qrels" / "dev.tsv").unlink()
    return folder


def main() -> None:
    given = arguments(__doc__, "nl2bash", queries=1000, work=Path(".cache/claims/adapt"))
    data = pydocs(given.work / "pydocs") if str(given.data) == "pydocs" else given.data
    experiment = Experiment(data, given.work)
    changes = [f"max_queries={given.queries}", "fit.save_steps=0"]
    if data.name == "pydocs":
        changes += ["fit.precision=bfloat16"]
    settings = read_settings(ContrastiveSettings, CONFIGS / "adapt.yaml", changes, ignore=("recipe",))
    for seed in given.seeds:
        if not experiment.kept("base", seed):
            measured = measure_splits(open_base(settings, offline=True), experiment.corpus, experiment.held_out)
            for each in given.seeds:
                experiment.keep("base", each, measured, {"recipe": None})
        experiment.arm("adapted", seed, "contrastive", settings.model_dump())
    counts = f"{given.queries:,} of the training queries, {len(experiment.corpus.documents):,} documents."
    text = f"## `retriever adapt` on {data.name}\n\n{__doc__}\n{counts}\n"
    write_csv(given.results / f"adapt-{data.name}.csv", experiment, ARMS, given.seeds)
    write_section(given.results / f"adapt-{data.name}.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
