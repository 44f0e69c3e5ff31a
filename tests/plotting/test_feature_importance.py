import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose

from skhep_nn.inspection import forest_importance, mutual_dependence, rank_correlations
from skhep_nn.plotting import (
    FeatureImportanceDisplay,
    MutualDependenceDisplay,
    RankCorrelationDisplay,
)
from skhep_nn.plotting.heatmap import draw_heatmap


@pytest.fixture
def importance():
    return pd.DataFrame(
        {
            "feature": ["mass", "angle", "noise"],
            "importance": [0.3, 0.1, -0.001],
            "importance_error": [0.02, 0.01, np.nan],
            "score": 0.8,
            "score_error": 0.01,
        }
    )


@pytest.fixture
def dependence():
    """Three features; `b` is the easiest, and its rows are not in the order of the features."""
    rows = [
        ("b", 0.9, "c", 1.3),
        ("b", 0.9, "a", 0.2),
        ("c", 0.5, "b", 0.4),
        ("c", 0.5, "a", -0.001),
        ("a", -0.1, "b", 0.05),
        ("a", -0.1, "c", 0.0),
    ]
    columns = ["target", "dependence", "feature", "importance"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(dependence_error=np.nan, importance_error=np.nan)


def tick_texts(ticks):
    return [label.get_text() for label in ticks]


def cell_texts(text):
    return [[None if cell is None else cell.get_text() for cell in row] for row in text]


def test_importance_is_drawn_from_the_top(importance):
    display = FeatureImportanceDisplay(importance=importance).plot(threshold=0.005, color="k")
    ax = display.ax_
    assert tick_texts(ax.get_yticklabels()) == ["mass", "angle", "noise"]
    assert ax.yaxis_inverted()
    assert_allclose([bar.get_width() for bar in ax.patches], importance["importance"])
    assert ax.patches[0].get_facecolor() == to_rgba("k")
    error_bars = ax.collections[0].get_segments()
    assert_allclose(error_bars[0][:, 0], [0.28, 0.32])
    assert_allclose(ax.get_lines()[-1].get_xdata(), 0.005)


def test_importance_of_the_best_alone(importance):
    display = FeatureImportanceDisplay(importance=importance).plot(max_features=2)
    assert tick_texts(display.ax_.get_yticklabels()) == ["mass", "angle"]
    assert not [line for line in display.ax_.get_lines() if len(line.get_xdata()) == 2]


def test_displays_hold_what_the_functions_return():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 3)), np.arange(100) % 2
    w = rng.gamma(2.0, size=100)
    options = {"sample_weight": w, "n_forests": 2, "random_state": 0}
    pd.testing.assert_frame_equal(
        FeatureImportanceDisplay.from_data(X, y, **options).importance,
        forest_importance(X, y, **options),
    )
    pd.testing.assert_frame_equal(
        MutualDependenceDisplay.from_data(X, **options).dependence, mutual_dependence(X, **options)
    )
    pd.testing.assert_frame_equal(
        RankCorrelationDisplay.from_data(X, sample_weight=w, cluster=False).correlations,
        rank_correlations(X, sample_weight=w, cluster=False),
    )


def test_correlations_are_drawn_in_their_order():
    names = ["b", "a"]
    table = pd.DataFrame([[1.0, -0.004], [-0.004, 1.0]], index=names, columns=names)
    display = RankCorrelationDisplay(correlations=table).plot()
    assert tick_texts(display.ax_.get_xticklabels()) == names
    assert tick_texts(display.ax_.get_yticklabels()) == names
    assert cell_texts(display.text_) == [["1.00", "0.00"], ["0.00", "1.00"]]
    (image,) = display.ax_.get_images()
    assert_allclose(image.get_array(), table)
    assert image.get_clim() == (-1.0, 1.0)


def test_dependence_has_its_own_column(dependence):
    display = MutualDependenceDisplay(dependence=dependence).plot()
    assert tick_texts(display.ax_.get_yticklabels()) == ["b", "c", "a"]
    assert tick_texts(display.ax_.get_xticklabels()) == ["Dependence", "b", "c", "a"]
    assert cell_texts(display.text_) == [
        ["0.90", None, "1.30", "0.20"],
        ["0.50", "0.40", None, "0.00"],
        ["-0.10", "0.05", "0.00", None],
    ]
    (image,) = display.ax_.get_images()
    assert image.get_clim() == (0.0, 1.0)


def test_numbers_stand_out_from_their_cells(dependence):
    display = MutualDependenceDisplay(dependence=dependence).plot()
    assert display.text_[0, 0].get_color() == "white"
    assert display.text_[2, 1].get_color() == "black"
    assert (
        MutualDependenceDisplay(dependence=dependence).plot(values_format=None).text_ == [None]
    ).all()


@pytest.mark.parametrize(
    ("display", "options"),
    [
        (FeatureImportanceDisplay, "importance"),
        (MutualDependenceDisplay, "dependence"),
        (RankCorrelationDisplay, "correlations"),
    ],
)
def test_plots_in_given_axes(display, options, importance, dependence):
    tables = {
        "importance": importance,
        "dependence": dependence,
        "correlations": pd.DataFrame(np.eye(2)),
    }
    figure, (left, right) = plt.subplots(1, 2)
    size = figure.get_size_inches().copy()
    drawn = display(**{options: tables[options]})
    assert drawn.plot(ax=right) is drawn
    assert drawn.ax_ is right
    assert drawn.figure_ is figure
    assert not left.has_data()
    assert_allclose(figure.get_size_inches(), size)


def test_new_figures_grow_with_the_table():
    sizes = []
    for n in (3, 20):
        table = pd.DataFrame(np.eye(n))
        sizes.append(RankCorrelationDisplay(correlations=table).plot().figure_.get_size_inches())
    assert (sizes[1] > sizes[0] + 5).all()


def test_long_names_are_turned():
    for names, rotation in ((["a", "b"], 0), (["DER_mass_MMC", "b"], 90)):
        drawn = draw_heatmap(
            None,
            np.eye(2),
            rows=names,
            columns=names,
            values_format=None,
            label="",
            options={"cmap": "Blues"},
        )
        assert drawn.ax.get_xticklabels()[0].get_rotation() == rotation
        assert drawn.ax.get_yticklabels()[0].get_rotation() == 0
