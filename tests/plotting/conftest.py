"""Fixtures of all tests of displays."""

import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def close_figures():
    """Close all figures after each test, since pyplot would keep them in memory."""
    yield
    plt.close("all")


@pytest.fixture
def events():
    """Features, labels and weights of events of two classes."""
    rng = np.random.default_rng(0)
    y = rng.choice(["b", "s"], 400, p=[0.7, 0.3])
    X = rng.normal(size=(400, 3)) + (y == "s")[:, None]
    w = np.where(y == "s", 0.1, 2.0) * rng.gamma(4.0, 0.25, 400)
    return X, y, w
