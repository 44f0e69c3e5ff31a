import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.augmentation.images import ImageAugmenter

TOGETHER = {"flip_eta": False, "flip_phi": False, "quarter_turns": False}
LAYOUTS = {"planes": (6, 6), "channels": (6, 6, 2), "oblong": (4, 7, 2)}


@pytest.fixture(params=LAYOUTS, ids=str)
def images(request):
    shape = LAYOUTS[request.param]
    return np.random.default_rng(0).random((200, *shape)).astype(np.float32)


@parametrize_with_checks(
    [
        ImageAugmenter(),
        ImageAugmenter(smearing=0.1, random_state=0),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


def dihedral(image):
    """All eight orientations of a square image, made by numpy's functions."""
    turned = [np.rot90(image, k) for k in range(4)]
    return turned + [np.swapaxes(t, 0, 1) for t in turned]


def placements(pool, image):
    """Return the position of an image in a pool, compared by bytes."""
    keys = [np.ascontiguousarray(p).tobytes() for p in pool]
    return keys.index(np.ascontiguousarray(image).tobytes())


def test_views_of_a_square_are_its_eight_symmetries():
    image = np.arange(32.0).reshape(4, 4, 2)
    augmenter = ImageAugmenter().fit(image[np.newaxis])
    views = [view[0] for view in augmenter.views(image[np.newaxis])]
    assert augmenter.n_views_ == 8
    assert sorted(placements(dihedral(image), view) for view in views) == list(range(8))
    np.testing.assert_array_equal(views[0], image)


@pytest.mark.parametrize(
    ("params", "shape", "n_views"),
    [
        ({}, (6, 6, 2), 8),
        ({}, (4, 7), 4),
        ({}, (1, 7), 2),
        ({}, (1, 1), 1),
        ({"quarter_turns": False}, (6, 6), 4),
        ({"quarter_turns": False, "flip_eta": False}, (6, 6), 2),
        ({"flip_eta": False}, (6, 6), 8),
        ({"flip_eta": False, "flip_phi": False}, (6, 6), 4),
        ({"flip_eta": False, "flip_phi": False}, (4, 7), 1),
        (TOGETHER, (6, 6), 1),
    ],
)
def test_random_copies_are_all_views_equally_often(params, shape, n_views):
    """Arrays and tensors get each view, and nothing else, with equal probability."""
    image = np.random.default_rng(0).random(shape)
    X = np.repeat(image[np.newaxis], 4000, axis=0)
    augmenter = ImageAugmenter(**params, random_state=0).fit(X)
    views = [view[0] for view in augmenter.views(X[:1])]
    assert len(views) == len({view.tobytes() for view in views}) == augmenter.n_views_ == n_views
    on_device = augmenter.transform_tensor(torch.from_numpy(X), torch.Generator().manual_seed(0))
    for copies in (augmenter.transform(X), on_device.numpy()):
        counts = np.bincount([placements(views, c) for c in copies], minlength=n_views)
        assert np.abs(counts - 4000 / n_views).max() < 5 * np.sqrt(4000 / n_views)


@pytest.mark.parametrize(("phi_axis", "eta", "phi"), [(1, 0, 1), (0, 1, 0)])
def test_axes(phi_axis, eta, phi):
    X = np.random.default_rng(0).random((1, 5, 6))
    only = {"quarter_turns": False, "phi_axis": phi_axis}
    for name, axis in (("flip_eta", "flip_phi"), eta), (("flip_phi", "flip_eta"), phi):
        augmenter = ImageAugmenter(**{name[0]: True, name[1]: False}, **only).fit(X)
        flipped = list(augmenter.views(X))[1]
        np.testing.assert_array_equal(flipped[0], np.flip(X[0], axis))
    X = np.repeat(X, 500, axis=0)
    augmenter = ImageAugmenter(**TOGETHER | only, roll_phi=2, random_state=0).fit(X)
    rolled = augmenter.transform(X)
    pool = [np.roll(X[0], shift, axis=phi) for shift in (-2, -1, 0, 1, 2)]
    counts = np.bincount([placements(pool, image) for image in rolled])
    assert len(counts) == 5
    assert counts.min() > 60
    assert augmenter.n_views_ == 1


def test_rolls_are_along_the_azimuth_before_the_turn():
    image = np.zeros((8, 8))
    image[3] = np.arange(8)
    X = np.repeat(image[np.newaxis], 300, axis=0)
    moved = ImageAugmenter(roll_phi=1, random_state=0).fit(X).transform(X)
    lines = np.count_nonzero(moved.any(axis=2), axis=1), np.count_nonzero(moved.any(axis=1), axis=1)
    assert np.all(np.minimum(*lines) == 1)


def test_energies_only_move(images):
    augmenter = ImageAugmenter(roll_phi=2, random_state=0).fit(images)
    for moved in (augmenter.transform(images), *augmenter.views(images)):
        assert moved.dtype == np.float32
        assert moved.flags.c_contiguous
        flat = (len(images), images.shape[1] * images.shape[2], -1)
        np.testing.assert_array_equal(
            np.sort(moved.reshape(flat), axis=1), np.sort(images.reshape(flat), axis=1)
        )
    assert not np.array_equal(augmenter.transform(images), images)


def test_channels_move_together():
    X = np.random.default_rng(0).random((50, 8, 8, 1))
    X = np.concatenate([X, 2 * X], axis=-1)
    augmenter = ImageAugmenter(roll_phi=3, random_state=0).fit(X)
    moved = augmenter.transform(X)
    np.testing.assert_array_equal(moved[..., 1], 2 * moved[..., 0])
    tensor = augmenter.transform_tensor(torch.from_numpy(X), torch.Generator().manual_seed(0))
    torch.testing.assert_close(tensor[..., 1], 2 * tensor[..., 0], rtol=0, atol=0)


def smeared(augmenter, X, *, kind):
    if kind == "array":
        return augmenter.transform(X)
    tensor = augmenter.transform_tensor(torch.from_numpy(X), torch.Generator().manual_seed(0))
    return tensor.numpy()


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_smearing(kind):
    X = np.full((1500, 6, 6, 2), 3.0, dtype=np.float32)
    X[:, 0] = 0
    augmenter = ImageAugmenter(**TOGETHER, smearing=0.1, random_state=0).fit(X)
    copies = smeared(augmenter, X, kind=kind)
    assert copies.dtype == np.float32
    np.testing.assert_array_equal(copies[..., 1], X[..., 1])
    assert not copies[:, 0, :, 0].any()
    energies = copies[:, 1:, :, 0].astype(float) / 3
    assert energies.mean() == pytest.approx(1, abs=0.003)
    assert energies.std() == pytest.approx(0.1, rel=0.02)
    assert np.abs(np.corrcoef(energies.reshape(len(X), -1).T) - np.eye(30)).max() < 0.15
    wide = smeared(augmenter.set_params(smearing=1.0).fit(X), X, kind=kind)
    assert wide.min() == 0
    both = augmenter.set_params(energy_channels=(0, 1)).fit(X)
    assert np.all(np.ptp(smeared(both, X, kind=kind)[:, 1:], axis=(0, 1, 2)) > 1)


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float64"])
def test_types(kind, dtype):
    X = np.random.default_rng(0).integers(0, 200, (40, 5, 5)).astype(dtype)
    moved = smeared(ImageAugmenter(roll_phi=1, random_state=0).fit(X), X, kind=kind)
    assert moved.dtype == X.dtype
    assert np.array_equal(np.sort(moved.reshape(40, -1)), np.sort(X.reshape(40, -1)))
    blurred = smeared(ImageAugmenter(smearing=0.1, random_state=0).fit(X), X, kind=kind)
    assert blurred.dtype == (X.dtype if X.dtype.kind == "f" else np.float32)
    assert not np.array_equal(np.rint(blurred), blurred)


def test_tensors_and_arrays_move_alike(images):
    augmenter = ImageAugmenter(roll_phi=1).fit(images)
    X = torch.from_numpy(images)
    for index, view in enumerate(augmenter.views(images)):
        got = augmenter.view_tensor(X, index)
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.numpy(), view)
    uniform = torch.rand(4, len(images), generator=torch.Generator().manual_seed(0))
    by_torch = augmenter.transform_tensor(X, torch.Generator().manual_seed(0)).numpy()
    pixels = images.reshape(len(images), -1, *images.shape[3:])
    sources = augmenter._sources(uniform).numpy()
    sources = sources[..., np.newaxis] if images.ndim == 4 else sources
    by_numpy = np.take_along_axis(pixels, sources, axis=1).reshape(images.shape)
    np.testing.assert_array_equal(by_torch, by_numpy)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (6, 6, 2)])
