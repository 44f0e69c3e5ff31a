"""Displays of images, of predictions, of feature maps and of scores in bins."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from numpy.testing import assert_allclose
from sklearn.dummy import DummyRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skhep_nn import CaloCNNClassifier
from skhep_nn.inspection import feature_maps
from skhep_nn.metrics import binned_scores
from skhep_nn.plotting import (
    BinnedScoresDisplay,
    FeatureMapsDisplay,
    ImageSamplesDisplay,
    MeanImagesDisplay,
    PredictionSamplesDisplay,
)


@pytest.fixture
def showers():
    """Images whose first pixel is the number of the image."""
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(30, 6, 8, 2))
    X[:, 0, 0, 0] = np.arange(30)
    return X, np.where(np.arange(30) % 3 == 0, "photon", "electron")


def drawn(axes):
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def test_samples_are_of_their_class(showers):
    X, y = showers
    display = ImageSamplesDisplay.from_images(X, y, n=4, random_state=0)
    assert display.axes_.shape == (2, 4)
    for row, name, images in zip(
        display.axes_, ["electron", "photon"], display.images, strict=True
    ):
        assert row[0].get_ylabel() == name
        numbers = images[:, 0, 0].astype(int)
        assert len(set(numbers)) == 4
        assert set(y[numbers]) == {name}
        for axes, image in zip(row, images, strict=True):
            assert_allclose(drawn(axes), image)
    again = ImageSamplesDisplay.from_images(X, y, n=4, random_state=0)
    assert_allclose(again.images, display.images)


def test_samples_of_another_channel_of_few_images(showers):
    X, y = showers
    display = ImageSamplesDisplay.from_images(
        X, y, n=99, channel=1, class_names=["e", "γ"], random_state=0
    )
    assert display.images.shape == (2, 10, 6, 8)
    assert {img.tobytes() for img in display.images[1]} == {
        img.tobytes() for img in X[y == "photon", ..., 1]
    }
    grey = ImageSamplesDisplay.from_images(X[..., 0], y, n=1)
    assert grey.images.shape == (2, 1, 6, 8)


def test_colours_follow_the_values(showers):
    X, y = showers
    X = np.where(X > 0.5, X, 0)
    wide = ImageSamplesDisplay.from_images(X**4, y)
    (image,) = wide.axes_[0, 0].get_images()
    assert isinstance(image.norm, LogNorm)
    assert image.norm.vmax == wide.images.max()
    narrow = wide.plot(scale="linear")
    assert not isinstance(narrow.axes_[0, 0].get_images()[0].norm, LogNorm)
    signed = ImageSamplesDisplay.from_images(X - 1, y)
    norm = signed.axes_[0, 0].get_images()[0].norm
    assert norm.vmin == -norm.vmax == -np.abs(signed.images).max()
    empty = ImageSamplesDisplay.from_images(0 * X, y, scale="log")
    assert empty.figure_ is not wide.figure_
    with pytest.raises(ValueError, match="scale='logit'"):
        wide.plot(scale="logit")


@pytest.mark.parametrize("weighted", [False, True])
def test_means(showers, weighted, monkeypatch):
    monkeypatch.setattr("skhep_nn.plotting.images._CHUNK", 7)
    X, y = showers
    w = np.random.default_rng(0).random(30) if weighted else None
    display = MeanImagesDisplay.from_images(X, y, sample_weight=w, class_names=["e", "γ"])
    for mean, label in zip(display.means, ["electron", "photon"], strict=True):
        own = y == label
        assert_allclose(
            mean, np.average(X[own, ..., 0], axis=0, weights=None if w is None else w[own])
        )
    left, right, difference = display.axes_[0]
    assert (left.get_title(), right.get_title()) == ("e", "γ")
    first, second = display.means
    assert_allclose(drawn(difference), (second - first) / (second + first))
    assert display.plot(difference=False).axes_.shape == (1, 2)


def test_means_of_many_classes_and_weights_of_nothing(showers):
    X, _ = showers
    y = np.arange(30) % 4
    assert MeanImagesDisplay.from_images(X, y).axes_.shape == (1, 4)
    with pytest.raises(ValueError, match="class 2 sum to zero"):
        MeanImagesDisplay.from_images(X, y, sample_weight=y != 2)


@pytest.mark.parametrize("which", ["random", "sure", "unsure", "wrong"])
def test_predictions_are_chosen_and_named(showers, which):
    X, y = showers
    proba = np.random.default_rng(1).random(30)
    display = PredictionSamplesDisplay.from_predictions(X, y, proba, which=which, n=5)
    numbers = display.images[:, 0, 0].astype(int)
    right = (proba > 0.5) == (y == "photon")
    lead = np.abs(proba - 0.5)
    if which == "unsure":
        assert numbers.tolist() == np.argsort(lead)[:5].tolist()
    elif which != "random":
        pool = np.flatnonzero(right == (which == "sure"))
        assert numbers.tolist() == pool[np.argsort(-lead[pool])][:5].tolist()
    shown = display.axes_.flat[:5]
    for axes, number in zip(shown, numbers, strict=True):
        share = max(proba[number], 1 - proba[number])
        name = "photon" if proba[number] > 0.5 else "electron"
        assert axes.get_title() == f"{name} ({share:.0%})\nis {y[number]}"
        assert axes.title.get_color() == ("tab:green" if right[number] else "tab:red")
    assert not any(axes.axison for axes in display.axes_.flat[5:])


def test_predictions_of_an_estimator(showers):
    X, y = showers
    flat = FunctionTransformer(lambda images: images.reshape(len(images), -1))
    model = make_pipeline(flat, LogisticRegression(max_iter=1000)).fit(X, y)
    display = PredictionSamplesDisplay.from_estimator(
        model, X, y, n=30, class_names=["e", "γ"], random_state=0
    )
    numbers = display.images[:, 0, 0].astype(int)
    assert_allclose(display.proba, model.predict_proba(X)[numbers])
    assert [["electron", "photon"][k] for k in display.true] == y[numbers].tolist()
    assert display.axes_[0, 0].get_title().split()[0] in {"e", "γ"}
    with pytest.raises(NotFittedError):
        PredictionSamplesDisplay.from_estimator(LogisticRegression(), X, y)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"which": "best"}, "which='best'"),
        ({"which": "wrong"}, "no prediction is wrong"),
        ({"n": 0}, "n=0"),
        ({"images": np.zeros((3, 4, 4))}, "2 labels for 3 images"),
        ({"images": np.zeros((2, 16))}, "reshape rows of pixels"),
        ({"channel": 2}, "channel=2 does not exist"),
        ({"class_names": ["one"]}, "1 class_names"),
    ],
)
def test_wrong_predictions(changes, match):
    options = {"images": np.zeros((2, 4, 4)), "y_true": [0, 1], "proba": [0.2, 0.8]} | changes
    with pytest.raises(ValueError, match=match):
        PredictionSamplesDisplay.from_predictions(**options)


@pytest.mark.parametrize("display", [ImageSamplesDisplay, MeanImagesDisplay])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"y": [0, 1, 0]}, "3 labels for 2 images"),
        ({"images": [[1.0]]}, "reshape rows"),
        ({"channel": 1}, "channel=1 does not exist"),
        ({"class_names": ["one"]}, "1 class_names"),
    ],
)
def test_wrong_images(display, changes, match):
    with pytest.raises(ValueError, match=match):
        display.from_images(**{"images": np.ones((2, 4, 4)), "y": [0, 1]} | changes)
    with pytest.raises(ValueError, match="n=0"):
        ImageSamplesDisplay.from_images(np.ones((2, 4, 4)), [0, 1], n=0)


def test_feature_maps_that_vary_most(showers):
    X, y = showers
    plan = {"channels": (3, 5), "kernels": 3, "dropout": 0.0, "dense": ()}
    model = CaloCNNClassifier(network_params=plan, max_epochs=1, random_state=0).fit(X, y)
    display = FeatureMapsDisplay.from_estimator(model, X[0], channel=1, n_maps=4)
    assert display.axes_.shape == (2, 5)
    assert_allclose(drawn(display.axes_[0, 0]), X[0, ..., 1])
    maps = feature_maps(model, X[0])
    order = np.argsort(-maps["blocks.1"].std((1, 2)))
    for axes, channel in zip(display.axes_[1, 1:], order, strict=False):
        assert axes.get_title() == f"blocks.1 [{channel}]"
        assert_allclose(drawn(axes), maps["blocks.1"][channel])
    assert not display.axes_[0, 4].axison  # the first block has three channels


def test_binned_scores_with_errors(showers):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 2)), np.arange(300) % 2
    model = LogisticRegression().fit(X + y[:, None], y)
    energy = rng.uniform(0, 10, 300)
    display = BinnedScoresDisplay.from_estimator(
        model, X + y[:, None], y, values=energy, bins=3, xlabel="E (GeV)"
    )
    expected = binned_scores(energy, y, model.predict_proba(X + y[:, None]), bins=3)
    assert display.scores.equals(expected)
    (bars,) = display.ax_.containers
    points, _, (horizontal, vertical) = bars
    assert_allclose(points.get_xdata(), expected["mean"])
    assert_allclose(points.get_ydata(), expected["auc"])
    ends = np.array([segment[:, 0] for segment in horizontal.get_segments()])
    assert_allclose(ends, expected[["low", "high"]])
    ends = np.array([segment[:, 1] for segment in vertical.get_segments()])
    assert_allclose(np.diff(ends)[:, 0], 2 * expected["auc_error"])
    assert display.ax_.get_xlabel() == "E (GeV)"
    assert display.ax_.get_legend().get_texts()[0].get_text() == "LogisticRegression"
    second = BinnedScoresDisplay(scores=expected).plot(ax=display.ax_, score="accuracy")
    assert second.figure_ is display.figure_
    assert len(display.ax_.containers) == 2
    with pytest.raises(ValueError, match="score='f1'"):
        display.plot(score="f1")


def test_plot_again_in_the_place_of_given_axes(showers):
    X, y = showers
    figure, (left, right) = plt.subplots(1, 2)
    samples = ImageSamplesDisplay.from_images(X, y, n=2, ax=left)
    means = MeanImagesDisplay.from_images(X, y, ax=right)
    assert samples.figure_ is means.figure_ is figure
    assert not left.axison
    figure.canvas.draw()
    border = figure.transFigure.inverted().transform_bbox(right.get_window_extent()).x0
    for grid, inside in ((samples, lambda x: x < border), (means, lambda x: x >= border - 0.01)):
        assert all(inside(axes.get_position().x0) for axes in grid.axes_.flat)
        assert grid.plot() is grid
        assert grid.figure_ is not figure


@pytest.mark.slow
def test_error_without_matplotlib_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np\n"
        "from skhep_nn.plotting import MeanImagesDisplay as Display\n"
        "Display.from_images(np.ones((2, 4, 4)), [0, 1])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "skhep_nn[plot]" in run.stderr


def test_predictions_of_a_regressor_are_refused(showers):
    X, y = showers
    model = DummyRegressor().fit(np.zeros((len(X), 1)), np.zeros(len(X)))
    with pytest.raises(TypeError, match="DummyRegressor is no classifier"):
        PredictionSamplesDisplay.from_estimator(model, X, y)
