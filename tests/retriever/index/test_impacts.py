"""The learned sparse part: searching against the definition, rounding, getting back what was written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.index.impacts import MOST_TERMS, ImpactReader, Impacts, count_clipped, write_impacts
from retriever.index.plain import PLAIN_IMPACTS, PlainPostings, plain_weights

STEP = 1 / 64


def random_documents(generator, documents, terms):
    return [
        {f"t{int(t)}": float(w) for t, w in zip(chosen, generator.gamma(2.0, 0.4, len(chosen)) + 1e-3, strict=True)}
        for chosen in (
            generator.choice(terms, generator.integers(0, min(terms, 40)), replace=False) for _ in range(documents)
        )
    ]


def open_part(folder, documents, precision, live=None):
    folder.mkdir()
    write_impacts(plain_weights(documents), folder, STEP, precision)
    return ImpactReader(folder, STEP, live)


def stored(weight, precision):
    """What remains of a weight."""
    if precision == "float32":
        return float(np.float32(weight))
    return min(255, max(1, round(float(np.float32(weight)) / STEP))) * STEP


@pytest.mark.parametrize("precision", ["uint8", "float32"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_the_definition(tmp_path_factory, precision, data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    sizes = data.draw(st.lists(st.sampled_from([1, 50, 700]), min_size=1, max_size=3))
    terms, k = data.draw(st.sampled_from([3, 300])), data.draw(st.sampled_from([1, 10, 200]))
    filtered = data.draw(st.booleans())
    folder = tmp_path_factory.mktemp("impacts")
    parts = [random_documents(generator, size, terms) for size in sizes]
    live = [generator.random(size) < 0.8 if generator.random() < 0.5 else None for size in sizes]
    masks = [generator.random(size) < 0.3 for size in sizes] if filtered else None
    readers = [
        open_part(folder / str(i), documents, precision, alive)
        for i, (documents, alive) in enumerate(zip(parts, live, strict=True))
    ]
    ranks = [generator.permutation(size).astype(np.int32) for size in sizes]
    query = {f"t{int(t)}": float(w) for t, w in enumerate(generator.gamma(2.0, 0.5, terms + 3) + 1e-3)}
    if terms > 3:
        query = dict(list(query.items())[:25])
    expected = []
    for s, documents in enumerate(parts):
        for d, weights in enumerate(documents):
            score = np.float32(sum(query[t] * stored(w, precision) for t, w in weights.items() if t in query))
            alive = live[s] is None or live[s][d]
            if score > 0 and alive and (masks is None or masks[s][d]):
                expected.append((s, d, score))
    got = [
        (s, int(d), score)
        for s, (scores, found) in enumerate(Impacts(readers, ranks, STEP).search(query, k, masks))
        for score, d in zip(scores, found, strict=True)
    ]
    scores = {(s, d): score for s, d, score in expected}
    for s, d, score in got:
        np.testing.assert_allclose(score, scores[s, d], rtol=1e-5)
    best = sorted(scores.values(), reverse=True)[:k]
    np.testing.assert_allclose(sorted((score for _, _, score in got), reverse=True)[: len(best)], best, rtol=1e-5)
    for s, (scores_, found) in enumerate(Impacts(readers, ranks, STEP).search(query, k, masks)):
        order = list(zip((-scores_).tolist(), ranks[s][found].tolist(), strict=True))
        assert order == sorted(order)


@pytest.mark.parametrize("precision", ["uint8", "float32"])
def test_what_is_written_can_be_had_back(tmp_path, precision):
    documents = random_documents(np.random.default_rng(0), 3000, 500)
    plain = plain_weights(documents)
    reader = open_part(tmp_path / "a", documents, precision)
    back = reader.plain()
    assert list(back.terms) == list(plain.terms)
    assert back.documents.tolist() == plain.documents.tolist()
    assert back.lengths.tolist() == [len(weights) for weights in documents]
    np.testing.assert_array_equal(back.values, [np.float32(stored(w, precision)) for w in plain.values])
    assert list(reader.problems()) == []
    plain.write(tmp_path, PLAIN_IMPACTS)
    assert PlainPostings.read(tmp_path, PLAIN_IMPACTS).values.tolist() == plain.values.tolist()


def test_weights_beyond_the_last_level(tmp_path):
    documents = [{"a": 3.9}, {"a": 9.0}, {"a": 4.5}, {"a": 1e-9}]
    assert count_clipped(documents, STEP) == 2
    rank = [np.arange(4, dtype=np.int32)]
    ((exact, found),) = Impacts([open_part(tmp_path / "f", documents, "float32")], rank, STEP).search({"a": 2.0}, 4)
    assert found.tolist() == [1, 2, 0, 3]
    np.testing.assert_allclose(exact, [18, 9, 7.8, 2e-9], rtol=1e-6)
    ((rounded, found),) = Impacts([open_part(tmp_path / "u", documents, "uint8")], rank, STEP).search({"a": 2.0}, 4)
    # The two beyond it are equal; the smallest does not vanish.
    assert found.tolist() == [1, 2, 0, 3]
    assert rounded.tolist() == [2 * 255 * STEP] * 2 + [2 * 250 * STEP, 2 * STEP]


def test_more_terms_than_the_accumulators_bear(tmp_path):
    generator = np.random.default_rng(2)
    documents = [{f"t{i}": float(w) for i, w in enumerate(generator.random(MOST_TERMS + 50) + 0.1)} for _ in range(3)]
    index = Impacts([open_part(tmp_path / "a", documents, "float32")], [np.arange(3, dtype=np.int32)], STEP)
    query = {f"t{i}": 1.0 for i in range(MOST_TERMS + 50)}
    ((scores, found),) = index.search(query, 2, [np.array([True, False, True])])
    expected = sorted(((sum(documents[d].values()), d) for d in (0, 2)), reverse=True)
    assert found.tolist() == [d for _, d in expected]
    np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-5)


def test_nothing_to_find(tmp_path):
    index = Impacts([open_part(tmp_path / "a", [{}, {"x": 1.0}], "uint8")], [np.arange(2, dtype=np.int32)], STEP)
    for query in ({}, {"zebra": 1.0}):
        ((scores, found),) = index.search(query, 5)
        assert len(scores) == len(found) == 0
