"""Heat map of a search over parameters."""

import subprocess
import sys
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn.plotting import SearchHeatmapDisplay

GRID = {
    "kneighborsregressor__n_neighbors": [9, 1, 3],
    "kneighborsregressor__weights": ["uniform", "distance"],
    "kneighborsregressor__p": [1, 2],
}


@pytest.fixture(scope="module")
def sample():
    X = np.random.default_rng(0).random((60, 2))
    return X, X @ [1, 2]


@pytest.fixture(scope="module")
def search(sample):
    model = make_pipeline(StandardScaler(), KNeighborsRegressor())
    return GridSearchCV(model, GRID, cv=2, scoring="neg_mean_squared_error").fit(*sample)


def expected(search, neighbours, weights, reduce):
    """Return the score of a cell, computed from the results of the search."""
    scores = [
        score
        for params, score in zip(
            search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
        )
        if params["kneighborsregressor__n_neighbors"] == neighbours
        and params["kneighborsregressor__weights"] == weights
    ]
    assert len(scores) == 2
    return reduce(scores)


@pytest.mark.parametrize(("others", "reduce"), [("best", max), ("mean", np.mean)])
def test_cells_hold_the_scores_of_their_parameters(search, others, reduce):
    display = SearchHeatmapDisplay.from_estimator(
        search, x="n_neighbors", y="kneighborsregressor__weights", others=others
    )
    cells = display.cells
    assert list(cells.columns) == ["1", "3", "9"]
    assert list(cells.index) == ["uniform", "distance"]
    assert (cells.columns.name, cells.index.name) == ("n_neighbors", "weights")
    for neighbours in (1, 3, 9):
        for weights in ("uniform", "distance"):
            value = expected(search, neighbours, weights, reduce)
            assert cells.loc[weights, str(neighbours)] == pytest.approx(value)


def test_plot_shows_the_cells(search):
    display = SearchHeatmapDisplay.from_estimator(search, x="n_neighbors", y="weights")
    ax = display.ax_
    (image,) = ax.get_images()
    assert_allclose(image.get_array(), display.cells)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("n_neighbors", "weights")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3", "9"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["uniform", "distance"]
    for place, value in np.ndenumerate(display.cells.to_numpy()):
        text = display.text_[place]
        assert text.get_position() == place[::-1]
        assert float(text.get_text()) == pytest.approx(value, rel=1e-2)
    colours = Counter(text.get_color() for text in display.text_.flat)
    assert set(colours) == {"black", "white"}
    (frame,) = ax.patches
    best = np.unravel_index(display.cells.to_numpy().argmax(), display.cells.shape)
    assert_allclose(np.array(frame.get_center()), best[::-1])
    colour_bar = display.figure_.axes[1]
    assert colour_bar.get_ylabel() == "Mean test neg_mean_squared_error"


def test_plot_again(search):
    figure, (left, right) = plt.subplots(1, 2)
    display = SearchHeatmapDisplay.from_estimator(search, x="p", y="weights", ax=left)
    assert display.ax_ is left
    again = display.plot(ax=right, values_format=None, cmap="magma", vmin=-1)
    assert again is display
    assert display.figure_ is figure
    assert display.ax_ is right
    assert not right.texts
    assert not any(display.text_.flat)
    (image,) = right.get_images()
    assert (image.cmap.name, image.norm.vmin) == ("magma", -1)
    assert len(figure.axes) == 4  # two of them colour bars
    rough = display.plot(values_format=".1f")
    assert rough.figure_ is not figure
    assert all(len(text.get_text()) == 4 for text in rough.text_.flat)


def test_results_are_tidy_and_best_first(search):
    table = SearchHeatmapDisplay.from_estimator(search, x="p", y="weights").results
    assert list(table.columns) == [
        "n_neighbors", "p", "weights", "mean_score", "std_score", "fit_seconds",
    ]  # fmt: skip
    found = search.cv_results_
    order = np.argsort(found["rank_test_score"], kind="stable")
    assert_allclose(table["mean_score"], found["mean_test_score"][order])
    assert_allclose(table["std_score"], found["std_test_score"][order])
    assert_allclose(table["fit_seconds"], found["mean_fit_time"][order])
    for row, params in zip(table.itertuples(), np.array(found["params"])[order], strict=True):
        assert row.n_neighbors == params["kneighborsregressor__n_neighbors"]
        assert row.weights == params["kneighborsregressor__weights"]
        assert row.p == params["kneighborsregressor__p"]
    assert table["n_neighbors"].dtype == np.int64


def test_random_search_leaves_cells_empty(sample):
    space = {"n_neighbors": [1, 3, 9, 15], "p": [1, 1.5, 2]}
    search = RandomizedSearchCV(KNeighborsRegressor(), space, n_iter=5, cv=2, random_state=0)
    search.fit(*sample)
    display = SearchHeatmapDisplay.from_estimator(search, x="n_neighbors", y="p")
    assert display.cells.notna().sum().sum() == 5
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        place = f"{params['p']:g}", str(params["n_neighbors"])
        assert display.cells.loc[place] == pytest.approx(score)
    written = np.array([text is not None for text in display.text_.flat])
    assert_allclose(written, display.cells.notna().to_numpy().ravel())


