"""The recipe in its details: each test holds one of them that nothing else would miss."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_validate
from skorch.callbacks import Callback
from torch.nn import functional as F

from skhep_nn import (
    Constant,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    OneCycle,
)
from skhep_nn.ensemble import stack_networks
from skhep_nn.networks import DenseNet
from skhep_nn.preprocessing import weighted_moments


@pytest.fixture
def events():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 4)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=300) > 0.4).astype(int)
    return X, y, rng.uniform(0.2, 3, 300)


def quick(cls=DenseNetClassifier, **params):
    defaults = {"max_epochs": 2, "batch_size": 64, "random_state": 0, "device": "cpu"}
    return cls(**defaults | params)


def weighted_loss(model, member, X, y, weight):
    """Mean loss of one member of a binary classifier, in evaluation mode."""
    logits = model.ensemble_.member(member)(torch.from_numpy(X))[:, 0]
    target = torch.as_tensor(y, dtype=torch.float32)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return np.average(losses.numpy(), weights=weight)


# -- the 1cycle schedule ------------------------------------------------------------------------------


def recording(base):
    """Return a class of optimiser that keeps the settings each step was taken with."""

    class Recording(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.seen = []

        def step(self, closure=None):
            group = self.param_groups[0]
            momentum = group["betas"][0] if "betas" in group else group["momentum"]
            self.seen.append((float(group["lr"]), float(momentum)))
            return super().step(closure)

    return Recording


class SGD(torch.optim.SGD):
    def __init__(self, params, **kwargs):
        super().__init__(params, momentum=0.5, **kwargs)


class TestOneCycle:
    @pytest.mark.parametrize("base", [torch.optim.Adam, SGD])
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_every_step_is_taken_with_its_rates(self, events, base, n_members):
        X, y, _ = events
        schedule = OneCycle(max_lr=1e-3, initial_lr=1e-5)
        model = quick(
            optimizer=recording(base), n_members=n_members, schedule=schedule, max_epochs=4
        ).fit(X, y)
        n_steps = {1: 5, 3: 4}[n_members]
        rates = [schedule.rates(epoch, n_epochs=4, n_steps=n_steps) for epoch in range(4)]
        lr, momentum = np.transpose(model.net_.optimizer_.seen)
        np.testing.assert_allclose(lr, np.concatenate([r.lr for r in rates]))
        np.testing.assert_allclose(momentum, np.concatenate([r.momentum for r in rates]))

    @pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
    def test_optimisers_by_name_and_the_default_schedule(self, events, name):
        X, y, _ = events
        model = quick(optimizer=name, max_epochs=3).fit(X, y)
        rates = OneCycle().rates(2, n_epochs=3, n_steps=5)
        group = model.net_.optimizer_.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        assert float(group["lr"]) == pytest.approx(rates.lr[-1])
        # torch's RMSprop keeps no momentum unless it is built with some.
        expected = 0 if name == "rmsprop" else rates.momentum[-1]
        assert momentum == pytest.approx(expected)
        last = model.history_.iloc[-1]
        assert (last.lr, last.momentum) == pytest.approx((rates.lr[-1], expected))

    def test_a_momentum_that_passes_through_zero(self, events):
        X, y, _ = events
        schedule = OneCycle(max_lr=1e-3, max_momentum=0.9, min_momentum=0.0, warmup=0.5)
        model = quick(optimizer=recording(SGD), schedule=schedule, max_epochs=2).fit(X, y)
        _, momentum = np.transpose(model.net_.optimizer_.seen)
        rates = [schedule.rates(epoch, n_epochs=2, n_steps=5) for epoch in range(2)]
        assert momentum.min() == 0
        np.testing.assert_allclose(momentum, np.concatenate([r.momentum for r in rates]))

    def test_a_constant_schedule_leaves_the_optimisers_own_momentum(self, events):
        X, y, _ = events
        model = quick(optimizer=recording(SGD), schedule=Constant(1e-3)).fit(X, y)
        assert set(model.net_.optimizer_.seen) == {(1e-3, 0.5)}


# -- dropout ------------------------------------------------------------------------------------------


class TestDropout:
    @pytest.mark.parametrize("n_members", [1, 3])
    @pytest.mark.parametrize("activation", ["swish", "relu"])
    def test_validation_is_without_dropout(self, events, n_members, activation):
        X, y, w = events
        model = quick(
            dropout=0.5, early_stopping=9, max_epochs=1, n_members=n_members, activation=activation
        ).fit(X, y, sample_weight=w)
        for k, fold in enumerate(model.net_.folds):
            rows = fold.valid
            assert model.history_.valid_loss[k] == pytest.approx(
                weighted_loss(model, k, X[rows], y[rows], w[rows]), rel=1e-5
            )

    def test_every_pass_trains_with_it_and_validates_without(self, events, monkeypatch):
        X, y, _ = events
        modes = []
        layer = type(DenseNet(4, dropout=0.5).dropout)
        forward = layer.forward

        def spy(self, x):
            modes.append(self.training)
            return forward(self, x)

        monkeypatch.setattr(layer, "forward", spy)
        quick(dropout=0.5, activation="prelu", depth=1, n_members=3, max_epochs=3).fit(X, y)
        n_steps, n_valid = 4, 1
        assert modes == ([True] * n_steps + [False] * n_valid) * 3

    @pytest.mark.parametrize("activation", ["swish", "selu", "prelu", "relu"])
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_it_comes_after_the_activation(self, activation, n_members):
        """Neurons are dropped, not what goes into them: zero, or the activation over 1 - rate."""
        networks = [
            DenseNet(5, depth=2, width=40, activation=activation, dropout=0.25)
            for _ in range(n_members)
        ]
        for k, network in enumerate(networks):
            network.reset_parameters(torch.Generator().manual_seed(k))
        stack = stack_networks(networks) if n_members > 1 else networks[0]
        act = {
            "swish": F.silu,
            "selu": F.selu,
            "relu": F.relu,
            "prelu": lambda h: torch.where(h > 0, h, 0.25 * h),
        }[activation]
        before, after = {}, {}
        layers = [*stack.hidden, stack.output]
        for i, layer in enumerate(layers):
            layer.register_forward_pre_hook(
                lambda _, args, i=i: after.__setitem__(i - 1, args[0].detach())
            )
            layer.register_forward_hook(
                lambda _, args, out, i=i: before.__setitem__(i, out.detach())
            )
        x = torch.randn(*stack.output.bias.shape[:-1], 64, 5)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            stack.train()(x)
        for i in range(2):
            h = after[i][..., -40:, :]  # the new neurons come last
            dropped = h == 0
            kept = torch.where(dropped, 0, act(before[i]) / 0.75)
            torch.testing.assert_close(h, kept)
            share = (dropped & (act(before[i]) != 0)).float().mean()
            assert 0.05 < share < 0.35


# -- early stopping: the best pass of each member ----------------------------------------------------


class Script(Callback):
    """Makes every member predict a given constant in each pass: its validation loss is known."""

    def __init__(self, values):
        self.values = values

    def on_epoch_begin(self, net, **kwargs):
        epoch = len(net.history) - 1
        output = net.module_.output
        with torch.no_grad():
            output.weight.zero_()
            for k, values in enumerate(self.values):
                output.bias[k] = values[min(epoch, len(values) - 1)]


def scripted(values, *, early_stopping, **params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2)).astype(np.float32)
    y = np.where(np.arange(90) % 2, 1.0, -1.0)
    return quick(
        DenseNetRegressor,
        n_members=len(values),
        schedule=Constant(1e-12),  # the script alone moves the network
        early_stopping=early_stopping,
        callbacks=[Script(values)],
        max_epochs=40,
        **params,
    ).fit(X, y)


class TestEarlyStopping:
    def test_a_stopped_member_stays_at_its_best_pass(self):
        """It gets better again while the other one is still trained: too late."""
        late = [3, 2, 4, 4, 1, 0.5, 0.1]
        steady = [3, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4, 9]
        model = scripted([late, steady], early_stopping=2)
        losses = model.history_.pivot(index="epoch", columns="member", values="valid_loss")
        assert len(losses) == 9
        assert losses[0].idxmin() == 6
        np.testing.assert_array_equal(model.net_.best_.epoch, [1, 6])
        np.testing.assert_allclose(model.ensemble_.states["output.bias"][:, 0], [2, 2.4], atol=1e-6)
        best = np.array([losses.loc[1, 0], losses.loc[6, 1]])
        np.testing.assert_allclose(model.ensemble_.weights, (1 / best) / (1 / best).sum())

    @pytest.mark.parametrize("patience", [1, 2, 4])
    def test_patience_is_counted_from_the_best_pass(self, patience):
        """Worse passes just short of the patience, then a better one: the count starts again."""
        values = [3] + [5] * (patience - 1) + [2] + [5] * (patience - 1) + [1] + [5]
        model = scripted([values, values], early_stopping=patience)
        assert model.history_.epoch.max() == 3 * patience
        np.testing.assert_array_equal(model.net_.best_.epoch, [2 * patience] * 2)

    def test_an_equal_loss_is_no_better_one(self):
        model = scripted([[2.0], [2.0]], early_stopping=3)
        assert model.history_.epoch.max() == 3
        np.testing.assert_array_equal(model.net_.best_.epoch, [0, 0])

    @pytest.mark.parametrize("value", [True, np.True_])
    def test_true_means_ten_passes(self, value):
        model = scripted([[3, 2, 4], [3, 2, 4]], early_stopping=value)
        assert model.history_.epoch.max() == 11

    def test_without_it_the_best_pass_is_kept_however_late(self):
        late = [3, 2] + [4] * 30 + [1] + [4]
        model = scripted([late, late], early_stopping=False)
        assert model.history_.epoch.max() == 39
        np.testing.assert_array_equal(model.net_.best_.epoch, [32, 32])


# -- weights ------------------------------------------------------------------------------------------


@pytest.fixture
def contested():
    """The same rows twice with opposite labels: only the weights say which copy is right."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(150, 2))
    label = (X[:, 0] > 0).astype(int)
    order = rng.permutation(300)
    X2, y2 = np.vstack([X, X])[order], np.concatenate([label, 1 - label])[order]
    first = np.where(order < 150, 1.0, 0.02)
    return X2, y2, first, np.where(order < 150, 0.02, 1.0), (X2[:, 0] > 0).astype(int)


