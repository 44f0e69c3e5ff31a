import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.fft import dct
from scipy.stats import kstest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import parametrize_with_checks

from skhep_nn import AugmentedRegressor, WaveformRegressor
from skhep_nn.augmentation.waveforms import WaveformAugmenter

STILL = {"shift": 0, "amplitude": 0.0}
EVERYTHING = {
    "shift": 7,
    "amplitude": 0.1,
    "noise": 0.01,
    "baseline_wander": 0.05,
    "mirror": True,
    "n_shifts": 3,
}
KINDS = ["array", "tensor"]


@parametrize_with_checks(
    [
        WaveformAugmenter(),
        WaveformAugmenter(**EVERYTHING | {"shift": 0.4}, random_state=0),
        WaveformAugmenter(padding="wrap", mirror=True, baseline=None),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


@pytest.fixture(params=[(200,), (200, 2)], ids=["one channel", "two channels"])
def traces(request):
    """Pulses with a slow tail on a pedestal, far from both ends."""
    rng = np.random.default_rng(0)
    time = np.arange(200)
    height = rng.uniform(20, 100, (300, 1))
    start = rng.uniform(80, 100, (300, 1))
    pulse = height * np.exp(-(time - start) / 10) * (time > start)
    X = 1000 + pulse
    if len(request.param) == 2:
        X = np.stack([X, 500 + 2 * pulse], axis=-1)
    return X.astype(np.float32)


def copies_of(augmenter, X, *, kind="array", seed=0):
    if kind == "array":
        return augmenter.transform(X)
    generator = torch.Generator().manual_seed(seed)
    return augmenter.transform_tensor(torch.from_numpy(X), generator).numpy()


def by_hand(trace, shift, *, padding="edge", mirrored=False):
    """Return a trace shifted with numpy's padding."""
    trace = trace[::-1] if mirrored else trace
    if padding == "wrap":
        return np.roll(trace, shift, axis=0)
    widths = [(max(shift, 0), max(-shift, 0))] + [(0, 0)] * (trace.ndim - 1)
    padded = np.pad(trace, widths, mode="edge")
    return padded[max(-shift, 0) :][: len(trace)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["edge", "wrap"])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shape", [(9,), (9, 2)])
def test_all_shifts_are_equally_often(kind, padding, mirror, shape):
    trace = np.random.default_rng(0).random(shape)
    X = np.repeat(trace[np.newaxis], 4000, axis=0)
    augmenter = WaveformAugmenter(
        shift=3, padding=padding, amplitude=0.0, mirror=mirror, random_state=0
    ).fit(X)
    pool = [
        by_hand(trace, shift, padding=padding, mirrored=mirrored).tobytes()
        for mirrored in ((False, True) if mirror else (False,))
        for shift in range(-3, 4)
    ]
    assert len(set(pool)) == len(pool)
    seen = [pool.index(c.tobytes()) for c in copies_of(augmenter, X, kind=kind)]
    counts = np.bincount(seen, minlength=len(pool))
    assert np.abs(counts - 4000 / len(pool)).max() < 5 * np.sqrt(4000 / len(pool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["edge", "wrap"])
def test_shifts_keep_the_area_away_from_the_ends(traces, kind, padding):
    augmenter = WaveformAugmenter(shift=20, padding=padding, amplitude=0.0, random_state=0)
    moved = copies_of(augmenter.fit(traces), traces, kind=kind)
    np.testing.assert_allclose(moved.sum(1), traces.sum(1), rtol=1e-5, atol=1)
    way = moved.argmax(axis=1) - traces.argmax(axis=1)
    assert way.min() == -20
    assert way.max() == 20
    if traces.ndim == 3:
        np.testing.assert_array_equal(way[:, 0], way[:, 1])


def test_two_pulses_stay_as_far_apart():
    X = np.zeros((200, 300))
    rng = np.random.default_rng(0)
    first, apart = rng.integers(80, 120, 200), rng.integers(5, 60, 200)
    X[np.arange(200), first], X[np.arange(200), first + apart] = 100, 60
    copies = WaveformAugmenter(**EVERYTHING | {"baseline_wander": 0.01}, random_state=0)
    order = np.sort(np.argsort(copies.fit_transform(X), axis=1)[:, -2:], axis=1)
    np.testing.assert_array_equal(order[:, 1] - order[:, 0], apart)


@pytest.mark.parametrize("kind", KINDS)
def test_amplitudes_scale_the_area_above_the_baseline(traces, kind):
    augmenter = WaveformAugmenter(shift=0, amplitude=0.2, baseline=50, random_state=0).fit(traces)
    copies = copies_of(augmenter, traces, kind=kind)
    level = traces[:, :1]
    factor = (copies - level).sum(1) / (traces - level).sum(1)
    shape = (traces - level) * factor[:, np.newaxis]
    np.testing.assert_allclose(copies - level, shape, atol=2e-2)
    np.testing.assert_allclose(copies[:, :50], traces[:, :50], atol=1e-3)
    logs = np.log(factor).reshape(len(traces), -1)
    np.testing.assert_allclose(logs[:, 0], logs[:, -1], atol=1e-3)  # one for all channels
    assert logs.mean() == pytest.approx(0, abs=0.05)
    assert logs.std() == pytest.approx(0.2, rel=0.15)
    assert kstest(logs[:, 0] / 0.2, "norm").pvalue > 1e-3
    raw = copies_of(augmenter.set_params(baseline=None).fit(traces), traces, kind=kind)
    ratio = raw / traces
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones_like(ratio), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noise(traces, kind):
    augmenter = WaveformAugmenter(**STILL, noise=0.03, random_state=0).fit(traces)
    np.testing.assert_allclose(augmenter.range_, np.median(np.ptp(traces, axis=1), axis=0))
    added = (copies_of(augmenter, traces, kind=kind) - traces).reshape(300, 200, -1)
    for channel, unit in enumerate(augmenter.range_):
        noise = added[..., channel] / unit
        assert noise.mean() == pytest.approx(0, abs=5 * 0.03 / np.sqrt(noise.size))
        assert noise.std() == pytest.approx(0.03, rel=0.02)
        assert kstest(noise[::7].ravel() / noise.std(), "norm").pvalue > 1e-3
        white = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
        assert abs(white) < 0.03
        assert np.abs(np.corrcoef(noise) - np.eye(300)).max() < 0.5
    if added.shape[-1] == 2:
        assert abs(np.corrcoef(added[..., 0].ravel(), added[..., 1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_baseline_wander(traces, kind):
    augmenter = WaveformAugmenter(**STILL, baseline_wander=0.05, random_state=0).fit(traces)
    added = (copies_of(augmenter, traces, kind=kind) - traces).reshape(300, 200, -1)
    for channel, unit in enumerate(augmenter.range_):
        wander = added[..., channel].astype(float) / unit
        assert np.sqrt(np.mean(wander**2)) == pytest.approx(0.05, rel=0.1)
        power = np.mean(dct(wander, axis=1, norm="ortho") ** 2, axis=0)
        np.testing.assert_allclose(power[:4] / power.sum(), 0.25, rtol=0.3)
        assert power[4:].sum() < 1e-4 * power.sum()
        assert np.ptp(wander, axis=1).min() > 0
    if added.shape[-1] == 2:
        assert abs(np.corrcoef(added[:, 0, 0], added[:, 0, 1])[0, 1]) < 0.25


def test_range_is_found_on_evenly_spaced_traces():
    X = np.zeros((2500, 10))
    X[:, 3] = np.arange(2500)
    augmenter = WaveformAugmenter().fit(X)
    assert augmenter.range_ == np.median(np.arange(0, 2500, 3))
    counts = np.array([[0, 65535], [1, 65535]], dtype=np.uint16)
    assert WaveformAugmenter().fit(counts).range_ == 65534.5
    assert WaveformAugmenter().fit(np.array([[-120, 120]], dtype=np.int8)).range_ == 240
    flat = np.ones((5, 10))
    still = WaveformAugmenter(noise=1.0, baseline_wander=1.0, random_state=0)
    np.testing.assert_array_equal(still.fit_transform(flat), flat)


@pytest.mark.parametrize(
    ("params", "shifts"),
    [
        ({}, [0]),
        ({"shift": 6}, [0, -4, 4]),
        ({"shift": 0.5}, [0, -3, 3]),
        ({"shift": 5, "n_shifts": 5}, [0, -2, 2, -4, 4]),
        ({"shift": 1}, [0, -1, 1]),
        ({"shift": 1, "n_shifts": 5}, [0, -1, 1]),
        ({"shift": 6, "n_shifts": 1}, [0]),
        ({"shift": 0}, [0]),
    ],
)
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("padding", ["edge", "wrap"])
@pytest.mark.parametrize("shape", [(10,), (10, 2)])
def test_views(params, shifts, mirror, padding, shape):
    X = np.random.default_rng(0).random((4, *shape))
    augmenter = WaveformAugmenter(
        **params, mirror=mirror, padding=padding, noise=0.1, baseline_wander=0.1
    ).fit(X)
    views = list(augmenter.views(X))
    np.testing.assert_array_equal(views[0], X)
    expected = [
        [by_hand(x, shift, padding=padding, mirrored=mirrored) for x in X]
        for mirrored in ((False, True) if mirror else (False,))
        for shift in shifts
    ]
    assert len(views) == len(expected) == augmenter.n_views_
    by_bytes = sorted(np.array(e).tobytes() for e in expected)
    assert len(set(by_bytes)) == len(by_bytes)
    assert sorted(view.tobytes() for view in views) == by_bytes
    for index, view in enumerate(views):
        got = augmenter.view_tensor(torch.from_numpy(X), index)
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.numpy(), view)


def test_mirrored_twice_is_the_identity(traces):
    augmenter = WaveformAugmenter(**STILL, mirror=True).fit(traces)
    assert augmenter.n_views_ == 2
    once = list(augmenter.views(traces))[1]
    np.testing.assert_array_equal(once, traces[:, ::-1])
    np.testing.assert_array_equal(list(augmenter.views(once))[1], traces)
    back = augmenter.view_tensor(torch.from_numpy(np.ascontiguousarray(once)), 1)
    np.testing.assert_array_equal(back.numpy(), traces)
    single = WaveformAugmenter(shift=0, mirror=True).fit(traces[:, :1])
    assert single.n_views_ == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float16", "float64"])
def test_types(kind, dtype):
    X = np.random.default_rng(0).integers(0, 120, (40, 30)).astype(dtype)
    if dtype == "uint16":
        X += 65_000
    before = X.copy()
    for mirror in (False, True):
        for shift in (0, 4):
            mover = WaveformAugmenter(
                shift=shift, amplitude=0.0, padding="wrap", mirror=mirror, random_state=0
            )
            moved = copies_of(mover.fit(X), X, kind=kind)
            assert moved.dtype == X.dtype
            assert not np.shares_memory(moved, X)
            assert np.array_equal(np.sort(moved, axis=1), np.sort(X, axis=1))
    view = mover.view_tensor(torch.from_numpy(X), 2)
    assert view.dtype == torch.from_numpy(X).dtype
    for name in ("amplitude", "noise", "baseline_wander"):
        augmenter = WaveformAugmenter(**STILL | {name: 0.1}, random_state=0).fit(X)
        copies = copies_of(augmenter, X, kind=kind)
        wide = "float64" if dtype == "int32" and kind == "array" else "float32"
        assert copies.dtype == (X.dtype if X.dtype.kind == "f" else wide)
        assert np.isfinite(copies).all()
        assert not np.array_equal(np.rint(copies), copies)
        assert 0.05 < np.abs(copies - X.astype(float)).max() < 120
    np.testing.assert_array_equal(X, before)


def test_foreign_byte_order_and_read_only_data():
    X = np.arange(40).reshape(4, 10).astype(">u2")
    X.flags.writeable = False
    augmenter = WaveformAugmenter(shift=2, amplitude=0.0, random_state=0).fit(X)
    native = X.astype(np.uint16)
    np.testing.assert_array_equal(augmenter.transform(X), augmenter.transform(native))
    np.testing.assert_array_equal(list(augmenter.views(X)), list(augmenter.views(native)))


def test_arrays_and_tensors_are_altered_alike(traces):
    """The same random numbers give the same copies of arrays and tensors."""
    augmenter = WaveformAugmenter(**EVERYTHING).fit(traces)
    generator = torch.Generator().manual_seed(0)
    X = torch.from_numpy(traces)
    got = augmenter.transform_tensor(X, generator)
    generator.manual_seed(0)
    uniform = torch.rand(2, 300, generator=generator)
    normal = torch.randn(augmenter._n_normal, 300, generator=generator)
    noise = torch.empty_like(X).normal_(generator=generator)
    shape = (300, *augmenter.sample_shape)
    again = augmenter._altered(X.reshape(shape), uniform, normal, noise.reshape(shape))
    assert torch.equal(got.reshape(shape), again)


def test_batches_of_members(traces):
    augmenter = WaveformAugmenter(**EVERYTHING).fit(traces)
    X = torch.from_numpy(traces).unflatten(0, (3, 10, 10))
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
    if traces.ndim == 2:
        wide = X.unsqueeze(-1)
        same = augmenter.transform_tensor(wide, torch.Generator().manual_seed(0))
        narrow = augmenter.transform_tensor(X, torch.Generator().manual_seed(0))
        assert torch.equal(same.squeeze(-1), narrow)
        assert torch.equal(augmenter.view_tensor(wide, 1).squeeze(-1), view)
        column = WaveformAugmenter(**EVERYTHING).fit(traces[..., np.newaxis])
        assert torch.equal(column.view_tensor(X, 1), view)


def test_transform_is_seeded_and_keeps_global_states(traces):
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    augmenter = WaveformAugmenter(**EVERYTHING, random_state=1).fit(traces)
    np.testing.assert_array_equal(augmenter.transform(traces), augmenter.transform(traces))
    other = clone(augmenter).set_params(random_state=2).fit(traces)
    assert not np.array_equal(augmenter.transform(traces), other.transform(traces))
    drawn = clone(augmenter).set_params(random_state=np.random.RandomState(0)).fit(traces)
    assert not np.array_equal(drawn.transform(traces), drawn.transform(traces))
    fresh = clone(augmenter).set_params(random_state=None).fit(traces)
    assert not np.array_equal(fresh.transform(traces), fresh.transform(traces))
    fresh.transform_tensor(torch.from_numpy(traces), torch.Generator().manual_seed(0))
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.random.get_rng_state())


def test_frames_stay_frames():
    X = pd.DataFrame(np.random.default_rng(0).random((20, 6)), columns=list("abcdef"))
    X.index = pd.Index(np.arange(20) * 3, name="event")
    augmenter = WaveformAugmenter(shift=2, mirror=True, random_state=0).fit(X)
    for moved in (augmenter.transform(X), *augmenter.views(X)):
        assert list(moved) == list(X)
        pd.testing.assert_index_equal(moved.index, X.index)
    out = augmenter.set_output(transform="pandas").fit_transform(X.to_numpy())
    assert list(out) == [f"x{i}" for i in range(6)]


def test_large_data_in_chunks(traces, monkeypatch):
    augmenter = WaveformAugmenter(**EVERYTHING, random_state=0).fit(traces)
    whole = augmenter.transform(traces)
    monkeypatch.setattr("skhep_nn.inputs.images.CHUNK", 1400)
    np.testing.assert_allclose(augmenter.transform(traces), whole, rtol=1e-6)


def test_copies(traces, tmp_path):
    augmenter = WaveformAugmenter(**EVERYTHING, random_state=0).fit(traces)
    augmenter.transform_tensor(torch.from_numpy(traces), torch.Generator())
    joblib.dump(augmenter, tmp_path / "augmenter")
    stored = joblib.load(tmp_path / "augmenter")
    for twin in (pickle.loads(pickle.dumps(augmenter)), copy.deepcopy(augmenter), stored):
        np.testing.assert_array_equal(twin.transform(traces), augmenter.transform(traces))
        assert twin.view_tensor(torch.from_numpy(traces), 1).shape == traces.shape


def test_can_be_compiled_without_graph_breaks(traces):
    """No step depends on the values of the data, so that it can be captured on a GPU, too."""
    augmenter = WaveformAugmenter(**EVERYTHING).fit(traces)
    X = torch.from_numpy(traces)
    view = torch.compile(lambda x: augmenter.view_tensor(x, 1), backend="eager", fullgraph=True)
    assert torch.equal(view(X), augmenter.view_tensor(X, 1))
    generator = torch.Generator().manual_seed(0)
    wide = X.reshape(300, *augmenter.sample_shape)
    draws = (
        wide,
        torch.rand(2, 300, generator=generator),
        torch.randn(augmenter._n_normal, 300, generator=generator),
        torch.empty_like(wide).normal_(generator=generator),
    )
    altered = torch.compile(augmenter._altered, backend="eager", fullgraph=True)
    assert torch.equal(altered(*draws), augmenter._altered(*draws))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
@pytest.mark.parametrize("padding", ["edge", "wrap"])
def test_cuda_agrees_with_cpu_and_is_captured_in_a_graph(traces, dtype, padding):
    augmenter = WaveformAugmenter(**EVERYTHING, padding=padding).fit(traces)
    X = torch.from_numpy(traces.astype(dtype))
    on_gpu = X.cuda()
    for index in range(augmenter.n_views_):
        view = augmenter.view_tensor(on_gpu, index).cpu()
        assert torch.equal(view, augmenter.view_tensor(X, index))
    generator = torch.Generator().manual_seed(0)
    wide = X.float().reshape(300, *augmenter.sample_shape)
    draws = (
        wide,
        torch.rand(2, 300, generator=generator),
        torch.randn(augmenter._n_normal, 300, generator=generator),
        torch.empty_like(wide).normal_(generator=generator),
    )
    there = augmenter._altered(*(d.cuda() for d in draws)).cpu()
    torch.testing.assert_close(there, augmenter._altered(*draws), rtol=1e-5, atol=1e-2)
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
    torch.testing.assert_close(captured, eager, rtol=1e-6, atol=1e-3)
    graph.replay()
    assert not torch.allclose(captured, eager, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"shift": -1}, "shift must be an integer from 0 to below the 20 points"),
        ({"shift": 20}, "below the 20 points"),
        ({"shift": 1.0}, "fraction of at least 0 and below 1, got 1.0"),
        ({"shift": float("nan")}, "shift"),
        ({"shift": True}, "got True"),
        ({"padding": "reflect"}, "padding must be 'edge' or 'wrap', got 'reflect'"),
        ({"amplitude": -0.1}, "amplitude must be a number of at least 0, got -0.1"),
        ({"noise": float("inf")}, "noise must be a number"),
        ({"baseline_wander": "slow"}, "baseline_wander must be a number"),
        ({"n_shifts": 2}, "n_shifts must be an odd number of at least 1, got 2"),
        ({"n_shifts": 0}, "n_shifts"),
        ({"baseline": 21}, "baseline must be None, a number of points from 1 to the 20"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        WaveformAugmenter(**params).fit(np.zeros((3, 20, 2)))


def test_bad_input():
    augmenter = WaveformAugmenter(shift=5).fit(np.zeros((3, 20, 2)))
    with pytest.raises(ValueError, match=r"traces of shape \(21, 2\)"):
        augmenter.transform(np.zeros((3, 21, 2)))
    with pytest.raises(ValueError, match=r"1 of 3 traces \(row 1\)"):
        augmenter.transform(np.array([0, np.nan, 0])[:, None, None] * np.ones((3, 20, 2)))
    with pytest.raises(ValueError, match=r"X has the shape \(3, 20\)"):
        augmenter.transform_tensor(torch.zeros(3, 20), torch.Generator())
    with pytest.raises(IndexError, match="There are 3 views, from 0 on; got index 3"):
        augmenter.view_tensor(torch.zeros(3, 20, 2), 3)


def test_real_traces_keep_their_energy(data_dir):
    path = data_dir / "legend_ge_waveforms.npz"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is absent")
    with np.load(path) as file:
        X, energy = file["X"], file["energy_adc"]
    augmenter = WaveformAugmenter(shift=100, amplitude=0.0, noise=0.001, random_state=0)
    moved = augmenter.fit(X).transform(X)
    assert moved.dtype == np.float32
    step = moved[:, 2900:3200].mean(axis=1) - np.median(moved[:, :500], axis=1)
    assert np.corrcoef(step, energy)[0, 1] > 0.99


def test_networks_average_the_views(traces):
    rng = np.random.default_rng(0)
    traces = traces - 1000 + rng.normal(size=traces.shape).astype(np.float32)
    energy = traces.reshape(len(traces), -1).sum(axis=1)
    model = WaveformRegressor(
        augmentation=WaveformAugmenter(**EVERYTHING),
        precision="float32",
        max_epochs=2,
        random_state=0,
    ).fit(traces, energy)
    views = model.augmenter_.views(traces.reshape(*traces.shape[:2], -1))
    seen = [model.set_params(tta=False).predict(v.reshape(traces.shape)) for v in views]
    assert len(seen) == 6
    averaged = model.set_params(tta=True).predict(traces)
    np.testing.assert_allclose(averaged, np.mean(seen, axis=0), rtol=1e-4)


def test_around_other_estimators(traces):
    if traces.ndim == 3:
        pytest.skip("Ridge takes rows")
    place = traces.argmax(axis=1) % 2
    model = AugmentedRegressor(
        Ridge(), augmenter=WaveformAugmenter(shift=2), n_copies=2, random_state=0
    )
    assert model.fit(traces, place).predict(traces).shape == (300,)
    assert model.augmenter_.n_views_ == 3
