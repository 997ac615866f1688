"""A recipe's stages, each done once: what is finished is kept, what was interrupted goes on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retriever.errors import InvalidInput
from retriever.storage import write_atomically

PLAN = "plan.json"
DONE = "done.json"


class Stages:
    """Stages of one training in a work folder.

    plan  settings and digests of the data; a work folder that was begun with others is refused, since its
          finished stages would not fit
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(plan, sort_keys=True, indent=1, default=str)
        path = folder / PLAN
        if path.is_file() and path.read_text() != content:
            other = differing(json.loads(path.read_text()), json.loads(content))
            raise InvalidInput(
                f"{folder} holds an unfinished training with other settings or data ({other}); "
                "give the same ones to go on, another --output, or --restart to begin anew."
            )
        write_atomically(path, content.encode())
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self.reports: dict[str, Any] = {}

    def run(self, name: str, work: Callable[[Path], Mapping[str, Any] | None]) -> Path:
        """Do a stage unless it is done, and return its folder, which `work` gets.

        `work` returns what the report should say of it. It must be able to go on in a folder that an
        interruption left.
        """
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        done = folder / DONE
        if not done.is_file():
            report = work(folder) or {}
            write_atomically(done, json.dumps(dict(report), default=str).encode())
        self.reports[name] = json.loads(done.read_text())
        return folder


def differing(old: Any, new: Any, place: str = "") -> str:
    """Name the first place where two plans differ, empty where they are equal."""
    if old == new:
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return differing(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    return f"{place}: {old!r} then, {new!r} now"
