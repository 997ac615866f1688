"""The choice among mined candidates, by setting."""

import numpy as np
import pytest

from tests.training.tasks import settings_of
from training.candidates import Candidates
from training.choice_settings import ChoiceSettings, mined_negatives
from training.mined import Mined

# Of one query: documents 0 to 4, the relevant one scores .55.
FOUND = Mined(
    Candidates(np.array([0, 5]), np.arange(5, dtype=np.int32), np.array([0.9, 0.7, 0.5, 0.3, 0.1], np.float32)),
    np.array([0.55], np.float32),
)


def shares(settings, **options):
    """Return how often each document is drawn as the only negative."""
    sampler, generator = mined_negatives(FOUND, settings, **options), np.random.default_rng(0)
    drawn = np.concatenate([sampler(0, 1, generator) for _ in range(2000)])
    return np.bincount(drawn, minlength=5) / 2000


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        (ChoiceSettings(), np.ones(5)),
        (ChoiceSettings(by="softmax", temperature=0.2), np.exp(np.array([0.9, 0.7, 0.5, 0.3, 0.1]) / 0.2)),
        # SimANS: around the positive's score, shifted by b.
        (ChoiceSettings(by="gaussian", a=20.0), np.exp(-20 * np.array([0.35, 0.15, 0.05, 0.25, 0.45]) ** 2)),
        (ChoiceSettings(by="gaussian", a=20.0, b=0.25), np.exp(-20 * np.array([0.1, 0.1, 0.3, 0.5, 0.7]) ** 2)),
    ],
)
def test_documents_are_drawn_as_often_as_the_formula_says(settings, weights):
    np.testing.assert_allclose(shares(settings), weights / weights.sum(), atol=0.04)


def test_likely_relevant_ones_are_left_out_before_the_choice():
    drawn = shares(ChoiceSettings(by="softmax", temperature=100.0), ratio=0.95)
    assert drawn[:2].tolist() == [0, 0]
    assert (drawn[2:] > 0.28).all()


@pytest.mark.parametrize("name", ["contrastive", "star", "ance", "ar2", "bpr", "genq"])
def test_recipes_that_mine_take_it(name):
    settings = settings_of(name, "choose.by=gaussian", "choose.a=300")
    assert settings.choose.by == "gaussian"
    assert settings.choose.a == 300
