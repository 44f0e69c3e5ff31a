"""Layers of the convolutional network for images: one member, activations ``channels_last``.

In fast mode (`skhep_nn.networks.stacks.in_fast_mode`) batch normalisation is merged into the convolution where its
statistics are fixed, and activations overwrite their input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skhep_nn.networks.member_layers import MemberDropout, dropped_bytes, random_bytes

__all__ = ["MOMENTUM", "Block", "BlockSpec", "ChannelMeans", "Convolution", "Dropout", "linear"]

MOMENTUM, _EPSILON = 0.1, 1e-5  # of batch normalisation, as in torch
_SQUEEZE = 16  # reduction of the published squeeze-and-excitation


class BlockSpec(NamedTuple):
    """Checked parameters of one block (see `skhep_nn.networks.calo.Architecture`)."""

    channels: int
    kernel: int
    convolutions: int
    pooling: int
    dropout: float
    residual: bool
    attention: bool
    norm: bool


class Dropout(MemberDropout):
    """Dropout of one member with one random byte for each value, on a CPU and on a GPU.

    Drawing a float for each value would cost more than the convolution. The rate is rounded to a 256th, and the mask
    uses the rounded rate, so that means do not change.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop values in training."""
        if not self.training:
            return x
        if self.generator is None:
            return F.dropout(x, self.rate)
        dropped = dropped_bytes(self.rate)
        if x.ndim == 4:  # in memory order, so that nothing is transposed
            return self._drop(x.permute(0, 2, 3, 1), dropped).permute(0, 3, 1, 2)
        return self._drop(x, dropped)

    def _drop(self, x: Tensor, dropped: int) -> Tensor:
        kept = random_bytes(x, self.generator) >= dropped
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class BatchNorm(nn.Module):
    """Batch normalisation with the parameters and statistics of a `Convolution`, where files have their names."""

    def forward(
        self, x: Tensor, mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor
    ) -> Tensor:
        """Normalise every channel; in training by the statistics of the batch, which also update the given ones."""
        # The variance of a single value is undefined.
        training = self.training and x.numel() > x.shape[1]
        return F.batch_norm(
            x, mean, variance, gain, bias, training=training, momentum=MOMENTUM, eps=_EPSILON
        )


class Convolution(nn.Module):
    """Convolution with batch normalisation or a bias; by default it keeps the size of the image.

    The batch-norm statistics are float buffers that training updates in place, also through
    `torch.func.functional_call` on slices of stacked buffers, and under `torch.func.vmap` on stacked
    buffers.
    """

    fast = False
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        kernel: Sequence[int],
        *,
        norm: bool,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.stride = list(stride)
        self.padding = [k // 2 for k in kernel] if padding is None else list(padding)
        weight = torch.empty(n_outputs, n_inputs, *kernel)
        self.weight = nn.Parameter(weight.to(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(n_outputs))
        if norm:
            self.gain = nn.Parameter(torch.ones(n_outputs))
            self.register_buffer("running_mean", torch.zeros(n_outputs))
            self.register_buffer("running_var", torch.ones(n_outputs))
            self.batch_norm = BatchNorm()

    def reset_moments(self) -> None:
        """Reset bias, gain and batch-norm statistics."""
        nn.init.zeros_(self.bias)
        if self.norm:
            nn.init.ones_(self.gain)
            self.running_mean.zero_()
            self.running_var.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, H, W)`` to ``(batch, outputs, H, W)``."""
        if not self.norm:
            return self._convolved(x, self.weight, self.bias)
        if not self.fast or (self.training and x.numel() > x.shape[1]):
            out: Tensor = self.batch_norm(
                self._convolved(x, self.weight),
                self.running_mean,
                self.running_var,
                self.gain,
                self.bias,
            )
            return out
        # Fixed statistics are merged into the weights, which saves reading the image once more.
        factor = self.gain * torch.rsqrt(self.running_var + _EPSILON)
        bias = self.bias - self.running_mean * factor
        return self._convolved(x, self.weight * factor.view(-1, 1, 1, 1), bias)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class ResidualPair(nn.Module):
    """Residual block: two convolutions whose output is added to their input."""

    fast = False

    def __init__(self, n_inputs: int, n_outputs: int, kernel: Sequence[int], *, norm: bool) -> None:
        super().__init__()
        self.first = Convolution(n_inputs, n_outputs, kernel, norm=norm)
        self.activation = nn.ReLU()
        self.second = Convolution(n_outputs, n_outputs, kernel, norm=norm)
        self.shortcut = (
            nn.Identity()
            if n_inputs == n_outputs
            else Convolution(n_inputs, n_outputs, (1, 1), norm=norm)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the convolutions to the input; the block applies the activation."""
        rectify = torch.relu_ if self.fast else self.activation
        corrected: Tensor = self.second(rectify(self.first(x))) + self.shortcut(x)
        return corrected


class ChannelMeans(nn.Module):
    """Mean of every channel over all points."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, H, W)`` to ``(batch, channels)``."""
        return x.mean((2, 3))


class Attention(nn.Module):
    """Squeeze-and-excitation: a factor between 0 and 1 for each channel of each image."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        n_hidden = max(4, n_channels // _SQUEEZE)
        self.average = ChannelMeans()
        self.squeeze = linear(n_channels, n_hidden)
        self.activation = nn.ReLU()
        self.excite = linear(n_hidden, n_channels)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        factors = self.gate(self.excite(self.activation(self.squeeze(self.average(x)))))
        scaled: Tensor = x * factors[..., None, None]
        return scaled


class Block(nn.Module):
    """Convolutions and pooling, with optional attention and dropout."""

    fast = False

    def __init__(self, n_inputs: int, size: Sequence[int], spec: BlockSpec) -> None:
        super().__init__()
        # Wider kernels would see only padding.
        kernel = [min(spec.kernel, 2 * n - 1) for n in size]
        self.units = nn.ModuleList()
        left = spec.convolutions
        while left:
            paired = spec.residual and left % 2 == 0
            unit = ResidualPair if paired else Convolution
            self.units.append(unit(n_inputs, spec.channels, kernel, norm=spec.norm))
            n_inputs = spec.channels
            left -= 2 if paired else 1
        self.activations = nn.ModuleList(nn.ReLU() for _ in self.units)
        self.pooling = [min(spec.pooling, n) for n in size]
        self.maximum = (
            nn.MaxPool2d((self.pooling[0], self.pooling[1]))
            if max(self.pooling) > 1
            else nn.Identity()
        )
        self.attention = Attention(spec.channels) if spec.attention else nn.Identity()
        self.dropout = Dropout(spec.dropout) if spec.dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, inputs, H, W)`` to ``(batch, outputs, H / pooling, W / pooling)``."""
        last = len(self.units) - 1
        for i, (unit, activation) in enumerate(zip(self.units, self.activations, strict=True)):
            x = unit(x)
            if i == last:
                # The activation is monotonic, so it can follow the max pooling, after which there are fewer values.
                x = self.maximum(x)
            x = torch.relu_(x) if self.fast else activation(x)
        out: Tensor = self.dropout(self.attention(x))
        return out


def linear(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Fully connected layer that does not draw starting values from the global generator."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_inputs, n_outputs)
    return layer