class TestWeightsInsideFolds:
    def model(self, n_members=1):
        return quick(max_epochs=60, n_members=n_members)

    @pytest.mark.parametrize("n_members", [1, 2])
    def test_cross_validate(self, contested, n_members):
        X, y, first, second, label = contested
        for weight, winner in ((first, label), (second, 1 - label)):
            with config_context(enable_metadata_routing=True):
                model = self.model(n_members).set_fit_request(sample_weight=True)
                model.set_score_request(sample_weight=True)
                scores = cross_validate(
                    model, X, y, cv=2, params={"sample_weight": weight}, return_estimator=True
                )
            assert scores["test_score"].min() > 0.85
            for fitted in scores["estimator"]:
                assert np.mean(fitted.predict(X) == winner) > 0.9

    def test_grid_search(self, contested):
        X, y, first, second, label = contested
        for weight, winner in ((first, label), (second, 1 - label)):
            with config_context(enable_metadata_routing=True):
                model = self.model().set_fit_request(sample_weight=True)
                model.set_score_request(sample_weight=True)
                search = GridSearchCV(model, {"depth": [1, 2]}, cv=2)
                search.fit(X, y, sample_weight=weight)
            assert search.cv_results_["mean_test_score"].min() > 0.85
            assert np.mean(search.predict(X) == winner) > 0.9

    def test_weights_that_are_not_asked_for_do_not_act(self, contested):
        """The converse: without them nothing tells the copies apart."""
        X, y, first, _, _ = contested
        with config_context(enable_metadata_routing=True):
            model = self.model().set_fit_request(sample_weight=False)
            model.set_score_request(sample_weight=True)
            scores = cross_validate(
                model, X, y, cv=2, params={"sample_weight": first}, return_estimator=True
            )
        for fitted in scores["estimator"]:
            p = fitted.predict_proba(X)[:, 1]
            assert np.abs(p - 0.5).mean() < 0.3
        assert scores["test_score"].mean() < 0.75


