"""Fits that fail, are interrupted, diverge, or run side by side."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from skorch.callbacks import Callback, Checkpoint, EpochScoring, LRScheduler, PassthroughScoring

from skhep_nn import (
    AugmentedClassifier,
    CaloCNNClassifier,
    CaloCNNRegressor,
    Constant,
    CosineRestarts,
    CyclicLR,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    ImageAugmenter,
    OneCycle,
    SnapshotEnsemble,
    StackedPostRegressor,
    StochasticWeightAveraging,
    WaveformAugmenter,
    WaveformClassifier,
    WaveformRegressor,
    fit_together,
    load_calo_hdf5,
)
from skhep_nn.kernels.cpu_step import DenseStep
from skhep_nn.training import cpu_parallel, run
from skhep_nn.training.checkpoints import BestEpochs
from skhep_nn.utils.folds import make_folds


@pytest.fixture
def blobs():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 3)).astype(np.float32)
    return X, (X.sum(1) > 0).astype(int)


def quick(**params):
    return DenseNetClassifier(**{"max_epochs": 5, "random_state": 0} | params)


class TestHalfAFit:
    def test_an_interrupted_refit_leaves_nothing_of_the_old_one(self, blobs):
        X, _ = blobs
        model = DenseNetRegressor(max_epochs=3, random_state=0).fit(X, X[:, 0])
        model.set_params(callbacks=[ctrl_c("on_epoch_begin", epoch=1)])
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, 1000 * X[:, 0] + 5e4)
        assert not [name for name in vars(model) if name.endswith("_") and name[0] != "_"]
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


def ctrl_c(method, epoch=4):
    """Return a callback that presses Ctrl-C in a method during an epoch, counted from one."""

    def press(self, net, **kwargs):
        if len(net.history) == epoch:
            signal.raise_signal(signal.SIGINT)

    return type("CtrlC", (Callback,), {method: press})()


class StopAfter(Callback):
    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.n_epochs:
            raise KeyboardInterrupt


class OnBatches(Callback):
    def on_batch_end(self, net, **kwargs): ...


def interrupted(model, *data):
    """Fit a model that is interrupted after three epochs."""
    with (
        pytest.warns(ConvergenceWarning, match="interrupted after 3 of 8 epochs"),
        pytest.raises(KeyboardInterrupt, match="interrupted after 3 of 8 epochs"),
    ):
        model.fit(*data)
    return model


def assert_same_fit(model, other):
    for name, states in other.ensemble_.states.items():
        assert_array_equal(model.ensemble_.states[name], states)
    assert_array_equal(model.ensemble_.weights, other.ensemble_.weights)
    columns = ["member", "epoch", "train_loss", "valid_loss", "lr", "momentum"]
    pd.testing.assert_frame_equal(model.history_[columns], other.history_[columns])


class TestCtrlC:
    """Ctrl-C keeps the complete epochs, and is raised again."""

    @pytest.fixture(autouse=True)
    def answered(self):
        """Answer Ctrl-C also where a shell started the tests in the background, which ignore it."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    @pytest.mark.parametrize("n_members", [1, 3])
    @pytest.mark.parametrize(
        "callbacks",
        [
            [ctrl_c("on_epoch_begin")],
            [ctrl_c("on_epoch_end", epoch=3)],
            [ctrl_c("on_batch_begin"), OnBatches()],
            [ctrl_c("on_batch_end"), OnBatches()],
            [ctrl_c("on_grad_computed"), OnBatches()],
        ],
        ids=["epoch_begin", "epoch_end", "batch_begin", "batch_end", "gradient"],
    )
    def test_in_a_callback_leaves_the_epochs_before_it(self, blobs, callbacks, n_members):
        params = {"max_epochs": 8, "n_members": n_members}
        model = interrupted(quick(callbacks=callbacks, **params), *blobs)
        watching = [OnBatches()] if len(callbacks) > 1 else []
        expected = quick(callbacks=[StopAfter(3), *watching], **params).fit(*blobs)
        assert_same_fit(model, expected)
        assert len(model.net_.history) == 3
        assert_array_equal(model.predict_proba(blobs[0]), expected.predict_proba(blobs[0]))

    @pytest.mark.parametrize(
        "averaging", [StochasticWeightAveraging(1, renewal_period=None), SnapshotEnsemble(2)]
    )
    def test_with_averaging(self, blobs, averaging):
        params = {
            "max_epochs": 8,
            "averaging": averaging,
            "schedule": CosineRestarts(cycle=1, growth=1),
        }
        model = interrupted(quick(callbacks=[ctrl_c("on_epoch_begin")], **params), *blobs)
        assert_same_fit(model, quick(callbacks=[StopAfter(3)], **params).fit(*blobs))

    @pytest.mark.parametrize("kind", [CaloCNNClassifier, WaveformRegressor])
    def test_within_an_epoch_of_automatic_differentiation(self, kind):
        rng = np.random.default_rng(0)
        X, y = (
            rng.random((90, 16, 16) if kind is CaloCNNClassifier else (90, 200)),
            np.arange(90) % 2,
        )
        params = {"max_epochs": 8, "batch_size": 32, "random_state": 0, "device": "cpu"}
        callbacks = [ctrl_c("on_batch_end"), OnBatches()]
        model = interrupted(kind(callbacks=callbacks, **params), X, y)
        other = kind(callbacks=[StopAfter(3), OnBatches()], **params).fit(X, y)
        assert_same_fit(model, other)

    @pytest.mark.parametrize("n_groups", [1, 2])
    def test_within_an_epoch_of_threads(self, blobs, n_groups, monkeypatch):
        monkeypatch.setattr(cpu_parallel, "n_groups", lambda *args: n_groups)
        n_threads, before = torch.get_num_threads(), set(threading.enumerate())
        handler = signal.getsignal(signal.SIGINT)
        take, pressed = DenseStep.step, []

        def step(self, *batch):
            if self.n_taken == 3:  # one step an epoch
                pressed.append(self)
                if len(pressed) == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            self.n_taken += 1
            return take(self, *batch)

        monkeypatch.setattr(DenseStep, "n_taken", 0, raising=False)
        monkeypatch.setattr(DenseStep, "step", step)
        model = interrupted(quick(max_epochs=8, n_members=4), *blobs)
        monkeypatch.undo()
        assert_same_fit(
            model, quick(max_epochs=8, n_members=4, callbacks=[StopAfter(3)]).fit(*blobs)
        )
        assert len(model.net_.pass_.groups) == n_groups
        assert torch.get_num_threads() == n_threads
        assert not [t for t in set(threading.enumerate()) - before if t.is_alive()]
        assert signal.getsignal(signal.SIGINT) is handler

    def test_of_rows_that_are_read_from_a_file(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        rng = np.random.default_rng(0)
        with h5py.File(tmp_path / "images.h5", "w") as file:
            file.create_dataset(
                "X", data=rng.random((256, 8, 8), dtype=np.float32), chunks=(32, 8, 8)
            )
            file.create_dataset("y", data=np.arange(256) % 2)
        loaded = load_calo_hdf5(tmp_path / "images.h5", lazy=True)
        images, y = loaded.images, loaded.target
        before = threading.active_count()
        params = {"max_epochs": 8, "batch_size": 32, "random_state": 0, "device": "cpu"}
        callbacks = [ctrl_c("on_batch_end"), OnBatches()]
        model = interrupted(CaloCNNClassifier(callbacks=callbacks, **params), images, y)
        assert threading.active_count() <= before
        assert model.predict(images).shape == y.shape

    def test_before_the_end_of_the_first_epoch_leaves_nothing(self, blobs):
        for method in ("on_train_begin", "on_epoch_begin", "on_batch_end"):
            model = quick(callbacks=[ctrl_c(method, epoch=method != "on_train_begin"), OnBatches()])
            with pytest.raises(KeyboardInterrupt):
                model.fit(*blobs)
            with pytest.raises(NotFittedError):
                check_is_fitted(model)

    def test_while_an_epoch_is_recorded_waits_for_its_end(self, blobs, monkeypatch):
        update = BestEpochs.update

        def press(self, losses, epoch, *args):
            if epoch == 2:
                signal.raise_signal(signal.SIGINT)
            update(self, losses, epoch, *args)

        monkeypatch.setattr(BestEpochs, "update", press)
        model = interrupted(quick(max_epochs=8, n_members=2), *blobs)
        monkeypatch.undo()
        expected = quick(max_epochs=8, n_members=2, callbacks=[StopAfter(3)]).fit(*blobs)
        assert_array_equal(model.predict_proba(blobs[0]), expected.predict_proba(blobs[0]))

    @pytest.mark.filterwarnings("error")
    def test_is_raised_although_warnings_are_errors(self, blobs):
        model = quick(callbacks=[ctrl_c("on_epoch_begin")])
        with pytest.raises(KeyboardInterrupt):
            model.fit(*blobs)
        assert model.predict(blobs[0]).shape == (300,)

    def test_is_raised_although_the_members_have_diverged(self, blobs):
        model = quick(schedule=Constant(1e30), callbacks=[ctrl_c("on_epoch_begin")])
        with pytest.raises(KeyboardInterrupt):
            model.fit(*blobs)
        with pytest.raises(NotFittedError):
            model.predict(blobs[0])

    def test_is_raised_although_a_callback_misses_the_rest(self, blobs):
        class Complain(Callback):
            def on_train_end(self, net, **kwargs):
                raise KeyError("nothing")

        with pytest.warns(ConvergenceWarning), pytest.raises(KeyboardInterrupt):
            quick(callbacks=[ctrl_c("on_epoch_begin"), Complain()]).fit(*blobs)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_ends_searches(self, blobs):
        model = quick(callbacks=[ctrl_c("on_epoch_begin")])
        for search in (
            GridSearchCV(model, {"depth": [1, 2]}, cv=2),
            make_pipeline(StandardScaler(), model),
            StackedPostRegressor(DenseNetRegressor(callbacks=[ctrl_c("on_epoch_begin")])),
            AugmentedClassifier(model, augmenter=EventAugmenter(columns=["e_px", "e_py", "e_pz"])),
        ):
            with pytest.raises(KeyboardInterrupt):
                search.fit(*blobs)
        with pytest.raises(KeyboardInterrupt):
            cross_val_score(model, *blobs, cv=2)

    def test_of_a_joint_fit_keeps_every_estimator(self, blobs):
        class PressAt(Constant):
            def rates(self, epoch, **kwargs):
                if epoch == 3 and "valid_losses" in kwargs:
                    signal.raise_signal(signal.SIGINT)
                return super().rates(epoch, **kwargs)

        models = [quick(random_state=k, max_epochs=8, schedule=PressAt()) for k in range(2)]
        with pytest.warns(ConvergenceWarning, match="3 of 8"), pytest.raises(KeyboardInterrupt):
            fit_together(models, *blobs)
        assert [len(model.history_) for model in models] == [3, 3]
        assert all(model.predict(blobs[0]).shape == (300,) for model in models)

    def test_first_fit_of_a_process_can_be_repeated(self):
        """The first optimizer imports parts of torch; an import that was cut short fails the next time."""
        code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from skhep_nn import DenseNetClassifier

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == "torch._inductor.config":
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Press())
X, y = np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2
model = DenseNetClassifier(max_epochs=2, random_state=0)
try:
    model.fit(X, y)
