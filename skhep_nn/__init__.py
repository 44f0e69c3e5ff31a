"""Neural networks for particle physics that behave like scikit-learn estimators."""

from skhep_nn._version import __version__
from skhep_nn.augmentation import EventAugmenter, ImageAugmenter, WaveformAugmenter
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
from skhep_nn.ensemble import Ensemble
from skhep_nn.estimators import (
    AugmentedClassifier,
    AugmentedRegressor,
    CaloCNNClassifier,
    CaloCNNRegressor,
    DenseNetClassifier,
    DenseNetRegressor,
    StackedPostRegressor,
    WaveformClassifier,
    WaveformRegressor,
)
from skhep_nn.io import load, save, to_onnx
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
from skhep_nn.preprocessing import (
    CartesianMomenta,
    EventAligner,
    ImageCropper,
    ImageScaler,
    WaveformScaler,
)
from skhep_nn.training import (
    Constant,
    CosineRestarts,
    CyclicLR,
    FastGeometricEnsemble,
    OneCycle,
    ReduceOnPlateau,
    SnapshotEnsemble,
    StochasticWeightAveraging,
)
from skhep_nn.tuning import ArchitectureSearch, HyperEnsembleClassifier, HyperEnsembleRegressor
from skhep_nn.tuning.joint_fit import fit_together
from skhep_nn.tuning.lr_range import lr_range_test

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
