"""Folders of text, Markdown and HTML: one document a file, nothing from outside, what a reader would see."""

import os
from pathlib import Path

import pytest

from indexing.corpora import open_corpus
from indexing.corpora.folder import _Visible, visible_text
from retriever.errors import InvalidInput
from retriever.types import Document


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def test_files_in_order_of_their_paths(tmp_path):
    source = write(
        tmp_path,
        b_dot_txt="plain\n",
        a__z_dot_md="# Zed\nbody\n",
        a__b__c_dot_html="<title>See</title><p>page",
        B_dot_TXT="\ufeffupper",
        data_dot_bin="no text",
        _dot_git__config_dot_txt="hidden",
        a___dot_hidden_dot_md="hidden",
    )
    corpus = open_corpus(source)
    assert corpus.size_hint() == 4
    assert list(corpus) == [
        Document("B.TXT", "upper", "B", {"path": "B.TXT"}),
        Document("a/b/c.html", "page", "See", {"path": "a/b/c.html"}),
        Document("a/z.md", "body", "Zed", {"path": "a/z.md"}),
        Document("b.txt", "plain", "b", {"path": "b.txt"}),
    ]


def test_nothing_outside_the_folder_is_read(tmp_path):
    outside = tmp_path / "outside"
    write(outside, secret_dot_txt="secret", folder__deep_dot_txt="secret")
    inside = tmp_path / "inside"
    write(inside, real_dot_txt="real")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    (inside / "up.txt").symlink_to("../outside/secret.txt")
    (inside / "folder").symlink_to(outside / "folder")
    (inside / "loop").symlink_to(inside)
    (inside / "broken.txt").symlink_to(inside / "gone.txt")
    (inside / "same.txt").symlink_to(inside / "real.txt")
    assert [document.id for document in open_corpus(str(inside))] == ["real.txt", "same.txt"]


def test_names_become_ids_that_a_run_file_can_hold(tmp_path):
    names = ["a b.txt", "100%.txt", "tab\there.txt", "später.txt", "検索.txt"]
    for name in names:
        (tmp_path / name).write_text("text")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    corpus = open_corpus(str(tmp_path))
    found = {document.metadata["path"]: (document.id, document.title) for document in corpus}
    assert found == {
        "100%.txt": ("100%25.txt", "100%"),
        "a b.txt": ("a%20b.txt", "a b"),
        "tab\there.txt": ("tab%09here.txt", "tab\there"),
        "später.txt": ("später.txt", "später"),
        "検索.txt": ("検索.txt", "検索"),
        "caf\\xe9.txt": ("caf%E9.txt", "caf\\xe9"),
    }


def test_files_that_cannot_be_used_are_named(tmp_path):
    write(tmp_path, a_dot_txt="fine", b_dot_txt=b"caf\xe9")
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate((64 << 20) + 1)
    corpus = open_corpus(str(tmp_path), max_bad_lines=2)
    assert [document.id for document in corpus] == ["a.txt"]
    assert [(Path(bad.path).name, bad.reason.partition(";")[0]) for bad in corpus.report.bad_lines] == [
        ("b.txt", "not UTF-8 at byte 4"),
        ("huge.txt", "larger than 64 MiB"),
    ]
    with pytest.raises(InvalidInput, match=r"b\.txt:1: not UTF-8"):
        list(open_corpus(str(tmp_path)))


def test_a_folder_without_documents(tmp_path):
    write(tmp_path, a_dot_bin="x")
    with pytest.raises(InvalidInput, match="holds no documents"):
        list(open_corpus(str(tmp_path)))


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("intro\n\n## First ##\nbody\n# Second\n", "First", "intro\n\nbody\n# Second"),
        ("# C#\nbody", "C#", "body"),
        ("# #\nbody", "", "body"),
        ("```sh\n# a comment\n```\n# Title\nbody", "Title", "```sh\n# a comment\n```\nbody"),
        ("#hashtag\n####### seven\n    # code\nbody", "file", "#hashtag\n####### seven\n    # code\nbody"),
        ("# Title\r\nbody\r\n", "Title", "body"),
        ("", "file", ""),
    ],
)
def test_titles_of_markdown(tmp_path, content, title, text):
    (document,) = open_corpus(write(tmp_path, file_dot_md=content))
    assert (document.title, document.text) == (title or "file", text)