class TestMoments:
    def test_targets_of_weight_zero_do_not_act(self, events):
        """Not by their size either, which would set the scale of all targets."""
        X, _, w = events
        w[::3] = 0
        y = X[:, 0] + X[:, 1]
        wild = np.where(w == 0, 1e6, y)
        p, q = (
            quick(DenseNetRegressor, n_members=2).fit(X, t, sample_weight=w).predict(X)
            for t in (y, wild)
        )
        np.testing.assert_array_equal(p, q)

    def test_a_network_that_learns_nothing_predicts_the_weighted_mean(self, events):
        X, _, w = events
        Y = np.column_stack([100 + 10 * X[:, 0], -3 + X[:, 1]])
        w = np.where(X[:, 0] > 0, 10 * w, w)
        frozen = quick(DenseNetRegressor, schedule=Constant(1e-12), callbacks=[Script([[0.0]])])
        predicted = frozen.fit(X, Y, sample_weight=w).predict(X)
        expected = np.broadcast_to(np.average(Y, axis=0, weights=w), Y.shape)
        np.testing.assert_allclose(predicted, expected, rtol=1e-5)

    def test_negative_weights_count_by_their_size(self):
        X = np.array([[0.0, 1.0], [2.0, 1.0], [7.0, -4.0]])
        w = np.array([1.0, 3.0, -2.0])
        mean, scale = weighted_moments(X, w)
        expected = np.average(X, axis=0, weights=np.abs(w))
        np.testing.assert_allclose(mean, expected)
        np.testing.assert_allclose(
            scale, np.sqrt(np.average((X - expected) ** 2, axis=0, weights=np.abs(w)))
        )
        np.testing.assert_array_equal(w, [1, 3, -2])

    @pytest.mark.parametrize("cls", [DenseNetClassifier, DenseNetRegressor])
    def test_a_fit_with_negative_weights_standardises_by_their_size(self, events, cls):
        X, y, w = events
        w[:60] *= -1
        state = quick(cls).fit(X, y, sample_weight=w).ensemble_.states
        mean = np.average(X.astype(float), axis=0, weights=np.abs(w))
        np.testing.assert_allclose(state["input_stage.mean"][0], mean, rtol=1e-4, atol=1e-6)
        scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=np.abs(w)))
        np.testing.assert_allclose(state["input_stage.scale"][0], scale, rtol=1e-5)


