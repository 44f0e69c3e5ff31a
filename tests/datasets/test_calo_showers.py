"""Simulated electrons and photons: form, physics, and their likeness to real ones."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from skhep_nn.datasets import _calo_particles as particles
from skhep_nn.datasets import _calo_profile as profile
from skhep_nn.datasets import _calo_readout as readout
from skhep_nn.datasets.calo_showers import make_calo_showers


@pytest.fixture(scope="module")
def showers():
    return make_calo_showers(4_000, random_state=0)


def test_form(showers):
    assert showers.images.shape == (4_000, 32, 32, 2)
    assert showers.images.dtype == np.float32
    assert showers.target.dtype == np.int64
    assert set(showers.target) == {0, 1}
    assert showers.target[:500].sum() == showers.target[500:1_000].sum() == 250
    energy, time = showers.images[..., 0], showers.images[..., 1]
    assert np.isfinite(showers.images).all()
    assert (energy >= 0).all()
    assert (time[energy == 0] == 0).all()
    assert np.abs(time).max() <= 2.5
    # Zero suppression: one crystal in twenty is a hit, as in the real images.
    assert 0.035 < (energy > 0).mean() < 0.055


def test_energy_is_that_of_the_particle(showers):
    np.testing.assert_allclose(showers.energy, 50 * np.cosh(showers.eta))
    assert np.abs(showers.eta).max() <= 1.2
    seen = 50 * showers.images[..., 0].sum(axis=(1, 2)) / showers.energy
    assert np.median(seen) == pytest.approx(1, abs=0.02)
    photons = (showers.target == 0) & (showers.n_conversions == 0)
    assert np.std(seen[photons]) < 0.02
    # Electrons lose energy to radiation far outside the image.
    assert np.quantile(seen[showers.target == 1], 0.01) < 0.97


def test_images_are_centred(showers):
    highest = showers.images[..., 0].reshape(4_000, -1).argmax(axis=1)
    assert 0.9 < (highest == 16 * 32 + 16).mean() < 1


def test_momenta_and_fractions_that_are_asked_for():
    showers = make_calo_showers(
        1_000, electron_fraction=0.2, pt=(10, 80), eta_max=0.5, random_state=1
    )
    pt = showers.energy / np.cosh(showers.eta)
    assert (showers.target == 1).sum() == 200
    assert 10 <= pt.min() < 12
    assert 78 < pt.max() <= 80
    assert np.abs(showers.eta).max() <= 0.5
    ratio = 50 * showers.images[..., 0].sum(axis=(1, 2)) / showers.energy
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    assert (make_calo_showers(10, electron_fraction=1, random_state=0).target == 1).all()
    assert (make_calo_showers(10, electron_fraction=0, random_state=0).target == 0).all()


@pytest.mark.parametrize("shape", [(8, 8), (15, 20), (48, 64)])
def test_other_images(shape):
    showers = make_calo_showers(200, image_shape=shape, random_state=0)
    assert showers.images.shape == (200, *shape, 2)
    summed = showers.images[..., 0].sum(axis=0)
    assert np.unravel_index(summed.argmax(), shape) == (shape[0] // 2, shape[1] // 2)


def test_without_noise_there_is_only_shower():
    showers = make_calo_showers(500, noise=0.0, random_state=0)
    energy = showers.images[..., 0]
    assert np.isfinite(showers.images).all()
    assert energy[:, :4].max() < 1e-3
    timed = 50 * showers.images[..., 1][energy > 0.02]
    assert np.std(timed) < 0.5


def test_seeds():
    first = make_calo_showers(700, random_state=3)
    again, fewer = (make_calo_showers(n, random_state=3) for n in (700, 90))
    for name in ("images", "target", "energy", "eta", "n_conversions"):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name][:90], fewer[name])
    assert not np.array_equal(first.images, make_calo_showers(700, random_state=4).images)
    assert not np.array_equal(first.images[:90], first.images[500:590])
    assert not np.array_equal(make_calo_showers(9).images, make_calo_showers(9).images)
    rng = np.random.default_rng(0)
    assert not np.array_equal(
        make_calo_showers(9, random_state=rng).images, make_calo_showers(9, random_state=rng).images
    )


def test_global_random_numbers_are_left_alone():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_calo_showers(5)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "n_samples must be .* got 0"),
        ({"n_samples": 2.0}, "n_samples must be .* got 2.0"),
        ({"electron_fraction": 1.1}, "electron_fraction must be from 0 to 1, got 1.1"),
        ({"electron_fraction": "half"}, "electron_fraction must be"),
        ({"pt": 1.0}, "pt must be .* got 1.0"),
        ({"pt": (50, 20)}, r"pt must be .* got \(50, 20\)"),
        ({"pt": (10, 20, 30)}, "pt must be"),
        ({"pt": float("nan")}, "pt must be"),
        ({"eta_max": 2}, "eta_max must be from 0 to 1.4"),
        ({"noise": -0.1}, "noise must be"),
        ({"image_shape": (7, 32)}, r"image_shape must be .* got \(7, 32\)"),
        ({"image_shape": 32}, "image_shape must be"),
        ({"image_shape": (32.0, 32)}, "image_shape must be"),
        ({"random_state": -1}, "random_state must be"),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_calo_showers(**{"n_samples": 5} | parameters)


def fly(n, charge, eta=0.0, energy=50.0, seed=0):
    rng = np.random.default_rng(seed)
    return particles.fly_to_calorimeter(
        rng, np.full(n, energy), np.full(n, eta), np.full(n, charge, dtype=float)
    )


@pytest.mark.parametrize("charge", [0, 1, -1])
def test_the_tracker_keeps_energy(charge):
    arrivals, _ = fly(300, charge, eta=1.0)
    total = np.bincount(arrivals.event, arrivals.energy, 300)
    np.testing.assert_allclose(total, 50, rtol=1e-3)
    assert (arrivals.energy > 0).all()


def test_photons_convert_as_often_as_their_cross_section_says():
    for eta in (0.0, 1.0):
        _, conversions = fly(20_000, 0, eta=eta)
        expected = 1 - np.exp(-7 / 9 * particles.tracker_material(np.array(eta)))
        assert (conversions > 0).mean() == pytest.approx(expected, abs=0.015)


def test_electrons_lose_what_bethe_and_heitler_say(monkeypatch):
    monkeypatch.setattr(particles, "tracker_material", lambda eta: np.full(eta.shape, 0.2))
    arrivals, _ = fly(20_000, 1)
    # The electron is the first arrival of each event; radiation length means exp(-x).
    first = arrivals.energy[:20_000]
    assert first.mean() / 50 == pytest.approx(np.exp(-0.2), abs=0.015)


def test_without_material_electrons_only_bend(monkeypatch):
    monkeypatch.setattr(particles, "tracker_material", lambda eta: np.full(eta.shape, 1e-12))
    for charge in (-1, 1):
        arrivals, conversions = fly(50, charge)
        assert arrivals.event.size == 50
        assert not conversions.any()
        # Sagitta of a circle of momentum 50 GeV in 3.8 T.
        expected = charge * 0.3 * 3.8 / 50 * particles.RADIUS**2 / 2 / particles.CRYSTAL
        np.testing.assert_allclose(arrivals.column, expected, rtol=1e-9)
    arrivals, _ = fly(50, 0)
    np.testing.assert_allclose(arrivals.column, 0)


def test_electrons_spread_to_the_side_of_their_charge():
    spread = {}
    for charge in (-1, 1, 0):
        arrivals, _ = fly(3_000, charge)
        columns = np.bincount(arrivals.event, arrivals.energy * arrivals.column, 3_000) / 50
        spread[charge] = columns.mean()
    assert spread[1] > 0.2
    assert spread[-1] == pytest.approx(-spread[1], rel=0.1)
    assert abs(spread[0]) < 0.1


def shower(n, energy, row=0.5, column=0.5, is_photon=False):
    return profile.deposit_energy(
        np.random.default_rng(0),
        np.full(n, float(energy)),
        np.full(n, is_photon),
        np.full(n, row),
        np.full(n, column),
    )


def test_containment_is_that_of_lead_tungstate():
    """Three by three and five by five crystals around a hit in the middle of a crystal."""
    deposit = shower(4_000, 50.0).deposit
    middle = profile.HALF_WINDOW
    shares = [
        deposit[:, middle - k : middle + k + 1, middle - k : middle + k + 1].sum(axis=(1, 2)).mean()
        / 50
        for k in (0, 1, 2)
    ]
    np.testing.assert_allclose(shares, [0.78, 0.94, 0.97], atol=0.025)


def test_showers_move_with_the_particle():
    left, right = shower(1_000, 50, column=0.1), shower(1_000, 50, column=0.9)
    middle = profile.HALF_WINDOW
    mean = [s.deposit.mean(axis=0)[middle, [middle - 1, middle + 1]] for s in (left, right)]
    assert mean[0][0] > 3 * mean[0][1]
    assert mean[1][1] > 3 * mean[1][0]
    shifted = shower(1_000, 50, column=4.5)
    assert np.median(shifted.column) == 4
    np.testing.assert_array_equal(shifted.deposit, shower(1_000, 50).deposit)


def test_photons_start_deeper():
    photon, electron = (shower(5_000, 50, is_photon=kind).delay.mean() for kind in (True, False))
    depth = (electron - photon) / profile._LIGHT
    assert depth == pytest.approx(9 / 7, abs=0.15)


def test_lateral_shares_add_up():
    table = profile._lateral_table()
    total = table.reshape(-1, *table.shape[1:]).sum(axis=2)
    assert (total < 1).all()
    assert total[:, 0].min() > 0.99
    assert (np.diff(total, axis=1) < 0).all()


def test_hits_are_kept_in_the_cluster_and_above_the_noise_elsewhere():
    deposit = np.zeros((50, 32, 32), np.float32)
    deposit[:, 16, 16] = 20.0
    towers = readout.interesting_towers(
        deposit, np.ones(50, np.float32), np.random.default_rng(0).integers(0, 5, (2, 50))
    )
    # Three by three towers of five by five crystals, around the tower of the deposit.
    np.testing.assert_array_equal(towers.sum(axis=(1, 2)), 225)
    assert towers[:, 11:22, 11:22].all()
    kept = readout.read_out(np.random.default_rng(0), deposit, 0.05, towers)
    near, far = kept[:, 14:19, 15:18], np.where(towers, kept, 0).copy()
    far[:, 14:19] = 0
    assert near[(near > 0) & (near < 1)].min() < 0.005
    assert far[far > 0].min() > 0.05 * readout.NOISE_THRESHOLD
    assert not kept[~towers].any()
    none = readout.interesting_towers(
        deposit / 20, np.ones(50, np.float32), np.zeros((2, 50), np.int64)
    )
    assert not none.any()


def test_times_are_sharper_for_larger_hits(showers):
    energy, time = 50 * showers.images[..., 0], 50 * showers.images[..., 1]
    spreads = [time[(energy > low) & (energy < 2 * low)].std() for low in (0.02, 0.5, 20)]
    assert spreads[0] > 5 * spreads[1] > 25 * spreads[2]
    assert spreads[2] < 0.4


def test_classes_differ_as_much_as_the_real_ones(calo_simulator, showers):
    shapes = calo_simulator.shower_shapes(showers.images[..., 0])
    model = HistGradientBoostingClassifier(learning_rate=0.06, max_iter=80, random_state=0)
    model.fit(shapes[:3_000], showers.target[:3_000])
    auc = roc_auc_score(showers.target[3_000:], model.predict_proba(shapes[3_000:])[:, 1])
    assert 0.66 < auc < 0.80


def test_images_are_like_real_ones(calo_simulator, data_dir):
    if not (data_dir / "SinglePhotonPt50_excerpt.hdf5").is_file():
        pytest.skip("no excerpt of the electron and photon images")
    table = calo_simulator.compare_showers(data_dir, 6_000)
    distances = table[["electron: KS", "photon: KS"]]
    assert (distances.median() < 0.13).all()
    assert (distances.max() < 0.23).all()
