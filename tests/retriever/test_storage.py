"""Atomic files, the writer's lock across processes, and the disk's own refusals."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from retriever.errors import IndexLocked, InvalidInput, StorageFull
from retriever.storage import disk_errors, exclusive_lock, require_writable, sha256_of, write_atomically

HOLDER = """
import sys, time
from pathlib import Path
from retriever.storage import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="broken disk"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_a_second_writer_is_told_who_holds_the_lock_and_a_dead_one_holds_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(IndexLocked, match=f"process {holder.pid} on host"), exclusive_lock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        # The file still names the dead process; the lock went with it.
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == holder.pid
        with exclusive_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_disk_full_says_how_much_is_free_and_needed(tmp_path):
    with pytest.raises(StorageFull, match=r"bytes free, about 1,234 needed"), disk_errors(tmp_path, 1234):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(OSError, match="odd"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "odd")


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="is a file"):
        require_writable(tmp_path / "file" / "index")


def test_a_folder_that_refuses(tmp_path):
    if os.geteuid() == 0:
        # Root may write anywhere but on the kernel's own file systems.
        with pytest.raises((InvalidInput, OSError)):
            require_writable(type(tmp_path)("/proc/self/index"))
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(InvalidInput, match="cannot write"):
            require_writable(tmp_path)


def test_no_waiting_for_a_lock(tmp_path):
    with exclusive_lock(tmp_path):
        started = time.monotonic()
        with pytest.raises(IndexLocked), exclusive_lock(tmp_path):
            pass
        assert time.monotonic() - started < 5