@pytest.mark.parametrize(
    ("html", "title", "text"),
    [
        ("<html><head><title>A &amp; B</title><style>p{}</style></head><body><p>x<b>y</b></p>z", "A & B", "xy\nz"),
        ("<p>a</p><script>var hidden = '<p>no</p>'</script><p>b", "", "a\nb"),
        ("<h1>Head <i>line</i></h1><h1>Second</h1>x", "Head line", "Head line\nSecond\nx"),
        ("<title>Page</title><svg><title>Drawing</title><text>no</text></svg><p>x", "Page", "x"),
        ("<svg><title>Drawing</title></svg><p>x", "", "x"),
        ("<head><title>T</title><meta charset=utf-8><p>never closed", "T", "never closed"),
        ("<head><noscript>no</head><body>x", "", "x"),
        ("<!-- no --><p>&lt;tag&gt; &eacute;&nbsp;&#x1F600;", "", "<tag> é 😀"),
        ("<table><tr><td>1<td>2</tr></table><ul><li>a<li>b</ul>", "", "1\n2\na\nb"),
        ("<p>unfinished <b>tag", "", "unfinished tag"),
        ("<p>x<p>a < b", "", "x\na < b"),
        ("<p>5 <6", "", "5 <6"),
        ("<p>x <", "", "x <"),
        ("<p>x </", "", "x </"),
        ("<p>x </ y", "", "x"),
        ("no tag at all: a < b && c", "", "no tag at all: a < b && c"),
        ("<p>R&D", "", "R&D"),
        ("<p>fish &amp", "", "fish &"),
        ("<p>x <a href=y", "", "x"),
        ("<p>x<!-- never closed <p>y", "", "x"),
        ("<p>x<!doctype", "", "x"),
        ("<p>x<script>var y", "", "x"),
        ("<title>Only <b>this", "Only this", ""),
        ("a<![if !IE]>b<![endif]>c<![foo[d]]>e<![foo[", "", "abce"),
        ("a<!-->b<!--->c<!-- no --!>d<!-- no -- > no -->e", "", "abcde"),
        (f"&#{'9' * 5000};x &#0065;", "", "\ufffdx A"),
        ("", "", ""),
    ],
)
def test_what_a_reader_of_a_page_sees(html, title, text):
    assert visible_text(html) == (title, text)


@pytest.mark.parametrize("unit", ["<a ", "<a b='", '<a b="', "</a ", "<!--", "<![", "<!", "<?", " <", "&", "&#"])
def test_a_page_is_searched_for_an_end_that_is_not_there_once(unit, monkeypatch):
    """Each such search may go to the end of the page, so a second one for every `<` would be quadratic."""
    searches = 0

    def counted(method):
        def count(*arguments):
            nonlocal searches
            end = method(*arguments)
            searches += end < 0
            return end

        return count

    for name in ("parse_starttag", "parse_endtag", "parse_comment", "parse_pi", "parse_html_declaration"):
        monkeypatch.setattr(_Visible, name, counted(getattr(_Visible, name)))
    title, text = visible_text("<title>T</title><p>seen" + unit * (200_000 // len(unit)))
    assert title == "T"
    assert text.startswith("seen")
    # A search within another is counted twice.
    assert searches <= 2


def test_hidden_parts_that_are_never_closed():
    assert visible_text("<p>a" + "<svg>" * 30_000 + "</style>b" * 30_000 + "</svg>" * 30_000 + "c") == ("", "ac")
