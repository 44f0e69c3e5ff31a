"""Means and scores of log-probabilities, against fractions that are exact."""

import math
from fractions import Fraction

import numpy as np
import pytest

from skhep_nn.utils.log_probabilities import class_scores, log_mean, normalised


def test_the_mean_is_of_the_probabilities():
    p = np.random.default_rng(0).dirichlet([1, 1, 1], size=(4, 10))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        np.exp(log_mean(np.log(p), weights)), np.average(p, axis=0, weights=weights), rtol=1e-12
    )


def test_the_mean_of_probabilities_that_underflow():
    logs = np.array([[[-2000.0, 0.0]], [[-2001.0, 0.0]]])
    expected = -2000 + math.log((1 + math.exp(-1)) / 2)
    assert log_mean(logs, [0.5, 0.5])[0, 0] == pytest.approx(expected, rel=1e-15)


def test_the_best_class_has_what_the_others_leave():
    rest = Fraction(1, 10**30)
    logs = np.log([[1.0, float(rest / 2), float(rest / 2)]])
    assert logs[0, 0] == 0
    assert normalised(logs)[0, 0] == pytest.approx(-1e-30, rel=1e-12)
    np.testing.assert_array_equal(normalised(logs)[0, 1:], logs[0, 1:])


def test_equal_probabilities_stay_equal():
    for n in (2, 3, 7):
        logs = np.full((1, n), -math.log(n))
        assert len(np.unique(normalised(logs))) == 1


def test_scores_have_the_shapes_of_decision_functions():
    p = np.array([[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(class_scores(np.log(p)), [math.log(3), 0])
    assert class_scores(np.log([[0.2, 0.3, 0.5]])).shape == (1, 3)


def test_scores_are_finite_where_a_probability_is_zero():
    with np.errstate(divide="ignore"):
        scores = class_scores(np.log([[0.0, 1.0], [1e-300, 1.0], [1.0, 0.0]]))
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1] > 600 > scores[2]
