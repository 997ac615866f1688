"""Pseudo-relevance feedback: the best documents of a first search lend the query terms for a second one.

RM3      Lavrenko and Croft 2001, "Relevance-based language models"; the mixture with the query by Abdul-Jaleel et
         al. 2004, "UMass at TREC 2004: novelty and HARD"
Rocchio  Rocchio 1971, "Relevance feedback in information retrieval"; weights as in Manning, Raghavan and Schütze
         2008, chapter 9

Both compute what Anserini's Rm3Reranker and RocchioReranker do when no document vectors are stored: the texts are
analysed again. Different here:

- Weights are those of Anserini times the norm of the query's counts (L1 in RM3, L2 in Rocchio), a constant of the
  query: the order is the same, and a query that nothing is added to keeps the very scores of BM25.
- Without any feedback term the query stays as it is.
- Arithmetic is float64 up to the weights, where Anserini rounds to float32 at each step, and its document frequencies
  count deleted documents that are not merged away yet; ours are of live documents.
- Rocchio's last documents are never among its first; Anserini takes both from one list, however short.
- Anserini's first search finds 50 documents, so it never learns from more; here it finds as many as are asked for.

benchmarks/feedback.py asks Anserini itself: docs/results/feedback.md.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

MIN_CHARACTERS, MAX_CHARACTERS = 2, 20
# A term in more than this share of the documents says little: Anserini's substitute for a list of stop words.
MAX_SHARE = 0.1
PLAIN = re.compile(r"[a-z0-9]+")
# What float32 could not tell from 0.
NOTHING = 1e-30


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How many of `documents` documents hold each term."""

    documents: int
    of: Mapping[str, int]


def rm3(
    query: Mapping[str, float],
    documents: Sequence[Mapping[str, int]],
    scores: Sequence[float],
    frequencies: Frequencies,
    *,
    terms: int = 10,
    original_weight: float = 0.5,
    filter_terms: bool = True,
) -> dict[str, float]:
    """Return the weight of each term of the second query, all above 0; the query's own terms come first.

    query            how often each term stands in the query
    documents        the counts of the terms of each feedback document, best first
    scores           of the feedback documents by the first search, not below 0
    frequencies      of all terms of `documents`
    terms            how many are kept of each document, most frequent first, and then of the relevance model
    original_weight  lambda in  lambda * P(w | query) + (1 - lambda) * P(w | relevance model)
    filter_terms     whether terms of other characters than a-z and 0-9 are left out

    P(w | relevance model) is the sum over documents of P(w | document) * score, scaled to sum 1; P(w | document) is
    the maximum-likelihood estimate over the terms that are kept. Ties go to the alphabetically first.
    """
    model: dict[str, float] = {}
    for counts, score in zip(documents, scores, strict=True):
        kept = _largest(_useful(counts, frequencies, plain=filter_terms), terms)
        length = sum(kept.values())
        for term, count in kept.items():
            model[term] = model.get(term, 0.0) + count / length * score
    model = _largest(model, terms)
    total = sum(model.values())
    if not total > 0:
        return dict(query)
    norm = sum(query.values())
    return _positive(
        (term, original_weight * query.get(term, 0) + (1 - original_weight) * norm * (model.get(term, 0.0) / total))
        for term in _union(query, model)
    )


def rocchio(
    query: Mapping[str, float],
    documents: Sequence[Mapping[str, int]],
    frequencies: Frequencies,
    *,
    last: Sequence[Mapping[str, int]] = (),
    terms: int = 10,
    alpha: float = 1.0,
    beta: float = 0.75,
    gamma: float = 0.15,
) -> dict[str, float]:
    """Return the weight of each term of the second query, all above 0; the query's own terms come first.

    query        how often each term stands in the query
    documents    the counts of the terms of each feedback document
    last         those of documents at the end of the first search's list, held to be not relevant
    frequencies  of all terms of `documents` and `last`
    terms        how many are kept of the mean of `documents`, and of that of `last`

    alpha * query + beta * mean(documents) - gamma * mean(last), where query, documents, and the means cut to `terms`
    are scaled to length 1. Ties go to the alphabetically first.
    """
    first, final = (_centroid(group, frequencies, terms) for group in (documents, last))
    norm = math.sqrt(sum(count * count for count in query.values()))
    weights = _positive(
        (term, alpha * query.get(term, 0) + norm * (beta * first.get(term, 0.0) - gamma * final.get(term, 0.0)))
        for term in _union(query, first)
    )
    return weights if (first or final) and weights else dict(query)


def _centroid(documents: Sequence[Mapping[str, int]], frequencies: Frequencies, terms: int) -> dict[str, float]:
    """Return the largest terms of the mean of the documents scaled to length 1, scaled to length 1 themselves."""
    mean: dict[str, float] = {}
    for counts in documents:
        kept = _useful(counts, frequencies, plain=False)
        length = math.sqrt(sum(count * count for count in kept.values()))
        for term, count in kept.items():
            mean[term] = mean.get(term, 0.0) + count / length / len(documents)
    mean = _largest(mean, terms)
    length = math.sqrt(sum(value * value for value in mean.values()))
    return {term: value / length for term, value in mean.items()}


def _useful(counts: Mapping[str, int], frequencies: Frequencies, *, plain: bool) -> dict[str, float]:
    return {
        term: count
        for term, count in counts.items()
        if MIN_CHARACTERS <= len(term) <= MAX_CHARACTERS
        and (not plain or PLAIN.fullmatch(term))
        and frequencies.of[term] <= MAX_SHARE * frequencies.documents
    }


def _largest(values: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:count])


def _union(query: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    return [*query, *(term for term in other if term not in query)]


def _positive(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    return {term: weight for term, weight in pairs if weight > NOTHING}