except KeyboardInterrupt:
    print("interrupted", len(sys.meta_path))
print(model.fit(X, y).predict(X).shape)
"""
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert out.stdout.splitlines()[0].startswith("interrupted")
        assert out.stdout.splitlines()[1] == "(100,)"


class TestDefaultsOfTorch:
    """The default dtype and the default device never matter."""

    @pytest.fixture(autouse=True)
    def restored(self):
        yield
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)

    @pytest.mark.parametrize(
        ("estimator", "shape"),
        [
            (DenseNetClassifier(n_members=2, dropout=0.2), (3,)),
            (
                DenseNetRegressor(
                    optimizer="sgd", averaging=SnapshotEnsemble(), schedule=CyclicLR(1)
                ),
                (3,),
            ),
            (CaloCNNClassifier(augmentation=ImageAugmenter()), (16, 16)),
            (CaloCNNRegressor(early_stopping=True), (16, 16)),
            (WaveformClassifier(augmentation=WaveformAugmenter()), (200,)),
            (
                WaveformRegressor(averaging=StochasticWeightAveraging(1, renewal_period=None)),
                (200,),
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_fits_and_predictions_have_the_same_bits(self, estimator, shape):
        rng = np.random.default_rng(0)
        X, y = rng.random((80, *shape)), np.arange(80) % 2
        method = "predict_proba" if is_classifier(estimator) else "predict"

        def results():
            model = (
                clone(estimator).set_params(max_epochs=2, random_state=0, device="cpu").fit(X, y)
            )
            predicted = getattr(model, method)(X)
            return [predicted, getattr(model, method)(X[:1]), *model.ensemble_.states.values()]

        expected = results()
        for dtype, device in ((torch.float64, None), (torch.bfloat16, "meta")):
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
            for found, right in zip(results(), expected, strict=True):
                assert_array_equal(found, right)
            assert torch.get_default_dtype() == dtype
            assert torch.get_default_device() == torch.device(device or "cpu")


class TestKeyboardInterrupt:
    def test_of_a_callback_before_the_end_of_the_first_epoch(self, blobs):
        class StopAtOnce(Callback):
            def on_batch_end(self, net, **kwargs):
                raise KeyboardInterrupt

        with pytest.raises(RuntimeError, match="ended training before the end of the first epoch"):
            quick(callbacks=[StopAtOnce()]).fit(*blobs)

    def test_of_a_callback_within_an_epoch_leaves_the_epochs_before_it(self, blobs):
        class StopWithin(Callback):
            def on_batch_end(self, net, **kwargs):
                if len(net.history) == 4:
                    raise KeyboardInterrupt

        model = quick(callbacks=[StopWithin()]).fit(*blobs)
        assert_same_fit(model, quick(callbacks=[StopAfter(3), OnBatches()]).fit(*blobs))

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

    @pytest.mark.filterwarnings("ignore:the fit is no better than a constant")
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
