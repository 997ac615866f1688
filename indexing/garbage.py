"""Removing what no readable generation needs; the one in force and the one before it stay."""

import contextlib
import os
import shutil
import time
from pathlib import Path

from pydantic import ValidationError

from retriever.index.manifest import Manifest, manifest_name
from retriever.index.records import FILE
from retriever.index.segment import segment_folder

KEPT = {"CURRENT", "LOCK", FILE, f"{FILE}-wal", f"{FILE}-shm", "segments", "building", "merging", "journal"}


RETIRED = ".retired"
# Requests of a service may still read a generation that is several changes old.
RETIRED_SECONDS = 60.0


def retired(folder: Path) -> list[int]:
    """Return the numbers of segments that no readable generation has and whose records stay for a while."""
    return [int(path.stem) for path in (folder / "segments").glob(f"*{RETIRED}") if _is_young(path)]


def _retire(path: Path) -> None:
    # By the clock that runs since the machine was started, the same in all processes: the time of day may jump.
    now = time.monotonic()
    os.utime(path, (now, now))
    path.rename(path.with_suffix(RETIRED))


def _is_young(path: Path) -> bool:
    # Nobody still reads what was set aside before the machine was started, at what is a time to come by this clock.
    return 0 <= time.monotonic() - path.stat().st_mtime < RETIRED_SECONDS


def readable(folder: Path, current: Manifest) -> list[Manifest]:
    """Return the manifest in force and the one before it, if it is still there."""
    manifests = [current]
    previous = folder / manifest_name(current.generation - 1)
    if previous.is_file():
        # One that is not valid cannot be opened by anybody, so nothing needs its files.
        with contextlib.suppress(ValidationError):
            manifests.append(Manifest.model_validate_json(previous.read_bytes()))
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
        if len(relative.parts) > 1 and relative.parts[1].endswith(RETIRED):
            continue
        if path.is_file() and str(relative) not in known and (top == "segments" or top not in KEPT):
            found.append(path)
    return found


def remove_unneeded(folder: Path, current: Manifest, *, retain: bool = False) -> None:
    """Delete old manifests, segments and tombstones. Readers that have them mapped keep them.

    retain  set segments aside for RETIRED_SECONDS instead, and with them their records (see `retired`): where
            changes come one upon another, a generation would else lose them while a request reads it
    """
    manifests = readable(folder, current)
    needed = {segment_folder(s.name) for manifest in manifests for s in manifest.segments}
    for path in (folder / "segments").glob("*"):
        if segment_folder(path.name) in needed or (path.suffix == RETIRED and _is_young(path)):
            continue
        if retain and path.suffix != RETIRED:
            _retire(path)
        else:
            shutil.rmtree(path)
    for path in unknown_files(folder, manifests):
        if path.name.startswith(("manifest-", "tombstones-", "canaries-", "local-canaries-", "codebook-", ".")):
            path.unlink()
