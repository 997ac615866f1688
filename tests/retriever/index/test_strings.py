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


@given(texts, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_finds_by_utf8_order(tmp_path_factory, strings, other):
    ordered = sorted(set(strings), key=str.encode)
    folder = tmp_path_factory.mktemp("strings")
    StringTable.write(folder, "terms", ordered)
    table = StringTable(folder, "terms")
    for position, string in enumerate(ordered):
        assert table.find(string) == position
    assert table.find(other) == (ordered.index(other) if other in ordered else -1)
