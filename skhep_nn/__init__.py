"""Neural networks for particle physics that behave like scikit-learn estimators."""

from skhep_nn.augmentation import EventAugmenter
from skhep_nn.dense import DenseNetClassifier, DenseNetRegressor
from skhep_nn.ensemble import Ensemble
from skhep_nn.kinematics import CartesianMomenta
from skhep_nn.schedules import Constant, OneCycle

__all__ = [
    "CartesianMomenta",
    "Constant",
    "DenseNetClassifier",
    "DenseNetRegressor",
    "Ensemble",
    "EventAugmenter",
    "OneCycle",
]
