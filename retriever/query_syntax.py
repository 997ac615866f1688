r"""A query language for the words of a document, read into a tree that knows nothing of an index.

    dense "passage retrieval"~2 +title:rank* -bert~1 (colbert OR splade)^2.5

Plain text is never read this way unless a caller asks for it. docs/query-syntax.md describes the language.
"""

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, NoReturn

from retriever.errors import InvalidInput

MAX_CHARACTERS = 32_768
MAX_CLAUSES = 10_000
MAX_DEPTH = 20
MAX_BOOST = 1000.0
MAX_SLOP = 1000

# Elasticsearch's AUTO on Lucene allows two edits from six characters on. It allows none for one or two
# characters; here ~ was written by hand and always allows at least one.
TWO_EDITS_FROM = 6

Occur = Literal["should", "must", "must_not"]


@dataclass(frozen=True, slots=True)
class Text:
    """A word as typed, still to be analysed; that may give several terms or none."""

    text: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words in order, still to be analysed; `slop` is how many positions they may be moved in total."""

    text: str
    slop: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """All terms that begin with `text`."""

    text: str


@dataclass(frozen=True, slots=True)
class Fuzzy:
    """All terms at most `distance` edits from `text`."""

    text: str
    distance: Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Group:
    """A query in parentheses."""

    query: "Query"


Node = Text | Phrase | Prefix | Fuzzy | Group


@dataclass(frozen=True, slots=True)
class Clause:
    """A node with its role, its weight and the one field it is looked for in (None: the usual text).

    A group has no field; a field before it is that of those of its clauses that name none. The boost of an
    excluded clause has no effect.
    """

    occur: Occur
    node: Node
    boost: float = 1.0
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One level of clauses; at least one of them is not excluded."""

    clauses: tuple[Clause, ...]


