"""Images and traces far from zero, in units too small, or spoilt by single rows and placeholders."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skhep_nn import CaloCNNClassifier, WaveformClassifier, load, save, to_onnx
from skhep_nn.inputs.images import LazyImages
from skhep_nn.inputs.offsets import channel_offsets, differences

PARAMS = {"max_epochs": 20, "random_state": 0, "device": "cpu"}
OFFSETS = [2**31, -(2**40), 2**60]


def pulses(n=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    X = np.round(rng.normal(0, 3, (n, 64)))
    X[:, 20:40] += 20 * y[:, None]
    return X, y


KINDS = [(WaveformClassifier, (-1, 64, 1)), (CaloCNNClassifier, (-1, 8, 8, 1))]


class Source:
    """Images that are read from a file, here from memory."""

    def __init__(self, values):
        self.values = values
        self.shape, self.dtype = values.shape, values.dtype
        self.chunk_bounds = np.arange(0, len(values) + 50, 50)

    def __len__(self):
        return len(self.values)

    def read(self, start, stop):
        return self.values[start:stop]


def auc(model, X, y):
    return roc_auc_score(y[200:], model.fit(X[:200], y[:200]).predict_proba(X[200:])[:, 1])


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_counts_far_from_zero_give_the_model_of_counts_around_zero(kind, shape, offset):
    X, y = pulses()
    far = (X.astype(np.int64) + offset).reshape(shape)
    model = kind(**PARAMS)
    assert auc(model, far, y) > 0.95
    near = X.reshape(shape) + (offset - model.offset_)
    if offset == 2**31:
        expected = kind(**PARAMS).fit(near[:200], y[:200]).predict_proba(near)
        np.testing.assert_allclose(model.predict_proba(far), expected, atol=1e-5)
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict_proba(far), model.predict_proba(far))
    # A later fit to data near zero forgets it.
    assert not hasattr(model.set_params(max_epochs=1).fit(X.reshape(shape), y), "offset_")


@pytest.mark.parametrize(("kind", "shape"), KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.uint32, np.uint64, ">i8", ">f8"])
def test_all_types_agree(kind, shape, dtype, tmp_path):
    X, y = pulses()
    far = (X + 2**31).reshape(shape)
    model = kind(**PARAMS | {"max_epochs": 1}).fit(far.astype(np.int64), y)
    expected = model.predict_proba(far.astype(np.int64))
    np.testing.assert_allclose(model.predict_proba(far.astype(dtype)), expected, atol=1e-6)
    again = kind(**PARAMS | {"max_epochs": 1}).fit(far.astype(dtype), y)
    np.testing.assert_allclose(again.predict_proba(far), expected, atol=1e-4)
    save(model, tmp_path / "model.skops")
    stored = load(tmp_path / "model.skops")
    np.testing.assert_array_equal(stored.predict_proba(far.astype(np.int64)), expected)


def test_one_channel_of_two_and_very_small_differences():
    X, y = pulses()
    both = np.stack([X, 0.1 + 1e-8 * X], axis=-1)
    model = WaveformClassifier(**PARAMS).fit(both, y)
    assert model.offset_[0] == 0
    assert model.offset_[1] == pytest.approx(0.1)
    assert auc(WaveformClassifier(**PARAMS), both[..., 1:], y) > 0.95


def test_images_read_from_a_file():
    X, y = pulses()
    far = X.astype(np.int64).reshape(-1, 8, 8) + 2**31
    lazy = CaloCNNClassifier(**PARAMS).fit(Source(far), y)
    eager = CaloCNNClassifier(**PARAMS).fit(far, y)
    p = eager.predict_proba(far)[:, 1]
    assert roc_auc_score(y, lazy.predict_proba(Source(far))[:, 1]) > 0.95
    # Each reads what the other has learnt from.
    np.testing.assert_allclose(eager.predict_proba(Source(far))[:, 1], p, atol=1e-5)
    moved = LazyImages(Source(far)).without(eager.offset_)
    assert moved.dtype == np.float32
    np.testing.assert_array_equal(
        moved[5:7][..., 0], differences(far[5:7, ..., None], eager.offset_)[..., 0]
    )


def test_single_precision_cannot_ask_a_model_of_larger_numbers():
    X, y = pulses()
    model = WaveformClassifier(**PARAMS | {"max_epochs": 1}).fit(X + 2**31, y)
    with pytest.warns(UserWarning, match="float32, which cannot hold traces around 2.147e[+]09"):
        model.predict((X + 2**31).astype(np.float32))


def test_a_graph_would_lose_the_differences():
    pytest.importorskip("onnx")
    X, y = pulses()
    model = WaveformClassifier(**PARAMS | {"max_epochs": 1}).fit(X + 2**31, y)
    with pytest.raises(ValueError, match=r"offset_.*subtract it before fit"):
        to_onnx(model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "shape"), KINDS)
def test_what_stays_lost_is_said(kind, shape, dtype):
    X, y = pulses()
    model = kind(**PARAMS | {"max_epochs": 1})
    with pytest.warns(UserWarning, match=r"channels \[0\] of X differ by less than float32"):
        model.fit((X * 1e-43).astype(dtype).reshape(shape), y)
    if dtype == np.float32:
        blurred = (2.0**31 * (1 + 1e-6 * (X > 5))).astype(dtype).reshape(shape)
        with pytest.warns(UserWarning, match=r"channels \[0\] of X differ by less than float32"):
            model.fit(blurred, y)


@pytest.mark.parametrize(("kind", "shape"), KINDS)
class TestSpoilt:
    def test_a_row_is_named(self, kind, shape):
        X, y = pulses()
        X[17, 3] = 1e30
        with pytest.warns(UserWarning, match=r"channel 0 reaches 1e\+30 \(row 17\)"):
            kind(**PARAMS | {"max_epochs": 1}).fit(X.reshape(shape), y)

    @pytest.mark.parametrize("value", [-999, 1e20])
    @pytest.mark.parametrize("rows", [slice(None), slice(None, None, 10)])
    def test_a_placeholder_is_named(self, kind, shape, value, rows):
        X, y = pulses()
        X[rows, 5:20] = value
        with pytest.warns(
            UserWarning, match=rf"channel 0 is {value:.7g} in .* %".replace("+", r"\+")
        ):
            kind(**PARAMS | {"max_epochs": 1}).fit(X.reshape(shape), y)

    def test_ordinary_data_say_nothing(self, kind, shape):
        rng = np.random.default_rng(0)
        X, y = pulses()
        showers = (
            rng.exponential(size=X.shape)
            * (rng.random(X.shape) < 0.05)
            * np.exp(rng.normal(size=(300, 1)))
        )
        rare = X + 3000 * rng.exponential(size=X.shape) * (rng.random((300, 1)) < 0.02)
        saturated = np.minimum(np.round(rare), 4095)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for values in (
                X,
                100 * X,
                showers,
                rare,
                saturated,
                np.zeros_like(X),
                X + 1000,
                np.full_like(X, 0.1),
            ):
                kind(**PARAMS | {"max_epochs": 1}).fit(values.reshape(shape), y)


def test_offsets_of_large_unsigned_integers_are_exact():
    values = np.array([[[2**63 + 5], [2**63 + 2]]], dtype=np.uint64)
    offset = channel_offsets(values, [slice(0, 1)])
    assert np.diff(differences(values, offset).ravel()).tolist() == [-3]
    assert channel_offsets(values.astype(np.float32), [slice(0, 1)]) is None
