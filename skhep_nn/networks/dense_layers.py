"""Parts of the networks for tables: input stage, activations, hidden layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from skhep_nn.networks.member_layers import (
    Concatenation,
    MemberDropout,
    MemberEmbedding,
    MemberLinear,
    MemberPReLU,
)
from skhep_nn.utils.public import public

__all__ = [
    "ACTIVATIONS",
    "ActivationSpec",
    "CategoricalColumn",
    "InputStage",
    "Width",
    "check_hidden",
    "dropout_layer",
    "embedding_size",
    "hidden_layers",
    "hidden_widths",
    "reset_embeddings",
    "reset_hidden",
    "reset_output",
    "run_hidden",
]

Width = int | Literal["auto"]


@public("skhep_nn.networks")
class CategoricalColumn(NamedTuple):
    """A column of category codes and the size of its embedding.

    Parameters
    ----------
    column : int
        Position of the column in the input.
    n_categories : int
        Number of categories seen at fit; codes are 0 to ``n_categories - 1``, and -1 for an
        unseen category.
    size : int
        Length of the embedding vector.
    """

    column: int
    n_categories: int
    size: int


def embedding_size(n_categories: int) -> int:
    """Return the rule-of-thumb length of an embedding, ``min(50, (n + 1) // 2)``.

    Parameters
    ----------
    n_categories : int
        Number of categories.

    Returns
    -------
    int
        Length of the embedding vector (arXiv:2002.01427, section 3.3).

    Examples
    --------
    >>> embedding_size(4), embedding_size(1000)
    (2, 50)
    """
    return min(50, (n_categories + 1) // 2)


class InputStage(nn.Module):
    """Standardise the continuous columns and embed the categorical ones.

    Mean and scale are buffers, computed from the training data. Standardisation is part of the network, so that
    augmentation, which comes before it, acts on physical units.
    """

    fast = False
    mean: Tensor
    scale: Tensor
    continuous: Tensor

    def __init__(self, n_features: int, categorical: Sequence[CategoricalColumn]) -> None:
        super().__init__()
        self.columns = tuple(c.column for c in categorical)
        continuous = [i for i in range(n_features) if i not in self.columns]
        # Not part of the state, as it is the same for all members and never changes.
        self.register_buffer(
            "continuous", torch.tensor(continuous, dtype=torch.long), persistent=False
        )
        self.register_buffer("mean", torch.zeros(len(continuous)))
        self.register_buffer("scale", torch.ones(len(continuous)))
        self.embeddings = nn.ModuleList(
            MemberEmbedding(c.n_categories, c.size) for c in categorical
        )
        if categorical:
            self.concatenation = Concatenation()
        self.width = len(continuous) + sum(c.size for c in categorical)

    def rows_of_columns(self) -> dict[int, range]:
        """Return for each column of the table the rows of the network input computed from it."""
        # Not from the values of `continuous`, which a network on torch's meta device does not have.
        n_features = self.continuous.numel() + len(self.columns)
        numbers = [i for i in range(n_features) if i not in self.columns]
        rows = {column: range(row, row + 1) for row, column in enumerate(numbers)}
        start = len(numbers)
        for column, embedding in zip(self.columns, self.embeddings, strict=True):
            end = start + embedding.get_parameter("weight").shape[-1]
            rows[column] = range(start, end)
            start = end
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """Map raw rows ``(..., batch, n_features)`` to inputs ``(..., batch, width)``, in fast mode ``(..., width, batch)``."""
        if self.fast:
            values = x.mT.index_select(-2, self.continuous) if self.columns else x.mT.contiguous()
            values = (values - self.mean.unsqueeze(-1)) / self.scale.unsqueeze(-1)
        else:
            values = x.index_select(-1, self.continuous) if self.columns else x
            values = (values - self.mean) / self.scale
        if not self.columns:
            return values
        # Numerical derivatives and attributions move codes a little.
        codes = x if self.fast else x.round()
        embedded = [
            embedding(codes[..., column].long())
            for column, embedding in zip(self.columns, self.embeddings, strict=True)
        ]
        joined: Tensor = self.concatenation(values, *embedded)
        return joined


def _he_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _lecun_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)


def _he_normal_prelu(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_normal_(weight, a=0.25, nonlinearity="leaky_relu", generator=generator)


class ActivationSpec(NamedTuple):
    """An activation, and the initialisation of weights that keeps its outputs near unit size."""

    build: Callable[[], nn.Module]
    initialise: Callable[[Tensor, torch.Generator | None], None]


ACTIVATIONS: dict[str, ActivationSpec] = {
    "swish": ActivationSpec(nn.SiLU, _he_normal),
    "relu": ActivationSpec(nn.ReLU, _he_normal),
    "selu": ActivationSpec(nn.SELU, _lecun_normal),
    "prelu": ActivationSpec(MemberPReLU, _he_normal_prelu),
}


def check_hidden(activation: str, dropout: float, depth: int) -> None:
    """Raise ValueError if no hidden layers can be built from these parameters."""
    if activation not in ACTIVATIONS:
        msg = f"activation={activation!r} is not known; choose one of {sorted(ACTIVATIONS)}."
        raise ValueError(msg)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must lie in [0, 1).")
    if depth < 1:
        raise ValueError(f"depth={depth!r} must be at least 1.")


def hidden_widths(n_inputs: int, depth: int, width: Width, growth_rate: float) -> list[int]:
    """Return the neurons of every hidden layer."""
    first = n_inputs if width == "auto" else width
    # The tiny term prevents int() from rounding down because of floating-point error.
    widths = [math.floor(first * (1 + d * growth_rate) + 1e-9) for d in range(depth)]
    if min(widths) < 1:
        msg = (
            f"width={width!r}, depth={depth} and growth_rate={growth_rate} give hidden layers of "
            f"{widths} neurons; each needs at least one."
        )
        raise ValueError(msg)
    return widths


def dropout_layer(rate: float) -> nn.Module:
    """Return the dropout layer after every hidden activation."""
    return MemberDropout(rate) if rate else nn.Identity()


def hidden_layers(
    n_inputs: int, widths: Sequence[int], *, dense: bool, activation: str
) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Return layers, activations and dense connections; with `dense` each layer reads all earlier features."""
    layers = nn.ModuleList()
    for n_neurons in widths:
        layers.append(MemberLinear(n_inputs, n_neurons))
        n_inputs = n_inputs + n_neurons if dense else n_neurons
    activations = nn.ModuleList(ACTIVATIONS[activation].build() for _ in widths)
    n_joined = len(widths) - 1 if dense else 0
    return layers, activations, nn.ModuleList(Concatenation() for _ in range(n_joined))


def run_hidden(
    x: Tensor,
    layers: nn.ModuleList,
    activations: nn.ModuleList,
    concatenations: nn.ModuleList,
    dropout: nn.Module,
) -> Tensor:
    """Run a chain of layers on the network inputs; return the features of the last."""
    for i, (layer, activation) in enumerate(zip(layers, activations, strict=True)):
        h: Tensor = dropout(activation(layer(x)))
        x = concatenations[i](x, h) if i < len(concatenations) else h
    return x


def reset_embeddings(stage: InputStage, generator: torch.Generator | None) -> None:
    """Draw the vectors of all categories from N(0, 1)."""
    for embedding in stage.embeddings:
        nn.init.normal_(embedding.get_parameter("weight"), generator=generator)


def reset_hidden(
    layers: Iterable[nn.Module], activation: str, generator: torch.Generator | None
) -> None:
    """Initialise the weights of hidden layers for their activation, and biases with zero."""
    initialise = ACTIVATIONS[activation].initialise
    for layer in layers:
        initialise(layer.get_parameter("weight"), generator)
        nn.init.zeros_(layer.get_parameter("bias"))


def reset_output(layer: MemberLinear, generator: torch.Generator | None) -> None:
    """Initialise the output layer with Glorot-normal weights and a zero bias."""
    nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
