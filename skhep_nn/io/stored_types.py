"""Types that stored files may name: the types that `save` writes, and the names of earlier versions.

A stored file is a tree of parts. Each part names a type and a node class of skops, its loader, which decides how the
part is turned into an object. This module refuses every combination that `save` does not write, before skops looks up
any name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = [
    "CHECKED_TREES",
    "FORMER",
    "FORMER_TUPLES",
    "SAFE",
    "STORED",
    "check",
    "crashing",
    "rename",
]

_PACKAGE = "skhep_nn"

STORED: dict[str, str] = {
    **{
        f"skhep_nn.{name}": "ObjectNode"
        for name in (
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
        )
    },
    "skhep_nn.networks.CategoricalColumn": "TupleNode",
    "skhep_nn.networks.FeatureBlock": "TupleNode",
    "skhep_nn.networks.CaloCNN": "TypeNode",
    "skhep_nn.networks.DenseNet": "TypeNode",
    "skhep_nn.networks.SplitDenseNet": "TypeNode",
    "skhep_nn.networks.WaveformCNN": "TypeNode",
    # Functions called by the scorers of `skhep_nn.metrics`, which searches of scikit-learn hold.
    "skhep_nn.ams_score": "FunctionNode",
    "skhep_nn.metrics.ams_of_predictions": "FunctionNode",
    "skhep_nn.auc_score": "FunctionNode",
    "skhep_nn.within_tolerance_score": "FunctionNode",
}
"""Public name of each type of this package in stored files, and the only loader of skops that may create it.

