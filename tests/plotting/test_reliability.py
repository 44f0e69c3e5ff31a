import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binomtest
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

from skhep_nn import CartesianMomenta, Constant, DenseNetClassifier, make_higgs_events
from skhep_nn.metrics import class_balanced_weights
from skhep_nn.plotting import ReliabilityDisplay

ONE_SIGMA = 0.6826894921


@pytest.fixture
def calibrated():
    """Return calibrated probabilities, and labels."""
    rng = np.random.default_rng(0)
    probability = rng.random(3000)
    return np.where(rng.random(3000) < probability, "s", "b"), probability


def curve_of(*args, **kwargs):
    display = ReliabilityDisplay.from_predictions(*args, **kwargs)
    plt.close("all")
    return display.curves


# -- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_without_weights_it_is_scikit_learns(calibrated, strategy):
    y, p = calibrated
    curve = curve_of(y, p, n_bins=7, strategy=strategy)
    fraction, mean = calibration_curve(y, p, n_bins=7, strategy=strategy, pos_label="s")
    assert_allclose(curve["fraction"], fraction, rtol=0.02)  # events on an edge of a bin may differ
    assert_allclose(curve["mean_prediction"], mean, rtol=0.02)
    assert curve["n"].sum() == 3000
    if strategy == "quantile":
        assert curve["n"].between(428, 430).all()
    else:
        assert_allclose(curve["fraction"], fraction)
        assert_allclose(curve["low"], np.arange(7) / 7)
        assert_allclose(curve["high"], np.arange(1, 8) / 7)


def test_without_weights_the_interval_is_wilsons(calibrated):
    y, p = calibrated
    curve = curve_of(y, p)
    at = np.minimum((10 * p).astype(int), 9)
    for row in curve.itertuples():
        hits = int((y[at == row.Index] == "s").sum())
        interval = binomtest(hits, int(row.n)).proportion_ci(ONE_SIGMA, method="wilson")
        assert_allclose([row.fraction_low, row.fraction_high], list(interval))


def test_weights_of_integers_are_repetitions(calibrated):
    y, p = calibrated
    weight = np.random.default_rng(1).integers(1, 5, len(y))
    weighted = ReliabilityDisplay.from_predictions(y, p, sample_weight=weight)
    repeated = ReliabilityDisplay.from_predictions(np.repeat(y, weight), np.repeat(p, weight))
    names = ["weight", "mean_prediction", "fraction"]
    pd.testing.assert_frame_equal(weighted.curves[names], repeated.curves[names])
    pd.testing.assert_frame_equal(weighted.histograms, repeated.histograms)
    assert_allclose(weighted.expected_calibration_error, repeated.expected_calibration_error)
    # Repeated events are not counted as several independent events.
    narrow = repeated.curves["fraction_high"] - repeated.curves["fraction_low"]
    assert (weighted.curves["fraction_high"] - weighted.curves["fraction_low"] > 1.3 * narrow).all()


@pytest.mark.parametrize("signal_weight", [1.0, 0.05, 20.0])
def test_intervals_cover(signal_weight):
    """In two of three bins, also if weights depend on the class, as in simulations."""
    rng, n_trials = np.random.default_rng(2), 60
    p = rng.uniform(0.2, 0.8, 1500 * n_trials)
    is_signal = rng.random(len(p)) < p
    weight = np.where(is_signal, signal_weight, 1.0) * rng.gamma(2.0, size=len(p))
    p = signal_weight * p / (signal_weight * p + 1 - p)  # the probability with weights
    trials = np.arange(len(p)) % n_trials
    options = {"n_bins": 5, "strategy": "quantile", "groups": trials, "histogram": False}
    curves = curve_of(is_signal, p, sample_weight=weight, **options)
    covered = curves["mean_prediction"].between(curves["fraction_low"], curves["fraction_high"])
    assert len(covered) == 300
    assert 0.6 < np.mean(covered) < 0.76


def test_bins_of_one_class_have_a_width_and_empty_ones_nothing():
    y, p = np.array([0, 0, 0, 1]), np.array([0.05, 0.05, 0.05, 0.95])
    curve = curve_of(y, p, sample_weight=[1.0, 1.0, 2.0, 3.0], n_bins=4)
    assert_array_equal(curve["n"], [3, 0, 0, 1])
    assert_array_equal(curve["weight"], [4.0, 0.0, 0.0, 3.0])
    assert_allclose(curve["fraction"], [0.0, np.nan, np.nan, 1.0])
    effective = 16 / 6
    assert_allclose(curve["fraction_low"], [0.0, np.nan, np.nan, 0.5])
    assert_allclose(curve["fraction_high"], [1 / (1 + effective), np.nan, np.nan, 1.0])


