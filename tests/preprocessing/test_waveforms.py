import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn.preprocessing.waveforms import WaveformScaler


@parametrize_with_checks(
    [
        WaveformScaler(),
        WaveformScaler(per="trace", baseline=1),
        WaveformScaler(method="area", baseline=0.5, statistic="mean", polarity="negative"),
        WaveformScaler(method="peak", per="trace"),
        WaveformScaler(method=None),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


def pulses(n=40, n_points=200, n_channels=2, *, pedestal=1000.0, seed=0):
    """Pulses of many heights in the middle of noisy traces with different pedestals."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_points)[:, np.newaxis]
    height = rng.uniform(100, 500, (n, 1, n_channels))
    pulse = height * np.exp(-((time - n_points / 2) ** 2) / 50)
    level = pedestal + rng.uniform(-50, 50, (n, 1, n_channels))
    noise = rng.normal(0, 1, (n, n_points, n_channels))
    return (level + pulse + noise).astype(np.float32), height[:, 0], level[:, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_published_scale_of_all_traces(dtype):
    X = pulses()[0][..., 0].astype(dtype)
    scaler = WaveformScaler().fit(X)
    scaled = scaler.transform(X)
    expected = (X.astype(float) - X.min()) / (float(X.max()) - float(X.min()))
    np.testing.assert_allclose(scaled, expected, atol=1e-6)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert scaler.offset_ == X.min()
    assert scaler.scale_ == float(X.max()) - float(X.min())
    beyond = scaler.transform(X[:1] + np.array(2000, dtype))
    assert beyond.min() > 1


def test_each_trace_separately():
    X = pulses()[0]
    scaled = WaveformScaler(per="trace").fit_transform(X)
    np.testing.assert_array_equal(scaled.min(axis=1), 0)
    np.testing.assert_array_equal(scaled.max(axis=1), 1)
    # The range of a single trace does not depend on its baseline.
    levelled = WaveformScaler(per="trace", baseline=20).fit_transform(X)
    np.testing.assert_allclose(levelled, scaled, atol=1e-5)


@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_baselines(statistic):
    X, height, level = pulses()
    scaler = WaveformScaler(method=None, baseline=60, statistic=statistic).fit(X)
    flat = scaler.transform(X)
    expected = X - getattr(np, statistic)(X[:, :60].astype(float), axis=1)[:, np.newaxis]
    np.testing.assert_allclose(flat, expected, atol=1e-3)
    np.testing.assert_allclose(X[:, :60].mean(1) - level, flat[:, :60].mean(1), atol=1)
    np.testing.assert_allclose(flat.sum(1), np.sqrt(50 * np.pi) * height, rtol=0.2)


@pytest.mark.parametrize("baseline", [50, 0.25, (0, 50), [0, 50], np.int64(50)])
def test_windows_of_the_baseline(baseline):
    X = pulses()[0]
    expected = WaveformScaler(method=None, baseline=50).fit_transform(X)
    got = WaveformScaler(method=None, baseline=baseline).fit_transform(X)
    np.testing.assert_array_equal(got, expected)
    late = WaveformScaler(method=None, baseline=(150, 200)).fit_transform(X)
    np.testing.assert_allclose(np.median(late[:, 150:], axis=1), 0, atol=1e-4)


def test_a_pulse_among_the_baseline_moves_its_mean_and_not_its_median():
    X = np.full((1, 100), 7.0)
    X[0, 3:6] = 1000
    flat = WaveformScaler(method=None, baseline=50).fit_transform(X)
    assert flat[0, -1] == 0
    flat = WaveformScaler(method=None, baseline=50, statistic="mean").fit_transform(X)
    assert flat[0, -1] == pytest.approx(-3 * 993 / 50)


@pytest.mark.parametrize("per_channel", [True, False])
def test_area_and_peak(per_channel):
    X = pulses()[0]
    params = {"per": "trace", "baseline": 60, "per_channel": per_channel}
    flat = WaveformScaler(method=None, baseline=60).fit_transform(X).astype(float)
    by_area = WaveformScaler(method="area", **params).fit_transform(X)
    by_peak = WaveformScaler(method="peak", **params).fit_transform(X)
    if per_channel:
        np.testing.assert_allclose(by_area.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(by_peak.max(1), 1, rtol=1e-6)
    else:
        np.testing.assert_allclose(by_area.sum((1, 2)), 1, rtol=1e-5)
        np.testing.assert_allclose(by_peak.max((1, 2)), 1, rtol=1e-6)
        ratio = flat.sum(1)[:, 0] / flat.sum(1)[:, 1]
        np.testing.assert_allclose(by_area.sum(1)[:, 0] / by_area.sum(1)[:, 1], ratio, rtol=1e-4)
    everywhere = params | {"per": "global"}
    scaler = WaveformScaler(method="area", **everywhere).fit(X)
    mean = scaler.transform(X).sum(1).mean(0)
    np.testing.assert_allclose(mean if per_channel else mean.sum(), 1, rtol=1e-5)
    peaks = np.abs(flat).max((0, 1))
    scaler = WaveformScaler(method="peak", **everywhere).fit(X)
    np.testing.assert_allclose(scaler.scale_, peaks if per_channel else peaks.max(), rtol=1e-6)


def test_channels_of_all_traces():
    X = pulses()[0] * np.array([1, 10], dtype=np.float32)
    apart = WaveformScaler().fit(X)
    np.testing.assert_array_equal(apart.offset_, X.min((0, 1)))
    np.testing.assert_allclose(apart.transform(X).max((0, 1)), 1)
    together = WaveformScaler(per_channel=False).fit(X)
    np.testing.assert_array_equal(together.offset_, X.min())
    assert together.transform(X)[..., 0].max() < 0.2


def test_negative_pulses():
    X = pulses()[0]
    for method in ("area", "peak"):  # nothing is turned up unasked
        scaler = WaveformScaler(method=method, per="trace", baseline=60)
        np.testing.assert_allclose(
            scaler.fit_transform(2000 - X), -scaler.fit_transform(X), 0, 1e-5
        )
    for params in ({"method": "peak", "per": "trace"}, {"method": "area"}, {"method": None}):
        up = WaveformScaler(baseline=60, **params)
        down = clone(up).set_params(polarity="negative")
        np.testing.assert_allclose(down.fit_transform(2000 - X), up.fit_transform(X), atol=5e-4)
    counts = (3000 - pulses()[0]).astype(np.uint16)
    turned = WaveformScaler(method=None, baseline=60, polarity="negative").fit_transform(counts)
    assert turned.min() > -10
    scaled = WaveformScaler(polarity="negative").fit_transform(counts)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert abs(scaled[0, :, 0].argmax() - 100) < 8


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("uint8", "float32"),
        ("int16", "float32"),
        ("uint16", "float32"),
        (">u2", "float32"),
        ("int32", "float64"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
@pytest.mark.parametrize("params", [{}, {"baseline": 2, "method": "area", "per": "trace"}])
def test_types(dtype, expected, params):
    X = np.array([[9, 9, 8, 60], [40, 40, 39, 90]]).astype(dtype)
    before = X.copy()
    scaled = WaveformScaler(**params).fit_transform(X)
    assert scaled.dtype == expected
    reference = WaveformScaler(**params).fit_transform(X.astype(float))
    np.testing.assert_allclose(scaled, reference, rtol=1e-6)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("method", ["minmax", "peak", "area"])
@pytest.mark.parametrize("per", ["global", "trace"])
@pytest.mark.parametrize("statistic", ["median", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_constant_traces(method, per, statistic, dtype):
    """Rounding errors are not scaled up: a flat trace becomes zero."""
    X = np.full((3, 100, 2), 13_700 if dtype == "uint16" else 0.1).astype(dtype)
    scaler = WaveformScaler(method=method, per=per, baseline=33, statistic=statistic)
    np.testing.assert_allclose(scaler.fit_transform(X), 0, atol=1e-7)
    if method == "minmax":
        scaler = WaveformScaler(per=per)
        np.testing.assert_array_equal(scaler.fit_transform(X), 0)


@pytest.mark.parametrize("method", ["minmax", "peak", "area", None])
@pytest.mark.parametrize("polarity", ["positive", "negative"])
def test_inverse(method, polarity):
    X = pulses()[0]
    scaler = WaveformScaler(method=method, polarity=polarity).fit(X)
    back = scaler.inverse_transform(scaler.transform(X))
    np.testing.assert_allclose(back, X, rtol=1e-5)
    assert back.dtype == np.float32


def test_no_inverse_without_kept_scales():
    assert hasattr(WaveformScaler(method=None, per="trace"), "inverse_transform")
    for params in ({"per": "trace"}, {"baseline": 5}):
        with pytest.raises(AttributeError, match="inverse_transform"):
            _ = WaveformScaler(**params).inverse_transform


def test_frames_stay_frames():
    X = pd.DataFrame(pulses()[0][..., 0], index=np.arange(40) * 2)
    X.columns = [f"t{i}" for i in range(200)]
    scaler = WaveformScaler(baseline=20).fit(X)
    scaled = scaler.transform(X)
    assert list(scaled) == list(X) == list(scaler.get_feature_names_out())
    pd.testing.assert_index_equal(scaled.index, X.index)
    np.testing.assert_array_equal(
        scaled.to_numpy(), WaveformScaler(baseline=20).fit_transform(X.to_numpy())
    )
    out = clone(scaler).set_output(transform="pandas").fit_transform(X.to_numpy())
    assert list(out)[:2] == ["x0", "x1"]
    pipeline = make_pipeline(scaler, StandardScaler()).set_output(transform="pandas")
    assert list(pipeline.fit_transform(X)) == list(X)


def test_large_data_in_chunks(monkeypatch):
    X = pulses()[0]
    scalers = [
        WaveformScaler(method=method, per=per, baseline=20, per_channel=False)
        for method in ("minmax", "peak", "area")
        for per in ("global", "trace")
    ]
    whole = [scaler.fit_transform(X) for scaler in scalers]
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 1000)
    for scaler, expected in zip(scalers, whole, strict=True):
        np.testing.assert_allclose(scaler.fit_transform(X), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("params", [{}, {"baseline": 100, "method": "area", "per": "trace"}])
def test_memory_is_one_copy(params):
    X = np.random.default_rng(0).integers(0, 1000, (4000, 5000), dtype=np.uint16)
    scaler = WaveformScaler(**params)
    tracemalloc.start()
    scaler.fit(X)
    _, peak = tracemalloc.get_traced_memory()
    assert peak < 0.5 * X.nbytes
    tracemalloc.reset_peak()
    out = scaler.transform(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * out.nbytes


def test_memory_mapped_traces(tmp_path):
    X = pulses()[0]
    np.save(tmp_path / "traces.npy", X)
    mapped = np.load(tmp_path / "traces.npy", mmap_mode="r")
    scaler = WaveformScaler(per="trace", baseline=5)
    np.testing.assert_array_equal(scaler.fit_transform(mapped), scaler.fit_transform(X))


def test_copies_and_refits():
    X = pulses()[0]
    scaler = WaveformScaler().fit(X)
    twin = pickle.loads(pickle.dumps(scaler))
    np.testing.assert_array_equal(twin.transform(X), scaler.transform(X))
    scaler.set_params(per="trace").fit(X)
    assert not hasattr(scaler, "scale_")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "max"}, r"method='max' is not known; choose one of \('minmax', 'peak'"),
        ({"per": "dataset"}, "per='dataset' is not known"),
        ({"statistic": "mode"}, "statistic='mode'"),
        ({"polarity": -1}, "polarity=-1"),
        ({"baseline": 0}, "number of points from 1 to the 200 of a trace.*got 0"),
        ({"baseline": 201}, "got 201"),
        ({"baseline": True}, "got True"),
        ({"baseline": 1.0}, r"got 1\.0"),
        ({"baseline": (5, 5)}, r"got \(5, 5\)"),
        ({"baseline": (0, 1, 2)}, r"got \(0, 1, 2\)"),
        ({"baseline": "first"}, "got 'first'"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        WaveformScaler(**params).fit(pulses()[0])


def test_bad_traces_are_named():
    X = pulses()[0]
    scaler = WaveformScaler().fit(X)
    X[7, 3, 1] = -np.inf
    for act in (scaler.transform, scaler.fit):
        with pytest.raises(ValueError, match=r"1 of 40 traces \(row 7\)"):
            act(X)
    with pytest.raises(ValueError, match="expecting traces of shape"):
        WaveformScaler().fit(X[:5]).transform(X[:5, :-1])


def test_real_germanium_traces(data_dir):
    path = data_dir / "legend_ge_waveforms.npz"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is absent")
    with np.load(path) as file:
        X, baseline, energy = file["X"], file["baseline_adc"], file["energy_adc"]
    flat = WaveformScaler(method=None, baseline=500).fit_transform(X)
    assert flat.dtype == np.float32
    level = X[:, 0] - flat[:, 0]
    assert np.median(np.abs(level - baseline)) < 60
    # The digitiser gives the energy of the step after the charge collection.
    step = flat[:, 2800:3200].mean(axis=1)
    assert np.corrcoef(step, energy)[0, 1] > 0.995
