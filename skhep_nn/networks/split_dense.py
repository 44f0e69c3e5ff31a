"""Network with separate hidden layers for groups of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skhep_nn.networks.dense_layers import (
    ACTIVATIONS,
    CategoricalColumn,
    InputStage,
    Width,
    check_hidden,
    dropout_layer,
    hidden_layers,
    hidden_widths,
    reset_embeddings,
    reset_hidden,
    reset_output,
    run_hidden,
)
from skhep_nn.networks.member_layers import Concatenation, MemberLinear
from skhep_nn.utils.public import public

__all__ = ["FeatureBlock", "HiddenStates", "SplitDenseNet"]


@public("skhep_nn.networks")
class FeatureBlock(NamedTuple):
    """A group of columns and its hidden layers.

    Parameters
    ----------
    columns : sequence of int or str, default=None
        Columns by number or, in estimators, by name. None means all columns.
    depth : int, default=None
        Number of hidden layers; 1 makes a "wide" block. None means the `depth` of the network.
    width : int or "auto", default=None
        Neurons of the first hidden layer; "auto" is the number of inputs of the block. None means
        the `width` of the network.

    Examples
    --------
    A single wide layer for masses, the layers of the estimator for all columns:

    >>> from skhep_nn import DenseNetClassifier
    >>> from skhep_nn.networks import FeatureBlock
    >>> masses = ["DER_mass_MMC", "DER_mass_vis"]
    >>> blocks = {"deep": None, "wide": FeatureBlock(masses, depth=1, width=50)}
    >>> model = DenseNetClassifier(blocks=blocks)
    """

    columns: Sequence[int | str] | None = None
    depth: int | None = None
    width: Width | None = None


class HiddenStates(NamedTuple):
    """Intermediate results of a `SplitDenseNet`, one tensor for each block.

    Parameters
    ----------
    inputs : list of Tensor of shape (..., n_inputs, batch)
        Columns of the block, standardised and embedded.
    bottlenecks : list of Tensor of shape (..., n_neurons, batch)
        Outputs of the bottleneck of the block, which the other blocks read. Empty without
        bottlenecks.
    blocks : list of Tensor of shape (..., n_neurons, batch)
        Features of the last layer of the block, which the output layer reads.
    """

    inputs: list[Tensor]
    bottlenecks: list[Tensor]
    blocks: list[Tensor]


class _Chain(nn.Module):
    """Hidden layers of one block."""

    def __init__(
        self, n_inputs: int, widths: Sequence[int], dense: bool, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.hidden, self.activations, self.concatenations = hidden_layers(
            n_inputs, widths, dense=dense, activation=activation
        )
        self.dropout = dropout_layer(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map the inputs of the block to the features of its last layer."""
        return run_hidden(x, self.hidden, self.activations, self.concatenations, self.dropout)


