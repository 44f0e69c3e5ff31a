import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression

from skhep_nn import load_higgsml, make_higgs_events
from skhep_nn.datasets import HIGGSML_FEATURES
from skhep_nn.inspection import forest_importance, mutual_dependence, rank_correlations
from skhep_nn.inspection.feature_importance import _error

DERIVED = [name for name in HIGGSML_FEATURES if name.startswith("DER_")]
OF_TWO_JETS = {name for name in DERIVED if "jet_jet" in name} | {"DER_lep_eta_centrality"}
SMALL = {"n_estimators": 10, "min_samples_leaf": 3, "random_state": 0}


@pytest.fixture
def labelled():
    """Two features that matter, one twice as often as the other, and one that does not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 3))
    use_first = rng.random(600) < 2 / 3
    return X, np.where(use_first, X[:, 0], X[:, 1]) > 0


@pytest.fixture
def real(data_dir):
    return load_higgsml(data_dir / "higgsml_excerpt.csv.gz")


def by_feature(table):
    return table.set_index("feature")["importance"]


# -- importance -----------------------------------------------------------------------------------


def test_importance_ranks_features(labelled):
    X, y = labelled
    table = forest_importance(X, y, n_forests=3, random_state=0)
    assert list(table["feature"]) == ["x0", "x1", "x2"]
    assert table["importance"].is_monotonic_decreasing
    assert table["importance"][0] > 5 * table["importance_error"][0]
    assert abs(table["importance"][2]) < 0.03
    assert table[["score", "score_error"]].nunique().to_list() == [1, 1]
    assert 0.6 < table["score"][0] < 0.95


def test_importance_of_all_there_is():
    """A forest that lost its only feature guesses: half of the score remains."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"all": rng.choice([-1.0, 1.0], 2000), "nothing": rng.normal(size=2000)})
    table = forest_importance(X, np.where(X["all"] > 0, "s", "b"), n_forests=2, random_state=0)
    assert table["score"][0] == 1.0
    assert table["feature"][0] == "all"
    assert table["importance"][0] == pytest.approx(0.5, abs=0.03)
    assert table["importance"][1] == 0.0


@pytest.mark.parametrize(("first", "best"), [(1.0, "x0"), (0.001, "x1"), (0.0, "x1")])
def test_weights_decide_what_matters(labelled, first, best):
    X, _ = labelled
    y = np.where(np.arange(600) < 300, X[:, 0], X[:, 1]) > 0
    w = np.where(np.arange(600) < 300, first, 1.001 - first)
    table = forest_importance(X, y, sample_weight=w, n_forests=2, random_state=0)
    assert table["feature"][0] == best
    assert table["score"][0] > 0.9
    # Half of all weight is guessed right without it; of the events it would be three quarters.
    assert table["importance"][0] == pytest.approx(0.5, abs=0.08)
    assert abs(table["importance"][1:]).max() < 0.05


def test_balance_of_classes_makes_a_rare_signal_count():
    rng = np.random.default_rng(0)
    y = rng.random(3000) < 0.5
    X = rng.normal(size=(3000, 2)) + 1.5 * y[:, None] * [1, 0]
    w = np.where(y, 0.01, 1.0)
    options = {"sample_weight": w, "n_forests": 2, "random_state": 0}
    balanced = forest_importance(X, y, **options)
    plain = forest_importance(X, y, class_weight=None, **options)
    assert plain["score"][0] > 0.97
    assert plain["importance"][0] < 0.02
    assert balanced["score"][0] < 0.85
    assert balanced["importance"][0] > 0.1
    # Only ratios inside the classes matter then.
    scaled = forest_importance(X, y, **options | {"sample_weight": w * np.where(y, 64, 0.25)})
    pd.testing.assert_frame_equal(scaled, balanced)


def test_one_forest_has_no_error(labelled):
    table = forest_importance(*labelled, n_forests=1, random_state=0)
    assert table[["importance_error", "score_error"]].isna().all(axis=None)
    assert table["feature"][0] == "x0"


def test_error_of_the_mean():
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert_allclose(_error(values), [1 / np.sqrt(3), 0.0])