def test_rows_and_images_move_alike(shape):
    X = np.random.default_rng(0).random((50, *shape))
    rows = X.reshape(50, -1)
    of_images = ImageAugmenter(random_state=0, roll_phi=1).fit(X)
    of_rows = ImageAugmenter(random_state=0, roll_phi=1, image_shape=list(shape)).fit(rows)
    assert of_rows.image_shape_ == of_images.image_shape_ == shape
    assert of_rows.n_features_in_ == of_images.n_features_in_ == rows.shape[1]
    expected = of_images.transform(X)
    np.testing.assert_array_equal(of_rows.transform(rows).reshape(X.shape), expected)
    np.testing.assert_array_equal(of_images.transform(rows).reshape(X.shape), expected)
    seed = torch.Generator().manual_seed
    tensors = [
        a.transform_tensor(torch.from_numpy(data), seed(0)).reshape(X.shape)
        for a in (of_rows, of_images)
        for data in (rows, X, *([X[..., np.newaxis]] if len(shape) == 2 else []))
    ]
    for one in tensors[1:]:
        assert torch.equal(one, tensors[0])


def test_rows_without_a_shape_are_images_of_one_row():
    X = np.random.default_rng(0).random((30, 9))
    augmenter = ImageAugmenter().fit(X)
    assert augmenter.image_shape_ == (1, 9)
    views = list(augmenter.views(X))
    assert len(views) == 2
    np.testing.assert_array_equal(views[1], X[:, ::-1])


