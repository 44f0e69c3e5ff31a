"""Distance correlation against its definition and its properties."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skhep_nn.metrics import distance_correlation
from tests.metrics.reference import distance_correlation_by_definition as by_definition
from tests.metrics.reference import quantities


@pytest.mark.parametrize("n", [2, 3, 7, 64, 65, 500])
def test_distance_correlation_by_its_definition(n):
    x, y, w = quantities(n, seed=n)
    w[:2] += 1
    assert_allclose(distance_correlation(x, y), by_definition(x, y), rtol=1e-9)
    assert_allclose(distance_correlation(x, y, w), by_definition(x, y, w), rtol=1e-9)


def test_its_properties():
    x, y, w = quantities(400)
    value = distance_correlation(x, y, w)
    assert_allclose(distance_correlation(y, x, w), value)
    assert_allclose(distance_correlation(3 - 1e-7 * x, 1e12 * (y + 100), 5 * w), value, rtol=1e-5)
    assert_allclose(distance_correlation(x, 7 - 2 * x, w), 1)
    assert distance_correlation(x, np.full(400, 0.1), w) == 0
    times = np.arange(400) % 4
    repeated = distance_correlation(np.repeat(x, times), np.repeat(y, times))
    assert_allclose(distance_correlation(x, y, times), repeated)


def test_independent_quantities_have_none_in_the_limit():
    rng = np.random.default_rng(0)
    values = [
        np.mean([distance_correlation(*rng.random((2, n))) for _ in range(5)])
        for n in (100, 10_000)
    ]
    assert values[1] < 0.03
    assert 5 < values[0] / values[1] < 20  # ten, as it falls with the root of the number


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1, -1, 2], "must not be negative"), ([0, 0, 0], "positive total"), ([1, 2], "expected")],
)
def test_distance_correlation_refuses(weight, message):
    with pytest.raises(ValueError, match=message):
        distance_correlation([1, 2, 3], [1, 2, 4], weight)
    with pytest.raises(ValueError, match=r"y\[1\] is nan"):
        distance_correlation([1, 2, 3], [1, np.nan, 4])
