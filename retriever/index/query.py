"""Parsed queries over the inverted parts of all segments: Lucene's BooleanQuery, prefixes, fuzzy words, phrases.

A `Plan` is a query compiled to terms of the index; an `Execution` is a plan on the documents that a filter allows.
Where every term counts wherever it stands, the conditions become a mask and the terms one flat BM25 search. Where a
term counts only inside its group, or a part is not scored by BM25 of terms, every document is scored level by level.
docs/query-syntax.md says what each part means and how it is scored.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.positions import exact_frequency, phrase_frequencies, sloppy_frequency
from retriever.analysis import Analyser
from retriever.errors import InvalidInput
from retriever.fields import CONTENTS
from retriever.index.bm25 import Entry
from retriever.index.fielded import FieldedBm25, FieldTerm
from retriever.query_syntax import Fuzzy, Group, Phrase, Prefix, Query, Text, parse

MAX_PARTS = 100
MAX_PREFIX_TERMS = 1000
MAX_FUZZY_TERMS = 50
MAX_PHRASE_DOCUMENTS = 10_000
MAX_SLOPPY_TERMS = 20
PHRASE_BATCH = 500
# Places of postings that are looked up together, 8 bytes each.
MAX_ENTRIES = 1 << 20

# Nested boosts multiply; beyond these float32 would lose the terms beside them.
LEAST_BOOST, LARGEST_BOOST = 1e-6, 1e6

Mask = Sequence[NDArray[np.bool_]]
ReadTerms = Callable[[int, NDArray[np.int32], Sequence[str]], Mapping[str, Sequence[list[str]]]]
"""(segment, its documents, fields) to the terms of each document in each field, analysed anew from what is stored.
Read for phrases where the index keeps no positions."""


@dataclass(frozen=True, slots=True)
class Term:
    """Documents that hold a term in a field; its BM25 there."""

    term: str
    weight: float
    field: str = CONTENTS


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Documents that hold any of the terms; the weight itself."""

    terms: tuple[str, ...]
    weight: float
    field: str = CONTENTS


@dataclass(frozen=True, slots=True)
class Words:
    """Documents that hold the terms in order; BM25 of the phrase's frequency with the sum of the terms' idf."""

    terms: tuple[str, ...]
    slop: int
    weight: float
    field: str = CONTENTS


@dataclass(frozen=True, slots=True)
class Level:
    """All of `must`, or else any of `should`, and none of `must_not`; the sum of what matches of the first two."""

    must: "tuple[Part, ...]" = ()
    should: "tuple[Part, ...]" = ()
    must_not: "tuple[Part, ...]" = ()


Part = Term | AnyOf | Words | Level


@dataclass(frozen=True, slots=True)
class Plan:
    """A query in terms of one index.

    words          what is searched for as plain text, for models
    without_terms  how many clauses the analyser left nothing of; they count as not written
    """

    root: Level
    words: str
    without_terms: int


