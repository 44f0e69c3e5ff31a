"""Averages of weights and ensembles of snapshots, against what can be worked out by hand."""

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback
from torch.nn import functional as F

from skhep_nn import (
    CaloCNNClassifier,
    Constant,
    CosineRestarts,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    ImageAugmenter,
    OneCycle,
    fit_together,
    load_calo_hdf5,
)
from skhep_nn.networks.stacks import stacked_state
from skhep_nn.training import (
    CyclicLR,
    FastGeometricEnsemble,
    SnapshotEnsemble,
    StochasticWeightAveraging,
)
from skhep_nn.training.checkpoints import BestEpochs, Scores, WeightAverages, make_checkpoints
from skhep_nn.training.cpu_parallel import CpuPass

FIXED = StochasticWeightAveraging(2, renewal_period=None)
CYCLES = CosineRestarts(1e-2, cycle=2, growth=1)
CNN = {"channels": (6, 8), "kernels": 3, "pooling": 2, "dense": (8,)}


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(600, 4)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=600) > 0.4).astype(int)
    return X, y, rng.uniform(0.2, 3, 600)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = np.arange(10) - 4.5
    r2 = (x[:, None] - rng.normal(size=(160, 1, 1))) ** 2 + x**2
    X = np.exp(-r2 / (2 * np.where(y, 1.0, 2.0)[:, None, None] ** 2))
    return (50 * X + rng.normal(size=X.shape)).astype(np.float32), y


