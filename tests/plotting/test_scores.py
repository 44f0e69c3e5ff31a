"""Display of the classifier output."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC

from skhep_nn.plotting import ScoreDistributionDisplay


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("pos_label", [None, "s", "b"])
def test_decision_function_points_at_the_label(events, pos_label):
    X, y, _ = events
    model = LinearSVC().fit(X, y)
    display = ScoreDistributionDisplay.from_estimator(model, X, y, pos_label=pos_label)
    centres = (display.bin_edges[1:] + display.bin_edges[:-1]) / 2
    background, signal = (np.average(centres, weights=row) for row in display.contents)
    assert (signal > background) == (pos_label != "b")


def test_score_contents_are_weighted_histograms(events):
    X, y, w = events
    score = 1 / (1 + np.exp(-X.sum(axis=1)))
    display = ScoreDistributionDisplay.from_predictions(
        y, score, sample_weight=w, bins=10, density=False
    )
    assert_allclose(display.bin_edges, np.linspace(0, 1, 11))
    for row, spread, label in zip(
        display.contents, display.uncertainties, display.class_names, strict=True
    ):
        assert row.sum() == pytest.approx(w[y == label].sum())
        first = (y == label) & (score < 0.1)
        assert spread[0] == pytest.approx(np.sqrt((w[first] ** 2).sum()))


def test_score_density_has_unit_area(events):
    X, y, w = events
    edges = np.array([-8.0, -1.0, 0.0, 2.0, 12.0])
    display = ScoreDistributionDisplay.from_predictions(
        y, X.sum(axis=1), sample_weight=w, bins=edges
    )
    assert_allclose((display.contents * np.diff(edges)).sum(axis=1), 1.0)
    counts = ScoreDistributionDisplay.from_predictions(
        y, X.sum(axis=1), sample_weight=w, bins=edges, density=False
    )
    assert_allclose(
        display.uncertainties * counts.contents, counts.uncertainties * display.contents
    )


def test_score_plot_options(events):
    X, y, w = events
    display = ScoreDistributionDisplay.from_predictions(
        y, X[:, 0], sample_weight=w, class_names=["background", "signal"], log_y=True, linewidth=2
    )
    assert display.ax_.get_yscale() == "log"
    assert legend_texts(display.ax_) == ["background", "signal"]
    low, high = display.ax_.get_ylim()
    positive = display.contents[display.contents > 0]
    assert 0 < low < positive.min() < positive.max() < high


def test_negative_weights_are_drawn(events):
    X, y, w = events
    display = ScoreDistributionDisplay.from_predictions(
        y, X[:, 0], sample_weight=np.where(X[:, 0] > 1.5, -w, w), density=False
    )
    assert display.contents.min() < 0
    assert display.ax_.get_ylim()[0] < 0


def test_score_of_one_of_many_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    X = rng.normal(size=(200, 2)) + y[:, None]
    model = RandomForestClassifier(n_estimators=5, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"3 classes.*pos_label"):
        ScoreDistributionDisplay.from_estimator(model, X, y)
    display = ScoreDistributionDisplay.from_estimator(model, X, y, pos_label=2, bins=5)
    assert display.contents.shape == (3, 5)
    assert display.contents[2, -1] > display.contents[0, -1]


def test_plot_again_in_given_axes(events):
    X, y, _ = events
    display = ScoreDistributionDisplay.from_predictions(y, X[:, 0])
    figure, (left, right) = plt.subplots(1, 2)
    assert display.plot(ax=right) is display
    assert display.ax_ is right
    assert display.figure_ is figure
    assert not left.has_data()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y_score": [0.1, np.nan, 0.3]}, "1 of 3 scores"),
        ({"y_score": [0.1, 0.2]}, "inconsistent numbers"),
        ({"sample_weight": [1.0, 2.0]}, "inconsistent numbers"),
        ({"sample_weight": [0.0, 1.0, 0.0]}, "density=False"),
        ({"class_names": ["one"]}, "1 class_names"),
    ],
)
def test_wrong_scores(changes, match):
    arguments = {"y_true": [0, 1, 0], "y_score": [0.1, 0.2, 0.3], **changes}
    with pytest.raises(ValueError, match=match):
        ScoreDistributionDisplay.from_predictions(**arguments)


@pytest.mark.slow
def test_error_without_matplotlib_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from skhep_nn.plotting import ScoreDistributionDisplay as Display\n"
        "Display.from_predictions([0, 1], [0.2, 0.8])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "skhep_nn[plot]" in run.stderr
