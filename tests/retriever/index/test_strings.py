import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retriever.index.strings import StringTable

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=50)


@given(texts)
def test_reads_back_what_was_written(tmp_path_factory, strings):
    folder = tmp_path_factory.mktemp("strings")
    StringTable.write(folder, "ids", strings)
    table = StringTable(folder, "ids")
    assert list(table) == strings
    assert len(table) == len(strings)
    assert table[1:3] == strings[1:3]


@pytest.mark.parametrize("count", [0, 2, 3, 7])
def test_any_number_of_blocks(tmp_path, monkeypatch, count):
    monkeypatch.setattr("retriever.index.strings.BLOCK", 3)
    strings = [str(number) * number for number in range(count)]
    StringTable.write(tmp_path, "ids", strings)
    assert list(StringTable(tmp_path, "ids")) == strings


@given(texts, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_finds_by_utf8_order(tmp_path_factory, strings, other):
    ordered = sorted(set(strings), key=str.encode)
    folder = tmp_path_factory.mktemp("strings")
    StringTable.write(folder, "terms", ordered)
    table = StringTable(folder, "terms")
    for position, string in enumerate(ordered):
        assert table.find(string) == position
    assert table.find(other) == (ordered.index(other) if other in ordered else -1)


@pytest.mark.parametrize(("count", "dtype"), [(0, "uint8"), (20, "uint8"), (200, "uint16"), (20_000, "uint32")])
def test_takes_some_from_ends_of_any_width(tmp_path, count, dtype):
    strings = [f"id-{number}é" if number % 3 else f"{number}" for number in range(count)]
    StringTable.write(tmp_path, "ids", strings)
    assert np.load(tmp_path / "ids.offsets.npy").dtype == dtype
    places = np.arange(count)[:: -max(1, count // 50)]
    assert StringTable(tmp_path, "ids").take(places) == [strings[place] for place in places]
