"""Snowball's stemmers on words of several languages."""

import builtins
import importlib

import pytest

from retriever.analysis import analyser
from retriever.analysis.snowball import SnowballAnalyser
from retriever.errors import BackendUnavailable, InvalidInput

pytest.importorskip("Stemmer")


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("german", "Haus Hauses HAUS"), ("german", "läuft La\u0308uft"), ("french", "continuer continuait Continuation"),
        ("spanish", "hablando hablaron"), ("russian", "столица столицы СТОЛИЦЕ"), ("english", "dog's dogs dog’s"),
        ("turkish", "IŞIKLAR ışıklar"), ("turkish", "İSTANBUL istanbul"), ("finnish", "talossa talosta"),
    ],
)  # fmt: skip
def test_forms_of_a_word_are_one_term(language, forms):
    assert len(set(analyser(f"snowball:{language}").terms(forms))) == 1


def test_frequent_words_stay():
    assert analyser("snowball:german").terms("Der Hund und die Katze") == ["der", "hund", "und", "die", "katz"]


def test_places():
    text = "Die Häuser, sehr schöne."
    found = analyser("snowball:german").tokens(text)
    assert [(token.term, text[token.start : token.end]) for token in found] == [
        ("die", "Die"), ("haus", "Häuser"), ("sehr", "sehr"), ("schon", "schöne"),
    ]  # fmt: skip


def test_the_version_of_the_stemmers_is_in_the_fingerprint():
    import Stemmer

    assert f"snowball {Stemmer.version()} german" in analyser("snowball:german").fingerprint()


def test_an_unknown_language_lists_the_known():
    with pytest.raises(InvalidInput, match="unknown language 'klingon' of snowball; use one of .*german.*turkish"):
        analyser("snowball:klingon")


def test_without_the_package_the_error_names_it(monkeypatch):
    def missing(name, *rest):
        if name == "Stemmer":
            raise ImportError(name)
        return builtins.__import__(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(BackendUnavailable, match="pip install PyStemmer"):
        SnowballAnalyser("german")
