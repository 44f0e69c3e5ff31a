import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.datasets import load_calo_hdf5, make_calo_showers
from skhep_nn.preprocessing.images import ImageCropper, ImageScaler


@parametrize_with_checks(
    [
        ImageCropper(),
        ImageCropper(centre="blob"),
        ImageCropper(size=1, centre="blob", blob_size=2),
        ImageScaler(),
        ImageScaler(per_channel=False, function="log1p", unit=0.1),
        ImageScaler(function="sqrt"),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(5, 2, (40, 9, 12, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def tracks(data_dir):
    path = data_dir / "ion_tracks_idao.npz"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is absent")
    with np.load(path) as file:
        return file["X"]


@pytest.mark.parametrize(
    ("size", "centre", "rows", "columns"),
    [
        (3, "image", slice(3, 6), slice(4, 7)),
        ((9, 12), "image", slice(0, 9), slice(0, 12)),
        ((2, 5), "image", slice(3, 5), slice(3, 8)),
        (3, (4, 6), slice(3, 6), slice(5, 8)),
        ((4, 4), (4, 6), slice(2, 6), slice(4, 8)),
        (3, (0, 0), slice(0, 3), slice(0, 3)),
        ([5, 3], [8, 11], slice(4, 9), slice(9, 12)),
    ],
)
def test_fixed_windows(images, size, centre, rows, columns):
    cropper = ImageCropper(size=size, centre=centre).fit(images)
    cut = cropper.transform(images)
    np.testing.assert_array_equal(cut, images[:, rows, columns])
    assert cut.dtype == np.float32
    assert cut.flags.c_contiguous
    assert not np.shares_memory(cut, images)
    assert cropper.window_shape_ == cut.shape[1:]
    plane = np.ascontiguousarray(images[..., 1])
    cut = clone(cropper).fit_transform(plane)
    np.testing.assert_array_equal(cut, plane[:, rows, columns])


def test_windows_follow_the_brightest_blob(monkeypatch):
    rng = np.random.default_rng(0)
    n = 60
    X = rng.normal(100, 1, (n, 40, 50)).astype(np.float32)
    where = np.stack([rng.integers(0, 40, n), rng.integers(0, 50, n)], axis=1)
    grid = np.indices((40, 50))
    for k, (row, column) in enumerate(where):
        X[k] += 60 * np.exp(-((grid[0] - row) ** 2 + (grid[1] - column) ** 2) / 6)
    hot = rng.permutation(2000)[:n]
    X.reshape(n, -1)[np.arange(n), hot] += 120  # a single pixel, brighter than any blob
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 1000)
    cropper = ImageCropper(size=(11, 13), centre="blob").fit(X)
    cut = cropper.transform(X)
    assert cut.dtype == np.float32
    top = np.clip(where[:, 0] - 5, 0, 29)
    left = np.clip(where[:, 1] - 6, 0, 37)
    windows = np.lib.stride_tricks.sliding_window_view(X, (11, 13), axis=(1, 2))
    for k in range(n):
        near = [
            np.array_equal(windows[k, t, s], cut[k])
            for t in range(max(0, top[k] - 2), min(29, top[k] + 2) + 1)
            for s in range(max(0, left[k] - 2), min(37, left[k] + 2) + 1)
        ]
        assert sum(near) == 1
    single = ImageCropper(size=1, centre="blob", blob_size=1).fit_transform(X)
    np.testing.assert_array_equal(single.ravel(), X.max(axis=(1, 2)))


@pytest.mark.parametrize("pedestal", [0, 100])
def test_blobs_at_the_edge_and_hot_pixels_there(pedestal):
    X = np.full((2, 20, 20), pedestal, dtype=np.uint8)
    X[0, :3, :3] += 30
    X[0, 12, 12] += 120
    X[1, 10:13, 4:7] += 30
    X[1, 0, 19] += 120
    cut = ImageCropper(size=3, centre="blob").fit_transform(X)
    np.testing.assert_array_equal(cut, pedestal + 30)


def test_the_first_channel_has_the_blobs_and_all_channels_are_cropped():
    X = np.zeros((2, 9, 9, 2), dtype=np.uint8)
    X[:, 2, 3, 0], X[:, 7, 7, 1] = 200, 250
    X[:, 2, 3, 1] = 17
    cut = ImageCropper(size=3, centre="blob", blob_size=1).fit_transform(X)
    assert cut.shape == (2, 3, 3, 2)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut[:, 1, 1], [[200, 17]] * 2)
    assert cut[..., 0].sum() == 400


def test_cropped_rows_are_cropped_images_with_the_names_of_their_pixels(images):
    rows = pd.DataFrame(
        images.reshape(40, -1),
        columns=[f"{r}/{c}/{k}" for r in range(9) for c in range(12) for k in range(2)],
        index=np.arange(40) * 2,
    )
    cropper = ImageCropper(size=(2, 3), centre=(4, 4), image_shape=(9, 12, 2)).fit(rows)
    cut = cropper.transform(rows)
    expected = ImageCropper(size=(2, 3), centre=(4, 4)).fit_transform(images)
    np.testing.assert_array_equal(cut.to_numpy().reshape(expected.shape), expected)
    assert list(cut)[:4] == ["3/3/0", "3/3/1", "3/4/0", "3/4/1"]
    assert list(cut) == list(cropper.get_feature_names_out())
    assert list(cut.index) == list(rows.index)
    by_blob = clone(cropper).set_params(centre="blob").fit(rows)
    assert list(by_blob.transform(rows)) == [f"pixel{i}" for i in range(12)]
    out = clone(cropper).set_output(transform="pandas").fit_transform(rows.to_numpy())
    assert list(out)[:2] == ["x78", "x79"]


def test_real_tracks_are_found(tracks):
    cut = ImageCropper(size=20, centre="blob").fit_transform(tracks)
    assert cut.shape == (len(tracks), 20, 20)
    assert cut.dtype == np.uint8
    total = (tracks.astype(float) - np.median(tracks)).clip(4).sum((1, 2)) - 4 * 50 * 50
    kept = (cut.astype(float) - np.median(tracks)).clip(4).sum((1, 2)) - 4 * 20 * 20
    assert np.median(kept / total.clip(1)) > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"size": 10}, "10 x 10 cells does not fit into images of 9 x 12"),
        ({"size": 126}, "126 x 126 cells does not fit"),
        ({"size": (3, 0)}, "size must be 'auto', or one or two integers of at least 1"),
        ({"size": (3, 3, 3)}, "or one or two integers"),
        ({"size": 3, "centre": "middle"}, "centre must be 'image', 'blob' or a cell"),
        ({"size": 3, "centre": (9, 0)}, r"centre=\(9, 0\) must be a cell"),
        ({"size": 3, "centre": (1, 2, 3)}, "must be a cell"),
        ({"size": 3, "blob_size": 0}, "blob_size must be an integer of at least 1"),
    ],
)
def test_bad_parameters_of_the_cropper(images, params, message):
    with pytest.raises(ValueError, match=message):
        ImageCropper(**params).fit(images)


