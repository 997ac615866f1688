"""A generation that somebody has open stays on the disk: its readers hold a shared lock on its manifest."""

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

from retriever.errors import IndexCorrupt
from retriever.index.manifest import Manifest, manifest_name, read_manifest, read_pointer


class Lease:
    """A lock on a manifest until it is released, or the object or its process ends.

    Raises FileNotFoundError for a manifest that is removed already.
    """

    def __init__(self, manifest: Path) -> None:
        descriptor = os.open(manifest, os.O_RDONLY)
        self._closing = weakref.finalize(self, os.close, descriptor)
        # On a file system without locks only the generation before the one in force is kept.
        with contextlib.suppress(OSError):
            # A writer holds the other kind no longer than it takes to remove the file.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:
            self.release()
            raise FileNotFoundError(f"{manifest} was removed while it was opened")

    def release(self) -> None:
        """Let go of the generation; does nothing the second time."""
        self._closing()


def hold_newest(folder: Path) -> tuple[Manifest, str, Lease]:
    """Return the manifest in force, its sha256, and a lease on it. Raises what `read_manifest` does."""
    while True:
        pointer = read_pointer(folder)
        try:
            manifest, digest = read_manifest(folder)
            return manifest, digest, Lease(folder / manifest_name(manifest.generation))
        except (IndexCorrupt, FileNotFoundError):
            # A writer that is two generations further by now may have removed it.
            if read_pointer(folder) == pointer:
                raise


@contextlib.contextmanager
def newest(folder: Path) -> Iterator[Manifest]:
    """Give the manifest in force; its files and records stay until the end of the block."""
    manifest, _, lease = hold_newest(folder)
    try:
        yield manifest
    finally:
        lease.release()


def remove_unless_leased(manifest: Path) -> None:
    """Remove a manifest that nobody has a lease on; nobody gets one meanwhile."""
    descriptor = os.open(manifest, os.O_RDONLY)
    try:
        if not _is_leased(descriptor):
            manifest.unlink()
    finally:
        os.close(descriptor)


def _is_leased(descriptor: int) -> bool:
    """Return whether a manifest has a lease on it; where it has none, it gets none while it is open here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error is a file system without locks, where nobody holds any.
        return isinstance(error, BlockingIOError)
    return False
