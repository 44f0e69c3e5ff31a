import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skhep_nn import CosineRestarts, DenseNetClassifier, OneCycle
from skhep_nn.plotting import HistoryDisplay


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def history():
    rows = [(m, e, 1 / (e + 1), 1.2 / (e + 1)) for e in range(4) for m in range(2)]
    table = pd.DataFrame(rows, columns=["member", "epoch", "train_loss", "valid_loss"])
    return table.assign(lr=0.001 * (table["epoch"] + 1), momentum=0.9 - 0.1 * table["epoch"])


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_panels_of_learning_rate_and_momentum(history):
    display = HistoryDisplay(history=history).plot(panels=True)
    (lr,), (momentum,) = display.lr_ax_.get_lines(), display.momentum_ax_.get_lines()
    assert_allclose(lr.get_ydata(), [0.001, 0.002, 0.003, 0.004])
    assert_allclose(momentum.get_ydata(), [0.9, 0.8, 0.7, 0.6])
    assert legend_texts(display.ax_) == ["training", "validation"]
    assert [ax.get_xlabel() for ax in (display.ax_, display.lr_ax_)] == ["", ""]
    assert display.momentum_ax_.get_xlabel() == "Epoch"
    # One below the other, with a common axis.
    display.figure_.canvas.draw()
    boxes = [ax.get_window_extent() for ax in (display.ax_, display.lr_ax_, display.momentum_ax_)]
    assert boxes[0].y0 > boxes[1].y1 > boxes[1].y0 > boxes[2].y1
    display.ax_.set_xlim(0.5, 2.0)
    assert display.momentum_ax_.get_xlim() == (0.5, 2.0)


def test_panels_without_learning_rate(history):
    display = HistoryDisplay(history=history).plot(panels=True, show_lr=False)
    assert display.lr_ax_ is None
    assert display.momentum_ax_.get_xlabel() == "Epoch"


def test_panels_in_given_axes(history):
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    display = HistoryDisplay(history=history).plot(right, panels=True)
    figure.canvas.draw()
    assert display.figure_ is figure
    assert not left.has_data()
    place = right.get_window_extent()
    for ax in (display.ax_, display.lr_ax_, display.momentum_ax_):
        box = ax.get_window_extent()
        assert place.x0 - 1 <= box.x0 <= box.x1 <= place.x1 + 1
        assert place.y0 - 1 <= box.y0 <= box.y1 <= place.y1 + 1


def test_plain_plot_has_no_panels(history):
    display = HistoryDisplay(history=history).plot(panels=True).plot()
    assert display.momentum_ax_ is None
    assert display.ax_.get_xlabel() == "Epoch"
    assert legend_texts(display.ax_)[-1] == "learning rate"
    HistoryDisplay(history=history.drop(columns="momentum")).plot()
    with pytest.raises(ValueError, match=r"lacks the columns \['momentum'\]"):
        HistoryDisplay(history=history.drop(columns="momentum")).plot(panels=True)


def test_further_losses_are_drawn(history):
    """Figure 8: the loss of the model in training, and that of the average of its states."""
    averaged = history.assign(weight_average_loss=0.5 * history["valid_loss"])
    display = HistoryDisplay(history=averaged).plot(panels=True)
    assert legend_texts(display.ax_) == ["training", "validation", "weight average"]
    thick = [line for line in display.ax_.get_lines() if line.get_linewidth() > 1]
    assert_allclose(thick[-1].get_ydata(), 0.6 / np.arange(1, 5))
    assert len({line.get_color() for line in thick}) == 3


@pytest.mark.parametrize("schedule", [OneCycle(), CosineRestarts()])
def test_panels_of_a_network(schedule):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = DenseNetClassifier(schedule=schedule, max_epochs=4, random_state=0)
    display = HistoryDisplay.from_estimator(model.fit(X, X[:, 0] > 0), panels=True)
    for ax, column in ((display.lr_ax_, "lr"), (display.momentum_ax_, "momentum")):
        assert_allclose(ax.get_lines()[0].get_ydata(), model.history_[column])
    assert legend_texts(display.ax_) == ["training"]


def test_what_has_no_history():
    X = np.arange(20.0)[:, None]
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2).fit(X, X[:, 0] > 9)
    with pytest.raises(TypeError, match="GridSearchCV has no history_: give the network"):
        HistoryDisplay.from_estimator(search)
