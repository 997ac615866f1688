"""What holds for every analyser, on any text; and names."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retriever.analysis import ANALYSERS, analyser
from retriever.errors import InvalidInput

CUSTOM = [
    'custom:{"tokenizer":"whitespace","ascii_folding":true,"stop_words":"english"}',
    'custom:{"tokenizer":"regex([a-z]*|\\\\p{L}+)","max_length":5,"min_length":2}',
    'custom:{"tokenizer":"code","lowercase":false}',
    'custom:{"stemmer":"snowball:german","stop_words":["der","die"]}',
    'custom:{"stemmer":"porter","tokenizer":"whitespace"}',
]
NAMES = ["lucene-english", "multilingual", "whitespace", "code", "snowball:german", "snowball:turkish", *CUSTOM]
SENTENCES = [
    "Der Fußgänger überquerte die Straßen; HTTPServer2.max_len = 3.14",
    "L’été dernier, nous sommes allés à l'hôtel.",
    "İstanbul'daki IŞIKLAR ve çocuklar",
    "Москва — столица Российской Федерации.",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "اللُّغَةُ العَرَبِيَّةُ جميلة",
    "हिन्दी भारत की राजभाषा है।",
    "日本語のﾃｷｽﾄと한국어 텍스트、北京大学",
    "ภาษาไทยไม่มีช่องว่าง ລາວ ភាសាខ្មែរ မြန်မာဘာသာ",
    "👩‍👧‍👦 1️⃣ 🇩🇪 \ud800 \x00 \udfff é\u0301\u0301 \u200b",
    "[MASK] [CLS] __init__ ___ ' '' ’s ㌀㍿ﷺ",
    "y" * 700,
]
# Letters, marks, joiners and breaks where the rules of the analysers meet, beside all of Unicode.
TEXTS = st.text() | st.text(
    st.sampled_from(
        "abAB12_.'’ \n\tßéİıΣς\u0301\u0308\u093cकिﾃﾞ日ひカ한ไทยำ\u1100\u1161\u200c\u200d\ufe0f👩\u00a8㌀\ud800א\"-/"
    ),
    max_size=40,
)


def named(name):
    if "snowball" in name:
        pytest.importorskip("Stemmer")
    return analyser(name)


def check(made, text):
    tokens = made.tokens(text)
    assert [token.term for token in tokens] == made.terms(text)
    assert all(token.term for token in tokens)
    assert all(0 <= token.start < token.end <= len(text) for token in tokens)
    starts = [token.start for token in tokens]
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", SENTENCES)
def test_tokens_agree_with_terms_on_sentences(name, text):
    check(named(name), text)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_agree_with_terms_on_any_text(name):
    made = named(name)

    @given(TEXTS)
    @example("")
    def on_any_text(text):
        check(made, text)

    on_any_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_name_and_fingerprint_of_an_analyser_make_it_again(name):
    made = named(name)
    again = analyser(made.name)
    assert again.name == made.name
    assert again.fingerprint() == made.fingerprint()


def test_every_fingerprint_is_its_own():
    assert len({named(name).fingerprint() for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", ["multilingual", "code", "snowball:german", CUSTOM[3]])
def test_threads_may_share_an_analyser(name):
    named(name)
    made = type(analyser(name))
    fresh = {"multilingual": made, "code": made}.get(name)
    shared = fresh() if fresh else made("german") if name.startswith("snowball") else made.parse(name.partition(":")[2])
    texts = [f"{sentence} Häuser{number} Läufer" for number in range(200) for sentence in SENTENCES[:9]]
    expected = [analyser(name).terms(text) for text in texts]
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return [shared.terms(text) for text in texts]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [expected] * 4


@pytest.mark.parametrize(
    "name", ["klingon", "", "snowball", "snowball:", "code:x", "wordpiece", "custom", ":", "Multilingual"]
)
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(InvalidInput) as error:
        analyser(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in ANALYSERS)
