"""Outputs of the layers of fitted networks for an image."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skhep_nn import CaloCNNClassifier, DenseNetClassifier, ImageCropper
from skhep_nn.inspection import feature_maps

SMALL = {"channels": (3, 5), "kernels": 3, "dropout": 0.0, "dense": ()}


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 8, 6, 2)).astype(np.float32), np.arange(40) % 2
    model = CaloCNNClassifier(
        network_params=SMALL, n_members=2, max_epochs=2, batch_size=10, random_state=0
    )
    return model.fit(X, y), X


def test_feature_maps_are_the_input_of_the_next_layers(fitted):
    model, X = fitted
    maps = feature_maps(model, X[0], member=1)
    assert {name: m.shape for name, m in maps.items()} == {
        "blocks.0": (3, 4, 3),
        "blocks.1": (5, 2, 1),
    }
    network = model.ensemble_.member(1)
    # The head of this network is the mean of each channel and one layer: from its input to the end.
    logit = network.output.weight.numpy() @ maps["blocks.1"].mean((1, 2))
    logit += network.output.bias.numpy()
    import torch

    assert_allclose(logit, network(torch.as_tensor(X[:1])).numpy()[0], rtol=1e-5)
    other = feature_maps(model, X[0])["blocks.1"]
    assert not np.allclose(other, maps["blocks.1"])
    assert_allclose(feature_maps(model, X[0], member=-1)["blocks.1"], maps["blocks.1"])
    assert not network._forward_hooks


def test_feature_maps_of_named_layers(fitted):
    model, X = fitted
    (name,) = maps = feature_maps(model, X[0], layers="blocks.0.units.0")
    assert name == "blocks.0.units.0"
    assert maps[name].shape == (3, 8, 6)
    assert maps[name].min() < 0  # ahead of the activation, which works in place
    pooled = maps[name].reshape(3, 4, 2, 3, 2).max((2, 4))
    assert_allclose(feature_maps(model, X[0])["blocks.0"], np.maximum(pooled, 0), rtol=1e-5)
    both = feature_maps(model, X[0], layers=["blocks.1", "blocks.0"])
    assert list(both) == ["blocks.0", "blocks.1"]


def test_feature_maps_before_a_residual_sum_are_not_overwritten():
    """Without pooling the activation is computed in the place of the convolution's output."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 6, 6)), np.arange(20) % 2
    plan = SMALL | {"channels": (3,), "pooling": 1}
    model = CaloCNNClassifier(network_params=plan, max_epochs=1, random_state=0).fit(X, y)
    maps = feature_maps(model, X[0], layers=["blocks.0.units.0", "blocks.0"])
    assert maps["blocks.0.units.0"].min() < 0
    assert_allclose(maps["blocks.0"], np.maximum(maps["blocks.0.units.0"], 0))


def test_feature_maps_of_rows_of_pixels_and_of_a_pipeline(fitted):
    model, X = fitted
    y = np.arange(40) % 2
    options = {"network_params": SMALL, "n_members": 2, "max_epochs": 2, "batch_size": 10}
    flat = CaloCNNClassifier(**options, random_state=0, image_shape=(8, 6, 2))
    flat.fit(X.reshape(40, -1), y)
    expected = feature_maps(model, X[3])
    for name, values in feature_maps(flat, X[3].ravel()).items():
        assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)
    pipeline = make_pipeline(
        ImageCropper(size=(4, 4)), CaloCNNClassifier(**options, random_state=0)
    )
    pipeline.fit(X, y)
    cropped = ImageCropper(size=(4, 4)).fit_transform(X)
    found = feature_maps(pipeline, X[3])["blocks.0"]
    assert_allclose(found, feature_maps(pipeline[-1], cropped[3])["blocks.0"])
    alone = make_pipeline(CaloCNNClassifier(**options, random_state=0)).fit(X, y)
    assert_allclose(feature_maps(alone, X[3])["blocks.0"], expected["blocks.0"])


def test_wrong_feature_maps(fitted):
    model, X = fitted
    with pytest.raises(ValueError, match=r"no layers \['blocks.7'\]"):
        feature_maps(model, X[0], layers="blocks.7")
    with pytest.raises(ValueError, match="give numbers, not images"):
        feature_maps(model, X[0], layers="output")
    with pytest.raises(ValueError, match="member=2 does not exist: the ensemble has 2"):
        feature_maps(model, X[0], member=2)
    with pytest.raises(ValueError, match="expecting images of shape"):
        feature_maps(model, X[0, :5])
    rows = np.random.default_rng(0).normal(size=(30, 3))
    y = rows[:, 0] > 0
    dense = DenseNetClassifier(max_epochs=1, random_state=0).fit(rows, y)
    with pytest.raises(TypeError, match="got DenseNetClassifier"):
        feature_maps(dense, rows[0])
    other = make_pipeline(FunctionTransformer(), LogisticRegression()).fit(rows, y)
    with pytest.raises(TypeError, match="got LogisticRegression"):
        feature_maps(other, rows[0])
