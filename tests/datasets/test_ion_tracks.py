"""Simulated electrons and helium ions in a gas: form, physics, and their likeness to real ones."""

import numpy as np
import pytest

from skhep_nn.datasets.ion_tracks import ION_SPLITS, make_ion_tracks


@pytest.fixture(scope="module")
def tracks():
    return make_ion_tracks(3_000, random_state=0)


def light_of(images):
    """Sum over the middle, above the dark ends of each column."""
    dark = np.concatenate([images[:, :10], images[:, 40:]], axis=1).mean(axis=1, keepdims=True)
    return (images - dark)[:, 10:40, 10:40].sum(axis=(1, 2))


def test_form(tracks):
    assert tracks.images.shape == (3_000, 50, 50)
    assert tracks.images.dtype == np.uint8
    kinds, counts = np.unique(
        np.stack([tracks.is_electron, tracks.target]), axis=1, return_counts=True
    )
    assert [tuple(kind) for kind in kinds.T] == [(0, 1), (0, 6), (0, 20), (1, 3), (1, 10), (1, 30)]
    assert counts.max() - counts.min() <= 6


def test_the_splits_change_the_energies_of_the_particles():
    assert ION_SPLITS["train"]["electron"] == ION_SPLITS["test"]["helium"] == (3, 10, 30)
    assert ION_SPLITS["train"]["helium"] == ION_SPLITS["test"]["electron"] == (1, 6, 20)
    test = make_ion_tracks(60, split="test", random_state=0)
    assert set(test.target[test.is_electron == 1]) == {1, 6, 20}
    assert set(test.target[test.is_electron == 0]) == {3, 10, 30}


def test_light_grows_with_energy_and_ions_give_less():
    light = {}
    for split in ION_SPLITS:
        tracks = make_ion_tracks(3_000, split=split, random_state=1)
        total = light_of(tracks.images)
        for energy, is_electron in {*zip(tracks.target, tracks.is_electron, strict=True)}:
            chosen = (tracks.target == energy) & (tracks.is_electron == is_electron)
            light[is_electron, energy] = total[chosen].mean() / energy
    electrons = [light[1, energy] for energy in (6, 10, 20, 30)]
    np.testing.assert_allclose(electrons, 5.05, rtol=0.12)
    shares = [light[0, energy] / 5.05 for energy in (6, 10, 20, 30)]
    np.testing.assert_allclose(shares, [0.64, 0.70, 0.78, 0.84], atol=0.06)
    assert (np.diff(shares) > 0).all()


def test_electrons_have_tracks_and_ions_are_points(calo_simulator, tracks):
    shapes = calo_simulator.track_shapes(tracks.images)
    length = {
        energy: shapes["length"][tracks.target == energy].median() for energy in (6, 10, 20, 30)
    }
    assert length[30] > 2 * length[10]
    assert length[6] == pytest.approx(length[20], abs=0.05)
    # The end of a track is denser than its beginning in the middle of the image.
    long = tracks.images[tracks.target == 30].astype(int)
    highest = np.stack(np.unravel_index(long.reshape(len(long), -1).argmax(axis=1), (50, 50)))
    assert np.median(np.hypot(*(highest - 24.5))) > 2


def test_pixels_of_the_full_resolution_hold_the_same_light():
    fine = make_ion_tracks(60, image_shape=(230, 230), pixel_size=1, random_state=0)
    coarse = make_ion_tracks(60, image_shape=(20, 20), pixel_size=11.5, random_state=0)
    np.testing.assert_array_equal(fine.target, coarse.target)
    light = [
        images.images[images.target == 20].mean() - images.images[images.target == 1].mean()
        for images in (fine, coarse)
    ]
    assert light[0] == pytest.approx(light[1], abs=0.02)
    assert light[0] > 0.15
    # The noise of smaller pixels is larger, as if larger ones were means of them.
    corners = [images.images[:, :3].astype(float).std() for images in (fine, coarse)]
    assert corners[0] > 4 * corners[1]


def test_other_shapes():
    assert make_ion_tracks(4, image_shape=(126, 90), random_state=0).images.shape == (4, 126, 90)


def test_seeds():
    first = make_ion_tracks(600, random_state=3)
    again, fewer = (make_ion_tracks(n, random_state=3) for n in (600, 90))
    for name in ("images", "target", "is_electron"):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name][:90], fewer[name])
    assert not np.array_equal(first.images, make_ion_tracks(600, random_state=4).images)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "n_samples must be .* got 0"),
        ({"split": "valid"}, "split must be one of 'train', 'test', got 'valid'"),
        ({"image_shape": (0, 5)}, "image_shape must be"),
        ({"image_shape": 50}, "image_shape must be"),
        ({"pixel_size": 0}, "pixel_size must be"),
        ({"random_state": "x"}, "random_state must be"),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_ion_tracks(**{"n_samples": 5} | parameters)


def test_images_are_like_real_ones(calo_simulator, data_dir):
    path = data_dir / "ion_tracks_idao.npz"
    if not path.is_file():
        pytest.skip("no real ion images")
    table = calo_simulator.compare_tracks(path, 4_000)
    assert (table.median() < 0.13).all()
    assert table.drop(index="width").to_numpy().max() < 0.26
