"""A Mamba encoder beside a transformer of as many weights, from chance, on the same pairs: which finds more?

    python -m benchmarks.training.mamba --data nl2bash --threads 1

Both bodies are those of benchmarks/mamba.py, with random weights, a Mamba of four layers and a transformer of two. They
are trained by `repllama`, all weights, on the same batches, and the end token's state is the vector. So small and from
chance they find little; the claim is that they find equally much, as published of pretrained models. Each has the
learning rate of four that finds most for dev queries with the first seed.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.mamba import BASE, bodies
from benchmarks.training.claims import Claim, Experiment, arguments, arms_table, write_csv, write_section
from retriever.models import resolve

ARMS = ("mamba", "transformer")
CLAIMS = (Claim("mamba", "transformer", margin=0.02), Claim("mamba", "transformer"))
COMMON: dict[str, Any] = {"document_tokens": 48, "query_tokens": 32, "hard": "none", "count": 1}
FIT: dict[str, Any] = {"batch_size": 64, "warmup": 0.1, "save_steps": 0}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def start(folder: Path, name: str, seed: int, width: int, layers: int) -> Path:
    """Return a body with random weights of a seed, made unless it is there."""
    from transformers import AutoTokenizer

    made = folder / f"{name}-from-{seed}"
    if not (made / "config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(resolve(BASE, offline=True))
        body = bodies(width, layers, 512, len(tokenizer), tokenizer.eos_token_id, seed)[name]
        tokenizer.save_pretrained(made)
        body.save_pretrained(made)
    return made


def train(experiment: Experiment, arm: str, body: str, seed: int, rate: float, given: Namespace) -> None:
    """Train a body of a seed by a rate unless that is done."""
    base = start(experiment.models / ".starts", body, seed, given.width, given.layers)
    fit = FIT | {"epochs": given.epochs, "learning_rate": rate}
    experiment.arm(arm, seed, "repllama", COMMON | {"max_queries": given.queries, "base": str(base), "fit": fit})


def main() -> None:
    more = {"width": 64, "layers": 4, "epochs": 2}
    given = arguments(__doc__, "nl2bash", queries=3000, work=Path(".cache/claims/mamba"), more=more)
    first = given.seeds[:1]
    searched = Experiment(given.data, given.work / "rates", splits=("dev",))
    by_rate = {body: {f"{body}-{rate:g}": rate for rate in RATES} for body in ARMS}
    experiment = Experiment(given.data, given.work)
    for body, rates in by_rate.items():
        for arm, rate in rates.items():
            train(searched, arm, body, first[0], rate, given)
        best = max(rates, key=lambda arm: searched.by_seed(arm, first, "dev", "nDCG@10")[0])
        for seed in given.seeds:
            train(experiment, body, body, seed, rates[best], given)
    write_csv(given.results / "mamba.csv", experiment, ARMS, given.seeds)
    every = [arm for rates in by_rate.values() for arm in rates]
    write_csv(given.results / "mamba-rates.csv", searched, every, first)
    sizes = f"Width {given.width}, {given.epochs} epochs of {given.queries:,} pairs."
    search = "\n".join(["By learning rate, one seed, dev queries:", "", *arms_table(searched, every, first, "dev")])
    text = f"## Mamba and a transformer\n\n{__doc__}\n{sizes}\n\n{search}"
    write_section(given.results / "mamba.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
