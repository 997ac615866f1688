"""The layout of impact postings and the search over it, against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.impact import (
    Segments,
    candidates,
    lay_out,
    locate,
    posting_counts,
    posting_sizes,
    require_sound,
    unfold,
)
from kernels.impact.postings import BLOCK, DENSE_DISTANCE, DENSE_KIND, SPARSE_KIND, TINY
from kernels.impact.reference import best_documents, impact_reference

CODES = np.arange(256) / 255


def random_plain(generator, size, counts):
    """Return (offsets, documents, codes) of terms with about so many postings."""
    lists = []
    for count in counts:
        count = max(1, min(count, size))
        lists.append(np.sort(generator.choice(size, count, replace=False)).astype(np.int32))
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(found) for found in lists], out=offsets[1:])
    documents = np.concatenate([np.zeros(0, np.int32), *lists])
    # Squared, as in real collections: most impacts are small.
    codes = (1 + 254 * generator.random(len(documents)) ** 2).astype(np.uint8)
    return offsets, documents, codes


def positions_of(postings, terms, documents, segments=None):
    """Return (T, C) where the codes of documents of one segment are, or -1."""
    segments = np.zeros(len(documents), np.int32) if segments is None else segments
    positions = np.empty((len(terms), len(documents)), np.int64)
    table, slots = Segments([postings]).table[:, None], np.zeros(BLOCK, np.uint16)
    locate(table, np.zeros(len(terms), np.int64), np.array([terms]), segments, documents, positions, slots)
    assert not slots.any()
    return positions


def of_terms(plain, terms):
    offsets, documents, codes = plain
    return [(documents[offsets[t] : offsets[t + 1]], CODES[codes[offsets[t] : offsets[t + 1]]]) for t in terms]


def search(parts, terms, weights, k, live=None, allowed=None):
    segments = Segments(parts, live)
    table, masks = segments.restricted(allowed)
    upper = np.tile(CODES, (len(parts), 1, 1))
    found = candidates(table[:, None], np.zeros(len(weights), np.int64), terms, weights, upper, upper, k)
    del masks
    return found


# Sizes around the borders of groups, checkpoints, bridges and blocks; counts that give every form of list.
SIZES = [1, 17, 64, 65, 255, 257, 1000, 5000, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 300]


@pytest.mark.parametrize("size", SIZES)
def test_laying_out_and_unfolding(size):
    generator = np.random.default_rng(size)
    counts = [1, 2, TINY, TINY + 1, size // DENSE_DISTANCE, size // DENSE_DISTANCE + 1, size // 3, size] * 20
    plain = random_plain(generator, size, counts)
    postings = lay_out(*plain, size)
    assert posting_counts(postings).tolist() == np.diff(plain[0]).tolist()
    for first, last in [(0, None), (0, 1), (63, 66), (64, 65), (100, 160)]:
        offsets, documents, codes = unfold(postings, first, last)
        start, end = plain[0][first], plain[0][len(counts) if last is None else last]
        assert documents.tolist() == plain[1][start:end].tolist()
        assert codes.tolist() == plain[2][start:end].tolist()
        assert offsets[-1] == end - start
    if size > 5000:
        assert {SPARSE_KIND, DENSE_KIND} <= set(postings.kinds.tolist())


def test_distances_beyond_a_byte_are_bridged():
    size = 3 * BLOCK
    documents = np.cumsum([0, *[1, 255, 256, 510, 511, 40_000, 7] * 4, *[1] * 2000]).astype(np.int32)
    documents = documents[documents < size]
    plain = np.array([0, len(documents)]), documents, np.full(len(documents), 9, np.uint8)
    postings = lay_out(*plain, size)
    assert postings.kinds.tolist() == [DENSE_KIND]
    assert unfold(postings)[1].tolist() == documents.tolist()
    positions = positions_of(postings, [0], documents)
    assert (postings.codes[positions[0]] == 9).all()
    assert len(set(positions[0].tolist())) == len(documents)


def test_a_term_without_postings_or_a_code_of_zero_is_refused():
    with pytest.raises(ValueError, match="without postings"):
        lay_out(np.array([0, 0]), np.zeros(0, np.int32), np.zeros(0, np.uint8), 5)
    with pytest.raises(ValueError, match="from 1 to 255"):
        lay_out(np.array([0, 1]), np.zeros(1, np.int32), np.zeros(1, np.uint8), 5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_candidates_hold_the_best(size, k):
    generator = np.random.default_rng([size, k])
    counts = [1, 5, 16, 17, 200, size // 300, size // 100, size // 20, size // 4, size // 2, size]
    plain = random_plain(generator, size, counts)
    postings = lay_out(*plain, size)
    for terms in ([10], [0, 1], [2, 5, 6], [3, 7, 8, 9], list(range(11))):
        weights = generator.random(len(terms)) * 5 + 0.01
        scores = impact_reference(of_terms(plain, terms), weights, size)
        _, found = search([postings], np.array([terms]), weights, k)
        assert len(set(found.tolist())) == len(found)
        assert set(best_documents(scores, k).tolist()) <= set(found.tolist())
        assert (scores[found] > 0).all()


def test_few_more_candidates_than_asked_for():
    generator = np.random.default_rng(3)
    size = 2 * BLOCK
    plain = random_plain(generator, size, [3000, 9000, 20_000, 50_000])
    _, found = search([lay_out(*plain, size)], np.array([[0, 1, 2, 3]]), np.array([4.0, 3.0, 2.0, 1.0]), 100)
    assert 100 <= len(found) <= 300


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_several_segments_with_deletions_and_filters(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.sampled_from([1, 40, 300, 3000]), min_size=1, max_size=4))
    k = data.draw(st.sampled_from([1, 3, 50]))
    terms = data.draw(st.integers(1, 6))
    filtered, deleted = data.draw(st.booleans()), data.draw(st.booleans())
    weights = generator.random(terms) * 3 + 0.001
    plains = [random_plain(generator, size, generator.integers(1, size + 1, terms)) for size in sizes]
    # A term may be absent from a segment.
    numbers = np.where(generator.random((len(sizes), terms)) < 0.2, -1, np.arange(terms))
    masks = [generator.random(size) < data.draw(st.sampled_from([0.0, 0.02, 0.5])) for size in sizes]
    live = [None if generator.random() < 0.3 else generator.random(size) < 0.7 for size in sizes]
    every = []
    for s, (size, plain) in enumerate(zip(sizes, plains, strict=True)):
        here = [t for t in range(terms) if numbers[s, t] >= 0]
        scores = impact_reference(of_terms(plain, here), weights[here], size)
        if filtered:
            scores[~masks[s]] = 0
        if deleted and live[s] is not None:
            scores[~live[s]] = 0
        every.append(scores)
    found_segments, found = search(
        [lay_out(*plain, size) for plain, size in zip(plains, sizes, strict=True)],
        numbers,
        weights,
        k,
        live if deleted else None,
        masks if filtered else None,
    )
    pairs = set(zip(found_segments.tolist(), found.tolist(), strict=True))
    assert len(pairs) == len(found)
    starts = np.cumsum([0, *sizes])
    best = best_documents(np.concatenate(every), k)
    owners = np.searchsorted(starts, best, side="right") - 1
    expected = set(zip(owners.tolist(), (best - starts[owners]).tolist(), strict=True))
    assert expected <= pairs
    assert all(every[s][d] > 0 for s, d in pairs)


def test_a_segment_of_loose_codes_does_not_loosen_the_others():
    # As after adding a few documents of another length: their codes stand for a wide range of values.
    generator = np.random.default_rng(4)
    sizes = [BLOCK, 20]
    plains = [random_plain(generator, size, [size // 20, size // 5, size // 2]) for size in sizes]
    weights = np.array([3.0, 2.0, 1.0])
    segments = Segments([lay_out(*plain, size) for plain, size in zip(plains, sizes, strict=True)])
    uppers, lowers = np.stack([CODES, np.minimum(1.0, 1.6 * CODES)]), np.stack([CODES, 0.5 * CODES])
    found_segments, found = candidates(
        segments.table[:, None], np.zeros(3, np.int64), np.tile(np.arange(3), (2, 1)), weights,
        uppers[:, None], lowers[:, None], 10,
    )  # fmt: skip
    scores = impact_reference(of_terms(plains[0], range(3)), weights, BLOCK)
    assert set(best_documents(scores, 10).tolist()) <= set(found[found_segments == 0].tolist())
    assert len(found) < 10 + 20 + 30


def test_the_best_in_the_last_block_are_found_though_the_first_blocks_promise_more():
    # The first block alone holds k good documents, so little is expected of the rest; all the best are there.
    size = 3 * BLOCK
    documents = np.concatenate([np.arange(2000), 2 * BLOCK + np.arange(2000)]).astype(np.int32)
    codes = np.concatenate([np.full(2000, 100), np.full(2000, 200)]).astype(np.uint8)
    order = (np.array([0, 4000]), documents, codes)
    _, found = search([lay_out(*order, size)], np.array([[0]]), np.ones(1), 10)
    assert set(found.tolist()) == set((2 * BLOCK + np.arange(2000)).tolist())
    # The other way round the expectation after the first block is too high for the second.
    codes = codes[::-1].copy()
    codes[:5] = 255
    _, found = search([lay_out(order[0], documents, codes, size)], np.array([[0]]), np.ones(1), 2500)
    assert len(found) == 4000


def test_weights_far_apart_and_many_terms():
    generator = np.random.default_rng(0)
    plain = random_plain(generator, 400, generator.integers(1, 400, 300))
    terms = np.arange(300)
    for weights in (np.geomspace(1e-6, 1e6, 300), np.ones(300)):
        scores = impact_reference(of_terms(plain, terms), weights, 400)
        _, found = search([lay_out(*plain, 400)], terms[None], weights, 20)
        assert set(best_documents(scores, 20).tolist()) <= set(found.tolist())


def test_places_and_sizes_of_postings():
    generator = np.random.default_rng(1)
    size = BLOCK + 5000
    plain = random_plain(generator, size, [3, 100, 20_000] * 30)
    postings = lay_out(*plain, size)
    table = Segments([postings]).table
    terms = np.array([[0, 1, 2, -1, 88, 89]])
    counts = np.zeros(terms.shape, np.int64)
    posting_sizes(table, terms, counts)
    assert counts.tolist() == [[3, 100, 20_000, 0, 100, 20_000]]
    offsets, documents, codes = plain
    # All documents, for which the lists are gone through; few, which are looked for; some, for which it is both.
    for share in (1, 0.0001, 0.02):
        asked = np.flatnonzero(generator.random(size) <= share).astype(np.int32)
        positions = positions_of(postings, terms[0], asked)
        for row, term in enumerate(terms[0]):
            expected = np.zeros(size, np.int64)
            if term >= 0:
                expected[documents[offsets[term] : offsets[term + 1]]] = codes[offsets[term] : offsets[term + 1]]
            got = np.where(positions[row] >= 0, postings.codes[positions[row]], 0)
            assert got.tolist() == expected[asked].tolist()


def test_refusals_and_nothing_to_search():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        search([lay_out(*random_plain(np.random.default_rng(0), 5, [3]), 5)], np.array([[0]]), np.ones(1), 0)
    empty = lay_out(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8), 0)
    assert len(search([empty], np.array([[-1]]), np.ones(1), 5)[1]) == 0
    assert len(search([], np.zeros((0, 1), np.int64), np.ones(1), 5)[1]) == 0
    with pytest.raises(ValueError, match="a mask has shape"):
        Segments([empty]).restricted([np.ones(3, np.bool_)])


@pytest.mark.parametrize("seed", range(8))
def test_lists_of_every_form_are_looked_up_rightly_when_they_are_weak(seed):
    # Terms of little weight, rare ones too, are only looked up; together they decide which of the best are best.
    generator = np.random.default_rng(seed)
    size = BLOCK + 20_000
    strong = random_plain(generator, size, [9000, 30_000, 60_000])
    leading = np.argsort(impact_reference(of_terms(strong, range(3)), np.array([5.0, 4.0, 3.0]), size))[-300:]
    lists = [np.sort(generator.choice(leading, 8, replace=False)) for _ in range(150)]
    lists += [np.sort(generator.choice(size, 1500, replace=False)) for _ in range(10)]
    offsets = np.concatenate([np.cumsum([0, *map(len, lists)])[:-1], strong[0] + sum(map(len, lists))])
    documents = np.concatenate([*lists, strong[1]]).astype(np.int32)
    codes = np.concatenate([np.full(sum(map(len, lists)), 255, np.uint8), strong[2]])
    plain = offsets, documents, codes
    postings = lay_out(*plain, size)
    terms = np.arange(163)
    weights = np.array([*[0.04] * 160, 5.0, 4.0, 3.0])
    scores = impact_reference(of_terms(plain, terms), weights, size)
    for k in (1, 10, 100):
        _, found = search([postings], terms[None], weights, k)
        assert set(best_documents(scores, k).tolist()) <= set(found.tolist())


def test_arrays_that_do_not_fit_together_are_refused():
    generator = np.random.default_rng(0)
    size = BLOCK + 3000
    sound = lay_out(*random_plain(generator, size, [3, 100, 20_000] * 30), size)
    require_sound(sound)

    def damage(name, change):
        content = getattr(sound, name).copy()
        return sound._replace(**{name: change(content)})

    def first(value):
        def change(content):
            content.reshape(-1)[0] = value
            return content

        return change

    damaged = {
        "kinds": [first(0), first(99), first(18), lambda content: content[1:]],
        "groups": [first(7), lambda content: content[:-1]],
        "codes": [lambda content: content[:-1]],
        "tiny_documents": [first(size), lambda content: content[:-1]],
        "sparse_starts": [first(5), lambda content: content + 1],
        "sparse_counts": [first(60_000), lambda content: content[:, :1]],
        "sparse_bounds": [lambda content: content[:-1]],
        "sparse_documents": [lambda content: content[:-1]],
        "dense_starts": [lambda content: content - 1],
        "dense_counts": [first(33), lambda content: content[:-1]],
        "dense_distances": [lambda content: content[:-32]],
        "dense_sizes": [lambda content: content[:-1]],
        "checkpoints": [lambda content: content[:-1]],
        "documents": [first(-1), first(10), first(2**40)],
    }
    for name, changes in damaged.items():
        for change in changes:
            with pytest.raises(ValueError, match=r"."):
                require_sound(damage(name, change))


def test_damage_within_the_lists_never_leads_outside():
    # What no cheap check can see: wrong places, codes, bounds. The answer is wrong, the process is not.
    generator = np.random.default_rng(0)
    size = BLOCK + 10
    sound = lay_out(*random_plain(generator, size, [5, 200, 30_000, 60_000]), size)
    for seed in range(20):
        noise = np.random.default_rng(seed)
        parts = {
            name: noise.integers(0, np.iinfo(array.dtype).max, array.shape, array.dtype, endpoint=True)
            for name, array in sound._asdict().items()
            if name in ("codes", "sparse_documents", "sparse_bounds", "dense_bounds", "dense_distances", "checkpoints")
        }
        noisy = sound._replace(**parts)
        require_sound(noisy)
        found_segments, found = search([noisy], np.array([[0, 1, 2, 3]]), np.array([1.0, 2.0, 0.5, 0.1]), 50)
        assert (found >= 0).all()
        assert (found < 2 * BLOCK).all()
        positions = positions_of(noisy, [0, 1, 2, 3], found, found_segments)
        assert (positions < len(noisy.codes)).all()
        assert len(unfold(noisy)[1]) == len(unfold(sound)[1])
