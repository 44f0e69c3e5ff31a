"""Scores of the challenge, mean AMS over splits, and scorers of the AMS."""

import math
import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from skhep_nn.metrics import (
    ams_curve,
    ams_score,
    ams_scorer,
    best_cut,
    challenge_scores,
    make_ams_scorer,
    mean_split_ams,
    rescale_weights,
)
from tests.metrics.reference import TOTALS, toy_sample


class TestMeanSplitAms:
    def test_equals_a_hand_written_loop(self):
        y, score, weight = toy_sample()
        result = mean_split_ams(y, score, 0.5, weight, 5, totals=TOTALS, random_state=3)
        expected = []
        folds = StratifiedKFold(5, shuffle=True, random_state=3).split(score, (y == "s"))
        for _, rows in folds:
            yields = {
                label: total
                * weight[rows][(y[rows] == label) & (score[rows] >= 0.5)].sum()
                / weight[rows][y[rows] == label].sum()
                for label, total in TOTALS.items()
            }
            expected.append(ams_score(["s", "b"], [True, True], [yields["s"], yields["b"]]))
        np.testing.assert_allclose(result.values, expected, rtol=1e-12)
        assert result.mean == pytest.approx(np.mean(expected))
        assert result.std_error == pytest.approx(np.std(expected, ddof=1) / math.sqrt(5))

    def test_default_totals_are_those_of_the_whole(self):
        y, score, weight = toy_sample()
        # Everything is selected, so each split has exactly the yields of the whole.
        result = mean_split_ams(y, score, score.min(), weight, random_state=0)
        whole = ams_score(y, np.full(len(y), fill_value=True), weight)
        np.testing.assert_allclose(result.values, whole, rtol=1e-12)

    def test_seed(self):
        y, score, weight = toy_sample()
        first, again, other = (
            mean_split_ams(y, score, 0.5, weight, random_state=seed).values for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("n_splits", [1, 4])
    def test_bad_number_of_splits(self, n_splits):
        with pytest.raises(ValueError, match=f"n_splits={n_splits}.*smaller class, 3"):
            mean_split_ams([1, 1, 1, 0, 0, 0, 0], np.arange(7), 2.0, n_splits=n_splits)

    def test_bad_cut(self):
        with pytest.raises(ValueError, match="cut=nan"):
            mean_split_ams([1, 0] * 5, np.arange(10), math.nan)


class TestChallengeScores:
    def test_built_from_the_parts(self):
        y, p, w = toy_sample(500, seed=1)
        y_test, p_test, w_test = toy_sample(900, seed=2)
        public = np.arange(900) < 300
        scores = challenge_scores(
            y, p, w, y_test, p_test, w_test, public=public, totals=TOTALS, random_state=5
        )
        best = best_cut(y, p, rescale_weights(y, w, TOTALS))
        assert (scores.cut, scores.mmva, scores.mvac) == (best.cut, best.max_ams, best.ams)
        for rows, value in ((public, scores.public), (~public, scores.private)):
            scaled = rescale_weights(y_test[rows], w_test[rows], TOTALS)
            assert value == pytest.approx(
                ams_score(y_test[rows], p_test[rows] >= best.cut, scaled), rel=1e-12
            )
        mapa = mean_split_ams(
            y_test[public],
            p_test[public],
            best.cut,
            w_test[public],
            totals=TOTALS,
            random_state=5,
        )
        assert (scores.mapa, scores.mapa_error) == (mapa.mean, mapa.std_error)

    def test_all_public_by_default(self):
        y, p, w = toy_sample()
        scores = challenge_scores(y, p, w, y, p, w, random_state=0)
        assert scores.public == pytest.approx(scores.mvac)
        assert math.isnan(scores.private)

    @pytest.mark.parametrize(
        ("public", "error"), [([False] * 400, ValueError), ([1] * 400, TypeError)]
    )
    def test_bad_public(self, public, error):
        y, p, w = toy_sample()
        with pytest.raises(error, match="public"):
            challenge_scores(y, p, w, y, p, w, public=public)


@pytest.fixture(scope="module")
def events():
    """Features, labels and weights that matter for the choice of the parameter."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random(600) < 0.5, "s", "b")
    X = rng.normal(size=(600, 3))
    X[y == "s", 0] += 1.5
    weight = rng.exponential(size=600) * np.where(y == "s", 0.1, 10.0)
    return X, y, weight


PIPELINE = Pipeline([("scale", StandardScaler()), ("net", LogisticRegression())])


GRID = {"net__C": [1e-4, 1e-2, 1.0]}


class TestScorer:
    @pytest.mark.parametrize("cut", ["best", "max", 0.6])
    @pytest.mark.parametrize("routed", [False, True])
    def test_grid_search_equals_a_manual_loop(self, events, cut, routed):
        X, y, weight = events
        scorer = make_ams_scorer(b_reg=5.0, cut=cut, totals=TOTALS)
        folds = StratifiedKFold(3)
        if routed:
            with sklearn.config_context(enable_metadata_routing=True):
                pipe = Pipeline(
                    [
                        ("scale", StandardScaler().set_fit_request(sample_weight=False)),
                        ("net", LogisticRegression().set_fit_request(sample_weight=True)),
                    ]
                )
                scorer = scorer.set_score_request(sample_weight=True)
                search = GridSearchCV(pipe, GRID, scoring=scorer, cv=folds)
                search.fit(X, y, sample_weight=weight)
        else:
            search = GridSearchCV(PIPELINE, GRID, scoring=scorer, cv=folds).fit(X, y)

        w = weight if routed else np.ones(len(y))
        expected = []
        for C in GRID["net__C"]:
            values = []
            for train, test in folds.split(X, y):
                model = clone(PIPELINE).set_params(net__C=C)
                p = model.fit(X[train], y[train], net__sample_weight=w[train]).predict_proba(
                    X[test]
                )
                p = p[:, list(model.classes_).index("s")]
                scaled = rescale_weights(y[test], w[test], TOTALS)
                best = best_cut(y[test], p, scaled, b_reg=5.0)
                values.append(
                    {
                        "best": best.ams,
                        "max": best.max_ams,
                        0.6: ams_score(y[test], p >= 0.6, scaled, 5.0),
                    }[cut]
                )
            expected.append(np.mean(values))
        np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected, rtol=1e-9)
        assert search.best_params_["net__C"] == GRID["net__C"][int(np.argmax(expected))]
        assert len(set(expected)) > 1

    def test_weights_change_the_score(self, events):
        X, y, weight = events
        model = clone(PIPELINE).fit(X, y)
        assert ams_scorer(model, X, y) != ams_scorer(model, X, y, sample_weight=weight)

    def test_cross_validate_with_routing(self, events):
        X, y, weight = events
        with sklearn.config_context(enable_metadata_routing=True):
            result = cross_validate(
                LogisticRegression().set_fit_request(sample_weight=True),
                X,
                y,
                cv=3,
                params={"sample_weight": weight},
                scoring={
                    "weighted": make_ams_scorer().set_score_request(sample_weight=True),
                    "unit": make_ams_scorer().set_score_request(sample_weight=False),
                },
            )
        assert np.all(result["test_weighted"] != result["test_unit"])

    def test_weights_without_a_request_are_refused_not_dropped(self, events):
        X, y, weight = events
        with sklearn.config_context(enable_metadata_routing=True):
            search = GridSearchCV(
                LogisticRegression().set_fit_request(sample_weight=True),
                {"C": [1.0]},
                scoring=make_ams_scorer(),
            )
            with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
                search.fit(X, y, sample_weight=weight)

    def test_pos_label_chooses_the_column(self, events):
        X, y, weight = events
        model = clone(PIPELINE).fit(X, y)
        background = model.predict_proba(X)[:, list(model.classes_).index("b")]
        score = make_ams_scorer(pos_label="b", cut="max")(model, X, y, sample_weight=weight)
        assert score == ams_curve(y, background, weight, pos_label="b").ams.max()

    def test_decision_function(self, events):
        X, y, _ = events
        model = make_pipeline(StandardScaler(), LinearSVC()).fit(X, y == "s")
        expected = best_cut(y == "s", model.decision_function(X)).ams
        assert ams_scorer(model, X, y == "s") == expected

    def test_works_in_parallel_and_pickles(self, events):
        X, y, _ = events
        scorer = pickle.loads(pickle.dumps(make_ams_scorer(totals=TOTALS)))
        searches = [
            GridSearchCV(PIPELINE, GRID, scoring=scorer, n_jobs=n_jobs).fit(X, y)
            for n_jobs in (1, 2)
        ]
        np.testing.assert_array_equal(
            *(search.cv_results_["mean_test_score"] for search in searches)
        )

    @pytest.mark.parametrize("cut", ["top", np.nan, None, True])
    def test_bad_cut(self, cut):
        with pytest.raises(ValueError, match="cut="):
            make_ams_scorer(cut=cut)

    def test_bad_b_reg(self):
        with pytest.raises(ValueError, match="b_reg=-1"):
            make_ams_scorer(b_reg=-1)
