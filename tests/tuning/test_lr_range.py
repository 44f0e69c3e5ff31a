"""The learning-rate range test."""

import threading
import warnings
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping, GradientNormClipping

from skhep_nn import (
    AugmentedClassifier,
    CaloCNNClassifier,
    CaloCNNRegressor,
    CartesianMomenta,
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    load_calo_hdf5,
    lr_range_test,
    make_higgs_events,
)
from skhep_nn.estimators import WaveformClassifier, WaveformRegressor
from skhep_nn.tuning import lr_range as _lr_range

SMALL = {"depth": 1, "width": 8, "random_state": 0}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(640, 3)).astype(np.float32)
    return SimpleNamespace(X=X, y=(X[:, 0] + 0.5 * rng.normal(size=640) > 0).astype(int))


@pytest.fixture(scope="module")
def higgs():
    return make_higgs_events(4000, random_state=0)


def table_of(found):
    return found.table.pivot_table(index="step", columns="member", values="loss")


def quiet(*args, **kwargs):
    """The test, where it does not matter whether the range was wide enough."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return lr_range_test(*args, **kwargs)


# -- what is returned -----------------------------------------------------------------------------


def test_table_is_tidy(rows):
    found = quiet(
        DenseNetClassifier(**SMALL),
        rows.X,
        rows.y,
        min_lr=1e-4,
        max_lr=1e-1,
        n_steps=31,
        n_members=3,
    )
    table = found.table
    assert list(table.columns) == ["member", "step", "lr", "loss", "smoothed_loss"]
    assert len(table) == 93
    assert_array_equal(np.unique(table["member"]), [0, 1, 2])
    rates = table.drop_duplicates("step")["lr"]
    assert_allclose(rates, np.geomspace(1e-4, 1e-1, 31))
    assert np.isfinite(table["loss"]).all()
    assert table_of(found).std(axis=1).min() > 0  # members differ
    assert_allclose(found.mean.index, rates)
    assert_allclose(found.mean, table.groupby("step")["smoothed_loss"].mean())


def test_losses_are_those_of_a_fit(rows):
    """With all rates the same, the mean over the steps of an epoch is the loss in the history of a fit."""
    model = DenseNetClassifier(
        **SMALL, n_members=3, batch_size=32, schedule=Constant(3e-3), max_epochs=2
    ).fit(rows.X, rows.y)
    steps = 14  # of 426 or 427 rows
    found = quiet(
        model, rows.X, rows.y, min_lr=3e-3, max_lr=3e-3 * (1 + 1e-6), n_steps=28, n_members=3
    )
    losses = table_of(found).to_numpy()
    passes = model.history_.pivot_table(index="epoch", columns="member", values="train_loss")
    assert_allclose(losses[:steps].mean(axis=0), passes.loc[0], rtol=1e-4)
    assert_allclose(losses[steps:].mean(axis=0), passes.loc[1], rtol=1e-4)


def test_rates_reach_the_optimiser(rows):
    """While the rates are nothing the parameters stay: every row is seen with its first loss."""
    options = {"n_members": 1, "n_steps": 30, "smoothing": 0, "divergence": 1e9}
    model = DenseNetClassifier(**SMALL, batch_size=640, optimizer="sgd")
    found = quiet(model, rows.X, rows.y, min_lr=1e-12, max_lr=1.0, **options)
    losses = table_of(found)[0].to_numpy()
    assert_allclose(losses[:10], losses[0], rtol=1e-4)
    assert losses[-1] < 0.9 * losses[0]


def test_estimator_stays_as_it_is(rows):
    model = DenseNetClassifier(**SMALL, callbacks=[EarlyStopping()], early_stopping=True)
    before, state = model.get_params(), np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    quiet(model, rows.X, rows.y, n_steps=20, n_members=2)
    assert model.get_params() == before
    assert not [name for name in vars(model) if name.endswith("_")]
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_random_state_decides(rows):
    options = {"n_steps": 20, "n_members": 2}
    first, again = (quiet(DenseNetClassifier(**SMALL), rows.X, rows.y, **options) for _ in range(2))
    other = quiet(DenseNetClassifier(**SMALL | {"random_state": 1}), rows.X, rows.y, **options)
    assert_frame_equal(first.table, again.table)
    assert not np.allclose(first.table["loss"], other.table["loss"])


# -- what is suggested ----------------------------------------------------------------------------


def test_rates_are_read_off_the_curve():
    """A fall by tanh around 1e-4, a minimum at 1e-2, and noise that members share out."""
    lr = np.geomspace(1e-6, 1, 601)
    x = np.log10(lr)
    curve = 1 - 0.3 * np.tanh(3 * (x + 4)) + np.where(x > -3, 0.2 * (x + 2) ** 2, 0.2)
    noise = np.random.default_rng(0).normal(scale=0.02, size=(601, 5))
    losses = curve[:, None] + noise
    smoothed = _lr_range._smoothed(losses, 10.0, 20, np.inf)
    assert np.std(smoothed - curve[:, None]) < 0.5 * noise.std()
    found = _lr_range._result(lr, losses, smoothed, has_diverged=False)
    assert 6e-3 < found.lowest < 1.6e-2
    assert_allclose(found.suggested, found.lowest / 10)
    assert 7e-5 < found.steepest < 1.4e-4
    assert np.isnan(found.diverged)
    assert _lr_range._result(lr, losses, smoothed, has_diverged=True).diverged == 1.0


def test_explosion_does_not_leak_into_the_valley():
    """Losses of 1e12 at the end, smoothed with their neighbours, would hide all else."""
    losses = np.repeat(np.linspace(1, 0.5, 61)[:, None], 2, axis=1)
    losses[0] = 3.0  # a member may begin above the ceiling
    losses[-3:] = [[1e12, 0.5], [np.nan, 0.5], [np.inf, np.inf]]
    smoothed = _lr_range._smoothed(losses, 1.0, 5, 1.5)
    assert smoothed[0].min() > 1.5
    assert ((smoothed[-5:] > 0.4) & (smoothed[-5:] <= 1.5)).all()
    assert 50 < smoothed.mean(axis=1).argmin() < 58


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_suggestion_trains(higgs, optimizer):
    """A few passes at the suggested rate beat those at a thirtieth of it and at the end of the test."""
    X = CartesianMomenta().fit_transform(higgs.data)
    model = DenseNetClassifier(
        class_weight="balanced", optimizer=optimizer, max_epochs=4, random_state=0, n_members=2
    )
    found = lr_range_test(model, X, higgs.target, higgs.sample_weight)
    assert 1e-5 < found.suggested < found.lowest < found.diverged < 10
    assert found.steepest < found.lowest
    losses = []
    for lr in (found.suggested / 30, found.suggested, found.diverged):
        fitted = clone(model).set_params(schedule=Constant(lr))
        with suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # members may be lost, or all
            fitted.fit(X, higgs.target, higgs.sample_weight)
        history = getattr(fitted, "history_", None)
        losses.append(np.inf if history is None else np.mean(history["valid_loss"][-2:]))
    assert losses[1] < losses[0]
    assert not losses[1] > losses[2]  # which may be NaN


def test_ends_at_divergence(rows):
    model = DenseNetRegressor(**SMALL, optimizer="sgd")
    found = lr_range_test(model, rows.X, 3 * rows.X[:, 0], max_lr=1e6)
    assert found.diverged < 1e6
    rates = found.table["lr"]
    assert found.diverged == rates.max()
    first = found.mean.iloc[:10].mean()
    assert found.table["smoothed_loss"].max() < 3 * first
    assert found.lowest < found.diverged
    later = lr_range_test(model, rows.X, 3 * rows.X[:, 0], max_lr=1e6, divergence=100.0)
    assert later.diverged > found.diverged


def test_ends_where_the_loss_is_not_finite(rows):
    model = DenseNetRegressor(**SMALL, optimizer="sgd")
    found = quiet(model, rows.X, 3 * rows.X[:, 0], max_lr=1e30, divergence=1e300)
    assert not np.isfinite(found.table["loss"].iloc[-5:]).all()
    assert np.isfinite(found.table["loss"].iloc[:-5]).all()
    assert np.isfinite(found.table["smoothed_loss"]).all()
    assert found.lowest < found.diverged < 1e30


def test_smoothing(rows):
    model = DenseNetClassifier(**SMALL, batch_size=32)
    raw = quiet(model, rows.X, rows.y, smoothing=0)
    assert_array_equal(raw.table["smoothed_loss"][:-50], raw.table["loss"][:-50])
    smooth = quiet(model, rows.X, rows.y, smoothing=0.2)
    n = min(len(raw.mean), len(smooth.mean))
    assert_array_equal(smooth.table["loss"][:n], raw.table["loss"][:n])
    assert np.diff(smooth.mean).std() < 0.2 * np.diff(raw.mean).std()


def test_says_when_the_range_is_too_short(rows):
    model = DenseNetClassifier(**SMALL)
    with pytest.warns(UserWarning, match=r"still falling .* raise max_lr=0\.001"):
        lr_range_test(model, rows.X, rows.y, max_lr=1e-3)
    with pytest.warns(UserWarning, match=r"near the lower end: lower min_lr=1"):
        lr_range_test(model, rows.X, rows.y, min_lr=1.0, max_lr=1000.0)


# -- which steps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "n_members", "n_steps"),
    [(32, 1, 20), (32, 2, 10), (64, 4, 8), (256, 1, 7), (1, 1, 30)],
)
def test_number_of_steps(rows, monkeypatch, batch_size, n_members, n_steps):
    monkeypatch.setattr(_lr_range, "_FEWEST_STEPS", 7)
    monkeypatch.setattr(_lr_range, "_MOST_STEPS", 30)
    model = DenseNetClassifier(**SMALL, batch_size=batch_size)
    found = quiet(model, rows.X, rows.y, max_lr=1e-3, n_members=n_members)
    assert len(found.mean) == n_steps


def test_event_weights_count(rows):
    model, options = DenseNetClassifier(**SMALL, batch_size=32), {"n_steps": 60, "max_lr": 0.1}
    plain = quiet(model, rows.X, rows.y, **options)
    weight = np.where(rows.y == 1, 5.0, 1.0)
    heavy = quiet(model, rows.X, rows.y, weight, **options)
    assert not np.allclose(plain.table["loss"], heavy.table["loss"], rtol=0.01)
    scaled = quiet(model, rows.X, rows.y, sample_weight=1000 * weight, **options)
    assert_allclose(scaled.table["loss"], heavy.table["loss"], rtol=1e-3)


def test_negative_weights(rows):
    """Totals that all but cancel leave a loss near zero, and negative at times."""
    weight = np.where(np.random.default_rng(0).random(640) < 0.45, -1.0, 1.0)
    found = quiet(DenseNetClassifier(**SMALL), rows.X, rows.y, weight, n_members=2)
    assert np.isfinite(found.suggested)
    assert np.isfinite(found.table["smoothed_loss"]).all()


# -- which estimators -----------------------------------------------------------------------------


def _images(rng):
    return rng.normal(size=(96, 8, 8)).astype(np.float32)


def _traces(rng):
    return rng.normal(size=(96, 64)).astype(np.float32)


CNN = {"channels": (4,), "kernels": 3, "pooling": 2, "dropout": 0.0, "dense": (4,)}
CNN["dense_dropout"] = 0.0
ESTIMATORS = {
    "three classes": (DenseNetClassifier(**SMALL), None, np.arange(96) % 3),
    "two targets": (DenseNetRegressor(**SMALL), None, np.eye(96)[:, :2]),
    "augmentation": (DenseNetClassifier(**SMALL, augmentation=EventAugmenter()), 0, 0),
    "images": (CaloCNNClassifier(network_params=CNN, random_state=0), _images, np.arange(96) % 2),
    "energies": (CaloCNNRegressor(network_params=CNN, random_state=0), _images, np.arange(96.0)),
    "traces": (WaveformClassifier(random_state=0), _traces, np.arange(96) % 2),
    "times": (WaveformRegressor(random_state=0), _traces, np.arange(96.0)),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_network(name):
    estimator, make, y = ESTIMATORS[name]
    if name == "augmentation":
        events = make_higgs_events(96, random_state=0)
        X, y = CartesianMomenta().fit_transform(events.data), events.target
    else:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(96, 3)) if make is None else make(rng)
    found = quiet(estimator, X, y, n_steps=12, n_members=2, max_lr=1e-2)
    assert table_of(found).shape == (12, 2)
    assert found.table["loss"].gt(0).all()


def test_further_arguments_of_fit():
    rng = np.random.default_rng(0)
    X, y, kind = _images(rng), np.arange(96.0), np.arange(96) % 2
    options = {"n_steps": 12, "n_members": 1, "max_lr": 1e-2, "params": {"aux_target": kind}}
    light, heavy = (
        quiet(CaloCNNRegressor(network_params=CNN, aux_weight=w, random_state=0), X, y, **options)
        for w in (0.0, 1000.0)
    )
    assert heavy.table["loss"].iloc[0] > light.table["loss"].iloc[0] + 100


def test_images_in_a_file(tmp_path):
    """Threads that read ahead in the file end with the test, which ends in the middle of an epoch."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        images = np.random.default_rng(0).normal(size=(400, 8, 8))
        file.create_dataset("X", data=images.astype("f4"), chunks=(50, 8, 8))
        file["y"] = np.arange(400) % 2
    data = load_calo_hdf5(tmp_path / "images.hdf5", lazy=True)
    n_threads = threading.active_count()
    model = CaloCNNClassifier(network_params=CNN, batch_size=20, random_state=0)
    found = quiet(model, data.images, data.target, n_steps=13, n_members=2, max_lr=1e-3)
    assert table_of(found).shape == (13, 2)
    assert threading.active_count() == n_threads


