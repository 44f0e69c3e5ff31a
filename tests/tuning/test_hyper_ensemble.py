"""Ensembles of networks with different hyperparameters."""

import warnings

import joblib
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import (
    CaloCNNRegressor,
    CartesianMomenta,
    Constant,
    CosineRestarts,
    DenseNetClassifier,
    DenseNetRegressor,
    EventAugmenter,
    OneCycle,
    ReduceOnPlateau,
    SnapshotEnsemble,
    make_higgs_events,
)
from skhep_nn.metrics import class_balanced_weights
from skhep_nn.tuning import HyperEnsembleClassifier, HyperEnsembleRegressor
from skhep_nn.tuning.ensemble_selection import select, stacks_of

ROUNDING = "mini-batch training in float32 agrees to 1e-7, the check asks for 1e-9"
SPACE = {"lr_factor": [0.6, 1.0], "weight_decay": loguniform(1e-6, 1e-4), "dropout": [0.0, 0.02]}


@parametrize_with_checks(
    [
        HyperEnsembleClassifier(
            DenseNetClassifier(depth=1), {"lr_factor": [0.5, 1.0]}, n_candidates=3, n_selected=2
        ),
        HyperEnsembleClassifier(
            DenseNetClassifier(depth=1, n_members=2, class_weight="balanced"),
            n_candidates=2,
            n_selected=2,
            validation_fraction=None,
        ),
        HyperEnsembleRegressor(DenseNetRegressor(depth=1), n_candidates=3, n_selected=2),
    ],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": ROUNDING},
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns about checks that it skips
        check(estimator)


@pytest.fixture(scope="module")
def events():
    events = make_higgs_events(2000, random_state=0)
    return CartesianMomenta().fit_transform(events.data), events.target, events.sample_weight


def network(**params):
    defaults = {"depth": 2, "max_epochs": 6, "class_weight": "balanced", "device": "cpu"}
    return DenseNetClassifier(**defaults | params)


def ensemble(space=None, estimator=None, **params):
    defaults = {"n_candidates": 6, "n_selected": 5, "random_state": 0}
    return HyperEnsembleClassifier(
        network() if estimator is None else estimator,
        SPACE if space is None else space,
        **defaults | params,
    )


def test_tables_say_what_was_picked(events):
    X, y, w = events
    model = ensemble().fit(X, y, sample_weight=w)
    table, picks = model.candidates_, model.selection_
    assert list(table) == ["dropout", "lr_factor", "weight_decay", "valid_loss", "n_picked"]
    assert len(table) == 6
    assert len(picks) == table["n_picked"].sum() == 5
    np.testing.assert_allclose(model.weights_, table["n_picked"] / 5)
    assert picks["candidate"][0] == table["valid_loss"].argmin()
    assert picks["valid_loss"][0] == pytest.approx(table["valid_loss"].min())
    assert picks["valid_loss"].iloc[-1] < picks["valid_loss"][0]
    assert set(model.history_["candidate"]) == set(range(6))
    lr = model.history_.groupby("candidate")["lr"].max()
    np.testing.assert_allclose(lr / lr.max(), table["lr_factor"] / table["lr_factor"].max())


def test_a_number_as_weight_is_the_weight_of_each_event(events):
    model = HyperEnsembleClassifier(
        DenseNetClassifier(depth=1, max_epochs=2), n_candidates=2, n_selected=2, random_state=0
    )
    X, y, _ = events
    number = model.fit(X, y, sample_weight=2.0).predict_proba(X)
    np.testing.assert_array_equal(
        model.fit(X, y, sample_weight=np.full(len(X), 2.0)).predict_proba(X), number
    )


def test_one_ensemble_where_shapes_agree(events):
    """Dropout and weight decay do not matter after training; activations do."""
    X, y, w = events
    model = ensemble().fit(X, y, sample_weight=w)
    (one,) = model.ensembles_
    assert len(one) == (model.weights_ > 0).sum()
    np.testing.assert_allclose(one.weights, model.weights_[model.weights_ > 0])
    space = {"activation": ["swish", "relu"], "weight_decay": [0.0, 1e-3, 1e-2]}
    several = ensemble(space, n_selected=12).fit(X, y, sample_weight=w)
    activations = set(several.candidates_.query("n_picked > 0")["activation"])
    assert len(several.ensembles_) == len(activations)
    assert sum(several.model_weights_) == pytest.approx(1)


@pytest.mark.parametrize(
    "space", [SPACE, {"activation": ["swish", "relu", "selu"], "depth": [1, 2]}]
)
def test_predictions_are_the_mean_of_the_picks(events, space):
    """A single pick is the best candidate; several are averaged with their weights."""
    X, y, w = events
    model = ensemble(space).fit(X, y, sample_weight=w)
    alone = ensemble(space, n_selected=1, n_candidates=6).fit(X, y, sample_weight=w)
    best = alone.selection_["candidate"][0]
    assert alone.weights_[best] == 1
    valid_loss = model.selection_["valid_loss"]
    probability = model.predict_proba(X)
    np.testing.assert_allclose(probability.sum(1), 1, atol=1e-6)
    by_hand = sum(
        weight * own.predict_proba(X)
        for weight, own in zip(model.model_weights_, model.models_, strict=True)
    )
    np.testing.assert_array_equal(probability, by_hand)
    scores = model.decision_function(X)
    np.testing.assert_allclose(expit(scores), probability[:, 1], atol=1e-6)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probability, atol=1e-6)
    np.testing.assert_array_equal(model.classes_[(scores > 0) * 1], model.predict(X))
    assert valid_loss.iloc[-1] <= valid_loss[0]


