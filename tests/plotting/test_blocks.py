"""Displays of networks with blocks of columns draw the numbers of the tables."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from skhep_nn import DenseNetClassifier
from skhep_nn.inspection import block_reliance, bottleneck_outputs, bottleneck_reliance
from skhep_nn.plotting import BottleneckOutputDisplay, RelianceDisplay


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(400, 4)), columns=list("abcd"))
    y = np.where(X.a + X.b > 0, "s", "b")
    blocks = {"telling": ["a", "b"], "noise": ["c", "d"]}
    model = DenseNetClassifier(
        blocks=blocks, bottleneck=1, n_members=2, depth=2, max_epochs=20, random_state=0
    )
    return model.fit(X, y), X, y


def labels(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def test_boxes_are_the_quantiles_of_the_table(fitted):
    model, X, _ = fitted
    X = X[:399]  # so that no quantile falls just between two events
    display = RelianceDisplay.from_estimator(model, X, member=1)
    table = block_reliance(model, X, member=1)
    for block, row in display.summary.iterrows():
        values = table.loc[table["block"] == block, "reliance"]
        expected = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], method="inverted_cdf")
        assert_allclose(row[["q05", "q25", "median", "q75", "q95"]], expected)
        assert row["mean"] == pytest.approx(values.mean())
    largest = display.summary["mean"].idxmax()
    assert labels(display.ax_)[-1] == largest  # drawn last, at the top
    assert display.summary.index.tolist() == ["telling", "noise"]
    assert display.ax_.get_xlim()[0] == 0.0


def test_weights_of_events_and_members_count(fitted):
    model, X, _ = fitted
    weight = np.where(np.arange(len(X)) < 5, 1.0, 0.0)
    display = RelianceDisplay.from_estimator(model, X, sample_weight=weight)
    table = block_reliance(model, X[:5])
    shares = model.ensemble_.weights[table["member"]] / 5
    expected = (table["reliance"] * shares).groupby(table["block"], observed=True).sum()
    assert_allclose(display.summary["mean"][expected.index], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="not negative"):
        RelianceDisplay.from_estimator(model, X, sample_weight=-weight)


def test_features_of_a_bottleneck(fitted):
    model, X, _ = fitted
    figure, ax = plt.subplots()
    display = RelianceDisplay.from_estimator(model, X, bottleneck="noise", ax=ax, n_most=1)
    assert (display.ax_, display.figure_) == (ax, figure)
    assert display.summary.index.tolist() == ["c", "d"]
    assert labels(ax) == [display.summary["mean"].idxmax()]
    assert "noise" in ax.get_xlabel()
    table = bottleneck_reliance(model, X).query("block == 'noise'")
    again = RelianceDisplay.from_table(
        table, weight=model.ensemble_.weights[table["member"]], log_x=True
    )
    pd.testing.assert_frame_equal(again.summary, display.summary)
    assert again.ax_.get_xscale() == "log"
    assert labels(again.plot(widths=0.3).ax_) == labels(again.ax_)


def test_output_of_a_bottleneck_by_class(fitted):
    model, X, y = fitted
    weight = np.random.default_rng(1).gamma(2.0, size=len(X))
    edges = np.linspace(-0.3, 3.0, 12)
    display = BottleneckOutputDisplay.from_estimator(
        model, X, y, bottleneck="telling", member=1, sample_weight=weight, bins=edges, density=False
    )
    table = bottleneck_outputs(model, X, y, member=1).query("block == 'telling'")
    for name, content in zip("bs", display.distributions.contents, strict=True):
        own = (table["target"] == name).to_numpy()
        expected, _ = np.histogram(table["value"][own], edges, weights=weight[own])
        assert_allclose(content, expected)
    assert display.ax_.get_xlabel() == "Output of the bottleneck of telling"
    first = display.ax_
    assert display.plot(log_y=True).ax_ is not first
    assert display.ax_.get_xlabel() == "Output of the bottleneck of telling"


def test_bins_leave_out_tails_only(fitted):
    model, X, y = fitted
    display = BottleneckOutputDisplay.from_estimator(
        model, X, y, bottleneck="noise", density=False, class_names=["background", "signal"]
    )
    assert 0.98 * len(X) <= display.distributions.contents.sum() <= len(X)
    assert display.distributions.class_names == ["background", "signal"]


def test_errors_name_what_there_is(fitted):
    model, X, y = fitted
    with pytest.raises(ValueError, match=r"no block 'low': choose one of \['telling', 'noise'\]"):
        RelianceDisplay.from_estimator(model, X, bottleneck="low")
    with pytest.raises(ValueError, match=r"no neuron 1: choose one of \[0\]"):
        BottleneckOutputDisplay.from_estimator(model, X, y, bottleneck="noise", neuron=1)
    with pytest.raises(ValueError, match=r"no output 2: choose one of \[0\]"):
        RelianceDisplay.from_estimator(model, X, output=2)
