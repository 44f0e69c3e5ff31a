"""Scores of classifiers, in one report and in bins of a quantity."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn import metrics as reference

from skhep_nn.metrics import binned_scores, classification_summary


@pytest.fixture
def events():
    rng = np.random.default_rng(0)
    y = rng.choice(["electron", "photon"], 500, p=[0.6, 0.4])
    # Rounded, so that there are ties.
    proba = np.clip(0.5 + 0.2 * (y == "photon") + 0.2 * rng.normal(size=500), 0, 1).round(2)
    return y, proba, rng.gamma(4.0, 0.25, 500), rng.uniform(1, 100, 500)


@pytest.fixture
def many():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 400)
    proba = rng.dirichlet(np.ones(4), 400) + 0.5 * np.eye(4)[y]
    return y, proba / proba.sum(axis=1, keepdims=True), rng.gamma(4.0, 0.25, 400)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pos_label", [None, "electron"])
def test_summary_agrees_with_scikit_learn(events, weighted, pos_label):
    y, proba, weight, _ = events
    w = weight if weighted else None
    found = classification_summary(y, proba=proba, sample_weight=w, pos_label=pos_label)
    y_pred = np.where(proba > 0.5, "photon", "electron")
    positive, negative = ("electron", "photon") if pos_label else ("photon", "electron")
    expected = {
        name: getattr(reference, f"{name}_score")(y, y_pred, pos_label=positive, sample_weight=w)
        for name in ("precision", "recall", "f1")
    }
    expected["accuracy"] = reference.accuracy_score(y, y_pred, sample_weight=w)
    expected["specificity"] = reference.recall_score(y, y_pred, pos_label=negative, sample_weight=w)
    score = proba if positive == "photon" else 1 - proba
    expected["auc"] = reference.roc_auc_score(y == positive, score, sample_weight=w)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    assert found.per_class.loc[positive, "recall"] == pytest.approx(expected["recall"])
    total = weight.sum() if weighted else len(y)
    assert found.per_class["weight"].sum() == pytest.approx(total)
    assert found.per_class["n"].to_dict() == {c: (y == c).sum() for c in ("electron", "photon")}


def test_summary_of_many_classes(many):
    y, proba, weight = many
    found = classification_summary(y, proba=proba, sample_weight=weight)
    y_pred = proba.argmax(axis=1)
    options = {"average": None, "sample_weight": weight}
    for name in ("precision", "recall", "f1"):
        expected = getattr(reference, f"{name}_score")(y, y_pred, **options)
        assert_allclose(found.per_class[name], expected)
        assert getattr(found, name) == pytest.approx(expected.mean())
    areas = [reference.roc_auc_score(y == k, proba[:, k], sample_weight=weight) for k in range(4)]
    assert_allclose(found.per_class["auc"], areas)
    alone = classification_summary(y, proba=proba, sample_weight=weight, pos_label=2)
    assert alone.auc == pytest.approx(areas[2])
    assert alone.accuracy == found.accuracy


def test_summary_of_labels_alone(events):
    y, proba, _, _ = events
    y_pred = np.where(proba > 0.8, "photon", "electron")
    found = classification_summary(y, y_pred)
    assert np.isnan(found.auc)
    assert found.recall == pytest.approx((proba[y == "photon"] > 0.8).mean())
    # With both, classes come from y_pred and the area from proba.
    both = classification_summary(y, y_pred, proba=proba)
    assert both[:5] == found[:5]
    assert both.auc == pytest.approx(reference.roc_auc_score(y == "photon", proba))


def test_summary_where_a_class_is_never_predicted():
    found = classification_summary([0, 0, 1], [0, 0, 0])
    assert np.isnan(found.precision)
    assert (found.recall, found.f1, found.specificity) == (0, 0, 1)
    # A class may also be missing from the events.
    other = classification_summary([0, 0], proba=[0.1, 0.7], classes=[0, 1])
    assert np.isnan(other.recall)
    assert np.isnan(other.auc)
    assert other.accuracy == 0.5


def test_order_of_the_columns_can_be_given(events):
    y, proba, _, _ = events
    columns = np.stack([proba, 1 - proba], axis=1)
    found = classification_summary(
        y, proba=columns, classes=["photon", "electron"], pos_label="photon"
    )
    assert found.auc == pytest.approx(reference.roc_auc_score(y == "photon", proba))


def test_negative_weights_count_against(events):
    y, proba, weight, _ = events
    signed = np.where(proba < 0.2, -0.1 * weight, weight)
    found = classification_summary(y, proba=proba, sample_weight=signed)
    right = (proba > 0.5) == (y == "photon")
    assert found.accuracy == pytest.approx(signed[right].sum() / signed.sum())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "got neither"),
        ({"y_pred": [0, 1]}, "2 labels for the 3"),
        ({"proba": [0.1, 0.2]}, r"shape \(2,\), expected \(3, 2\)"),
        ({"proba": [0.1, 0.2, 1.2]}, "from 0 to 1"),
        ({"proba": [0.1, np.nan, 0.2]}, "from 0 to 1"),
        ({"proba": [0.1, 0.2, 0.3], "classes": [0, 2]}, "label 1 is not one of"),
        ({"proba": [0.1, 0.2, 0.3], "pos_label": 5}, "pos_label=5"),
        ({"proba": [0.1, 0.2, 0.3], "sample_weight": [1.0, 2.0]}, "sample_weight has shape"),
        ({"y_pred": [1, 1, 1], "classes": [1]}, "one class only"),
    ],
)
def test_wrong_summaries(arguments, match):
    with pytest.raises(ValueError, match=match):
        classification_summary([0, 1, 0], **arguments)


@pytest.mark.parametrize("weighted", [False, True])
def test_bins_hold_the_scores_of_their_events(events, weighted):
    y, proba, weight, energy = events
    w = weight if weighted else np.ones(500)
    edges = [0, 30, 40, 100]
    table = binned_scores(energy, y, proba, bins=edges, sample_weight=w if weighted else None)
    assert table[["low", "high"]].to_numpy().tolist() == [[0, 30], [30, 40], [40, 100]]
    for _, row in table.iterrows():
        inside = (energy >= row.low) & (energy < row.high)
        assert row.n == inside.sum()
        assert row.weight == pytest.approx(w[inside].sum())
        assert row["mean"] == pytest.approx(np.average(energy[inside], weights=w[inside]))
        right = ((proba > 0.5) == (y == "photon"))[inside]
        assert row.accuracy == pytest.approx(np.average(right, weights=w[inside]))
        area = reference.roc_auc_score(
            y[inside] == "photon", proba[inside], sample_weight=w[inside]
        )
        assert row.auc == pytest.approx(area)


def test_errors_match_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(400):
        y = np.arange(300) % 3 == 0
        w = rng.gamma(2.0, 0.5, 300)
        proba = 1 / (1 + np.exp(-rng.normal(size=300) - y))
        tables.append(binned_scores(np.ones(300), y, proba, sample_weight=w, bins=1))
    found = pd.concat(tables)
    for score in ("accuracy", "auc"):
        assert found[f"{score}_error"].mean() == pytest.approx(found[score].std(), rel=0.1)


def test_bins_of_equal_counts_and_their_edges():
    rng = np.random.default_rng(0)
    values, y, proba = rng.exponential(size=100), np.arange(100) % 2, rng.random(100)
    table = binned_scores(values, y, proba, bins=4)
    assert table["n"].tolist() == [25, 25, 25, 25]
    assert (table.low[0], table.high[3]) == (values.min(), values.max())
    # Few distinct values make fewer bins; a single one makes one.
    assert binned_scores(y, y, proba, bins=4)["n"].tolist() == [50, 50]
    assert len(binned_scores(np.ones(100), y, proba)) == 1
    # Events outside are left out, the last edge is inside, and an empty bin stays.
    table = binned_scores([0, 1, 2, 3, 9], [0, 1, 0, 1, 1], np.full(5, 0.6), bins=[1, 2, 3, 4, 5])
    assert table["n"].tolist() == [1, 1, 1, 0]
    assert table["accuracy"].tolist()[:3] == [1, 0, 1]
    assert np.isnan(table["auc"]).all()
    assert np.isnan(table["accuracy"][3])
    assert binned_scores([1, 3], [0, 1], [0.1, 0.9], bins=[1, 3])["n"].tolist() == [2]


def test_bins_of_many_classes(many):
    y, proba, _ = many
    table = binned_scores(np.arange(400), y, proba, bins=2)
    first = slice(0, 200)
    areas = [reference.roc_auc_score(y[first] == k, proba[first, k]) for k in range(4)]
    assert table.auc[0] == pytest.approx(np.mean(areas))
    assert np.isnan(table.auc_error).all()
    alone = binned_scores(np.arange(400), y, proba, bins=2, pos_label=3)
    assert alone.auc[0] == pytest.approx(areas[3])
    assert alone.auc_error[0] > 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"bins": 0}, "bins=0"),
        ({"bins": 2.5}, r"bins=2\.5"),
        ({"bins": [1, 1, 2]}, "edges that increase"),
        ({"bins": [1]}, "edges that increase"),
        ({"values": [1, 2]}, "values has shape"),
        ({"values": [1, 2, np.inf]}, r"values\[2\] is inf"),
    ],
)
def test_wrong_bins(arguments, match):
    options = {"values": [1, 2, 3], "y": [0, 1, 0], "proba": [0.1, 0.2, 0.3]} | arguments
    with pytest.raises(ValueError, match=match):
        binned_scores(**options)