def test_pipeline(higgs):
    options = {"n_steps": 20, "n_members": 2, "max_lr": 1e-2}
    network = DenseNetClassifier(**SMALL)
    steps = make_pipeline(CartesianMomenta(), StandardScaler(), network)
    X = steps[:-1].fit_transform(higgs.data)
    inside = quiet(steps, higgs.data, higgs.target, higgs.sample_weight, **options)
    outside = quiet(network, X, higgs.target, higgs.sample_weight, **options)
    assert_frame_equal(inside.table, outside.table)
    alone = quiet(make_pipeline(network), X, higgs.target, higgs.sample_weight, **options)
    assert_frame_equal(alone.table, outside.table)


class _Forbidden(Callback):
    def on_epoch_begin(self, net, **kwargs):
        raise AssertionError("takes part")


def test_callbacks(rows, capsys):
    """What clips gradients changes which rates are bearable; all else would only see to a fit."""
    options = {"n_steps": 40, "n_members": 1, "max_lr": 1.0}
    plain = DenseNetClassifier(**SMALL, optimizer="sgd", verbose=1, callbacks=[_Forbidden()])
    plain.set_callbacks(ProgressBar())
    clips = GradientNormClipping(1e-6)
    kinds = [[("clip", clips)], [clips]]
    free, *clipped = (
        quiet(clone(plain).set_params(callbacks=cbs), rows.X, rows.y, **options)
        for cbs in (plain.callbacks, *kinds)
    )
    assert free.mean.iloc[-1] < 0.9 * free.mean.iloc[0]
    for found in clipped:
        assert found.mean.iloc[-1] > 0.95 * found.mean.iloc[0]
    assert capsys.readouterr().out == ""


def test_errors(rows):
    model = DenseNetClassifier(**SMALL)
    for other in (LinearRegression(), make_pipeline(model, LinearRegression()), "network"):
        with pytest.raises(TypeError, match="needs a network estimator"):
            lr_range_test(other, rows.X, rows.y)
    with pytest.raises(TypeError, match="got AugmentedClassifier"):
        lr_range_test(AugmentedClassifier(model), rows.X, rows.y)
    wrong = {
        "min_lr": 0.0,
        "max_lr": 1e-6,
        "n_steps": 3,
        "n_members": 0,
        "smoothing": -1.0,
        "divergence": 0.0,
    }
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            lr_range_test(model, rows.X, rows.y, **{name: value})
    with pytest.raises(ValueError, match="not finite from the first steps on: lower min_lr"):
        lr_range_test(model, rows.X, rows.y, min_lr=1e30, max_lr=1e35)
    with pytest.raises(ValueError, match="NaN"):
        lr_range_test(model, np.full_like(rows.X, np.nan), rows.y)
