"""Samples and written-out formulas that several tests of the metrics compare with."""

import numpy as np

TOTALS = {"s": 691.9886, "b": 410999.8473}


def toy_sample(n=400, seed=0, decimals=2):
    """Labels, overlapping scores with ties, and positive weights."""
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(n) < 0.4, "s", "b")
    score = np.round(rng.normal(np.where(y == "s", 0.6, 0.4), 0.15), decimals)
    return y, score, rng.exponential(np.where(y == "s", 0.5, 20.0))


def distance_correlation_by_definition(x, y, weight=None):
    """Distance correlation from the matrices of all distances."""
    w = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=float)
    w = w / w.sum()

    def centred(values):
        d = np.abs(values[:, None] - values)
        rows = d @ w
        return d - rows[:, None] - rows + w @ rows

    a, b = centred(x), centred(y)
    return np.sqrt((w @ (a * b) @ w) / np.sqrt((w @ a**2 @ w) * (w @ b**2 @ w)))


def quantities(n, seed=0):
    """Two dependent quantities with ties, and weights, a tenth of them zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n).round(1)
    return x, (x**2 + rng.normal(size=n)).round(1), rng.exponential(size=n) * (rng.random(n) > 0.1)