class QuerySearch:
    """Compiles and executes queries over the fields and segments that a `FieldedBm25` searches."""

    def __init__(
        self, bm25: FieldedBm25, analyser: Analyser, id_ranks: Sequence[NDArray[np.int32]], read_terms: ReadTerms
    ) -> None:
        self.bm25 = bm25
        self.analyser = analyser
        self.id_ranks = id_ranks
        self.read_terms = read_terms
        self.has_positions = all(
            reader.positions is not None for part in bm25.parts.values() for reader in part.readers
        )

    def compile(self, text: str, field_weights: Mapping[str, float] | None = None) -> Plan:
        """Read a query. Raises InvalidInput for what cannot be read, searched by field or kept within the limits.

        field_weights  of the fields in which words without a field are looked for; None is the contents alone
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidInput("the query holds half of a surrogate pair, which is not a character.") from None
        query = parse(text, _AnyName())
        parts = sum(1 for node in _nodes(query) if not isinstance(node, Text))
        if parts > MAX_PARTS:
            raise InvalidInput(
                f"the query has {parts} phrases, prefixes, fuzzy words and groups, at most {MAX_PARTS} can be "
                "searched at once; leave some out or ask several queries."
            )
        compiler = _Compiler(self.bm25, self.analyser, field_weights or {CONTENTS: 1.0})
        root = compiler.level(query, 1.0) or Level()
        return Plan(root, " ".join(_positive_texts(query)), compiler.without_terms)

    def execute(self, plan: Plan, allowed: Mask | None) -> "Execution":
        """Find what a plan matches among the documents that are `allowed`; phrases are read here."""
        return Execution(self, plan, allowed)


class _AnyName(frozenset[str]):
    """Holds every name, so that the parser leaves the refusal of fields to the compiler."""

    def __contains__(self, name: object) -> bool:
        return True


def _nodes(query: Query) -> Iterator[Text | Phrase | Prefix | Fuzzy | Group]:
    for clause in query.clauses:
        yield clause.node
        if isinstance(clause.node, Group):
            yield from _nodes(clause.node.query)


def _positive_texts(query: Query) -> Iterator[str]:
    for clause in query.clauses:
        if clause.occur == "must_not":
            continue
        if isinstance(clause.node, Group):
            yield from _positive_texts(clause.node.query)
        else:
            yield clause.node.text


class _Compiler:
    def __init__(self, bm25: FieldedBm25, analyser: Analyser, field_weights: Mapping[str, float]) -> None:
        self.bm25 = bm25
        self.analyser = analyser
        self.field_weights = field_weights
        self.without_terms = 0
        self.prefix_terms = 0
        self.beginning: dict[tuple[str, str], dict[int, list[str]]] = {}

    def level(self, query: Query, boost: float) -> Level | None:
        """Return a level as simple as it can be, or None when the analyser left nothing of any clause."""
        parts: dict[str, list[Part]] = {"must": [], "should": [], "must_not": []}
        for clause in query.clauses:
            if clause.field is not None and clause.field not in self.bm25.parts:
                raise InvalidInput(self.no_field(clause.field))
            # An excluded clause has no score.
            weight = 1.0 if clause.occur == "must_not" else boost * clause.boost
            if not LEAST_BOOST <= weight <= LARGEST_BOOST:
                raise InvalidInput(
                    f"the boosts round a clause multiply to {weight:g}; keep the product from {LEAST_BOOST:g} "
                    f"to {LARGEST_BOOST:g}."
                )
            fields = self.field_weights if clause.field is None else {clause.field: 1.0}
            compiled = self.clause(clause.node, {field: weight * boost for field, boost in fields.items()}, weight)
            if not compiled:
                self.without_terms += not isinstance(clause.node, Group)
            elif clause.occur == "must_not" and len(compiled) > 1:
                # What + would keep is what - leaves out.
                parts["must_not"].append(Level(must=tuple(compiled)))
            else:
                parts[clause.occur] += compiled
        if not any(parts.values()):
            return None
        return simplified(Level(tuple(parts["must"]), tuple(parts["should"]), tuple(parts["must_not"])))

    def clause(
        self, node: Text | Phrase | Prefix | Fuzzy | Group, fields: Mapping[str, float], weight: float
    ) -> list[Part]:
        """Return the parts that a clause stands for, each with the clause's role; none when it has no terms.

        fields  where it is looked for, each with the weight that it has there; `weight` without theirs is a group's
        """
        if isinstance(node, Group):
            level = self.level(node.query, weight)
            return [level] if level is not None else []
        if isinstance(node, Prefix):
            return [_any(AnyOf(self.starting_with(node.text, field), boost, field) for field, boost in fields.items())]
        if isinstance(node, Fuzzy):
            near = ((field, boost, self.near(node, field)) for field, boost in fields.items())
            return [Level(should=tuple(Term(t, boost * like, field) for field, boost, n in near for t, like in n))]
        terms = self.analyser.terms(node.text)
        if isinstance(node, Text) or len(terms) < 2:
            return [_any(Term(term, boost, field) for field, boost in fields.items()) for term in terms]
        if node.slop and len(terms) > MAX_SLOPPY_TERMS:
            raise InvalidInput(
                f"a phrase with ~ may have {MAX_SLOPPY_TERMS} terms at most, this one has {len(terms)}; "
                "shorten it or leave out the ~."
            )
        return [_any(Words(tuple(terms), node.slop, boost, field) for field, boost in fields.items())]

    def starting_with(self, text: str, field: str) -> tuple[str, ...]:
        """Return the terms of a field that begin with a text as typed or, when there are none, in lower case."""
        room = MAX_PREFIX_TERMS - self.prefix_terms
        bm25 = self.bm25.parts[field]
        live: dict[str, Entry] = {}
        for prefix in dict.fromkeys((text, text.lower())):
            found: set[str] = set()
            for reader in bm25.readers:
                found.update(term for _, term in reader.terms.starting_with(prefix, room + 1))
            if len(found) > room:
                raise InvalidInput(
                    f"the prefixes of the query stand for more than {MAX_PREFIX_TERMS:,} terms of this index, counted "
                    f"up to {text[:80]!r}*; write longer prefixes or fewer of them."
                )
            # Terms of deleted documents alone do not count, as they would not in a new index.
            live = bm25.look_up(list(found))
            if live:
                break
        self.prefix_terms += len(live)
        return tuple(sorted(live))

    def near(self, node: Fuzzy, field: str) -> list[tuple[str, float]]:
        """Return the nearest terms of a field with the same first character and their similarity, the best first."""
        terms = self.analyser.terms(node.text)
        word = terms[0] if len(terms) == 1 else node.text.lower()
        by_length = self.terms_by_length(word[0], field)
        near: list[tuple[str, int]] = []
        for length in range(max(1, len(word) - node.distance), len(word) + node.distance + 1):
            near += within(word, by_length.get(length, []), node.distance)
        if not near:
            return []
        live = self.bm25.parts[field].look_up([term for term, _ in near])
        # Both begin alike, so the distance is always below the length of the longer one.
        similar = [(term, 1 - distance / max(len(term), len(word))) for term, distance in near if term in live]
        return sorted(similar, key=lambda pair: (-pair[1], pair[0]))[:MAX_FUZZY_TERMS]

    def terms_by_length(self, first: str, field: str) -> dict[int, list[str]]:
        """Return all terms of a field that begin with a character, by their length. Cost: a microsecond a term."""
        if (first, field) not in self.beginning:
            terms: set[str] = set()
            for reader in self.bm25.parts[field].readers:
                terms.update(term for _, term in reader.terms.starting_with(first, len(reader.terms)))
            by_length = self.beginning[first, field] = {}
            for term in terms:
                by_length.setdefault(len(term), []).append(term)
        return self.beginning[first, field]

    def no_field(self, name: str) -> str:
        return (
            f"the query restricts a clause to the field {name!r}, which is not possible: this index can search "
            f"{', '.join(self.bm25.parts)} by name; to search others, build it with --search-fields. To restrict "
            f"metadata use a filter, such as filter={{{name!r}: ...}} or --filter {name}=...; to search for it "
            f"literally, write {name}\\: with a backslash before the colon."
        )


def _any(parts: Iterable[Part]) -> Part:
    """Return what matches where any of the parts matches, and scores their sum."""
    alternatives = tuple(parts)
    return alternatives[0] if len(alternatives) == 1 else Level(should=alternatives)


def within(word: str, terms: Sequence[str], distance: int) -> list[tuple[str, int]]:
    """Return those of `terms`, all of one length, at most `distance` edits from a word, with how many.

    An edit inserts, deletes or replaces a character or swaps two neighbours; nothing is edited twice.
    """
    if not terms:
        return []
    length = len(terms[0])
    characters = np.array(terms, f"U{length}").view(np.uint32).reshape(len(terms), length).T
    codes = [ord(character) for character in word]
    far = np.full(len(terms), distance + 1, np.int16)
    two_before: list[NDArray[np.int16]] = []
    before = [np.full(len(terms), min(j, distance + 1), np.int16) for j in range(length + 1)]
    for i, code in enumerate(codes, 1):
        row = [far] * (length + 1)
        row[0] = np.full(len(terms), min(i, distance + 1), np.int16)
        for j in range(max(1, i - distance), min(length, i + distance) + 1):
            same = characters[j - 1] == code
            cost = np.minimum(np.minimum(before[j], row[j - 1]) + 1, before[j - 1] + ~same)
            if i > 1 and j > 1:
                swapped = (characters[j - 1] == codes[i - 2]) & (characters[j - 2] == code)
                cost = np.where(swapped, np.minimum(cost, two_before[j - 2] + 1), cost)
            row[j] = np.minimum(cost, distance + 1).astype(np.int16)
        two_before, before = before, row
    found = np.flatnonzero(before[length] <= distance)
    return [(terms[i], int(before[length][i])) for i in found.tolist()]


def simplified(level: Level) -> Level:
    """Lift what means the same outside its group; the groups are simple already."""
    must: list[Part] = []
    should = [part for child in level.should for part in _optional(child)]
    must_not = list(level.must_not)
    required = list(reversed(level.must))
    while required:
        child = required.pop()
        if not isinstance(child, Level):
            must.append(child)
            continue
        must_not += child.must_not
        if child.must:
            # With something required on both levels, the rest of both is optional.
            required += reversed(child.must)
            should += child.should
        elif len(child.should) == 1:
            required += child.should
        else:
            must.append(Level(should=child.should))
    excluded = [part for child in must_not for part in _optional(child)]
    return Level(tuple(must), tuple(should), tuple(excluded))


def _optional(part: Part) -> tuple[Part, ...]:
    """Return parts of which one must match exactly if `part` matches, with the same sum of scores."""
    if isinstance(part, Level) and not part.must_not:
        if not part.must:
            return part.should
        if len(part.must) == 1 and not part.should:
            return _optional(part.must[0])
    return (part,)


_Phrase = tuple[str, tuple[str, ...], int]
"""Field, terms and slop."""


class Execution:
    """A plan on the documents of all segments.

    exact  False when there were more candidates for phrases than texts are read; those left out are neither found by a
           phrase nor let through where a phrase is excluded
    terms  the terms of the index that are searched for in any field, those of prefixes and fuzzy words included
    """

    def __init__(self, search: QuerySearch, plan: Plan, allowed: Mask | None) -> None:
        self.plan = plan
        self.exact = True
        self._search = search
        self._readers = search.bm25.contents.readers
        self._allowed = allowed
        self._known = search.bm25.known(dict.fromkeys(_terms(plan.root)))
        self.terms = list(dict.fromkeys(key[1] for key in _terms(plan.root, excluded=False) if key in self._known))
        self._phrases: dict[_Phrase, list[_Occurrences]] = {}
        self._read_phrases()

    def masks(self) -> list[NDArray[np.bool_]]:
        """Return the live and allowed documents of each segment that match."""
        return [
            self._restricted(segment, self._matching(self.plan.root, segment)) for segment in range(len(self._readers))
        ]

    def best(self, k: int) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """Return for each segment (scores, documents), best first, that hold the best k of all."""
        phrase = self._lone_phrase()
        if phrase is not None:
            found = [self._phrase_scores(phrase, segment) for segment in range(len(self._readers))]
            return [self._top(segment, *each, k) for segment, each in enumerate(found)]
        weights = self.flat_weights()
        if weights is not None:
            root = self.plan.root
            allowed = self.masks() if root.must or root.must_not else self._allowed
            best = self._search.bm25.search(weights, k, allowed) if weights else None
            return best or [(np.zeros(0, np.float32), np.zeros(0, np.int32)) for _ in self._readers]
        return [self._best_of(segment, k) for segment in range(len(self._readers))]

    def flat_weights(self) -> dict[FieldTerm, float] | None:
        """Return the weights of all scoring terms in their fields, or None if there is more to the scores than terms.

        A required group of mere alternatives matches wherever one of its terms occurs, so they always count.
        """
        weights: dict[FieldTerm, float] = {}
        root = self.plan.root
        required = [part.should if isinstance(part, Level) else (part,) for part in root.must]
        for part in [*root.should, *(part for parts in required for part in parts)]:
            if not isinstance(part, Term):
                return None
            key = part.field, part.term
            if key in self._known:
                weights[key] = weights.get(key, 0.0) + part.weight
        return weights

    def _best_of(self, segment: int, k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        matching, scored = self._scored(self.plan.root, segment)
        documents = np.flatnonzero(self._restricted(segment, matching)).astype(np.int32)
        return self._top(segment, documents, scored[documents].astype(np.float32), k)

    def _top(
        self, segment: int, documents: NDArray[np.int32], scores: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        if len(scores) > k:
            keep = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            documents, scores = documents[keep], scores[keep]
        order = np.lexsort((self._search.id_ranks[segment][documents], -scores))[:k]
        return scores[order], documents[order]

    def _restricted(self, segment: int, matching: NDArray[np.bool_]) -> NDArray[np.bool_]:
        live = self._readers[segment].live
        if live is not None:
            matching = matching & live
        return matching if self._allowed is None else matching & self._allowed[segment]

    def _holding(self, segment: int, terms: Iterable[FieldTerm]) -> NDArray[np.bool_]:
        """Return (N,) the documents that hold any of the terms."""
        holding = np.zeros(self._readers[segment].documents, np.bool_)
        for key in terms:
            entry = self._known.get(key)
            if entry is not None and entry.numbers[segment] >= 0:
                reader = self._search.bm25.parts[key[0]].readers[segment]
                holding[reader.documents_of(entry.numbers[segment])] = True
        return holding

    def _matching(self, part: Part, segment: int, unread: bool = False) -> NDArray[np.bool_]:
        """Return (N,) the documents that match; those not read match a phrase if `unread`, and exclusion turns it."""
        if isinstance(part, Term):
            return self._holding(segment, _terms(part))
        if isinstance(part, AnyOf):
            return self._holding(segment, _terms(part))
        if isinstance(part, Words):
            occurrences = self._phrases[part.field, part.terms, part.slop][segment]
            return occurrences.possible() if unread else occurrences.certain()
        if part.must:
            matching = self._matching(part.must[0], segment, unread)
            for child in part.must[1:]:
                matching &= self._matching(child, segment, unread)
        else:
            matching = self._holding(segment, _direct(part.should))
            for child in part.should:
                if not isinstance(child, Term):
                    matching |= self._matching(child, segment, unread)
        return self._without(part.must_not, segment, matching, unread)

    def _without(
        self, parts: Sequence[Part], segment: int, matching: NDArray[np.bool_], unread: bool
    ) -> NDArray[np.bool_]:
        excluded = self._holding(segment, _direct(parts))
        for part in parts:
            if not isinstance(part, Term):
                excluded |= self._matching(part, segment, not unread)
        return matching & ~excluded

    def _scored(self, part: Part, segment: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return (N,) the documents that match, and their scores, 0 elsewhere. A new pair each time."""
        if not isinstance(part, Level):
            matching = self._matching(part, segment)
            if isinstance(part, AnyOf):
                return matching, np.where(matching, part.weight, 0.0)
            if isinstance(part, Words):
                documents, of_phrase = self._phrase_scores(part, segment)
                scores = np.zeros(len(matching))
                scores[documents] = of_phrase
                return matching, scores
            return matching, self._term_scores(segment, [part])
        scores = self._term_scores(segment, [c for c in (*part.must, *part.should) if isinstance(c, Term)])
        required: list[NDArray[np.bool_]] = []
        optional = [self._holding(segment, _direct(part.should))]
        for matches, children in ((required, part.must), (optional, part.should)):
            for child in children:
                if isinstance(child, Term):
                    if matches is required:
                        matches.append(self._matching(child, segment))
                    continue
                child_matching, child_scores = self._scored(child, segment)
                matches.append(child_matching)
                scores += child_scores
        together: NDArray[np.bool_] = np.logical_and.reduce(required) if required else np.logical_or.reduce(optional)
        matching = self._without(part.must_not, segment, together, unread=False)
        scores[~matching] = 0
        return matching, scores

    def _term_scores(self, segment: int, terms: Sequence[Term]) -> NDArray[np.float64]:
        weights: dict[FieldTerm, float] = {}
        for part in terms:
            key = part.field, part.term
            if key in self._known:
                weights[key] = weights.get(key, 0.0) + part.weight
        if not weights:
            return np.zeros(self._readers[segment].documents)
        known = {key: self._known[key] for key in weights}
        return self._search.bm25.score_all(segment, known, weights).astype(np.float64)

    def _phrase_scores(self, part: Words, segment: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the documents that hold a phrase, ascending, and their scores."""
        occurrences = self._phrases[part.field, part.terms, part.slop][segment]
        documents, frequencies = occurrences.documents, occurrences.frequencies
        if len(documents) == 0:
            return documents, frequencies
        bm25 = self._search.bm25.parts[part.field]
        weight = np.float32(part.weight) * np.float32(sum(float(self._known[key].idf) for key in _terms(part)))
        inverse = bm25.inverse[0, bm25.readers[segment].frequencies.length_bytes[documents]]
        return documents, weight - weight / (np.float32(1) + frequencies * inverse)

    def _lone_phrase(self) -> Words | None:
        """Return the phrase that the query consists of, or None when there is more to it."""
        root = self.plan.root
        parts = (*root.must, *root.should)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], Words) and not root.must_not else None

    def _read_phrases(self) -> None:
        """Find where each phrase occurs, among the documents that would match if all phrases did."""
        phrases = {(part.field, part.terms, part.slop): part for part in _words(self.plan.root)}
        if not phrases:
            return
        bm25 = self._search.bm25
        for phrase in phrases:
            found = bm25.parts[phrase[0]].holding_all(list(dict.fromkeys(phrase[1])), self._allowed)
            self._phrases[phrase] = [
                _Occurrences(reader.documents, documents)
                for reader, documents in zip(self._readers, found, strict=True)
            ]
        if self._search.has_positions:
            self._read_positions()
        else:
            self._read_texts(phrases)

    def _candidates(self, segment: int) -> NDArray[np.bool_]:
        """Return (N,) the documents that match if all phrases that they may hold are there."""
        possible = np.logical_or.reduce([found[segment].possible() for found in self._phrases.values()])
        return self._restricted(segment, possible & self._matching(self.plan.root, segment, unread=True))

    def _read_positions(self) -> None:
        for segment in range(len(self._readers)):
            candidates = None if self._lone_phrase() else self._candidates(segment)
            for phrase, found in self._phrases.items():
                documents = found[segment].holding
                if candidates is not None:
                    documents = documents[candidates[documents]]
                if len(documents):
                    found[segment].note(documents, self._phrase_frequencies(phrase, segment, documents))

    def _phrase_frequencies(self, phrase: _Phrase, segment: int, documents: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return (C,) how often a phrase is in each of the documents, which hold all of its terms."""
        field, words, slop = phrase
        bm25 = self._search.bm25.parts[field]
        reader = bm25.readers[segment]
        assert reader.positions is not None
        terms = list(dict.fromkeys(words))
        numbers = {word: number for number, word in enumerate(terms)}
        of_words, same = [numbers[word] for word in words], _same(words)
        size = max(1, MAX_ENTRIES // len(words))
        frequencies = []
        for start in range(0, len(documents), size):
            entries = bm25.entries(terms, segment, documents[start : start + size])
            codes = reader.postings.codes
            frequencies.append(phrase_frequencies(codes, reader.positions, entries[of_words], same, slop))
        return np.concatenate(frequencies)

    def _read_texts(self, phrases: Mapping[_Phrase, Words]) -> None:
        candidates = [self._candidates(segment) for segment in range(len(self._readers))]
        chosen = [np.flatnonzero(mask).astype(np.int32) for mask in candidates]
        if sum(map(len, chosen)) > MAX_PHRASE_DOCUMENTS:
            self.exact = False
            weights = Counter(key for part in phrases.values() for key in _terms(part) if key in self._known)
            found = self._search.bm25.search(weights, MAX_PHRASE_DOCUMENTS, candidates) or []
            scores = np.concatenate([scores for scores, _ in found])
            best = np.zeros(len(scores), np.bool_)
            best[np.argsort(-scores, kind="stable")[:MAX_PHRASE_DOCUMENTS]] = True
            ends = np.cumsum([len(documents) for _, documents in found])[:-1]
            chosen = [np.sort(f[1][b]) for f, b in zip(found, np.split(best, ends), strict=True)]
        for segment, documents in enumerate(chosen):
            for start in range(0, len(documents), PHRASE_BATCH):
                self._read(segment, documents[start : start + PHRASE_BATCH])

    def _read(self, segment: int, documents: NDArray[np.int32]) -> None:
        read = self._search.read_terms(segment, documents, list({field for field, _, _ in self._phrases}))
        for field, of_field in read.items():
            found = {phrase: places[segment] for phrase, places in self._phrases.items() if phrase[0] == field}
            wanted = {term for _, terms, _ in found for term in terms}
            places = [_positions(terms, wanted) for terms in of_field]
            for (_, words, slop), occurrences in found.items():
                holding = np.flatnonzero(np.isin(documents, occurrences.holding))
                frequencies = [phrase_frequency(words, places[i], slop) for i in holding.tolist()]
                occurrences.note(documents[holding], np.array(frequencies, np.float64))


class _Occurrences:
    """Where one phrase occurs in one segment.

    holding      the documents that hold all of its terms and are live and allowed, ascending
    documents    of those that were read, the ones that hold the phrase, ascending
    frequencies  of the phrase in them
    """

    def __init__(self, size: int, holding: NDArray[np.int32]) -> None:
        self._size = size
        self.holding = holding
        self.documents = np.zeros(0, np.int32)
        self.frequencies = np.zeros(0, np.float32)
        self._without = np.zeros(0, np.int32)

    def note(self, documents: NDArray[np.int32], frequencies: NDArray[np.float64]) -> None:
        """Add what was read of documents; those of later calls are higher."""
        found = frequencies > 0
        self.documents = np.append(self.documents, documents[found])
        self.frequencies = np.append(self.frequencies, frequencies[found].astype(np.float32))
        self._without = np.append(self._without, documents[~found])

    def certain(self) -> NDArray[np.bool_]:
        """Return (N,) the documents that hold it."""
        mask = np.zeros(self._size, np.bool_)
        mask[self.documents] = True
        return mask

    def possible(self) -> NDArray[np.bool_]:
        """Return (N,) the documents that hold it or may hold it, since they were not read."""
        mask = np.zeros(self._size, np.bool_)
        mask[self.holding] = True
        mask[self._without] = False
        return mask


def _terms(part: Part, excluded: bool = True) -> Iterator[FieldTerm]:
    """Yield the terms of a part in their fields, with or without those under an exclusion."""
    if isinstance(part, Term):
        yield part.field, part.term
    elif isinstance(part, AnyOf | Words):
        yield from ((part.field, term) for term in part.terms)
    else:
        for child in (*part.must, *part.should, *(part.must_not if excluded else ())):
            yield from _terms(child, excluded)


def _direct(parts: Iterable[Part]) -> list[FieldTerm]:
    """Return those of the parts that are mere terms."""
    return [(part.field, part.term) for part in parts if isinstance(part, Term)]


def _words(part: Part) -> Iterator[Words]:
    if isinstance(part, Words):
        yield part
    elif isinstance(part, Level):
        for child in (*part.must, *part.should, *part.must_not):
            yield from _words(child)


def _positions(terms: Sequence[str], wanted: set[str]) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, term in enumerate(terms):
        if term in wanted:
            positions.setdefault(term, []).append(position)
    return positions


def phrase_frequency(words: Sequence[str], positions: Mapping[str, Sequence[int]], slop: int) -> float:
    """Return how often a phrase occurs in a document, given the ascending positions of each term there.

    What that means is in `kernels.positions.reference.phrase_reference`.
    """
    counts = Counter(words)
    if any(len(positions.get(word, ())) < count for word, count in counts.items()):
        return 0.0
    places = np.concatenate([np.array(positions[word], np.int64) for word in words])
    starts = np.cumsum([0, *(len(positions[word]) for word in words)])
    if slop == 0:
        return float(exact_frequency(places, starts))
    return float(sloppy_frequency(places, starts, _same(words), slop))


def _same(words: Sequence[str]) -> NDArray[np.int64]:
    """Return (W,) for each word the number of the first that is like it."""
    firsts: dict[str, int] = {}
    return np.array([firsts.setdefault(word, number) for number, word in enumerate(words)], np.int64)