class Recorder(Callback):
    """Keeps the stacked state after every epoch."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, net, **kwargs):
        state = stacked_state(net.module_)
        self.states.append({name: v.detach().clone().numpy() for name, v in state.items()})


def dense(cls=DenseNetClassifier, **params):
    defaults = {"max_epochs": 8, "batch_size": 64, "random_state": 0, "device": "cpu"}
    return cls(**defaults | {"schedule": Constant(5e-3)} | params)


def recorded(model, *data):
    """Fit, and return the model and its states after every epoch."""
    model.set_params(callbacks=[Recorder(), *(model.callbacks or [])]).fit(*data)
    return model, dict(model.net_.callbacks_)["Recorder"].states


def assert_same_states(a, b):
    for name in a:
        assert_array_equal(a[name], b[name], err_msg=name)


# -- averages -----------------------------------------------------------------------------------------


def mean_of(states, k, epochs):
    """Mean of the states of a member after some epochs."""
    return {
        name: np.mean([s[name][k].astype(float) for s in (states[e] for e in epochs)], axis=0)
        for name in states[0]
    }


def assert_member_is(model, k, state):
    for name, value in state.items():
        assert_allclose(model.ensemble_.states[name][k], value, rtol=2e-7, err_msg=name)


def test_average_of_one_network_is_the_mean_of_its_states(events):
    X, y, _ = events
    model, states = recorded(dense(averaging=FIXED), X, y)
    assert len(model.ensemble_) == 1
    assert_member_is(model, 0, mean_of(states, 0, range(2, 8)))
    assert not np.array_equal(model.ensemble_.states["output.bias"], states[-1]["output.bias"])
    assert "averaged_valid_loss" not in model.history_


@pytest.mark.parametrize("watched", [False, True])
def test_averages_of_members_are_kept_at_their_best_pass(events, watched):
    """On the fast path, and step by step, where a callback watches single batches."""
    X, y, w = events
    model = dense(n_members=3, averaging=FIXED, schedule=Constant(3e-2), max_epochs=15)
    watcher = Watcher()
    model, states = recorded(model.set_params(callbacks=[watcher] if watched else []), X, y, w)
    assert isinstance(model.net_.pass_, CpuPass) != watched
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_loss")
    assert table[:2].isna().all(axis=None)
    best = table.idxmin().to_numpy()
    assert best.min() < 14
    assert_array_equal(model.net_.best_.epoch, best)
    weights = 1 / table.min()
    assert_allclose(model.ensemble_.weights, weights / weights.sum())
    for k, fold in enumerate(model.net_.folds):
        assert_member_is(model, k, mean_of(states, k, range(2, best[k] + 1)))
        logit = model.ensemble_.member(k)(torch.from_numpy(X[fold.valid]))[:, 0]
        target = torch.as_tensor(y[fold.valid], dtype=torch.float32)
        losses = F.binary_cross_entropy_with_logits(logit, target, reduction="none").numpy()
        assert_allclose(table[k].min(), np.average(losses, weights=w[fold.valid]), rtol=1e-5)


class Watcher(Callback):
    """Counts batches."""

    def __init__(self):
        self.n = {True: 0, False: 0}

    def on_batch_end(self, net, training, **kwargs):
        self.n[training] += 1


def test_callbacks_are_not_told_of_the_validation_of_averages(events):
    X, y, _ = events
    counts = []
    for averaging in (None, StochasticWeightAveraging(renewal_period=1)):
        model = dense(n_members=2, averaging=averaging, callbacks=[Watcher()]).fit(X, y)
        counts.append(dict(model.net_.callbacks_)["Watcher"].n)
    assert counts[0] == counts[1]
    assert min(counts[0].values()) > 0


def test_under_cycles_the_states_at_their_ends_are_averaged(events):
    X, y, _ = events
    averaging = StochasticWeightAveraging(1, renewal_period=None)
    model, states = recorded(dense(averaging=averaging, schedule=CYCLES), X, y)
    assert_member_is(model, 0, mean_of(states, 0, [3, 5, 7]))
    model = dense(averaging=averaging, schedule=CYCLES, n_members=2).fit(X, y)
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_loss")
    assert table[:3].isna().all(axis=None)
    assert_array_equal(table.loc[[3, 5]], table.loc[[4, 6]])
    assert (table.loc[5] != table.loc[3]).all()


@pytest.mark.parametrize(
    ("start", "first"), [(0, 0), (7, 7), (0.0, 0), (0.75, 6), (0.7, 6), (np.int64(3), 3)]
)
def test_start(start, first):
    run = make_checkpoints(
        StochasticWeightAveraging(start, renewal_period=None),
        Constant(),
        BestEpochs(1, None),
        n_epochs=8,
        validated=False,
    )
    assert sorted(run.updates) == list(range(first, 8))


def test_early_stopping_goes_by_the_averages(events):
    """One step a pass, of a size that lets the plain loss jump: the averages improve for longer."""
    X, y, _ = events
    settings = {"n_members": 2, "early_stopping": 4, "max_epochs": 60, "schedule": Constant(3e-2)}
    model = dense(averaging=StochasticWeightAveraging(1, renewal_period=None), **settings).fit(X, y)
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_loss")
    assert table.index.max() < 59
    stops = []
    for k in table:
        losses = table[k].to_numpy()
        stop = next(e for e in range(5, 60) if e - np.nanargmin(losses[: e + 1]) >= 4)
        assert model.net_.best_.epoch[k] == np.nanargmin(losses[: stop + 1])
        stops.append(stop)
    assert table.index.max() == max(stops)


def test_a_member_that_stops_before_the_start_stays_at_its_best_pass():
    best = BestEpochs(2, 2)
    run = WeightAverages(best, range(4, 8), None)
    for epoch, losses in enumerate([[1, 4], [2, 3], [3, 2], [4, 1.5], [5, 9], [6, 8], [0, 7]]):
        state = {"w": torch.full((2, 1), float(epoch))}
        scores = Scores(np.array(losses, dtype=float))
        run.after_epoch(epoch, state, scores, lambda _, scores=scores: scores)
    kept = run.kept(state, None)
    assert_array_equal(kept.state["w"][:, 0], [0, 5])
    assert_array_equal(best.epoch, [0, 6])
    assert_array_equal(best.loss, [1, 7])


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("averaging", [StochasticWeightAveraging(1, renewal_period=1), FIXED])
def test_training_takes_no_note_of_it(images, events, averaging, augmented):
    """Dropout and augmentation draw the same numbers; weights, batch-norm statistics and optimizer are restored."""
    momenta = pd.DataFrame(events[0][:, :3], columns=["lep_px", "lep_py", "lep_pz"])
    cnn = calo(batch_size=32, network_params=CNN | {"dropout": 0.2, "dense_dropout": 0.2})
    for model, augmentation, data in (
        (cnn, ImageAugmenter(), images),
        (dense(), EventAugmenter(), (momenta, events[1])),
    ):
        model.set_params(n_members=2, augmentation=augmentation if augmented else None)
        plain, states = recorded(clone(model).set_params(averaging=None), *data)
        ours, same = recorded(clone(model).set_params(averaging=averaging), *data)
        for state, other in zip(states, same, strict=True):
            assert_same_states(state, other)
        assert_array_equal(ours.history_.valid_loss, plain.history_.valid_loss)
        assert ours.history_.averaged_valid_loss.notna().any()


# -- renewal (section 3.7.1 of arXiv:2002.01427) ------------------------------------------------------


class Study:
    """One member's averages in the words of the study: plain lists, nothing shared with the library."""

    def __init__(self, period):
        self.period = self.wait = period
        self.older, self.younger, self.n_compared = [], [], 0

    def after_epoch(self, value, loss_of):
        if len(self.older) >= self.period:
            self.younger = [*self.younger, value]
        self.older = [*self.older, value]
        if len(self.younger) == self.wait:
            self.n_compared += 1
            if loss_of(np.mean(self.younger)) < loss_of(np.mean(self.older)):
                self.older, self.younger, self.wait = self.younger, [], self.period
            else:
                self.younger, self.wait = [], 2 * self.wait
        return loss_of(np.mean(self.older))


