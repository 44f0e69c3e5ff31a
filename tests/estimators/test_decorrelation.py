"""Classifiers whose score is decorrelated from a mass: the penalty, its gradient, the training."""

import warnings

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import EpochScoring

from skhep_nn import Constant, DenseNetClassifier, fit_together
from skhep_nn.metrics import mass_sculpting
from skhep_nn.networks.distance_penalty import batch_distance_correlation
from skhep_nn.networks.losses import LOSSES, decorrelated
from skhep_nn.plotting import MassSculptingDisplay
from skhep_nn.training.cpu_parallel import CpuPass
from skhep_nn.training.passes import EagerPass
from tests.metrics.reference import distance_correlation_by_definition as by_definition
from tests.metrics.reference import quantities

ROUNDING = "mini-batch training in float32 agrees to 1e-7, the check asks for 1e-9"


def tensors(*columns, dtype=torch.float64):
    return [torch.as_tensor(np.stack(column), dtype=dtype) for column in columns]


# -- the correlation of batches -------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 7, 64, 65, 500])
def test_batch_distance_correlation_by_its_definition(n):
    x, y, w = quantities(n, seed=n)
    w[:2] += 1
    batch = batch_distance_correlation(*tensors([x], [y], [w]))
    assert_allclose(batch.sqrt(), [by_definition(x, y, w)], rtol=1e-9)


def test_gradient():
    x, y, w = tensors(*np.random.default_rng(0).random((3, 3, 20)))
    w[1, :5] = 0
    x.requires_grad_()
    assert torch.autograd.gradcheck(batch_distance_correlation, (x, y, w))


def test_batches_in_which_nothing_correlates():
    x, y, w = tensors(*np.random.default_rng(0).random((3, 4, 12)), dtype=torch.float32)
    w[0] = 0
    w[1, 1:] = 0
    x[2] = 0.5
    y[3] = 7
    x.requires_grad_()
    value = batch_distance_correlation(x, y, w)
    value.sum().backward()
    assert_array_equal(value.detach(), np.zeros(4))
    assert_array_equal(x.grad, np.zeros((4, 12)))


def test_many_members_are_taken_a_few_at_a_time(monkeypatch):
    columns = tensors(*np.random.default_rng(0).random((3, 5, 30)))
    whole = batch_distance_correlation(*columns)
    monkeypatch.setattr("skhep_nn.networks.distance_penalty._CPU_NUMBERS", 2 * 30**2)
    assert_allclose(batch_distance_correlation(*columns), whole, rtol=1e-12)


# -- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_penalised_loss(n_classes, monkeypatch):
    rng = np.random.default_rng(0)
    n_outputs = 1 if n_classes == 2 else n_classes
    plain = LOSSES["binary_cross_entropy" if n_classes == 2 else "cross_entropy"]
    output, weight = tensors(rng.normal(size=(2, 40, n_outputs)), rng.normal(1, 1, (2, 40)))
    code, mass = tensors(rng.integers(0, n_classes, (2, 40)), rng.normal(size=(2, 40)))
    code = code if n_classes == 2 else code.long()
    counts = code == 1
    loss = decorrelated(plain, 3.0, 1)
    target = torch.stack([code, mass, counts], dim=-1)
    assert_array_equal(loss.labels(target), code)
    assert_array_equal(loss.value(output, target), plain.value(output, code))
    assert_array_equal(loss.gradient(output, target), plain.gradient(output, code))

    def expected(rows):
        parts = []
        for k in range(2):
            own = [t[k, rows][counts[k, rows]].numpy() for t in (output, mass, weight.abs())]
            score = own[0][:, 0] if n_classes == 2 else torch.tensor(own[0]).softmax(-1)[:, 1]
            score = 1 / (1 + np.exp(-score)) if n_classes == 2 else score.numpy()
            total = weight[k, rows].abs().sum().item()
            parts.append(3 * total * by_definition(score, own[1], own[2]) ** 2)
        return np.array(parts)

    assert_allclose(loss.penalty(output, target, weight), expected(slice(None)))
    monkeypatch.setattr("skhep_nn.networks.losses._PENALISED_ROWS", 25)
    in_pieces = expected(slice(25)) + expected(slice(25, None))
    assert_allclose(loss.penalty(output, target, weight), in_pieces)


# -- the classifier -------------------------------------------------------------------------------


