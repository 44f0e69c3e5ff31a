"""Reliance of networks with blocks of columns, against predictions and written-out formulas."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import ks_2samp
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skhep_nn import CartesianMomenta, DenseNetClassifier, DenseNetRegressor, make_higgs_events
from skhep_nn.inspection import block_reliance, bottleneck_outputs, bottleneck_reliance
from skhep_nn.inspection import blocks as _block_reliance
from skhep_nn.networks import FeatureBlock


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(2, 3, size=(300, 4)), columns=list("abcd"))
    X["jets"] = rng.integers(0, 3, 300)
    y = np.where(X.a * X.c + X.b + 3 * (X.jets == 1) > 6, "s", "b")
    return X, y


@pytest.fixture(scope="module")
def model(table):
    X, y = table
    return DenseNetClassifier(
        blocks={"one": ["jets", "a"], "two": FeatureBlock(["b", "c", "d"], depth=1, width=9)},
        bottleneck=2,
        n_members=2,
        depth=2,
        categorical_features=["jets"],
        max_epochs=4,
        random_state=0,
    ).fit(X, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_reliance_is_what_a_block_adds_to_the_output(table, n_classes):
    X, _ = table
    y = np.digitize(X.a + X.b, [2, 6]) if n_classes == 3 else X.a > 2
    blocks = {"one": ["jets", "a"], "two": ["b", "c", "d"]}
    model = DenseNetClassifier(blocks=blocks, n_members=2, depth=2, max_epochs=2, random_state=0)
    model.set_params(categorical_features=["jets"]).fit(X, y)
    found = block_reliance(model, X)
    n_outputs = 1 if n_classes == 2 else 3
    assert found.columns.tolist() == ["member", "block", "output", "row", "reliance"]
    assert len(found) == 2 * 2 * n_outputs * len(X)
    rows = model._encode_X(X, reset=False)
    network = model.ensemble_.member(1)
    width = network.output.weight.shape[1] // 2
    for block, silenced in (("one", slice(width, None)), ("two", slice(width))):
        alone = model.ensemble_.member(1)
        alone.output.weight[:, silenced] = 0  # the other block has nothing to say
        term = (alone(network.input_stage.mean.new_tensor(rows)) - alone.output.bias).numpy()
        own = found[(found.member == 1) & (found.block == block)]
        table_of_terms = own.pivot_table(index="row", columns="output", values="reliance")
        assert_allclose(table_of_terms, abs(term), rtol=1e-4, atol=1e-5)


def by_hand(model, X, member, block, neuron):
    """Signed products of a bottleneck's weights with the features of its block, from the states."""
    state = {name: value[member] for name, value in model.ensemble_.states.items()}
    values = (X[list("abcd")] - state["input_stage.mean"]) / state["input_stage.scale"]
    vectors = state["input_stage.embeddings.0.weight"][X.jets]
    place = ["one", "two"].index(block)
    weight = state[f"bottlenecks.{place}.weight"][neuron]
    if block == "two":
        products = values[["b", "c", "d"]] * weight
    else:
        # Columns of a block come in the order of the table.
        products = pd.DataFrame({"a": values.a * weight[0], "jets": vectors @ weight[1:]})
    return products, state[f"bottlenecks.{place}.bias"][neuron]


@pytest.mark.parametrize("block", ["one", "two"])
def test_bottleneck_reliance_and_outputs_by_hand(model, table, block):
    X, y = table
    reliance, outputs = bottleneck_reliance(model, X), bottleneck_outputs(model, X, y)
    assert len(reliance) == 2 * 2 * 5 * len(X)
    for member, neuron in ((0, 1), (1, 0)):
        products, bias = by_hand(model, X, member, block, neuron)
        chosen = f"member == {member} and neuron == {neuron} and block == '{block}'"
        found = reliance.query(chosen).pivot_table(
            index="row", columns="feature", values="reliance", observed=True
        )
        assert set(found) == set(products)
        assert_allclose(found[products.columns], products.abs(), rtol=1e-4, atol=1e-5)
        z = products.sum(axis=1) + bias
        out = outputs.query(chosen)
        assert_allclose(out["value"], z / (1 + np.exp(-z)), rtol=1e-4, atol=1e-5)
        assert_array_equal(out["target"], y)
        assert_array_equal(out["row"], np.arange(len(X)))


def test_an_unseen_category_adds_nothing(model, table):
    X, _ = table
    with pytest.warns(UserWarning, match="No row of X has a known category"):
        found = bottleneck_reliance(model, X.assign(jets=7))
    jets = found["feature"] == "jets"
    assert (found.loc[jets, "reliance"] == 0).all()
    assert (found.loc[~jets, "reliance"] > 0).any()


