"""The types that stored files may name: what `save` writes, and the names of earlier versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["STORED", "check", "rename"]

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
    # What the scorers of `skhep_nn.metrics` call, for searches of scikit-learn that hold a scorer.
    "skhep_nn.ams_score": "FunctionNode",
    "skhep_nn.metrics.ams_of_predictions": "FunctionNode",
    "skhep_nn.within_tolerance_score": "FunctionNode",
}
"""Public name of each type of this package that files hold, and the one loader of skops that may make it.

An object gets its attributes and nothing is called; a tuple gets its values; a type or a function is only
referred to.
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
"""Names in files of earlier versions, and the stored names that take their place."""

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

# Loaders of skops for all that `save` may write. Not among them is skops' CachedNode, which stands for a
# part elsewhere in the file under whatever name it likes.
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
    """Replace the names of earlier versions in a description by those of today, in place."""
    for node in _nodes(description):
        former = _name(node)
        name = FORMER.get(former, former)
        if former in FORMER_TUPLES and node["__loader__"] == "TupleNode":
            name = "builtins.tuple"
        node["__module__"], _, node["__class__"] = name.rpartition(".")


def check(description: Any) -> None:
    """Refuse a description that skops may not see, before anything that it names is looked up.

    Raises
    ------
    ValueError
        If a part is of a kind that `save` does not write, or of a type of this package that is not
        stored, or not in this way. The message begins with what was found.
    """
    for node in _nodes(description):
        loader, name = node["__loader__"], _name(node)
        if not isinstance(loader, str) or loader not in _LOADERS:
            raise ValueError(f"a part of the kind {loader!r}, which skhep_nn.save does not write")
        if _is_ours(name):
            _check_ours(node, name, loader)
        if loader == "DictNode":
            _check_called(node.get("key_types"))
        if loader == "DefaultDictNode" and isinstance(node.get("content"), dict):
            _check_called(node["content"].get("default_factory"))


def _nodes(description: Any) -> Iterator[dict[str, Any]]:
    """Go through all parts that skops could take for the description of an object, wherever they are."""
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
    # A dot in the name of the class would shift the border between module and class.
    if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"a part that is named {module!r}, {name!r}, which is no name of a type")
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


def _check_called(node: Any) -> None:
    """Check types that are called as dictionaries are made: no network is, whose arguments a file would give.

    Their numbers are dropped: by one that repeats, skops would take another part of the file for this one.
    """
    for part in _nodes(node):
        part.pop("__id__", None)
        if _is_ours(name := _name(part)):
            raise ValueError(f"{name} as a type of keys, or of what a dictionary makes by default")