# -- augmentation -------------------------------------------------------------------------------------


class Spy(BaseEstimator):
    """Augmenter that changes nothing and keeps what its generator draws."""

    def fit(self, X, y=None):
        self.drawn_, self.shapes_, self.viewed_ = [], [], []
        self.n_views_ = 2
        return self

    def transform_tensor(self, X, generator):
        self.shapes_.append(tuple(X.shape))
        self.drawn_.extend(torch.rand(len(X), generator=generator, device=X.device).tolist())
        return X

    def view_tensor(self, X, index):
        self.viewed_.append(index)
        return X if index == 0 else -X


class TestDrawsOfTheAugmenter:
    def drawn(self, events, **params):
        X, y, _ = events
        return np.array(quick(augmentation=Spy(), **params).fit(X, y).augmenter_.drawn_)

    @pytest.mark.parametrize("n_members", [1, 3])
    def test_they_follow_random_state(self, events, n_members):
        first, again, other = (
            self.drawn(events, random_state=seed, n_members=n_members) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.isin(other, first).any()

    def test_every_row_of_every_pass_is_drawn_anew(self, events):
        drawn = self.drawn(events, max_epochs=3, n_members=2)
        n_steps, width = 3, 64
        assert len(drawn) == 3 * 2 * n_steps * width
        assert len(np.unique(drawn)) == drawn.size

    def test_training_rows_only_and_of_all_members(self, events):
        X, y, _ = events
        augmenter = quick(augmentation=Spy(), n_members=3).fit(X, y).augmenter_
        n_steps, width = 4, 64
        assert augmenter.shapes_ == [(n_steps * width, 4)] * 3 * 2  # three members, two passes
        assert augmenter.viewed_ == []

    def test_views_are_averaged_at_predict(self, events):
        X, y, _ = events
        model = quick(augmentation=Spy(), n_members=2).fit(X, y)
        n_drawn = len(model.augmenter_.drawn_)
        averaged = model.predict_proba(X)
        assert sorted(set(model.augmenter_.viewed_)) == [0, 1]
        assert len(model.augmenter_.drawn_) == n_drawn
        model.set_params(tta=False)
        both = (model.predict_proba(X) + model.predict_proba(-X)) / 2
        np.testing.assert_allclose(averaged, both, atol=1e-6)


# -- scikit-learn's callbacks -------------------------------------------------------------------------


class Recorder:
    """Keeps every hook in the order it was called, with what it was told."""

    def __init__(self):
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name, {}))

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name, {}))

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata):
        told = {"X": X, "y": y, "metadata": metadata}
        self.calls.append(("begin", context.task_name, told))

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        told = {"X": X, "y": y, "metadata": metadata, "p": fitted_estimator.predict_proba(X)}
        self.calls.append(("end", context.task_name, told))


