import numpy as np
import pytest
from sklearn.base import clone

from skhep_nn import Constant, CosineRestarts, DenseNetClassifier, OneCycle, ReduceOnPlateau


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
