"""Simulated S2 signals: form, the physics of each step by hand, and differences between one pulse and two."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skhep_nn.datasets import _waveform_signal, make_waveforms
from skhep_nn.datasets.waveforms import SimulatedWaveforms, XenonChamber

# Nothing fluctuates but the number of electrons and of photoelectrons, and when they come.
QUIET = XenonChamber(noise=0, baseline=0, electron_spread=0, gain_spread=0)
GAP_VARIANCE = 1.2**2 / 12  # us^2, of the light of one electron


def moments(waveforms):
    """Area (photoelectrons), mean time and variance (us) of noiseless traces."""
    traces = waveforms.traces.astype(float)
    time = (np.arange(traces.shape[1]) + 0.5) * waveforms.sampling
    total = traces.sum(axis=1)
    mean = traces @ time / total
    variance = (traces * (time - mean[:, None]) ** 2).sum(axis=1) / total
    return total * waveforms.sampling * 1e3 / 100, mean, variance


@pytest.fixture(scope="module")
def singles():
    return make_waveforms(600, n_pulses=1, chamber=QUIET, dtype="float32", random_state=0)


@pytest.fixture(scope="module")
def pairs():
    return make_waveforms(600, chamber=QUIET, dtype="float32", random_state=0)


def test_form():
    waveforms = make_waveforms(130, n_pulses=(1, 2), random_state=0)
    assert isinstance(waveforms, SimulatedWaveforms)
    assert waveforms.traces.shape == (130, 5_000)
    assert waveforms.traces.dtype == np.uint16
    assert waveforms.target is waveforms.separation
    assert waveforms.sampling == pytest.approx(0.01)
    for name in ("arrival", "width", "drift_time", "energy", "electrons"):
        assert getattr(waveforms, name).shape == (130, 2)
    assert waveforms.n_pulses.dtype == waveforms.electrons.dtype == np.int64
    np.testing.assert_array_equal(np.bincount(waveforms.n_pulses[:100]), [0, 50, 50])
    single = waveforms.n_pulses == 1
    assert (waveforms.target[single] == 0).all()
    assert (waveforms.energy[single, 1] == 0).all()
    assert (waveforms.electrons[single, 1] == 0).all()
    for name in ("arrival", "width", "drift_time"):
        np.testing.assert_array_equal(np.isnan(getattr(waveforms, name)[:, 1]), single)
    assert np.isfinite(waveforms.arrival[:, 0]).all()


def test_the_same_seed_gives_the_same_traces_and_more_begin_with_fewer():
    few, many = (make_waveforms(n, n_points=500, random_state=3) for n in (130, 250))
    for one, other in zip(few[:-1], many[:-1], strict=True):
        np.testing.assert_array_equal(one, other[:130])
    again = make_waveforms(130, n_points=500, random_state=3)
    np.testing.assert_array_equal(few.traces, again.traces)
    assert not np.array_equal(few.traces[:100], many.traces[100:200])
    rng = np.random.default_rng(3)
    first, second = (make_waveforms(10, n_points=500, random_state=rng) for _ in range(2))
    np.testing.assert_array_equal(first.traces, few.traces[:10])
    assert not np.array_equal(first.traces, second.traces)


def test_separations_are_uniform_on_the_grid_of_samples():
    target = make_waveforms(20_000, n_points=50, random_state=0).target
    values, counts = np.unique(target, return_counts=True)
    np.testing.assert_allclose(values, np.arange(9) / 8)
    np.testing.assert_allclose(counts, 20_000 / 9, rtol=0.1)
    fine = make_waveforms(300, separation=(0.1, 0.2), random_state=0).target
    np.testing.assert_allclose(fine * 800, np.rint(fine * 800))
    assert fine.min() >= 0.1
    assert fine.max() <= 0.2
    small = make_waveforms(300, separation=(0, 0.009), random_state=0).target
    np.testing.assert_allclose(np.unique(small), np.arange(8) / 800)


def test_energies_are_shared(pairs):
    total = pairs.energy.sum(axis=1)
    assert 4 <= total.min() < 4.3
    assert 15.7 < total.max() <= 16
    share = pairs.energy[:, 0] / total
    assert share.min() >= 0.1
    assert share.max() <= 0.9
    assert share.mean() == pytest.approx(0.5, abs=5 * 0.8 / np.sqrt(12 * 600))
    equal = make_waveforms(10, n_points=100, energy=10, sharing=0.3, random_state=0)
    np.testing.assert_allclose(equal.energy, [[3, 7]] * 10)


def test_electrons_of_the_recombination_model():
    """Thomas-Imel by hand: 10 keV make 689 ions, and 243 electrons stay free."""
    ions = 10 / 0.0137 / 1.06
    free = np.log(1 + 0.03 * ions / 4) / (0.03 * ions / 4)
    assert ions * free == pytest.approx(242.5, abs=0.1)
    waveforms = make_waveforms(
        4_000, n_points=50, n_pulses=1, energy=10, drift_time=500, random_state=0
    )
    survival = 0.8 * np.exp(-500 / 5000)
    electrons = waveforms.electrons[:, 0]
    assert electrons.mean() == pytest.approx(ions * free * survival, rel=0.01)
    fano = ions * 0.059 / 1.06 * (survival / (1 + 0.03 * ions / 4)) ** 2
    spread = (0.05 * ions * survival) ** 2 + ions * free * survival * (1 - survival) + fano
    assert electrons.std() == pytest.approx(np.sqrt(spread), rel=0.05)


def test_electrons_are_captured_on_their_way():
    mean = {}
    for time in (0, 1_000):
        chamber = XenonChamber(electron_lifetime=800)
        waveforms = make_waveforms(
            2_000, n_points=50, n_pulses=1, drift_time=time, chamber=chamber, random_state=0
        )
        mean[time] = waveforms.electrons[:, 0].mean()
    assert mean[1_000] / mean[0] == pytest.approx(np.exp(-1_000 / 800), rel=0.02)


def test_area_is_proportional_to_the_electrons(singles):
    area, _, _ = moments(singles)
    electrons = singles.electrons[:, 0]
    pulls = (area - 50 * electrons) / np.sqrt(50 * electrons)
    assert pulls.mean() == pytest.approx(0, abs=5 / np.sqrt(600))
    assert pulls.std() == pytest.approx(1, rel=0.15)


def test_fluctuations_of_light_and_gain():
    """Variance of the area: of the light of electrons, of counting, of the gain."""
    chamber = QUIET._replace(electron_spread=0.4, gain_spread=0.5, photoelectrons=10)
    waveforms = make_waveforms(
        2_000, n_points=500, n_pulses=1, chamber=chamber, dtype="float32", random_state=0
    )
    area, _, _ = moments(waveforms)
    electrons = waveforms.electrons[:, 0]
    variance = electrons * (10**2 * 0.4**2 + 10 * (1 + 0.5**2))
    pulls = (area - 10 * electrons) / np.sqrt(variance)
    # Electrons do not give less than no light: 0.6 % of the normal distribution are below.
    assert pulls.mean() == pytest.approx(0, abs=0.15)
    assert pulls.std() == pytest.approx(1, rel=0.06)


def test_the_square_of_the_width_grows_linearly_with_the_drift_time(singles):
    _, mean, variance = moments(singles)
    time = singles.drift_time[:, 0]
    growth, offset = np.polyfit(time, variance, 1)
    assert growth == pytest.approx(2 * 26e-4 / 1.7**2, rel=0.05)
    assert offset == pytest.approx(GAP_VARIANCE, abs=0.04)
    np.testing.assert_allclose(singles.width[:, 0] ** 2, 2 * 26e-4 * time / 1.7**2)
    # Half the time in the gas later than the electrons came, and the mean of t exp(-t / 10 ns).
    late = mean - singles.arrival[:, 0]
    assert late.mean() == pytest.approx(0.6 + 0.02, abs=0.03)
    pulls = (late - 0.62) * np.sqrt(singles.electrons[:, 0]) / singles.width[:, 0]
    assert pulls.std() == pytest.approx(1, rel=0.1)


def test_without_diffusion_a_pulse_is_the_light_of_the_gap():
    chamber = QUIET._replace(diffusion=0, shaping_time=0.1, photoelectrons=1e5)
    waveforms = make_waveforms(
        100, n_pulses=1, chamber=chamber, energy=20, dtype="float64", random_state=0
    )
    first = np.floor(waveforms.arrival[:, 0] / 0.01).astype(int)
    for trace, start in zip(waveforms.traces, first, strict=True):
        lit = np.flatnonzero(trace)
        assert (lit[0], lit[-1]) == (start, start + 119)
        np.testing.assert_allclose(trace[lit], trace[lit].mean(), rtol=0.02)


@pytest.mark.parametrize("gap", [0.001, 0.3, 1.2, 1.234])
def test_light_is_spread_over_the_gap(gap):
    values = np.zeros((2, 400))
    values[0, 7], values[1, 30], values[1, 31] = 3, 1, 2
    mean = _waveform_signal._moving_mean(values, gap / 0.01)
    np.testing.assert_allclose(mean.sum(axis=1), [3, 3])
    assert mean.min() > -1e-12
    length = max(gap / 0.01, 1)
    time = np.arange(400)
    centre = (mean * time).sum(axis=1) / 3
    fraction = length - int(length)
    expected = (int(length) * (int(length) - 1) / 2 + fraction * int(length)) / length
    np.testing.assert_allclose(centre, np.array([7, 30 + 2 / 3]) + expected)


def test_pulse_of_a_photoelectron():
    shares = _waveform_signal.shape_of_photoelectron(XenonChamber(shaping_time=40), 0.01)
    time = np.arange(0, 0.01 * shares.size, 1e-4) + 5e-5
    shape = time * np.exp(-time / 0.04)
    expected = shape.reshape(shares.size, -1).sum(axis=1) / shape.sum()
    np.testing.assert_allclose(shares, expected, atol=1e-5)
    coarse = _waveform_signal.shape_of_photoelectron(XenonChamber(shaping_time=0.01), 0.01)
    np.testing.assert_array_equal(coarse, [1])


def test_the_separation_comes_back_from_noiseless_traces(pairs):
    """By the mean, given the first arrival and the sharing of the electrons."""
    _, mean, variance = moments(pairs)
    late = mean - 0.62 - pairs.arrival[:, 0]
    electrons = pairs.electrons.sum(axis=1)
    share = pairs.electrons[:, 1] / electrons
    error = (late / share - 8 * pairs.target) * share * np.sqrt(electrons)
    pulls = error / np.nanmean(pairs.width, axis=1)
    assert pulls.mean() == pytest.approx(0, abs=0.25)
    assert pulls.std() == pytest.approx(1, rel=0.1)
    # The variance is the sum of the variances of the pulses and of their positions.
    within = (pairs.electrons * pairs.width**2).sum(axis=1) / electrons + GAP_VARIANCE
    between = share * (1 - share) * (8 * pairs.target) ** 2
    assert (variance - within - between).mean() == pytest.approx(0, abs=0.03)
    assert np.corrcoef(variance, within + between)[0, 1] > 0.98
    np.testing.assert_allclose(np.diff(pairs.arrival)[:, 0], 8 * pairs.target, atol=1e-12)
    np.testing.assert_allclose(np.diff(pairs.drift_time)[:, 0], 8 * pairs.target, atol=1e-9)


def test_far_pulses_are_two():
    waveforms = make_waveforms(
        50, separation=(1, 1), sharing=0.5, drift_time=100, chamber=QUIET, random_state=0
    )
    cut = np.rint((waveforms.arrival.mean(axis=1) + 0.6) / 0.01).astype(int)
    for row, place in enumerate(cut):
        trace = waveforms.traces[row].astype(float)
        halves = np.array([trace[:place].sum(), trace[place:].sum()]) / 10 / 50
        np.testing.assert_allclose(halves, waveforms.electrons[row], rtol=0.05)
        assert trace[place - 20 : place + 20].max() == 0


def test_noise_baseline_and_rounding():
    chamber = XenonChamber(noise=7.0, baseline=321.5)
    counts = make_waveforms(100, chamber=chamber, random_state=0).traces
    analogue = make_waveforms(100, chamber=chamber, dtype="float32", random_state=0).traces
    dark = counts[:, :1_000]
    assert dark.mean() == pytest.approx(321.5, abs=0.1)
    assert dark.std() == pytest.approx(np.sqrt(7**2 + 1 / 12), rel=0.01)
    assert analogue.dtype == np.float32
    np.testing.assert_array_equal(counts, np.rint(analogue))


def test_saturation_and_the_lower_end():
    chamber = XenonChamber(n_bits=10, baseline=2.0)
    counts = make_waveforms(100, chamber=chamber, dtype="int16", random_state=0).traces
    analogue = make_waveforms(100, chamber=chamber, dtype="float64", random_state=0).traces
    assert counts.dtype == np.int16
    assert (counts.min(), counts.max()) == (0, 1023)
    assert (analogue.max(axis=1) > 1024).any()
    assert analogue.min() < -5
    np.testing.assert_array_equal(counts, np.clip(np.rint(analogue), 0, 1023))


def test_coarser_samples_show_the_same_pulses():
    fine, coarse = (
        make_waveforms(
            400, n_points=n, n_pulses=1, energy=10, chamber=QUIET, dtype="float32", random_state=0
        )
        for n in (5_000, 500)
    )
    np.testing.assert_array_equal(fine.electrons, coarse.electrons)
    for one, other, tolerance in zip(
        moments(fine), moments(coarse), (0.01, 0.01, 0.1), strict=True
    ):
        np.testing.assert_allclose(one.mean(), other.mean(), rtol=tolerance)


def test_what_lies_outside_of_the_trace_is_lost():
    columns, light = _waveform_signal.light_of(
        np.random.default_rng(0), QUIET, np.array([0, 0]), np.array([-0.1, 60]), (1, 5_000), 0.01
    )
    assert columns == slice(0, 0)
    assert light.shape == (1, 0)
    columns, light = _waveform_signal.light_of(
        np.random.default_rng(0), QUIET, np.zeros(100, int), np.full(100, 49.4), (1, 5_000), 0.01
    )
    assert columns == slice(4_940, 5_000)
    assert light.sum() == pytest.approx(100 * 50 / 2, rel=0.1)


def test_close_pulses_have_more_electrons_than_one():
    """Pulses with d < 0.01 differ from single ones only by less recombination, so a larger area."""
    waveforms = make_waveforms(
        3_000, n_points=500, n_pulses=(1, 2), separation=(0, 0.0), random_state=0
    )
    area = waveforms.traces.sum(axis=1, dtype=float)
    assert 0.72 < roc_auc_score(waveforms.n_pulses, area) < 0.86
    # Scaled to the same area they are the same, but for fluctuations.
    signal = waveforms.traces - 400.0
    widths = (signal[:, 190:260] * np.arange(70) ** 2).sum(axis=1) / signal[:, 190:260].sum(axis=1)
    assert 0.45 < roc_auc_score(waveforms.n_pulses, widths) < 0.55
    wide = make_waveforms(1_000, n_points=500, n_pulses=(1, 2), separation=(0.5, 1), random_state=0)
    late = wide.traces[:, 240:].max(axis=1)
    assert roc_auc_score(wide.n_pulses, late) > 0.9


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, r"n_samples must be an integer of at least 1, got 0"),
        ({"n_samples": 1.5}, r"n_samples must be an integer"),
        ({"n_points": 49}, r"n_points must be an integer of at least 50, got 49"),
        ({"n_pulses": 3}, r"n_pulses must be 1, 2 or \(1, 2\), got 3"),
        ({"n_pulses": (2, 2)}, r"n_pulses must be 1, 2 or"),
        ({"separation": (0.0, 1.1)}, r"separation must be .* from 0 to 1, got \(0.0, 1.1\)"),
        ({"separation": (0.5, 0.4)}, r"separation must be"),
        ({"separation": (0.0003, 0.0004)}, r"multiple of one sample, 0.125"),
        ({"energy": 21}, r"energy must be .* from 0.1 to 20 keV, got 21"),
        ({"energy": float("nan")}, r"energy must be"),
        ({"sharing": "half"}, r"sharing must be .* got 'half'"),
        ({"drift_time": (0, 1, 2)}, r"drift_time must be .* us, got"),
        ({"dtype": "uint8"}, r"dtype must be float32, float64 or integers that hold 14 bits"),
        ({"dtype": "float16"}, r"dtype must be"),
        ({"random_state": -1}, r"random_state must be"),
        ({"chamber": XenonChamber(extraction=1.1)}, r"extraction must be above 0 and at most 1"),
        ({"chamber": XenonChamber(gain=0)}, r"XenonChamber: gain must be above 0"),
        ({"chamber": XenonChamber(noise=-1)}, r"noise must be at least 0"),
        ({"chamber": XenonChamber(noise=float("nan"))}, r"noise must be at least 0"),
        ({"chamber": XenonChamber(n_bits=14.5)}, r"n_bits must be"),
    ],
)
def test_parameters_that_are_wrong(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_waveforms(**{"n_samples": 1, "n_points": 50, "random_state": 0} | parameters)


def test_a_chamber_that_is_none():
    with pytest.raises(TypeError, match="chamber must be a XenonChamber or None"):
        make_waveforms(1, chamber={"noise": 0.0})
