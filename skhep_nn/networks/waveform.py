"""The convolutional network of one member, for traces of detectors.

A trace is an image of one row, in torch's ``channels_last`` memory format, as traces come with their
channels last. Measured on one core (256 traces of 5,000 points, forward and backward): the published
network takes 610 ms of processor time with one-dimensional convolutions (376 ms in bfloat16), and 213 ms
with these (123 ms in bfloat16).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from skhep_nn.networks.conv_base import (
    ConvNet,
    check_choice,
    check_counts,
    check_rates,
    one_each,
    planned,
)
from skhep_nn.networks.waveform_layers import Shortcut, TraceBlock, TraceSpec, count_operations
from skhep_nn.utils.public import public

__all__ = ["PRESETS", "WaveformArchitecture", "WaveformCNN"]

Head: TypeAlias = Literal["average", "bins", "flatten"]
Initial: TypeAlias = Literal["he_normal", "glorot_uniform", "truncated_normal"]
Auto: TypeAlias = Literal["auto"]
#: Kernel size of the convolution of one block, or sizes of several parallel convolutions.
Kernel: TypeAlias = int | Sequence[int] | Auto

# A first block with "auto": number of output points, whatever the length of the trace, and the least
# number of points of a window.
_POINTS, _SHORTEST = 100, 7


class WaveformArchitecture(NamedTuple):
    """Architecture of a network for traces; every preset is one.

    Where a field takes a number or a sequence, a sequence has one value for each block (`dense_dropout`:
    for each dense layer).

    Parameters
    ----------
    channels : sequence of int
        Channels, or filters, of every block.
    kernels : int or sequence of int, "auto" or sequences of int
        Kernel size of a convolution. A sequence for one block makes an inception module: parallel
        convolutions of these sizes, after a convolution of one point that reduces the number of
        channels, and one more convolution after max pooling over three points; `channels` are divided
        equally among them. "auto" is twice the stride, at least 7.
    strides : int or sequence of int or "auto", default=1
        Stride of a convolution in points. "auto", for the first block only, is a hundredth of the
        trace: later layers then cost the same for traces of any length, and see the same share of them.
    pooling : int or sequence of int, default=1
        Factor of the max pooling at the end of a block; 1 for no pooling.
    padding : {"same", "valid"}, default="same"
        Whether traces are padded with zeros at both ends, or not, which shortens them.
    dropout : float or sequence of float, default=0.0
        Dropout rate at the end of a block.
    residual : int, default=0
        Number of blocks that each shortcut skips (arXiv:1512.03385); 0 for no shortcuts. If the number
        of blocks is not a multiple of it, the first blocks have no shortcut.
    norm : bool, default=True
        Batch normalisation (arXiv:1502.03167) after each convolution, in place of its bias.
    head : {"bins", "average", "flatten"}, default="bins"
        Input of the dense layers: the means of each channel over `n_bins` parts of the trace, its
        mean over the whole trace, or every point of the last block.
    n_bins : int, default=25
        Number of parts of the trace, at most the number of points after the last block.
    dense : sequence of int, default=()
        Neurons of the dense hidden layers.
    dense_dropout : float or sequence of float, default=0.0
        Dropout rate after a dense hidden layer.
    initial : {"he_normal", "glorot_uniform", "truncated_normal"}, default="he_normal"
        Starting values: He-normal, with the output layer Glorot-normal; Glorot-uniform, the default
        of Keras; or normal with a standard deviation of 0.05, truncated at two standard deviations. Biases start at
        zero.
    """

    channels: Sequence[int]
    kernels: int | Sequence[Kernel]
    strides: int | Sequence[int | Auto] = 1
    pooling: int | Sequence[int] = 1
    padding: Literal["same", "valid"] = "same"
    dropout: float | Sequence[float] = 0.0
    residual: int = 0
    norm: bool = True
    head: Head = "bins"
    n_bins: int = 25
    dense: Sequence[int] = ()
    dense_dropout: float | Sequence[float] = 0.0
    initial: Initial = "he_normal"


PRESETS: dict[str, WaveformArchitecture] = {
    "default": WaveformArchitecture(
        channels=(32, 32, 32),
        kernels=("auto", 5, 5),
        strides=("auto", 2, 2),
        dense=(64,),
    ),
    "school": WaveformArchitecture(
        channels=(32,),
        kernels=3,
        pooling=16,
        padding="valid",
        norm=False,
        head="flatten",
        dense=(100,),
        initial="glorot_uniform",
    ),
    "inception": WaveformArchitecture(
        channels=(32, 64, 64, 64, 64, 64, 64),
        kernels=("auto", *[(9, 19, 39)] * 6),
        strides=("auto", 1, 1, 1, 1, 1, 1),
        residual=3,
        head="average",
    ),
}


def _stride(value: Any, n_points: int, *, first: bool) -> int:
    """Return the stride as a number; "auto" follows from the length of the trace."""
    if value != "auto":
        check_counts("strides", [value])
        return int(value)
    if not first:
        raise ValueError('strides="auto" is for the first block only; give numbers for the others.')
    return max(1, n_points // _POINTS)


def _widths(value: Any, stride: int, channels: int) -> tuple[int, ...]:
    """Return the kernel sizes of a block as numbers, checked; "auto" follows from the stride."""
    if isinstance(value, str) and value == "auto":
        return (max(_SHORTEST, 2 * stride),)
    if not hasattr(value, "__len__") or isinstance(value, str):
        check_counts("kernels", [value])
        return (int(value),)
    check_counts("kernels", value, odd=True)
    if len(value) < 2 or channels % (len(value) + 1) or stride > 1:
        raise ValueError(
            f"kernels={value!r} of one block are parallel convolutions, and one more follows max pooling: "
            f"give at least two, a stride of 1 (got {stride}), and channels that are a multiple of "
            f"{len(value) + 1} (got {channels})."
        )
    return tuple(value)


def _specs(plan: WaveformArchitecture, n_points: int) -> list[TraceSpec]:
    """Check the parameters of all blocks and return them block by block."""
    n = len(plan.channels)
    if not n:
        raise ValueError("channels must have one value for each block, at least one, got none.")
    columns = {
        name: one_each(name, getattr(plan, name), n, "blocks")
        for name in ("kernels", "strides", "pooling", "dropout")
    }
    check_counts("channels", plan.channels)
    check_counts("pooling", columns["pooling"])
    check_rates("dropout", columns["dropout"])
    specs = []
    for number, channels in enumerate(plan.channels):
        kernel, stride, pooling, dropout = (column[number] for column in columns.values())
        stride = _stride(stride, n_points, first=number == 0)
        widths = _widths(kernel, stride, channels)
        rest = plan.padding, bool(plan.norm)
        specs.append(TraceSpec(channels, widths, stride, pooling, dropout, *rest))
    return specs


@public("skhep_nn.networks")
class WaveformCNN(ConvNet):
    """Convolutional network for traces of a detector: pulses of light or charge over time.

    Blocks of a convolution, which may be strided, and pooling, then dense layers. The presets, with
    their free parameters for one output and traces of 5,000 points:

    - ``"default"``, 64,961: three blocks of 32 channels with batch normalisation. The first reduces a
      trace of any length to 100 points (short traces: up to 199), each from a window of two
      hundredths of the trace; the other two, with kernels of 5, halve the number of points. The means
      over 25 parts of the trace, in order of time, go into a dense layer of 64.
    - ``"school"``, 998,729: the network of the Data Science School 2022 in Coimbra. One convolution of
      32 filters with a kernel of 3, max pooling over 16 points, and a dense layer of 100.
    - ``"inception"``, 124,769: InceptionTime with half its number of channels, after the first convolution
      of ``"default"``: two groups of three inception modules with parallel kernels of 9, 19 and 39,
      each group with a shortcut; the mean of each channel goes straight to the output.

    Every field of `WaveformArchitecture` can be given instead of the preset's.

    Parameters
    ----------
    trace_shape : sequence of int
        ``(T,)`` or ``(T, C)``.
    n_outputs : int, default=1
        Number of outputs: one logit for two classes, otherwise one output for each class or target.
    preset : {"default", "school", "inception"}, default="default"
        Architecture from which fields that are not given are taken.
    channels : int or sequence of int, default=None
        Channels of every block; one number is for all blocks of the preset.
    kernels, strides, pooling, padding, dropout, residual, norm, head, n_bins, dense, \
