"""Export of fitted networks, for prediction without Python."""

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
from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.estimators.grids import GridEstimator
from skhep_nn.io.persistence import writable
from skhep_nn.kinematics.formulas import cartesian_from_cylindrical
from skhep_nn.kinematics.momenta import CartesianLayout, Turn
from skhep_nn.preprocessing.events import CartesianMomenta, EventAligner
from skhep_nn.utils.optional import needs

__all__ = ["to_onnx"]

_N_EXAMPLES = 3  # rows that the networks are traced with; any number comes in later
_EXACT = 1 << 24  # whole numbers that float32 tells apart
_WIDEST_TABLE = 1 << 20
_MOST_BYTES = (1 << 31) - 1
# torch's exporter is one for the process, and so is what `_plain_torch` changes for a while.
_ALONE = threading.Lock()


def to_onnx(estimator: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Write a fitted network as ONNX: from physical units to the averaged prediction, in one graph.

    The graph holds all of the prediction: categories to codes, test-time views, standardisation, every member
    with its weight, the link, and the units of the targets. ONNX Runtime runs it from C++, in the
    frameworks of experiments for instance, or from Python.

    Parameters
    ----------
    estimator : network estimator or Pipeline
        Fitted. A Pipeline may have :class:`~skhep_nn.CartesianMomenta` and :class:`~skhep_nn.EventAligner`
        before the network, which become parts of the graph.
    path : path, default=None
        File to write. None writes none.

    Returns
    -------
    onnx.ModelProto
        Its input ``X`` is float32, of the columns, images or traces of `fit`, with any number of rows. Its outputs:

        - of a classifier ``probabilities`` of shape (n_samples, n_classes), as `predict_proba`, float32;
        - of a regressor ``prediction`` of shape (n_samples,) or (n_samples, n_targets), in the units of the
          targets, float64, and ``aux_probabilities`` where it was fitted with an `aux_target`.

        The metadata tell names of the columns, classes and version, as JSON.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    FileNotFoundError
        If there is no such folder.
    TypeError
        If the estimator, or a step before it, cannot be written so.
    ValueError
        If categories are none that float32 can hold: text, or whole numbers beyond 16,777,216. If the graph
        takes more than 2 GiB.

    Notes
    -----
    The graph computes in float32, whatever `precision` says, and agrees with an estimator that does so,
    too, to about 1e-6. Where `predict` raises an error, it gives NaN: for samples that hold NaN, which
    ``CartesianMomenta`` has not filled, or infinity. The numbers that stand for missing ones in a file, such as
    -999, have to be made NaN before.

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
        onnx.save(model, path)
    return model


def _exported(module: _Prediction, row_shape: tuple[int, ...]) -> Any:
    """Trace a module with a few rows."""
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
        import onnxscript  # noqa: F401 # torch's exporter needs it, and says so less clearly
    return onnx


def _taken_apart(estimator: Any) -> tuple[list[Any], BaseNetworkEstimator]:
    """Return the transformers and the network behind them, which must be of kinds that can be written."""
    steps = [estimator]
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    *before, network = steps or [None]
    strangers = [type(step).__name__ for step in before if type(step) not in _BEFORE]
    if strangers:
        msg = (
            f"{', '.join(strangers)} cannot be written as ONNX. Export the step behind: "
            "to_onnx(model[-1]), whose input is what model[:-1].transform gives."
        )
        raise TypeError(msg)
    if not isinstance(network, BaseNetworkEstimator):
        msg = (
            f"estimator={type(network).__name__} must be a network of skhep_nn, such as DenseNetClassifier, or "
            "one Pipeline that ends in such. Of a search take best_estimator_, of a hyper-ensemble each of models_."
        )
        raise TypeError(msg)
    return before, network


def _row_shape(first: Any) -> tuple[int, ...]:
    """Shape of one sample that comes in, as the `fit` of the first step had it."""
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
        made = self.layout.components(X, cartesian_from_cylindrical)
        columns = [made[entry] if entry[1] else X[:, entry[0]] for entry in self.layout.entries]
        out = torch.stack(columns, dim=1)
        return out if self.missing is None else torch.where(out.isnan(), self.missing, out)


class _Aligned(nn.Module):
    """`EventAligner` for tensors."""

    def __init__(self, transformer: EventAligner) -> None:
        super().__init__()
        self.columns, self.objects = transformer._columns, transformer._objects
        self.register_buffer("indices", torch.as_tensor(self.columns.indices()))
        self.register_buffer("kept", torch.as_tensor(transformer._kept))

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to rows of one orientation, without the column that is now constant."""
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
    """Categories to the codes that the network looks up."""

    def __init__(self, categories: dict[int, Any]) -> None:
        super().__init__()
        self.columns = list(categories)
        for column, known in categories.items():
            numbers = _numbers_of(column, known)
            self.register_buffer(f"known_{column}", torch.as_tensor(numbers, dtype=torch.float32))
            self.register_buffer(f"table_{column}", _table_of(numbers))

    def forward(self, X: Tensor) -> Tensor:
        """Map rows to rows with codes; -1 is a category unseen at fit."""
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
    """Return categories as numbers, which float32 has to hold as they are."""
    some = list(categories)[:3]
    if any(isinstance(category, str) for category in categories):
        msg = (
            f"The categories of column {column} are {some}: ONNX takes rows of numbers. Turn text into numbers "
            "before the fit, with OrdinalEncoder for instance."
        )
        raise ValueError(msg)
    numbers: NDArray[np.float64] = np.asarray(categories).astype(np.float64)
    held = numbers.astype(np.float32)
    if np.any(np.abs(numbers) > _EXACT) or np.any(held != numbers) or len(set(held)) < len(held):
        msg = f"float32 cannot hold the categories of column {column}, {some}; number them anew."
        raise ValueError(msg)
    return numbers


def _table_of(numbers: NDArray[np.float64]) -> Tensor:
    """Return the code of every whole number from the least on; none if they are too far apart for a table.

    Only what it leads to tells whether a number is a category at all.
    """
    least, width = numbers.min(), np.ptp(numbers) + 1
    if width > _WIDEST_TABLE or np.any(numbers != np.rint(numbers)):
        return torch.zeros(0, dtype=torch.long)
    table = torch.zeros(int(width), dtype=torch.long)
    table[torch.as_tensor(numbers - least).long()] = torch.arange(len(numbers))
    return table


class _Prediction(nn.Module):
    """All that a fitted estimator does with rows."""

    offset: Tensor
    scale: Tensor

    def __init__(self, before: Sequence[Any], network: Any) -> None:
        super().__init__()
        ensemble = network.ensemble_
        self.before = nn.Sequential(*(_BEFORE[type(step)](step) for step in before))
        categories = getattr(network, "categories_", {})
        self.codes = _Codes(categories) if categories else nn.Identity()
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
        # In single precision a large offset would leave nothing of the rest; and in units of its own a small
        # one would be taken for zero by what simplifies the graph.
        scale = torch.as_tensor(network._target_scale, dtype=torch.float64)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", torch.as_tensor(network._target_mean).double() / scale)

    def forward(self, X: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map rows as they come to the predictions that `names` names."""
        X = self.before(X)
        # Not every layer passes NaN on: a maximum may not, and as a category it would be one not seen.
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
        targets = (mean[:, :n_targets].double() + self.offset) * self.scale
        out = targets[:, 0] if self.one_target else targets
        return (out, _shares(mean[:, n_targets:])) if len(self.names) > 1 else out


def _shares(probability: Tensor) -> Tensor:
    """Return a column for every class; two classes come as that of the second."""
    if probability.shape[1] == 1:
        return torch.cat([1 - probability, probability], dim=1)
    return probability


def _metadata(first: Any, network: Any) -> dict[str, Any]:
    """Tell what one has to know to use the graph."""
    told: dict[str, Any] = {"skhep_nn": __version__, "estimator": type(network).__name__}
    names = getattr(first, "feature_names_in_", getattr(first, "columns", None))
    if names is not None:
        told["feature_names_in"] = list(names)
    for name in ("classes_", "aux_classes_"):
        if hasattr(network, name):
            told[name.removesuffix("_")] = getattr(network, name).tolist()
    return told


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Let torch be as if nobody had set anything, and keep its exporter from telling of what nothing here needs."""
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
