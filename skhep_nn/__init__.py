"""Neural networks for particle physics that behave like scikit-learn estimators."""

from skhep_nn import _old_modules as _old_modules
from skhep_nn._lr_range import lr_range_test
from skhep_nn._together import fit_together
from skhep_nn._version import __version__
from skhep_nn.architecture_search import ArchitectureSearch
from skhep_nn.augmentation import EventAugmenter, ImageAugmenter, WaveformAugmenter
from skhep_nn.augmented import AugmentedClassifier, AugmentedRegressor
from skhep_nn.averaging import (
    FastGeometricEnsemble,
    SnapshotEnsemble,
    StochasticWeightAveraging,
)
from skhep_nn.calo import CaloCNNClassifier, CaloCNNRegressor
from skhep_nn.datasets import (
    fetch_higgsml,
    load_calo_hdf5,
    load_higgsml,
    load_waveforms,
    make_calo_showers,
    make_higgs_events,
    make_ion_tracks,
    make_waveforms,
)
from skhep_nn.dense import DenseNetClassifier, DenseNetRegressor
from skhep_nn.ensemble import Ensemble
from skhep_nn.export import to_onnx
from skhep_nn.hyper_ensemble import HyperEnsembleClassifier, HyperEnsembleRegressor
from skhep_nn.kinematics import CartesianMomenta, EventAligner
from skhep_nn.metrics import (
    ams_curve,
    ams_score,
    ams_scorer,
    best_cut,
    make_ams_scorer,
    make_within_tolerance_scorer,
    within_tolerance_score,
    within_tolerance_scorer,
)
from skhep_nn.persistence import load, save
from skhep_nn.preprocessing import ImageCropper, ImageScaler, WaveformScaler
from skhep_nn.schedules import Constant, CosineRestarts, CyclicLR, OneCycle, ReduceOnPlateau
from skhep_nn.stacking import StackedPostRegressor
from skhep_nn.waveform import WaveformClassifier, WaveformRegressor

__all__ = [
    "ArchitectureSearch",
    "AugmentedClassifier",
    "AugmentedRegressor",
    "CaloCNNClassifier",
    "CaloCNNRegressor",
    "CartesianMomenta",
    "Constant",
    "CosineRestarts",
    "CyclicLR",
    "DenseNetClassifier",
    "DenseNetRegressor",
    "Ensemble",
    "EventAligner",
    "EventAugmenter",
    "FastGeometricEnsemble",
    "HyperEnsembleClassifier",
    "HyperEnsembleRegressor",
    "ImageAugmenter",
    "ImageCropper",
    "ImageScaler",
    "OneCycle",
    "ReduceOnPlateau",
    "SnapshotEnsemble",
    "StackedPostRegressor",
    "StochasticWeightAveraging",
    "WaveformAugmenter",
    "WaveformClassifier",
    "WaveformRegressor",
    "WaveformScaler",
    "__version__",
    "ams_curve",
    "ams_score",
    "ams_scorer",
    "best_cut",
    "fetch_higgsml",
    "fit_together",
    "load",
    "load_calo_hdf5",
    "load_higgsml",
    "load_waveforms",
    "lr_range_test",
    "make_ams_scorer",
    "make_calo_showers",
    "make_higgs_events",
    "make_ion_tracks",
    "make_waveforms",
    "make_within_tolerance_scorer",
    "save",
    "to_onnx",
    "within_tolerance_score",
    "within_tolerance_scorer",
]
