"""What a model folder is, seen from its files; weights are never loaded."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retriever.errors import InvalidInput

MAX_JSON_BYTES = 64 << 20
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5")


def is_model_folder(folder: Path) -> bool:
    """Tell whether a folder has a description (config.json or modules.json) and whole safetensors weights."""
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        return False
    return bool(weights(folder)) and not missing_shards(folder)


def require_new(folder: Path) -> None:
    """Raise InvalidInput where a folder has files, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already; give a folder that is not, or an empty one.")


def weights(folder: Path) -> list[Path]:
    """Return the safetensors files of the folder and of its modules' folders, by name."""
    return sorted(itertools.chain(folder.glob("*.safetensors"), folder.glob("*/*.safetensors")))


def missing_shards(folder: Path) -> list[str]:
    """Return the weight files that an index names and the folder lacks."""
    shards = read_object(folder / "model.safetensors.index.json").get("weight_map", {})
    names = {str(shard) for shard in shards.values()} if isinstance(shards, dict) else set()
    return sorted(name for name in names if not (folder / name).is_file())


def pickled(folder: Path) -> list[Path]:
    """Return files whose kind can run code when it is loaded."""
    return sorted(path for path in folder.iterdir() if path.suffix in PICKLED)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; None when it is absent, unreadable or over MAX_JSON_BYTES."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one when there is none."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give (class name, folder) of each sentence-transformers module, in order; none for other models."""
    entries = read_json(folder / "modules.json")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            yield str(entry.get("type", "")).rsplit(".", 1)[-1], folder / str(entry.get("path", ""))


def require_dense(name: str, folder: Path) -> None:
    """Raise InvalidInput for a folder that holds no dense encoder of sentence-transformers."""
    kinds = [kind for kind, _ in modules(folder)]
    if not kinds or "SpladePooling" in kinds:
        raise InvalidInput(f"{name} is not a dense encoder of sentence-transformers; give one that pools to a vector.")
