"""Fits that fail, are interrupted, diverge, or run side by side."""

import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LRScheduler, PassthroughScoring

from skhep_nn import Constant, DenseNetClassifier, DenseNetRegressor, OneCycle
from skhep_nn.training import run
from skhep_nn.utils.folds import make_folds


@pytest.fixture
def blobs():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    return X, (X.sum(1) > 0).astype(int)


def quick(**params):
    return DenseNetClassifier(**{"max_epochs": 5, "random_state": 0} | params)


class InterruptAt(Constant):
    def rates(self, epoch, **kwargs):
        if epoch == 1:
            raise KeyboardInterrupt
        return super().rates(epoch, **kwargs)


class TestHalfAFit:
    def test_an_interrupted_refit_leaves_nothing_of_the_old_one(self, blobs):
        X, _ = blobs
        model = DenseNetRegressor(max_epochs=3, random_state=0).fit(X, X[:, 0])
        model.set_params(schedule=InterruptAt())
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, 1000 * X[:, 0] + 5e4)
        with pytest.raises(NotFittedError):
            model.predict(X)

    def test_a_failed_first_fit_is_no_fit(self, blobs):
        X, _ = blobs
        model = quick()
        with pytest.raises(ValueError, match="at least two classes"):
            model.fit(X, np.ones(300))
        with pytest.raises(NotFittedError):
            model.predict(X)

    def test_a_refit_drops_categories(self, blobs):
        X, y = blobs
        X = np.column_stack([X, np.arange(300) % 3])
        model = quick(categorical_features=[3]).fit(X, y)
        assert hasattr(model, "categories_")
        model.set_params(categorical_features=None).fit(X, y)
        assert not hasattr(model, "categories_")


class TestKeyboardInterrupt:
    def test_of_the_user_during_scikit_learns_callbacks(self, blobs):
        class Interrupt:
            def setup(self, estimator, context): ...
            def teardown(self, estimator, context): ...
            def on_fit_task_begin(self, estimator, context): ...
            def on_fit_task_end(self, estimator, context):
                raise KeyboardInterrupt

        X, y = blobs
        with pytest.raises(KeyboardInterrupt):
            quick().set_callbacks(Interrupt()).fit(X, y)

    def test_of_a_skorch_callback_ends_training(self, blobs):
        class StopNow(Callback):
            def on_epoch_end(self, net, **kwargs):
                if len(net.history) == 2:
                    raise KeyboardInterrupt

        X, y = blobs
        assert len(quick(callbacks=[StopNow()]).fit(X, y).history_) == 2


class TestDivergence:
    def test_of_all_members_is_an_error(self, blobs):
        X, y = blobs
        with pytest.raises(ValueError, match=r"training diverged \(member 0 in epoch 0\); lower"):
            quick(schedule=Constant(1e30)).fit(X, y)

    def test_of_some_members_leaves_them_out(self, blobs, monkeypatch):
        X, y = blobs
        model = quick(n_members=3)
        build = run._build_net

        def poisoned(*args):
            net = build(*args)
            with torch.no_grad():
                net.stack.output.weight[1] = torch.nan
            return net

        monkeypatch.setattr(run, "_build_net", poisoned)
        with pytest.warns(ConvergenceWarning, match="member 1 in epoch 0"):
            model.fit(X, y)
        assert model.ensemble_.weights[1] == 0
        assert np.all(np.isfinite(model.predict_proba(X)))
        assert model.score(X, y) > 0.6

    def test_rates_that_are_no_numbers(self):
        with pytest.raises(ValueError, match="final_lr"):
            OneCycle(final_lr=np.nan).rates(0, n_epochs=1, n_steps=1)


class TestWeights:
    def test_a_fold_without_weight_is_an_error(self, blobs):
        X, y = blobs
        weight = np.zeros(300)
        weight[:5] = 1
        with pytest.raises(ValueError, match=r"validation rows of member \d have a total"):
            quick(n_members=10).fit(X, y, sample_weight=weight)

    def test_weights_that_all_but_cancel(self, blobs):
        X, y = blobs
        weight = np.where(np.arange(300) % 2, 1.0, -1.0 + 1e-9)
        model = quick(optimizer="sgd", schedule=Constant(1e-2)).fit(X, y, sample_weight=weight)
        assert np.all(np.isfinite(model.predict_proba(X)))


