"""Small events and quick fits that several test files share."""

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback
from torch.nn import functional as F

from skhep_nn import DenseNetClassifier


def small_events():
    """Return features, classes and weights of 300 events."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 4)).astype(np.float32)
    y = (X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=300) > 0.4).astype(int)
    return X, y, rng.uniform(0.2, 3, 300)


def quick(cls=DenseNetClassifier, **params):
    """Return an estimator that fits in a fraction of a second."""
    defaults = {"max_epochs": 2, "batch_size": 64, "random_state": 0, "device": "cpu"}
    return cls(**defaults | params)


def weighted_loss(model, member, X, y, weight):
    """Mean loss of one member of a binary classifier, in evaluation mode."""
    logits = model.ensemble_.member(member)(torch.from_numpy(X))[:, 0]
    target = torch.as_tensor(y, dtype=torch.float32)
    losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return np.average(losses.numpy(), weights=weight)


class Spy(BaseEstimator):
    """Augmenter that changes nothing and keeps what its generator draws."""

    def fit(self, X, y=None):
        self.drawn_, self.shapes_, self.viewed_ = [], [], []
        self.n_views_ = 2
        return self

    def transform_tensor(self, X, generator):
        self.shapes_.append(tuple(X.shape))
        self.drawn_.extend(torch.rand(len(X), generator=generator, device=X.device).tolist())
        return X

    def view_tensor(self, X, index):
        self.viewed_.append(index)
        return X if index == 0 else -X


class Script(Callback):
    """Makes every member predict a given constant in each pass: its validation loss is known."""

    def __init__(self, values):
        self.values = values

    def on_epoch_begin(self, net, **kwargs):
        epoch = len(net.history) - 1
        output = net.module_.output
        with torch.no_grad():
            output.weight.zero_()
            for k, values in enumerate(self.values):
                output.bias[k] = values[min(epoch, len(values) - 1)]
