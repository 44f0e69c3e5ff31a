"""Layers of the convolutional network for traces: images of one row, ``channels_last``.

The first convolution reads few channels. With a stride it is faster as one matrix product of its windows.
Processor time (ms, float32 / bfloat16) on one core for 256 traces of 5,000 points, 32 filters, forward
and backward, as a matrix product, a two-dimensional and a one-dimensional convolution: 8.0 / 5.1, 9.4 / 11.0
and 8.4 / 8.7 for windows of 100 points with a stride of 50; 21 / 19, 65 / 52 and 47 / 19 for windows of 16
points with a stride of 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skhep_nn.networks.conv_layers import Convolution, Dropout

__all__ = ["Shortcut", "TraceBlock", "TraceSpec", "Windows", "count_operations"]

# Up to this number of channels a strided convolution is computed as a matrix product of its windows.
_FEW_CHANNELS = 4


class TraceSpec(NamedTuple):
    """Checked parameters of one block."""

    channels: int
    kernels: tuple[int, ...]
    stride: int
    pooling: int
    dropout: float
    padding: str
    norm: bool


class Windows(Convolution):
    """Strided convolution of few channels, in fast mode as one matrix product of its windows."""

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if not self.fast:
            return super()._convolved(x, weight, bias)
        n_kernel, stride = weight.shape[-1], self.stride[1]
        if torch.is_autocast_enabled(x.device.type):  # halves the memory that is copied
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rows = F.pad(x.squeeze(2), (self.padding[1], self.padding[1]))
        windows = rows.unfold(2, n_kernel, stride).transpose(1, 2).flatten(2)
        out = F.linear(windows, weight.flatten(1), bias)
        return out.transpose(1, 2).unsqueeze(2)


def convolution(n_inputs: int, n_outputs: int, kernel: int, spec: TraceSpec) -> Convolution:
    """Return a convolution of traces, as images of one row."""
    kind = Windows if spec.stride > 1 and n_inputs <= _FEW_CHANNELS else Convolution
    padding = (0, (kernel - 1) // 2 if spec.padding == "same" else 0)
    return kind(
        n_inputs,
        n_outputs,
        (1, kernel),
        norm=spec.norm,
        stride=(1, spec.stride),
        padding=padding,
    )


class ChannelConcatenation(nn.Module):
    """Concatenates the channels of traces."""

    def forward(self, *parts: Tensor) -> Tensor:
        """Join traces of shape ``(batch, channels, 1, T)``."""
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """Inception module: parallel convolutions of several widths, and one after max pooling (arXiv:1909.04939)."""

    def __init__(self, n_inputs: int, kernels: Sequence[int], spec: TraceSpec) -> None:
        super().__init__()
        width = spec.channels // (len(kernels) + 1)
        single = spec._replace(stride=1, norm=False)
        self.narrow = convolution(n_inputs, width, 1, single)
        self.maximum = nn.MaxPool2d((1, 3), stride=1, padding=(0, 1))
        self.branches = nn.ModuleList(convolution(width, width, k, spec) for k in kernels)
        self.behind_maximum = convolution(n_inputs, width, 1, spec)
        self.concatenation = ChannelConcatenation()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, 1, T)`` to ``(batch, outputs, 1, T / stride)``."""
        narrow = self.narrow(x)
        outputs = [branch(narrow) for branch in self.branches]
        joined: Tensor = self.concatenation(*outputs, self.behind_maximum(self.maximum(x)))
        return joined


class TraceBlock(nn.Module):
    """One convolution or an inception module, and pooling, with optional dropout."""

    fast = False

    def __init__(self, n_inputs: int, n_points: int, spec: TraceSpec) -> None:
        super().__init__()
        # Wider kernels would see only padding.
        most = 2 * n_points - 1 if spec.padding == "same" else n_points
        kernels = [min(k, most) for k in spec.kernels]
        self.unit: nn.Module
        if len(kernels) == 1:
            self.unit = convolution(n_inputs, spec.channels, kernels[0], spec)
        else:
            self.unit = Inception(n_inputs, kernels, spec)
        around = 2 * ((kernels[0] - 1) // 2) if spec.padding == "same" else 0
        n_points = (n_points + around - kernels[0]) // spec.stride + 1
        self.n_operations = count_operations(self.unit, n_points)
        self.pooling = min(spec.pooling, n_points)
        self.n_points = n_points // self.pooling
        self.maximum = nn.MaxPool2d((1, self.pooling)) if self.pooling > 1 else nn.Identity()
        self.activation = nn.ReLU()
        self.dropout = Dropout(spec.dropout) if spec.dropout else nn.Identity()

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Map ``(batch, inputs, 1, T)`` to ``(batch, outputs, 1, T / stride / pooling)``."""
        # The activation is monotonic, so it can follow the max pooling, after which there are fewer values.
        x = self.maximum(self.unit(x))
        if shortcut is not None:
            x = x + shortcut
        rectified = torch.relu_(x) if self.fast else self.activation(x)
        out: Tensor = self.dropout(rectified)
        return out


class Shortcut(nn.Module):
    """Shortcut past some blocks: averages points and maps channels to the shape after the blocks."""

    def __init__(self, n_inputs: int, n_points: int, spec: TraceSpec) -> None:
        super().__init__()
        self.average = nn.AdaptiveAvgPool2d((1, n_points))
        self.unit = convolution(n_inputs, spec.channels, 1, spec._replace(stride=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, 1, T)`` to ``(batch, outputs, 1, n_points)``."""
        out: Tensor = self.unit(self.average(x))
        return out


def count_operations(module: nn.Module, n_points: int) -> int:
    """Return the number of operations of convolutions with a given number of output points."""
    units = [m for m in module.modules() if isinstance(m, Convolution)]
    return 2 * n_points * sum(unit.weight.numel() for unit in units)
