import numpy as np
import pytest
from sklearn.base import clone

from skhep_nn import Constant, CosineRestarts, DenseNetClassifier, OneCycle, ReduceOnPlateau
from skhep_nn.training import CyclicLR


def whole(schedule, n_epochs=15, n_steps=90):
    passes = [schedule.rates(e, n_epochs=n_epochs, n_steps=n_steps) for e in range(n_epochs)]
    momentum = [p.momentum for p in passes]
    return np.concatenate([p.lr for p in passes]), momentum[0] if momentum[
        0
    ] is None else np.concatenate(momentum)


def test_one_cycle_is_figure_9_of_the_study():
    lr, momentum = whole(OneCycle())
    peak = len(lr) // 3
    assert lr.argmax() == peak
    assert momentum.argmin() == peak
    np.testing.assert_allclose([lr[0], lr[peak]], [1e-4, 1e-2])
    np.testing.assert_allclose([momentum[0], momentum[peak]], [0.95, 0.85])
    assert np.all(np.diff(lr[: peak + 1]) > 0)
    assert np.all(np.diff(lr[peak:]) < 0)
    assert lr[-1] < 1e-7
    assert momentum[-1] == pytest.approx(0.95, abs=1e-5)


def test_one_cycle_halves_are_half_cosines():
    lr, momentum = whole(OneCycle(max_lr=1.0, initial_lr=1e-9))
    t = np.arange(450) / 450
    np.testing.assert_allclose(lr[:450], (1 - np.cos(np.pi * t)) / 2, atol=1e-8)
    np.testing.assert_allclose(momentum[:450], 0.95 - 0.1 * (1 - np.cos(np.pi * t)) / 2)
    t = np.arange(900) / 900
    np.testing.assert_allclose(lr[450:], (1 + np.cos(np.pi * t)) / 2, atol=1e-12)


def test_a_pass_of_one_step():
    lr, _ = whole(OneCycle(), n_epochs=1, n_steps=1)
    np.testing.assert_allclose(lr, [1e-4])


def test_constant():
    lr, momentum = whole(Constant(3e-3))
    np.testing.assert_array_equal(lr, 3e-3)
    assert momentum is None


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(lr=0),
        OneCycle(max_lr=-1),
        OneCycle(initial_lr=np.nan),
        OneCycle(final_lr=-1e-3),
        OneCycle(warmup=1),
        OneCycle(min_momentum=0.99),
        CosineRestarts(max_lr=0),
        CosineRestarts(final_lr=1),
        CosineRestarts(cycle=0),
        CosineRestarts(growth=0.5),
        CyclicLR(max_lr=np.inf),
        CyclicLR(min_lr=-1e-4),
        CyclicLR(min_lr=1),
        CyclicLR(cycle=0),
        CyclicLR(cycle=0.5),
        ReduceOnPlateau(lr=np.inf),
        ReduceOnPlateau(factor=1),
        ReduceOnPlateau(patience=0),
        ReduceOnPlateau(threshold=-1),
        ReduceOnPlateau(min_lr=1),
    ],
)
def test_bad_parameters(schedule):
    with pytest.raises(ValueError, match="must"):
        schedule.rates(0, n_epochs=1, n_steps=1)


def test_parameters_are_reachable_and_cloned():
    schedule = clone(OneCycle(max_lr=0.5)).set_params(warmup=0.2)
    assert schedule.get_params()["max_lr"] == 0.5
    assert schedule.get_params()["warmup"] == 0.2


def test_restarts_are_half_cosines_of_doubling_length():
    lr, momentum = whole(CosineRestarts(max_lr=0.3), n_epochs=7, n_steps=40)
    assert momentum is None
    for start, length in ((0, 40), (40, 80), (120, 160)):
        t = np.arange(length) / length
        part = lr[start : start + length]
        np.testing.assert_allclose(part, 0.15 * (1 + np.cos(np.pi * t)), atol=1e-12)


def test_one_cosine_over_the_whole_fit():
    lr, _ = whole(CosineRestarts(max_lr=1.0, final_lr=0.1, cycle=None), n_epochs=5, n_steps=20)
    t = np.arange(100) / 100
    np.testing.assert_allclose(lr, 0.1 + 0.45 * (1 + np.cos(np.pi * t)))


