"""Export of fitted networks, for prediction without Python."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skhep_nn._base import BaseNetworkEstimator
from skhep_nn._grid_estimator import GridEstimator
from skhep_nn._momenta import CartesianLayout
from skhep_nn._prediction import apply_link, seen
from skhep_nn._version import __version__
from skhep_nn.kinematics import CartesianMomenta, cartesian_from_cylindrical

__all__ = ["to_onnx"]

_N_EXAMPLES = 3  # rows that the networks are traced with; any number comes in later
_EXACT = 1 << 24  # whole numbers that float32 tells apart


def to_onnx(estimator: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Write a fitted network as ONNX: from physical units to the averaged prediction, in one graph.

    The graph holds all of the prediction: categories to codes, test-time views, standardisation, every member
    with its weight, the link, and the units of the targets. ONNX Runtime runs it from C++, in the
    frameworks of experiments for instance, or from Python.

    Parameters
    ----------
    estimator : network estimator or Pipeline
        Fitted. A Pipeline may have :class:`~skhep_nn.CartesianMomenta` before the network, which
        becomes a part of the graph.
    path : path, default=None
        File to write. None writes none.

    Returns
    -------
    onnx.ModelProto
        Its input ``X`` is float32, of the columns, images or traces of `fit`, with any number of rows. Its outputs:

        - of a classifier ``probabilities`` of shape (n_samples, n_classes), as `predict_proba`;
        - of a regressor ``prediction`` of shape (n_samples,) or (n_samples, n_targets), in the units of the
          targets, and ``aux_probabilities`` where it was fitted with an `aux_target`.

        The metadata tell names of the columns, classes and version, as JSON.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    TypeError
        If the estimator, or a step before it, cannot be written so.
    ValueError
        If categories are none that float32 can hold: text, or whole numbers beyond 16,777,216.

    Notes
    -----
    The graph computes in float32, whatever `precision` says, and agrees with an estimator that does so,
    too, to about 1e-6. It checks nothing: NaN in a column comes out as NaN, unless ``CartesianMomenta``
    fills it. The numbers that stand for missing ones in a file, such as -999, have to be made NaN before.

    Examples
    --------
    >>> from skhep_nn import DenseNetClassifier, make_higgs_events, to_onnx
    >>> events = make_higgs_events(300, random_state=0)
    >>> X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    >>> model = DenseNetClassifier(n_members=2, max_epochs=2, random_state=0).fit(X, events.target)
    >>> graph = to_onnx(model)
    >>> [output.name for output in graph.graph.output]
    ['probabilities']
    """
    onnx = _import_onnx()
    before, network = _taken_apart(estimator)
    check_is_fitted(network, "ensemble_")
    module = _Prediction(before, network).eval()
    example = torch.ones(_N_EXAMPLES, *_row_shape(before, network))
    with _quiet(), torch.no_grad():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("n_samples")},),
            input_names=["X"],
            output_names=module.names,
            verbose=False,
        )
    model = program.model_proto
    for name, value in _metadata(before, network).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)
    onnx.checker.check_model(model)
    if path is not None:
        onnx.save(model, os.fspath(path))
    return model


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401 # torch's exporter needs it, and says so less clearly
    except ImportError as error:
        raise ImportError(
            "onnx and onnxscript are needed for this: pip install 'skhep_nn[onnx]'"
        ) from error
    return onnx


def _taken_apart(estimator: Any) -> tuple[list[CartesianMomenta], BaseNetworkEstimator]:
    """Return the transformers and the network behind them, which must be of kinds that can be written."""
    steps = [estimator]
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    *before, network = steps
    strangers = [type(step).__name__ for step in before if not isinstance(step, CartesianMomenta)]
    if strangers:
        msg = (
            f"{', '.join(strangers)} cannot be written as ONNX. Export the step behind: "
            "to_onnx(model[-1]), whose input is what model[:-1].transform gives."
        )
        raise TypeError(msg)
    if not isinstance(network, BaseNetworkEstimator):
        msg = (
            f"estimator={type(network).__name__} must be a network of skhep_nn, such as "
            "DenseNetClassifier, or a Pipeline that ends in one."
        )
        raise TypeError(msg)
    return before, network


def _row_shape(before: Sequence[Any], network: Any) -> tuple[int, ...]:
    """Shape of one sample that comes in, as `fit` had it."""
    first = [*before, network][0]
    if isinstance(first, GridEstimator) and first._n_axes > 2:
        shape: tuple[int, ...] = getattr(first, "image_shape_", None) or first.trace_shape_
        return shape
    return (first.n_features_in_,)


