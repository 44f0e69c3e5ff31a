"""Neural networks for particle physics that behave like scikit-learn estimators."""

from skhep_nn._version import __version__
from skhep_nn.augmentation import EventAugmenter, ImageAugmenter
from skhep_nn.augmented import AugmentedClassifier, AugmentedRegressor
from skhep_nn.calo import CaloCNNClassifier, CaloCNNRegressor
from skhep_nn.datasets import (
    fetch_higgsml,
    load_calo_hdf5,
    load_higgsml,
    make_calo_showers,
    make_higgs_events,
    make_ion_tracks,
)
from skhep_nn.dense import DenseNetClassifier, DenseNetRegressor
from skhep_nn.ensemble import Ensemble
from skhep_nn.kinematics import CartesianMomenta, EventAligner
from skhep_nn.metrics import ams_curve, ams_score, ams_scorer, best_cut, make_ams_scorer
from skhep_nn.preprocessing import ImageCropper, ImageScaler
from skhep_nn.schedules import Constant, CosineRestarts, OneCycle, ReduceOnPlateau
from skhep_nn.stacking import StackedPostRegressor

__all__ = [
    "AugmentedClassifier",
    "AugmentedRegressor",
    "CaloCNNClassifier",
    "CaloCNNRegressor",
    "CartesianMomenta",
    "Constant",
    "CosineRestarts",
    "DenseNetClassifier",
    "DenseNetRegressor",
    "Ensemble",
    "EventAligner",
    "EventAugmenter",
    "ImageAugmenter",
    "ImageCropper",
    "ImageScaler",
    "OneCycle",
    "ReduceOnPlateau",
    "StackedPostRegressor",
    "__version__",
    "ams_curve",
    "ams_score",
    "ams_scorer",
    "best_cut",
    "fetch_higgsml",
    "load_calo_hdf5",
    "load_higgsml",
    "make_ams_scorer",
    "make_calo_showers",
    "make_higgs_events",
    "make_ion_tracks",
]
