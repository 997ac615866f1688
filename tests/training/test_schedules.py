"""Schedules by their arithmetic."""

import pytest

from retriever.errors import InvalidInput
from training.schedules import annealed, cluster_size, quadratic_ramp, root_growth


def test_quadratic_ramp() -> None:
    assert [quadratic_ramp(step, 4, 8.0) for step in range(6)] == [0.5, 2.0, 4.5, 8.0, 8.0, 8.0]
    with pytest.raises(InvalidInput, match="got 0"):
        quadratic_ramp(0, 0, 1.0)


def test_root_growth() -> None:
    assert root_growth(0) == 1
    assert root_growth(80) == 3


def test_annealed_is_a_straight_line_with_ends() -> None:
    assert annealed(0.05, 0.001, 0) == 0.05
    assert annealed(0.05, 0.001, 1) == pytest.approx(0.001)
    assert annealed(4, 2, 0.25) == 3.5
    assert annealed(4, 2, -1) == 4
    assert annealed(4, 2, 7) == 2


def test_clusters_double_at_given_epochs() -> None:
    at = {0: 1, 9: 1, 10: 2, 19: 2, 20: 4, 25: 8, 50: 16, 75: 32, 100: 64, 125: 128, 150: 256, 200: 512, 299: 512}
    assert {epoch: cluster_size(epoch) for epoch in at} == at
    assert [cluster_size(epoch, (1, 2)) for epoch in range(4)] == [1, 2, 4, 4]
    assert cluster_size(0, (0, 0, 3)) == 4
