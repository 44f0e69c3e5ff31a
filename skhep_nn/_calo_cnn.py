"""The convolutional network of one member, for images of calorimeters and other pixel detectors.

Images come channels last, as they lie in files, and stay so: all activations are in torch's
``channels_last`` memory format, in which convolutions in bfloat16 take a third of the time
of float32 in the default one (measured on a CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from skhep_nn._calo_layers import Block, BlockSpec, Convolution, Dropout, linear

__all__ = ["PRESETS", "Architecture", "CaloCNN"]


class Architecture(NamedTuple):
    """What a network is made of: every preset is one of these.

    Where a field takes a number or a sequence, a sequence has one value a block (`dense_dropout`:
    one a dense layer).

    Parameters
    ----------
    channels : sequence of int
        Channels of every block.
    kernels : int or sequence of int
        Width of the convolutions, odd.
    convolutions : int or sequence of int, default=1
        Convolutions of a block.
    pooling : int or sequence of int, default=2
        Factor by which maxima over cells shrink the image at the end of a block; 1 leaves it.
    dropout : float or sequence of float, default=0.0
        Dropout rate at the end of a block. With `norm` best in the last block only: ahead of a
        batch normalisation it makes moments in training differ from those in prediction
        (arXiv:1801.05134).
    residual : bool, default=False
        Whether two convolutions at a time learn a correction to their input (arXiv:1512.03385). Of
        an odd number the first is a plain one.
    attention : bool, default=False
        Whether a block ends with a factor for each channel, found from the means of all channels
        (squeeze-and-excitation, arXiv:1709.01507).
    norm : bool, default=True
        Batch normalisation (arXiv:1502.03167) after each convolution, in place of its bias.
    head : {"average", "flatten"}, default="average"
        What the dense layers see: the mean of each channel, or every cell of the last block.
    dense : sequence of int, default=()
        Neurons of the dense hidden layers.
    dense_dropout : float or sequence of float, default=0.0
        Dropout rate after a dense hidden layer.
    initial : {"he_normal", "truncated_normal"}, default="he_normal"
        Starting values: He-normal, with the output layer Glorot-normal; or normal with a
        standard deviation of 0.05 cut at two of them, the default of Keras. Biases start at zero.
    """

    channels: Sequence[int]
    kernels: int | Sequence[int]
    convolutions: int | Sequence[int] = 1
    pooling: int | Sequence[int] = 2
    dropout: float | Sequence[float] = 0.0
    residual: bool = False
    attention: bool = False
    norm: bool = True
    head: Literal["average", "flatten"] = "average"
    dense: Sequence[int] = ()
    dense_dropout: float | Sequence[float] = 0.0
    initial: Literal["he_normal", "truncated_normal"] = "he_normal"


_COMPACT = Architecture(
    channels=(32, 64, 128, 256),
    kernels=(7, 5, 3, 3),
    # Not ahead of a batch normalisation: its moments in training would hold the spread that dropout
    # adds, which prediction lacks (arXiv:1801.05134). Measured on the energy of 200 ion tracks:
    # a mean error of 3.9 keV with 0.3 in each block, of 1.3 keV with it in the last only.
    dropout=(0.0, 0.0, 0.0, 0.3),
    dense=(64,),
    dense_dropout=0.5,
)

PRESETS: dict[str, Architecture] = {
    "compact": _COMPACT,
    "challenge": Architecture(
        channels=(32, 64, 128),
        kernels=3,
        convolutions=2,
        norm=False,
        head="flatten",
        dense=(256, 128, 128, 64),
        dense_dropout=(0.4, 0.4, 0.25, 0.3),
        initial="truncated_normal",
    ),
    "resnet15": Architecture(
        channels=(32, 32, 64),
        kernels=(7, 3, 3),
        convolutions=(1, 6, 8),
        pooling=(2, 2, 1),
        residual=True,
    ),
    "attention": _COMPACT._replace(attention=True),
    # Dropout scatters what is counted, which a class survives and an energy does not. Measured on 200 real
    # ion tracks, after 20 passes over 800: a mean error of 1.19 keV with both, of 0.70 with that in
    # the last block alone, of 0.58 with none.
    "regression": _COMPACT._replace(dropout=0.0, dense_dropout=0.0),
}


def _he_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _glorot_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.xavier_normal_(weight, generator=generator)


def _truncated_normal(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.trunc_normal_(weight, std=0.05, a=-0.1, b=0.1, generator=generator)


class _InitialSpec(NamedTuple):
    """How the weights of hidden layers and of the output start."""

    hidden: Callable[[Tensor, torch.Generator | None], None]
    output: Callable[[Tensor, torch.Generator | None], None]


_INITIAL = {
    "he_normal": _InitialSpec(_he_normal, _glorot_normal),
    "truncated_normal": _InitialSpec(_truncated_normal, _truncated_normal),
}


def _one_each(name: str, value: Any, n: int, of: str) -> list[Any]:
    """Spread a number over `n` blocks or layers, or check that there is one for each."""
    if hasattr(value, "__len__"):
        if len(value) != n:
            raise ValueError(
                f"{name}={value!r} has {len(value)} values for {n} {of}. Give one for each, or "
                "a number for all."
            )
        return list(value)
    return [value] * n


def _check_counts(name: str, values: Sequence[Any], *, odd: bool = False) -> None:
    """Check whole numbers of at least one."""
    for value in values:
        if not isinstance(value, Integral) or value < 1 or (odd and value % 2 == 0):
            kind = "odd integers" if odd else "integers"
            raise ValueError(f"{name} must be {kind} of at least 1, got {value!r}.")


def _check_rates(name: str, values: Sequence[Any]) -> None:
    """Check dropout rates."""
    for value in values:
        if not 0 <= value < 1 or round(256 * value) == 256:
            raise ValueError(f"{name} must lie in [0, 1), got {value!r}.")


def _block_specs(plan: Architecture) -> list[BlockSpec]:
    """Check a plan's blocks and take them apart."""
    if not hasattr(plan.channels, "__len__") or not len(plan.channels):
        raise ValueError(
            f"channels must have one value for each block, at least one, got {plan.channels!r}."
        )
    columns = {
        name: _one_each(name, getattr(plan, name), len(plan.channels), "blocks")
        for name in ("channels", "kernels", "convolutions", "pooling", "dropout")
    }
    for name in ("channels", "convolutions", "pooling"):
        _check_counts(name, columns[name])
    _check_counts("kernels", columns["kernels"], odd=True)
    _check_rates("dropout", columns["dropout"])
    flags = {name: bool(getattr(plan, name)) for name in ("residual", "attention", "norm")}
    return [BlockSpec(*row, **flags) for row in zip(*columns.values(), strict=True)]


