"""Search over architectures: candidates, scores and results."""

import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import loguniform, norm, randint, uniform
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import parametrize_with_checks
from skorch.callbacks import EpochTimer

from skhep_nn import Constant, DenseNetClassifier, DenseNetRegressor, OneCycle
from skhep_nn.networks import DenseNet
from skhep_nn.tuning import ArchitectureSearch
from skhep_nn.tuning import candidates as module
from skhep_nn.tuning.candidates import Outcome

NETWORK = DenseNetClassifier(n_members=2, max_epochs=2, random_state=0)
SPACE = {
    "depth": randint(2, 9),
    "width": randint(33, 101),
    "growth_rate": uniform(-0.2, 1.2),
    "weight_decay": [0, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11],
    "dropout": [0, 0.05, 0.1, 0.25, 0.5],
}


@parametrize_with_checks(
    [
        ArchitectureSearch(
            DenseNetClassifier(n_members=2, depth=1), {"width": [8]}, n_iter=1, random_state=0
        ),
        ArchitectureSearch(
            DenseNetRegressor(n_members=2, depth=1), {"width": [8]}, n_iter=1, random_state=0
        ),
    ],
    expected_failed_checks=lambda search: {
        "check_sample_weight_equivalence_on_dense_data": "rows of weight zero take part in the folds",
    },
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns about checks that it skips
        check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    return X, np.where(X[:, 0] + X[:, 1] * X[:, 2] > 0, "s", "b"), rng.uniform(0.5, 2, 300)


@pytest.fixture
def scripted(monkeypatch):
    """Searches whose candidates are not trained; a formula gives their losses."""

    def loss(params):
        depth, width = (params["depth"] - 5) / 4, (params["width"] - 60) / 40
        return 0.4 + 0.05 * depth**2 + 0.03 * width**2 + 0.1 * params["dropout"]

    def outcomes(search, model, candidates, data):
        rounds.append([candidate.params for candidate in candidates])
        rng = np.random.default_rng(len(rounds))
        noise = rng.normal(scale=0.002, size=(len(candidates), model.n_members))
        return [
            Outcome(loss(candidate.params) + own, 1.0)
            for candidate, own in zip(candidates, noise, strict=True)
        ]

    rounds = []
    monkeypatch.setattr(ArchitectureSearch, "_fit_candidates", outcomes)
    return rounds


def search_of(network=NETWORK, space=SPACE, **params):
    return ArchitectureSearch(network, space, **{"n_iter": 3, "random_state": 0, **params})


# -- the interface of scikit-learn's searches -----------------------------------------------------


@pytest.fixture(scope="module")
def fitted(data):
    return search_of(space={"depth": [1, 2, 3], "width": randint(4, 20)}).fit(*data)


def test_results_as_of_a_randomized_search(fitted, data):
    X, y, _ = data
    space = {"C": loguniform(0.1, 10), "class_weight": [None, {"b": 1, "s": 2}], "tol": [1, 1e-3]}
    theirs = RandomizedSearchCV(LogisticRegression(), space, n_iter=3, cv=2).fit(X, y)
    ours, results = fitted, fitted.cv_results_
    for name in ("best_index_", "best_score_", "best_params_", "best_estimator_", "n_splits_"):
        assert type(getattr(ours, name)) is type(getattr(theirs, name)) or name.endswith(
            ("_index_", "_score_", "_estimator_")
        )
    expected = {key for key in theirs.cv_results_ if "param" not in key}
    expected -= {"std_fit_time", "mean_score_time", "std_score_time"}
    assert expected | {"params", "param_depth", "param_width", "n_parameters"} == set(results)
    for key, values in results.items():
        assert len(values) == 3, key
    for key in ("rank_test_score", "param_depth", "params"):
        kind = theirs.cv_results_[key.replace("depth", "C")]
        assert type(results[key]) is type(kind), key
    assert results["rank_test_score"].dtype == np.int32
    splits = np.column_stack([results["split0_test_score"], results["split1_test_score"]])
    assert_allclose(results["mean_test_score"], splits.mean(axis=1))
    assert_allclose(results["std_test_score"], splits.std(axis=1))
    assert ours.best_index_ == results["mean_test_score"].argmax()
    assert ours.best_score_ == results["mean_test_score"].max()
    assert ours.best_params_ == results["params"][ours.best_index_]
    assert_array_equal(results["param_width"], [own["width"] for own in results["params"]])
    assert (results["mean_fit_time"] > 0).all()


def test_scores_are_validation_losses(fitted, data):
    for row, params in enumerate(fitted.cv_results_["params"]):
        alone = clone(NETWORK).set_params(**params).fit(*data)
        found = [fitted.cv_results_[f"split{k}_test_score"][row] for k in range(2)]
        assert_array_equal(found, -alone.net_.best_.loss)
        assert fitted.cv_results_["n_parameters"][row] == alone.ensemble_.n_parameters


def test_best_estimator(fitted, data):
    X, y, weight = data
    alone = clone(NETWORK).set_params(**fitted.best_params_).fit(X, y, sample_weight=weight)
    assert_array_equal(fitted.predict_proba(X), alone.predict_proba(X))
    assert_array_equal(fitted.decision_function(X), alone.decision_function(X))
    assert_array_equal(fitted.predict_log_proba(X), alone.predict_log_proba(X))
    assert_array_equal(fitted.predict(X), alone.predict(X))
    assert fitted.score(X, y, weight) == alone.score(X, y, sample_weight=weight)
    assert_array_equal(fitted.classes_, ["b", "s"])
    assert fitted.refit_time_ > 0


def test_refit_with_further_parameters(data):
    search = search_of(space={"width": [4, 8]}, n_iter=2, refit={"n_members": 3}).fit(*data)
    assert len(search.best_estimator_.ensemble_) == 3
    assert search.best_estimator_.width == search.best_params_["width"]
    assert search.n_splits_ == 2


def test_no_refit(data):
    search = search_of(space={"width": [4, 8]}, n_iter=2, refit=False).fit(*data)
    assert search.best_params_["width"] in (4, 8)
    assert not hasattr(search, "predict")
    assert not hasattr(search, "best_estimator_")
    with pytest.raises(AttributeError, match="no attribute 'predict'") as caught:
        search.predict(data[0])
    assert "refit=True" in str(caught.value.__cause__)


def test_methods_are_those_of_the_estimator():
    for name in ("predict_proba", "predict_log_proba", "decision_function"):
        assert hasattr(search_of(), name)
        assert not hasattr(search_of(DenseNetRegressor(n_members=2)), name)
    with pytest.raises(NotFittedError):
        search_of().predict(np.zeros((2, 5)))


def test_regressor_with_two_targets(data):
    X = data[0]
    network = DenseNetRegressor(n_members=2, max_epochs=1)
    search = search_of(network, {"width": [4, 8]}, n_iter=2).fit(X, X[:, :2])
    assert search.predict(X).shape == (300, 2)


def test_in_a_pipeline_with_routed_weights(data):
    X, y, weight = data
    frame = pd.DataFrame(X, columns=list("abcde"))
    with config_context(enable_metadata_routing=True):
        search = search_of(space={"width": [4, 8]}, n_iter=1).set_fit_request(sample_weight=True)
        model = make_pipeline(FunctionTransformer(), search).fit(frame, y, sample_weight=weight)
    alone = search_of(space={"width": [4, 8]}, n_iter=1).fit(frame, y, sample_weight=weight)
    assert model[-1].best_score_ == alone.best_score_
    assert alone.best_score_ != clone(alone).fit(frame, y).best_score_
    assert list(alone.feature_names_in_) == list("abcde")


@pytest.mark.slow
def test_same_seed_same_search_whatever_the_number_of_processes(data):
    network = clone(NETWORK).set_params(random_state=None)
    space = {"width": randint(4, 20), "dropout": [0.0, 0.1]}
    one, two = (search_of(network, space, n_jobs=n).fit(*data) for n in (None, 2))
    for key, values in one.cv_results_.items():
        if key != "mean_fit_time":
            assert_array_equal(values, two.cv_results_[key], err_msg=key)
    assert_array_equal(one.predict_proba(data[0]), two.predict_proba(data[0]))
    other = search_of(network, space, random_state=1).fit(*data)
    assert other.cv_results_["params"] != one.cv_results_["params"]


def test_candidates_share_folds_and_starting_values(data):
    network = clone(NETWORK).set_params(random_state=None)
    # Neither parameter changes the training or a prediction.
    space = {"tta": [True, False]}
    scores = search_of(network, space, n_iter=2).fit(*data).cv_results_["mean_test_score"]
    assert scores[0] == scores[1]
    unseeded = search_of(network, space, n_iter=2, random_state=None)
    assert clone(unseeded).fit(*data).best_score_ != unseeded.fit(*data).best_score_


def test_global_random_state_is_left_alone(data):
    before = check_random_state(None).get_state()[1].copy()
    search_of(random_state=None, n_iter=1, refit=False).fit(*data)
    assert_array_equal(check_random_state(None).get_state()[1], before)


# -- candidates -----------------------------------------------------------------------------------


def test_window_of_sizes(scripted, data):
    search = search_of(n_iter=60, n_parameters=(5_000, 30_000), refit=False).fit(*data)
    results = search.cv_results_
    for params, n in zip(results["params"], results["n_parameters"], strict=True):
        shape = {name: params[name] for name in ("depth", "width", "growth_rate")}
        assert DenseNet(5, **shape).n_parameters == n
        assert 5_000 <= n <= 30_000
    free = search_of(n_iter=60, refit=False).fit(*data).cv_results_["n_parameters"]
    assert free.max() > 100_000
    only_least = search_of(n_iter=9, n_parameters=(50_000, None), refit=False).fit(*data)
    assert only_least.cv_results_["n_parameters"].min() >= 50_000


def test_networks_that_cannot_be_built_are_drawn_again(scripted, data):
    space = SPACE | {"growth_rate": uniform(-0.5, 0.5)}
    results = search_of(space=space, n_iter=40, refit=False).fit(*data).cv_results_
    last = [p["width"] * (1 + (p["depth"] - 1) * p["growth_rate"]) for p in results["params"]]
    assert min(last) >= 1
    assert min(results["param_growth_rate"]) < -0.2


def test_no_network_of_that_size(scripted, data):
    with pytest.raises(ValueError, match=r"no network of 1 to 9 parameters, but of \d+ to \d+"):
        search_of(n_parameters=(1, 9)).fit(*data)
    with pytest.raises(ValueError, match="can be built: depth=0 must be an integer"):
        search_of(space={"depth": [0]}).fit(*data)


def test_no_candidate_twice(scripted, data):
    space = {"depth": [2, 3, 4], "width": [40, 50], "dropout": [0.0]}
    with pytest.warns(UserWarning, match="only 6 of 10 candidates"):
        search = search_of(space=space, n_iter=10, refit=False).fit(*data)
    params = {tuple(sorted(own.items())) for own in search.cv_results_["params"]}
    assert len(params) == 6
    assert len(scripted) == 1


def test_list_of_spaces(scripted, data):
    common = {"depth": [2, 3], "width": [40, 50], "dropout": [0.0]}
    space = [common, common | {"activation": ["relu"]}]
    with pytest.warns(UserWarning, match="only 8 of 9"):
        results = search_of(space=space, n_iter=9, refit=False).fit(*data).cv_results_
    missing = np.ma.getmaskarray(results["param_activation"])
    assert missing.sum() == 4
    with pytest.raises(TypeError, match="one dict of distributions"):
        search_of(space=space, method="gaussian_process").fit(*data)


def test_objects_among_the_parameters(data):
    space = {"schedule": [Constant(1e-3), Constant(1e-2)], "schedule__lr": [2e-3]}
    network = clone(NETWORK).set_params(schedule=Constant())
    search = search_of(network, space, n_iter=2).fit(*data)
    assert search.best_estimator_.schedule.lr == 2e-3
    assert sorted(s.lr for s in search.cv_results_["param_schedule"]) == [1e-3, 1e-2]


# -- fits -----------------------------------------------------------------------------------------


@pytest.fixture
def stacked(monkeypatch):
    """Numbers of candidates in each stacked run."""

    def counted(models, *args, **kwargs):
        sizes.append(len(models))
        return together(models, *args, **kwargs)

    sizes = []
    together = module.train_together
    monkeypatch.setattr(module, "train_together", counted)
    return sizes


def test_candidates_of_one_shape_are_trained_together(data, stacked):
    network = clone(NETWORK).set_params(max_epochs=6)
    space = {"random_state": [1, 2], "weight_decay": [0.0, 0.1], "width": [4, 8]}
    search = search_of(network, space, n_iter=8, refit=False).fit(*data)
    assert stacked == [4, 4]
    results = search.cv_results_
    assert len(set(results["mean_test_score"])) == 8
    for row, params in enumerate(results["params"]):
        alone = clone(network).set_params(**params).fit(*data)
        found = [results[f"split{k}_test_score"][row] for k in range(2)]
        assert_allclose(found, -alone.net_.best_.loss, rtol=1e-4)


def test_several_candidates_of_each_shape(data, stacked):
    space = {
        "width": randint(4, 100),
        "weight_decay": loguniform(1e-6, 1e-2),
        "schedule__max_lr": loguniform(1e-3, 2e-2),
    }
    network = clone(NETWORK).set_params(schedule=OneCycle(), max_epochs=1)
    search = search_of(network, space, n_iter=8, n_per_shape=4, refit=False).fit(*data)
    widths = search.cv_results_["param_width"].tolist()
    assert widths == [widths[0]] * 4 + [widths[4]] * 4
    assert widths[0] != widths[4]
    assert len(set(search.cv_results_["param_weight_decay"].tolist())) == 8
    # Learning rates that are not proportional at every step need separate runs.
    assert len(stacked) <= 2
    few = {"width": randint(4, 100), "weight_decay": [0.0, 0.1]}
    search = search_of(space=few, n_iter=6, n_per_shape=3, refit=False).fit(*data)
    assert len(set(search.cv_results_["param_width"].tolist())) == 3


@pytest.mark.parametrize("params", [{"early_stopping": True}, {"callbacks": [EpochTimer()]}])
def test_candidates_that_are_never_stacked(data, stacked, params):
    network = clone(NETWORK).set_params(**params)
    search = search_of(network, {"random_state": [1, 2]}, n_iter=2, refit=False).fit(*data)
    alone = [
        clone(network).set_params(random_state=own["random_state"]).fit(*data).net_.best_.loss
        for own in search.cv_results_["params"]
    ]
    assert stacked == []
    assert_array_equal(search.cv_results_["mean_test_score"], -np.mean(alone, axis=1))


def test_one_of_a_stack_that_diverges(data, stacked):
    network = clone(NETWORK).set_params(schedule=Constant(), optimizer="sgd")
    space = {"schedule__lr": [1e-3, 1e-2, 1e30]}
    with pytest.warns(FitFailedWarning, match="training diverged"):
        search = search_of(network, space, refit=False).fit(*data)
    assert stacked == [3]
    failed = np.isnan(search.cv_results_["mean_test_score"])
    assert search.cv_results_["param_schedule__lr"][failed].tolist() == [1e30]
    for params, score in zip(
        search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
    ):
        if np.isfinite(score):
            alone = clone(network).set_params(**params).fit(*data)
            assert_allclose(score, -alone.net_.best_.loss.mean(), rtol=1e-5)


def test_fits_that_fail(data):
    space = {"schedule__lr": [1e-3, 1e30], "width": [8]}
    network = clone(NETWORK).set_params(schedule=Constant(), optimizer="sgd")
    with pytest.warns(FitFailedWarning, match="training diverged"):
        search = search_of(network, space, n_iter=2, error_score=100.0).fit(*data)
    assert search.best_params_["schedule__lr"] == 1e-3
    assert sorted(search.cv_results_["rank_test_score"]) == [1, 2]
    assert max(search.cv_results_["mean_test_score"]) == 100
    with pytest.raises(ValueError, match="training diverged"):
        search_of(network, space, n_iter=2, error_score="raise").fit(*data)
    space["schedule__lr"] = [1e30]
    with (
        pytest.warns(FitFailedWarning),
        pytest.raises(ValueError, match=r"all 1 candidates failed .* training diverged"),
    ):
        search_of(network, space, n_iter=1).fit(*data)


# -- candidates chosen by models ------------------------------------------------------------------


def regret(search):
    """Return the difference between the losses of the best parameters and of the planted optimum."""
    best = search.best_params_
    depth, width = (best["depth"] - 5) / 4, (best["width"] - 60) / 40
    return 0.05 * depth**2 + 0.03 * width**2 + 0.1 * best["dropout"]


def test_random_search_finds_the_optimum(scripted, data):
    search = search_of(n_iter=200, n_parameters=(5e3, 1e5), refit=False).fit(*data)
    assert regret(search) < 0.004
    assert [len(own) for own in scripted] == [200]


@pytest.mark.slow
def test_gaussian_process_finds_the_optimum_sooner(scripted, data):
    options = {"n_iter": 30, "n_parameters": (5e3, 1e5), "refit": False}
    found = [
        [regret(search_of(method=m, random_state=k, **options).fit(*data)) for k in range(3)]
        for m in ("random", "gaussian_process")
    ]
    assert np.mean(found[1]) < 0.5 * np.mean(found[0])
    assert max(found[1]) < 0.005
    sizes = [len(own) for own in scripted]
    assert sizes[:3] == [30] * 3
    assert sizes[3:9] == [10, 4, 4, 4, 4, 4]
    chosen = scripted[4]
    # Candidates that are chosen together differ.
    assert len({(own["depth"], own["width"], own["growth_rate"]) for own in chosen}) == 4


def test_gaussian_process_keeps_to_the_window(scripted, data):
    options = {"method": "gaussian_process", "n_parameters": (5e3, 8e3), "refit": False}
    results = search_of(n_iter=18, **options).fit(*data).cv_results_
    assert results["n_parameters"].min() >= 5_000
    assert results["n_parameters"].max() <= 8_000


def test_optuna_finds_the_optimum(scripted, data):
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()
    options = {"method": "optuna", "n_parameters": (5e3, 1e5), "refit": False}
    found = []
    for seed in range(4):
        scripted.clear()  # for the same noise in each search
        found.append(search_of(n_iter=40, **options, random_state=seed).fit(*data))
    assert [len(search.cv_results_["params"]) for search in found] == [40] * 4
    assert np.mean([regret(search) for search in found]) < 0.008
    first = found[0]
    scripted.clear()
    again = search_of(n_iter=40, **options).fit(*data)
    assert first.cv_results_["params"] == again.cv_results_["params"]
    assert first.cv_results_["n_parameters"].max() <= 1e5
    assert optuna.logging.get_verbosity() == before
    with pytest.raises(ValueError, match="'dropout', norm, has no counterpart"):
        search_of(space=SPACE | {"dropout": norm()}, **options).fit(*data)


def test_optuna_learns_what_is_refused(scripted, data):
    pytest.importorskip("optuna")
    # The optimum lies outside the limits of the size.
    options = {"method": "optuna", "n_parameters": (5e3, 8e3), "refit": False}
    results = search_of(n_iter=30, **options).fit(*data).cv_results_
    assert len(results["params"]) == 30
    assert results["n_parameters"].max() <= 8_000


def test_optuna_is_an_extra(data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r"skhep_nn\[optuna\]"):
        search_of(method="optuna").fit(*data)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        ({"estimator": LogisticRegression()}, TypeError, "before the search"),
        ({"estimator": DenseNetClassifier()}, ValueError, "n_members=3"),
        ({"param_distributions": {"n_members": [2, 3]}}, ValueError, "set it in estimator"),
        ({"param_distributions": {"colour": [2, 3]}}, ValueError, r"\['colour'\], which Dense"),
        ({"param_distributions": {"depth": 3}}, TypeError, "not iterable or a distribution"),
        ({"n_parameters": (10, 5)}, ValueError, r"n_parameters=\(10, 5\)"),
        ({"n_parameters": 10}, ValueError, "n_parameters=10"),
        ({"method": "grid"}, ValueError, "method='grid'"),
        ({"n_iter": 0}, ValueError, "n_iter=0"),
        ({"n_per_shape": 0}, ValueError, "n_per_shape=0"),
        ({"n_initial": 1.5}, ValueError, "n_initial=1.5"),
        ({"round_size": 0}, ValueError, "round_size=0"),
        ({"error_score": "none"}, ValueError, "error_score='none'"),
        ({"refit": "score"}, TypeError, "refit='score'"),
    ],
)
def test_invalid_parameters(data, params, error, match):
    with pytest.raises(error, match=match):
        search_of().set_params(**params).fit(*data)
