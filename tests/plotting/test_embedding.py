import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skhep_nn import CartesianMomenta, DenseNetClassifier, DenseNetRegressor, make_higgs_events
from skhep_nn.plotting import EmbeddingDisplay


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "channel": rng.choice(["mu", "e", "tau"], 120),
            "x": rng.normal(size=120),
            "n_jets": rng.choice([0, 1, 2, 5], 120),
        }
    )


@pytest.fixture(scope="module")
def model(table):
    y = (table["x"] > 0).astype(int)
    return DenseNetClassifier(
        categorical_features=["n_jets", "channel"],
        embedding_sizes={"channel": 2, "n_jets": 3},
        n_members=2,
        max_epochs=1,
        random_state=0,
    ).fit(table, y)


@pytest.mark.parametrize("member", [0, 1, -1])
@pytest.mark.parametrize(
    ("feature", "categories", "size"),
    [("n_jets", [0, 1, 2, 5], 3), (2, [0, 1, 2, 5], 3), ("channel", ["e", "mu", "tau"], 2)],
)
def test_vectors_are_what_the_network_reads(model, table, feature, categories, size, member):
    display = EmbeddingDisplay.from_estimator(model, feature, member=member)
    assert display.categories == categories
    assert display.vectors.shape == (len(categories), size)
    assert display.feature == (feature if isinstance(feature, str) else "n_jets")
    # The elements of the embedding follow the one numerical input, for an event of each category.
    events = table.drop_duplicates(display.feature).sort_values(display.feature)
    with torch.inference_mode():
        network = model.ensemble_.member(member)
        inputs = network.input_stage(torch.as_tensor(model._encode_X(events, reset=False)))
    start = 1 if display.feature == "channel" else 3
    assert_allclose(inputs[:, start : start + size], display.vectors, rtol=1e-6)


def test_plot_names_categories(model):
    display = EmbeddingDisplay.from_estimator(model, "channel", values_format=".3f")
    ax = display.ax_
    assert [label.get_text() for label in ax.get_yticklabels()] == ["e", "mu", "tau"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Element of the embedding", "channel")
    assert display.text_[1, 0].get_text() == f"{display.vectors[1, 0]:.3f}"
    (image,) = ax.get_images()
    low, high = image.get_clim()
    assert low == -high == -abs(display.vectors).max()


def test_embedding_of_a_pipeline():
    events = make_higgs_events(300, random_state=0)
    network = DenseNetRegressor(
        categorical_features=["PRI_jet_num"], embedding_sizes=3, max_epochs=1, random_state=0
    )
    pipeline = make_pipeline(CartesianMomenta(), network).fit(events.data, events.sample_weight)
    figure, (left, right) = plt.subplots(1, 2)
    display = EmbeddingDisplay.from_estimator(pipeline, ax=right)
    assert display.feature == "PRI_jet_num"
    assert display.categories == [0, 1, 2, 3]
    assert display.ax_ is right
    assert display.figure_ is figure
    assert not left.has_data()


def test_embedding_of_an_array(table):
    X = table[["x", "n_jets"]].to_numpy()
    model = DenseNetClassifier(categorical_features=[1], max_epochs=1, random_state=0)
    display = EmbeddingDisplay.from_estimator(model.fit(X, X[:, 0] > 0))
    assert display.feature == "column 1"
    assert display.categories == [0, 1, 2, 5]


def test_embedding_of_one_vector():
    display = EmbeddingDisplay(vectors=np.zeros((1, 1)), categories=["all"]).plot()
    assert display.ax_.get_ylabel() == ""


@pytest.mark.parametrize(
    ("feature", "options", "match"),
    [
        (None, {}, r"embeds \['channel', 'n_jets'\]: name one of them with feature="),
        ("x", {}, r"'x' is not embedded: choose one of \['channel', 'n_jets'\]"),
        (1, {}, "feature=1 is not embedded"),
        ("n_jets", {"member": 2}, "member=2 does not exist: the ensemble has 2"),
    ],
)
def test_wrong_features(model, feature, options, match):
    with pytest.raises(ValueError, match=match):
        EmbeddingDisplay.from_estimator(model, feature, **options)


def test_wrong_estimators(table):
    X, y = table[["x"]], table["x"] > 0
    with pytest.raises(NotFittedError):
        EmbeddingDisplay.from_estimator(DenseNetClassifier())
    for estimator in (LogisticRegression(), DenseNetClassifier(max_epochs=1, random_state=0)):
        with pytest.raises(TypeError, match=f"got {type(estimator).__name__} without embeddings"):
            EmbeddingDisplay.from_estimator(estimator.fit(X, y))
