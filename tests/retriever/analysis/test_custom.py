"""Analysers from YAML: what they do, what they are called, and what is refused."""

import pytest

from retriever.analysis import analyser, custom
from retriever.errors import InvalidInput


@pytest.fixture
def made(tmp_path):
    def make(content):
        path = tmp_path / "analyser.yaml"
        path.write_text(content, encoding="utf-8")
        return analyser(str(path))

    return make


@pytest.mark.parametrize(
    ("content", "text", "terms"),
    [
        ("{}", "The Dogs' Café", "the dogs café"),
        ("{ascii_folding: true, lowercase: false}", "The Dogs Café", "The Dogs Cafe"),
        ("{stop_words: english, stemmer: porter}", "The running of the dogs", "run dog"),
        ("{stop_words: [Der, für], ascii_folding: true}", "der Hund FÜR dich", "hund dich"),
        ("{tokenizer: whitespace}", "wi-fi, A.B", "wi-fi, a.b"),
        ("{tokenizer: code}", "maxLen", "maxlen max len"),
        (r"{tokenizer: 'regex(\p{L}+(?=\d))'}", "Ab12 cd e3", "ab e"),
        ("{min_length: 2, max_length: 3}", "a ab abc abcd", "ab abc"),
    ],
)
def test_terms_by_hand(made, content, text, terms):
    assert made(content).terms(text) == terms.split()


def test_snowball(made):
    pytest.importorskip("Stemmer")
    found = made("stemmer: snowball:german\n")
    assert found.terms("Häuser") == ["haus"]
    assert "snowball " in found.fingerprint().rpartition("}")[2]


def test_the_settings_of_lucene_give_its_terms(made):
    text = "Relational databases were archaeologically hopping 1,000.5 times in Zürich"
    assert made("{stop_words: english, stemmer: porter}").terms(text) == analyser("lucene-english").terms(text)


def test_the_name_holds_everything_and_no_path(made, tmp_path):
    (tmp_path / "stop.txt").write_text("\ufeff# Wörter\nund\n\nder  # Artikel\n", encoding="utf-8")
    first = made("{stop_words: stop.txt, lowercase: true}")
    (tmp_path / "stop.txt").unlink()
    second = made("# another file, the same rules\nstop_words: [der, und, und]\ntokenizer: standard\n")
    again = analyser(first.name)
    assert first.name == second.name == again.name
    assert first.fingerprint() == second.fingerprint() == again.fingerprint()
    assert str(tmp_path) not in first.name + first.fingerprint()
    assert again.terms("der Hund und die Katze") == ["hund", "die", "katze"]


def test_a_changed_file_is_read_again(made):
    assert made("{}").fingerprint() != made("{min_length: 2}").fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tokenizer: icu", r"tokenizer: got 'icu'; use one of standard, whitespace, code, regex\(PATTERN\)"),
        ("tokenizer: regex([)", r"tokenizer: got 'regex\(\[\)'; the pattern does not compile"),
        ("lowercase: maybe", "lowercase: got 'maybe'; use one of true, false"),
        ("stop_words: german", "stop_words: got 'german'; use one of none, english, a list of words, the path"),
        ("stop_words: [no, yes]", "False is not a text; put the word into quotation marks"),
        ("stop_words: 3", "stop_words: got '3'; use one of none, english"),
        ("stemmer: lancaster", "stemmer: got 'lancaster'; use one of none, porter, snowball:LANGUAGE"),
        ("{stemmer: porter, lowercase: false}", "set lowercase: true"),
        ("min_length: 0", "min_length: got '0'; Input should be greater than or equal to 1"),
        ("max_length: '9'", "max_length: got '9'; Input should be a valid integer"),
        ("{min_length: 5, max_length: 4}", "max_length 4 is below min_length 5"),
        ("synonyms: [a, b]", "unknown setting 'synonyms'; use one of tokenizer, lowercase"),
        ("- standard", "is not a mapping of settings"),
        ("tokenizer: [", "cannot be read"),
    ],
)
def test_what_is_refused(made, content, message):
    with pytest.raises(InvalidInput, match=message) as error:
        made(content)
    assert "analyser.yaml" in str(error.value)


def test_an_unknown_language(made):
    pytest.importorskip("Stemmer")
    with pytest.raises(InvalidInput, match="unknown language 'klingon' of snowball; use one of .*german"):
        made("stemmer: snowball:klingon")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="none.yaml cannot be read"):
        analyser(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    "name", ["custom:{", "custom:[]", 'custom:{"stop_words":"stop.txt"}', "custom:" + "[" * 100_000]
)
def test_names_that_hold_no_settings(name):
    with pytest.raises(InvalidInput):
        analyser(name)


def test_a_pattern_without_end_is_an_error(monkeypatch):
    monkeypatch.setattr(custom, "REGEX_SECONDS", 0.05)
    with pytest.raises(InvalidInput, match="took more than"):
        analyser(r'custom:{"tokenizer":"regex((a|a|aa)+$)"}').terms("a" * 60 + "b")


def test_an_index_needs_no_file(made, pydocs, tmp_path):
    import retriever
    from indexing.build import build_index
    from indexing.corpora import open_corpus
    from indexing.plan import BuildSettings

    name = made("{tokenizer: code, stop_words: english}").name
    (tmp_path / "analyser.yaml").unlink()
    build_index(open_corpus(str(pydocs)), tmp_path / "index", BuildSettings(parts=("bm25",), analyser=name))
    index = retriever.open(tmp_path / "index")
    assert index.analyser.name == name
    assert index.search("the json decoder", 3, pipeline="bm25").hits