def _plan(preset: str, changes: dict[str, Any]) -> Architecture:
    """Find a preset and put in what was given."""
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is not known; choose one of {sorted(PRESETS)}.")
    plan = PRESETS[preset]._replace(**{k: v for k, v in changes.items() if v is not None})
    if plan.head not in ("average", "flatten"):
        raise ValueError(f"head={plan.head!r} must be 'average' or 'flatten'.")
    if plan.initial not in _INITIAL:
        raise ValueError(f"initial={plan.initial!r} must be one of {sorted(_INITIAL)}.")
    return plan


class CaloCNN(nn.Module):
    """Convolutional network for images of a calorimeter.

    Blocks of convolutions, each of which ends by shrinking the image, then dense layers. The
    presets, with their free parameters for one output and images of 32 x 32 cells with two
    channels, the electron-photon data of the CMS calorimeter:

    - ``"compact"``, 440,449: four blocks of one convolution, 32-64-128-256 channels, kernels
      7-5-3-3, batch normalisation, dropout of 0.3 after the last, the mean of each channel, a dense
      layer of 64 with dropout of 0.5. (A published network of this description counts "about 420
      thousand", and has dropout in its convolutional layers: see `Architecture` for why only after
      the last here.)
    - ``"challenge"``, 868,993: the baseline of the electron-photon challenge. Three blocks of two
      convolutions, 32-64-128 channels, kernels of 3, all cells into dense layers 256-128-128-64
      with dropouts 0.4, 0.4, 0.25, 0.3; weights from a truncated normal distribution.
    - ``"resnet15"``, 338,625: fifteen convolutions with residual connections, one of 32 channels
      with a kernel of 7, three pairs of 32 and four of 64, after which the mean of each channel
      goes straight to the output.
    - ``"attention"``, 451,969: the compact one with squeeze-and-excitation in every block.
    - ``"regression"``, 440,449: the compact one without dropout, for energies.

    Every field of `Architecture` can be given instead of the preset's.

    Parameters
    ----------
    image_shape : sequence of int
        ``(H, W)`` or ``(H, W, C)``.
    n_outputs : int, default=1
        Number of outputs: one logit for two classes, one a class for more, one a target; outputs
        of an auxiliary task are further ones.
    preset : {"compact", "challenge", "resnet15", "attention", "regression"}, default="compact"
        Where fields that are not given come from.
    channels, kernels, convolutions, pooling, dropout, residual, attention, norm, head, dense, \
dense_dropout, initial
        Fields of `Architecture`; None is the preset's.

    Attributes
    ----------
    mean, scale : Tensor of shape (C,)
        Buffers, 0 and 1: moments of the channels by which images are standardised inside.
    blocks : nn.ModuleList
        Their outputs, of shape ``(batch, channels, H, W)``, are the feature maps.
    output : nn.Linear
        The last layer. It computes in float32 under autocast, too.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the numbers of values do not fit.

    Notes
    -----
    Starting values are only there after `reset_parameters` or loading a state, so that building a
    network touches no random numbers. Kernels are cut where they are wider than an image (on
    both sides of a cell), so that small images have fewer parameters.

    Examples
    --------
    >>> import torch
    >>> from skhep_nn.networks import CaloCNN
    >>> network = CaloCNN((32, 32, 2), preset="challenge")
    >>> network.n_parameters
    868993
    >>> network.reset_parameters(torch.Generator().manual_seed(0))
    >>> network(torch.zeros(5, 32, 32, 2)).shape
    torch.Size([5, 1])
    >>> CaloCNN((50, 50), channels=(8, 16), kernels=3, dropout=(0, 0.2), dense=()).n_parameters
    1289
    """

    half_precision_pays = True

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        n_outputs: int = 1,
        *,
        preset: str = "compact",
        channels: Sequence[int] | None = None,
        kernels: int | Sequence[int] | None = None,
        convolutions: int | Sequence[int] | None = None,
        pooling: int | Sequence[int] | None = None,
        dropout: float | Sequence[float] | None = None,
        residual: bool | None = None,
        attention: bool | None = None,
        norm: bool | None = None,
        head: Literal["average", "flatten"] | None = None,
        dense: Sequence[int] | None = None,
        dense_dropout: float | Sequence[float] | None = None,
        initial: Literal["he_normal", "truncated_normal"] | None = None,
    ) -> None:
        super().__init__()
        plan = _plan(
            preset,
            {
                "channels": channels,
                "kernels": kernels,
                "convolutions": convolutions,
                "pooling": pooling,
                "dropout": dropout,
                "residual": residual,
                "attention": attention,
                "norm": norm,
                "head": head,
                "dense": dense,
                "dense_dropout": dense_dropout,
                "initial": initial,
            },
        )
        if len(image_shape) not in (2, 3):
            raise ValueError(f"image_shape={image_shape!r} must be (H, W) or (H, W, C).")
        _check_counts("image_shape", image_shape)
        _check_counts("n_outputs", [n_outputs])
        self.image_shape = (*image_shape, 1)[:3]
        self.head = plan.head
        self.initial = plan.initial
        self.register_buffer("mean", torch.zeros(self.image_shape[2]))
        self.register_buffer("scale", torch.ones(self.image_shape[2]))
        n_features = self._build_blocks(plan)
        n_features = self._build_dense(plan, n_features)
        self.output = linear(n_features, n_outputs)

    def _build_blocks(self, plan: Architecture) -> int:
        """Add the blocks; return how many numbers of an image the dense layers get."""
        *size, n_channels = self.image_shape
        self.blocks = nn.ModuleList()
        for spec in _block_specs(plan):
            block = Block(n_channels, size, spec)
            self.blocks.append(block)
            size = [n // factor for n, factor in zip(size, block.pooling, strict=True)]
            n_channels = spec.channels
        return n_channels * (size[0] * size[1] if self.head == "flatten" else 1)

    def _build_dense(self, plan: Architecture, n_features: int) -> int:
        """Add the dense hidden layers; return the width of the last."""
        rates = _one_each("dense_dropout", plan.dense_dropout, len(plan.dense), "dense layers")
        _check_counts("dense", plan.dense)
        _check_rates("dense_dropout", rates)
        self.hidden = nn.Sequential()
        for width, rate in zip(plan.dense, rates, strict=True):
            self.hidden.extend([linear(n_features, width), nn.ReLU()])
            if rate:
                self.hidden.append(Dropout(rate))
            n_features = width
        return n_features

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        return sum(p.numel() for p in self.parameters())

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new starting values for all parameters, and forget running moments.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of random numbers; the global one if left out.
        """
        initial = _INITIAL[self.initial]
        for module in self.modules():
            if isinstance(module, Convolution):
                initial.hidden(module.weight, generator)
                module.reset_moments()
            elif isinstance(module, nn.Linear):
                draw = initial.output if module is self.output else initial.hidden
                draw(module.weight, generator)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs before any link function.

        Parameters
        ----------
        x : Tensor of shape (batch, H, W, C) or (batch, H, W)
            Images in physical units, of any real dtype.

        Returns
        -------
        Tensor of shape (batch, n_outputs)
        """
        images = x.unsqueeze(-1) if x.ndim == 3 and self.image_shape[2] == 1 else x
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"Got images of shape {tuple(x.shape[1:])}, but the network was built for "
                f"{self.image_shape}."
            )
        images = (images.to(self.mean.dtype) - self.mean) / self.scale
        features = images.permute(0, 3, 1, 2)  # a view, which is what channels_last means
        for block in self.blocks:
            features = block(features)
        if self.head == "average":
            features = features.mean((2, 3))
        else:
            features = features.permute(0, 2, 3, 1).flatten(1)
        features = self.hidden(features)
        # Eight bits of a logit or an energy are too few, and this layer costs nothing.
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.output(features.to(self.output.weight.dtype))
        return out