@pytest.mark.parametrize("period", [1, 2, 3])
def test_renewal_is_that_of_the_study(period):
    """Members at once with decisions of their own, against one after the other."""
    rng = np.random.default_rng(period)
    n_members, n_epochs, start = 6, 60, 3
    # They come down at different speeds, then walk around.
    values = 20 * np.exp(-np.arange(n_epochs)[:, None] / rng.uniform(1, 20, n_members))
    values += rng.normal(size=values.shape).cumsum(0) * rng.uniform(0, 0.5, n_members)
    best = BestEpochs(n_members, None)
    run = WeightAverages(best, range(start, n_epochs), period)
    studies = [Study(period) for _ in range(n_members)]

    def scores_of(state):
        return Scores(state["w"][:, 0].abs().numpy().astype(float))

    waits, expected = [], []
    for epoch, row in enumerate(values):
        state = {"w": torch.as_tensor(row)[:, None], "fixed": torch.ones(n_members)}
        columns = run.after_epoch(epoch, state, scores_of(state), scores_of)
        if epoch >= start:
            expected.append([s.after_epoch(v, abs) for s, v in zip(studies, row, strict=True)])
            assert_allclose(columns["averaged_valid_loss"], expected[-1], rtol=1e-12)
            assert_array_equal(run.wait, [s.wait for s in studies])
            waits.append(run.wait)
        else:
            assert np.isnan(columns["averaged_valid_loss"]).all()
    assert len(np.unique(waits)) > 2
    assert len({s.n_compared for s in studies}) > 1
    expected = np.array(expected)
    assert_array_equal(best.epoch, start + expected.argmin(0))
    kept = run.kept(state, None)
    assert_allclose(kept.state["w"].abs()[:, 0], expected.min(0), rtol=1e-12)
    assert_array_equal(kept.state["fixed"], 1)


class Script(Callback):
    """Makes every member predict a given constant in each epoch."""

    def __init__(self, values):
        self.values = values

    def on_epoch_begin(self, net, **kwargs):
        output = net.module_.output
        with torch.no_grad():
            output.weight.zero_()
            for k, values in enumerate(self.values):
                output.bias[k] = values[len(net.history) - 1]


