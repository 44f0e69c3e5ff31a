"""The area under the ROC curve with weights of any sign, and its scorer in searches."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import AugmentedClassifier, auc_score, auc_scorer, load, make_auc_scorer, save
from skhep_nn.metrics import classification_summary
from tests.metrics.reference import toy_sample
from tests.small_fits import quick, small_events


def by_pairs(is_signal, score, weight):
    """Share of pairs in which the signal is higher, pair by pair."""
    signal, background = score[is_signal], score[~is_signal]
    higher = (signal[:, None] > background) + 0.5 * (signal[:, None] == background)
    w_signal, w_background = weight[is_signal], weight[~is_signal]
    return w_signal @ higher @ w_background / (w_signal.sum() * w_background.sum())


def test_positive_weights_as_scikit_learn():
    y, score, weight = toy_sample()
    expected = roc_auc_score(y == "s", score, sample_weight=weight)
    assert auc_score(y, score, weight) == pytest.approx(expected, rel=1e-12)
    assert auc_score(y, -score, weight, pos_label="b") == pytest.approx(expected, rel=1e-12)


@given(
    arrays(int, 30, elements=st.integers(0, 5)),
    arrays(float, 30, elements=st.sampled_from([-1.0, -0.3, 0.0, 0.5, 2.0])),
)
def test_weights_of_any_sign_pair_by_pair(score, weight):
    y = np.arange(30) % 3 == 0
    totals = weight[y].sum(), weight[~y].sum()
    if min(totals) < 1e-9:
        with pytest.raises(ValueError, match="positive total"):
            auc_score(y, score, weight)
    else:
        expected = by_pairs(y, score, weight)
        assert auc_score(y, score, weight) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_the_area_of_the_summary(n_classes):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(n_classes), 300)
    y = np.array(["a", "b", "c"])[[rng.choice(n_classes, p=row) for row in p]]
    weight = rng.choice([1.0, -1.0], 300, p=[0.7, 0.3])
    expected = classification_summary(y, proba=p, sample_weight=weight).auc
    scores = [p[:, 1]] if n_classes == 2 else [p, np.log(p), np.log(p) + rng.normal(size=(300, 1))]
    for score in scores:
        assert auc_score(y, score, weight) == pytest.approx(expected, rel=1e-12)


def test_columns_of_classes_that_are_named():
    y, p = ["x", "z", "x", "z"], np.array([[6, 3, 1], [1, 1, 8], [5, 2, 3], [7, 1, 2]]) / 10
    with pytest.raises(ValueError, match=r"expected \(4, 2\).*name others with classes="):
        auc_score(y, p)
    with pytest.raises(ValueError, match="events of the class and of the rest"):
        auc_score(y, p, classes=["x", "y", "z"])
    with pytest.raises(ValueError, match=r"\['z'\] of y are not among"):
        auc_score(y, p, classes=["x", "y", "a"])
    with pytest.raises(ValueError, match="pos_label='x' is for two classes"):
        auc_score(y, p, pos_label="x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [[0.2, 0.8], [0.1, 0.9]]), "the column of the signal class only"),
        (([0, 1, 1], [0.1, 0.2, np.nan]), r"score\[2\] is nan"),
        (([0, 1], [0.1, 0.2, 0.3]), "expected"),
        (([0, 1], [0.1, 0.2], [1.0, np.inf]), r"sample_weight\[1\] is inf"),
        (([1, 1], [0.1, 0.2]), r"only the classes \[1\]"),
        (([0, 1, 1], [0.1, 0.2, 0.3], [1, 1, -1]), r"2 events of \[1\] sum to 0"),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        auc_score(*arguments)


@pytest.fixture
def signed():
    X, y, _ = small_events()
    return X, y, np.where(np.random.default_rng(0).random(300) < 0.3, -1.0, 1.0)


def test_a_search_with_negative_weights(signed):
    X, y, weight = signed
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        model = make_pipeline(scaler, quick().set_fit_request(sample_weight=True))
        search = GridSearchCV(
            model,
            {"densenetclassifier__max_epochs": [1, 30]},
            scoring=make_auc_scorer().set_score_request(sample_weight=True),
            cv=2,
        ).fit(X, y, sample_weight=weight)
        scores = cross_val_score(
            search.best_estimator_,
            X,
            y,
            params={"sample_weight": weight},
            scoring=search.scoring,
            cv=2,
        )
    found = search.cv_results_["mean_test_score"]
    assert np.isfinite(found).all()
    assert search.best_params_ == {"densenetclassifier__max_epochs": 30}
    assert scores.mean() == found.max()


def test_the_scorer_scores_like_the_function(signed):
    X, y, weight = signed
    model = quick(max_epochs=10).fit(X, y)
    expected = auc_score(y, model.decision_function(X), weight)
    assert auc_scorer(model, X, y, sample_weight=weight) == expected
    assert make_auc_scorer(pos_label=0)(model, X, y, sample_weight=weight) == pytest.approx(
        expected
    )
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert auc_scorer(forest, X, y) == auc_score(y, forest.predict_proba(X)[:, 1])


@pytest.mark.parametrize("model", [quick(), AugmentedClassifier(LogisticRegression())], ids=repr)
@pytest.mark.filterwarnings("ignore:EventAugmenter found no momenta")
def test_the_scorer_with_three_classes(signed, model):
    X, y, weight = signed
    y = y + (X[:, 1] > 0.5)
    model.fit(X, y)
    expected = classification_summary(y, proba=model.predict_proba(X), sample_weight=weight).auc
    assert auc_scorer(model, X, y, sample_weight=weight) == pytest.approx(expected, abs=1e-6)


def test_a_stored_search_keeps_its_scorer(signed, tmp_path):
    X, y, _ = signed
    search = GridSearchCV(quick(), {"max_epochs": [1]}, scoring=make_auc_scorer(), cv=2).fit(X, y)
    save(search, tmp_path / "search.skops")
    of_scikit_learn = [
        "sklearn.metrics._scorer._Scorer",
        "sklearn.model_selection._split.StratifiedKFold",
    ]
    stored = load(tmp_path / "search.skops", trusted=of_scikit_learn)
    for again in (stored, pickle.loads(pickle.dumps(search))):
        assert again.score(X, y) == search.score(X, y)
