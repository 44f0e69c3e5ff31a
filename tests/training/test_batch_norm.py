"""Batch-norm statistics after few steps."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss

from skhep_nn import CaloCNNClassifier, WaveformClassifier
from skhep_nn.training import net


@pytest.fixture(scope="module")
def blocks():
    """Noise, with a brighter block in the images of one class."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 450)
    X = rng.normal(size=(450, 16, 16)).astype("f4")
    X[:, 4:8, 4:8] += 0.7 * y[:, None, None]
    return X, y


def classifier(**params):
    common = {"random_state": 0, "device": "cpu", "precision": "float32"}
    return CaloCNNClassifier(**common | params)


@pytest.mark.parametrize(("preset", "n_epochs"), [("resnet15", 5), ("compact", 12)])
def test_few_steps_suffice(blocks, preset, n_epochs):
    X, y = blocks
    model = classifier(preset=preset, max_epochs=n_epochs).fit(X[:150], y[:150])
    assert log_loss(y[150:], model.predict_proba(X[150:])) < np.log(2) - 0.03
    assert model.score(X[150:], y[150:]) > 0.75


def test_few_steps_suffice_for_traces():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 450)
    X = rng.normal(size=(450, 128)).astype("f4")
    X[:, 40:60] += y[:, None]
    model = WaveformClassifier(max_epochs=8, random_state=0, device="cpu", precision="float32")
    model.fit(X[:150], y[:150])
    assert log_loss(y[150:], model.predict_proba(X[150:])) < np.log(2)


def test_early_stopping_looks_at_the_statistics_of_the_prediction(blocks):
    X, y = blocks
    model = classifier(max_epochs=6, early_stopping=True, validation_fraction=0.3).fit(X, y)
    held_back = model.net_.folds[0].valid
    found = log_loss(y[held_back], model.predict_proba(X[held_back]))
    assert_allclose(model.history_["valid_loss"].min(), found, rtol=1e-4)
    assert found < np.log(2)


def test_members_have_their_own_statistics(blocks):
    X, y = blocks
    model = classifier(max_epochs=4, n_members=2).fit(X, y)
    best = model.history_.groupby("member")["valid_loss"].min()
    assert_allclose(model.ensemble_.weights, (1 / best) / (1 / best).sum())
    assert best.max() < np.log(2)


@pytest.mark.parametrize(("n_epochs", "ends_alike"), [(3, False), (13, True)])
def test_training_goes_on_as_without(blocks, monkeypatch, n_epochs, ends_alike):
    """The parameters do not change, and after enough steps the statistics are those of training."""
    X, y = blocks
    model = classifier(batch_size=16, max_epochs=n_epochs).fit(X[:128], y[:128])
    monkeypatch.setattr(net, "ENOUGH_STEPS", 0)
    other = classifier(batch_size=16, max_epochs=n_epochs).fit(X[:128], y[:128])
    changed = set()
    for name, state in model.ensemble_.states.items():
        if not np.array_equal(state, other.ensemble_.states[name]):
            changed.add(name.rpartition(".")[2])
    assert changed == (set() if ends_alike else {"running_mean", "running_var"})
    assert_array_equal(model.history_["train_loss"], other.history_["train_loss"])
