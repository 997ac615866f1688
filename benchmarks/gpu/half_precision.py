"""Copy a model folder with its weights in float16, to carry it to another machine in half the bytes.

python -m benchmarks.gpu.half_precision all-MiniLM-L6-v2 .cache/gpu/minilm-fp16
"""

import argparse
import shutil
from pathlib import Path

from retriever.models import resolve


def main() -> None:
    from safetensors.torch import load_file, save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder, hub name or pinned name")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    source = resolve(arguments.model)
    shutil.copytree(source, arguments.folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    for path in source.glob("*.safetensors"):
        weights = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        save_file(weights, arguments.folder / path.name, metadata={"format": "pt"})
    size = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
