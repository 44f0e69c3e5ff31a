"""Mass sculpting of cuts, counted by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skhep_nn.metrics import mass_sculpting
from tests.metrics.reference import distance_correlation_by_definition as by_definition


def test_sculpting_of_a_cut_counted_by_hand():
    y = ["s", "s", "b", "b", "b", "b"]
    score = [0.9, 0.4, 0.8, 0.5, 0.3, 0.1]
    mass = [1.5, 1.5, 1.5, 1.5, 0.5, 0.5]
    found = mass_sculpting(
        y, score, mass, [1, 1, 1, 2, 2, 1], bins=[0, 1, 2], signal_efficiency=0.9
    )
    assert found.cut == 0.4
    assert found.signal_efficiency == 1
    assert found.background_efficiency == 0.5
    # All background has equal shares in the two bins; the passing has (0, 1).
    half = 0.5 * np.log2(0.5 / 0.25) + 0.5 * np.log2(0.5 / 0.75)
    assert_allclose(found.divergence, (half + np.log2(1 / 0.75)) / 2)
    dependence = by_definition(np.array(score[2:]), np.array(mass[2:]), [1, 2, 2, 1])
    assert_allclose(found.distance_correlation, dependence)
    nowhere = mass_sculpting(y, score, [*mass[:5], np.nan], bins=[0, 1, 2], signal_efficiency=0.9)
    assert_allclose(nowhere.background_efficiency, 0.5)


def test_sculpting_of_the_sharpest_and_of_no_cut():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 5000)
    mass = np.where(y, rng.normal(125, 5, 10_000), rng.uniform(0, 1000, 10_000))
    assert mass_sculpting(y, -np.abs(mass - 125), mass).divergence > 0.9
    assert mass_sculpting(y, rng.random(10_000), mass).divergence < 0.01
    weight = np.where(rng.random(10_000) < 0.1, -1.0, 1.0)
    assert mass_sculpting(y, rng.random(10_000), mass, weight).divergence < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": ["s"] * 4}, "expected signal and background"),
        ({"mass": [1, 2, 3]}, r"mass has shape \(3,\)"),
        ({"bins": [2, 1]}, "at least two edges that increase"),
        ({"bins": [50, 60]}, "no mass of the background lies between 50 and 60"),
        ({"signal_efficiency": 1}, "between 0 and 1"),
        ({"score": [1, np.nan, 2, 3]}, r"score\[1\] is nan"),
        ({"mass": [np.nan] * 4}, "none of 2 masses"),
        ({"score": [0, 1, 9, 9]}, "with a score of at least 9"),
    ],
)
def test_sculpting_refuses(changes, message):
    given = {"y": ["b", "b", "s", "s"], "score": [1, 2, 3, 4], "mass": [1, 2, 3, 4]} | changes
    with pytest.raises(ValueError, match=message):
        mass_sculpting(**given)
