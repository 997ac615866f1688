"""A Mamba encoder beside a transformer of as many weights, from chance, on the same pairs: which finds more?

    python -m benchmarks.training.mamba --data nl2bash --threads 1

Both bodies are those of benchmarks/mamba.py, with random weights, a Mamba of four layers and a transformer of two. They
are trained by `repllama`, all weights, on the same batches, and the end token's state is the vector. So small and from
chance they find little; the claim is that they find equally much, as published of pretrained models. Each has the
learning rate of .001, .003 and .01 that finds most for dev queries with seed 1: nDCG@10 of .057, .064 and .128 for the
Mamba (.001 with .03), .254, .205 and .068 for the transformer.
"""

from pathlib import Path
from typing import Any

from benchmarks.mamba import BASE, bodies
from benchmarks.training.claims import Claim, Experiment, arguments, write_csv, write_section
from retriever.models import resolve

ARMS = ("mamba", "transformer")
CLAIMS = (Claim("mamba", "transformer", margin=0.02), Claim("mamba", "transformer"))
COMMON: dict[str, Any] = {"document_tokens": 48, "query_tokens": 32, "hard": "none", "count": 1}
FIT: dict[str, Any] = {"batch_size": 64, "warmup": 0.1, "save_steps": 0}
RATES = {"mamba": 1e-2, "transformer": 1e-3}


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


def main() -> None:
    more = {"width": 64, "layers": 4, "epochs": 2}
    given = arguments(__doc__, "nl2bash", queries=3000, work=Path(".cache/claims/mamba"), more=more)
    experiment = Experiment(given.data, given.work)
    common = COMMON | {"max_queries": given.queries}
    for seed in given.seeds:
        for name in ARMS:
            base = start(experiment.models / ".starts", name, seed, given.width, given.layers)
            fit = FIT | {"epochs": given.epochs, "learning_rate": RATES[name]}
            experiment.arm(name, seed, "repllama", common | {"base": str(base), "fit": fit})
    write_csv(given.results / "mamba.csv", experiment, ARMS, given.seeds)
    sizes = f"Width {given.width}, {given.epochs} epochs of {given.queries:,} pairs."
    text = f"## Mamba and a transformer\n\n{__doc__}\n{sizes}"
    write_section(given.results / "mamba.md", text, experiment, ARMS, CLAIMS, given.seeds)


if __name__ == "__main__":
    main()
