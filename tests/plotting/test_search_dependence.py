"""Displays of a search: candidates, dependence of the score, progress and size."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import RandomizedSearchCV

from skhep_nn.plotting import (
    SearchDependenceDisplay,
    SearchProgressDisplay,
    SearchSamplesDisplay,
    SearchSizeDisplay,
)
from skhep_nn.tuning import fit_search_model

NAMES = ["depth", "decay", "activation"]


@pytest.fixture(scope="module")
def results():
    rng = np.random.default_rng(0)
    n = 60
    depth, decay = rng.integers(2, 9, n), rng.choice([0, 1e-10, 1e-9, 1e-8, 1e-7], n)
    activation = rng.choice(["swish", "relu"], n)
    score = -((depth - 5.0) ** 2) / 50 - 0.1 * (activation == "relu")
    return {
        "param_depth": depth,
        "param_decay": decay,
        "param_activation": activation,
        "n_parameters": 1000 * depth**2,
        "mean_test_score": score + rng.normal(scale=0.01, size=n),
        "std_test_score": np.full(n, 0.02),
    }


@pytest.fixture(scope="module")
def model(results):
    return fit_search_model(results, random_state=0)


@pytest.fixture(scope="module")
def search():
    X = np.random.default_rng(0).normal(size=(50, 3))
    space = {"alpha": [0.01, 0.1, 1, 10, 100], "tol": [1e-4, 1e-3, 1e-2]}
    return RandomizedSearchCV(Ridge(), space, n_iter=12, cv=2, random_state=0).fit(X, X[:, 0])


def points_of(ax):
    (drawn,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    return np.asarray(drawn.get_offsets())


def red_point(ax):
    (line,) = [line for line in ax.get_lines() if line.get_color() == "tab:red"]
    return float(line.get_xdata()[0]), float(line.get_ydata()[0])


# -- candidates -----------------------------------------------------------------------------------


def test_samples(results):
    display = SearchSamplesDisplay.from_results(results)
    axes = display.axes_
    assert axes.shape == (3, 3)
    assert axes[0, 1] is None
    assert_array_equal(points_of(axes[1, 0])[:, 0], results["param_depth"])
    logs = np.log10(np.where(results["param_decay"] > 0, results["param_decay"], 1e-11))
    assert_allclose(points_of(axes[1, 0])[:, 1], logs)
    best = results["mean_test_score"].argmax()
    assert_allclose(red_point(axes[1, 0]), (results["param_depth"][best], logs[best]))
    heights = [bar.get_height() for bar in axes[0, 0].patches]
    counts = np.bincount(results["param_depth"])[2:]
    assert [height for height in heights if height] == counts.tolist()
    assert [t.get_text() for t in axes[2, 2].get_xticklabels()] == ["relu", "swish"]
    assert axes[1, 0].get_yticklabels()[0].get_text() == "0"
    assert [axes[2, k].get_xlabel() for k in range(3)] == NAMES


def test_samples_of_a_search(search):
    figure = plt.figure()
    display = SearchSamplesDisplay.from_estimator(search, parameters=["alpha"], figure=figure)
    assert display.figure_ is figure
    assert display.axes_.shape == (1, 1)
    assert sum(bar.get_height() for bar in display.axes_[0, 0].patches) == 12


# -- dependence of the score ----------------------------------------------------------------------


def test_dependence(model, results):
    display = SearchDependenceDisplay.from_model(model)
    expected = model.partial_dependence("depth")
    pd.testing.assert_frame_equal(display.single["depth"], expected)
    ax = display.axes_[0, 0]
    curve, red = ax.get_lines()
    assert_allclose(curve.get_ydata(), expected["mean"])
    best = results["mean_test_score"].argmax()
    assert red.get_xdata()[0] == results["param_depth"][best]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert_allclose(band.max(), (expected["mean"] + expected["std"]).max())
    pd.testing.assert_frame_equal(
        display.pairs["depth", "decay"], model.partial_dependence("depth", "decay")
    )
    assert len({ax.get_ylim() for ax in display.axes_.diagonal()}) == 1
    assert_array_equal(points_of(display.axes_[1, 0])[:, 0], results["param_depth"])


def test_map_of_a_category(model):
    display = SearchDependenceDisplay.from_model(model, parameters=["depth", "activation"])
    (mesh,) = [c for c in display.axes_[1, 0].collections if isinstance(c, QuadMesh)]
    expected = display.pairs["depth", "activation"].set_index(["activation", "depth"])["mean"]
    assert_allclose(mesh.get_array(), expected.unstack())
    assert mesh.get_array()[1].max() > mesh.get_array()[0].max()  # swish, below it relu


def test_options_of_the_dependence(model):
    display = SearchDependenceDisplay.from_model(model, parameters=["depth"], n_points=4)
    assert len(display.single["depth"]) == 4
    assert display.axes_.shape == (1, 1)
    figure = plt.figure()
    full = SearchDependenceDisplay.from_model(model, n_points=4)
    full.plot(figure, candidates=False, cmap="magma")
    assert full.figure_ is figure
    with pytest.raises(ValueError, match="not enough values"):
        points_of(full.axes_[1, 0])


def test_dependence_of_a_search(search):
    display = SearchDependenceDisplay.from_estimator(search)
    assert display.single["alpha"].set_index("alpha")["mean"].idxmax() == 0.01
    assert display.axes_[-1, -1].get_xlabel() == display.model.parameters[-1]


def test_searches_only():
    with pytest.raises(TypeError, match="got LinearRegression"):
        SearchDependenceDisplay.from_estimator(LinearRegression().fit([[0], [1]], [0, 1]))
    with pytest.raises(NotFittedError):
        SearchSamplesDisplay.from_estimator(RandomizedSearchCV(Ridge(), {}))


# -- progress and size ----------------------------------------------------------------------------


def test_progress():
    results = {"mean_test_score": [np.nan, -0.5, -0.6, -np.inf, -0.4]}
    display = SearchProgressDisplay.from_results(results, name="random")
    assert_array_equal(display.table["best"], [np.nan, -0.5, -0.5, -0.5, -0.4])
    assert_array_equal(display.table["candidate"], np.arange(1, 6))
    step, dots = display.ax_.get_lines()
    assert_array_equal(step.get_ydata(), display.table["best"])
    assert_array_equal(dots.get_ydata(), [np.nan, -0.5, -0.6, np.nan, -0.4])
    second = SearchProgressDisplay.from_results(results, name="model", ax=display.ax_)
    texts = [text.get_text() for text in second.ax_.get_legend().get_texts()]
    assert texts == ["random", "model"]
    assert len({line.get_color() for line in display.ax_.get_lines()}) == 2


def test_progress_of_a_search(search):
    display = SearchProgressDisplay.from_estimator(search, candidates=False)
    assert display.table["best"].iloc[-1] == search.best_score_
    assert len(display.ax_.get_lines()) == 1
    assert display.ax_.get_legend() is None


def test_size():
    rng = np.random.default_rng(0)
    sizes = rng.uniform(5e3, 1e5, 200)
    score = -0.4 + 0.002 * sizes / 1e4 + rng.normal(scale=0.01, size=200)
    score[0] = np.nan
    results = {
        "n_parameters": sizes,
        "mean_test_score": score,
        "std_test_score": np.full(200, 0.02),
    }
    display = SearchSizeDisplay.from_results(results)
    assert len(display.table) == 199
    assert abs(display.slope - 0.002) < 3 * display.slope_error
    # Standard error of the slope of a line: scatter / (spread of sizes * sqrt(n)).
    assert_allclose(display.slope_error, 0.01 / (sizes.std() / 1e4 * np.sqrt(199)), rtol=0.15)
    assert_allclose(display.intercept, -0.4, atol=0.005)
    line = display.ax_.get_lines()[-1]
    slope = np.diff(line.get_ydata()) / np.diff(line.get_xdata())
    assert_allclose(slope, display.slope / 1e4)
    drawn = SearchSizeDisplay.from_results(results, error_bars=True, log_x=True).ax_
    assert drawn.get_xscale() == "log"
    assert drawn.containers[0].has_yerr


def test_results_that_cannot_be_drawn(search, results):
    with pytest.raises(ValueError, match="'n_parameters' is not in the results"):
        SearchSizeDisplay.from_estimator(search)
    with pytest.raises(ValueError, match="three candidates"):
        SearchSizeDisplay.from_results({"n_parameters": [1, 1, 1], "mean_test_score": [1, 2, 3]})
    with pytest.raises(ValueError, match="mean_test_auc"):
        SearchProgressDisplay.from_results(results, score="mean_test_auc")