def test_validation_loss_is_that_of_rows_not_trained_on(events):
    """Compute the loss again with scikit-learn, from the predictions for the same rows."""
    from skhep_nn.tuning.ensemble_selection import Data, Judge

    X, y, w = events
    model = ensemble().fit(X, y, sample_weight=w)
    splitting = int(np.random.SeedSequence(seed_of(0)).generate_state(2)[1] >> 1)
    fold = Judge(model.estimator, Data(X, y, w), 0.2, splitting).fold
    assert len(fold.valid) == 400
    assert not set(fold.valid) & set(fold.train)
    weight = class_balanced_weights(y, w)[fold.valid]
    loss = log_loss(y[fold.valid], model.predict_proba(X)[fold.valid], sample_weight=weight)
    assert loss == pytest.approx(model.selection_["valid_loss"].iloc[-1], rel=1e-5)


def seed_of(random_state):
    return np.random.RandomState(random_state).randint(np.iinfo(np.int32).max)


def test_the_members_own_folds(events):
    """Out-of-fold predictions: the member that was not trained on a row predicts it."""
    X, y, w = events
    model = ensemble(estimator=network(n_members=2), validation_fraction=None).fit(
        X, y, sample_weight=w
    )
    (one,) = model.ensembles_
    assert len(one) == 2 * (model.weights_ > 0).sum()
    # A single candidate, by the validation losses of its training.
    by_fold = model.history_.groupby(["candidate", "member"])["valid_loss"].min()
    of_candidates = by_fold.groupby("candidate").mean()
    np.testing.assert_allclose(model.candidates_["valid_loss"], of_candidates, rtol=0.05)


def test_select_is_greedy_and_picks_again():
    target = np.array([1.0, 0.0, 1.0])
    outputs = [target + offset for offset in ([0.3, 0, 0], [-0.6, 0, 0], [5, 5, 5], [np.nan] * 3)]
    picks, losses = select(outputs, lambda p: float(np.square(p - target).sum()), 3)
    assert picks == [0, 1, 0]
    np.testing.assert_allclose(losses, [0.09, 0.0225, 0], atol=1e-12)


def test_candidates_that_diverge_are_never_picked(events):
    X, y, w = events
    space = [{"schedule": [Constant(1e-3), Constant(1e30)]}]
    model = ensemble(space, n_candidates=4).fit(X, y, sample_weight=w)
    failed = ~np.isfinite(model.candidates_["valid_loss"])
    assert failed.sum() == 2
    assert (model.candidates_["n_picked"][failed] == 0).all()
    assert np.isfinite(model.predict_proba(X)).all()
    with pytest.raises(ValueError, match="all candidates diverged"):
        ensemble({"schedule": [Constant(1e30)]}, n_candidates=2).fit(X, y)


def test_candidates_that_train_stacked():
    def stacks(*own):
        return stacks_of([network(**params) for params in own])

    assert stacks({}, {"weight_decay": 0.1}, {"random_state": 3}) == [[0, 1, 2]]
    assert stacks({}, {"dropout": 0.1}, {"dropout": 0.2}) == [[0], [1, 2]]
    assert stacks({}, {"activation": "relu"}, {}) == [[0, 2], [1]]
    rates = [OneCycle(1e-2, initial_lr=1e-3), OneCycle(1e-3, initial_lr=1e-4), OneCycle(2e-3)]
    assert stacks(*({"schedule": s} for s in rates)) == [[0, 1], [2]]
    plateaus = [ReduceOnPlateau(), ReduceOnPlateau(1e-2), ReduceOnPlateau()]
    assert stacks(*({"schedule": s, "n_members": 2} for s in plateaus)) == [[0, 2], [1]]


