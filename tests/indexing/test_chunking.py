"""Chunks cover their parent, keep its order, fit the window and overlap by whole sentences."""

import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexing.chunking import chunk, sentences
from indexing.corpora import open_corpus
from retriever.errors import InvalidInput
from retriever.types import Document

SPECIAL = 2


def count_words(texts):
    """Words, and two special tokens as BERT has them."""
    return [len(text.split()) + SPECIAL for text in texts]


def count_characters(texts):
    """Every character is a token: everything can be cut to fit."""
    return [len(text) + SPECIAL for text in texts]


def count_word_pieces(texts):
    """Four characters of a word a token; a whole counts higher than its parts, by one in fifty tokens."""
    pieces = [sum(-(-len(word) // 4) for word in text.split()) for text in texts]
    return [count + count // 50 + SPECIAL for count in pieces]


def reassemble(chunks):
    """Return the parent's text from the chunks' own texts and spans."""
    text = ""
    for part in chunks:
        assert part.span[0] <= len(text)
        text = text[: part.span[0]] + part.text
    return text


def split(text):
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ('He said "no." She left. (Really.) Yes', ['He said "no." ', "She left. ", "(Really.) ", "Yes"]),
        ("Wait... what? Yes… No", ["Wait... what? ", "Yes… ", "No"]),
        ("Dr. Smith and Mr. Jones met J. R. Doe, e.g. Tuesday. Then", ["Dr. Smith and Mr. Jones met J. R. Doe, e.g. Tuesday. ", "Then"]),
        ("See Fig. 3 and eq. 4, approx. 3.14 or 2. 5 follows", ["See Fig. 3 and eq. ", "4, approx. 3.14 or 2. ", "5 follows"]),
        ("Version 3.11.2 of a.b.c is out", ["Version 3.11.2 of a.b.c is out"]),
        ("これは文です。次の文！「終わり。」最後", ["これは文です。", "次の文！", "「終わり。」", "最後"]),
        ("पहला वाक्य। दूसरा वाक्य॥ तीसरा", ["पहला वाक्य। ", "दूसरा वाक्य॥ ", "तीसरा"]),
        ("هل هذا؟ نعم۔ لا", ["هل هذا؟ ", "نعم۔ ", "لا"]),
        ("Первое. Второе т. е. третье", ["Первое. ", "Второе т. ", "е. ", "третье"]),
        ("A paragraph\n\nAnother one\n\n\n  Third", ["A paragraph\n\n", "Another one\n\n\n  ", "Third"]),
        ("def f(x):\n    return x\n\nx = f(1)\n", ["def f(x):\n    ", "return x\n\n", "x = f(1)\n"]),
        ("- item one\n- item two\r\n- item three", ["- item one\n", "- item two\r\n", "- item three"]),
        ("\n\n  leading", ["\n\n  ", "leading"]),
        ("", [""]),
        (" \n ", [" \n "]),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert split(text) == expected


def test_a_sentence_may_run_over_the_end_of_a_long_line():
    wrapped = "The boundary layer over a flat plate was measured at a\nnumber of speeds, and\nit was found thin."
    first, second = split(wrapped)
    # The second line is too short to have been broken for its length.
    assert first.endswith("number of speeds, and\n")
    assert second == "it was found thin."
    assert split(wrapped.replace("\n", "\r\n"))[1] == second
    assert len(split("The first line of a list that is quite long indeed\nThe second line\n- and a third")) == 3
    assert len(split("    indented = code_that_is_long_enough_for_it(12)\n    more = 1")) == 2
    assert len(split("A paragraph of more than forty characters here\n\nand another")) == 2


@given(st.text(st.sampled_from(list("aB1 .!?。\n\t\r\"')(,é\u3000")), max_size=200) | st.text(max_size=200))
def test_sentences_leave_nothing_out(text):
    spans = sentences(text)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans) or spans == [(0, 0)]
    # White space belongs to what it follows: only the beginning of a text can begin with a line feed.
    assert not any(text[start] == "\n" for start, end in spans[1:])


def test_a_window_takes_whole_sentences_and_repeats_some():
    """Sentences of three words, eight words a window: two sentences each, one repeated where three words may be."""
    text = "aa bb cc. Dd ee ff. Gg hh ii. Jj kk ll. Mm nn oo."
    document = Document("d", text, metadata={"year": 1})
    chunks = chunk(document, count_tokens=count_words, window=8 + SPECIAL, overlap=3)
    assert [part.text for part in chunks] == [
        "aa bb cc. Dd ee ff. ", "Dd ee ff. Gg hh ii. ", "Gg hh ii. Jj kk ll. ", "Jj kk ll. Mm nn oo.",
    ]  # fmt: skip
    assert [part.id for part in chunks] == ["d#0", "d#1", "d#2", "d#3"]
    assert {(part.parent, part.title, part.metadata["year"]) for part in chunks} == {("d", "", 1)}
    for overlap in (0, 2):
        chunks = chunk(document, count_tokens=count_words, window=8 + SPECIAL, overlap=overlap)
        assert [part.text for part in chunks] == ["aa bb cc. Dd ee ff. ", "Gg hh ii. Jj kk ll. ", "Mm nn oo."]


def test_the_title_counts_since_it_is_encoded_with_every_chunk():
    text = "aa bb cc. Dd ee ff. Gg hh ii. Jj kk ll."
    document = Document("d", text, "Two words")
    chunks = chunk(document, count_tokens=count_words, window=8 + SPECIAL, overlap=0)
    assert [part.text for part in chunks] == ["aa bb cc. Dd ee ff. ", "Gg hh ii. Jj kk ll."]
    chunks = chunk(
        Document("d", text, "A title of four words"), count_tokens=count_words, window=8 + SPECIAL, overlap=0
    )
    assert [part.text for part in chunks] == ["aa bb cc. ", "Dd ee ff. ", "Gg hh ii. ", "Jj kk ll."]
    assert all(count_words([part.content])[0] <= 10 for part in chunks)
    # A title that fills the window leaves a quarter of it, on top, to the text.
    chunks = chunk(Document("d", text, "long " * 50), count_tokens=count_words, window=8 + SPECIAL, overlap=0)
    assert reassemble(chunks) == text
    assert max(len(part.text.split()) for part in chunks) == 2


@pytest.mark.parametrize("text", ["", " \n", "Fits. Entirely."])
def test_what_fits_is_one_chunk(text):
    document = Document("d", text, "T", {"k": 1})
    assert chunk(document, count_tokens=count_words, window=16, overlap=4) == [
        Document("d#0", text, "T", {"k": 1}, parent="d", span=(0, len(text)))
    ]


def test_a_long_sentence_is_cut_between_words_and_a_long_word_between_characters():
    text = "one two three four five six seven eight"
    chunks = chunk(Document("d", text), count_tokens=count_words, window=3 + SPECIAL, overlap=0)
    assert reassemble(chunks) == text
    assert [word for part in chunks for word in part.text.split()] == text.split()
    assert {len(part.text.split()) for part in chunks} <= {2, 3}
    chunks = chunk(Document("d", "x" * 3_333), count_tokens=count_characters, window=100 + SPECIAL, overlap=0)
    assert reassemble(chunks) == "x" * 3_333
    assert all(len(part.text) <= 100 for part in chunks)
    # Parts of a sixteenth fill a window to fifteen sixteenths or more.
    assert len(chunks) <= 3_333 / (100 * 15 / 16) + 1


@pytest.mark.parametrize(("window", "overlap"), [(2, 0), (0, 0), (-5, 0), (10, -1)])
def test_windows_that_hold_nothing_are_refused(window, overlap):
    with pytest.raises(InvalidInput, match=f"got {window} and {overlap}"):
        chunk(Document("d", "text"), count_tokens=count_words, window=window, overlap=overlap)


TEXTS = st.lists(
    st.sampled_from(
        ["word", "Another", "x", "naïve", "語", "。", ".", "! ", " ", "\n", "\n\n", "  ", "a" * 50, "1", '"']
    )
    | st.text(max_size=5),
    max_size=80,
).map("".join)


@settings(max_examples=300)
@given(
    text=TEXTS,
    title=st.sampled_from(["", "T", "Some longer title"]),
    window=st.integers(8, 40),
    overlap=st.integers(0, 40),
    count=st.sampled_from([count_words, count_characters, count_word_pieces]),
)
def test_any_text_in_any_window(text, title, window, overlap, count):
    document = Document("d", text, title, {"k": 1})
    chunks = chunk(document, count_tokens=count, window=window, overlap=overlap)
    spans = [part.span for part in chunks]
    # Nothing is lost, nothing out of order.
    assert reassemble(chunks) == text
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for (start, end), (next_start, next_end) in zip(spans, spans[1:], strict=False):
        assert start < next_start <= end < next_end
        # No more is repeated than was asked for, and no less than nothing.
        assert count([text[next_start:end]])[0] - SPECIAL <= overlap or next_start == end
    for number, part in enumerate(chunks):
        assert part.id == f"d#{number}"
        assert (part.parent, part.title, part.metadata) == ("d", title, {"k": 1})
        assert part.text == text[slice(*part.span)]
    # The window holds whenever the title leaves room: with these counters every text can be cut.
    heading = count([title])[0] - SPECIAL
    if window - SPECIAL - heading >= window // 4:
        assert all(count([part.content])[0] <= window for part in chunks if len(part.text) > 1)
    # The same document gives the same chunks.
    assert chunks == chunk(document, count_tokens=count, window=window, overlap=overlap)


@given(TEXTS, st.integers(8, 40))
def test_without_overlap_the_chunks_are_the_text(text, window):
    chunks = chunk(Document("d", text), count_tokens=count_words, window=window, overlap=0)
    assert "".join(part.text for part in chunks) == text


def test_every_sentence_is_counted_once_and_every_window_once():
    text = " ".join(f"Sentence number {i} has seven words here." for i in range(5_000))
    counted = []

    def count(texts):
        counted.append(sum(len(text) for text in texts))
        return count_words(texts)

    chunks = chunk(Document("d", text), count_tokens=count, window=100, overlap=0)
    assert sum(counted) == 2 * len(text)
    assert max(counted) <= 600_000
    assert len(chunks) == pytest.approx(5_000 * 7 / 98, rel=0.01)


@pytest.mark.parametrize(
    "unit", ["Some words make a sentence. ", "no end of words ", "検索", "QmFzZTY0", "\n", " ", ". "], ids=repr
)
def test_ten_megabytes_take_bounded_memory(unit):
    text = unit * (10_000_000 // len(unit))
    longest, total = 0, 0

    def count(texts):
        nonlocal longest, total
        sizes = [len(text) for text in texts]
        longest, total = max(longest, *sizes), total + sum(sizes)
        return [-(-size // 4) + SPECIAL for size in sizes]

    tracemalloc.start()
    chunks = chunk(Document("d", text), count_tokens=count, window=256, overlap=32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert chunks[-1].span[1] == len(text)
    assert max(len(part.text) for part in chunks) <= 256 * 4
    # What a tokeniser gets at once is what it needs memory for: a tree of objects for each token.
    assert longest <= 20_000
    assert total < 5 * len(text)
    assert peak < 1 << 30


def test_with_the_tokeniser_of_minilm(encoder, shared_data):
    """Real meetings of about ten thousand words, in windows of the model's own length."""
    window, overlap = encoder.max_tokens, 32
    meetings = [document for document, _ in zip(open_corpus(str(shared_data / "qmsum")), range(3), strict=False)]
    for document in meetings:
        assert encoder.count_tokens([document.content])[0] > 4 * window
        chunks = chunk(document, count_tokens=encoder.count_tokens, window=window, overlap=overlap)
        assert reassemble(chunks) == document.text
        counts = encoder.count_tokens([part.content for part in chunks])
        assert max(counts) <= window
        # Sentences are short beside the window, so windows are well filled.
        assert sum(counts[:-1]) / len(counts[:-1]) > 0.8 * window
        repeated = [
            document.text[after.span[0] : before.span[1]] for before, after in zip(chunks, chunks[1:], strict=False)
        ]
        assert max(encoder.count_tokens(repeated)) - 2 <= overlap
        assert all(re.search(r"[.!?\n…][\"')]*\s*$|\s$", part.text) for part in chunks[:-1])