def test_frames_stay_frames():
    X = pd.DataFrame(np.random.default_rng(0).random((20, 4)), columns=list("abcd"))
    X.index = pd.Index(np.arange(20) * 3, name="event")
    augmenter = ImageAugmenter(image_shape=(2, 2), random_state=0).fit(X)
    for moved in (augmenter.transform(X), *augmenter.views(X)):
        assert list(moved) == list(X)
        pd.testing.assert_index_equal(moved.index, X.index)
    out = augmenter.set_output(transform="pandas").fit_transform(X.to_numpy())
    assert list(out) == ["x0", "x1", "x2", "x3"]
    images = augmenter.fit(X.to_numpy().reshape(20, 2, 2)).transform(np.zeros((3, 2, 2)))
    assert images.shape == (3, 2, 2)  # images have no columns, whatever the output is set to


def test_batches_of_members(images):
    augmenter = ImageAugmenter(roll_phi=1, smearing=0.1).fit(images)
    X = torch.from_numpy(images).unflatten(0, (4, 5, 10))
    before = X.clone()
    generator = torch.Generator().manual_seed(0)
    moved = augmenter.transform_tensor(X, generator)
    assert moved.shape == X.shape
    assert torch.equal(X, before)
    assert torch.equal(moved, augmenter.transform_tensor(X, torch.Generator().manual_seed(0)))
    assert not torch.equal(moved, augmenter.transform_tensor(X, generator))
    moved = augmenter.transform_tensor(X[:1].expand_as(X), generator)
    assert not torch.equal(moved[0], moved[1])
    one = augmenter.transform_tensor(X[0, 0, 0], generator)
    assert one.shape == X[0, 0, 0].shape
    view = augmenter.view_tensor(X, 1)
    assert torch.equal(view[2, 3], augmenter.view_tensor(X[2, 3], 1))
    assert augmenter.transform_tensor(X[:0], generator).shape == X[:0].shape


def test_transform_is_seeded_and_keeps_global_states(images):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    augmenter = ImageAugmenter(random_state=1, smearing=0.2).fit(images)
    np.testing.assert_array_equal(augmenter.transform(images), augmenter.transform(images))
    other = clone(augmenter).set_params(random_state=2).fit(images)
    assert not np.array_equal(augmenter.transform(images), other.transform(images))
    drawn = clone(augmenter).set_params(random_state=np.random.RandomState(0)).fit(images)
    assert not np.array_equal(drawn.transform(images), drawn.transform(images))
    fresh = clone(augmenter).set_params(random_state=None).fit(images)
    assert not np.array_equal(fresh.transform(images), fresh.transform(images))
    fresh.transform_tensor(torch.from_numpy(images), torch.Generator().manual_seed(0))
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_large_data_in_chunks(monkeypatch):
    X = np.random.default_rng(0).random((150, 5, 5))
    augmenter = ImageAugmenter(smearing=0.1, random_state=0).fit(X)
    whole = augmenter.transform(X)
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 1000)
    np.testing.assert_array_equal(augmenter.transform(X), whole)