class TestScikitLearnCallbacks:
    def test_one_task_for_the_fit_and_one_for_every_pass(self, events):
        X, y, w = events
        recorder = Recorder()
        model = quick(max_epochs=3).set_callbacks(recorder)
        model.fit(X, y, sample_weight=w)
        assert [call[:2] for call in recorder.calls] == [
            ("setup", "fit"),
            ("begin", "fit"),
            *[("begin", "epoch"), ("end", "epoch")] * 3,
            ("end", "fit"),
            ("teardown", "fit"),
        ]
        told = [call[2] for call in recorder.calls[1:-1]]
        assert all(t["X"] is X and t["y"] is y for t in told)
        for t in told:
            assert list(t["metadata"]) == ["sample_weight"]
            np.testing.assert_array_equal(t["metadata"]["sample_weight"], w)

    def test_what_they_are_given_predicts_as_of_that_pass(self, events):
        X, y, _ = events
        recorder = Recorder()
        model = quick(max_epochs=3).set_callbacks(recorder).fit(X, y)
        *passes, last = [told["p"] for hook, _, told in recorder.calls if hook == "end"]
        np.testing.assert_array_equal(last, model.predict_proba(X))
        np.testing.assert_array_equal(passes[-1], last)
        assert not np.array_equal(passes[0], passes[1])

    def test_no_weights_no_metadata(self, events):
        X, y, _ = events
        recorder = Recorder()
        quick().set_callbacks(recorder).fit(X, y)
        assert all(not told.get("metadata") for *_, told in recorder.calls)

    def test_a_fit_that_stops_early_is_closed_too(self, events):
        X, y, _ = events
        recorder = Recorder()
        model = quick(
            schedule=Constant(1e-12), n_members=2, early_stopping=1, max_epochs=9
        ).set_callbacks(recorder)
        n_passes = model.fit(X, y).history_.epoch.nunique()
        assert n_passes < 9
        hooks = [call[:2] for call in recorder.calls]
        assert hooks.count(("end", "epoch")) == n_passes
        assert hooks[-2:] == [("end", "fit"), ("teardown", "fit")]


# -- regression with folds ----------------------------------------------------------------------------


