"""Orders from comparisons: known counts, perfect and odd judges, stops on the way."""

import itertools
import random

import pytest

from retriever.llm.orders import all_pairs, heap, sliding
from retriever.llm.usage import OutOfTime


class Perfect:
    """Prefers larger values; counts what it is asked, and stops after `most` comparisons."""

    def __init__(self, values, most=None):
        self.values = values
        self.asked = []
        self.most = most

    def __call__(self, pairs):
        if self.most is not None and len(self.asked) + len(pairs) > self.most:
            raise OutOfTime
        self.asked += pairs
        values = self.values
        return [0.5 + 0.5 * ((values[a] > values[b]) - (values[a] < values[b])) for a, b in pairs]


def truth(values):
    return sorted(range(len(values)), key=lambda place: (-values[place], place))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20])
def test_all_pairs_finds_the_order_with_every_comparison_once(count):
    values = random.Random(count).sample(range(1000), count)
    judge = Perfect(values)
    assert all_pairs(count, judge) == (truth(values), True)
    assert len(judge.asked) == count * (count - 1) // 2
    assert len({frozenset(pair) for pair in judge.asked}) == len(judge.asked)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 20])
@pytest.mark.parametrize("passes", [1, 2, 5])
def test_so_many_passes_bring_up_so_many_best(count, passes):
    values = random.Random(count).sample(range(1000), count)
    judge = Perfect(values)
    order, complete = sliding(count, judge, passes)
    assert complete
    assert sorted(order) == list(range(count))
    assert order[:passes] == truth(values)[:passes]
    assert len(judge.asked) == passes * max(count - 1, 0)


def plain_sliding(count, compare, passes):
    order = list(range(count))
    for _ in range(passes):
        for place in reversed(range(count - 1)):
            (result,) = compare([(order[place], order[place + 1])])
            if result < 0.5:
                order[place], order[place + 1] = order[place + 1], order[place]
    return order


@pytest.mark.parametrize("seed", range(20))
def test_passes_side_by_side_do_what_one_after_another_do(seed):
    """With a judge that contradicts itself in circles, where order of work would show."""
    draw = random.Random(seed)
    count = draw.randint(2, 12)
    verdicts = {pair: draw.choice([0.0, 0.5, 1.0]) for pair in itertools.permutations(range(count), 2)}

    def compare(pairs):
        return [verdicts[pair] for pair in pairs]

    for passes in (1, 2, 4, 13):
        assert sliding(count, compare, passes)[0] == plain_sliding(count, compare, passes)


def test_passes_side_by_side_share_calls():
    calls = []

    def compare(pairs):
        calls.append(len(pairs))
        places = [place for pair in pairs for place in pair]
        assert len(set(places)) == len(places)
        return [0.0] * len(pairs)

    sliding(20, compare, 5)
    assert sum(calls) == 5 * 19
    assert len(calls) == 19 + 2 * 4
    assert max(calls) == 5


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 33])
@pytest.mark.parametrize("best", [1, 5, 40])
def test_a_heap_fills_the_best_places(count, best):
    values = random.Random(count).sample(range(1000), count)
    judge = Perfect(values)
    order, complete = heap(count, judge, best)
    assert complete
    assert sorted(order) == list(range(count))
    assert order[:best] == truth(values)[:best]
    rest = order[best:]
    assert rest == sorted(rest)
    levels = max(count, 2).bit_length()
    assert len(judge.asked) <= 2 * count + 2 * min(best, count) * levels


def test_a_heap_asks_for_less_than_all_pairs():
    judge = Perfect(random.Random(1).sample(range(1000), 33))
    heap(33, judge, 10)
    assert len(judge.asked) < 33 * 32 // 2 / 2


def test_undecided_comparisons_leave_the_order():
    def undecided(pairs):
        return [0.5] * len(pairs)

    assert all_pairs(9, undecided)[0] == sliding(9, undecided, 3)[0] == heap(9, undecided, 9)[0] == list(range(9))


def test_equal_values_keep_their_order():
    values = [3, 5, 3, 5, 1, 5]
    assert all_pairs(6, Perfect(values))[0] == sliding(6, Perfect(values), 5)[0] == [1, 3, 5, 0, 2, 4]


def test_all_pairs_does_not_depend_on_the_order_before():
    """Which sliding does, once there are fewer passes than documents."""
    values = list(range(12))
    found = {"all": set(), "sliding": set()}
    for seed in range(6):
        shuffled = random.Random(seed).sample(values, 12)
        for name, rank in (("all", all_pairs), ("sliding", lambda n, c: sliding(n, c, 2))):
            order, _ = rank(12, Perfect(shuffled))
            found[name].add(tuple(shuffled[place] for place in order))
    assert len(found["all"]) == 1
    assert len(found["sliding"]) > 1
    assert {order[:2] for order in found["sliding"]} == {(11, 10)}


def test_a_stop_leaves_what_was_found():
    values = list(range(10))
    assert all_pairs(10, Perfect(values, most=44)) == (list(range(10)), False)
    # Five steps from the bottom carried the last one up by five.
    assert sliding(10, Perfect(values, most=5), 1) == ([0, 1, 2, 3, 9, 4, 5, 6, 7, 8], False)
    judge = Perfect(values, most=30)
    order, complete = heap(10, judge, 10)
    assert not complete
    assert sorted(order) == values
    assert order[:2] == [9, 8]