def test_inside_other_tools(events):
    """Pipeline, search, clone, and bitwise through joblib."""
    X, y, w = events
    raw = make_higgs_events(600, random_state=0)
    model = make_pipeline(
        CartesianMomenta(),
        ensemble(n_candidates=3, estimator=network(augmentation=EventAugmenter())),
    )
    model.fit(raw.data, raw.target)
    assert model.predict(raw.data).dtype == raw.target.dtype
    search = GridSearchCV(
        ensemble(n_candidates=2, n_selected=2), {"estimator__depth": [1, 2]}, cv=2, refit=False
    ).fit(X[:600], y[:600])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    fitted = clone(ensemble()).fit(X, y, sample_weight=w)
    again = clone(fitted).fit(X, y, sample_weight=w)
    np.testing.assert_array_equal(fitted.predict_proba(X), again.predict_proba(X))


def test_through_joblib(events, tmp_path):
    X, y, _ = events
    model = ensemble(n_candidates=3).fit(X[:500], y[:500])
    joblib.dump(model, tmp_path / "model")
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "model").predict_proba(X), model.predict_proba(X)
    )


def test_regressors(events):
    X, _, w = events
    target = np.column_stack([X["PRI_met_px"], 1e3 + X["PRI_met_py"]])
    network = DenseNetRegressor(depth=2, max_epochs=20, device="cpu", loss="huber")
    model = HyperEnsembleRegressor(network, n_candidates=3, n_selected=3, random_state=0)
    model.fit(X, target, sample_weight=w)
    assert model.predict(X).shape == (2000, 2)
    assert model.score(X, target, sample_weight=w) > 0.8


def test_images():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 12, 12)).astype(np.float32)
    y = X.mean((1, 2))
    network = CaloCNNRegressor(max_epochs=2, device="cpu", precision="float32")
    model = HyperEnsembleRegressor(network, n_candidates=2, n_selected=2, random_state=0).fit(X, y)
    assert model.predict(X).shape == (80,)


@pytest.mark.cuda
def test_on_cuda(events):
    X, y, w = events
    model = ensemble(estimator=network(device="cuda")).fit(X, y, sample_weight=w)
    cpu = ensemble().fit(X, y, sample_weight=w)
    assert model.selection_["valid_loss"].iloc[-1] == pytest.approx(
        cpu.selection_["valid_loss"].iloc[-1], abs=0.02
    )


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"estimator": LogisticRegression()}, TypeError, "DenseNetClassifier"),
        ({"estimator": DenseNetRegressor()}, TypeError, "DenseNetClassifier"),
        ({"space": {"learning_rate": [1]}}, ValueError, r"names \['learning_rate'\]"),
        ({"space": {"n_members": [1, 2]}}, ValueError, "set these in estimator"),
        ({"n_candidates": 0}, ValueError, "n_candidates=0"),
        ({"n_selected": 1.5}, ValueError, r"n_selected=1\.5"),
        ({"validation_fraction": 1.0}, ValueError, r"validation_fraction=1\.0"),
        ({"validation_fraction": None}, ValueError, "n_members of 2"),
        ({"space": {"depth": [0]}}, ValueError, "depth=0"),
        (
            {
                "estimator": network(
                    n_members=2,
                    averaging=SnapshotEnsemble(2),
                    schedule=CosineRestarts(cycle=1, growth=1),
                ),
                "validation_fraction": None,
            },
            ValueError,
            "several checkpoints of a member",
        ),
    ],
)
def test_invalid_parameters(events, params, error, message):
    X, y, _ = events
    with pytest.raises(error, match=message):
        ensemble(**params).fit(X[:300], y[:300])


def test_not_fitted(events):
    with pytest.raises(NotFittedError):
        ensemble().predict(events[0])


def test_a_class_that_is_too_rare(events):
    """The only row of a class is missing either in training, which is an error, or in validation."""
    X, y, _ = events
    labels = np.array(y, dtype=object)
    labels[0] = "rare"
    for seed in range(6):
        try:
            model = ensemble(n_candidates=1, n_selected=1, random_state=seed).fit(X, labels)
        except ValueError as error:
            assert "none of the classes ['rare']" in str(error)  # noqa: PT017
        else:
            assert len(model.classes_) == 3
