"""The query language: what it means, what it refuses and how, and that nothing else can happen."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retriever.errors import InvalidInput
from retriever.query_syntax import (
    MAX_CHARACTERS,
    MAX_CLAUSES,
    MAX_DEPTH,
    MAX_SLOP,
    Clause,
    Fuzzy,
    Group,
    Phrase,
    Prefix,
    Query,
    Text,
    format,
    parse,
)

FIELDS = ("title", "author.name", "a-b", "http", "AND", "_x9")


def one(text):
    (clause,) = parse(text, FIELDS).clauses
    return clause


def should(*nodes):
    return Query(tuple(Clause("should", node) for node in nodes))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("word", Text("word")),
        ("  word\n", Text("word")),
        ("\u3000wörter\u00a0", Text("wörter")),
        ("C++", Text("C++")),
        ("state-of-the-art", Text("state-of-the-art")),
        ("don't", Text("don't")),
        ("12:30", Text("12:30")),
        ("http://x.org/a-b?c=d", Text("http://x.org/a-b?c=d")),
        ("title://x", Text("title://x")),
        (":x", Text(":x")),
        ("and", Text("and")),
        ("ANDY", Text("ANDY")),
        ("OR-gate", Text("OR-gate")),
        (r"\AND", Text("AND")),
        (r"\-1", Text("-1")),
        (r"\+1", Text("+1")),
        (r"title\:x", Text("title:x")),
        (r"f\(x\)", Text("f(x)")),
        (r"a\ b", Text("a b")),
        (r"\\server\\share", Text(r"\server\share")),
        (r"what\*", Text("what*")),
        (r"\n", Text("n")),
        ('"a b"', Phrase("a b", 0)),
        ('"a b"~0', Phrase("a b", 0)),
        ('"a b"~12', Phrase("a b", 12)),
        (f'"a b"~{MAX_SLOP}', Phrase("a b", MAX_SLOP)),
        ('"AND (x) ~ * ^2 title:y"', Phrase("AND (x) ~ * ^2 title:y", 0)),
        (r'"say \"hi\" \\ \o"', Phrase(r'say "hi" \ o', 0)),
        ("retriev*", Prefix("retriev")),
        ("AND\\**", Prefix("AND*")),
        ("fuzzy~", Fuzzy("fuzzy", 1)),
        ("fuzzyy~", Fuzzy("fuzzyy", 2)),
        ("fuzzyy~1", Fuzzy("fuzzyy", 1)),
        ("a~2", Fuzzy("a", 2)),
        ("(a)", Group(should(Text("a")))),
        ("( a  b )", Group(should(Text("a"), Text("b")))),
    ],
)
def test_nodes(text, node):
    assert one(text) == Clause("should", node, 1.0, None)


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ("a^2.5", Clause("should", Text("a"), 2.5)),
        ("a^0.001", Clause("should", Text("a"), 0.001)),
        ("a^1e-5", Clause("should", Text("a"), 1e-5)),
        ("a^1000", Clause("should", Text("a"), 1000.0)),
        ('"a b"~3^2', Clause("should", Phrase("a b", 3), 2.0)),
        ("a*^2", Clause("should", Prefix("a"), 2.0)),
        ("a~1^2", Clause("should", Fuzzy("a", 1), 2.0)),
        ("(a)^0.5", Clause("should", Group(should(Text("a"))), 0.5)),
        ("+a", Clause("must", Text("a"))),
        ("title:a", Clause("should", Text("a"), field="title")),
        ("+author.name:a^3", Clause("must", Text("a"), 3.0, "author.name")),
        ('a-b:"x y"~2', Clause("should", Phrase("x y", 2), field="a-b")),
        ("_x9:a*", Clause("should", Prefix("a"), field="_x9")),
        ("title:a~", Clause("should", Fuzzy("a", 1), field="title")),
        ("title:http://x", Clause("should", Text("http://x"), field="title")),
        ("title:12:30", Clause("should", Text("12:30"), field="title")),
        ("title:a:b", Clause("should", Text("a:b"), field="title")),
        ("title:OR", Clause("should", Text("OR"), field="title")),
        ("AND:x", Clause("should", Text("x"), field="AND")),
        ("http:x", Clause("should", Text("x"), field="http")),
    ],
)
def test_clauses(text, clause):
    assert one(text) == clause


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("a b", "a b"),
        ("a OR b OR c", "a b c"),
        ("a AND b", "+a +b"),
        ("a AND b AND c", "+a +b +c"),
        ("a AND +b", "+a +b"),
        ("a NOT b", "a -b"),
        ("NOT b a", "-b a"),
        ("a AND NOT b", "+a -b"),
        ("NOT b AND a", "-b +a"),
        ("a AND b NOT c", "+a +b -c"),
        ("a AND b -c", "+a +b -c"),
        ("a -c AND b", "+a -c +b"),
        ("a OR b NOT c", "a b -c"),
        ("-c a OR b", "-c a b"),
        ("a AND (b OR c)", "+a +(b c)"),
        ("a AND(b OR c) AND d", "+a +(b c) +d"),
        ("(a AND b) OR (c AND NOT d)", "(+a +b) (+c -d)"),
        ("NOT(a b) c", "-(a b) c"),
        ('a AND"b c"', '+a +"b c"'),
        ("title:a AND NOT title:b^2", "+title:a -title:b^2"),
    ],
)
def test_operators_are_signs(text, signs):
    assert parse(text, FIELDS) == parse(signs, FIELDS)
    assert format(parse(text, FIELDS)) == signs


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("title:(a b)", "(title:a title:b)"),
        ("+title:(a -b)^2 c", "+(title:a -title:b)^2 c"),
        ('title:("a b"~2 http:c (d* e~1))', '(title:"a b"~2 http:c (title:d* title:e~1))'),
        ("title:(http:(a b) c)", "((http:a http:b) title:c)"),
        ("title:(a AND b) OR c", "(+title:a +title:b) c"),
        ("title:(http://x 12:30)", "(title:http://x title:12:30)"),
    ],
)
def test_a_field_before_a_group_is_that_of_its_clauses(text, same):
    assert parse(text, FIELDS) == parse(same, FIELDS)
    assert format(parse(text, FIELDS)) == same


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, "an empty query"),
        ("   ", 1, "an empty query"),
        ("a ()", 3, "an empty group"),
        ("-a", 1, "only excluded clauses in the query.*\n.*\n.*\nAdd a positive term"),
        ("NOT a NOT b", 1, "Add a positive term"),
        ("a (-b)", 3, "only excluded clauses in this group"),
        ("a )", 3, "closes nothing"),
        ("a (b (c)", 3, "never closed"),
        ('a "b', 3, "never closed"),
        (r'a "b\"', 3, "never closed"),
        ('a ""', 3, "empty phrase"),
        ('a " "', 3, "empty phrase"),
        ("a - b", 3, "'-' with no word"),
        ("a +-b", 3, "'\\+' with no word"),
        ("--help", 1, "'-' with no word"),
        ("+", 1, "no word behind"),
        ("(a -)", 4, "no word behind"),
        ("*", 1, "'\\*' at the beginning"),
        ("a ~2", 3, "'~' at the beginning"),
        ("^2", 1, "'\\^' at the beginning"),
        ("title:*", 7, "behind the colon"),
        ("te*t", 4, "'t' directly after '\\*'"),
        ("te**", 4, "'\\*' directly after '\\*'"),
        ("te*~", 4, "'~' directly after '\\*'"),
        ("(a)~2", 4, "'~' directly after a group"),
        ('"a"*', 4, "'\\*' directly after a phrase"),
        ('"a"b', 4, "a space between clauses"),
        ('"a""b"', 4, "a space between clauses"),
        ('a"b"', 2, "a space between clauses"),
        ("f(x)", 2, "a space between clauses"),
        ("(a)(b)", 4, "a space between clauses"),
        ("a^2(b)", 4, "'\\(' directly after a boost"),
        ("a^", 2, "above 0 and at most 1000"),
        ("a^0", 2, "above 0 and at most 1000"),
        ("a^0.0", 2, "above 0"),
        ("a^1e-999", 2, "above 0"),
        ("a^1000.1", 2, "at most 1000"),
        ("a^-1", 2, "above 0"),
        ("a^nan", 2, "above 0"),
        ("a^inf", 2, "above 0"),
        ("a^2^3", 2, "found '\\^2\\^3'"),
        ("a^2~1", 2, "at the end of a clause"),
        ("a^٣", 2, "a number"),
        ("a^" + "9" * 5000, 2, "a number"),
        ("a~3", 2, "~, ~1 or ~2"),
        ("a~0", 2, "~, ~1 or ~2"),
        ("a~1.5", 2, "~, ~1 or ~2"),
        ("a~b", 2, "~, ~1 or ~2"),
        ('"a b"~', 6, "whole number N from 0 to 1000"),
        ('"a b"~1001', 6, "whole number"),
        ('"a b"~²', 6, "whole number"),
        ('"a b"~' + "9" * 5000, 6, "whole number"),
        ("a body:b", 3, "unknown field 'body'; allowed is one of AND, _x9, a-b, author.name, http, title"),
        ("std::vector", 1, "unknown field 'std'"),
        ("title:", 6, "nothing behind the field 'title'"),
        ("title: a", 6, "nothing behind the field 'title'"),
        ("title:+(a b)", 6, "a sign before the field"),
        ("title:()", 7, "an empty group"),
        ("title:(a *)", 10, "'\\*' at the beginning"),
        ("title:(a body:b)", 10, "unknown field 'body'"),
        ("title:-a", 6, "a sign before the field"),
        ("a AND b OR c", 9, "found OR on one level with AND.*\n.*\n.*\nPut parentheses round"),
        ("a OR b AND c", 8, "found AND on one level with OR"),
        ("AND a", 1, "a clause was expected"),
        ("a OR", 3, "OR with nothing after"),
        ("a AND AND b", 7, "a clause was expected"),
        ("a AND OR b", 7, "a clause was expected"),
        ("(a AND) b", 4, "AND with nothing after"),
        ("a NOT", 3, "NOT with nothing after"),
        ("(a NOT) b", 4, "NOT with nothing after"),
        ("a NOT NOT b", 7, "found NOT"),
        ("a NOT -b", 7, "NOT and '-' on one clause"),
        ("a +AND b", 4, "found AND"),
        ("a AND^2 b", 6, "'\\^' at the beginning"),
        ("a b AND c", 3, "no AND before it"),
        ("a OR b c", 8, "no OR before it"),
        ("a -b c AND d", 6, "no AND before it"),
        ("+a OR b", 1, "\\+ on one level with OR"),
        ("a OR -b", 3, "beside an excluded clause"),
        ("a NOT b OR c", 9, "beside an excluded clause"),
        ("a\\", 2, "at the end"),
        ("a \\", 3, "at the end"),
        ("-\\", 2, "at the end"),
        ("\ud800 (", 3, "never closed"),
    ],
)
def test_complaints(text, position, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        parse(text, FIELDS)
    lines = str(caught.value).split("\n")
    assert len(lines) == 4
    assert f"at character {position}: found " in lines[0]
    assert "; allowed is " in lines[0]
    assert re.fullmatch(" *\\^", lines[2])
    assert lines[3].endswith(".")


def test_a_complaint_in_full():
    with pytest.raises(InvalidInput) as caught:
        parse("密な 検索^0 x")
    assert str(caught.value) == (
        "cannot read the query at character 6: found '^0'; allowed is ^N at the end of a clause, with a number N "
        "above 0 and at most 1000, such as ^2.5.\n"
        "    密な 検索^0 x\n"
        "             ^\n"
        "To search for it literally, escape it with \\ or turn the syntax off."
    )


def test_the_caret_stands_under_the_fault_of_a_long_query():
    with pytest.raises(InvalidInput) as caught:
        parse("a\tb\n" * 100 + "x~9" + " word" * 100)
    _, line, caret, _ = str(caught.value).split("\n")
    assert line[caret.index("^") :].startswith("~9 word")
    assert line.startswith("    ...")
    assert line.endswith("...")


def test_no_fields_are_known_unless_named():
    with pytest.raises(InvalidInput, match="unknown field 'title'; allowed is none"):
        parse("title:a")


def test_limits():
    assert len(parse("a " * MAX_CLAUSES).clauses) == MAX_CLAUSES
    with pytest.raises(InvalidInput, match="10,000 at most"):
        parse("a " * (MAX_CLAUSES + 1))
    with pytest.raises(InvalidInput, match="10,000 at most"):
        parse("(a) " * (MAX_CLAUSES // 2) + "b")
    assert one("a" * MAX_CHARACTERS).node == Text("a" * MAX_CHARACTERS)
    with pytest.raises(InvalidInput, match="32,769 characters, at most 32,768"):
        parse("a" * (MAX_CHARACTERS + 1))
    deepest = "(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH
    assert format(parse(deepest)) == deepest
    with pytest.raises(InvalidInput, match="at character 21: found parentheses nested 21 deep"):
        parse(f"({deepest})")


@pytest.mark.parametrize(
    "unit",
    ["(", ")", '"', "~", "^", "*", "+", "-", "\\", ":", "a", "a:", "/", "9", "AND", "AND ", "NOT ", "a~", "a^", '"a', '\\"',
     "(a", "(a ", "() ", "a\\", "a-", "a:\\", '"a" ', "+a ", "a OR ", "title:", "title:a ", '"\\', "a^1 ", "\u3000", "x.", "."],
)  # fmt: skip
def test_long_monotony_ends(unit):
    # With quadratic work this would take minutes, which the time limit of a test notices.
    for beginning in ("", "x ", '"', "a~", "a^", '"a"~', "title:", "a:"):
        text = (beginning + unit * MAX_CHARACTERS)[:MAX_CHARACTERS]
        for cut in (text, text[:-1] + "(", text[:-1] + '"', text[:-1] + ":", text[:-1] + "\\"):
            assert_parses_or_complains(cut)


def assert_parses_or_complains(text):
    try:
        query = parse(text, FIELDS)
    except InvalidInput:
        return
    canonical = format(query)
    if len(canonical) <= MAX_CHARACTERS:
        assert parse(canonical, FIELDS) == query
        assert format(parse(canonical, FIELDS)) == canonical


pieces = st.sampled_from(
    [*'"()~^*+-:\\ \t', *"ab9.1", "AND", "OR", "NOT", " AND ", " OR ", " NOT ", "title:", "http://", "^2", "~1", '"a b"', "(a)"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)))
@example("a" + "~1" * 3)
def test_any_string_parses_or_complains(text):
    assert_parses_or_complains(text)


@given(st.lists(st.sampled_from(["a", "b", "NOT c", "-d", "+e", "AND", "OR", "(f)"]), max_size=8).map(" ".join))
def test_operators_in_any_order(text):
    assert_parses_or_complains(text)


awkward = st.text(st.sampled_from('"()~^*+-:\\/ \n\u3000ab_.9é'), min_size=1)
words = st.one_of(
    st.text(min_size=1), awkward, st.sampled_from(["AND", "OR", "NOT", "title:x", "a://b", "//x", "x:", "::", "-", "\\"])
)  # fmt: skip
boosts = st.one_of(
    st.just(1.0),
    st.floats(0, 1000, exclude_min=True, allow_subnormal=True),
    st.integers(1, 1000).map(float),
)
occurs = st.sampled_from(["should", "must", "must_not"])
leaves = st.one_of(
    st.builds(Text, words),
    st.builds(Phrase, words.filter(str.strip), st.integers(0, MAX_SLOP)),
    st.builds(Prefix, words),
    st.builds(Fuzzy, words, st.sampled_from([1, 2])),
)
leaf_clauses = st.builds(Clause, occurs, leaves, boosts, st.none() | st.sampled_from(FIELDS))


def queries_of(clauses):
    lists = st.lists(clauses, min_size=1, max_size=5)
    return lists.filter(lambda them: any(c.occur != "must_not" for c in them)).map(lambda them: Query(tuple(them)))


def with_groups(queries):
    return queries_of(leaf_clauses | st.builds(Clause, occurs, st.builds(Group, queries), boosts))


trees = st.recursive(queries_of(leaf_clauses), with_groups, max_leaves=8)


@given(trees)
@example(Query((Clause("should", Text("//x"), 1.0, "title"),)))
@example(Query((Clause("should", Text("a"), 5e-324),)))
def test_what_is_written_is_read_again(query):
    assert parse(format(query), FIELDS) == query


def test_canonical_text():
    text = r"""  NOT x~ AND  title:"a  b"~0^1.0   AND (retrieval~ OR  q* OR u://v OR k\:l )^2.50 """
    assert format(parse(text, FIELDS)) == r'-x~1 +title:"a  b" +(retrieval~2 q* u://v k\:l)^2.5'
