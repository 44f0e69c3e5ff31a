"""Memory layout of parameters, features and gradients of a stack of dense networks, for the fused kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skhep_nn.networks.dense import DenseNet
from skhep_nn.networks.member_layers import MemberEmbedding, MemberLinear

__all__ = ["Category", "DenseLayout", "Item", "Product", "embeddings_of", "layers_of", "table_of"]

_TABLE_WIDTH = 16
_NOWHERE = -(2**30)


class Product(NamedTuple):
    """The matrix product of one layer, in the forward or in the backward pass.

    Places of the packed matrix, of the columns that are multiplied (features in the forward pass, gradients in the
    backward pass), of the output among the features, and of its gradient.
    """

    n_out: int
    n_in: int
    matrix: int
    bias: int
    read: int
    write: int
    grad: int


class Category(NamedTuple):
    """A categorical column: places of its embedding in the flat buffer and among the features."""

    column: int
    n_categories: int
    size: int
    weight: int
    write: int


class Item(NamedTuple):
    """A block of weights to update: the sum over rows of ``grad[n] * feature[k]``.

    It begins at row `first` and column `start`. After the weights of a layer comes its bias, as the weight of
    a feature that is always one. For an embedding ``grad[n]`` is one where the row's code in `column` is
    ``n``, and the feature is the gradient of the embedded input.
    """

    n_out: int
    n_in: int
    weight: int
    bias: int
    grad: int
    source: int
    column: int
    first: int
    start: int
    matrix: int


def layers_of(network: DenseNet) -> list[MemberLinear]:
    """Return the hidden layers and the output."""
    return [*(m for m in network.hidden if isinstance(m, MemberLinear)), network.output]


def embeddings_of(network: DenseNet) -> list[MemberEmbedding]:
    """Return the embeddings of the categorical columns."""
    return [m for m in network.input_stage.embeddings if isinstance(m, MemberEmbedding)]


def _length(n_in: int) -> int:
    """Return the padded length of a row of a packed matrix, at which wide loads are aligned."""
    return -(-n_in // 32) * 32


class DenseLayout:
    """Tables of places in memory for the kernels of one stack.

    The columns that a step works in are the features, in the order continuous inputs, embedded inputs,
    hidden layers, and then the gradients in the same order, but without the continuous inputs and with the
    outputs: the gradient of feature ``i`` is column ``i + offset``.
    """

    def __init__(self, network: DenseNet) -> None:
        sizes = [p.numel() for p in network.parameters()]
        starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        places = {id(p): at for p, at in zip(network.parameters(), starts, strict=False)}
        stage, self.modules = network.input_stage, layers_of(network)
        self.dense = network.dense
        self.n_continuous = len(stage.continuous)
        self.n_features = self.n_continuous + len(stage.columns)
        self.n_hidden = len(self.modules) - 1
        self.n_outputs = self.modules[-1].weight.shape[-2]
        self.n_packed = 0

        self.categories = []
        at = self.n_continuous
        for column, embedding in zip(stage.columns, embeddings_of(network), strict=True):
            n_categories, size = embedding.weight.shape[-2:]
            entry = Category(column, n_categories, size, places[id(embedding.weight)], at)
            self.categories.append(entry)
            at += size
        widths = [m.weight.shape[-2] for m in self.modules] + [c.size for c in self.categories]
        self.block = max(16, 1 << (max(widths) - 1).bit_length())
        self.weights = [places[id(m.weight)] for m in self.modules]
        self.n_columns = at + sum(m.weight.shape[-2] for m in self.modules[:-1])
        self.offset = self.n_columns - self.n_continuous
        self.forward = self._forward([places[id(m.bias)] for m in self.modules], at)
        self.backward = self._backward(at)

    def _pack(self, n_out: int, n_in: int) -> int:
        """Reserve memory for a packed matrix."""
        at = self.n_packed
        self.n_packed += n_out * _length(n_in)
        return at

    def _forward(self, biases: list[int], n_inputs: int) -> list[Product]:
        """Return the hidden layers and the output."""
        products: list[Product] = []
        write = n_inputs
        for i, (module, bias) in enumerate(zip(self.modules, biases, strict=True)):
            n_out, n_in = module.weight.shape[-2:]
            reads_all = i == 0 or (self.dense and i < self.n_hidden)
            read = 0 if reads_all else products[-1].write
            matrix = self._pack(n_out, n_in)
            products.append(Product(n_out, n_in, matrix, bias, read, write, write + self.offset))
            write += n_out
        return products

    def readers(self, target: int) -> list[Product]:
        """Return the layers that read hidden layer `target`, or the inputs for -1."""
        end = self.n_hidden if self.dense and target < self.n_hidden - 1 else target + 2
        return self.forward[target + 1 : end]

    def _backward(self, n_inputs: int) -> list[tuple[Product, list[Product]]]:
        """Return the targets of gradients in the order of the backward pass, each with the layers that read it."""
        found = [(i, self.forward[i].write, self.forward[i].n_out) for i in range(self.n_hidden)]
        found = found[::-1] + [
            (-1, at, min(self.block, n_inputs - at))
            for at in range(self.n_continuous, n_inputs, self.block)
        ]
        entries = []
        for target, write, width in found:
            readers = self.readers(target)
            n_in = sum(r.n_out for r in readers)
            matrix, grad = self._pack(width, n_in), write + self.offset
            product = Product(width, n_in, matrix, 0, readers[0].grad, write, grad)
            entries.append((product, readers))
        return entries

    def back(self) -> list[int]:
        """Return the start of the row of each feature in a packed matrix of the backward pass."""
        rows = [_NOWHERE] * self.n_columns
        for product, _ in self.backward:
            for j in range(product.n_out):
                start = product.matrix + j * _length(product.n_in)
                rows[product.write + j] = start - product.read
        return rows

    def items(self, block: int) -> list[Item]:
        """Divide all weights into blocks."""
        items = [
            Item(p.n_out, p.n_in, weight, p.bias, p.grad, p.read, -1, 0, start, p.matrix)
            for p, weight in zip(self.forward, self.weights, strict=True)
            for start in range(0, p.n_in + 1, block)
        ]
        for c in self.categories:
            grad = c.write + self.offset
            items += [
                Item(c.n_categories, c.size, c.weight, -1, 0, grad, c.column, first, start, 0)
                for first in range(0, c.n_categories, self.block)
                for start in range(0, c.size, block)
            ]
        return items

    def fill(self, packed: Tensor) -> None:
        """Copy the weights into packed matrices for the kernels, ``(members, n_packed)``."""

        def matrix(p: Product) -> Tensor:
            part = packed[:, p.matrix : p.matrix + p.n_out * _length(p.n_in)]
            rows: Tensor = part.unflatten(1, (p.n_out, -1))
            return rows

        weights = {p: m.weight.detach() for p, m in zip(self.forward, self.modules, strict=True)}
        for p, weight in weights.items():
            matrix(p)[..., : p.n_in] = weight
        for p, readers in self.backward:
            for r in readers:
                into = matrix(p)[..., r.grad - p.read :][..., : r.n_out]
                into.copy_(weights[r][..., p.write - r.read :][..., : p.n_out].mT)


def table_of(entries: Sequence[NamedTuple], device: torch.device) -> Tensor:
    """Return entries as rows of integers on the device."""
    table = torch.zeros(max(1, len(entries)), _TABLE_WIDTH, dtype=torch.int32)
    for row, entry in zip(table, entries, strict=False):
        row[: len(entry)] = torch.tensor(entry)
    return table.to(device)
