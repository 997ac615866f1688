"""Removing what no generation needs; the one in force and the one before it stay, and any that somebody has open."""

import contextlib
import shutil
from pathlib import Path

from pydantic import ValidationError

from retriever.index.lease import remove_unless_leased
from retriever.index.manifest import Manifest, manifest_name
from retriever.index.records import FILE
from retriever.index.segment import segment_folder

KEPT = {"CURRENT", "LOCK", FILE, f"{FILE}-wal", f"{FILE}-shm", "segments", "building", "merging", "journal"}


def readable(folder: Path, current: Manifest) -> list[Manifest]:
    """Return the manifest in force and the older ones that are still there."""
    manifests = [current]
    for path in folder.glob("manifest-*.json"):
        # One that is not valid cannot be opened by anybody, so nothing needs its files.
        with contextlib.suppress(ValidationError):
            manifest = Manifest.model_validate_json(path.read_bytes())
            if manifest.generation < current.generation:
                manifests.append(manifest)
    return manifests


def unknown_files(folder: Path, manifests: list[Manifest]) -> list[Path]:
    """Return files that belong to none of the manifests."""
    known = {manifest_name(manifest.generation) for manifest in manifests}
    for manifest in manifests:
        known |= manifest.all_files().keys()
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        top = relative.parts[0]
        if path.is_file() and str(relative) not in known and (top == "segments" or top not in KEPT):
            found.append(path)
    return found


def remove_unneeded(folder: Path, current: Manifest) -> None:
    """Delete manifests that nobody has open, and the segments and tombstones that were theirs alone."""
    kept = {manifest_name(generation) for generation in (current.generation, current.generation - 1)}
    for path in folder.glob("manifest-*.json"):
        if path.name not in kept:
            remove_unless_leased(path)
    manifests = readable(folder, current)
    needed = {segment_folder(s.name) for manifest in manifests for s in manifest.segments}
    for path in (folder / "segments").glob("*"):
        if segment_folder(path.name) not in needed:
            shutil.rmtree(path)
    for path in unknown_files(folder, manifests):
        if path.name.startswith(("manifest-", "tombstones-", "canaries-", "local-canaries-", "codebook-", ".")):
            path.unlink()