def test_copies(images, tmp_path):
    augmenter = ImageAugmenter(random_state=0).fit(images)
    joblib.dump(augmenter, tmp_path / "augmenter")
    stored = joblib.load(tmp_path / "augmenter")
    for twin in (pickle.loads(pickle.dumps(augmenter)), copy.deepcopy(augmenter), stored):
        np.testing.assert_array_equal(twin.transform(images), augmenter.transform(images))
        assert twin.view_tensor(torch.from_numpy(images), 1).shape == images.shape


def test_can_be_compiled_without_graph_breaks(images):
    augmenter = ImageAugmenter(roll_phi=1).fit(images)
    X = torch.from_numpy(images)
    view = torch.compile(lambda x: augmenter.view_tensor(x, 1), backend="eager", fullgraph=True)
    assert torch.equal(view(X), augmenter.view_tensor(X, 1))
    uniform = torch.rand(4, len(X), generator=torch.Generator().manual_seed(0))
    sources = torch.compile(augmenter._sources, backend="eager", fullgraph=True)
    assert torch.equal(sources(uniform), augmenter._sources(uniform))


@pytest.mark.cuda
def test_cuda_agrees_with_cpu_and_is_captured_in_a_graph(images):
    augmenter = ImageAugmenter(roll_phi=1, smearing=0.1).fit(images)
    X = torch.from_numpy(images)
    on_gpu = X.cuda()
    for index in range(augmenter.n_views_):
        view = augmenter.view_tensor(on_gpu, index).cpu()
        assert torch.equal(view, augmenter.view_tensor(X, index))
    uniform = torch.rand(4, len(X), generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmenter._sources(uniform.cuda()).cpu(), augmenter._sources(uniform))
    generator = torch.Generator("cuda").manual_seed(0)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        augmenter.transform_tensor(on_gpu, generator)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        captured = augmenter.transform_tensor(on_gpu, generator)
    generator.manual_seed(5)
    graph.replay()
    eager = augmenter.transform_tensor(on_gpu, torch.Generator("cuda").manual_seed(5))
    assert torch.equal(captured, eager)
    graph.replay()
    assert not torch.equal(captured, eager)