def test_renewal_in_a_fit():
    """Members that predict a constant: their validation losses are known."""
    X, y = np.random.default_rng(0).normal(size=(90, 2)), np.where(np.arange(90) % 2, 1.0, -1.0)
    falling = [9, 8, 4, 2, 1, 1, 1, 1]  # the younger average is better, and better again
    rising = [0, 0, 0, 2, 2, 2, 2, 2]
    model = dense(
        DenseNetRegressor,
        n_members=2,
        schedule=Constant(1e-12),
        callbacks=[Script([falling, rising])],
        averaging=StochasticWeightAveraging(1, renewal_period=1),
    ).fit(X, y)
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_loss")
    means = [8, 4, 2, 1, 1, 1, 1], [0, 0, 2 / 3, 1, 6 / 5, 8 / 6, 10 / 7]
    for k, (fold, mean) in enumerate(zip(model.net_.folds, means, strict=True)):
        losses = [np.mean((y[fold.valid] - m) ** 2) for m in mean]
        assert_allclose(table[k], [np.nan, *losses], atol=1e-5)
    # The one was renewed until nothing changed, and no better is an equal one.
    assert_array_equal(model.net_.checkpoints_.wait, [4, 4])
    assert_array_equal(model.net_.best_.epoch, [4, 1])
    assert_allclose(model.ensemble_.states["output.bias"][:, 0], [1, 0], atol=1e-6)


def test_an_average_that_is_not_a_number_is_given_up():
    run = WeightAverages(BestEpochs(1, None), range(9), 1)
    scores_of = lambda state: Scores(state["w"].numpy().astype(float))
    for epoch, value in enumerate([np.nan, 3.0, 2.0]):
        state = {"w": torch.tensor([value])}
        columns = run.after_epoch(epoch, state, scores_of(state), scores_of)
    assert_allclose(columns["averaged_valid_loss"], 2)


# -- snapshots ----------------------------------------------------------------------------------------


def test_one_network_is_an_ensemble_of_its_last_snapshots(events):
    X, y, _ = events
    averaging = SnapshotEnsemble(n_snapshots=3)
    model, states = recorded(dense(averaging=averaging, schedule=CYCLES), X, y)
    assert len(model.ensemble_) == 3
    for row, epoch in enumerate([7, 5, 3]):
        for name, value in model.ensemble_.states.items():
            assert_array_equal(value[row], states[epoch][name][0], err_msg=name)
    assert_allclose(model.ensemble_.weights, np.array([1, 1 / 2, 1 / 3]) / (1 + 1 / 2 + 1 / 3))
    each = [model.ensemble_.member(k)(torch.from_numpy(X)).sigmoid().numpy() for k in range(3)]
    mean = np.average(each, axis=0, weights=model.ensemble_.weights)[:, 0]
    assert_allclose(model.predict_proba(X)[:, 1], mean, atol=1e-6)
    fewer = dense(averaging=SnapshotEnsemble(), schedule=CYCLES, max_epochs=5).fit(X, y)
    assert_allclose(fewer.ensemble_.weights, [2 / 3, 1 / 3])


@pytest.mark.parametrize("weight_by_loss", [True, False])
@pytest.mark.parametrize("kind", [SnapshotEnsemble, FastGeometricEnsemble])
def test_members_give_their_best_pass_and_the_cycles_before_it(events, kind, weight_by_loss):
    X, y, _ = events
    averaging = kind(3, weight_by_loss=weight_by_loss)
    settings = {"schedule": CyclicLR(6e-2, min_lr=1e-3, cycle=2), "max_epochs": 12, "n_members": 4}
    model, states = recorded(dense(averaging=averaging, **settings), X, y)
    best = model.net_.best_
    assert len(set(best.epoch)) > 1
    row, weights = 0, []
    for k, epoch in enumerate(best.epoch):
        epochs = [epoch, *(e for e in range(11, 0, -2) if e < epoch)][:3]
        for e in epochs:
            for name, value in model.ensemble_.states.items():
                assert_array_equal(value[row], states[e][name][k], err_msg=f"{name} {k} {e}")
            row += 1
        share = (
            1 / np.arange(1, len(epochs) + 1) if kind is SnapshotEnsemble else np.ones(len(epochs))
        )
        factor = 1 / best.loss[k] if weight_by_loss else 1
        weights += list(share / share.sum() * factor)
    assert len(model.ensemble_) == row
    assert_allclose(model.ensemble_.weights, np.array(weights) / sum(weights))


