"""Results of benchmarks: rows with where they were measured, added and never mixed."""

import csv
import json

import pytest

from benchmarks.table import add_rows


def test_rows_are_added_with_machine_and_versions(tmp_path):
    path = tmp_path / "new.csv"
    add_rows(path, [{"what": "a", "ms": 1.5}], ["numpy"], {"peer": "2"})
    add_rows(path, [{"ms": 2.5, "what": "b"}], ["numpy"])
    first, second = csv.DictReader(path.read_text().splitlines())
    assert [first["what"], first["ms"], second["what"], second["ms"]] == ["a", "1.5", "b", "2.5"]
    assert json.loads(first["versions"]).keys() == {"numpy", "peer"}
    assert int(first["cores"]) >= 1
    with pytest.raises(ValueError, match="move the file away"):
        add_rows(path, [{"what": "c"}], ["numpy"])
    assert len(path.read_text().splitlines()) == 3