@pytest.mark.parametrize("function", [block_reliance, bottleneck_reliance, bottleneck_outputs])
class TestAll:
    def test_members(self, function, model, table):
        X, _ = table
        everything = function(model, X)
        assert everything["member"].unique().tolist() == [0, 1]
        last = function(model, X, member=-1)
        expected = everything[everything["member"] == 1].reset_index(drop=True)
        pd.testing.assert_frame_equal(last, expected)
        for member in (2, -3):
            with pytest.raises(ValueError, match="the ensemble has 2"):
                function(model, X, member=member)

    def test_chunks_change_nothing(self, function, model, table, monkeypatch):
        X, _ = table
        whole = function(model, X)
        monkeypatch.setattr(_block_reliance, "_CHUNK", 37)
        pd.testing.assert_frame_equal(function(model, X), whole, rtol=1e-5, atol=1e-6)

    def test_pipeline_and_regressor_of_unnamed_columns(self, function):
        X = np.random.default_rng(0).normal(size=(50, 3))
        blocks = {"a": [2], "b": [0, 1]}
        network = DenseNetRegressor(blocks=blocks, bottleneck=1, depth=1, max_epochs=1)
        scaler = StandardScaler()
        model = make_pipeline(scaler, network).fit(X, X[:, 0])
        found = function(model, X)
        pd.testing.assert_frame_equal(found, function(network, scaler.transform(X)))
        assert found["block"].cat.categories.tolist() == ["a", "b"]
        if "feature" in found:
            pairs = found[["block", "feature"]].drop_duplicates().to_numpy().tolist()
            assert pairs == [["a", 2], ["b", 0], ["b", 1]]

    def test_refuses_what_has_no_blocks(self, function, table):
        X, y = table
        plain = DenseNetClassifier(depth=1, max_epochs=1).fit(X, y)
        with pytest.raises(TypeError, match="got DenseNetClassifier without blocks"):
            function(plain, X)
        with pytest.raises(TypeError, match="got LogisticRegression"):
            function(LogisticRegression().fit(X, y), X)
        with pytest.raises(NotFittedError):
            function(DenseNetClassifier(blocks={"a": [0], "b": None}), X)


def test_bottlenecks_must_be_there(table):
    X, y = table
    blocks = {"a": ["a"], "b": None}
    model = DenseNetClassifier(blocks=blocks, depth=1, max_epochs=1).fit(X, y)
    for function in (bottleneck_reliance, bottleneck_outputs):
        with pytest.raises(ValueError, match="no bottlenecks: fit them with bottleneck=1"):
            function(model, X)


def test_outputs_know_no_target_unless_given(model, table):
    X, y = table
    assert "target" not in bottleneck_outputs(model, X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        bottleneck_outputs(model, X, y[:-1])


@pytest.fixture(scope="module")
def events():
    return make_higgs_events(6000, random_state=0)


class TestPhysics:
    """On simulated events, as the study found on its own (appendix A.0.2)."""

    def fitted(self, events, **params):
        network = DenseNetClassifier(
            n_members=2,
            categorical_features=["PRI_jet_num"],
            class_weight="balanced",
            max_epochs=8,
            random_state=0,
            **params,
        )
        model = make_pipeline(CartesianMomenta(), network)
        weights = {"densenetclassifier__sample_weight": events.sample_weight}
        return model.fit(events.data, events.target, **weights)

    def groups(self, events):
        columns = CartesianMomenta().fit_transform(events.data).columns
        high = columns[columns.str.startswith("DER")]
        return list(columns.difference(high, sort=False)), list(high)

    def test_high_level_features_count_more_and_a_deep_block_of_all_most(self, events):
        low, high = self.groups(events)
        wide = FeatureBlock(high, depth=1, width=50)
        for blocks in ({"low": low, "high": wide}, {"wide": wide, "high": None}):
            found = block_reliance(self.fitted(events, blocks=blocks), events.data)
            mean = found.groupby(["block", "member"], observed=True)["reliance"].mean().unstack()
            other = "low" if "low" in blocks else "wide"
            assert (mean.loc["high"] > mean.loc[other]).all()

    def test_the_high_level_bottleneck_tells_the_classes_apart(self, events):
        low, high = self.groups(events)
        blocks = {"low": low, "high": FeatureBlock(high, depth=1, width=51)}
        model = self.fitted(events, blocks=blocks, bottleneck=1)
        found = bottleneck_outputs(model, events.data, events.target).query("block == 'high'")
        distances = [
            ks_2samp(*(own["value"][own["target"] == label] for label in "sb")).statistic
            for _, own in found.groupby("member")
        ]
        assert max(distances) > 0.1


def test_bottlenecks_carry_what_blocks_have_in_common():
    """A product of columns of two blocks is no sum: it takes a bottleneck, which names the columns."""
    X = np.random.default_rng(0).normal(size=(3000, 4))
    y = X[:, 0] * X[:, 2] > 0
    areas, models = [], []
    for bottleneck in (0, 1):
        blocks = {"one": [0, 1], "two": [2, 3]}
        model = DenseNetClassifier(
            blocks=blocks, bottleneck=bottleneck, depth=2, width=20, max_epochs=20, random_state=0
        )
        models.append(model.fit(X[:2000], y[:2000]))
        areas.append(roc_auc_score(y[2000:], model.predict_proba(X[2000:])[:, 1]))
    assert areas[0] < 0.55
    assert areas[1] > 0.98
    found = bottleneck_reliance(models[1], X)
    mean = found.groupby("feature", observed=True)["reliance"].mean()
    assert mean[0] > 2 * mean[1]
    assert mean[2] > 2 * mean[3]
