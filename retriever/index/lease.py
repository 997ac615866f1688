"""A generation that somebody has open stays on the disk: its readers hold a shared lock on its manifest."""

import contextlib
import fcntl
import os
import weakref
from pathlib import Path


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


def remove_unless_leased(manifest: Path) -> None:
    """Remove a manifest that nobody has a lease on; nobody gets one meanwhile."""
    descriptor = os.open(manifest, os.O_RDONLY)
    try:
        with contextlib.suppress(BlockingIOError):
            _lock_alone(descriptor)
            manifest.unlink()
    finally:
        os.close(descriptor)


def _lock_alone(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # A file system without locks: nobody holds any.
        return