@parametrize_with_checks(
    [DenseNetClassifier(decorrelate=0)],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": ROUNDING},
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        # The suite itself warns of what it skips and of inputs it makes bad on purpose.
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.fixture(scope="module")
def events():
    """A resonance on a falling background, and two quantities: one knows of the mass, one does not."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random(3000) < 0.4, "s", "b")
    mass = np.where(y == "s", rng.normal(125, 10, 3000), rng.exponential(60, 3000) + 60)
    X = pd.DataFrame(
        {
            "mass": mass,
            "near": np.abs(mass - 125) + rng.normal(0, 3, 3000),
            "other": rng.normal(0, 1, 3000) + 1.2 * (y == "s"),
        }
    )
    return X, y, rng.exponential(1, 3000)


def classifier(**params):
    options = {"decorrelate": "mass", "random_state": 0, "max_epochs": 10, "depth": 3, "width": 12}
    return DenseNetClassifier(**options | params)


def sculpting(model, X, y, weight=None):
    return mass_sculpting(
        y, model.predict_proba(X)[:, 1], X["mass"], weight, bins=range(60, 201, 10)
    )


def test_the_score_forgets_the_mass(events):
    X, y, w = events
    plain, weak, strong = (classifier(decorrelation_strength=s).fit(X, y, w) for s in (0, 3.0, 30))
    found = [sculpting(model, X, y, w) for model in (plain, weak, strong)]
    divergences = [f.divergence for f in found]
    assert divergences[0] > 0.5
    assert divergences[0] > 1.4 * divergences[1] > 4 * divergences[2]
    assert found[2].distance_correlation < 0.25 * found[0].distance_correlation
    auc = [roc_auc_score(y == "s", m.predict_proba(X)[:, 1]) for m in (plain, weak, strong)]
    by_other = roc_auc_score(y == "s", X["other"])
    # What does not know of the mass is left to go by.
    assert auc[0] > auc[1] > auc[2] > by_other - 0.02


def test_no_strength_is_no_penalty(events):
    X, y, w = events
    columns = {"max_epochs": 2}
    none = classifier(decorrelate=None, **columns).fit(X, y, w)
    zero = classifier(decorrelation_strength=0, **columns).fit(X, y, w)
    assert_array_equal(none.predict_proba(X), zero.predict_proba(X))
    assert isinstance(zero.net_.pass_, CpuPass)
    assert isinstance(
        classifier(**columns).fit(X, y, w).net_.pass_, EagerPass
    )  # which knows no penalties


def test_columns_by_name_and_number_and_the_background_by_label(events):
    X, y, w = events
    options = {"max_epochs": 2}
    by_name = classifier(**options).fit(X, y, w).predict_proba(X)
    by_number = classifier(decorrelate=0, **options).fit(X, y, w).predict_proba(X)
    assert_array_equal(by_name, by_number)
    assert_array_equal(
        classifier(background_label="b", **options).fit(X, y, w).predict_proba(X), by_name
    )
    signal = classifier(background_label="s", **options).fit(X, y, w).predict_proba(X)
    assert np.abs(signal - by_name).max() > 0.01
    # The correlation does not know the unit.
    in_tev = X.assign(mass=X["mass"] / 1000)
    other_unit = classifier(**options).fit(in_tev, y, w).predict_proba(in_tev)
    assert_allclose(other_unit, by_name, atol=2e-3)


@pytest.mark.filterwarnings("ignore:Values far outside all others")
def test_what_is_out_of_range_does_not_count(events):
    """Neither do its masses, however large, nor its scores."""
    X, y, w = events
    out = (y == "b") & (X["mass"].to_numpy() > 150)

    def penalty(mass_outside, window):
        """Of a network that has not moved, and that makes little of a mass of so wide a spread."""
        table = X.assign(mass=np.where(out, mass_outside, X["mass"]))
        columns = {"blocks": {"rest": ["near", "other"], "mass": ["mass"]}, "batch_size": 3000}
        options = columns | {"schedule": Constant(1e-12), "max_epochs": 1}
        losses = [
            classifier(decorrelation_range=window, decorrelation_strength=s, **options)
            .fit(table, y, w)
            .history_["train_loss"][0]
            for s in (0.0, 1.0)
        ]
        return losses[1] - losses[0]

    assert_allclose(penalty(1e30, (60, 150)), penalty(1e20, (60, 150)), rtol=1e-2)
    assert penalty(1e30, (60, 150)) > 0.003
    assert abs(penalty(200, None) - penalty(200, (60, 150))) > 0.003


def test_the_loss_of_a_pass_holds_the_penalty(events):
    """A learning rate of nothing leaves the first state, of which the loss can be computed."""
    X, y, w = events
    options = {"n_members": 3, "max_epochs": 1, "schedule": Constant(1e-12), "batch_size": 3000}
    losses = [
        classifier(decorrelation_strength=s, **options).fit(X, y, w).history_ for s in (0, 1.0, 2.0)
    ]
    for column in ("train_loss", "valid_loss"):
        plain, once, twice = (history[column] for history in losses)
        assert (once - plain > 1e-3).all()
        assert_allclose(twice - plain, 2 * (once - plain), rtol=1e-3)


def test_members_and_estimators_train_together(events):
    X, y, w = events
    pair = [classifier(max_epochs=2, n_members=2, random_state=k) for k in range(2)]
    alone = [classifier(max_epochs=2, n_members=2, random_state=k).fit(X, y, w) for k in range(2)]
    for together, own in zip(fit_together(pair, X, y, w), alone, strict=True):
        assert_allclose(together.predict_proba(X), own.predict_proba(X), atol=1e-4)


def test_three_classes_with_callbacks_that_score(events):
    X, y, w = events
    y = np.where((y == "b") & (X["other"] > 0), "a", y)
    model = classifier(
        max_epochs=2,
        background_label="b",
        decorrelation_strength=5,
        callbacks=[EpochScoring("accuracy", name="accuracy", lower_is_better=False)],
        n_members=2,
    ).fit(X, y, w)
    assert model.predict_proba(X).shape == (3000, 3)
    assert 0.3 < model.net_.history[-1, "accuracy"] <= 1


def test_negative_weights_and_classes_of_great_weight(events):
    X, y, w = events
    w = np.where(np.arange(3000) % 10, w, -w) * np.where(y == "s", 1e-3, 1e3)
    model = classifier(class_weight="balanced", max_epochs=2).fit(X, y, w)
    assert np.isfinite(model.history_["train_loss"]).all()


def test_round_trip_and_search(events, tmp_path):
    X, y, _ = events
    auc = make_scorer(roc_auc_score, response_method="predict_proba")

    def less_sculpted(estimator, X, y):
        return -sculpting(estimator, X, y).divergence

    search = GridSearchCV(
        classifier(max_epochs=8),
        {"decorrelation_strength": [0.0, 10.0]},
        scoring={"auc": auc, "sculpting": less_sculpted},
        refit="sculpting",
        cv=2,
    )
    search.fit(X, y)
    assert search.best_params_ == {"decorrelation_strength": 10.0}
    assert np.argmax(search.cv_results_["mean_test_auc"]) == 0
    joblib.dump(search.best_estimator_, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(again.predict_proba(X), search.predict_proba(X))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"decorrelate": "m"}, "decorrelate names the column 'm'"),
        ({"decorrelate": 3}, "decorrelate names column 3, but X has 3"),
        ({"decorrelate": "other", "categorical_features": ["other"]}, "categorical"),
        ({"decorrelation_strength": -1}, "decorrelation_strength=-1 must be"),
        ({"decorrelation_strength": np.nan}, "decorrelation_strength=nan must be"),
        ({"decorrelation_range": (2, 1)}, "the first less than the second"),
        ({"decorrelation_range": 5}, "None or two numbers"),
        ({"decorrelation_range": (1, 2)}, "no event of the background class 'b'"),
        ({"background_label": "x"}, "background_label='x' is not among the classes"),
    ],
)
def test_parameters_are_checked(events, params, message):
    X, y, _ = events
    X = X.round(1) if "categorical_features" in params else X
    with pytest.raises(ValueError, match=message):
        classifier(**params).fit(X, y)


def test_display(events):
    X, y, w = events
    model = classifier(max_epochs=1).fit(X, y, w)
    options = {"sample_weight": w, "bins": range(60, 201, 10)}
    display = MassSculptingDisplay.from_estimator(model, X, y, X["mass"], **options)
    assert_allclose((display.contents * np.diff(display.bin_edges)).sum(1), np.ones(4))
    middle = display.sculpting.iloc[1]
    assert_allclose(middle["divergence"], sculpting(model, X, y, w).divergence)
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[0] == "All background"
    assert labels[2] == f"50% of the signal, JSD {middle['divergence']:.3f}"
    assert display.ax_.get_xlim() == (60, 200)
    again = display.plot(plt.figure().subplots(), xlabel="m (GeV)")
    assert again.ax_.get_xlabel() == "m (GeV)"
    plt.close("all")