class TestRegressorWithMembers:
    def check_folds(self, model, n):
        folds = model.net_.folds
        assert len(folds) == len(model.ensemble_) == 3
        assert sorted(np.concatenate([f.valid for f in folds])) == list(range(n))
        for fold in folds:
            assert sorted(np.concatenate(fold)) == list(range(n))
            assert n // 3 <= len(fold.valid) <= -(-n // 3)
            assert not np.array_equal(fold.valid, np.arange(fold.valid[0], fold.valid[-1] + 1))

    def check_losses(self, model, X, Y, w):
        """Out-of-fold losses on the scaled targets are what the history and the weights say."""
        Y = Y.reshape(len(Y), -1)
        mean = np.average(Y, axis=0, weights=w)
        scaled = (Y - mean) / np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=w))
        rows = torch.tensor(np.asarray(X), dtype=torch.float32)
        losses = []
        for k, fold in enumerate(model.net_.folds):
            out = model.ensemble_.member(k)(rows[fold.valid]).numpy()
            squares = ((out - scaled[fold.valid]) ** 2).mean(1)
            losses.append(np.average(squares, weights=w[fold.valid]))
        best = model.history_.groupby("member").valid_loss.min()
        np.testing.assert_allclose(best, losses, rtol=1e-4)
        np.testing.assert_allclose(
            model.ensemble_.weights, (1 / best) / (1 / best).sum(), rtol=1e-6
        )

    @pytest.mark.parametrize("n_targets", [1, 2])
    def test_plain_folds(self, events, n_targets):
        X, _, w = events
        X, w = X[:100], w[:100]
        Y = 50 + 7 * X[:, 0] if n_targets == 1 else np.column_stack([X[:, 0], 1e3 * X[:, 1]])
        model = quick(DenseNetRegressor, n_members=3, max_epochs=5, batch_size=16)
        model.fit(X, Y, sample_weight=w)
        self.check_folds(model, 100)
        self.check_losses(model, X, Y, w)
        assert model.predict(X).shape == Y.shape
        mean = sum(
            weight * model.ensemble_.member(k)(torch.from_numpy(X)).numpy()
            for k, weight in enumerate(model.ensemble_.weights)
        )
        centre = np.average(Y, axis=0, weights=w)
        scale = np.sqrt(np.average((Y - centre) ** 2, axis=0, weights=w))
        np.testing.assert_allclose(
            model.predict(X).reshape(100, -1), mean * scale + centre, rtol=1e-4, atol=1e-4
        )

    def test_strata_of_a_column(self, events):
        X, _, w = events
        frame = pd.DataFrame(X, columns=list("abcd")).assign(n_jets=np.repeat([0, 1, 2], 100))
        y = frame.a + frame.n_jets
        model = quick(DenseNetRegressor, n_members=3, stratify_by="n_jets")
        model.fit(frame, y, sample_weight=w)
        self.check_folds(model, 300)
        self.check_losses(model, frame, y.to_numpy(), w)
        for fold in model.net_.folds:
            counts = np.bincount(frame.n_jets.to_numpy()[fold.valid], minlength=3)
            assert counts.min() >= 33
            assert counts.max() <= 34
        by_number = quick(DenseNetRegressor, n_members=3, stratify_by=4)
        by_number.fit(frame.to_numpy(), y, sample_weight=w)
        np.testing.assert_array_equal(
            by_number.predict(frame.to_numpy()),
            model.predict(frame),
        )

    def test_augmentation(self):
        rng = np.random.default_rng(0)
        names = [f"{p}_{c}" for p in ("tau", "lep") for c in ("px", "py", "pz")]
        frame = pd.DataFrame(rng.normal(size=(300, 6)).astype(np.float32) * 50, columns=names)
        y = np.hypot(frame.tau_px + frame.lep_px, frame.tau_py + frame.lep_py)
        w = rng.uniform(0.5, 2, 300)
        model = quick(DenseNetRegressor, n_members=3, augmentation=EventAugmenter(), max_epochs=5)
        model.fit(frame, y, sample_weight=w)
        self.check_folds(model, 300)
        self.check_losses(model, frame, y.to_numpy(), w)
        predicted = model.predict(frame)
        views = list(model.augmenter_.views(frame))
        for view in views:
            np.testing.assert_allclose(model.predict(view), predicted, rtol=1e-4)
        model.set_params(tta=False)
        single = [model.predict(view) for view in views]
        np.testing.assert_allclose(np.mean(single, axis=0), predicted, rtol=1e-4)
        assert np.ptp(single, axis=0).max() > 1e-2


