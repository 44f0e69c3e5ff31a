"""Model of the scores of a search: its predictions, optimum and errors."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from skhep_nn.tuning import fit_search_model


@pytest.fixture(scope="module")
def planted():
    """Scores with a maximum at depth 5, decay 1e-8 and the first activation; width does nothing."""
    rng = np.random.default_rng(0)
    n = 150
    table = pd.DataFrame(
        {
            "depth": rng.integers(2, 9, n),
            "decay": rng.choice([0, 1e-10, 1e-9, 1e-8, 1e-7], n),
            "width": rng.integers(33, 101, n),
            "activation": rng.choice(["swish", "relu"], n),
        }
    )
    expected = (
        -0.02 * (table["depth"] - 5.0) ** 2
        - 0.05 * np.abs(np.log10(table["decay"].where(table["decay"] > 0, 1e-11)) + 8)
        - 0.1 * (table["activation"] == "relu")
    )
    score = expected + rng.normal(scale=0.03, size=n)
    results = {f"param_{name}": table[name].to_numpy() for name in table}
    results["mean_test_score"] = score.to_numpy()
    return fit_search_model(results, random_state=0), results, expected


def test_model_finds_what_was_planted(planted):
    model, _, expected = planted
    best = model.optimum().params
    assert (best["depth"], best["decay"], best["activation"]) == (5, 1e-8, "swish")
    assert_allclose(model.noise_std, 0.03, rtol=0.2)
    predicted = model.predict(model.table)
    pulls = (predicted["mean"] - expected) / predicted["std"]
    assert 0.5 < pulls.std() < 1.5
    assert (predicted["std"] < 0.03).all()
    effects = model.effects().set_index("parameter")
    assert_allclose(effects["effect"][["depth", "activation"]], [0.18, 0.1], rtol=0.2)
    assert effects["effect"]["width"] < 0.02
    assert effects["best"]["decay"] == 1e-8
    assert effects.index[-1] == "width"


def test_scales(planted):
    model = planted[0]
    scales = {axis.name: axis.scale for axis in model.axes}
    expected = {"depth": "linear", "decay": "log", "width": "linear", "activation": "category"}
    assert scales == expected
    rng = np.random.default_rng(0)
    uneven = {
        "param_rate": np.append(rng.uniform(0, 1, 200), 1e-4),
        "mean_test_score": np.ones(201),
    }
    assert fit_search_model(uneven).axes[0].scale == "linear"
    uneven["param_rate"] = 10 ** rng.uniform(-4, -1, 201)
    assert fit_search_model(uneven).axes[0].scale == "log"
    assert fit_search_model(uneven, scales={"rate": "linear"}).axes[0].scale == "linear"


def test_partial_dependence_is_the_mean_over_candidates(planted):
    model, _, _ = planted
    table = model.partial_dependence("depth")
    assert table["depth"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    chosen = np.random.default_rng(model._seed).permutation(150)[:100]
    for depth, mean in zip(table["depth"], table["mean"], strict=True):
        rows = model.table.iloc[chosen].assign(depth=depth)
        assert_allclose(mean, model.predict(rows)["mean"].mean())
    # The uncertainty of an average is below that of its parts, and largest at the ends.
    assert table["std"].max() < model.predict(rows)["std"].mean()
    assert table["std"].iloc[[0, -1]].min() > table["std"].min()


def test_partial_dependence_on_two(planted):
    model, _, _ = planted
    table = model.partial_dependence("width", "activation", n_points=6)
    assert table.columns.tolist() == ["width", "activation", "mean", "std"]
    assert len(table) == 12
    assert set(table["activation"]) == {"relu", "swish"}
    assert table["width"].dtype.kind == "i"
    means = table.groupby("activation")["mean"].mean()
    assert_allclose(means["swish"] - means["relu"], 0.1, rtol=0.2)


def test_deviations_without_noise_are_those_of_the_process(planted):
    """Compare with the prediction of the process, less its white noise."""
    model, _, _ = planted
    process = model._process
    rows = np.hstack([axis.columns(model.table[axis.name].tolist()) for axis in model.axes])
    mean, std = process.predict(rows, return_std=True)
    noise = process.kernel_.k2.noise_level
    predicted = model.predict(model.table)
    assert_allclose(predicted["mean"], model._mean + model._scale * mean)
    assert_allclose(predicted["std"], model._scale * np.sqrt(std**2 - noise), rtol=1e-6)


def test_expected_improvement(planted):
    model, _, _ = planted
    table = model.table
    gain = model.expected_improvement(table)
    predicted = model.predict(table)
    best = predicted["mean"].max()
    draws = np.random.default_rng(0).normal(
        predicted["mean"], predicted["std"], size=(20_000, len(table))
    )
    assert_allclose(gain, np.maximum(draws - best, 0).mean(axis=0), atol=2e-4)
    assert gain.argmax() in np.flatnonzero(table["depth"].between(4, 6))


def test_optimum_among_given_candidates(planted):
    model, _, _ = planted
    only = [
        {"depth": 8, "decay": 0.0, "width": 50, "activation": "relu"},
        {"depth": 6, "decay": 1e-7, "width": 50, "activation": "swish"},
    ]
    best = model.optimum(only)
    assert best.params == only[1]
    assert_allclose([best.mean, best.std], model.predict(only).iloc[1])


def test_failed_candidates_and_tables(planted):
    results = planted[1]
    scores = results["mean_test_score"].copy()
    scores[:20] = np.nan
    table = pd.DataFrame(results | {"mean_test_score": scores})
    assert len(fit_search_model(table, n_restarts=0).table) == 130


def test_same_seed_same_model(planted):
    model, results, _ = planted
    again = fit_search_model(results, random_state=0)
    pd.testing.assert_frame_equal(again.predict(again.table), model.predict(model.table))


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({}, {"parameters": ["height"]}, "'height' is no parameter"),
        ({}, {"score": "mean_test_auc"}, "mean_test_auc"),
        ({}, {"scales": {"depth": "square"}}, "scales="),
        ({}, {"scales": {"activation": "log"}}, "needs numbers of at least 0"),
        (
            {"mean_test_score": np.full(150, np.nan)},
            {},
            "expected at least 5 candidates with a finite score, got 0",
        ),
        (
            {"mean_test_score": np.r_[np.full(146, np.nan), np.ones(4)]},
            {},
            "expected at least 5 candidates",
        ),
        ({"param_depth": np.ma.array(np.arange(150), mask=np.arange(150) < 3)}, {}, "3 candidates"),
    ],
)
def test_results_that_cannot_be_modelled(planted, change, options, match):
    with pytest.raises(ValueError, match=match):
        fit_search_model(planted[1] | change, **options)


def test_questions_without_an_answer(planted):
    model = planted[0]
    with pytest.raises(ValueError, match="'height' is no parameter of the model"):
        model.partial_dependence("height")
    with pytest.raises(ValueError, match="the same parameter"):
        model.partial_dependence("depth", "depth")
    with pytest.raises(ValueError, match=r"have no \['decay', 'width', 'activation'\]"):
        model.predict({"depth": 3})
