"""Reliance of networks with blocks of columns on their blocks and on the features of bottlenecks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skhep_nn.inspection.fitted_networks import check_member, input_of_last_step, last_step
from skhep_nn.networks.split_dense import SplitDenseNet
from skhep_nn.utils.torch_state import tensor_of, usual_defaults

__all__ = ["block_reliance", "bottleneck_outputs", "bottleneck_reliance", "split_estimator"]

Array = npt.NDArray[Any]

# Rows evaluated at a time: their hidden features take some ten megabytes.
_CHUNK = 8192


@usual_defaults()
def block_reliance(estimator: Any, X: Any, *, member: int | None = None) -> pd.DataFrame:
    """Compute how much each output relies on each block of columns, event by event.

    The output layer of a network with `blocks` reads the features of all of them, so that an output is a
    sum of a bias and one term for each block. The reliance on a block is the absolute value of its term: the
    product of the features of the block with their weights (arXiv:2002.01427, appendix A.0.2).

    Parameters
    ----------
    estimator : estimator
        Fitted `DenseNetClassifier` or `DenseNetRegressor` with `blocks`, or a Pipeline that ends in one,
        whose earlier steps then transform `X`.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Events. A few thousand will do: the table has a row for each event, member, block and output.
    member : int, default=None
        Member of the ensemble; negative ones count from the last. None: all members.

    Returns
    -------
    DataFrame
        Columns `member`, `block` (categorical, in the order of `blocks`), `output` (its number),
        `row` (of `X`) and `reliance`, in the units of the output before the link: logits for
        classes, standard deviations of the target for a regressor.

    Raises
    ------
    TypeError
        If the estimator has no networks with blocks.
    ValueError
        If there is no such member.

    See Also
    --------
    bottleneck_reliance : Reliance of bottlenecks on features.
    skhep_nn.plotting.RelianceDisplay : The plot.

    Notes
    -----
    A large term that hardly differs between events moves the output as a bias would: look at the spread
    too. Augmented views are not used.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.inspection import block_reliance
    >>> X = np.random.default_rng(0).normal(size=(500, 4))
    >>> blocks = {"telling": [0, 1], "noise": [2, 3]}
    >>> model = DenseNetClassifier(blocks=blocks, depth=2, random_state=0).fit(X, X[:, 0] > X[:, 1])
    >>> table = block_reliance(model, X)
    >>> table.columns.tolist()
    ['member', 'block', 'output', 'row', 'reliance']
    >>> mean = table.groupby("block", observed=True)["reliance"].mean()
    >>> bool(mean["telling"] > mean["noise"])
    True
    """
    fitted = split_estimator(estimator)
    parts, members = [], []
    for states in _hidden_states(estimator, X, member):
        slices = states.network.output.weight.split([h.shape[0] for h in states.blocks], dim=1)
        terms = [w @ h for w, h in zip(slices, states.blocks, strict=True)]
        parts.append(torch.stack(terms).abs().numpy())
        members.append(states.member)
    values = np.stack(parts)
    axes: dict[str, Sequence[Any]] = {
        "member": members,
        "block": list(fitted.blocks),
        "output": range(values.shape[2]),
        "row": range(values.shape[3]),
    }
    return _tidy(values, axes, "reliance")


@usual_defaults()
def bottleneck_reliance(estimator: Any, X: Any, *, member: int | None = None) -> pd.DataFrame:
    """Compute how much each neuron of a bottleneck relies on each feature, event by event.

    A bottleneck compresses the columns of its block for the other blocks. Its reliance on a feature is
    the absolute value of the feature, as the network sees it (standardised), times its weight
    (arXiv:2002.01427, appendix A.0.2). The reliance on a categorical feature is the absolute value of the
    summed products with all elements of its embedding.

    Parameters
    ----------
    estimator : estimator
        Fitted `DenseNetClassifier` or `DenseNetRegressor` with `blocks` and `bottleneck`, or a Pipeline
        that ends in one, whose earlier steps then transform `X`.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Events. A few thousand will do: the table has a row for each event, member, neuron and feature.
    member : int, default=None
        Member of the ensemble; negative ones count from the last. None: all members.

    Returns
    -------
    DataFrame
        Columns `member`, `block` (categorical: the one whose columns are compressed), `neuron`,
        `feature` (categorical: names of the columns, or their numbers), `row` (of `X`) and `reliance`,
        in the units of the neuron before its activation.

    Raises
    ------
    TypeError
        If the estimator has no networks with blocks.
    ValueError
        If they have no bottlenecks, or there is no such member.

    See Also
    --------
    block_reliance : Reliance of outputs on blocks.
    bottleneck_outputs : Outputs of the bottlenecks.
    skhep_nn.plotting.RelianceDisplay : The plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.inspection import bottleneck_reliance
    >>> X = np.random.default_rng(0).normal(size=(500, 4))
    >>> blocks = {"first": [0, 1], "second": [2, 3]}
    >>> model = DenseNetClassifier(blocks=blocks, bottleneck=1, depth=2, max_epochs=5, random_state=0)
    >>> table = bottleneck_reliance(model.fit(X, X[:, 0] * X[:, 2] > 0), X)
    >>> table.groupby(["block", "feature"], observed=True)["reliance"].count().tolist()
    [500, 500, 500, 500]
    """
    fitted = split_estimator(estimator, bottleneck=True)
    names = _feature_names(fitted)
    tables = []
    for states in _hidden_states(estimator, X, member):
        rows_of = states.network.input_stage.rows_of_columns()
        columns = states.network.block_columns.items()
        for i, ((block, own), x) in enumerate(zip(columns, states.inputs, strict=True)):
            weight = states.network.bottlenecks[i].get_parameter("weight")
            sizes = [len(rows_of[column]) for column in own]
            pieces = zip(weight.split(sizes, dim=1), x.split(sizes), strict=True)
            products = torch.stack([w @ values for w, values in pieces], dim=1)
            axes: dict[str, Sequence[Any]] = {
                "member": [states.member],
                "block": [block],
                "neuron": range(len(weight)),
                "feature": [names[column] for column in own],
                "row": range(products.shape[2]),
            }
            tables.append(_tidy(products.abs().numpy()[None, None], axes, "reliance"))
    return _joined(tables, {"block": list(fitted.blocks), "feature": names})


@usual_defaults()
def bottleneck_outputs(
    estimator: Any, X: Any, y: npt.ArrayLike | None = None, *, member: int | None = None
) -> pd.DataFrame:
    """Compute the outputs of the bottlenecks of a network, event by event.

    Parameters
    ----------
    estimator : estimator
        Fitted `DenseNetClassifier` or `DenseNetRegressor` with `blocks` and `bottleneck`, or a Pipeline
        that ends in one, whose earlier steps then transform `X`.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Events.
    y : array-like of shape (n_samples,), default=None
        Classes or targets, added to the table as a column.
    member : int, default=None
        Member of the ensemble; negative ones count from the last. None: all members. Outputs of
        different members are not comparable.

    Returns
    -------
    DataFrame
        Columns `member`, `block` (categorical: the one whose columns are compressed), `neuron`, `row`
        (of `X`), `value` (after the activation) and, if given, `target`.

    Raises
    ------
    TypeError
        If the estimator has no networks with blocks.
    ValueError
        If they have no bottlenecks, there is no such member, or lengths differ.

    See Also
    --------
    skhep_nn.plotting.BottleneckOutputDisplay : The plot.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.inspection import bottleneck_outputs
    >>> X = np.random.default_rng(0).normal(size=(500, 4))
    >>> y = X[:, 0] * X[:, 2] > 0
    >>> blocks = {"first": [0, 1], "second": [2, 3]}
    >>> model = DenseNetClassifier(blocks=blocks, bottleneck=1, depth=2, max_epochs=5, random_state=0)
    >>> table = bottleneck_outputs(model.fit(X, y), X, y)
    >>> table.groupby(["block", "target"], observed=True)["value"].count().sum()
    np.int64(1000)
    """
    fitted = split_estimator(estimator, bottleneck=True)
    parts, members = [], []
    for states in _hidden_states(estimator, X, member):
        parts.append(torch.stack(states.bottlenecks).numpy())
        members.append(states.member)
    values = np.stack(parts)
    axes: dict[str, Sequence[Any]] = {
        "member": members,
        "block": list(fitted.blocks),
        "neuron": range(values.shape[2]),
        "row": range(values.shape[3]),
    }
    table = _tidy(values, axes, "value")
    if y is not None:
        targets = column_or_1d(y)
        check_consistent_length(range(values.shape[3]), targets)
        table["target"] = targets[table["row"]]
    return table


def split_estimator(estimator: Any, *, bottleneck: bool = False) -> Any:
    """Return the fitted estimator of networks with blocks, the last step of a Pipeline."""
    check_is_fitted(estimator)
    last = last_step(estimator)
    ensemble = getattr(last, "ensemble_", None)
    if ensemble is None or not issubclass(ensemble.network, SplitDenseNet):
        raise TypeError(
            "expected a fitted DenseNetClassifier or DenseNetRegressor with blocks=..., got "
            f"{type(last).__name__}" + (" without blocks" if hasattr(last, "blocks") else "")
        )
    if bottleneck and not last.bottleneck:
        raise ValueError("the networks have no bottlenecks: fit them with bottleneck=1 or more")
    return last


class _HiddenStates(NamedTuple):
    """Hidden states of one member: for each block a tensor of shape (features, events)."""

    member: int
    network: SplitDenseNet
    inputs: list[Tensor]
    bottlenecks: list[Tensor]
    blocks: list[Tensor]


def _hidden_states(estimator: Any, X: Any, member: int | None) -> Iterator[_HiddenStates]:
    """Yield the hidden states of the members, one after the other."""
    fitted = split_estimator(estimator)
    n_members = len(fitted.ensemble_)
    if member is not None:
        check_member(member, n_members)
    rows = tensor_of(fitted._encode_X(input_of_last_step(estimator, X), reset=False))
    for k in range(n_members) if member is None else [member % n_members]:
        network = fitted.ensemble_.member(k)
        with torch.inference_mode():
            chunks = [network.hidden_states(chunk) for chunk in rows.split(_CHUNK)]
            # A list of chunks, each with its lists of blocks, becomes lists of blocks.
            whole = [
                [torch.cat(parts, dim=-1) for parts in zip(*block, strict=True)]
                for block in zip(*chunks, strict=True)
            ]
            yield _HiddenStates(k, network, *whole)


def _feature_names(fitted: Any) -> list[Any]:
    """Return the names of the columns, or their numbers where they have none."""
    names = getattr(fitted, "feature_names_in_", None)
    return list(range(fitted.n_features_in_)) if names is None else [str(name) for name in names]


def _tidy(values: Array, axes: dict[str, Sequence[Any]], name: str) -> pd.DataFrame:
    """Return a table with a row for each value and a column for each axis."""
    columns: dict[str, Any] = {}
    for i, (axis, labels) in enumerate(axes.items()):
        shape = [-1 if j == i else 1 for j in range(values.ndim)]
        codes: Array = np.broadcast_to(np.arange(len(labels)).reshape(shape), values.shape).ravel()
        if axis in {"block", "feature"}:
            columns[axis] = pd.Categorical.from_codes(codes, categories=pd.Index(labels))
        else:
            columns[axis] = np.asarray(labels)[codes]
    return pd.DataFrame(columns | {name: values.ravel()})


def _joined(tables: Sequence[pd.DataFrame], categories: dict[str, list[Any]]) -> pd.DataFrame:
    """Concatenate tables with the same categories."""
    for table in tables:
        for column, labels in categories.items():
            table[column] = table[column].cat.set_categories(labels)
    return pd.concat(tables, ignore_index=True)