def test_continuous_targets_and_other_scores(labelled):
    X, y = labelled
    target = X[:, 2] + 0.1 * X[:, 0]
    table = forest_importance(X, target, n_forests=2, random_state=0)
    assert table["feature"][0] == "x2"
    assert table["score"][0] > 0.9
    assert table["importance"][0] > 1.0  # R2 falls below zero
    # Whole numbers are labels, unless the forest says otherwise.
    counts = np.round(10 * target)
    regressor = RandomForestRegressor(**SMALL)
    table = forest_importance(X, counts, forest=regressor, n_forests=2, random_state=0)
    assert table["score"][0] > 0.85
    auc = forest_importance(X, y, scoring="roc_auc", n_forests=2, random_state=0)
    accuracy = forest_importance(X, y, n_forests=2, random_state=0)
    assert auc["score"][0] > accuracy["score"][0]


@pytest.mark.parametrize("forest", [ExtraTreesClassifier(**SMALL), LogisticRegression()])
def test_any_forest_is_cloned(labelled, forest):
    X, y = labelled
    table = forest_importance(X, y, forest=forest, n_forests=2, random_state=0)
    assert table["feature"][0] == "x0"
    assert not hasattr(forest, "classes_")


def test_same_seed_same_table_for_any_number_of_jobs(labelled):
    X, y = labelled
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    forest = RandomForestClassifier(**SMALL)
    tables = [
        forest_importance(X, y, forest=forest, n_forests=2, n_jobs=n, random_state=3)
        for n in (None, 2)
    ]
    pd.testing.assert_frame_equal(*tables)
    pd.testing.assert_frame_equal(
        *(mutual_dependence(X, n_forests=1, max_samples=100, random_state=3) for _ in range(2))
    )
    forest_importance(X, y, forest=forest, n_forests=1)
    assert_allclose(np.random.get_state()[1], before)  # noqa: NPY002


def test_undefined_values_are_taken_as_they_are(labelled):
    X, y = labelled
    X = X.copy()
    X[::3, 2] = np.nan
    assert forest_importance(X, y, n_forests=2, random_state=0)["feature"][0] == "x0"
    # That a value is undefined may be all that matters.
    table = forest_importance(X, np.isnan(X[:, 2]), n_forests=2, random_state=0)
    assert table["feature"][0] == "x2"
    assert table["score"][0] == 1.0


def test_importance_of_simulated_events():
    events = make_higgs_events(4000, random_state=0)
    X = events.data[DERIVED]
    table = forest_importance(
        X, events.target, sample_weight=events.sample_weight, n_forests=2, random_state=0
    )
    assert set(table["feature"][:2]) == {"DER_mass_MMC", "DER_mass_transverse_met_lep"}
    assert by_feature(table)[list(OF_TWO_JETS)].max() < 0.2 * table["importance"][0]


@pytest.mark.slow
def test_importance_of_real_events_is_that_of_the_study(real):
    """Figure 2: the features of two jets alone are not important, from 0.005 on."""
    table = forest_importance(
        real.data[DERIVED],
        real.target,
        sample_weight=real.sample_weight,
        forest=RandomForestClassifier(25, min_samples_leaf=10),
        n_repeats=1,
        random_state=0,
    )
    assert set(table["feature"][:2]) == {"DER_mass_MMC", "DER_mass_transverse_met_lep"}
    assert set(table["feature"][2:6]) >= {"DER_mass_vis", "DER_pt_ratio_lep_tau"}
    importance = by_feature(table)
    assert importance["DER_mass_MMC"] > 0.05
    assert importance[list(OF_TWO_JETS)].max() < 0.005
    assert table["score"][0] > 0.8


# -- mutual dependence ----------------------------------------------------------------------------


