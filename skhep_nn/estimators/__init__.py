"""The estimators that users fit."""

from skhep_nn.estimators.augmented import AugmentedClassifier, AugmentedRegressor
from skhep_nn.estimators.calo import CaloCNNClassifier, CaloCNNRegressor
from skhep_nn.estimators.dense import DenseNetClassifier, DenseNetRegressor
from skhep_nn.estimators.stacking import StackedPostRegressor
from skhep_nn.estimators.waveform import WaveformClassifier, WaveformRegressor

__all__ = [
    "AugmentedClassifier",
    "AugmentedRegressor",
    "CaloCNNClassifier",
    "CaloCNNRegressor",
    "DenseNetClassifier",
    "DenseNetRegressor",
    "StackedPostRegressor",
    "WaveformClassifier",
    "WaveformRegressor",
]