def test_negative_weights():
    y = np.array([1, 1, 0, 0, 1, 0])
    p = np.array([0.2, 0.3, 0.1, 0.2, 0.8, 0.9])
    weight = np.array([1.0, -2.0, 3.0, 1.0, 2.0, 2.0])
    curve = curve_of(y, p, sample_weight=weight, n_bins=2)
    assert_allclose(curve["fraction"], [-1 / 3, 0.5])
    error = np.sqrt((4 / 3) ** 2 * 5 + (1 / 3) ** 2 * 10) / 3
    assert_allclose(curve["fraction_high"] + 1 / 3, [error, curve["fraction_high"][1] + 1 / 3])
    assert_allclose(curve["fraction_low"][0], -1 / 3 - error)
    with pytest.raises(ValueError, match="weights of '1' must have a positive total, got -"):
        ReliabilityDisplay.from_predictions(y, p, sample_weight=-weight)


def test_expected_calibration_error():
    y, p = np.array([0, 1, 1, 1]), np.array([0.2, 0.4, 0.6, 0.8])
    weight = [3.0, 1.0, 4.0, 2.0]
    display = ReliabilityDisplay.from_predictions(y, p, sample_weight=weight, n_bins=2)
    # Bins of weights 4 and 6: fractions 1/4 and 1 against means 1/4 and 2/3.
    assert display.expected_calibration_error.to_dict() == pytest.approx({"1": 0.6 / 3})
    # In separate bins the first two events are wrong by 0.2 and 0.6.
    fine = ReliabilityDisplay.from_predictions(y, p, sample_weight=weight, n_bins=10)
    expected = (3 * 0.2 + 1 * 0.6 + 4 * 0.4 + 2 * 0.2) / 10
    assert fine.expected_calibration_error["1"] == pytest.approx(expected)


def test_equal_predictions_share_a_bin():
    y, p = np.array([0, 1, 0, 1, 1]), np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    curve = curve_of(y, p, strategy="quantile")
    assert curve["n"].sum() == 5
    assert_allclose(curve.query("n > 0")["fraction"], [1 / 3, 1.0])


# -- several curves -------------------------------------------------------------------------------


def test_every_class_has_its_curve():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 4000)
    y = np.array(["e", "mu", "tau"])[(p.cumsum(axis=1) < rng.random((4000, 1))).sum(axis=1)]
    display = ReliabilityDisplay.from_predictions(y, p)
    assert list(display.expected_calibration_error.index) == ["e", "mu", "tau"]
    assert list(display.curves["curve"].unique()) == ["e", "mu", "tau"]
    assert (display.expected_calibration_error < 0.03).all()
    one = ReliabilityDisplay.from_predictions(y, p, pos_label="mu")
    assert_array_equal(one.curves.iloc[:, 1:], display.curves.query("curve == 'mu'").iloc[:, 1:])
    assert one.ax_.get_ylabel() == "Fraction of mu"
    shuffled = ReliabilityDisplay.from_predictions(
        y, p[:, [2, 0, 1]], classes=["tau", "e", "mu"], pos_label="mu"
    )
    pd.testing.assert_frame_equal(shuffled.curves, one.curves)


def test_first_of_two_classes(calibrated):
    y, p = calibrated
    signal, background = curve_of(y, p), curve_of(y, p, pos_label="b")
    assert_allclose(signal["fraction"], 1 - background["fraction"][::-1])
    assert_allclose(signal["fraction_low"], 1 - background["fraction_high"][::-1])


def test_groups(calibrated):
    y, p = calibrated
    fold = np.arange(3000) % 3
    display = ReliabilityDisplay.from_predictions(y, p, groups=fold, name="fold")
    assert list(display.histograms.columns) == ["fold, 0", "fold, 1", "fold, 2"]
    alone = curve_of(y[fold == 1], p[fold == 1], name="fold, 1")
    both = display.curves.query("curve == 'fold, 1'").reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone)
    p = np.stack([1 - p, p / 3, 2 * p / 3], axis=1)
    y = np.where(y == "b", "b", np.where(fold == 0, "s", "t"))
    display = ReliabilityDisplay.from_predictions(y, p, groups=fold)
    assert len(display.expected_calibration_error) == 9
    assert display.expected_calibration_error.index[1] == "s, 0"


# -- classifiers ----------------------------------------------------------------------------------