def test_dependence_names_what_it_comes_from():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(800, 3)), columns=["a", "b", "c"])
    X["a_squared"] = X["a"] ** 2
    table = mutual_dependence(X, random_state=0)
    assert len(table) == 12
    first = table.iloc[0]
    assert (first["target"], first["feature"]) == ("a_squared", "a")
    assert first["dependence"] > 0.95
    assert first["importance"] > 0.5
    r2 = table.drop_duplicates("target").set_index("target")["dependence"]
    assert r2.is_monotonic_decreasing
    # The sign of `a` is lost in its square, and the others know nothing.
    assert (r2.drop("a_squared") < 0.2).all()
    assert (table["target"] != table["feature"]).all()
    for _, rows in table.groupby("target", sort=False):
        assert rows["importance"].is_monotonic_decreasing
        assert len(set(rows["dependence"])) == 1


def test_dependence_in_the_events_that_have_the_feature():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 2))
    X[:, 1] = np.where(rng.random(900) < 0.4, X[:, 0], np.nan)
    r2 = mutual_dependence(X, random_state=0).set_index("target")["dependence"]
    assert r2["x1"] > 0.95
    assert 0.2 < r2["x0"] < 0.9  # known in four of ten events


def test_dependence_with_weights():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 2))
    same = rng.random(900) < 0.5
    X[same, 1] = X[same, 0]
    weighted = mutual_dependence(X, sample_weight=same.astype(float), random_state=0)
    plain = mutual_dependence(X, random_state=0)
    assert weighted["dependence"].min() > 0.95
    assert plain["dependence"].max() < 0.6


def test_dependence_of_a_draw_of_events():
    rng = np.random.default_rng(0)
    x = rng.normal(size=2000)
    X = np.column_stack([x, x + 0.01 * rng.normal(size=2000)])
    few, many = (
        mutual_dependence(X, max_samples=n, random_state=0)["dependence"].min() for n in (60, None)
    )
    assert few < many


@pytest.mark.slow
def test_dependence_of_real_events_is_that_of_the_study(real):
    """Figure 3: DER_pt_h is the easiest, at 0.92, with DER_sum_pt moderately important to it."""
    X = real.data[[name for name in DERIVED if name not in OF_TWO_JETS]]
    forest = RandomForestRegressor(20, min_samples_leaf=3)
    table = mutual_dependence(X, forest=forest, n_forests=1, random_state=0)
    easiest = table[table["target"] == "DER_pt_h"]
    assert easiest["dependence"].iloc[0] == pytest.approx(0.92, abs=0.03)
    assert easiest["feature"].iloc[0] == "DER_sum_pt"
    assert table["dependence"].max() < 0.95


# -- rank correlations ----------------------------------------------------------------------------


def test_ranks_are_those_of_scipy():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    X[:, 1] = np.round(X[:, 0])  # many level values
    X[:, 2] = rng.integers(0, 3, 80)
    found = rank_correlations(X, cluster=False)
    assert_allclose(found, spearmanr(X).statistic, atol=1e-12)
    assert list(found.index) == list(found.columns) == ["x0", "x1", "x2", "x3"]


def test_pairs_are_correlated_where_both_are_defined():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(90, 4)), columns=list("abcd")).round(1)
    X.loc[:40, ["b", "c"]] = np.nan
    X.loc[30:60, "d"] = np.nan
    expected = X.corr(method="spearman")
    pd.testing.assert_frame_equal(rank_correlations(X, cluster=False), expected)


def test_a_weight_is_a_number_of_events():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)).round(1)
    X[:20, 2] = np.nan
    times = rng.integers(0, 4, 60)
    weighted = rank_correlations(X, sample_weight=times, cluster=False)
    repeated = rank_correlations(np.repeat(X, times, axis=0), cluster=False)
    pd.testing.assert_frame_equal(weighted, repeated)
    plain = rank_correlations(X, cluster=False)
    assert abs(plain - weighted).max(axis=None) > 0.03
    scaled = rank_correlations(X, sample_weight=1e-6 * times, cluster=False)
    pd.testing.assert_frame_equal(scaled, weighted)


def test_correlations_of_what_does_not_vary():
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[:, 1] = 7.0
    X[:, 3] = np.nan
    found = rank_correlations(X)
    assert found.loc[["x1", "x3"]].isna().all(axis=None)
    assert found.loc["x0", "x2"] == found.loc["x2", "x0"]
    assert found.loc["x0", "x0"] == 1.0


