import matplotlib.pyplot as plt
import numpy as np
from numpy.testing import assert_allclose

from skhep_nn import Constant, CosineRestarts, OneCycle, ReduceOnPlateau
from skhep_nn.plotting import ScheduleDisplay


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_one_cycle_is_that_of_the_study():
    """Figure 9: up to 0.01 in 45 folds and down in 90, the momentum from 0.95 to 0.85 and back."""
    display = ScheduleDisplay.from_schedule(OneCycle(), n_epochs=135, n_steps=10)
    assert len(display.lr) == len(display.momentum) == 1350
    assert_allclose(display.lr[[0, 450]], [1e-4, 1e-2])
    assert_allclose(display.momentum[[0, 450]], [0.95, 0.85])
    (lr,), (momentum,) = display.ax_.get_lines(), display.momentum_ax_.get_lines()
    assert_allclose(lr.get_ydata(), display.lr)
    assert_allclose(momentum.get_ydata(), display.momentum)
    assert legend_texts(display.ax_) == ["learning rate", "momentum"]


def test_restarts_are_those_of_the_study():
    """Figure 6: cycles of 1, 2 and 4 epochs from 0.002 to zero."""
    display = ScheduleDisplay.from_schedule(CosineRestarts(), n_epochs=7, n_steps=20)
    rises = np.flatnonzero(np.diff(display.lr) > 0) + 1
    assert_allclose(rises, [20, 60])
    assert_allclose(display.lr[rises], 2e-3)
    assert display.momentum is None
    assert display.momentum_ax_ is None
    assert legend_texts(display.ax_) == ["learning rate"]


def test_schedule_that_looks_at_losses():
    schedule = ReduceOnPlateau(lr=1.0, factor=0.1, patience=1)
    display = ScheduleDisplay.from_schedule(
        schedule, n_epochs=5, n_steps=2, valid_losses=[0.5, 0.6, 0.6, 0.6, 0.6]
    )
    assert display.lr[0] == 1.0
    assert display.lr[-1] < 0.5
    # Later losses must not have an effect.
    assert_allclose(display.lr[:4], 1.0)


def test_plot_options():
    _, (left, right) = plt.subplots(1, 2)
    display = ScheduleDisplay.from_schedule(
        Constant(1e-3), n_epochs=2, n_steps=3, ax=right, log_y=True, color="k"
    )
    assert display.ax_ is right
    assert right.get_yscale() == "log"
    assert right.get_lines()[0].get_color() == "k"
    assert not left.has_data()
