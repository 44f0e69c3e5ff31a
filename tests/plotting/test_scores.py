import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from skhep_nn.estimators import DenseNetClassifier
from skhep_nn.metrics import ams_curve, ams_score, best_cut
from skhep_nn.plotting import AMSCurveDisplay, HistoryDisplay, ScoreDistributionDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    y = rng.choice(["b", "s"], 400, p=[0.7, 0.3])
    X = rng.normal(size=(400, 3)) + (y == "s")[:, None]
    w = np.where(y == "s", 0.1, 2.0) * rng.gamma(4.0, 0.25, 400)
    return X, y, w


@pytest.fixture
def history():
    rng = np.random.default_rng(0)
    rows = [(m, e, 1 / e + 0.1 * m, 1.2 / e, 0.001 * e) for m in range(3) for e in range(1, 6)]
    table = pd.DataFrame(rows, columns=["member", "epoch", "train_loss", "valid_loss", "lr"])
    return table.assign(momentum=0.9, seconds=rng.random(len(table)))


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_ams_values_are_those_of_the_metrics(events):
    X, y, w = events
    model = LogisticRegression().fit(X, y, sample_weight=w)
    display = AMSCurveDisplay.from_estimator(model, X, y, sample_weight=w, b_reg=3.0)
    score = model.predict_proba(X)[:, 1]
    curve, best = ams_curve(y, score, w, b_reg=3.0), best_cut(y, score, w, b_reg=3.0)
    assert_allclose(display.cuts, curve.cuts)
    assert_allclose(display.ams, curve.ams)
    assert (display.cut, display.cut_ams) == pytest.approx((best.cut, best.ams))


def test_ams_plot_marks_the_chosen_cut(events):
    X, y, w = events
    score = X.sum(axis=1)
    display = AMSCurveDisplay.from_predictions(y, score, sample_weight=w, cut=1.0, name="sum")
    curve, vertical, marker = display.ax_.get_lines()
    assert_allclose(curve.get_ydata(), display.ams)
    assert_allclose(vertical.get_xdata(), 1.0)
    assert_allclose(marker.get_xydata(), [[1.0, ams_score(y, score >= 1.0, w)]])
    assert legend_texts(display.ax_)[0] == "sum"
    assert "cut at 1.000" in legend_texts(display.ax_)[1]


def test_ams_of_the_other_class(events):
    X, y, w = events
    model = LogisticRegression().fit(X, y)
    display = AMSCurveDisplay.from_estimator(model, X, y, sample_weight=w, pos_label="b")
    curve = ams_curve(y, model.predict_proba(X)[:, 0], w, pos_label="b")
    assert_allclose(display.ams, curve.ams)


def test_two_curves_share_one_legend(events):
    X, y, _ = events
    first = AMSCurveDisplay.from_predictions(y, X[:, 0], name="first")
    second = AMSCurveDisplay.from_predictions(y, X[:, 1], name="second", ax=first.ax_)
    assert second.figure_ is first.figure_
    texts = legend_texts(first.ax_)
    assert texts[::2] == ["first", "second"]
    colours = [line.get_color() for line in first.ax_.get_lines()]
    assert len(set(colours[:3])) == len(set(colours[3:])) == 1
    assert colours[0] != colours[3]


@pytest.mark.parametrize("pos_label", [None, "s", "b"])
def test_decision_function_points_at_the_label(events, pos_label):
    X, y, _ = events
    model = LinearSVC().fit(X, y)
    display = ScoreDistributionDisplay.from_estimator(model, X, y, pos_label=pos_label)
    centres = (display.bin_edges[1:] + display.bin_edges[:-1]) / 2
    background, signal = (np.average(centres, weights=row) for row in display.contents)
    assert (signal > background) == (pos_label != "b")


def test_history_means_over_members(history):
    display = HistoryDisplay(history=history)
    assert_allclose(display.mean("train_loss"), 1 / np.arange(1, 6) + 0.1)
    stopped = history[(history.member != 1) | (history.epoch < 4)]
    assert list(HistoryDisplay(history=stopped).mean("valid_loss").index) == [1, 2, 3]


def test_history_plot(history):
    class Fitted(LogisticRegression):
        history_ = history

    display = HistoryDisplay.from_estimator(Fitted(), name="three members")
    # Three thin and one thick line for each of the two losses.
    widths = [line.get_linewidth() for line in display.ax_.get_lines()]
    assert [width > 1 for width in widths] == 2 * [False, False, False, True]
    assert legend_texts(display.ax_) == ["training", "validation", "learning rate"]
    (rate,) = display.lr_ax_.get_lines()
    assert_allclose(rate.get_ydata(), 0.001 * np.arange(1, 6))
    assert display.figure_.get_suptitle() == "three members"


def test_learning_rate_goes_on_after_a_member_stopped(history):
    stopped = history[(history.member != 1) | (history.epoch < 4)]
    display = HistoryDisplay(history=stopped).plot()
    (rate,) = display.lr_ax_.get_lines()
    assert_allclose(rate.get_xdata(), np.arange(1, 6))


def test_history_without_validation_or_learning_rate(history):
    single = history[history.member == 0].assign(valid_loss=np.nan)
    display = HistoryDisplay(history=single).plot(show_lr=False, log_y=True, linewidth=3.0)
    (line,) = display.ax_.get_lines()
    assert line.get_linewidth() == 3.0
    assert display.ax_.get_yscale() == "log"
    assert display.lr_ax_ is None
    assert legend_texts(display.ax_) == ["training"]
    no_rate = HistoryDisplay(history=single.assign(lr=np.nan)).plot()
    assert no_rate.lr_ax_ is None


def test_history_of_a_network():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    network = DenseNetClassifier(n_members=2, max_epochs=3, random_state=0)
    pipeline = make_pipeline(StandardScaler(), network).fit(X, (X[:, 0] > 0).astype(int))
    display = HistoryDisplay.from_estimator(pipeline)
    assert len(display.mean("train_loss")) == 3
    assert display.history is network.history_


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
    ("model", "options", "error", "match"),
    [
        (LogisticRegression(), {}, NotFittedError, "not fitted"),
        (LinearRegression().fit([[0.0], [1.0]], [0, 1]), {}, TypeError, "LinearRegression"),
        (
            LogisticRegression().fit([[0.0], [1.0]], [0, 1]),
            {"pos_label": 7},
            ValueError,
            "pos_label=7",
        ),
    ],
)
def test_wrong_estimators(model, options, error, match):
    with pytest.raises(error, match=match):
        AMSCurveDisplay.from_estimator(model, [[0.0], [1.0]], [0, 1], **options)


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


def test_history_with_missing_columns(history):
    with pytest.raises(ValueError, match=r"lacks the columns \['lr'\]"):
        HistoryDisplay(history=history.drop(columns="lr")).plot()
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(LogisticRegression())


def test_axes_without_figure(history):
    _, ax = plt.subplots()
    ax.remove()
    with pytest.raises(ValueError, match="no figure"):
        HistoryDisplay(history=history).plot(ax=ax)


def test_error_without_matplotlib_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from skhep_nn.plotting import ScoreDistributionDisplay as Display\n"
        "Display.from_predictions([0, 1], [0.2, 0.8])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "skhep_nn[plot]" in run.stderr
