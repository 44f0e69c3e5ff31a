"""Display of the significance against the cut."""

import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression

from skhep_nn.metrics import ams_curve, ams_score, best_cut
from skhep_nn.plotting import AMSCurveDisplay


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
