"""Results as CSV: rows are added, each with its date, the machine and the versions that it was measured with."""

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from retriever.evaluation.records import environment

RESULTS = Path(__file__).parent / "results"


def add_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], packages: Sequence[str], peers: Mapping[str, str] | None = None
) -> None:
    """Add rows of equal keys to a file, which is made where there is none.

    packages  those of this environment whose versions matter
    peers     versions of what runs in an environment of its own

    Raises ValueError for rows with other columns than the file's.
    """
    machine = environment()
    about = {"cpu": machine["cpu"], "cores": machine["cores"]}
    about["versions"] = json.dumps({name: machine["packages"][name] for name in packages} | dict(peers or {}))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    full = [{"date": date, **row, **about} for row in rows]
    columns = list(full[0])
    new = not path.exists()
    if not new:
        with path.open(newline="") as file:
            known = next(csv.reader(file))
        if set(known) != set(columns):
            raise ValueError(f"{path} has the columns {known}, the rows have {columns}; move the file away.")
        columns = known
    path.parent.mkdir(exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(full)
