import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from skhep_nn import DenseNetClassifier, lr_range_test
from skhep_nn.plotting import LRRangeDisplay
from skhep_nn.tuning.lr_range import LRRange


@pytest.fixture
def result():
    lr = np.geomspace(1e-5, 1e-1, 5)
    table = pd.DataFrame(
        {
            "member": np.tile([0, 1], 5),
            "step": np.repeat(np.arange(5), 2),
            "lr": np.repeat(lr, 2),
            "loss": 1.0,
            "smoothed_loss": [0.7, 0.9, 0.6, 0.7, 0.4, 0.4, 0.3, 0.5, 0.9, 0.9],
        }
    )
    return LRRange(1e-3, 1e-2, 1e-4, 1e-1, table)


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_curves_and_marks(result):
    display = LRRangeDisplay.from_result(result)
    assert display.ax_.get_xscale() == "log"
    first, second, mean, *marks = display.ax_.get_lines()
    assert_allclose(first.get_ydata(), [0.7, 0.6, 0.4, 0.3, 0.9])
    assert_allclose(second.get_ydata(), [0.9, 0.7, 0.4, 0.5, 0.9])
    assert_allclose(mean.get_ydata(), [0.8, 0.65, 0.4, 0.4, 0.9])
    assert_allclose(mean.get_xdata(), np.geomspace(1e-5, 1e-1, 5))
    assert [mark.get_xdata()[0] for mark in marks] == [1e-3, 1e-4, 1e-2, 1e-1]
    assert legend_texts(display.ax_) == [
        "loss",
        "suggested 1.0e-03",
        "steepest 1.0e-04",
        "lowest 1.0e-02",
        "diverged 1.0e-01",
    ]


def test_no_divergence_and_one_member(result):
    one = result._replace(diverged=float("nan"), table=result.table.query("member == 0"))
    display = LRRangeDisplay.from_result(one)
    assert len(display.ax_.get_lines()) == 4
    assert not any("diverged" in text for text in legend_texts(display.ax_))


def test_plot_options(result):
    _, (left, right) = plt.subplots(1, 2)
    display = LRRangeDisplay(result=result).plot(ax=right, log_y=True, color="k")
    assert display.ax_ is right
    assert right.get_yscale() == "log"
    assert {line.get_color() for line in right.get_lines()[:3]} == {"k"}
    assert not left.has_data()


def test_from_estimator():
    X = np.random.default_rng(0).normal(size=(200, 2))
    y, weight = X[:, 0] > 0, np.arange(1.0, 201.0)
    model = DenseNetClassifier(depth=1, width=8, random_state=0)
    options = {"n_members": 2, "n_steps": 60}
    _, ax = plt.subplots()
    display = LRRangeDisplay.from_estimator(model, X, y, weight, ax=ax, **options)
    expected = lr_range_test(model, X, y, weight, **options)
    assert display.ax_ is ax
    pd.testing.assert_frame_equal(display.result.table, expected.table)