class TestFolds:
    def share(self, strata, classes, n_members, held_back=None):
        return make_folds(
            len(strata), n_members, strata=strata, classes=classes, held_back=held_back, seed=0
        )

    def test_rare_strata_join_the_largest_of_their_class(self):
        classes = np.repeat([0, 1], 50)
        strata = classes * 10
        strata[[0, 60]] = [3, 17]  # one row each
        for folds in (self.share(strata, classes, 5), self.share(strata, classes, 1, 0.2)):
            for fold in folds:
                assert classes[fold.valid].sum() == len(fold.valid) / 2

    def test_a_class_of_one_row_is_no_error(self):
        classes = np.r_[np.zeros(30, dtype=int), 1]
        for n_members, held_back in ((1, 0.1), (5, None), (31, None)):
            folds = self.share(classes, classes, n_members, held_back)
            assert sorted(np.concatenate(folds[0])) == list(range(31))

    def test_few_rows_held_back(self):
        classes = np.arange(10) % 5
        (fold,) = self.share(classes, classes, 1, 0.1)
        assert len(fold.valid) == 1

    def test_strata_of_a_regression(self):
        strata = np.r_[np.repeat([0, 1], 40), 7]
        folds = self.share(strata, None, 4)
        for fold in folds:
            counts = np.bincount(strata[fold.valid], minlength=2)
            assert counts[:2].min() >= 9


class TestSideBySide:
    def test_threads_give_what_one_after_the_other_gives(self, blobs):
        X, y = blobs

        def fit(seed):
            return quick(dropout=0.3, random_state=seed, n_members=2).fit(X, y).predict_proba(X)

        state = torch.get_rng_state()
        serial = [fit(seed) for seed in range(4)]
        together = Parallel(4, backend="threading")(delayed(fit)(seed) for seed in range(4))
        for a, b in zip(serial, together, strict=True):
            np.testing.assert_array_equal(a, b)
        assert torch.equal(state, torch.get_rng_state())

    def test_no_seed_draws_nothing_from_numpys_state(self, blobs):
        X, y = blobs
        before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what is tested
        p, q = (quick(random_state=None).fit(X, y).predict_proba(X) for _ in range(2))
        np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
        assert not np.array_equal(p, q)


class TestCallbacks:
    def test_checkpoint_loads_its_best(self, blobs, tmp_path):
        X, y = blobs
        checkpoint = Checkpoint(dirname=tmp_path, monitor="valid_loss_best", load_best=True)
        model = quick(early_stopping=50, callbacks=[checkpoint]).fit(X, y)
        assert model.score(X, y) > 0.8

    def test_passthrough_scoring(self, blobs):
        X, y = blobs
        scoring = PassthroughScoring("train_loss", on_train=True)
        net = quick(callbacks=[("passed", scoring)]).fit(X, y).net_
        assert np.isfinite(net.history[-1, "train_loss"])

    def test_a_callback_that_cannot_be_copied_is_used_itself(self, blobs):
        class Recorder(Callback):
            def __init__(self):
                self.lock = threading.Lock()
                self.epochs = 0

            def on_epoch_end(self, net, **kwargs):
                self.epochs += 1

        X, y = blobs
        recorder = Recorder()
        quick(callbacks=[recorder]).fit(X, y)
        assert recorder.epochs == 5

    def test_uncached_scores_come_from_rows_a_member_was_not_trained_on(self):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(400, 20)), rng.integers(0, 2, 400)
        scoring = EpochScoring("roc_auc", use_caching=False, lower_is_better=False, name="auc")
        model = quick(n_members=5, max_epochs=40, batch_size=32, callbacks=[scoring]).fit(X, y)
        assert model.net_.history[-1, "auc"] < 0.6

    def test_history_holds_the_rate_that_acted(self, blobs):
        X, y = blobs
        scheduler = LRScheduler(torch.optim.lr_scheduler.ExponentialLR, gamma=0.1)
        history = quick(schedule=Constant(1e-2), callbacks=[scheduler]).fit(X, y).history_
        np.testing.assert_allclose(history.lr, 1e-2 * 0.1 ** np.arange(5))

    def test_bridge_lets_go_of_the_data(self, blobs):
        X, y = blobs
        model = quick().set_callbacks(ScoringMonitor(scoring="accuracy")).fit(X, y)
        bridges = [cb for _, cb in model.net_.callbacks_ if type(cb).__name__ == "SklearnCallbacks"]
        assert bridges[0].task == {}


