"""How the time of a forward pass grows with a text's length: a Mamba encoder beside a transformer, on a CPU.

    python -m benchmarks.mamba [--tokens 256 512 1024 2048 4096] [--rounds 9] [--threads 1]

Both have random weights, as many of them (the transformer's middle layers are widened until they are), one width, and
are encoders as training makes them of any language model: the end token's state, in float32. One text at a time; both
take turns at every length. Times are medians of rounds, on the wall and of the processor, which other work on the
machine changes less. The exponent is the slope of log time over log length: by least squares over all lengths, and
between the last two. Without kernels of its own Mamba runs as plain torch operations, so that its times beside the
transformer's say little; only how they grow does. Adds to benchmarks/results/mamba.csv; wants a quiet machine.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.table import RESULTS, add_rows
from retriever.encoder import load_encoder
from retriever.models import resolve
from training.decoders import DecoderSettings, open_decoder

# Of the tokenizer, whose vocabulary both have.
BASE = "SmolLM2-135M-Instruct"


def bodies(width: int, layers: int, tokens: int, vocabulary: int, end: int, seed: int = 0) -> dict[str, Any]:
    """Return a Mamba model, and a transformer of half as many layers, as wide and of equally many weights.

    Two Mamba layers stand for attention and feed-forward layer, as in arXiv:2312.00752.
    """
    import torch
    from transformers import LlamaConfig, LlamaModel, MambaConfig, MambaModel

    torch.manual_seed(seed)
    common = {"vocab_size": vocabulary, "hidden_size": width, "eos_token_id": end, "pad_token_id": end}
    mamba = MambaModel(MambaConfig(num_hidden_layers=layers, **common))

    def transformer(middle: int) -> Any:
        return LlamaModel(LlamaConfig(
            num_hidden_layers=layers // 2, num_attention_heads=max(1, width // 64), intermediate_size=middle,
            max_position_embeddings=tokens, **common,
        ))  # fmt: skip

    missing = weights_of(mamba) - weights_of(transformer(1))
    return {"mamba": mamba, "transformer": transformer(1 + round(missing / (3 * width * (layers // 2))))}


def weights_of(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def encoders(width: int, layers: int, tokens: int, folder: Path) -> dict[str, Any]:
    """Return both as the engine loads encoders."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve(BASE, offline=True))
    found = {}
    for name, body in bodies(width, layers, tokens, len(tokenizer), tokenizer.eos_token_id).items():
        body.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        made = open_decoder(DecoderSettings(base=name), folder=folder / name)
        made.save_pretrained(str(folder / f"{name}-encoder"), create_model_card=False)
        found[name] = load_encoder(str(folder / f"{name}-encoder"), device="cpu").model
    return found


def exponents(tokens: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the slope of log seconds over log tokens: of all lengths by least squares, and of the last two."""
    x, y = np.log(tokens), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="lengths")
    parser.add_argument("--width", type=int, default=64, help="of both models")
    parser.add_argument("--layers", type=int, default=4, help="of Mamba, an even number; the transformer has half")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0 for its own choice")
    parser.add_argument("--output", type=Path, default=RESULTS / "mamba.csv")
    given = parser.parse_args()
    lengths = sorted(set(given.tokens))
    if len(lengths) < 2 or given.layers % 2:
        parser.error("give at least two lengths, and an even number of layers")
    # Neither encoder may look for kernels elsewhere.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        models = encoders(given.width, given.layers, lengths[-1], Path(folder))
    wall: dict[str, dict[int, list[float]]] = {name: {length: [] for length in lengths} for name in models}
    busy: dict[str, dict[int, list[float]]] = {name: {length: [] for length in lengths} for name in models}
    generator = torch.Generator().manual_seed(0)
    for number in range(-1, given.rounds):
        for length in lengths:
            ids = torch.randint(len(models["mamba"].tokenizer), (1, length), generator=generator)
            for name, model in models.items():
                features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                started, used = time.perf_counter(), time.process_time()
                with torch.inference_mode():
                    model(features)
                # The first round is for caches.
                if number >= 0:
                    busy[name][length].append(time.process_time() - used)
                    wall[name][length].append(time.perf_counter() - started)
    rows = []
    print("| encoder | weights | tokens | wall, ms | processor, ms |\n|---|---|---|---|---|")
    for name, model in models.items():
        seconds = [[float(np.median(noted[name][length])) for length in lengths] for noted in (wall, busy)]
        (whole, last), (busy_whole, busy_last) = (exponents(lengths, taken) for taken in seconds)
        for length, on_wall, used in zip(lengths, *seconds, strict=True):
            rows.append({
                "encoder": name, "weights": weights_of(model), "width": given.width, "tokens": length,
                "rounds": given.rounds, "wall_ms": f"{on_wall * 1e3:.2f}", "processor_ms": f"{used * 1e3:.2f}",
                "wall_exponent": f"{whole:.3f}", "wall_exponent_last_two": f"{last:.3f}",
                "processor_exponent": f"{busy_whole:.3f}", "processor_exponent_last_two": f"{busy_last:.3f}",
                "threads": torch.get_num_threads(),
            })  # fmt: skip
            shown = (rows[-1][key] for key in ("encoder", "weights", "tokens", "wall_ms", "processor_ms"))
            print(f"| {' | '.join(map(str, shown))} |")
    print("\n| encoder | exponent, wall | last two | exponent, processor | last two |\n|---|---|---|---|---|")
    for row in rows[:: len(lengths)]:
        print(f"| {' | '.join(str(value) for key, value in row.items() if key == 'encoder' or 'exponent' in key)} |")
    add_rows(given.output, rows, ("torch", "transformers", "sentence-transformers"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