# -- fits that follow other fits ----------------------------------------------------------------------


class TestRefit:
    def table(self, n=200, seed=0):
        rng = np.random.default_rng(seed)
        frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=["pt", "eta", "phi"])
        return frame.assign(lepton=rng.choice(["e", "mu"], n)), rng.choice(["b", "s"], n)

    def check(self, params, first, second, **changed):
        """A second fit gives what a new estimator gives and leaves nothing of the first."""
        model = quick(n_members=2, **params).fit(*first).set_params(**changed)
        model.fit(*second)
        fresh = quick(n_members=2, **params | changed).fit(*second)
        X = second[0]
        np.testing.assert_array_equal(model.predict_proba(X), fresh.predict_proba(X))
        np.testing.assert_array_equal(model.predict(X), fresh.predict(X))
        np.testing.assert_array_equal(model.classes_, fresh.classes_)
        assert set(vars(model)) == set(vars(fresh))
        columns = ["member", "epoch", "train_loss", "valid_loss"]
        pd.testing.assert_frame_equal(model.history_[columns], fresh.history_[columns])

    def test_other_columns(self):
        frame, y = self.table()
        other = frame[["lepton", "eta"]].assign(mass=frame.pt**2)
        self.check({"categorical_features": ["lepton"]}, (frame, y), (other, y))

    def test_an_array_after_a_frame(self):
        frame, y = self.table()
        self.check({}, (frame[["pt", "eta", "phi"]], y), (frame[["phi", "pt"]].to_numpy(), y))

    def test_other_categories(self):
        frame, y = self.table()
        other = frame.assign(lepton=np.array(["tau", "mu", "nu"])[np.arange(200) % 3])
        self.check({"categorical_features": ["lepton"]}, (frame, y), (other, y))

    def test_no_categories(self):
        frame, y = self.table()
        self.check(
            {"categorical_features": ["lepton"]},
            (frame, y),
            (frame.drop(columns="lepton"), y),
            categorical_features=None,
        )

    def test_other_labels(self):
        frame, y = self.table()
        frame = frame.drop(columns="lepton")
        self.check({}, (frame, y), (frame, np.arange(200) % 3))
        self.check({}, (frame, np.arange(200) % 3), (frame, y == "s"))

    def test_other_shape_of_targets(self):
        frame, _ = self.table()
        X = frame.drop(columns="lepton").to_numpy()
        model = quick(DenseNetRegressor, n_members=2).fit(X, X[:, :2])
        np.testing.assert_array_equal(
            model.fit(X, X[:, 0]).predict(X),
            quick(DenseNetRegressor, n_members=2).fit(X, X[:, 0]).predict(X),
        )

    def test_no_augmentation(self, events):
        X, y, _ = events
        self.check({"augmentation": Spy()}, (X, y), (X, y), augmentation=None)


class TestNoRandomState:
    @pytest.fixture(autouse=True)
    def _restored(self):
        state = np.random.get_state()  # noqa: NPY002 - the global state is what is tested
        yield
        np.random.set_state(state)  # noqa: NPY002

    def fit(self, events):
        X, y, _ = events
        model = quick(random_state=None, n_members=2, augmentation=Spy(), dropout=0.1)
        return model.fit(X, y).predict_proba(X)

    def test_two_fits_differ(self, events):
        assert not np.array_equal(self.fit(events), self.fit(events))

    def test_numpys_global_state_is_neither_read_nor_moved(self, events):
        np.random.seed(1)  # noqa: NPY002
        before = np.random.get_state()  # noqa: NPY002
        first = self.fit(events)
        after = np.random.get_state()  # noqa: NPY002
        np.testing.assert_array_equal(before[1], after[1])
        assert before[2:] == after[2:]
        assert not np.array_equal(first, self.fit(events))


