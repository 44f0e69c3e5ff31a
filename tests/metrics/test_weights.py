"""Event weights rescaled per class."""

import numpy as np
import pytest
import sklearn

from skhep_nn.metrics import (
    class_balanced_weights,
    rescale_weights,
)
from tests.metrics.reference import TOTALS, toy_sample


class TestWeights:
    def test_rescale(self):
        y, _, weight = toy_sample()
        scaled = rescale_weights(y, weight, TOTALS)
        for label, total in TOTALS.items():
            rows = y == label
            assert scaled[rows].sum() == pytest.approx(total)
            ratios = scaled[rows] / weight[rows]
            np.testing.assert_allclose(ratios, ratios[0])

    @pytest.mark.parametrize(
        ("weight", "totals", "message"),
        [
            ([1, 1, 1], {"s": 1.0}, "must be the same"),
            ([1, 1, 1], {"s": 1.0, "b": 1.0, "c": 1.0}, "must be the same"),
            ([1, 1, 1], {"s": -1.0, "b": 1.0}, r"totals\['s'\]"),
            ([1, 1, 1], {"s": np.inf, "b": 1.0}, r"totals\['s'\]"),
            ([0, 1, 1], {"s": 1.0, "b": 1.0}, "class 's' sum to 0"),
            ([1, 1, -3], {"s": 1.0, "b": 1.0}, "class 'b' sum to -2"),
        ],
    )
    def test_rescale_bad_input(self, weight, totals, message):
        with pytest.raises(ValueError, match=message):
            rescale_weights(["s", "b", "b"], weight, totals)

    @pytest.mark.parametrize("labels", [["s", "b"], [0, 1, 2], [True, False]])
    def test_class_balance(self, labels):
        rng = np.random.default_rng(0)
        y = np.array(labels)[rng.integers(len(labels), size=300)]
        weight = rng.normal(1.0, 1.0, size=300)  # some of them negative
        balanced = class_balanced_weights(y, weight)
        assert balanced.mean() == pytest.approx(1.0)
        for label in labels:
            rows = y == label
            assert balanced[rows].sum() == pytest.approx(300 / len(labels))
            np.testing.assert_allclose(
                balanced[rows] * weight[rows][0], balanced[rows][0] * weight[rows], rtol=1e-9
            )

    def test_class_balance_without_weights_is_sklearns(self):
        y = np.array(["s", "b", "b", "b"])
        expected = sklearn.utils.compute_sample_weight("balanced", y)
        np.testing.assert_allclose(class_balanced_weights(y), expected)

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ([0.0, 0.0, 0.0], "positive"),
            ([1.0, 1.0, -1.0], "class 's' sum to 0"),
            ([1.0, np.nan, 1.0], r"sample_weight\[1\] is nan"),
            ([1.0, 1e308, 1e308], "class 's' sum to inf"),
            ([1.0, 1.0], "shape"),
        ],
    )
    def test_class_balance_bad_totals(self, weight, message):
        with pytest.raises(ValueError, match=message):
            class_balanced_weights(["b", "s", "s"], weight)
