"""Images as arrays, as rows of pixels, and read lazily; errors that name images; channels first."""

import warnings

import h5py
import numpy as np
import pytest

from skhep_nn import (
    CaloCNNClassifier,
    CaloCNNRegressor,
    ImageAugmenter,
    ImageCropper,
    ImageScaler,
    load_calo_hdf5,
)
from skhep_nn.inputs.images import LazyImages, check_finite_rows
from skhep_nn.inputs.shuffled_chunks import ArrayChunks

TRANSFORMERS = [ImageAugmenter(), ImageCropper(), ImageScaler()]


class Source(ArrayChunks):
    """An array as a source of images that are read lazily."""

    @property
    def shape(self):
        return self.array.shape

    @property
    def dtype(self):
        return self.array.dtype


@pytest.fixture
def images():
    return np.random.default_rng(0).random((60, 6, 6)).astype(np.float32)


def test_lazy_rows_of_pixels_fit_as_in_memory(tmp_path, images):
    target = np.arange(60) % 2
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["X"], file["y"] = images.reshape(60, 36), target
    lazy = load_calo_hdf5(tmp_path / "rows.h5", lazy=True).images
    model = CaloCNNClassifier(image_shape=(6, 6), max_epochs=1, random_state=0, device="cpu")
    model.fit(lazy, target)
    assert model.image_shape_ == (6, 6)
    assert model.input_shape == (36,)
    assert model.n_features_in_ == 36
    expected = model.predict_proba(images)
    for X in (lazy, np.asarray(lazy), Source(images)):
        np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-6)
    eager = CaloCNNClassifier(image_shape=(6, 6), max_epochs=1, random_state=0, device="cpu")
    assert eager.fit(np.asarray(lazy), target).input_shape == model.input_shape


def test_lazy_rows_of_another_length(images):
    rows = images.reshape(60, 36)
    with pytest.raises(ValueError, match=r"Images of shape \(5, 6\) have 30 pixels, .* 36 columns"):
        ImageScaler(image_shape=(5, 6)).read(Source(rows), reset=True)
    scaler = ImageScaler(image_shape=(6, 6)).fit(rows)
    with pytest.raises(ValueError, match="X has 30 features, but ImageScaler is expecting 36"):
        scaler.read(Source(rows[:, :30]))
    with pytest.raises(ValueError, match=r"\(n_samples, n_pixels\), none of them 0, got \(60,\)"):
        scaler.read(Source(rows[:, 0]))
    flat = ImageScaler().read(Source(rows), reset=True)
    assert flat.values.shape == (60, 1, 36, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shape", [(60, 6, 6), (60, 3, 6, 2), (60, 36)])
def test_images_that_are_not_finite_are_named(images, bad, lazy, shape):
    values = images.reshape(shape)
    values[50].flat[3] = values[7].flat[0] = bad
    reader = ImageScaler()
    X = Source(values) if lazy else values
    with pytest.raises(ValueError, match=r"NaN or infinity in 2 of 60 images.*\(rows 7, 50\)"):
        reader.read(X, reset=True).values[:]


def test_a_part_of_the_images_is_named_by_rows_of_the_whole(images):
    images[50, 0, 0] = np.nan
    part = LazyImages(Source(images))
    np.testing.assert_array_equal(part.read(0, 50)[..., 0], images[:50])
    with pytest.raises(
        ValueError, match=r"1 of 15 images from 45 to 59 \(row 50\)\. Drop these images"
    ):
        part.read(45, 60)
    with pytest.raises(ValueError, match=r"1 of 60 images \(row 50\)"):
        check_finite_rows(images, "images")


def test_lazy_values_beyond_the_type_are_named(images):
    values = images.astype(np.float64)
    values[5, 0, 0] = 1e300
    with pytest.raises(ValueError, match=r"values beyond float32 in 1 of 10 images .*\(row 5\)"):
        LazyImages(Source(values), np.float32).read(0, 10)


def test_images_without_cells():
    with pytest.raises(ValueError, match=r"none of them 0, got \(5, 0, 4\)"):
        ImageScaler().fit(np.zeros((5, 0, 4)))


def images_of(*shape):
    return np.random.default_rng(0).random((6, *shape))


@pytest.mark.parametrize(
    "shape", [(2, 32, 32), (3, 16, 24), (1, 28, 28), (1, 4, 4), (10, 32, 32), (2, 8, 8)]
)
@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=repr)
def test_images_with_channels_first(transformer, shape):
    words = rf"{shape[0]} x {shape[1]} cells with {shape[2]} channels.*np.moveaxis\(X, 1, -1\)"
    with pytest.warns(UserWarning, match=words):
        transformer.fit(images_of(*shape))


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 64)])
def test_a_shape_that_the_user_gives_is_right(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImageScaler(image_shape=shape).fit(images_of(*shape))


@pytest.mark.parametrize(
    "shape", [(32, 32, 2), (32, 32, 32), (8, 8), (1, 50, 3), (6, 40, 7), (2, 3, 4), (24, 24, 40)]
)
@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=repr)
def test_images_with_channels_last(transformer, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer.fit(images_of(*shape))


@pytest.mark.parametrize("estimator", [CaloCNNClassifier, CaloCNNRegressor])
def test_estimators_say_it_at_fit(estimator):
    model = estimator(max_epochs=1, device="cpu", preset="compact")
    with pytest.warns(UserWarning, match="CaloCNN.* as if channels came first"):
        model.fit(images_of(2, 32, 32), np.arange(6) % 2)