FIELD = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*):(?!//)")
OPERATORS = ("AND", "OR", "NOT")
OPERATOR = re.compile(r'(AND|OR|NOT)(?=[\s()"~^*]|\Z)')
SPACE = re.compile(r"\s*+")
WORD = re.compile(r'(?:[^\s"()~^*\\]++|\\.)++', re.DOTALL)
PHRASE = re.compile(r'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
TILDE = re.compile(r'~([^\s"()^]*+)')
BOOST = re.compile(r'\^([^\s"()]*+)')
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)

SIGNS: dict[str, Occur] = {"+": "must", "-": "must_not"}
PREFIXES: dict[Occur, str] = {"should": "", "must": "+", "must_not": "-"}

ALLOWED_AFTER = {
    "*": "'*' directly after a word only",
    "~": "'~' directly after a word or phrase only",
    "^": "'^' directly after a word, phrase or group only",
}
LITERALLY = "To search for it literally, escape it with \\ or turn the syntax off."


def parse(text: str, fields: Collection[str] = ()) -> Query:
    """Read a query in time linear in its length.

    `fields` are the names that may stand before a colon. Raises InvalidInput with the position, a line with a
    caret, what was found, what is allowed and the next step.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(
            f"the query has {len(text):,} characters, at most {MAX_CHARACTERS:,} are allowed; shorten it."
        )
    return _Parser(text, fields).level(depth=0, opened=0, field=None)


def format(query: Query) -> str:
    """Write a query as `parse` reads it: signs instead of AND, OR and NOT, and every distance spelt out.

    `parse(format(query), fields)` equals `query` for every tree that keeps the rules of the language.
    """
    return " ".join(_written(clause) for clause in query.clauses)


class _Parser:
    def __init__(self, text: str, fields: Collection[str]) -> None:
        self.text = text
        self.fields = fields
        self.at = 0
        self.clauses = 0

    def level(self, depth: int, opened: int, field: str | None) -> Query:
        """Read clauses up to the end or the closing parenthesis, which is left to the caller.

        field  of the clauses that name none
        """
        clauses: list[Clause] = []
        first: dict[str, int] = {}  # AND, OR, +: where each was first seen on this level
        pending = ""  # AND or OR, if it was read last
        pending_at = gap = -1
        positive = joined = False  # is there a clause that is not excluded; was there an operator after the last one
        while True:
            self.skip_space()
            start = self.at
            if self.peek() in ("", ")"):
                break
            operator = self.operator()
            if operator in ("AND", "OR"):
                if not clauses or pending:
                    self.fail(start, operator, f"{operator} between two clauses only, and a clause was expected")
                other = "OR" if operator == "AND" else "AND"
                if other in first:
                    self.fail(
                        start,
                        f"{operator} on one level with {other}",
                        "only one of them, since either could be meant to bind more tightly",
                        f"Put parentheses round one of them, as in a {other} (b {operator} c). {LITERALLY}",
                    )
                if operator == "OR" and clauses[-1].occur == "must_not":
                    self.fail_or_beside_excluded(start)
                first.setdefault(operator, start)
                pending, pending_at, joined = operator, start, True
                continue
            clause = self.clause(depth, field, negated=operator == "NOT")
            if clause.occur == "must_not":
                if pending == "OR":
                    self.fail_or_beside_excluded(pending_at)
            else:
                if positive and not joined and gap < 0:
                    gap = start
                positive, joined = True, False
                if clause.occur == "must":
                    first.setdefault("+", start)
            clauses.append(clause)
            pending = ""

        if pending:
            self.fail(pending_at, f"{pending} with nothing after it", "a clause on both sides")
        if depth == 0 and self.peek() == ")":
            self.fail(self.at, "')' that closes nothing", "a closing parenthesis only after an opening one")
        if depth > 0 and self.peek() == "":
            self.fail(opened, "'(' that is never closed", "a ')' for each '('")
        if not clauses:
            what = "an empty group" if depth else "an empty query"
            self.fail(opened, what, "at least one word", "Write a word to search for." if not depth else LITERALLY)
        if not positive:
            self.fail(
                opened,
                f"only excluded clauses in {'this group' if depth else 'the query'}",
                "exclusion from something that is searched for",
                f"Add a positive term. {LITERALLY}",
            )
        if "OR" in first and "+" in first:
            self.fail(
                first["+"],
                "+ on one level with OR",
                "either signs or OR",
                f"Leave out OR, which is what no sign means, or use parentheses. {LITERALLY}",
            )
        operator = "AND" if "AND" in first else "OR"
        if operator in first and gap >= 0:
            self.fail(
                gap,
                f"a clause with no {operator} before it, on a level with {operator}",
                f"{operator} between each two clauses, or between none",
                f"Write {operator} here or use parentheses. {LITERALLY}",
            )
        if "AND" in first:
            clauses = [
                Clause("must", clause.node, clause.boost, clause.field) if clause.occur == "should" else clause
                for clause in clauses
            ]
        return Query(tuple(clauses))

    def clause(self, depth: int, outer: str | None, negated: bool) -> Clause:
        self.skip_space()
        start = self.at
        occur: Occur = "must_not" if negated else "should"
        self.clauses += 1
        if self.clauses > MAX_CLAUSES:
            self.fail(start, f"clause {self.clauses:,}", f"{MAX_CLAUSES:,} at most", "Shorten the query.")
        sign = self.peek()
        if sign in SIGNS:
            if negated:
                self.fail(start, f"NOT and {sign!r} on one clause", "one of them")
            occur = SIGNS[sign]
            self.at += 1
            if self.is_end() or self.peek() in SIGNS:
                self.fail(start, f"{sign!r} with no word behind it", "a sign directly before a word, phrase or group")
        if (sign in SIGNS or negated) and (operator := OPERATOR.match(self.text, self.at)):
            self.fail(self.at, operator[0], f"a word, phrase or group after {'NOT' if negated else repr(sign)}")
        own = self.field()
        field = own or outer
        node = self.node(depth, field, "behind the colon" if own else "at the beginning of a clause")
        return Clause(occur, node, self.boost(node), None if isinstance(node, Group) else field)

    def field(self) -> str | None:
        found = FIELD.match(self.text, self.at)
        if found is None:
            return None
        name = found[1]
        if name not in self.fields:
            known = ", ".join(sorted(self.fields)) or "none, since no field can be searched by name here"
            self.fail(
                self.at,
                f"the unknown field {_shown(name)}",
                f"one of {known}" if self.fields else known,
                "To search for it literally, write \\: for the colon or turn the syntax off.",
            )
        colon = found.end() - 1
        self.at = found.end()
        if self.is_end() or self.peek() in SIGNS:
            what = {"+": "'+'", "-": "'-'"}.get(self.peek(), "nothing")
            self.fail(
                colon,
                f"{what} behind the field {_shown(name)}",
                "a word, phrase or group directly behind the colon, and a sign before the field",
            )
        return name

    def node(self, depth: int, field: str | None, place: str) -> Node:
        start = self.at
        character = self.peek()
        if character == '"':
            return self.phrase()
        if character == "(":
            if depth == MAX_DEPTH:
                self.fail(
                    start,
                    f"parentheses nested {depth + 1} deep",
                    f"{MAX_DEPTH} levels at most",
                    f"Simplify the query. {LITERALLY}",
                )
            self.at += 1
            query = self.level(depth + 1, opened=start, field=field)
            self.at += 1
            return Group(query)
        found = WORD.match(self.text, self.at)
        if found is None:
            if character == "\\":
                self.fail_backslash()
            self.fail(start, f"{character!r} {place}", ALLOWED_AFTER[character])
        self.at = found.end()
        word = _unescaped(found[0])
        if self.peek() == "*":
            self.at += 1
            return Prefix(word)
        tilde = TILDE.match(self.text, self.at)
        if tilde is None:
            return Text(word)
        if tilde[1] not in ("", "1", "2"):
            self.fail(self.at, _shown(tilde[0]), "~, ~1 or ~2 after a word")
        self.at = tilde.end()
        two = tilde[1] == "2" or (tilde[1] == "" and len(word) >= TWO_EDITS_FROM)
        return Fuzzy(word, 2 if two else 1)

    def phrase(self) -> Phrase:
        start = self.at
        found = PHRASE.match(self.text, start)
        if found is None:
            self.fail(start, "'\"' that is never closed", "a second '\"' at the end of the phrase")
        text = _unescaped(found[1])
        if not text.strip():
            self.fail(start, "an empty phrase", "at least one word between the quotation marks")
        self.at = found.end()
        tilde = TILDE.match(self.text, self.at)
        if tilde is None:
            return Phrase(text, 0)
        # The length comes first: int() refuses thousands of digits with an error of its own.
        digits = tilde[1]
        if not re.fullmatch("[0-9]{1,4}", digits) or int(digits) > MAX_SLOP:
            self.fail(self.at, _shown(tilde[0]), f"~N after a phrase, with a whole number N from 0 to {MAX_SLOP}")
        self.at = tilde.end()
        return Phrase(text, int(digits))

    def boost(self, node: Node) -> float:
        """Read the boost, if there is one, and make sure that the clause ends there."""
        boost = 1.0
        found = BOOST.match(self.text, self.at)
        if found is not None:
            number = found[1]
            # repr() of a float has 24 characters at most; a limit keeps float() away from thousands of digits.
            if len(number) <= 32 and NUMBER.fullmatch(number):
                boost = float(number)
            else:
                boost = -1.0
            if not 0 < boost <= MAX_BOOST:
                self.fail(
                    self.at,
                    _shown(found[0]),
                    f"^N at the end of a clause, with a number N above 0 and at most {MAX_BOOST:g}, such as ^2.5",
                )
            self.at = found.end()
        if self.is_end():
            return boost
        character = self.peek()
        if character == "\\" and self.at == len(self.text) - 1:
            self.fail_backslash()
        what = {Text: "a word", Phrase: "a phrase", Prefix: "'*'", Fuzzy: "'~'", Group: "a group"}[type(node)]
        if found is not None:
            what = "a boost"
        if isinstance(node, Prefix) and found is None:
            allowed = "'*' at the very end of a word, with at most a boost behind it"
        else:
            allowed = ALLOWED_AFTER.get(character, "a space between clauses")
        self.fail(self.at, f"{character!r} directly after {what}", allowed)

    def operator(self) -> str:
        found = OPERATOR.match(self.text, self.at)
        if found is None:
            return ""
        start = self.at
        self.at = found.end()
        if found[0] == "NOT":
            self.skip_space()
            if self.is_end():
                self.fail(start, "NOT with nothing after it", "a word, phrase or group after NOT")
        return found[0]

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def is_end(self) -> bool:
        """Return whether a clause may end here."""
        character = self.peek()
        return character in ("", ")") or character.isspace()

    def skip_space(self) -> None:
        found = SPACE.match(self.text, self.at)
        assert found is not None
        self.at = found.end()

    def fail_or_beside_excluded(self, position: int) -> NoReturn:
        self.fail(
            position,
            "OR beside an excluded clause",
            "OR between clauses that are searched for",
            f"Leave out this OR to exclude the clause from everything. {LITERALLY}",
        )

    def fail_backslash(self) -> NoReturn:
        self.fail(
            len(self.text) - 1,
            "'\\' at the end",
            "'\\' before the character that it escapes",
            "To search for it literally, write it twice or turn the syntax off.",
        )

    def fail(self, position: int, found: str, allowed: str, step: str = LITERALLY) -> NoReturn:
        line, caret = _pointed(self.text, position)
        raise InvalidInput(
            f"cannot read the query at character {position + 1}: found {found}; allowed is {allowed}.\n"
            f"    {line}\n    {caret}\n{step}"
        )


def _unescaped(text: str) -> str:
    return ESCAPED.sub(r"\1", text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _pointed(text: str, position: int) -> tuple[str, str]:
    """Return the surroundings of a position on one line, and a line with a caret beneath it."""
    start, end = max(0, position - 40), position + 30
    before = "".join(c if c.isprintable() else " " for c in text[start:position])
    after = "".join(c if c.isprintable() else " " for c in text[position:end])
    before = ("..." if start else "") + before
    line = before + after + ("..." if end < len(text) else "")
    return line.rstrip(), " " * sum(_columns(c) for c in before) + "^"


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _written(clause: Clause) -> str:
    node = clause.node
    if isinstance(node, Group):
        written = f"({format(node.query)})"
    elif isinstance(node, Phrase):
        text = re.sub(r'(["\\])', r"\\\1", node.text)
        written = f'"{text}"' + (f"~{node.slop}" if node.slop else "")
    else:
        written = _escaped(node.text, beside_field=clause.field is not None)
        if isinstance(node, Prefix):
            written += "*"
        elif isinstance(node, Fuzzy):
            written += f"~{node.distance}"
    field = f"{clause.field}:" if clause.field is not None else ""
    boost = f"^{float(clause.boost)!r}".removesuffix(".0") if clause.boost != 1 else ""
    return PREFIXES[clause.occur] + field + written + boost


def _escaped(word: str, beside_field: bool) -> str:
    escaped = re.sub(r'([\s"()~^*\\])', r"\\\1", word)
    if beside_field and escaped.startswith("//"):  # name://word is no field
        return "\\" + escaped
    if escaped[0] in SIGNS or (escaped in OPERATORS and not beside_field):
        return "\\" + escaped
    field = FIELD.match(escaped)
    if field and not beside_field:
        colon = field.end() - 1
        return escaped[:colon] + "\\" + escaped[colon:]
    return escaped
