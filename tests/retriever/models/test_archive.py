import stat
import zipfile
from pathlib import Path

import pytest

from retriever.errors import BackendUnavailable
from retriever.models import archive
from tests.retriever.models.factories import digest


def write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_takes_what_is_asked_for_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", {"in/a.txt": b"one", "in/b/c.txt": b"two", "in/evil.py": b"raise"})
    with archive.open_archive(path) as file:
        hashes = archive.extract(file, {"in/a.txt": "a.txt", "in/b/c.txt": "b/c.txt"}, tmp_path / "out")
    assert hashes == {"a.txt": digest(b"one"), "b/c.txt": digest(b"two")}
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"a.txt", "b/c.txt"}


@pytest.mark.parametrize(
    "name", ["../up.txt", "in/../../up.txt", "/etc/absolute", "in\\..\\up.txt", "C:/drive.txt", ".."]
)
def test_refuses_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.zip", {"fine.txt": b"x", name: b"x"})
    with pytest.raises(BackendUnavailable, match="unsafe name"):
        archive.open_archive(path)


def test_refuses_a_name_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", b"seen by one reader")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.txt", b"seen by another")
    with pytest.raises(BackendUnavailable, match="twice"):
        archive.open_archive(path)


def test_refuses_links_folders_and_missing_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(link, "/etc/passwd")
        file.writestr(zipfile.ZipInfo("folder/"), b"")
    with archive.open_archive(path) as file:
        for name in ("link", "folder/"):
            with pytest.raises(BackendUnavailable, match="not a plain file"):
                archive.extract(file, {name: "target"}, tmp_path)
        with pytest.raises(BackendUnavailable, match="no member 'absent'"):
            archive.extract(file, {"absent": "target"}, tmp_path)
    assert not (tmp_path / "target").exists()


def test_limits_count_member_and_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.zip", {"a": b"0" * 60, "b": b"0" * 60})
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 100)
    with archive.open_archive(path) as file:
        assert archive.extract(file, {"a": "a"}, tmp_path)
        with pytest.raises(BackendUnavailable, match="120 bytes, at most 100"):
            archive.extract(file, {"a": "a", "b": "b"}, tmp_path)
        monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 59)
        with pytest.raises(BackendUnavailable, match="declares 60 bytes"):
            archive.extract(file, {"a": "a"}, tmp_path)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    with pytest.raises(BackendUnavailable, match="2 entries"):
        archive.open_archive(path)


def test_a_member_larger_than_it_declares_is_refused(tmp_path: Path) -> None:
    """A size in the directory is a claim: 1 MB of zeros behind "10 bytes" must not come out."""
    path = write(tmp_path / "a.zip", {"bomb": bytes(1_000_000)})
    with archive.open_archive(path) as file:
        file.getinfo("bomb").file_size = 10
        with pytest.raises(BackendUnavailable, match="damaged"):
            archive.extract(file, {"bomb": "bomb"}, tmp_path)
    assert (tmp_path / "bomb").stat().st_size <= 10


def test_damage_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", {"a": bytes(range(256)) * 10})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with archive.open_archive(path) as file, pytest.raises(BackendUnavailable, match="damaged"):
        archive.extract(file, {"a": "a"}, tmp_path)
    path.write_bytes(b"no zip at all")
    with pytest.raises(BackendUnavailable, match="not a readable zip"):
        archive.open_archive(path)
