"""Files that survive a crash: written whole under a temporary name, synced, then renamed."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retriever.errors import IndexLocked, InvalidInput, StorageFull

CHUNK = 1 << 20
SYNCED_TOGETHER = 16


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file; reads all of it once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Iterable[Path]) -> None:
    """Make the content of many files durable; together, since a file system commits what waits at once."""
    with ThreadPoolExecutor(SYNCED_TOGETHER) as pool:
        for _ in pool.map(sync, paths):
            pass


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; a reader or a crash sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def disk_errors(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn "no space left" into StorageFull with the bytes free, and "read-only" into InvalidInput."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder).free
            wanted = f", about {needed:,} needed" if needed else ""
            raise StorageFull(
                f"disk full while writing to {folder}: {free:,} bytes free{wanted}. "
                "What was finished before is intact; free some space and run the command again."
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise InvalidInput(f"cannot write to {folder}: {error.strerror}. Choose a writable folder.") from error
        raise


def require_writable(folder: Path) -> None:
    """Fail before any long work when `folder`, or the nearest parent that exists, cannot be written to."""
    nearest = folder
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise InvalidInput(f"{nearest} is a file, a folder is needed there.")
    probe = nearest / f".probe-{os.getpid()}"
    with disk_errors(nearest):
        probe.touch()
        probe.unlink()


@contextlib.contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold the writer's lock of an index folder.

    The kernel releases the lock when its holder dies, so a stale file never blocks.
    Raises IndexLocked naming the holder's process and host.
    """
    path = folder / "LOCK"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            try:
                holder = json.loads(file.read() or "{}")
            except ValueError:
                holder = {}
            raise IndexLocked(
                f"{folder} is being written by process {holder.get('pid', 'unknown')} "
                f"on host {holder.get('host', 'unknown')}; wait for it to finish or stop it."
            ) from error
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield
        file.truncate(0)