@public("skhep_nn.networks")
class SplitDenseNet(nn.Module):
    """Parallel dense networks, each for one group of columns, joined by the output layer.

    The "parallel networks" of the HiggsML study (arXiv:2002.01427, appendix A). Each block is a chain of
    hidden layers, densely connected as in `DenseNet`, and the output layer reads the last features of all
    blocks. The output is therefore a sum with one term for each block, which shows how much the network relies
    on each group of columns (`skhep_nn.inspection.block_reliance`).

    - *Full split*: every column belongs to one block.
    - *Full split with bottlenecks*: in addition, a layer of `bottleneck` neurons compresses the columns of
      each block, and all other blocks read its outputs.
    - *Semi-split*, or wide and deep (arXiv:1606.07792): a deep block of all columns, and a single wide
      layer for some of them. Blocks may share columns.

    Parameters
    ----------
    n_features : int
        Number of input columns, categorical ones included.
    n_outputs : int, default=1
        Number of outputs: one logit for two classes, otherwise one output for each class or target.
    blocks : mapping of str to FeatureBlock
        At least two groups of columns, by number, which together hold every column.
    bottleneck : int, default=0
        Neurons of the bottleneck of each block; 0 for no bottlenecks. They have the activation of the
        hidden layers, but no dropout.
    categorical : sequence of CategoricalColumn, default=()
        Columns that hold category codes and the size of their embeddings. A column in several blocks is
        embedded once.
    depth : int, default=6
        Number of hidden layers of blocks without `depth`.
    width : int or "auto", default="auto"
        Neurons of the first hidden layer of blocks without `width`; "auto" is the number of inputs of the
        block, embeddings and bottlenecks of other blocks included.
    growth_rate : float, default=0.0
        Layer ``d`` (from zero) of a block has ``int(width * (1 + d * growth_rate))`` neurons.
    dense : bool, default=True
        Whether the layers of a block are densely connected.
    activation : {"swish", "relu", "selu", "prelu"}, default="swish"
        Activation of hidden layers and bottlenecks, initialised as in `DenseNet`.
    dropout : float, default=0.0
        Dropout rate after every hidden activation; on a CPU rounded to a multiple of 1/256, at least 1/256.

    Raises
    ------
    ValueError
        If a parameter is out of its range, a column is in no block or does not exist, or a layer would
        have no neurons.

    See Also
    --------
    DenseNet : One chain of layers for all columns.

    Examples
    --------
    The full split of the study: six layers for 17 continuous low-level columns and the number of jets,
    embedded in three; one wide layer for 13 high-level columns:

    >>> from skhep_nn.networks import CategoricalColumn, FeatureBlock, SplitDenseNet
    >>> blocks = {"low": FeatureBlock(range(13, 31)), "high": FeatureBlock(range(13), 1, 50)}
    >>> network = SplitDenseNet(31, blocks=blocks, categorical=[CategoricalColumn(30, 4, 3)])
    >>> network.n_parameters
    9303
    """

    stackable = True
    fast = False

    def __init__(
        self,
        n_features: int,
        n_outputs: int = 1,
        *,
        blocks: Mapping[str, FeatureBlock],
        bottleneck: int = 0,
        categorical: Sequence[CategoricalColumn] = (),
        depth: int = 6,
        width: Width = "auto",
        growth_rate: float = 0.0,
        dense: bool = True,
        activation: str = "swish",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        specs = {name: FeatureBlock(*block) for name, block in blocks.items()}
        self.block_columns = _columns_of(specs, n_features)
        if bottleneck < 0:
            raise ValueError(f"bottleneck={bottleneck!r} must be at least 0.")
        self.activation = activation
        self.input_stage = InputStage(n_features, [CategoricalColumn(*c) for c in categorical])

        of_column = self.input_stage.rows_of_columns()
        rows = [[r for c in own for r in of_column[c]] for own in self.block_columns.values()]
        self._sizes = [len(own) for own in rows]
        # Not part of the state, as it is the same for all members.
        order = torch.tensor([r for own in rows for r in own], dtype=torch.long)
        self.register_buffer("_order", order, persistent=False)

        passed = bottleneck * (len(specs) - 1)
        self.blocks = nn.ModuleList()
        n_joined = 0
        for spec, size in zip(specs.values(), self._sizes, strict=True):
            own_depth = depth if spec.depth is None else spec.depth
            own_width = width if spec.width is None else spec.width
            check_hidden(activation, dropout, own_depth)
            n_inputs = size + passed
            widths = hidden_widths(n_inputs, own_depth, own_width, growth_rate)
            self.blocks.append(_Chain(n_inputs, widths, dense, activation, dropout))
            n_joined += widths[-1]
        sizes = self._sizes if bottleneck else []
        self.bottlenecks = nn.ModuleList(MemberLinear(size, bottleneck) for size in sizes)
        self.bottleneck_activations = nn.ModuleList(ACTIVATIONS[activation].build() for _ in sizes)
        # A block without bottlenecks of other blocks reads its columns alone.
        self.concatenations = nn.ModuleList(Concatenation() for _ in sizes)
        self.concatenation = Concatenation()
        self.output = MemberLinear(n_joined, n_outputs)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return sum(p.numel() for p in self.parameters())

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new starting values for all parameters.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of random numbers; the global one if left out.
        """
        reset_embeddings(self.input_stage, generator)
        reset_hidden(self.bottlenecks, self.activation, generator)
        for chain in self.blocks:
            reset_hidden(chain.get_submodule("hidden").children(), self.activation, generator)
        reset_output(self.output, generator)

    def hidden_states(self, x: Tensor) -> HiddenStates:
        """Compute the features of all blocks, and their inputs and bottlenecks.

        Parameters
        ----------
        x : Tensor of shape (batch, n_features) or (members, batch, n_features)
            Rows in physical units; categorical columns hold codes.

        Returns
        -------
        HiddenStates
        """
        states = self._states(x)
        if self.fast:
            return states
        return HiddenStates(*([value.mT for value in values] for values in states))

    def _states(self, x: Tensor) -> HiddenStates:
        """Compute the hidden states in the layout of the layers."""
        features_axis = -2 if self.fast else -1
        rows = self.input_stage(x).index_select(features_axis, self.get_buffer("_order"))
        inputs = list(rows.split(self._sizes, dim=features_axis))
        layers = zip(inputs, self.bottlenecks, self.bottleneck_activations, strict=False)
        bottlenecks = [activation(layer(own)) for own, layer, activation in layers]
        features = []
        for i, (own, chain) in enumerate(zip(inputs, self.blocks, strict=True)):
            others = bottlenecks[:i] + bottlenecks[i + 1 :]
            features.append(chain(self.concatenations[i](own, *others) if others else own))
        return HiddenStates(inputs, bottlenecks, features)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs before any link function.

        Parameters
        ----------
        x : Tensor of shape (batch, n_features) or (members, batch, n_features)
            Rows in physical units; categorical columns hold codes.

        Returns
        -------
        Tensor of shape (batch, n_outputs) or (members, batch, n_outputs)
        """
        out: Tensor = self.output(self.concatenation(*self._states(x).blocks))
        return out.mT if self.fast else out


def _columns_of(blocks: Mapping[str, FeatureBlock], n_features: int) -> dict[str, tuple[int, ...]]:
    """Return the columns of every block; ValueError if they do not fit the table."""
    if len(blocks) < 2:
        msg = f"blocks={dict(blocks)!r} must hold at least two groups of columns; DenseNet has one."
        raise ValueError(msg)
    everything = range(n_features)
    columns: dict[str, tuple[int, ...]] = {}
    for name, block in blocks.items():
        own = everything if block.columns is None else block.columns
        columns[name] = tuple(int(column) for column in own)
        if not own or len(set(columns[name])) < len(own) or not set(columns[name]) <= {*everything}:
            msg = (
                f"block {name!r} has the columns {list(own)}; expected at least one, each once, of 0 to "
                f"{n_features - 1}."
            )
            raise ValueError(msg)
    left = sorted({*everything}.difference(*columns.values()))
    if left:
        raise ValueError(f"columns {left} are in no block; add them to one or leave them out of X.")
    return columns
