"""Taking single files out of zip archives that may be hostile."""

import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from retriever.errors import BackendUnavailable
from retriever.storage import CHUNK

MAX_ENTRIES = 10_000
MAX_MEMBER_BYTES = 1 << 30
MAX_TOTAL_BYTES = 2 << 30


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive whose names all stay inside the folder it would be unpacked to.

    Raises BackendUnavailable for a file that is no zip, for names that are absolute, climb with "..", repeat,
    or use a backslash or a drive, and for more than MAX_ENTRIES names.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise BackendUnavailable(f"{path.name} is not a readable zip archive: {error}.") from error
    try:
        _check_names(path.name, archive.infolist())
    except BaseException:
        archive.close()
        raise
    return archive


def _check_names(archive: str, entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise BackendUnavailable(f"{archive} has {len(entries):,} entries, at most {MAX_ENTRIES:,} are allowed.")
    seen: set[str] = set()
    for entry in entries:
        name = entry.orig_filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
            raise BackendUnavailable(f"{archive} holds the unsafe name {name!r}; nothing was unpacked.")
        if name in seen:
            raise BackendUnavailable(f"{archive} holds {name!r} twice; nothing was unpacked.")
        seen.add(name)


def extract(archive: zipfile.ZipFile, targets: Mapping[str, str], into: Path) -> dict[str, str]:
    """Write the members named by the keys of `targets` to its values under `into`; return sha256 by target.

    Reads members as streams; zipfile gives no more bytes of one than it declares. What the archive holds
    besides is not touched.
    Raises BackendUnavailable for a missing member, a link, an encrypted member, one over MAX_MEMBER_BYTES, or
    more than MAX_TOTAL_BYTES together.
    """
    entries = {entry.orig_filename: entry for entry in archive.infolist()}
    chosen: list[tuple[zipfile.ZipInfo, str]] = []
    for name, target in targets.items():
        entry = entries.get(name)
        if entry is None:
            raise BackendUnavailable(f"{_name(archive)} has no member {name!r}.")
        _check_member(_name(archive), entry)
        chosen.append((entry, target))
    total = sum(entry.file_size for entry, _ in chosen)
    if total > MAX_TOTAL_BYTES:
        raise BackendUnavailable(
            f"{_name(archive)} would unpack to {total:,} bytes, at most {MAX_TOTAL_BYTES:,} are allowed."
        )
    return {target: _write(archive, entry, into / target) for entry, target in chosen}


def _name(archive: zipfile.ZipFile) -> str:
    return Path(archive.filename or "archive").name


def _check_member(archive: str, entry: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind not in (0, stat.S_IFREG):
        raise BackendUnavailable(f"{entry.filename!r} of {archive} is a link or a folder, not a plain file.")
    if entry.flag_bits & 0x1:
        raise BackendUnavailable(f"{entry.filename!r} of {archive} is encrypted.")
    if entry.file_size > MAX_MEMBER_BYTES:
        raise BackendUnavailable(
            f"{entry.filename!r} of {archive} declares {entry.file_size:,} bytes, "
            f"at most {MAX_MEMBER_BYTES:,} are allowed."
        )


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with archive.open(entry) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise BackendUnavailable(f"{entry.filename!r} of {_name(archive)} is damaged: {error}.") from error
    return digest.hexdigest()