def test_several_scorers(sample):
    scoring = ["r2", "neg_mean_absolute_error"]
    model = KNeighborsRegressor()
    grid = {"n_neighbors": [1, 3], "p": [1, 2]}
    search = GridSearchCV(model, grid, cv=2, scoring=scoring, refit=scoring[1]).fit(*sample)
    display = SearchHeatmapDisplay.from_estimator(search, x="n_neighbors", y="p")
    assert display.score == scoring[1]
    assert display.cells.max().max() == search.cv_results_[f"mean_test_{scoring[1]}"].max()
    other = SearchHeatmapDisplay.from_estimator(search, x="n_neighbors", y="p", score="r2")
    assert other.cells.max().max() == search.cv_results_["mean_test_r2"].max()
    with pytest.raises(ValueError, match=r"score='score' is not in the results.*'r2'"):
        SearchHeatmapDisplay.from_results(search.cv_results_, x="n_neighbors", y="p")


def test_a_table_of_results_gives_the_same(search):
    first = SearchHeatmapDisplay.from_results(search.cv_results_, x="n_neighbors", y="weights")
    table = pd.DataFrame(search.cv_results_)
    second = SearchHeatmapDisplay.from_results(table, x="n_neighbors", y="weights")
    pd.testing.assert_frame_equal(first.cells, second.cells)
    pd.testing.assert_frame_equal(first.results, second.results)


def test_values_of_any_kind():
    """Lists, objects and None are shown by their repr; only numbers are sorted."""
    values = np.empty(4, dtype=object)
    values[:] = [[16, 32], None, Ridge(), True]
    results = {
        "param_a__channels": np.ma.array(values),
        "param_lr": np.ma.array([1e-2, 1e-3, 1e-3, 2e-2]),
        "mean_test_score": np.arange(4.0),
    }
    display = SearchHeatmapDisplay.from_results(results, x="lr", y="channels")
    assert list(display.cells.index) == ["[16, 32]", "None", "Ridge()", "True"]
    assert list(display.cells.columns) == ["0.001", "0.01", "0.02"]
    assert display.cells.loc["[16, 32]", "0.01"] == 0
    assert display.results["channels"][3] == [16, 32]
    assert display.results["fit_seconds"].isna().all()


def test_candidates_without_the_parameter_are_left_out(sample):
    grids = [{"n_neighbors": [1, 3], "p": [1, 2]}, {"n_neighbors": [9]}]
    search = GridSearchCV(KNeighborsRegressor(), grids, cv=2).fit(*sample)
    assert search.cv_results_["param_p"].mask.sum() == 1
    for results in (search.cv_results_, pd.DataFrame(search.cv_results_)):
        display = SearchHeatmapDisplay.from_results(results, x="n_neighbors", y="p")
        assert list(display.cells.columns) == ["1", "3"]
        assert list(display.cells.index) == ["1", "2"]
        assert len(display.results) == 5
        (without,) = display.results["p"][display.results["n_neighbors"] == 9]
        assert without is None or np.isnan(without)


def test_failed_fits_leave_their_cell_empty(sample):
    grid = {"learning_rate": [-1.0, 0.1], "max_iter": [2, 3]}
    search = GridSearchCV(HistGradientBoostingRegressor(), grid, cv=2, error_score=np.nan)
    with pytest.warns(Warning, match="fits failed|non-finite"):
        search.fit(*sample)
    display = SearchHeatmapDisplay.from_estimator(search, x="learning_rate", y="max_iter")
    assert display.cells["-1"].isna().all()
    assert display.cells["0.1"].notna().all()
    assert display.results["mean_score"].isna().tolist() == [False, False, True, True]
    nothing = {"param_a": [1, 2], "param_b": [1, 1], "mean_test_score": [np.nan, np.nan]}
    assert not SearchHeatmapDisplay.from_results(nothing, x="a", y="b").ax_.patches


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"x": "leaf_size"}, "'leaf_size' is not a parameter"),
        ({"x": "depth"}, "'depth' is the end of several: \\['tree__depth', 'post__depth'\\]"),
        ({"x": "n"}, "are the same parameter"),
        ({"x": "lr"}, "no candidate of the search has both 'lr' and 'tree__n'"),
        ({"x": "tree__depth", "others": "worst"}, "others='worst'"),
        ({"x": "tree__depth", "score": "auc"}, "score='auc' is not in the results"),
    ],
)
def test_wrong_calls(options, match):
    results = {
        "param_tree__depth": [1, 2],
        "param_post__depth": [3, 4],
        "param_tree__n": np.ma.array([1, 2], mask=[True, False]),
        "param_lr": np.ma.array([1, 2], mask=[False, True]),
        "mean_test_score": [0.1, 0.2],
    }
    assert (
        "tree__depth" in SearchHeatmapDisplay.from_results(results, x="tree__depth", y="n").results
    )
    with pytest.raises(ValueError, match=match):
        SearchHeatmapDisplay.from_results(results, **{"y": "tree__n", **options})


def test_estimators_without_results(search, sample):
    with pytest.raises(NotFittedError):
        SearchHeatmapDisplay.from_estimator(GridSearchCV(Ridge(), {}), x="a", y="b")
    with pytest.raises(TypeError, match="such as GridSearchCV, got Ridge"):
        SearchHeatmapDisplay.from_estimator(Ridge().fit(*sample), x="a", y="b")


@pytest.mark.slow
def test_error_without_matplotlib_names_the_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from skhep_nn.plotting import SearchHeatmapDisplay as Display\n"
        "results = {'param_a': [1], 'param_b': [1], 'mean_test_score': [0.5]}\n"
        "Display.from_results(results, x='a', y='b')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "skhep_nn[plot]" in run.stderr