def test_the_cosine_cycles_of_section_3_7():
    lr, _ = whole(CosineRestarts(2e-3, final_lr=2e-4, cycle=5, growth=1))
    t = np.arange(450) / 450
    np.testing.assert_allclose(lr, np.tile(2e-4 + 0.9e-3 * (1 + np.cos(np.pi * t)), 3))


@pytest.mark.parametrize(("cycle", "n_steps"), [(1, 90), (5, 90), (3, 1), (1, 1), (2, 7)])
def test_linear_cycles(cycle, n_steps):
    lr, momentum = whole(CyclicLR(0.5, min_lr=0.1, cycle=cycle), n_steps=n_steps)
    assert momentum is None
    t = np.arange(len(lr)) / n_steps
    np.testing.assert_allclose(lr, np.interp(t % cycle, [0, cycle / 2, cycle], [0.1, 0.5, 0.1]))


def test_ends_of_cycles():
    assert CosineRestarts().cycle_ends(15) == [0, 2, 6, 14]
    assert CosineRestarts().cycle_ends(14) == [0, 2, 6]
    assert CosineRestarts(cycle=5, growth=1).cycle_ends(17) == [4, 9, 14]
    assert CosineRestarts(cycle=None).cycle_ends(15) == []
    assert CyclicLR().cycle_ends(3) == [0, 1, 2]
    assert CyclicLR(cycle=4).cycle_ends(9) == [3, 7]


@pytest.mark.parametrize(
    "schedule", [CosineRestarts(growth=1.5), CosineRestarts(growth=1, cycle=3), CyclicLR(cycle=2)]
)
def test_the_rate_is_lowest_where_a_cycle_ends(schedule):
    """The first step after it starts a new one, unless the cycle ended within a pass."""
    n_steps = 50
    lr, _ = whole(schedule, n_epochs=16, n_steps=n_steps)
    lows = 1 + np.flatnonzero((lr[1:-1] < lr[:-2]) & (lr[1:-1] <= lr[2:]))
    ends = schedule.cycle_ends(16)
    for end, low in zip(ends, lows, strict=False):
        assert n_steps * (end + 1) <= low + 1 < n_steps * (end + 2)


def plateau(losses, **params):
    schedule = ReduceOnPlateau(**{"lr": 1.0, "patience": 2} | params)
    lr = schedule.rates(len(losses), n_epochs=99, n_steps=3, valid_losses=losses).lr
    assert len(set(lr.tolist())) == 1
    return lr[0]


def test_plateau():
    assert plateau([5, 4, 3]) == 1
    assert plateau([5, 5]) == 1
    assert plateau([5, 5, 5]) == pytest.approx(0.1)
    assert plateau([5, 5, 5, 5, 5]) == pytest.approx(0.01)
    assert plateau([5, 6, 4, 6, 6]) == pytest.approx(0.1)
    assert plateau([5, 5 - 1e-5, 5 - 2e-5]) == pytest.approx(0.1)
    assert plateau([-5, -6, -7]) == 1
    assert plateau([5] * 99, min_lr=0.3, factor=0.5) == pytest.approx(0.3)


def test_plateau_needs_a_validation_loss():
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    model = DenseNetClassifier(schedule=ReduceOnPlateau(), max_epochs=3, random_state=0)
    with pytest.raises(ValueError, match="needs a validation loss"):
        model.fit(X, y)
    model.set_params(early_stopping=True, schedule__patience=1, schedule__threshold=10.0)
    history = model.fit(X, y).history_
    np.testing.assert_allclose(history.lr, [1e-3, 1e-3, 1e-4])


def test_no_rate_is_above_the_largest():
    passes = [OneCycle(max_lr=1e-5).rates(e, n_epochs=4, n_steps=30).lr for e in range(4)]
    lr = np.concatenate(passes)
    assert lr.max() == 1e-5
    assert (np.diff(lr) <= 0).all()


def test_rates_that_are_no_numbers():
    with pytest.raises(ValueError, match="lr='fast' must be a positive number"):
        Constant("fast").rates(0, n_epochs=2, n_steps=3)
