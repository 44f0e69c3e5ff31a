"""Traces whose channels come first are named; ordinary shapes are not suspected."""

import warnings

import numpy as np
import pytest

from skhep_nn import (
    WaveformAugmenter,
    WaveformClassifier,
    WaveformRegressor,
    WaveformScaler,
)

TRANSFORMERS = [WaveformAugmenter(), WaveformScaler()]


def traces_of(*shape):
    return np.random.default_rng(0).random((6, *shape))


@pytest.mark.parametrize("shape", [(4, 500), (2, 32), (32, 200), (1, 10)])
@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=repr)
def test_traces_with_channels_first(transformer, shape):
    words = rf"{shape[0]} points with {shape[1]} channels.*np.moveaxis\(X, 1, -1\)"
    with pytest.warns(UserWarning, match=words):
        transformer.fit(traces_of(*shape))


@pytest.mark.parametrize("shape", [(500, 4), (25, 64), (60,), (1, 3), (64, 64)])
@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=repr)
def test_traces_with_channels_last(transformer, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transformer.fit(traces_of(*shape))


@pytest.mark.parametrize("estimator", [WaveformClassifier, WaveformRegressor])
def test_estimators_say_it_at_fit(estimator):
    model = estimator(max_epochs=1, device="cpu")
    with pytest.warns(UserWarning, match="Waveform.* as if channels came first"):
        model.fit(traces_of(4, 500), np.arange(6) % 2)