def test_a_stop_before_the_first_cycle_leaves_the_last_state(events):
    X, y, _ = events

    class Stop(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    model = dense(averaging=SnapshotEnsemble(), schedule=CYCLES, callbacks=[Stop()]).fit(X, y)
    assert_array_equal(model.ensemble_.weights, [1])


def test_all_states_of_a_member_that_diverged_are_left_out(events):
    X, y, _ = events

    class Spoil(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 7:
                with torch.no_grad():
                    net.module_.output.bias[0] = np.nan

    for averaging, n_states in ((SnapshotEnsemble(2), 4), (FIXED, 2)):
        model = dense(averaging=averaging, schedule=CYCLES, n_members=2, callbacks=[Spoil()])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.fit(X, y)  # the best epoch was earlier
        assert len(model.ensemble_) == n_states

        class SpoilAtOnce(Spoil):
            def on_epoch_begin(self, net, **kwargs):
                with torch.no_grad():
                    net.module_.output.bias[0] = np.nan

        with pytest.warns(ConvergenceWarning, match="member 0 in epoch 0"):
            model.set_params(callbacks=[SpoilAtOnce()]).fit(X, y)
        zero = model.ensemble_.weights == 0
        assert_array_equal(zero, np.repeat([True, False], len(zero) // 2))
        assert np.isfinite(model.predict_proba(X)).all()


# -- batch normalisation ------------------------------------------------------------------------------


def calo(**params):
    shape = {"network_params": CNN | {"dropout": 0.0, "dense_dropout": 0.0}, "random_state": 0}
    defaults = shape | {"max_epochs": 5, "precision": "float32", "device": "cpu"}
    return CaloCNNClassifier(**defaults | {"schedule": Constant(1e-2), "averaging": FIXED} | params)


def batch_norms(network):
    return [m for m in network.modules() if hasattr(m, "running_mean")]


def assert_moments_are_of(network, batches):
    """The statistics of every layer are the means over batches of the statistics of its inputs."""
    seen = {id(m): [] for m in batch_norms(network)}
    for m in batch_norms(network):
        m.register_forward_pre_hook(
            lambda m, args: seen[id(m)].append(m._convolved(args[0], m.weight))
        )
    kept = [(m.running_mean.clone(), m.running_var.clone()) for m in batch_norms(network)]
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for (mean, var), outputs in zip(kept, seen.values(), strict=True):
        means = torch.stack([h.mean((0, 2, 3)) for h in outputs]).mean(0)
        spreads = torch.stack([h.var((0, 2, 3)) for h in outputs]).mean(0)
        torch.testing.assert_close(mean, means, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(var, spreads, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("n_members", [1, 2])
def test_moments_of_an_average_are_found_anew(images, n_members):
    X, y = images
    model = calo(batch_size=200, n_members=n_members, max_epochs=12).fit(X, y)
    rows = torch.from_numpy(model._encode_X(X, reset=False))
    for k, fold in enumerate(model.net_.folds):
        network = model.ensemble_.member(k)
        assert len(batch_norms(network)) == 2
        assert_moments_are_of(network, [rows[fold.train]])


def test_moments_are_means_over_the_batches_of_a_pass(images):
    X, y = images
    model = calo(batch_size=40).fit(X, y)
    rows = torch.from_numpy(model._encode_X(X, reset=False))
    rng = np.random.default_rng(model.net_._batch_norm_seeds[0])
    order = rng.permutation(len(rows))
    assert_moments_are_of(model.ensemble_.member(0), [rows[o] for o in order.reshape(4, 40)])


def test_moments_from_a_file(images, tmp_path):
    h5py = pytest.importorskip("h5py")
    X, y = images
    with h5py.File(tmp_path / "images.hdf5", "w") as file:
        file.create_dataset("X", data=X[..., None], chunks=(40, 10, 10, 1))
        file["y"] = y.astype(float)
    lazy = load_calo_hdf5([tmp_path / "images.hdf5"], lazy=True)
    averaging = StochasticWeightAveraging(1, renewal_period=1)
    model = calo(batch_size=200, n_members=2, averaging=averaging).fit(lazy.images, lazy.target)
    rows = torch.from_numpy(model._encode_X(X[..., None], reset=False))
    for k, fold in enumerate(model.net_.folds):
        assert_moments_are_of(model.ensemble_.member(k), [rows[fold.train]])


def test_the_loss_of_an_average_is_that_with_moments_of_its_own(images):
    X, y = images
    model = calo(
        n_members=2, batch_size=32, averaging=StochasticWeightAveraging(1, renewal_period=1)
    ).fit(X, y)
    rows = torch.from_numpy(model._encode_X(X, reset=False))
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_loss")
    for k, fold in enumerate(model.net_.folds):
        logit = model.ensemble_.member(k)(rows[fold.valid])[:, 0]
        target = torch.as_tensor(y[fold.valid], dtype=torch.float32)
        loss = F.binary_cross_entropy_with_logits(logit, target).item()
        assert_allclose(table[k].min(), loss, rtol=1e-4)


def test_averages_are_ranked_as_epochs_are(images):
    X, y = images
    averaging = StochasticWeightAveraging(1, renewal_period=1)
    model = calo(n_members=2, monitor="accuracy", averaging=averaging, batch_size=32).fit(X, y)
    table = model.history_.pivot(index="epoch", columns="member", values="averaged_valid_accuracy")
    assert table[:1].isna().all(axis=None)
    assert_array_equal(model.net_.best_.epoch, table.idxmax())


# -- as parameters ------------------------------------------------------------------------------------

ALL = [
    (StochasticWeightAveraging(), Constant(5e-3)),
    (FIXED, CyclicLR()),
    (SnapshotEnsemble(2), CYCLES),
    (FastGeometricEnsemble(3), CyclicLR(1e-2)),
]


@pytest.mark.parametrize(("averaging", "schedule"), ALL)
def test_same_random_state_same_bits_and_round_trip(events, tmp_path, averaging, schedule):
    X, y, _ = events
    model = dense(n_members=3, averaging=averaging, schedule=schedule)
    first, second = clone(model).fit(X, y), clone(model).fit(X, y)
    assert_same_states(first.ensemble_.states, second.ensemble_.states)
    assert_array_equal(first.ensemble_.weights, second.ensemble_.weights)
    joblib.dump(first, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(loaded.predict_proba(X), first.predict_proba(X))
    assert loaded.averaging.get_params() == averaging.get_params()


def test_the_number_of_threads_does_not_matter(events):
    X, y, _ = events
    model = dense(n_members=4, averaging=StochasticWeightAveraging(1, renewal_period=1))
    states, n_threads = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            states.append(clone(model).fit(X, y).ensemble_.states)
    finally:
        torch.set_num_threads(n_threads)
    assert_same_states(*states)


def test_a_search_reaches_them(events):
    X, y, _ = events
    model = dense(averaging=SnapshotEnsemble(), schedule=CYCLES, max_epochs=6)
    grid = {"averaging__n_snapshots": [1, 3], "schedule__cycle": [1, 2]}
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    sizes = len(search.best_estimator_.ensemble_)
    assert sizes == search.best_params_["averaging__n_snapshots"]
    assert model.averaging.n_snapshots == 5


class _Other(BaseEstimator):
    def shares(self, n):
        return np.ones(n)


@pytest.mark.parametrize(
    ("averaging", "schedule", "error", "message"),
    [
        (
            SnapshotEnsemble(),
            Constant(),
            ValueError,
            r"Constant\(\) completes no cycle.*CosineRestarts",
        ),
        (FastGeometricEnsemble(), None, ValueError, r"OneCycle\(\) completes no cycle"),
        (SnapshotEnsemble(), CosineRestarts(cycle=None), ValueError, "completes no cycle"),
        (SnapshotEnsemble(), CyclicLR(cycle=9), ValueError, "in 8 epochs"),
        (SnapshotEnsemble(0), CyclicLR(), ValueError, "n_snapshots=0 must be"),
        (SnapshotEnsemble(True), CyclicLR(), ValueError, "n_snapshots=True must be"),
        (FastGeometricEnsemble(2.5), CyclicLR(), ValueError, r"n_snapshots=2\.5 must be"),
        (SnapshotEnsemble(weight_by_loss="no"), CyclicLR(), ValueError, "weight_by_loss='no'"),
        (StochasticWeightAveraging(), Constant(), ValueError, "renewal_period=None"),
        (StochasticWeightAveraging(8), Constant(), ValueError, "start=8 leaves nothing.* 8 epochs"),
        (StochasticWeightAveraging(4), CYCLES, ValueError, "start=4 leaves nothing.* 4 epochs"),
        (StochasticWeightAveraging(-1), Constant(), ValueError, "start=-1 must be"),
        (StochasticWeightAveraging(1.0), Constant(), ValueError, r"start=1\.0 must be"),
        (StochasticWeightAveraging("2"), Constant(), ValueError, "start='2' must be"),
        (StochasticWeightAveraging(True), Constant(), ValueError, "start=True must be"),
        (
            StochasticWeightAveraging(renewal_period=0),
            Constant(),
            ValueError,
            "renewal_period=0 must be",
        ),
        (OneCycle(), Constant(), ValueError, r"averaging=OneCycle\(\) must be"),
        (_Other(), Constant(), TypeError, "must be one of StochasticWeightAveraging"),
    ],
)
def test_errors_say_what_to_do(events, averaging, schedule, error, message):
    X, y, _ = events
    with pytest.raises(error, match=message):
        dense(averaging=averaging, schedule=schedule).fit(X, y)


@pytest.mark.parametrize(("averaging", "schedule"), ALL)
def test_fitted_together_as_alone(events, averaging, schedule):
    X, y, _ = events
    models = [dense(n_members=2, random_state=k) for k in range(3)]
    for model in models:
        model.set_params(averaging=averaging, schedule=schedule)
    alone = [clone(model).fit(X, y) for model in models]
    for one, model in zip(alone, fit_together(models, X, y), strict=True):
        for name, value in one.ensemble_.states.items():
            assert_allclose(model.ensemble_.states[name], value, rtol=1e-5, atol=1e-6)
        assert_allclose(model.ensemble_.weights, one.ensemble_.weights, rtol=1e-5)
        columns = [name for name in one.history_ if name != "seconds"]
        assert_allclose(model.history_[columns], one.history_[columns], rtol=1e-4, atol=1e-6)


# -- on a GPU -----------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize(("averaging", "schedule"), ALL)
def test_captured_training_goes_on_between_averages(events, averaging, schedule):
    """States are swapped in place: the graph goes on with the right ones."""
    X, y, _ = events
    settings = {"n_members": 3, "schedule": schedule, "device": "cuda"}
    plain = dense(**settings).fit(X, y)
    model = dense(averaging=averaging, **settings).fit(X, y)
    assert type(model.net_.pass_).__name__ == "GraphPass"
    assert_allclose(model.history_.train_loss, plain.history_.train_loss, rtol=1e-4, atol=1e-6)
    on_cpu = dense(averaging=averaging, **settings | {"device": "cpu"}).fit(X, y)
    assert len(model.ensemble_) == len(on_cpu.ensemble_)
    assert_allclose(model.predict_proba(X), on_cpu.predict_proba(X), atol=2e-2)


@pytest.mark.cuda
def test_moments_on_a_gpu(images):
    X, y = images
    settings = {"n_members": 2, "batch_size": 200, "max_epochs": 3}
    averaging = StochasticWeightAveraging(1, renewal_period=1)
    model = calo(averaging=averaging, device="cuda", **settings).fit(X, y)
    plain = calo(averaging=None, device="cuda", **settings).fit(X, y)
    assert_allclose(model.history_.train_loss, plain.history_.train_loss, rtol=1e-3)
    rows = torch.from_numpy(model._encode_X(X, reset=False))
    for k, fold in enumerate(model.net_.folds):
        assert_moments_are_of(model.ensemble_.member(k), [rows[fold.train]])