def test_no_correlation_where_no_weight_is():
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[:20, 1] = np.nan
    found = rank_correlations(X, sample_weight=np.arange(40) < 20)
    assert_allclose(found, [[1.0, np.nan], [np.nan, np.nan]])


def test_order_puts_together_what_goes_together():
    rng = np.random.default_rng(0)
    of = rng.normal(size=(200, 2))
    group = [0, 1, 0, 1, 0]
    sign = [1, -1, -1, 1, 1]
    X = of[:, group] * sign + 0.1 * rng.normal(size=(200, 5))
    found = rank_correlations(X)
    assert list(found.index) == list(found.columns)
    groups = [group[int(name[1:])] for name in found.columns]
    assert groups in ([0, 0, 0, 1, 1], [1, 1, 0, 0, 0])
    plain = rank_correlations(X, cluster=False)
    pd.testing.assert_frame_equal(plain.loc[found.index, found.columns], found)


def test_no_two_real_features_are_the_same(real):
    """Section 3.1 finds no pair that is fully correlated."""
    found = rank_correlations(real.data[DERIVED], sample_weight=real.sample_weight)
    off_diagonal = found.to_numpy()[~np.eye(len(found), dtype=bool)]
    assert 0.7 < abs(off_diagonal).max() < 0.95
    columns = list(found.columns)
    assert abs(columns.index("DER_mass_MMC") - columns.index("DER_mass_vis")) == 1


# -- errors ---------------------------------------------------------------------------------------

GOOD = np.random.default_rng(0).normal(size=(30, 3))
LABELS = np.arange(30) % 2


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (pd.DataFrame({"a": ["u", "v"], "b": [1.0, 2.0]}), r"columns \['a'\].*do not hold numbers"),
        (pd.DataFrame([[1.0, np.inf], [2.0, 3.0]], columns=["a", "b"]), r"infinity in \['b'\]"),
        (pd.DataFrame(GOOD, columns=["a", "b", "a"]), r"unique column names"),
        (GOOD[:, 0], "1D array"),
        (GOOD[:1], "minimum of 2"),
    ],
)
@pytest.mark.parametrize("study", [rank_correlations, mutual_dependence])
def test_wrong_tables(X, match, study):
    with pytest.raises(ValueError, match=match):
        study(X)


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (np.where(LABELS, 1.0, -1.0), "15 of 30 sample weights are negative"),
        (np.zeros(30), "all 30 sample weights are zero"),
        (np.ones(29), "sample_weight has shape"),
    ],
)
def test_wrong_weights(weight, match):
    for study in (rank_correlations, mutual_dependence):
        with pytest.raises(ValueError, match=match):
            study(GOOD, sample_weight=weight)
    with pytest.raises(ValueError, match=match):
        forest_importance(GOOD, LABELS, sample_weight=weight)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"y": LABELS[:-1]}, "X has 30 rows and y 29"),
        ({"n_forests": 0}, "n_forests=0 must be an integer"),
        ({"n_repeats": 1.5}, "n_repeats=1.5 must be an integer"),
        ({"n_forests": 40}, "n_members=40|40 forests"),
        ({"class_weight": "even"}, "class_weight='even'"),
        ({"sample_weight": LABELS}, "class 0 sum to 0"),
    ],
)
def test_wrong_importance(options, match):
    with pytest.raises(ValueError, match=match):
        forest_importance(GOOD, **{"y": LABELS, **options})


@pytest.mark.parametrize(
    ("X", "options", "match"),
    [
        (GOOD[:, :1], {}, "minimum of 2 is required"),
        (GOOD, {"max_samples": 0}, "max_samples=0"),
        (GOOD, {"sample_weight": np.arange(30) < 8}, "defined and has a weight in 8 of 30 events"),
        (
            np.where(np.arange(90).reshape(30, 3) % 30 == 2, np.nan, GOOD) * [1, 1, np.nan],
            {},
            "'x2'",
        ),
    ],
)
def test_wrong_dependence(X, options, match):
    with pytest.raises(ValueError, match=match):
        mutual_dependence(X, **options)