class TestParameters:
    def test_flags_of_a_numpy_grid(self, blobs):
        X, y = blobs
        model = quick(early_stopping=np.True_, max_epochs=200, schedule=Constant(1e-2)).fit(X, y)
        epochs = model.net_.best_.epoch[0] + 11
        assert len(model.history_) == min(epochs, 200)

    @pytest.mark.parametrize(
        "params",
        [
            {"depth": 2.5},
            {"dropout": None},
            {"width": "Auto"},
            {"weight_decay": None},
            {"early_stopping": "yes"},
            {"early_stopping": 2.7},
            {"optimizer": None},
            {"callbacks": "disable"},
            {"device": "gpu"},
            {"tta": "no"},
            {"dense": "no"},
            {"n_members": True},
            {"schedule": 1e-3},
            {"class_weight": {0: -1.0}},
        ],
    )
    def test_are_named_in_the_error(self, blobs, params):
        X, y = blobs
        (name,) = params
        with pytest.raises(ValueError, match=name):
            quick(**params).fit(X, y)

    def test_no_augmenter(self, blobs):
        X, y = blobs
        with pytest.raises(TypeError, match="no transform_tensor and no view_tensor"):
            quick(augmentation=StandardScalerLike()).fit(X, y)

    def test_momentum_is_left_alone_where_there_is_none(self, blobs):
        X, y = blobs
        groups = quick(optimizer="rmsprop").fit(X, y).net_.optimizer_.param_groups
        assert groups[0]["momentum"] == 0

    def test_link_of_an_ensemble(self, blobs):
        X, y = blobs
        with pytest.raises(ValueError, match="link='logit'"):
            quick().fit(X, y).ensemble_.predict(X, link="logit")


class StandardScalerLike:
    def fit(self, X, y=None):
        return self


def test_fit_where_gradients_are_switched_off(blobs):
    X, y = blobs
    expected = quick().fit(X, y).predict_proba(X)
    with torch.no_grad():
        np.testing.assert_array_equal(quick().fit(X, y).predict_proba(X), expected)
    with torch.inference_mode():
        np.testing.assert_array_equal(quick().fit(X, y).predict_proba(X), expected)


def test_compiled_networks_store_their_state(blobs, monkeypatch):
    X, y = blobs
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **_: real(m, backend="eager"))
    for n_members in (1, 3):
        compiled = quick(compile=True, n_members=n_members).fit(X, y)
        eager = quick(n_members=n_members).fit(X, y)
        np.testing.assert_allclose(
            compiled.predict_proba(X), eager.predict_proba(X), rtol=1e-4, atol=1e-5
        )


def test_parameters_of_what_is_none():
    with pytest.raises(
        ValueError, match=r"schedule__max_lr cannot be set while schedule is None.*OneCycle"
    ):
        DenseNetClassifier().set_params(schedule__max_lr=1e-3)
    model = DenseNetClassifier().set_params(schedule=OneCycle(), schedule__max_lr=1e-3)
    assert model.schedule.max_lr == 1e-3
    with pytest.raises(ValueError, match="Invalid parameter 'colour'"):
        model.set_params(colour="red")


@pytest.mark.parametrize("weight", [{"s": -1.0}, {"s": np.nan}, {"s": "much"}])
def test_class_weights_that_are_none(weight):
    with pytest.raises(ValueError, match=r"class_weight=.* must be numbers of at least 0"):
        DenseNetClassifier(class_weight=weight).fit(np.eye(4), list("ssbb"))


def test_a_class_without_weight_goes_by_its_name():
    with pytest.raises(ValueError, match=r"class s|'s'"):
        DenseNetClassifier(class_weight="balanced").fit(np.eye(4), list("ssbb"), [0, 0, 1, 1])