class _Momenta(nn.Module):
    """`CartesianMomenta` for tensors."""

    def __init__(self, transformer: CartesianMomenta) -> None:
        super().__init__()
        self.layout: CartesianLayout = transformer._layout
        self.missing = transformer.missing

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to rows with Cartesian momenta, without NaN."""
        made: dict[tuple[int, str], Tensor] = {}
        for k, momentum in enumerate(self.layout.momenta):
            pt, phi = X[:, momentum.x], X[:, momentum.y]
            eta = torch.zeros_like(pt) if momentum.z is None else X[:, momentum.z]
            components = cartesian_from_cylindrical(pt, eta, phi)
            made |= {(k, name): c for name, c in zip(("px", "py", "pz"), components, strict=True)}
        columns = [made[entry] if entry[1] else X[:, entry[0]] for entry in self.layout.entries]
        out = torch.stack(columns, dim=1)
        return out if self.missing is None else torch.where(out.isnan(), self.missing, out)


class _Codes(nn.Module):
    """Categories to the codes that the network looks up."""

    def __init__(self, categories: dict[int, Any]) -> None:
        super().__init__()
        self.columns = list(categories)
        for column, known in categories.items():
            self.register_buffer(f"categories_{column}", _numbers_of(column, known))

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to rows with codes; -1 is a category unseen at fit."""
        out = list(X.unbind(1))
        for column in self.columns:
            known = self.get_buffer(f"categories_{column}")
            is_it = (out[column].unsqueeze(1) == known).to(X.dtype)
            numbers = torch.arange(1, len(known) + 1, dtype=X.dtype)
            out[column] = is_it @ numbers - 1
        return torch.stack(out, dim=1)


def _numbers_of(column: int, categories: Any) -> Tensor:
    """Return categories as float32, which has to hold them as they are."""
    try:
        numbers = np.asarray(categories.astype(np.float64))
    except (TypeError, ValueError) as error:
        msg = (
            f"The categories of column {column} are {list(categories)[:3]}: ONNX takes rows of numbers. Turn "
            "text into numbers before the fit, with OrdinalEncoder for instance."
        )
        raise ValueError(msg) from error
    if np.any(np.abs(numbers) > _EXACT) or np.any(numbers != numbers.astype(np.float32)):
        msg = f"float32 cannot hold the categories of column {column}, {list(categories)[:3]}; number them anew."
        raise ValueError(msg)
    return torch.as_tensor(numbers, dtype=torch.float32)


class _Prediction(nn.Module):
    """All that a fitted estimator does with rows."""

    mean: Tensor
    scale: Tensor

    def __init__(self, before: Sequence[CartesianMomenta], network: Any) -> None:
        super().__init__()
        ensemble = network.ensemble_
        self.steps = nn.Sequential(*map(_Momenta, before))
        if categories := getattr(network, "categories_", {}):
            self.steps.append(_Codes(categories))
        self.cells = tuple(network._size) if isinstance(network, GridEstimator) else None
        self.views = network.augmenter_ if network.tta else None
        self.link = network._link
        # A member without weight has diverged, and nothing times its NaN would be NaN.
        used = np.flatnonzero(ensemble.weights).tolist()
        self.members = nn.ModuleList(ensemble.member(k) for k in used)
        self.weights = [float(ensemble.weights[k]) for k in used]
        self.classifies = is_classifier(network)
        if self.classifies:
            self.names = ["probabilities"]
            return
        self.names = ["prediction"]
        if hasattr(network, "aux_classes_"):
            self.names.append("aux_probabilities")
        self.one_target = network._one_target
        for name in ("mean", "scale"):
            value = torch.as_tensor(getattr(network, f"_target_{name}"), dtype=torch.float32)
            self.register_buffer(name, value)

    def forward(self, X: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map rows as they come to the predictions that `names` names."""
        X = self.steps(X)
        if self.cells is not None:
            X = X.reshape(-1, *self.cells)
        # All views in one batch: each member is in the graph once.
        views = list(seen(X, self.views))
        rows = torch.cat(views) if len(views) > 1 else X
        total = torch.zeros(())
        for member, weight in zip(self.members, self.weights, strict=True):
            total = total + weight * apply_link(member(rows), self.link)
        mean = total.reshape(len(views), -1, total.shape[-1]).mean(0)
        if self.classifies:
            return _shares(mean)
        n_targets = len(self.mean)
        targets = mean[:, :n_targets] * self.scale + self.mean
        out = targets[:, 0] if self.one_target else targets
        return (out, _shares(mean[:, n_targets:])) if len(self.names) > 1 else out


def _shares(probability: Tensor) -> Tensor:
    """Return a column for every class; two classes come as that of the second."""
    if probability.shape[1] == 1:
        return torch.cat([1 - probability, probability], dim=1)
    return probability


def _metadata(before: Sequence[Any], network: Any) -> dict[str, Any]:
    """Tell what one has to know to use the graph."""
    first = [*before, network][0]
    told: dict[str, Any] = {"skhep_nn": __version__, "estimator": type(network).__name__}
    for name, owner in (
        ("feature_names_in_", first),
        ("classes_", network),
        ("aux_classes_", network),
    ):
        if hasattr(owner, name):
            told[name.removesuffix("_")] = getattr(owner, name).tolist()
    return told


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from telling of packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
