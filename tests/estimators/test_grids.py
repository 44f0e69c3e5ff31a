"""Estimators of images and traces: types, units and messages for bad input."""

import numpy as np
import pytest

from skhep_nn import (
    CaloCNNClassifier,
    CaloCNNRegressor,
    WaveformClassifier,
    WaveformRegressor,
    make_ion_tracks,
)
from skhep_nn.datasets import make_waveforms

IMAGES = {"max_epochs": 1, "random_state": 0}
IMAGES["network_params"] = {
    "channels": (4,),
    "kernels": 3,
    "pooling": 2,
    "dropout": 0.0,
    "dense": (8,),
}
TRACES = {"channels": (4,), "kernels": 3, "max_epochs": 1, "random_state": 0}
TRACES["network_params"] = {"strides": 2, "dense": (8,), "n_bins": 4}


@pytest.fixture(scope="module")
def images():
    tracks = make_ion_tracks(60, image_shape=(12, 12), random_state=0)
    return tracks.images.astype(float), tracks.target


@pytest.fixture(scope="module")
def traces():
    pulses = make_waveforms(60, n_points=200, random_state=0)
    return pulses.traces.astype(float), pulses.target


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("n_rows", [60, 7])
def test_half_precision_traces(traces, precision, n_rows):
    """At any precision of the networks, and with numbers of rows that are padded for the products."""
    X, y = traces
    X = X.astype(np.float16)
    model = WaveformRegressor(precision=precision, **TRACES).fit(X, y)
    found = model.predict(X[:n_rows])
    np.testing.assert_allclose(found, model.predict(X.astype(np.float32)[:n_rows]), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-35, 1e-12, 1e25])
@pytest.mark.parametrize("offset", [0, 3])
def test_units_do_not_matter(images, traces, scale, offset):
    """Very small units, such as coulombs and joules, work as well."""
    for kind, params, (X, y) in (
        (CaloCNNRegressor, IMAGES, images),
        (WaveformRegressor, TRACES, traces),
    ):
        few = {"max_epochs": 3, "precision": "float32"}
        shifted = X + offset * X.std()
        expected, found = (
            kind(**params | few).fit(values, y).predict(values)
            for values in (shifted.astype(np.float32), (shifted * scale).astype(np.float32))
        )
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3 * np.ptp(y))


def test_a_constant_channel_stays_one(images):
    X, y = images
    both = np.stack([X, np.full_like(X, 0.1)], axis=-1)
    model = CaloCNNRegressor(**IMAGES).fit(both, y)
    (scale,) = (v for name, v in model.ensemble_.states.items() if name.endswith("scale"))
    assert scale[0, 1] == 1


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_values_beyond_single_precision(images, traces, value):
    for kind, params, (X, y), called in (
        (CaloCNNRegressor, IMAGES, images, "images"),
        (WaveformRegressor, TRACES, traces, "traces"),
    ):
        model = kind(**params).fit(X, y)
        bad = X.copy()
        bad[3].flat[5] = value
        message = rf"values beyond float32 in 1 of 60 {called} \(row 3\)"
        with pytest.raises(ValueError, match=message):
            model.predict(bad)
        with pytest.raises(ValueError, match=message):
            kind(**params).fit(bad, y)


@pytest.mark.parametrize("kind", [CaloCNNClassifier, WaveformClassifier])
def test_unknown_parameters_of_the_network(kind, images, traces):
    X, y = images if kind is CaloCNNClassifier else traces
    with pytest.raises(ValueError, match=r"names \['channel'\], but \w+CNN has \[.*'channels'"):
        kind(network_params={"channel": (8,)}).fit(X, y > np.median(y))
