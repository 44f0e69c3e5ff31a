"""Export of fitted networks as ONNX, for prediction without Python."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skhep_nn._version import __version__
from skhep_nn.ensemble.prediction import apply_link, joined_views
from skhep_nn.estimators.base import BaseNetworkEstimator, link_of
from skhep_nn.estimators.grids import GridEstimator
from skhep_nn.estimators.targets import target_scaling
from skhep_nn.io.persistence import replace_file, writable
from skhep_nn.kinematics.formulas import cartesian_from_cylindrical
from skhep_nn.kinematics.momenta import CartesianLayout, Turn
from skhep_nn.preprocessing.events import CartesianMomenta, EventAligner
from skhep_nn.utils.optional import needs
from skhep_nn.utils.torch_state import usual_defaults

__all__ = ["to_onnx"]

_N_EXAMPLES = 3  # rows that the networks are traced with; the graph takes any number of rows
_EXACT = 1 << 24  # float32 holds all whole numbers up to here exactly
_WIDEST_TABLE = 1 << 20
_MOST_BYTES = (1 << 31) - 1
# torch's exporter and the settings that `_plain_torch` changes are global to the process.
_ALONE = threading.Lock()


@usual_defaults()
def to_onnx(estimator: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Export a fitted network as one ONNX graph, from physical units to the averaged prediction.

    The graph holds the whole prediction: codes of categories, test-time views, standardisation, every member with
    its weight, the link function, and the units of the targets. ONNX Runtime runs it from C++, for instance in
    the software of an experiment, or from Python.

    Parameters
    ----------
    estimator : network estimator or Pipeline
        Fitted network. In a Pipeline, :class:`~skhep_nn.CartesianMomenta` and :class:`~skhep_nn.EventAligner`
        may come before the network and become parts of the graph.
    path : path, default=None
        File to write. None: no file is written.

    Returns
    -------
    onnx.ModelProto
        Graph with the float32 input ``X``: any number of rows, images or traces, as in `fit`. Its outputs are:

        - for a classifier, ``probabilities`` of shape (n_samples, n_classes), as from `predict_proba`, float32;
        - for a regressor, ``prediction`` of shape (n_samples,) or (n_samples, n_targets), in the units of the
          targets, float64, and ``aux_probabilities`` if it was fitted with an `aux_target`.

        The metadata hold the names of the columns, the classes and the version, as JSON.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    FileNotFoundError
        If the folder does not exist.
    TypeError
        If the estimator, or a step before it, cannot be exported.
    ValueError
        If float32 cannot hold the categories: text, or whole numbers beyond 16,777,216. If the graph takes more
        than 2 GiB.

    Notes
    -----
    The graph computes in float32, whatever `precision` is, and agrees with an estimator in float32 to about 1e-6.
    For samples with infinity, or with NaN that ``CartesianMomenta`` has not filled, `predict` raises an error,
    while the graph returns NaN. Numbers that mark missing values in a file, such as -999, have to be replaced by
    NaN first.

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
    if path is not None:
        path = writable(path)
    before, network = _taken_apart(estimator)
    first = (*before, network)[0]
    for step in (*before, network):
        check_is_fitted(step)
    if hasattr(network, "offset_"):
        msg = (
            f"the input has the offset offset_={network.offset_.tolist()}, beside which float32, the type of the "
            "graph's input, cannot hold the differences: subtract it before fit."
        )
        raise ValueError(msg)
    with _ALONE, _plain_torch():
        model = _exported(_Prediction(before, network).eval(), _row_shape(first))
    for name, value in _metadata(first, network).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value)
    if model.ByteSize() > _MOST_BYTES:
        msg = f"the graph takes {model.ByteSize() / 2**30:.1f} GiB, and an ONNX file holds no more than 2 GiB."
        raise ValueError(msg)
    onnx.checker.check_model(model)
    if path is not None:
        replace_file(path, model.SerializeToString())
    return model


def _exported(module: _Prediction, row_shape: tuple[int, ...]) -> Any:
    """Return the ONNX model of a module, traced with a few rows."""
    program: Any = torch.onnx.export(
        module,
        (torch.ones(_N_EXAMPLES, *row_shape),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n_samples")},),
        input_names=["X"],
        output_names=module.names,
        verbose=False,
    )
    return program.model_proto


def _import_onnx() -> Any:
    with needs("onnx", "onnx"):
        import onnx
    with needs("onnxscript", "onnx"):
        import onnxscript  # noqa: F401 # torch's exporter needs it, but its error message is less clear
    return onnx


def _taken_apart(estimator: Any) -> tuple[list[Any], BaseNetworkEstimator]:
    """Return the transformers and the network after them, which must be of types that can be exported."""
    steps = [estimator]
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    *before, network = steps or [None]
    strangers = [type(step).__name__ for step in before if type(step) not in _BEFORE]
    if strangers:
        msg = (
            f"{', '.join(strangers)} cannot be written as ONNX. Export the last step, "
            "to_onnx(model[-1]), whose input is the output of model[:-1].transform."
        )
        raise TypeError(msg)
    if not isinstance(network, BaseNetworkEstimator):
        msg = (
            f"estimator={type(network).__name__} must be a network of skhep_nn, such as DenseNetClassifier, or a "
            "Pipeline that ends in one. Export best_estimator_ of a search, and each of models_ of a hyper-ensemble."
        )
        raise TypeError(msg)
    return before, network


def _row_shape(first: Any) -> tuple[int, ...]:
    """Return the shape of one sample of the input, as in the `fit` of the first step."""
    return first.input_shape if isinstance(first, GridEstimator) else (first.n_features_in_,)


class _Momenta(nn.Module):
    """Module that computes `CartesianMomenta` on tensors."""

    def __init__(self, transformer: CartesianMomenta) -> None:
        super().__init__()
        self.layout: CartesianLayout = transformer.layout
        self.missing = transformer.missing

    def forward(self, X: Tensor) -> Tensor:
        """Return rows with Cartesian momenta, with NaN filled if `missing` is given."""
        made = self.layout.components(X, cartesian_from_cylindrical)
        columns = [made[entry] if entry[1] else X[:, entry[0]] for entry in self.layout.entries]
        out = torch.stack(columns, dim=1)
        return out if self.missing is None else torch.where(out.isnan(), self.missing, out)


class _Aligned(nn.Module):
    """Module that computes `EventAligner` on tensors."""

    def __init__(self, transformer: EventAligner) -> None:
        super().__init__()
        self.columns, self.objects, kept = transformer.alignment
        self.register_buffer("indices", torch.as_tensor(self.columns.indices()))
        self.register_buffer("kept", torch.as_tensor(kept))

    def forward(self, X: Tensor) -> Tensor:
        """Return rows turned to a common orientation, without the columns that become constant."""
        if not self.objects:
            return X
        turn = Turn.aligning(X, *self.objects)
        turned: Tensor = self.columns.turn_array(X, turn, self.get_buffer("indices"))
        return turned.index_select(1, self.get_buffer("kept"))


_BEFORE: dict[type, Callable[[Any], nn.Module]] = {
    CartesianMomenta: _Momenta,
    EventAligner: _Aligned,
}


class _Codes(nn.Module):
    """Module that replaces categories by their codes, which the embeddings look up."""

    def __init__(self, categories: dict[int, Any]) -> None:
        super().__init__()
        self.columns = list(categories)
        for column, known in categories.items():
            numbers = _numbers_of(column, known)
            self.register_buffer(f"known_{column}", torch.as_tensor(numbers, dtype=torch.float32))
            self.register_buffer(f"table_{column}", _table_of(numbers))

    def forward(self, X: Tensor) -> Tensor:
        """Return rows with codes; the code of a category unseen at fit is -1."""
        out = list(X.unbind(1))
        for column in self.columns:
            known, table = (self.get_buffer(f"{name}_{column}") for name in ("known", "table"))
            values = out[column]
            if len(table):
                place = torch.where(values.isfinite(), values - known.min(), 0.0)
                code = table[place.clamp(0, len(table) - 1).long()]
                is_known = known[code] == values
            else:
                is_it = values.unsqueeze(1) == known
                code = is_it.int().argmax(1)
                is_known = is_it.any(1)
            out[column] = torch.where(is_known, code, -1).to(X.dtype)
        return torch.stack(out, dim=1)


def _numbers_of(column: int, categories: Any) -> NDArray[np.float64]:
    """Return categories as numbers, after a check that float32 holds them exactly."""
    some = list(categories)[:3]
    if any(isinstance(category, str) for category in categories):
        msg = (
            f"The categories of column {column} are {some}: ONNX takes rows of numbers. Turn text into numbers "
            "before the fit, for instance with OrdinalEncoder."
        )
        raise ValueError(msg)
    numbers: NDArray[np.float64] = np.asarray(categories).astype(np.float64)
    held = numbers.astype(np.float32)
    if np.any(np.abs(numbers) > _EXACT) or np.any(held != numbers) or len(set(held)) < len(held):
        msg = f"float32 cannot hold the categories of column {column}, {some}; renumber them from 0 on."
        raise ValueError(msg)
    return numbers


def _table_of(numbers: NDArray[np.float64]) -> Tensor:
    """Return a table from whole numbers, counted from the smallest category, to codes.

    A number between two categories also gets a code: compare it with the category of that code. The table is empty
    if it would be too long, or if a category is not a whole number.
    """
    least, width = numbers.min(), np.ptp(numbers) + 1
    if width > _WIDEST_TABLE or np.any(numbers != np.rint(numbers)):
        return torch.zeros(0, dtype=torch.long)
    table = torch.zeros(int(width), dtype=torch.long)
    table[torch.as_tensor(numbers - least).long()] = torch.arange(len(numbers))
    return table


class _Prediction(nn.Module):
    """Module that computes the whole prediction of a fitted estimator."""

    offset: Tensor
    scale: Tensor
    varies: Tensor

    def __init__(self, before: Sequence[Any], network: Any) -> None:
        super().__init__()
        ensemble = network.ensemble_
        self.before = nn.Sequential(*(_BEFORE[type(step)](step) for step in before))
        categories = getattr(network, "categories_", {})
        self.codes = _Codes(categories) if categories else nn.Identity()
        self.cells = network.sample_shape if isinstance(network, GridEstimator) else None
        self.views = network.augmenter_ if network.tta else None
        self.link = link_of(network)
        # The weight of a diverged member is 0, but 0 times its NaN would be NaN.
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
        scaling = target_scaling(network)
        self.one_target = scaling.one_target
        # In float32, adding a large offset would lose the digits of the prediction. The offset is held in units of
        # the scale, since the optimiser of the graph would take a small offset for zero.
        self.has_constant_target = bool((scaling.scale == 0).any())
        self.register_buffer("varies", torch.as_tensor(scaling.scale != 0).double())
        scale = torch.as_tensor(np.where(scaling.scale != 0, scaling.scale, 1), dtype=torch.float64)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", torch.as_tensor(scaling.mean).double() / scale)

    def forward(self, X: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the predictions for rows in physical units, in the order of `names`."""
        X = self.before(X)
        # Not every layer propagates NaN: a maximum may drop it, and a NaN category counts as unseen.
        unknown = torch.where(X.isfinite().flatten(1).all(1, keepdim=True), 0.0, torch.nan)
        X = self.codes(X)
        if self.cells is not None:
            X = X.reshape(-1, *self.cells)
        # All views in one batch: each member is in the graph once.
        rows = X if self.views is None else joined_views(X, self.views)
        n_views = 1 if self.views is None else self.views.n_views_
        total = torch.zeros(())
        for member, weight in zip(self.members, self.weights, strict=True):
            total = total + weight * apply_link(member(rows), self.link)
        mean = total.reshape(n_views, -1, total.shape[-1]).mean(0) + unknown
        if self.classifies:
            return _shares(mean)
        n_targets = len(self.scale)
        varying = mean[:, :n_targets].double()
        if self.has_constant_target:
            varying = varying * self.varies
        targets = (varying + self.offset) * self.scale
        out = targets[:, 0] if self.one_target else targets
        return (out, _shares(mean[:, n_targets:])) if len(self.names) > 1 else out


def _shares(probability: Tensor) -> Tensor:
    """Return a column for every class; a single column holds the probability of the second of two classes."""
    if probability.shape[1] == 1:
        return torch.cat([1 - probability, probability], dim=1)
    return probability


def _metadata(first: Any, network: Any) -> dict[str, Any]:
    """Return the version, the estimator, the names of the columns, and the classes."""
    metadata: dict[str, Any] = {"skhep_nn": __version__, "estimator": type(network).__name__}
    names = getattr(first, "feature_names_in_", getattr(first, "columns", None))
    if names is not None:
        metadata["feature_names_in"] = list(names)
    for name in ("classes_", "aux_classes_"):
        if hasattr(network, name):
            metadata[name.removesuffix("_")] = getattr(network, name).tolist()
    return metadata


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Use torch's default settings for a while, and suppress the messages of its exporter."""
    logger, dtype = logging.getLogger("torch.onnx"), torch.get_default_dtype()
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch.set_default_dtype(torch.float32)
    try:
        with (
            warnings.catch_warnings(),
            torch.device("cpu"),
            torch.autocast("cpu", enabled=False),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        logger.setLevel(level)