None of these loaders calls anything with values from the file: an object gets its attributes, a tuple gets its values,
and a type or a function is only looked up.
"""

FORMER: dict[str, str] = {
    "skhep_nn._ams.ams_score": "skhep_nn.ams_score",
    "skhep_nn._architecture_search.ArchitectureSearch": "skhep_nn.ArchitectureSearch",
    "skhep_nn._calo_cnn.CaloCNN": "skhep_nn.networks.CaloCNN",
    "skhep_nn._dense_layers.CategoricalColumn": "skhep_nn.networks.CategoricalColumn",
    "skhep_nn._image_augmentation.ImageAugmenter": "skhep_nn.ImageAugmenter",
    "skhep_nn._image_preprocessing.ImageCropper": "skhep_nn.ImageCropper",
    "skhep_nn._image_preprocessing.ImageScaler": "skhep_nn.ImageScaler",
    "skhep_nn._split_dense_net.FeatureBlock": "skhep_nn.networks.FeatureBlock",
    "skhep_nn._split_dense_net.SplitDenseNet": "skhep_nn.networks.SplitDenseNet",
    "skhep_nn._tolerance.within_tolerance_score": "skhep_nn.within_tolerance_score",
    "skhep_nn._waveform_augmentation.WaveformAugmenter": "skhep_nn.WaveformAugmenter",
    "skhep_nn._waveform_cnn.WaveformCNN": "skhep_nn.networks.WaveformCNN",
    "skhep_nn._waveform_preprocessing.WaveformScaler": "skhep_nn.WaveformScaler",
    "skhep_nn.augmentation.EventAugmenter": "skhep_nn.EventAugmenter",
    "skhep_nn.augmented.AugmentedClassifier": "skhep_nn.AugmentedClassifier",
    "skhep_nn.augmented.AugmentedRegressor": "skhep_nn.AugmentedRegressor",
    "skhep_nn.averaging.FastGeometricEnsemble": "skhep_nn.FastGeometricEnsemble",
    "skhep_nn.averaging.SnapshotEnsemble": "skhep_nn.SnapshotEnsemble",
    "skhep_nn.averaging.StochasticWeightAveraging": "skhep_nn.StochasticWeightAveraging",
    "skhep_nn.calo.CaloCNNClassifier": "skhep_nn.CaloCNNClassifier",
    "skhep_nn.calo.CaloCNNRegressor": "skhep_nn.CaloCNNRegressor",
    "skhep_nn.dense.DenseNetClassifier": "skhep_nn.DenseNetClassifier",
    "skhep_nn.dense.DenseNetRegressor": "skhep_nn.DenseNetRegressor",
    "skhep_nn.ensemble.Ensemble": "skhep_nn.Ensemble",
    "skhep_nn.hyper_ensemble.HyperEnsembleClassifier": "skhep_nn.HyperEnsembleClassifier",
    "skhep_nn.hyper_ensemble.HyperEnsembleRegressor": "skhep_nn.HyperEnsembleRegressor",
    "skhep_nn.kinematics.CartesianMomenta": "skhep_nn.CartesianMomenta",
    "skhep_nn.kinematics.EventAligner": "skhep_nn.EventAligner",
    "skhep_nn.metrics._ams_of_predictions": "skhep_nn.metrics.ams_of_predictions",
    "skhep_nn.schedules.Constant": "skhep_nn.Constant",
    "skhep_nn.schedules.CosineRestarts": "skhep_nn.CosineRestarts",
    "skhep_nn.schedules.CyclicLR": "skhep_nn.CyclicLR",
    "skhep_nn.schedules.OneCycle": "skhep_nn.OneCycle",
    "skhep_nn.schedules.ReduceOnPlateau": "skhep_nn.ReduceOnPlateau",
    "skhep_nn.stacking.StackedPostRegressor": "skhep_nn.StackedPostRegressor",
    "skhep_nn.waveform.WaveformClassifier": "skhep_nn.WaveformClassifier",
    "skhep_nn.waveform.WaveformRegressor": "skhep_nn.WaveformRegressor",
}
"""Names in files of earlier versions, and the present names that replace them."""

FORMER_TUPLES = frozenset(
    {
        "skhep_nn._image_augmentation._Placement",
        "skhep_nn._momenta.CartesianLayout",
        "skhep_nn._momenta.Momentum",
        "skhep_nn._momenta.MomentumColumns",
        "skhep_nn._momenta.Turn",
        "skhep_nn._stored_frames.StoredFrame",
        "skhep_nn._waveform_augmentation._View",
    }
)
"""Private named tuples in files of earlier versions, which are read as plain tuples."""

CHECKED_TREES = frozenset(
    {
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.tree._tree.Tree",
    }
)
"""Trees of scikit-learn, which `loaded_checks` accepts in estimators whose arrays it checks."""

_SELECTION = "sklearn.model_selection"
_SCORES = "sklearn.metrics"

SAFE: dict[str, str] = {
    **dict.fromkeys(
        (
            *(
                f"{_SELECTION}._split.{name}"
                for name in (
                    "GroupKFold",
                    "GroupShuffleSplit",
                    "KFold",
                    "LeaveOneGroupOut",
                    "LeaveOneOut",
                    "LeavePGroupsOut",
                    "LeavePOut",
                    "PredefinedSplit",
                    "RepeatedKFold",
                    "RepeatedStratifiedKFold",
                    "ShuffleSplit",
                    "StratifiedGroupKFold",
                    "StratifiedKFold",
                    "StratifiedShuffleSplit",
                    "TimeSeriesSplit",
                )
            ),
            *(
                f"{_SELECTION}._search_successive_halving.{name}"
                for name in ("HalvingGridSearchCV", "HalvingRandomSearchCV")
            ),
            *(
                f"{_SCORES}._scorer.{name}"
                for name in ("_CurveScorer", "_MultimetricScorer", "_PassthroughScorer", "_Scorer")
            ),
            "sklearn._loss.loss.HalfTweedieLossIdentity",
            "sklearn.calibration._CalibratedClassifier",
            "sklearn.calibration._SigmoidCalibration",
            "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
            "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
            "sklearn.utils._metadata_requests.MetadataRequest",
            "sklearn.utils._metadata_requests.MethodMetadataRequest",
        ),
        "ObjectNode",
    ),
    "sklearn.utils._bunch.Bunch": "DictNode",
    **dict.fromkeys(
        (
            *(
                f"{_SCORES}._classification.{name}"
                for name in (
                    "accuracy_score",
                    "balanced_accuracy_score",
                    "brier_score_loss",
                    "cohen_kappa_score",
                    "f1_score",
                    "fbeta_score",
                    "jaccard_score",
                    "log_loss",
                    "matthews_corrcoef",
                    "precision_score",
                    "recall_score",
                )
            ),
            *(
                f"{_SCORES}._ranking.{name}"
                for name in ("average_precision_score", "roc_auc_score", "top_k_accuracy_score")
            ),
            *(
                f"{_SCORES}._regression.{name}"
                for name in (
                    "explained_variance_score",
                    "max_error",
                    "mean_absolute_error",
                    "mean_absolute_percentage_error",
                    "mean_gamma_deviance",
                    "mean_pinball_loss",
                    "mean_poisson_deviance",
                    "mean_squared_error",
                    "mean_squared_log_error",
                    "mean_tweedie_deviance",
                    "median_absolute_error",
                    "r2_score",
                    "root_mean_squared_error",
                    "root_mean_squared_log_error",
                )
            ),
            *(
                f"sklearn.feature_selection._univariate_selection.{name}"
                for name in ("chi2", "f_classif", "f_regression")
            ),
        ),
        "FunctionNode",
    ),
}
"""Types and functions of scikit-learn that skops does not know, each with the only loader that may make it.