def test_calibration_of_a_network_on_simulated_events():
    """After too many epochs the network is too certain; scikit-learn's calibration with weights helps."""
    events = make_higgs_events(3000, random_state=0)
    X, y = CartesianMomenta().fit_transform(events.data), events.target
    w = class_balanced_weights(y, events.sample_weight)
    network = DenseNetClassifier(schedule=Constant(5e-3), max_epochs=20, random_state=0)
    calibrated = CalibratedClassifierCV(network, method="sigmoid", cv=2)
    train, test = slice(1500), slice(1500, None)
    errors = []
    for model in (network, calibrated):
        model.fit(X[train], y[train], sample_weight=w[train])
        display = ReliabilityDisplay.from_estimator(model, X[test], y[test], sample_weight=w[test])
        assert list(display.expected_calibration_error.index) == ["s"]
        errors.append(display.expected_calibration_error["s"])
    assert errors[0] > 0.1
    assert errors[1] < 0.7 * errors[0]


def test_from_estimator_is_from_predictions():
    X = np.random.default_rng(0).normal(size=(300, 2))
    y = np.select([X[:, 0] > 0.5, X[:, 1] > 0], ["z", "a"], "m")
    model = LogisticRegression().fit(X, y)
    first = ReliabilityDisplay.from_estimator(model, X, y, name="net", n_bins=4)
    again = ReliabilityDisplay.from_predictions(y, model.predict_proba(X), name="net", n_bins=4)
    pd.testing.assert_frame_equal(first.curves, again.curves)
    assert first.curves["curve"].unique().tolist() == ["net, a", "net, m", "net, z"]


# -- the plot -------------------------------------------------------------------------------------


def test_plot(calibrated):
    display = ReliabilityDisplay.from_predictions(*calibrated, n_bins=5, name="net")
    diagonal, points = display.ax_.get_lines()
    assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    assert_allclose(points.get_xdata(), display.curves["mean_prediction"])
    assert_allclose(points.get_ydata(), display.curves["fraction"])
    (bars,) = display.ax_.containers
    segments = np.array(bars.lines[2][0].get_segments())
    assert_allclose(segments[:, :, 1], display.curves[["fraction_low", "fraction_high"]])
    (steps,) = display.histogram_ax_.patches
    assert_allclose(steps.get_data().values, display.histograms["net"])
    assert_allclose(display.histograms.sum(), 1.0)
    assert display.ax_.get_ylabel() == "Fraction of s"
    (text,) = display.ax_.get_legend().get_texts()
    assert text.get_text() == f"net (ECE {display.expected_calibration_error['net']:.3f})"


def test_two_classifiers_in_one_plot(calibrated):
    y, p = calibrated
    first = ReliabilityDisplay.from_predictions(y, p, name="good")
    second = ReliabilityDisplay.from_predictions(
        y, p**2, name="bad", histogram=False, ax=first.ax_, color="k"
    )
    assert second.ax_ is first.ax_
    assert second.histogram_ax_ is None
    assert len(first.ax_.get_lines()) == 3  # one diagonal
    assert first.ax_.get_xlabel() == ""
    assert first.ax_.get_lines()[-1].get_color() == "k"
    assert len(first.ax_.get_legend().get_texts()) == 2


def test_plot_options(calibrated):
    _, (left, right) = plt.subplots(1, 2)
    display = ReliabilityDisplay.from_predictions(*calibrated, ax=right, log_y=True)
    assert display.histogram_ax_.get_yscale() == "log"
    assert display.histogram_ax_.get_xlabel() == "Predicted probability"
    assert display.figure_ is right.get_figure()
    assert not left.has_data()
    alone = display.plot(histogram=False)
    assert alone.ax_.get_xlabel() == "Predicted probability"


def test_errors(calibrated):
    y, p = calibrated
    draw = ReliabilityDisplay.from_predictions
    with pytest.raises(ValueError, match="n_bins=0 must be an integer"):
        draw(y, p, n_bins=0)
    with pytest.raises(ValueError, match="strategy='equal' must be one of"):
        draw(y, p, strategy="equal")
    with pytest.raises(ValueError, match="pos_label='x' is not one of the classes"):
        draw(y, p, pos_label="x")
    with pytest.raises(ValueError, match="groups has 2 entries for the 3000"):
        draw(y, p, groups=[0, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        draw(y, 2 * p)
    with pytest.raises(ValueError, match="sample_weight"):
        draw(y, p, sample_weight=[1.0])
    X = p[:, None]
    for model in (RidgeClassifier().fit(X, y), LinearRegression().fit(X, p)):
        with pytest.raises(TypeError, match="a classifier with predict_proba, got"):
            ReliabilityDisplay.from_estimator(model, X, y)
