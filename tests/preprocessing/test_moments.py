"""Weighted moments of columns."""

import numpy as np
import pytest

from skhep_nn.preprocessing import weighted_moments


def test_against_numpy():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(3.0, 2.0, size=(500, 2)), rng.exponential(size=500)
    mean, scale = weighted_moments(X, weight)
    expected = np.average(X, axis=0, weights=weight)
    np.testing.assert_allclose(mean, expected)
    variance = np.average((X - expected) ** 2, axis=0, weights=weight)
    np.testing.assert_allclose(scale, np.sqrt(variance))
    # Only the modulus of a weight counts, so that no variance is negative.
    signs = rng.choice([-1.0, 1.0], 500)
    np.testing.assert_array_equal(weighted_moments(X, weight * signs), (mean, scale))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("value", "tame"), [(0.0, 1.0), (0.1, 1.0), (-7.3, 7.3), (1e6, 1e6), (1e30, 1e30)]
)
def test_constant_columns(dtype, value, tame):
    X, weight = np.full((1000, 1), value, dtype), np.linspace(0.1, 3.7, 1000)
    assert weighted_moments(X, weight)[1] == 1.0
    np.testing.assert_allclose(weighted_moments(X, weight, tame_constants=True)[1], tame, rtol=1e-6)


def test_rounding_depends_on_the_type():
    """A column of timestamps varies in float64, but only by rounding in float32."""
    times = 1.6e9 + np.random.default_rng(0).uniform(0, 100, (500, 1))
    weight = np.ones(500)
    np.testing.assert_allclose(weighted_moments(times, weight)[1], times.std(), rtol=1e-6)
    assert weighted_moments(times.astype(np.float32), weight)[1] == 1.0