They are written in Python and hold no index that compiled code follows unchecked.
"""

_CRASHING = frozenset(
    {
        *(
            f"sklearn.svm._classes.{name}"
            for name in ("NuSVC", "NuSVR", "OneClassSVM", "SVC", "SVR")
        ),
        "sklearn.ensemble._iforest.IsolationForest",
    }
)
_CRASHING_MODULES = ("sklearn.cluster.", "sklearn.neighbors.")
"""Types that skops trusts although their compiled code reads arrays without checks of the shapes."""

# skops trusts these names, but loads whatever matrix the file holds. scipy multiplies by it without checks of the
# indices, which can crash Python. Real files name the class of the matrix, which has to be trusted.
_SPARSE_BASES = ("sparray", "spmatrix")

# Largest pool of numpy's SeedSequence in a file; numpy's default is 4.
_MOST_POOL = 64

# All loaders of skops that `save` needs. CachedNode is left out: it refers to another part of the file under a name
# that nothing checks.
_LOADERS = frozenset(
    f"{kind}Node"
    for kind in (
        "Bytearray",
        "Bytes",
        "ConstructorFromReduce",
        "DType",
        "DefaultDict",
        "Dict",
        "Function",
        "Json",
        "List",
        "Loss",
        "MaskedArray",
        "Method",
        "NdArray",
        "Object",
        "OperatorFunc",
        "Partial",
        "QuantileForest",
        "RandomGenerator",
        "RandomState",
        "Set",
        "Slice",
        "SparseMatrix",
        "Tree",
        "Tuple",
        "Type",
    )
)


def rename(description: Any) -> None:
    """Replace names of earlier versions in a description by the present names, in place."""
    for node in _nodes(description):
        former = _name(node)
        name = FORMER.get(former, former)
        if former in FORMER_TUPLES and node["__loader__"] == "TupleNode":
            name = "builtins.tuple"
        node["__module__"], _, node["__class__"] = name.rpartition(".")


def check(description: Any) -> None:
    """Refuse a description with parts that `save` does not write, before any name in it is looked up.

    Raises
    ------
    ValueError
        If `save` never uses the loader of a part, never stores its type of this package, or stores that type with
        another loader. The message begins with the part that was found.
    """
    numbers: dict[str, Any] = {}
    for node in _nodes(description):
        loader, name = node["__loader__"], _name(node)
        _check_entry(node, numbers)
        if loader == "JsonNode":
            _drop_number(node)
        if not isinstance(loader, str) or loader not in _LOADERS:
            raise ValueError(f"a part of the kind {loader!r}, which skhep_nn.save does not write")
        if _is_ours(name):
            _check_ours(node, name, loader)
        if name in SAFE and loader not in (SAFE[name], "TypeNode"):
            raise ValueError(f"{name} as {loader}, but skhep_nn.save stores it as {SAFE[name]}")
        if loader == "RandomGeneratorNode":
            _check_seed(node)
        if loader == "SparseMatrixNode" and node["__class__"] in _SPARSE_BASES:
            raise ValueError(f"a sparse matrix of the abstract class {name}")
        if loader == "DictNode":
            _check_called(node.get("key_types"))
        if loader == "DefaultDictNode" and isinstance(node.get("content"), dict):
            _check_called(node["content"].get("default_factory"))


def crashing(description: Any) -> set[str]:
    """Return the types in a description with arrays that a forged file could use to crash Python."""
    names = {_name(node) for node in _nodes(description) if node["__loader__"] == "ObjectNode"}
    return {name for name in names if name in _CRASHING or name.startswith(_CRASHING_MODULES)}


def _nodes(description: Any) -> Iterator[dict[str, Any]]:
    """Yield all parts of a description that skops could create an object from, at any depth."""
    waiting = [description]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "__loader__" in part:
                yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _name(node: dict[str, Any]) -> str:
    module, name = node.get("__module__"), node.get("__class__")
    # With dots in the class name, one full name could stand for several pairs of module and class.
    if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"a part with the name {module!r}, {name!r}, which is no name of a type")
    return f"{module}.{name}"


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] == _PACKAGE


def _check_ours(node: dict[str, Any], name: str, loader: str) -> None:
    if name not in STORED:
        raise ValueError(f"{name}, which skhep_nn.save does not store")
    if loader != STORED[name]:
        raise ValueError(f"{name} as {loader}, but skhep_nn.save stores it as {STORED[name]}")
    if loader == "ObjectNode":
        state = node.get("content")
        if not isinstance(state, dict) or state.get("__loader__") != "DictNode":
            raise ValueError(f"{name} with a state that is no dictionary of attributes")
        _drop_number(state)


def _check_entry(node: dict[str, Any], numbers: dict[str, Any]) -> None:
    """Refuse an entry of the archive that would be read more than once: a small file could so fill the memory.

    skops reads parts of the same number once. `numbers` holds the number of the part that reads each entry.
    """
    if not isinstance(entry := node.get("file"), str):
        return
    number = node.get("__id__")
    if entry in numbers and (number is None or numbers[entry] != number):
        raise ValueError(f"several parts with the content of {entry}")
    numbers[entry] = number


def _check_seed(node: dict[str, Any]) -> None:
    """Refuse a seed that numpy would mix for hours: the time grows with the square of the size of its pool."""
    try:
        size = json.loads(node["content"]["seed_seq"]["content"]["pool_size"]["content"])
    except (KeyError, TypeError, ValueError):
        size = None
    if not isinstance(size, int) or size > _MOST_POOL:
        raise ValueError(f"a seed with a pool of the size {size}")
    for part in node["content"].values():
        _drop_number(part)


def _check_called(node: Any) -> None:
    """Refuse types of this package that skops would call to create the keys or default values of a dictionary.

    A file could otherwise create a network with arguments from the file.
    """
    for part in _nodes(node):
        _drop_number(part)
        if _is_ours(name := _name(part)):
            raise ValueError(f"{name} as a type of keys, or of default values of a dictionary")


def _drop_number(node: dict[str, Any]) -> None:
    """Drop the number of a part, since skops replaces a part by an earlier one of the same number."""
    node.pop("__id__", None)