def test_range_of_all_pixels(images):
    scaler = ImageScaler().fit(images)
    scaled = scaler.transform(images)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.min((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.max((0, 1, 2)), 1, atol=1e-6)
    np.testing.assert_array_equal(scaler.data_min_, images.min((0, 1, 2)))
    np.testing.assert_array_equal(scaler.data_max_, images.max((0, 1, 2)))
    # scikit-learn's scaler, given all pixels of a channel as one column
    reference = MinMaxScaler().fit_transform(images.reshape(-1, 2)).reshape(images.shape)
    np.testing.assert_allclose(scaled, reference, atol=1e-6)
    shifted = images + np.array([0, 100], dtype=np.float32)
    together = ImageScaler(per_channel=False).fit_transform(shifted)
    assert together.min() == 0
    assert together.max() == pytest.approx(1)
    assert together[..., 0].max() < 0.2
    assert together[..., 1].min() > 0.8


@pytest.mark.parametrize("function", [None, "log1p", "sqrt"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_inverse(images, monkeypatch, function, per_channel):
    X = np.ascontiguousarray(images - 4)
    assert X.min() < 0
    whole = ImageScaler(function=function, unit=0.3, per_channel=per_channel)
    scaled = whole.fit_transform(X)
    assert scaled.min() == pytest.approx(0, abs=1e-6)
    assert scaled.max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(whole.inverse_transform(scaled), X, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 1000)
    np.testing.assert_array_equal(whole.transform(X), scaled)


def test_functions():
    X = np.array([[[-8.0, 0.0, 2.0, 24.0]]])
    log = ImageScaler(function="log1p", unit=2.0).fit_transform(X).ravel()
    values = np.array([-np.log(5), 0, np.log(2), np.log(13)])
    np.testing.assert_allclose(log, (values - values[0]) / (values[-1] - values[0]))
    root = ImageScaler(function="sqrt", unit=2.0).fit_transform(X).ravel()
    values = np.array([-2, 0, 1, np.sqrt(12)])
    np.testing.assert_allclose(root, (values - values[0]) / (values[-1] - values[0]))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("uint8", "float32"),
        ("int16", "float32"),
        ("int64", "float64"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_types(dtype, expected):
    X = np.arange(32).reshape(2, 4, 4).astype(dtype)
    before = X.copy()
    scaled = ImageScaler().fit_transform(X)
    assert scaled.dtype == expected
    np.testing.assert_allclose(scaled.ravel(), np.arange(32) / 31, rtol=1e-6)
    np.testing.assert_array_equal(X, before)


def test_constant_channels_and_values_beyond_the_range():
    X = np.stack([np.full((3, 2, 2), 7.0), np.arange(12.0).reshape(3, 2, 2)], axis=-1)
    scaler = ImageScaler().fit(X)
    scaled = scaler.transform(X)
    assert not scaled[..., 0].any()
    np.testing.assert_array_equal(scaler.inverse_transform(scaled)[..., 0], 7)
    assert scaler.transform(X + 22)[..., 1].max() == 3


def test_scaled_rows(images):
    rows = pd.DataFrame(images.reshape(40, -1), index=np.arange(40) * 2)
    rows.columns = [f"p{i}" for i in range(rows.shape[1])]
    scaler = ImageScaler(image_shape=(9, 12, 2)).fit(rows)
    scaled = scaler.transform(rows)
    expected = ImageScaler().fit_transform(images)
    np.testing.assert_array_equal(scaled.to_numpy().reshape(images.shape), expected)
    back = scaler.inverse_transform(scaled)
    pd.testing.assert_frame_equal(back, rows, atol=1e-5, check_dtype=False)


def test_pipeline(tracks):
    pipeline = make_pipeline(ImageCropper(size=32), ImageScaler())
    scaled = pipeline.fit_transform(tracks)
    assert scaled.shape == (len(tracks), 32, 32)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0, 1)


@pytest.mark.parametrize(
    "transformer",
    [
        ImageScaler(),
        ImageScaler(function="log1p"),
        ImageCropper(size=60),
        ImageCropper(size=60, centre="blob"),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 2)])
def test_memory_is_one_copy(transformer, shape):
    X = np.random.default_rng(0).random((4000, *shape), dtype=np.float32)
    transformer.fit(X)
    tracemalloc.start()
    out = transformer.transform(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < out.nbytes + 0.5 * X.nbytes
    tracemalloc.start()
    clone(transformer).fit(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.1 * X.nbytes


def test_memory_mapped_images(tmp_path):
    X = np.random.default_rng(0).integers(0, 255, (50, 20, 20), dtype=np.uint8)
    np.save(tmp_path / "images.npy", X)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for transformer in (ImageCropper(size=7), ImageCropper(size=7, centre="blob"), ImageScaler()):
        np.testing.assert_array_equal(
            transformer.fit(mapped).transform(mapped), transformer.fit(X).transform(X)
        )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"function": "log"}, "function='log' is not known; choose one of"),
        ({"unit": 0}, "unit must be a positive number, got 0"),
        ({"unit": float("inf")}, "unit"),
    ],
)
def test_bad_parameters_of_the_scaler(images, params, message):
    with pytest.raises(ValueError, match=message):
        ImageScaler(**params).fit(images)


