"""Identifiers whole and in words."""

import pytest

from retriever.analysis import analyser

CODE = analyser("code")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("HTTPServer2", "httpserver2 http server 2"),
        ("max_len = getMaxLen(x)", "max_len max len getmaxlen get max len x"),
        ("parseURL2JSON", "parseurl2json parse url 2 json"),
        ("__init__ ___ _x", "__init__ init _x x"),
        ("SOME_CONST iOS XMLHttpRequest", "some_const some const ios i os xmlhttprequest xml http request"),
        ("a+=b->c[3.14] && !done;", "a b c 3 14 done"),
        ("def naïveÜbung(größe):", "def naïveübung naïve übung größe"),
        ("sha256sum utf8", "sha256sum sha 256 sum utf8 utf 8"),
        ("变量名 имяФайла", "变量名 имяфайла имя файла"),
    ],
)
def test_terms_by_hand(text, terms):
    assert CODE.terms(text) == terms.split()


def test_places():
    text = "x = HTTPServer2()"
    assert [(token.term, text[token.start : token.end]) for token in CODE.tokens(text)] == [
        ("x", "x"), ("httpserver2", "HTTPServer2"), ("http", "HTTP"), ("server", "Server"), ("2", "2"),
    ]  # fmt: skip


def test_long_identifiers_are_cut_at_255():
    assert [len(term) for term in CODE.terms("y" * 600)] == [255, 255, 90]
