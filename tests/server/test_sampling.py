"""A share of items, looked at in the background."""

import threading

import pytest

from server.sampling import WAITING, Sampler


@pytest.mark.parametrize(("fraction", "taken"), [(1.0, 100), (0.5, 50), (0.1, 10), (0.013, 1)])
def test_the_share_is_taken(fraction: float, taken: int) -> None:
    sampler: Sampler[int] = Sampler("test", lambda item: None, fraction)
    assert sum(sampler.due() for _ in range(100)) == taken
    sampler.close()


def test_what_fails_is_counted_and_the_rest_is_done() -> None:
    done: list[int] = []
    ready = threading.Event()

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("one")
        done.append(item)
        if item == 2:
            ready.set()

    sampler: Sampler[int] = Sampler("test", work, 1.0)
    for item in range(3):
        sampler.put(item)
    assert ready.wait(10)
    assert (done, sampler.failed, sampler.error) == ([0, 2], 1, "ValueError: one")
    sampler.close()


def test_slow_work_drops_items_and_does_not_wait() -> None:
    go = threading.Event()
    entered = threading.Event()

    def work(item: int) -> None:
        entered.set()
        assert go.wait(10)

    sampler: Sampler[int] = Sampler("test", work, 1.0)
    sampler.put(0)
    assert entered.wait(10)
    for item in range(WAITING + 5):
        sampler.put(item)
    assert sampler.dropped == 5
    closing = threading.Thread(target=sampler.close)
    closing.start()
    go.set()
    closing.join(10)
    assert not closing.is_alive()