# -- columns of pandas' own types ---------------------------------------------------------------------

DTYPES = ["Int64", "Int8", "Float64", "Float32", "boolean", "double[pyarrow]", "int64[pyarrow]"]


@pytest.mark.parametrize("dtype", [*DTYPES, "bool[pyarrow]"])
@pytest.mark.parametrize("categories", [False, True])
class TestNullableColumns:
    def tables(self, dtype, categories):
        if "pyarrow" in dtype:
            pytest.importorskip("pyarrow")
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"pt": rng.normal(size=200), "njets": rng.integers(0, 2, 200)})
        params = {}
        if categories:
            frame["lepton"] = rng.choice(["e", "mu"], 200)
            params["categorical_features"] = ["lepton"]
        y = (frame.pt + frame.njets > 0.5).astype(int)
        return quick(**params), frame, frame.astype({"njets": dtype}), y

    def test_they_are_numbers_like_any_other(self, dtype, categories):
        model, plain, frame, y = self.tables(dtype, categories)
        expected = model.fit(plain, y).predict_proba(plain)
        np.testing.assert_array_equal(model.predict_proba(frame), expected)
        np.testing.assert_array_equal(model.fit(frame, y).predict_proba(frame), expected)

    def test_a_missing_value_is_named_by_its_column(self, dtype, categories):
        model, plain, frame, y = self.tables(dtype, categories)
        frame.loc[3, "njets"] = pd.NA
        with pytest.raises(ValueError, match="NaN in 'njets'"):
            model.fit(frame, y)
        model.fit(plain, y)
        with pytest.raises(ValueError, match="NaN in 'njets'"):
            model.predict(frame)


# -- torch's modes and the compiler -------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"dropout": 0.2}, {"dense": False}])
def test_torch_no_grad_does_not_change_fit_or_predict(events, params):
    X, y, _ = events
    expected = quick(n_members=2, **params).fit(X, y).predict_proba(X)
    with torch.no_grad():
        model = quick(n_members=2, **params).fit(X, y)
        assert not torch.is_grad_enabled()
        inside = model.predict_proba(X)
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("n_members", [1, 2])
def test_compiled_networks_give_the_eager_answer(events, monkeypatch, n_members):
    """All of the compiler but its code generation, which takes half a minute."""
    X, y, w = events
    compiled, runs = [], []
    compile_ = torch.compile

    def backend(graph, example_inputs):
        compiled.append(graph)

        def run(*args):
            runs.append(1)
            return graph.forward(*args)

        return run

    monkeypatch.setattr(
        torch, "compile", lambda module, **kw: compile_(module, **kw | {"backend": backend})
    )
    torch._dynamo.reset()
    params = {"n_members": n_members, "early_stopping": 5, "max_epochs": 3}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch")
            model = quick(compile=True, **params).fit(X, y, sample_weight=w)
    finally:
        torch._dynamo.reset()
    eager = quick(compile=False, **params).fit(X, y, sample_weight=w)
    assert compiled
    assert len(runs) >= 3 * (4 if n_members == 1 else 3)
    np.testing.assert_allclose(model.predict_proba(X), eager.predict_proba(X), atol=1e-5)
    assert set(model.ensemble_.states) == set(eager.ensemble_.states)
    np.testing.assert_allclose(model.ensemble_.weights, eager.ensemble_.weights, rtol=1e-4)


# -- probabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("params", [{}, {"n_members": 3, "augmentation": Spy()}])
def test_probabilities_sum_to_one(n_classes, params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    y = np.arange(400) % n_classes
    p = quick(**params).fit(X, y).predict_proba(X)
    assert p.dtype == np.float64
    assert p.min() >= 0
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log_loss(y, p)
