"""Estimators of images."""

import pickle
import tracemalloc
import warnings

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import CaloCNNClassifier, Constant, ImageAugmenter, ImageCropper, _images
from skhep_nn._base import _placed

ROUNDING = "mini-batch training in float32 agrees to 1e-7, the check asks for 1e-9"
# A network that the many tiny fits of scikit-learn's suite can afford.
SMALL = {"channels": (8,), "kernels": 3, "pooling": 2, "dropout": 0.0, "dense": (8,)}
SMALL["dense_dropout"] = 0.0
CHECKED = {"network_params": SMALL, "precision": "float32", "max_epochs": 40}


@parametrize_with_checks(
    [CaloCNNClassifier(**CHECKED)],
    expected_failed_checks=lambda _: {"check_sample_weight_equivalence_on_dense_data": ROUNDING},
)
def test_conforms_to_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite warns of what it skips
        check(estimator)


@pytest.fixture(scope="module")
def blobs():
    """Images with a spot that is wide or narrow."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 2
    x = np.arange(12) - 5.5
    r2 = (x[:, None] - rng.normal(0, 1, (240, 1, 1))) ** 2 + (
        x - rng.normal(0, 1, (240, 1, 1))
    ) ** 2
    images = np.exp(-r2 / (2 * np.where(y, 1.0, 2.0)[:, None, None] ** 2))
    images = images + 0.05 * rng.normal(size=images.shape)
    return np.stack([images, images**2], axis=-1).astype(np.float32), y


def small(**params):
    defaults = {"network_params": SMALL, "max_epochs": 12, "batch_size": 40, "random_state": 0}
    return CaloCNNClassifier(**defaults | {"device": "cpu"} | params)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_learns(blobs, precision):
    X, y = blobs
    model = small(precision=precision, n_members=2).fit(X, y)
    assert model.score(X, y) > 0.9
    assert set(model.history_.member) == {0, 1}


@pytest.mark.parametrize("preset", ["compact", "challenge", "resnet15", "attention"])
def test_presets(blobs, preset):
    X, y = blobs
    model = small(preset=preset, network_params=None, max_epochs=1).fit(X[:60], y[:60])
    assert np.isfinite(model.predict_proba(X)).all()


def test_classes_and_containers(blobs):
    """Several classes, images without channels, rows of pixels and bytes."""
    X, y = blobs
    three = np.array(["a", "b", "c"])[y + (np.arange(240) % 4 == 0)]
    model = small(max_epochs=1).fit(X[..., 0], three)
    assert set(model.predict(X[..., 0])) <= set(three)
    rows = X.reshape(240, -1)
    flat = small(image_shape=(12, 12, 2)).fit(rows, y).predict_proba(rows)
    np.testing.assert_array_equal(flat, small().fit(X, y).predict_proba(X))
    counts = np.clip(200 * X, 0, 255).astype(np.uint8)
    model = small().fit(counts, y)
    assert model.net_.get_split_datasets is not None
    assert model._encode_X(counts, reset=False).dtype == np.uint8
    np.testing.assert_array_equal(
        model.predict_proba(counts), model.predict_proba(counts.astype(np.float32))
    )


def test_wrong_shapes_are_named(blobs):
    X, y = blobs
    model = small(max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=r"\(10, 12, 2\).*\(12, 12, 2\)"):
        model.predict(X[:, :10])
    with pytest.raises(ValueError, match="image_shape"):
        small(image_shape=(5, 5)).fit(X.reshape(240, -1), y)
    with pytest.raises(ValueError, match="preset"):
        small(preset="huge").fit(X, y)


def test_channels_are_standardised_by_weighted_moments(blobs):
    X, y = blobs
    w = np.random.default_rng(1).uniform(0, 2, 240)
    states = small(max_epochs=1).fit(X, y, sample_weight=w).ensemble_.states
    pixels = X.reshape(240, -1, 2).astype(float)
    weight = np.broadcast_to(w[:, None], pixels.shape[:2]).ravel()
    for channel in range(2):
        values = pixels[..., channel].ravel()
        mean = np.average(values, weights=weight)
        spread = np.sqrt(np.average((values - mean) ** 2, weights=weight))
        assert states["mean"][0, channel] == pytest.approx(mean, rel=1e-5)
        assert states["scale"][0, channel] == pytest.approx(spread, rel=1e-4)


def test_members_are_the_same_alone(blobs):
    """Members run one after the other, batch normalisation, dropout and augmentation each its own."""
    X, y = blobs
    params = {"network_params": SMALL | {"dropout": 0.2}, "augmentation": ImageAugmenter()}
    three = small(n_members=3, max_epochs=2, precision="float32", **params).fit(X, y)
    assert len({v.tobytes() for v in three.ensemble_.states["blocks.0.units.0.running_var"]}) == 3
    again = small(n_members=3, max_epochs=2, precision="float32", **params).fit(X, y)
    for name, value in three.ensemble_.states.items():
        np.testing.assert_array_equal(again.ensemble_.states[name], value)
    means = sum(
        weight * torch.sigmoid(three.ensemble_.member(k)(torch.from_numpy(X))).numpy()
        for k, weight in enumerate(three.ensemble_.weights)
    )
    three.set_params(tta=False)
    np.testing.assert_allclose(three.predict_proba(X)[:, 1:], means, atol=1e-6)


def test_views_are_averaged(blobs):
    X, y = blobs
    model = small(augmentation=ImageAugmenter(), precision="float32").fit(X, y)
    turned = np.ascontiguousarray(np.rot90(X, axes=(1, 2)))
    np.testing.assert_allclose(model.predict_proba(X), model.predict_proba(turned), atol=1e-5)


def test_it_composes_and_is_stored(blobs, tmp_path):
    X, y = blobs
    pipeline = make_pipeline(ImageCropper(size=10), small(max_epochs=2, schedule=Constant()))
    grid = {"calocnnclassifier__schedule__lr": [1e-4, 1e-3]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)
    path = tmp_path / "search.joblib"
    joblib.dump(search, path)
    np.testing.assert_array_equal(joblib.load(path).predict_proba(X), search.predict_proba(X))
    model = clone(search.best_estimator_[-1]).fit(X, y)
    assert len(pickle.dumps(model)) < 100_000


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_are_not_copied(blobs, tmp_path, monkeypatch, dtype):
    """Neither from memory nor from a memory map that must not be written."""
    X, y = blobs
    monkeypatch.setattr(_images, "CHUNK", 2**14)  # steps in double precision take little memory
    images = np.tile((100 * X).astype(dtype), (20, 1, 1, 1))
    target = np.tile(y, 20)
    np.save(tmp_path / "images.npy", images)
    for source in (images, np.load(tmp_path / "images.npy", mmap_mode="r")):
        model = small(max_epochs=1, batch_size=400)
        tracemalloc.start()
        try:
            model.fit(source, target)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # Of numpy; torch's memory is not traced, but its rows are the array itself:
        assert peak < 1.2e6 < images.nbytes
        encoded = model._encode_X(source, reset=False)
        rows = _placed(encoded, torch.device("cpu"))
        assert rows.data_ptr() == source.__array_interface__["data"][0]
