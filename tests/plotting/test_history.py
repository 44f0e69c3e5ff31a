"""Display of a training history."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import CosineRestarts, DenseNetClassifier, OneCycle
from skhep_nn.plotting import HistoryDisplay


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
    """Figure 8: the loss of the network in training, and the loss of its averaged weights."""
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


def test_estimator_without_history():
    X = np.arange(20.0)[:, None]
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2).fit(X, X[:, 0] > 9)
    with pytest.raises(TypeError, match="GridSearchCV has no history_: give the fitted network"):
        HistoryDisplay.from_estimator(search)


@pytest.fixture
def three_members():
    rng = np.random.default_rng(0)
    rows = [(m, e, 1 / e + 0.1 * m, 1.2 / e, 0.001 * e) for m in range(3) for e in range(1, 6)]
    table = pd.DataFrame(rows, columns=["member", "epoch", "train_loss", "valid_loss", "lr"])
    return table.assign(momentum=0.9, seconds=rng.random(len(table)))


def test_history_means_over_members(three_members):
    display = HistoryDisplay(history=three_members)
    assert_allclose(display.mean("train_loss"), 1 / np.arange(1, 6) + 0.1)
    stopped = three_members[(three_members.member != 1) | (three_members.epoch < 4)]
    assert list(HistoryDisplay(history=stopped).mean("valid_loss").index) == [1, 2, 3]


def test_history_plot(three_members):
    class Fitted(LogisticRegression):
        history_ = three_members

    display = HistoryDisplay.from_estimator(Fitted(), name="three members")
    # Three thin and one thick line for each of the two losses.
    widths = [line.get_linewidth() for line in display.ax_.get_lines()]
    assert [width > 1 for width in widths] == 2 * [False, False, False, True]
    assert legend_texts(display.ax_) == ["training", "validation", "learning rate"]
    (rate,) = display.lr_ax_.get_lines()
    assert_allclose(rate.get_ydata(), 0.001 * np.arange(1, 6))
    assert display.figure_.get_suptitle() == "three members"


def test_learning_rate_goes_on_after_a_member_stopped(three_members):
    stopped = three_members[(three_members.member != 1) | (three_members.epoch < 4)]
    display = HistoryDisplay(history=stopped).plot()
    (rate,) = display.lr_ax_.get_lines()
    assert_allclose(rate.get_xdata(), np.arange(1, 6))


def test_history_without_validation_or_learning_rate(three_members):
    single = three_members[three_members.member == 0].assign(valid_loss=np.nan)
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


def test_history_with_missing_columns(three_members):
    with pytest.raises(ValueError, match=r"lacks the columns \['lr'\]"):
        HistoryDisplay(history=three_members.drop(columns="lr")).plot()
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(LogisticRegression())


def test_axes_without_figure(three_members):
    _, ax = plt.subplots()
    ax.remove()
    with pytest.raises(ValueError, match="no figure"):
        HistoryDisplay(history=three_members).plot(ax=ax)