def test_half_precision_is_computed_in_single():
    images = np.linspace(-6e4, 6e4, 3240).reshape(90, 6, 6).astype(np.float16)
    scaler = ImageScaler().fit(images)
    scaled = scaler.transform(images)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(scaler.inverse_transform(scaled), images, rtol=1e-3, atol=20)


@pytest.mark.parametrize(
    "transformer",
    [
        ImageScaler(function="sqrt"),
        ImageScaler(per_channel=False),
        ImageCropper(size=8),
        ImageCropper(size=8, centre="blob"),
        ImageCropper(size=8, centre=(3, 9)),
    ],
)
def test_images_that_stay_in_their_file(tmp_path, monkeypatch, transformer):
    """They are read in chunks and returned as arrays."""
    h5py = pytest.importorskip("h5py")
    showers = make_calo_showers(30, random_state=0)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"], file["y"] = showers.images, showers.target
    lazy = load_calo_hdf5(tmp_path / "x.h5", lazy=True).images
    expected = clone(transformer).fit_transform(showers.images)
    reads = []
    read = type(lazy).read
    monkeypatch.setattr(
        type(lazy), "read", lambda self, a, b: reads.append(b - a) or read(self, a, b)
    )
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 7 * 32 * 32 * 2)
    found = clone(transformer).fit_transform(lazy)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, expected)
    assert max(reads) == 7


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((576, 576), (126, 126)),
        ((100, 200), (100, 126)),
        ((9, 12, 2), (9, 12, 2)),
        ((1, 3), (1, 3)),
    ],
)
def test_the_default_window_fits_into_every_image(shape, window):
    X = np.random.default_rng(0).random((2, *shape))
    cropper = ImageCropper().fit(X)
    assert cropper.window_shape_[: len(window)] == window
    found = cropper.transform(X)
    top, left = ((n - m) // 2 for n, m in zip(shape[:2], window[:2], strict=True))
    np.testing.assert_array_equal(found, X[:, top:, left:][:, : window[0], : window[1]])


@pytest.mark.parametrize("size", ["half", 127, (126, 126)])
def test_sizes_that_are_given_are_not_changed(size):
    with pytest.raises(ValueError, match=r"'auto', or one or two integers|does not fit"):
        ImageCropper(size=size).fit(np.zeros((2, 60, 60)))


@pytest.mark.parametrize("params", [{"size": 4.0}, {"size": None}, {"centre": None}, {"centre": 3}])
def test_bad_sizes_and_centres(images, params):
    with pytest.raises(ValueError, match=rf"{next(iter(params))}.* (one or two integers|a cell)"):
        ImageCropper(**{"size": 2} | params).fit(images)