dense_dropout, initial
        Fields of `WaveformArchitecture`; None means the value of the preset.

    Attributes
    ----------
    mean, scale : Tensor of shape (C,)
        Buffers, 0 and 1: moments of the channels by which traces are standardised inside.
    blocks : nn.ModuleList
        Their outputs, of shape ``(batch, channels, 1, points)``, are the feature maps.
    output : nn.Linear
        The last layer. It computes in float32 under autocast, too.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or a sequence has the wrong number of values.

    Notes
    -----
    A mean over the whole trace loses the position of pulses. Mean squared error of the separation of two
    simulated pulses (6,000 traces, 12 epochs of the default preset): 1.8e-3 with one mean over the
    trace, 8.7e-4 with means over 6 parts, 8.4e-4 with 12 and 8.3e-4 with 25.

    Parameters are not initialised until `reset_parameters` is called or a state is loaded, so that building
    a network draws no random numbers. Kernels are cut to the width beyond which they would see only
    padding, so that networks for short traces have fewer parameters.

    References
    ----------
    arXiv:1909.04939 (InceptionTime), arXiv:1512.03385 (residual networks).

    Examples
    --------
    >>> import torch
    >>> from skhep_nn.networks import WaveformCNN
    >>> network = WaveformCNN((5000,), preset="school")
    >>> network.n_parameters
    998729
    >>> network.reset_parameters(torch.Generator().manual_seed(0))
    >>> network(torch.zeros(3, 5000)).shape
    torch.Size([3, 1])
    >>> WaveformCNN((800, 2), channels=(8, 16), kernels=(9, 5), strides=(4, 2)).n_parameters
    26561
    """

    trace_shape: tuple[int, int]
    n_bins: int

    def __init__(
        self,
        trace_shape: Sequence[int],
        n_outputs: int = 1,
        *,
        preset: str = "default",
        channels: int | Sequence[int] | None = None,
        kernels: int | Sequence[Kernel] | None = None,
        strides: int | Sequence[int | Auto] | None = None,
        pooling: int | Sequence[int] | None = None,
        padding: Literal["same", "valid"] | None = None,
        dropout: float | Sequence[float] | None = None,
        residual: int | None = None,
        norm: bool | None = None,
        head: Head | None = None,
        n_bins: int | None = None,
        dense: Sequence[int] | None = None,
        dense_dropout: float | Sequence[float] | None = None,
        initial: Initial | None = None,
    ) -> None:
        plan: WaveformArchitecture = planned(
            PRESETS,
            preset,
            {
                "channels": channels,
                "kernels": kernels,
                "strides": strides,
                "pooling": pooling,
                "padding": padding,
                "dropout": dropout,
                "residual": residual,
                "norm": norm,
                "head": head,
                "n_bins": n_bins,
                "dense": dense,
                "dense_dropout": dense_dropout,
                "initial": initial,
            },
        )
        widths: Any = plan.channels
        if not hasattr(widths, "__len__"):
            plan = plan._replace(channels=[widths] * len(PRESETS[preset].channels))
        if len(trace_shape) not in (1, 2):
            raise ValueError(f"trace_shape={trace_shape!r} must be (T,) or (T, C).")
        check_counts("trace_shape", trace_shape)
        check_counts("n_bins", [plan.n_bins])
        if plan.residual:
            check_counts("residual", [plan.residual])
        check_choice("head", plan.head, ("average", "bins", "flatten"))
        check_choice("padding", plan.padding, ("same", "valid"))
        n_channels = int((*trace_shape, 1)[1])
        super().__init__(n_channels, plan.initial)
        self.trace_shape = (int(trace_shape[0]), n_channels)
        self.head: Head = plan.head
        n_features = self._build_blocks(plan)
        self._build_dense(n_features, n_outputs, plan.dense, plan.dense_dropout)

    def _build_blocks(self, plan: WaveformArchitecture) -> int:
        """Add blocks and shortcuts; return the number of inputs of the dense layers."""
        n_points, n_channels = self.trace_shape
        specs = _specs(plan, n_points)
        length = int(plan.residual)
        self.blocks, self.shortcuts = nn.ModuleList(), nn.ModuleDict()
        self._starts = range(len(specs) % length, len(specs), length) if length else range(0)
        self._n_operations, before = 0, n_channels
        for number, spec in enumerate(specs):
            if number in self._starts:
                before = n_channels
            block = TraceBlock(n_channels, n_points, spec)
            self.blocks.append(block)
            self._n_operations += block.n_operations
            n_points, n_channels = block.n_points, spec.channels
            if number + 1 - length in self._starts:
                past = Shortcut(before, n_points, spec)
                self.shortcuts[str(number)] = past
                self._n_operations += count_operations(past, n_points)
        parts = {"average": 1, "bins": min(int(plan.n_bins), n_points), "flatten": n_points}
        self.n_bins = parts[plan.head]
        flat = plan.head == "flatten"
        self.average = nn.Identity() if flat else nn.AdaptiveAvgPool2d((1, self.n_bins))
        return int(n_channels) * self.n_bins

    @property
    def n_operations(self) -> int:
        """Multiplications and additions for the outputs of one trace."""
        dense = [m for m in self.modules() if isinstance(m, nn.Linear)]
        return self._n_operations + 2 * sum(layer.weight.numel() for layer in dense)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs before any link function.

        Parameters
        ----------
        x : Tensor of shape (batch, T, C) or (batch, T)
            Traces in physical units or counts, of any real dtype.

        Returns
        -------
        Tensor of shape (batch, n_outputs)
        """
        traces = x.unsqueeze(-1) if x.ndim == 2 and self.trace_shape[1] == 1 else x
        if traces.shape[1:] != self.trace_shape:
            raise ValueError(
                f"Got traces of shape {tuple(x.shape[1:])}, but the network was built for "
                f"{self.trace_shape}."
            )
        # Channels first is a view, which is what channels_last means.
        features = self._standardised(traces).transpose(1, 2).unsqueeze(2)
        before = features
        for number, block in enumerate(self.blocks):
            if number in self._starts:
                before = features
            key = str(number)
            past = self.shortcuts[key](before) if key in self.shortcuts else None
            features = block(features, past)
        return self._outputs(self.average(features).transpose(1, 3).flatten(1))
