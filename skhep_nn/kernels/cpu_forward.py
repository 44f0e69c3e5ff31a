"""Forward pass of stacked `DenseNet` members into preallocated memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.dense_chain import ACTIVATIONS, Buffers, Layout, chain_forward
from skhep_nn.networks.member_layers import FEW_CATEGORIES

__all__ = ["DenseForward", "evaluator", "supports"]


def _runs(columns: Sequence[int]) -> list[slice]:
    """Group increasing column numbers into contiguous slices."""
    runs: list[slice] = []
    for column in columns:
        if runs and runs[-1].stop == column:
            runs[-1] = slice(runs[-1].start, column + 1)
        else:
            runs.append(slice(column, column + 1))
    return runs


class _Embedding:
    """Embedding of one categorical column, computed as a product with one-hot codes."""

    def __init__(self, column: int, name: str, weight: Tensor, start: int) -> None:
        self.column, self.name = column, name
        self.rows = slice(start, start + weight.shape[-1])
        self._weight_t = weight.mT
        self._categories = torch.arange(weight.shape[-2], dtype=weight.dtype).unsqueeze(-1)
        self._is_category = torch.empty(0)

    def forward(self, X: Tensor, into: Tensor) -> None:
        """Write the embedding vectors of the codes in X."""
        codes = X[..., self.column].unsqueeze(-2)
        self._is_category = (codes == self._categories).to(into.dtype)
        torch.matmul(self._weight_t, self._is_category, out=into[:, self.rows])

    def backward(self, grad: Tensor, grad_weight: Tensor) -> None:
        """Write the gradient of the embedding, given the gradient of the features."""
        torch.bmm(self._is_category, grad[:, self.rows].mT, out=grad_weight)


class DenseForward:
    """Forward pass of all members at once, for a fixed number of rows.

    Parameters
    ----------
    network : DenseNet
        One member or a stack, on a CPU. Defines how layers are connected.
    parameters : mapping of str to Tensor of shape (members, ...)
        Parameters and buffers, under the names of its ``state_dict``.
    width : int
        Number of rows.
    keep : bool, default=False
        Keep the inputs of the activations for a backward pass.
    """

    def __init__(
        self, network: Any, parameters: Mapping[str, Tensor], width: int, *, keep: bool = False
    ) -> None:
        stage = network.input_stage
        self.parameters = parameters
        layers = range(len(network.hidden))
        self.weights = [parameters[f"hidden.{i}.weight"] for i in layers]
        self.biases = [parameters[f"hidden.{i}.bias"].unsqueeze(-1) for i in layers]
        n_neurons = [w.shape[-2] for w in self.weights]
        self.layout = Layout.of(stage.width, n_neurons, dense=network.dense)
        self.activation = ACTIVATIONS[network.activation]
        self.features = self.empty(self.layout.reads[-1].stop, width)
        self.last = self.empty(n_neurons[-1], width)
        if keep:
            self.before = [self.empty(n, width) for n in n_neurons]
        else:
            one = self.empty(max(n_neurons), width).flatten()
            shapes = [(len(self.last), n, width) for n in n_neurons]
            self.before = [one[: s[0] * s[1] * s[2]].view(s) for s in shapes]
        self.buffers = Buffers.of(self.features, self.last, self.layout)
        self._mean = parameters["input_stage.mean"].unsqueeze(-1)
        self._scale = parameters["input_stage.scale"].unsqueeze(-1)
        self._copies: list[tuple[slice, slice]] = []
        start = 0
        for run in _runs(stage.continuous.tolist()):
            self._copies.append((run, slice(start, start + run.stop - run.start)))
            start = self._copies[-1][1].stop
        self.embedded = slice(start, stage.width)
        self.embeddings: list[_Embedding] = []
        for i, column in enumerate(stage.columns):
            name = f"input_stage.embeddings.{i}.weight"
            self.embeddings.append(_Embedding(column, name, parameters[name], start))
            start = self.embeddings[-1].rows.stop

    @staticmethod
    def serves(network: Any) -> bool:
        """Whether this class implements the activation and the embeddings of a network."""
        embeddings: nn.ModuleList = network.input_stage.embeddings
        return network.activation in ACTIVATIONS and all(
            e.get_parameter("weight").shape[-2] <= FEW_CATEGORIES for e in embeddings
        )

    def empty(self, n_rows: int, width: int) -> Tensor:
        """Allocate memory for features of all members."""
        return self.weights[0].new_empty(len(self.weights[0]), n_rows, width)

    def __call__(self, X: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the outputs (members, width, n_outputs) of raw rows.

        Parameters
        ----------
        X : Tensor of shape (width, n_features) or (members, width, n_features)
            In physical units; categorical columns hold codes.
        kept : sequence of Tensor, optional
            Dropout masks, by which the features of each layer are multiplied.
        """
        columns = X.mT
        for run, rows in self._copies:
            into = self.features[:, rows]
            torch.sub(columns[..., run, :], self._mean[:, rows], out=into)
            into.div_(self._scale[:, rows])
        for embedding in self.embeddings:
            embedding.forward(X, self.features)
        chain_forward(self.activation, self.buffers, self.weights, self.biases, self.before, kept)
        weight, bias = self.parameters["output.weight"], self.parameters["output.bias"]
        return torch.baddbmm(bias.unsqueeze(-1), weight, self.last).mT


def supports(network: nn.Module) -> bool:
    """Whether `evaluator` implements a network: a `DenseNet` with known activation and few categories."""
    return type(network) is DenseNet and DenseForward.serves(network)


def evaluator(network: nn.Module, members: slice, width: int) -> DenseForward:
    """Return a faster forward pass of some members of a stack on a CPU.

    Parameters
    ----------
    network : nn.Module
        A stack that `supports` knows.
    members : slice
        Members of the stack to predict with.
    width : int
        Number of rows of every call.

    Returns
    -------
    DenseForward
        Maps rows ``(width, n_features)`` to outputs ``(members, width, n_outputs)``. It writes into its own
        memory: one thread may use it.
    """
    state = {name: value[members] for name, value in network.state_dict().items()}
    return DenseForward(network, state, width)