def test_real_photons_keep_their_energy(data_dir):
    h5py = pytest.importorskip("h5py")
    with h5py.File(data_dir / "SinglePhotonPt50_excerpt.hdf5") as file:
        X = file["X"][:]
    augmenter = ImageAugmenter(roll_phi=2, random_state=0).fit(X)
    moved = augmenter.transform(X)
    np.testing.assert_allclose(moved.sum((1, 2)), X.sum((1, 2)), rtol=1e-5)
    seeds = np.stack(np.unravel_index(moved[..., 0].reshape(len(X), -1).argmax(1), (32, 32)))
    assert np.all(np.abs(seeds - 15.5) < 16)
    assert np.ptp(seeds, axis=1).min() > 2
    blurred = ImageAugmenter(smearing=0.02, random_state=0).fit(X).transform(X)
    np.testing.assert_allclose(blurred.sum((1, 2))[:, 0], X.sum((1, 2))[:, 0], rtol=0.1)
    assert np.array_equal(np.count_nonzero(blurred, (1, 2, 3)), np.count_nonzero(X, (1, 2, 3)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"roll_phi": -1}, "roll_phi must be an integer from 0 to below the 5 cells"),
        ({"roll_phi": 5}, "below the 5 cells"),
        ({"roll_phi": 4, "phi_axis": 0}, "below the 4 cells"),
        ({"roll_phi": 1.5}, "roll_phi"),
        ({"smearing": -0.1}, "smearing must be a number of at least 0"),
        ({"smearing": float("nan")}, "smearing"),
        ({"energy_channels": (2,)}, "among the 2 channels"),
        ({"energy_channels": (0.5,)}, "among the 2 channels"),
        ({"phi_axis": 2}, "phi_axis must be 0 or 1"),
        ({"image_shape": (4, 5)}, r"images of shape \(4, 5, 2\).*expecting.*\(4, 5\)"),
        ({"image_shape": (40,)}, r"image_shape must be \(H, W\)"),
        ({"image_shape": (4, 5, 0)}, "integers of at least 1"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        ImageAugmenter(**params).fit(np.zeros((3, 4, 5, 2)))


def test_bad_input():
    augmenter = ImageAugmenter().fit(np.zeros((3, 4, 5, 2)))
    with pytest.raises(ValueError, match=r"images of shape \(5, 4, 2\)"):
        augmenter.transform(np.zeros((3, 5, 4, 2)))
    with pytest.raises(ValueError, match="X has 39 features, but ImageAugmenter is expecting 40"):
        augmenter.transform(np.zeros((3, 39)))
    with pytest.raises(ValueError, match="must have the shape"):
        augmenter.transform(np.zeros((3, 1, 4, 5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        augmenter.transform(np.full((3, 4, 5, 2), np.nan))
    with pytest.raises(ValueError, match=r"have 20 pixels, but X has 21 columns"):
        ImageAugmenter(image_shape=(4, 5)).fit(np.zeros((3, 21)))
    with pytest.raises(ValueError, match=r"X has the shape \(3, 4, 5\)"):
        augmenter.transform_tensor(torch.zeros(3, 4, 5), torch.Generator())
    with pytest.raises(IndexError, match="There are 4 views, from 0 on; got index 4"):
        augmenter.view_tensor(torch.zeros(3, 4, 5, 2), 4)


def test_names_are_forgotten_with_the_data_that_had_them():
    rows = pd.DataFrame(np.ones((3, 4)), columns=list("abcd"))
    augmenter = ImageAugmenter().fit(rows)
    assert list(augmenter.feature_names_in_) == list("abcd")
    augmenter.fit(np.ones((3, 2, 2)))
    assert not hasattr(augmenter, "feature_names_in_")
    assert not hasattr(augmenter, "get_feature_names_out")
    assert augmenter.transform(np.ones((1, 2, 2))).shape == (1, 2, 2)


COUNTS = ["uint8", "uint16", ">u2", "int16", "uint32"]


def counts_of(dtype):
    """Images up to the ends of the range of a type."""
    info = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    return rng.integers(info.min, info.max, (50, 4, 4, 2), endpoint=True).astype(dtype)


def sorted_pixels(images):
    return np.sort(np.asarray(images).astype(float).reshape(len(images), -1), axis=1)


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("dtype", COUNTS)
def test_counts_move_as_they_are(kind, dtype):
    X = counts_of(dtype)
    augmenter = ImageAugmenter(roll_phi=1, random_state=0).fit(X)
    if kind == "array":
        found = [augmenter.transform(X), *augmenter.views(X)]
    else:
        X = X.astype(X.dtype.newbyteorder("="))
        tensor, generator = torch.from_numpy(X), torch.Generator().manual_seed(0)
        found = [augmenter.transform_tensor(tensor, generator).numpy()]
        found += [augmenter.view_tensor(tensor, k).numpy() for k in range(augmenter.n_views_)]
        views = list(augmenter.views(X))
        np.testing.assert_array_equal(found[1:], views)
    assert len(found) == 9
    for images in found:
        assert images.dtype == X.dtype
        np.testing.assert_array_equal(sorted_pixels(images), sorted_pixels(X))


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("dtype", COUNTS)
def test_smeared_counts_do_not_wrap_around(kind, dtype):
    X = counts_of(dtype)
    X[:] = np.iinfo(dtype).max
    augmenter = ImageAugmenter(smearing=0.1, random_state=0).fit(X)
    if kind == "array":
        found = augmenter.transform(X)
    else:
        tensor = torch.from_numpy(X.astype(X.dtype.newbyteorder("=")))
        found = augmenter.transform_tensor(tensor, torch.Generator().manual_seed(0)).numpy()
    assert found.dtype == (np.float64 if dtype == "uint32" and kind == "array" else np.float32)
    top = float(np.iinfo(dtype).max)
    assert found[..., 0].max() > 1.1 * top
    assert found[..., 0].min() > 0.5 * top
    np.testing.assert_allclose(found[..., 1], top, rtol=1e-6)
