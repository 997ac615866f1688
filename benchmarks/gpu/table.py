"""A CSV of measurements that says on which machine and with which versions they were made."""

import csv
import importlib.metadata
import platform
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

PACKAGES = ("torch", "triton", "transformers", "sentence-transformers")


class Table:
    """Writes each row to standard output and to a file at once, so that nothing is lost when time runs out.

    Columns are those of the first row, after those of the machine.
    """

    def __init__(self, path: Path | None, device: str) -> None:
        self._machine = machine(device)
        self._file = path.open("w", newline="", encoding="utf-8") if path else None
        self._writers: list[Any] = []

    def __enter__(self) -> "Table":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def add(self, **row: object) -> None:
        """Write one row; floats are cut to four digits."""
        full = {**self._machine, **{name: _short(value) for name, value in row.items()}}
        if not self._writers:
            files = [sys.stdout, *([self._file] if self._file else [])]
            self._writers = [csv.DictWriter(file, list(full), lineterminator="\n") for file in files]
            for writer in self._writers:
                writer.writeheader()
        for writer in self._writers:
            writer.writerow(full)
        for file in (sys.stdout, self._file):
            if file:
                file.flush()


def machine(device: str) -> dict[str, str]:
    """Return the device's name and the versions that decide its speed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package.replace("-", "_")] = ""
    if device == "cuda":
        return {"device": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda), **versions}
    return {"device": platform.processor() or platform.machine(), "cuda": "", **versions}


def _short(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value
